//! VLANs of bridge ports, and of bridges themselves (include/uapi/linux/if_bridge.h, `struct bridge_vlan_info`).

use std::collections::HashMap;

use crate::error::Result;
use crate::link::ifinfo;
use crate::msg::{self, Msg};
use crate::rtnl::Rtnl;

const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_BRVLAN_COMPRESSED: u32 = 4;

const IFLA_BRIDGE_FLAGS: u16 = 0;
const BRIDGE_FLAGS_MASTER: u16 = 1;
const BRIDGE_FLAGS_SELF: u16 = 2;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;
const VLAN_RANGE_BEGIN: u16 = 1 << 3;
const VLAN_RANGE_END: u16 = 1 << 4;

/// VLANs that a port of a bridge that sorts frames by VLAN is a member of, in one and the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeVlan {
    /// The first VLAN id, 1 to 4094.
    pub first: u16,
    /// The last one, at least `first`.
    pub last: u16,
    /// It is what comes in without a tag; of one VLAN alone.
    pub pvid: bool,
    /// It leaves without a tag.
    pub untagged: bool,
}

impl BridgeVlan {
    /// VLANs with a tag.
    pub fn tagged(first: u16, last: u16) -> Self {
        Self { first, last, pvid: false, untagged: false }
    }

    /// The VLAN that stands for frames without a tag, in both directions.
    pub fn native(id: u16) -> Self {
        Self { first: id, last: id, pvid: true, untagged: true }
    }
}

fn message(kind: u16, op: &'static str, index: u32, own: bool, vlans: &[BridgeVlan]) -> Msg {
    let mut head = ifinfo(index, 0, 0);
    head[0] = libc::AF_BRIDGE as u8;
    let mut m = Msg::new(kind, 0, op, format!("link {index}")).raw(&head);
    m.nest(IFLA_AF_SPEC, |m| {
        m.u16(IFLA_BRIDGE_FLAGS, if own { BRIDGE_FLAGS_SELF } else { BRIDGE_FLAGS_MASTER });
        let mut info = |flags: u16, id: u16| {
            let mut bytes = [0; 4];
            bytes[..2].copy_from_slice(&flags.to_ne_bytes());
            bytes[2..].copy_from_slice(&id.to_ne_bytes());
            m.attr(IFLA_BRIDGE_VLAN_INFO, &bytes);
        };
        for v in vlans {
            let flags = if v.pvid { VLAN_PVID } else { 0 } | if v.untagged { VLAN_UNTAGGED } else { 0 };
            if v.first == v.last {
                info(flags, v.first);
            } else {
                info(flags | VLAN_RANGE_BEGIN, v.first);
                info(flags | VLAN_RANGE_END, v.last);
            }
        }
    });
    m
}

impl Rtnl {
    /// Makes a port of a bridge a member of VLANs, or the bridge itself (`own`). A VLAN that it is a member of in another
    /// way is changed; another `pvid` replaces the one before.
    ///
    /// # Errors
    /// What the kernel refused, for example that it has no VLAN filtering (`EOPNOTSUPP`).
    pub fn vlans_add(&mut self, index: u32, own: bool, vlans: &[BridgeVlan]) -> Result<()> {
        if vlans.is_empty() {
            return Ok(());
        }
        self.socket.request(message(libc::RTM_SETLINK, "set VLANs of", index, own, vlans))
    }

    /// Ends memberships; those that there are not are no fault. In which way it is a member does not matter.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn vlans_delete(&mut self, index: u32, own: bool, vlans: &[BridgeVlan]) -> Result<()> {
        if vlans.is_empty() {
            return Ok(());
        }
        self.socket.request(message(libc::RTM_DELLINK, "remove VLANs of", index, own, vlans))
    }

    /// The VLANs of every bridge and every bridge port of the namespace, by index, in ascending order.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn vlans(&mut self) -> Result<HashMap<u32, Vec<BridgeVlan>>> {
        let mut head = ifinfo(0, 0, 0);
        head[0] = libc::AF_BRIDGE as u8;
        let mut m = Msg::new(libc::RTM_GETLINK, 0, "list", "VLANs of bridge ports").raw(&head);
        m.u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
        let mut all: HashMap<u32, Vec<BridgeVlan>> = HashMap::new();
        // A device may be described twice: as a port, and by its own driver.
        for (index, vlans) in self.socket.dump(m, parse)? {
            all.entry(index).or_default().extend(vlans);
        }
        Ok(all)
    }
}

fn parse(body: &[u8]) -> Option<(u32, Vec<BridgeVlan>)> {
    let index = msg::u32_at(body, 4)?;
    let spec = msg::find(body.get(16..)?, IFLA_AF_SPEC).unwrap_or_default();
    let mut vlans = Vec::new();
    let mut began = None;
    for a in msg::attrs(spec).filter(|a| a.kind == IFLA_BRIDGE_VLAN_INFO) {
        let (Some(flags), Some(id)) = (msg::u16_at(a.data, 0), msg::u16_at(a.data, 2)) else { continue };
        if flags & VLAN_RANGE_BEGIN != 0 {
            began = Some(id);
            continue;
        }
        let first = began.take().filter(|_| flags & VLAN_RANGE_END != 0).unwrap_or(id);
        let (pvid, untagged) = (flags & VLAN_PVID != 0, flags & VLAN_UNTAGGED != 0);
        vlans.push(BridgeVlan { first, last: id, pvid, untagged });
    }
    Some((index, vlans))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_reads_back() {
        let vlans = [BridgeVlan::native(1), BridgeVlan::tagged(100, 199), BridgeVlan::tagged(300, 300)];
        let bytes = message(libc::RTM_SETLINK, "test", 7, false, &vlans).seal(1).to_vec();
        assert_eq!(parse(&bytes[msg::HEADER..]), Some((7, vlans.to_vec())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
            let mut m = Msg::new(16, 0, "test", "").raw(&ifinfo(1, 0, 0));
            m.attr(IFLA_AF_SPEC, &body);
            prop_assert!(parse(&m.seal(1)[msg::HEADER..]).is_some());
        }
    }
}
