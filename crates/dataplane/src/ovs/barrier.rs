//! Keeps the host's own network out of what is a port of a bridge.
//!
//! The userspace data path takes a copy of what comes in by a device and leaves the frame to the host, which would answer ARP
//! there for its own addresses and route what is for other machines. A bridge's own port is a device of the host in every data
//! path. So what comes in by any of these is dropped before the host looks at it; packet sockets have seen it by then.

use multihome_model::{IfName, names};
use multihome_netlink::nft::{Changes, Data, Element, Family, Nft, load_in};
use multihome_netlink::{Idempotent, Netns};

use crate::error::Result;

/// The tables, one per family.
const TABLE: &str = "multihome-ports";
/// The devices of the node's own that are ports.
const LENT: &str = "lent";
const FAMILIES: [Family; 2] = [Family::Inet, Family::Arp];
/// Whose devices are ports, or bridges.
const PREFIXES: [&str; 7] =
    [names::TAP, names::LEG, names::FLOATING, names::VXLAN, names::BRIDGE, names::FABRIC, names::DEVICE_BRIDGE];

fn rules() -> String {
    let drops: Vec<String> = PREFIXES.iter().map(|p| format!("iifname \"{p}*\" drop")).collect();
    let table = |family: &str, hook: &str| {
        format!(
            "table {family} {TABLE} {{
    set {LENT} {{ type ifname; }}
    chain arrives {{
        type filter hook {hook} priority -300; policy accept;
        iifname @{LENT} drop
        {}
    }}
}}
",
            drops.join("\n        ")
        )
    };
    table("inet", "prerouting") + &table("arp", "input")
}

#[derive(Debug)]
pub(super) struct Barrier {
    host: Netns,
    nft: Nft,
    there: bool,
}

impl Barrier {
    pub(super) fn new(host: Netns) -> Result<Self> {
        let nft = Nft::open_in(&host)?;
        Ok(Self { host, nft, there: false })
    }

    fn has(&mut self) -> Result<bool> {
        for family in FAMILIES {
            if !self.nft.has_table(family, TABLE)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks again next time.
    pub(super) fn forget(&mut self) {
        self.there = false;
    }

    /// Puts it up where it is not.
    pub(super) fn ensure(&mut self) -> Result<()> {
        if !self.there && !self.has()? {
            self.remove()?;
            load_in(&self.host, &rules())?;
        }
        self.there = true;
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<()> {
        self.there = false;
        for family in FAMILIES {
            match self.nft.delete_table(family, TABLE).unless_missing() {
                // A kernel that has no such family has no such table.
                Err(e) if e.is_unsupported() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Keeps the host out of a device of the node's own, or lets it in again.
    pub(super) fn lend(&mut self, device: &IfName, lent: bool) -> Result<()> {
        if lent {
            self.ensure()?;
        } else if !self.has()? {
            return Ok(());
        }
        let key = || Data::new().ifname(device.as_str());
        for family in FAMILIES {
            let mut changes = Changes::new();
            match lent {
                true => changes.add(LENT, Element::key(key())),
                false => changes.delete(LENT, key()),
            };
            self.nft.apply(family, TABLE, &changes)?;
        }
        Ok(())
    }
}
