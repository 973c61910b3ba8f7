//! Bridges and what is plugged into them: uplinks and taps.

use std::collections::BTreeSet;
use std::net::IpAddr;

use multihome_model::{IfName, Mtu, names};
use multihome_netlink::{
    Capability, FdbEntry, Idempotent, Link, LinkChange, LinkKind, NewLink, PortFlags, TABLE_MAIN, sysctl,
};
use multihome_plan::node::{Bridge, Port, Security, Tap, Uplink, UplinkKind};

use super::security::UNTAGGED;
use super::{Kernel, is_ours};
use crate::error::{Error, Result};

/// How long a bridge remembers an address that it learned (from an uplink, or a promiscuous NIC), in
/// hundredths of a second; IEEE 802.1Q's default of 300 s.
pub(super) const AGEING: u32 = 30_000;
/// The queue length that the kernel gives a tap (drivers/net/tun.c, `TUN_READQ_SIZE` and ether_setup).
const DEFAULT_QUEUE: u32 = 1000;

/// What a port of a bridge may do, by who is behind it.
pub(super) fn port_flags(learning: bool) -> PortFlags {
    PortFlags { learning: Some(learning), unicast_flood: Some(learning), ..PortFlags::default() }
}

/// A strict NIC has one known address, set on its port; it neither teaches the bridge others nor is
/// shown what is meant for others. A trunk's port is as one of a switch: the bridge learns in which
/// of its VLANs the NIC is heard.
pub(super) fn learns(port: Option<&Port>) -> bool {
    matches!(port, Some(Port { security: Security::Promiscuous | Security::Trunk(_), .. }))
}

/// The kernel knows no number of queues that a tap is meant to have, and no difference between a queue
/// length that was asked for and its own; where either was asked for, the alias says so.
pub(crate) fn tap_alias(tap: &Tap) -> String {
    let mut alias = tap.alias.clone();
    if tap.queues > 1 {
        alias += &format!(" queues={}", tap.queues);
    }
    if let Some(length) = tap.tx_queue_length {
        alias += &format!(" txqlen={length}");
    }
    alias
}

/// Reads back what [`tap_alias`] wrote: alias, queues, and queue length.
pub(super) fn read_tap_alias(mut alias: &str, link: &Link) -> (String, u32, Option<u32>) {
    let mut length = None;
    if let Some((rest, value)) = alias.rsplit_once(" txqlen=")
        && value.parse::<u32>().is_ok()
    {
        // What the kernel really has, if somebody changed it.
        length = Some(link.tx_queue_length);
        alias = rest;
    } else if link.tx_queue_length != DEFAULT_QUEUE {
        length = Some(link.tx_queue_length);
    }
    let mut queues = if link.multi_queue { 2 } else { 1 };
    if let Some((rest, value)) = alias.rsplit_once(" queues=")
        && let Ok(value) = value.parse::<u32>()
    {
        if link.multi_queue {
            queues = value;
        }
        alias = rest;
    }
    (alias.to_owned(), queues, length)
}

/// A MAC that follows from a device's name, so that a bridge's does not change with its ports.
pub(crate) fn fixed_mac(name: &IfName) -> [u8; 6] {
    let digits: Vec<u32> = name.as_str().chars().rev().filter_map(|c| c.to_digit(16)).collect();
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (byte, pair) in mac[1..].iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |sum, digit| (sum << 4) | *digit as u8);
    }
    mac
}

fn ipv6_key(device: &str) -> String {
    format!("net/ipv6/conf/{device}/disable_ipv6")
}

/// Switches IPv6 off on a device of the calling thread's namespace; a kernel without IPv6 needs no
/// switch.
fn silence(name: &str) -> multihome_netlink::Result<()> {
    sysctl::set(&ipv6_key(name), "1").unless_missing().map(drop)
}

impl Kernel {
    /// Keeps IPv6 off a device before it is up: a bridge port that speaks for the host would send the
    /// guests neighbour discovery of ours, and a bridge would listen to their router advertisements.
    pub(crate) fn silence(&self, name: &str) -> Result<()> {
        Ok(self.config.host.run(|| silence(name))??)
    }

    pub(super) fn put_bridge(&mut self, name: &IfName, bridge: &Bridge) -> Result<()> {
        self.require(Capability::Bridge, || "bridges".into())?;
        let there = self.expect(name, "bridge")?;
        self.ensure_tables()?;
        if there.is_none() {
            let kind = LinkKind::Bridge { ageing: AGEING, vlan_filtering: false };
            let change = LinkChange { mac: Some(fixed_mac(name)), ..LinkChange::default() };
            self.rtnl.create(&NewLink { name: name.as_str(), kind, change })?;
            self.silence(name.as_str())?;
        }
        let mtu = there.as_ref().is_none_or(|l| l.mtu != bridge.mtu.get());
        let change = LinkChange {
            mtu: mtu.then_some(bridge.mtu.get()),
            alias: Some(&bridge.alias),
            up: Some(true),
            ..LinkChange::default()
        };
        Ok(self.rtnl.change_named(name.as_str(), &change)?)
    }

    pub(super) fn put_uplink(&mut self, name: &IfName, uplink: &Uplink) -> Result<()> {
        let (kind_name, kind) = match &uplink.kind {
            UplinkKind::Vxlan { vni, local, port } => {
                self.require(Capability::Vxlan, || format!("an overlay with VNI {}", vni.get()))?;
                let kind = LinkKind::Vxlan {
                    vni: vni.get(),
                    port: *port,
                    local: *local,
                    ttl: 64,
                    learning: false,
                    underlay: None,
                };
                ("vxlan", kind)
            }
            UplinkKind::Vlan { parent, id } => {
                self.require(Capability::Vlan, || format!("VLAN {} on {parent}", id.get()))?;
                let parent = self.raised(parent, uplink.mtu)?;
                ("vlan", LinkKind::Vlan { parent, id: id.get() })
            }
            UplinkKind::Device => return self.put_device(name, uplink),
        };
        let bridge = self.bridge_index(&uplink.bridge)?;
        if kind_name != "vxlan" {
            self.put_own(name, &uplink.own)?;
        }
        let there = self.expect(name, kind_name)?;
        let same = match &there {
            Some(link) => self.uplink_kind(link)?.as_ref() == Some(&uplink.kind),
            None => false,
        };
        if !same {
            if there.is_some() {
                self.rtnl.delete(name.as_str()).unless_missing()?;
            }
            self.forget_remotes(name)?;
            if let LinkKind::Vlan { parent, id } = kind {
                self.vacate(parent, id)?;
            }
            self.rtnl.create(&NewLink { name: name.as_str(), kind, change: LinkChange::default() })?;
            self.silence(name.as_str())?;
            // Two ways out at a time would join two VLANs. The new one is ready before the old one goes, and a device that
            // is neither a port nor down would answer for the node.
            if bridge != 0 {
                self.displace(name, bridge)?;
            }
        }
        let learns = kind_name != "vxlan" || self.learns_remotes(name);
        self.plug(name, bridge, &uplink.alias, uplink.mtu, learns)?;
        match &uplink.kind {
            UplinkKind::Vlan { parent, .. } => self.settle_mtu(parent.as_str()),
            _ => Ok(()),
        }
    }

    /// Removes a VLAN device of ours of this VLAN: there can be but one on a device.
    fn vacate(&mut self, parent: u32, id: u16) -> Result<()> {
        let links = self.rtnl.links()?;
        let others = links.iter().filter(|l| l.parent == parent && l.vlan == Some(id) && is_ours(&l.name, names::VLAN));
        for link in others {
            self.rtnl.delete(&link.name).unless_missing()?;
        }
        Ok(())
    }

    /// Removes what else of ours is the uplink of a bridge.
    fn displace(&mut self, name: &IfName, bridge: u32) -> Result<()> {
        let uplink = |n: &str| is_ours(n, names::VLAN) || is_ours(n, names::VXLAN);
        let links = self.rtnl.links()?;
        for link in links.iter().filter(|l| l.master == bridge && uplink(&l.name) && l.name != name.as_str()) {
            self.rtnl.delete(&link.name).unless_missing()?;
        }
        Ok(())
    }

    /// The index of a device that is up and carries packets of this size: one that does not is made to.
    fn raised(&mut self, name: &IfName, mtu: Mtu) -> Result<u32> {
        let Some(link) = self.rtnl.link(name.as_str())? else {
            let what = format!("an uplink on {name}");
            return Err(Error::Unsupported { what, reason: format!("there is no device {name}") });
        };
        let change =
            LinkChange { mtu: self.raised_mtu(&link, mtu)?, up: (!link.up).then_some(true), ..LinkChange::default() };
        self.rtnl.change(link.index, &change)?;
        Ok(link.index)
    }

    /// Makes a device of the node's own a port of a bridge. Its alias stays.
    fn put_device(&mut self, name: &IfName, uplink: &Uplink) -> Result<()> {
        let what = || format!("an untagged network on {name}");
        let bridge = self.rtnl.index(uplink.bridge.as_str())?;
        let Some(link) = self.rtnl.link(name.as_str())? else {
            return Err(Error::Unsupported { what: what(), reason: format!("there is no device {name}") });
        };
        let owner = self.owner(&link)?;
        let others =
            (link.master != bridge && is_ours(&owner, names::BRIDGE)).then(|| format!("it is a port of {owner}"));
        if let Some(reason) = others.or(self.why_not_lent(&link)?) {
            return Err(Error::Unsupported { what: what(), reason });
        }
        self.hold_ipv6(name.as_str())?;
        self.put_fact(UNTAGGED, name, true)?;
        self.put_own(name, &uplink.own)?;
        let change = LinkChange {
            mtu: self.raised_mtu(&link, uplink.mtu)?,
            master: (link.master != bridge).then_some(bridge),
            port: port_flags(true),
            up: Some(true),
            ..LinkChange::default()
        };
        self.rtnl.change_named(name.as_str(), &change)?;
        self.settle_mtu(name.as_str())
    }

    /// The name of what a device is a port or a part of; empty if of nothing.
    fn owner(&mut self, link: &Link) -> Result<String> {
        let master = if link.master == 0 { None } else { self.rtnl.link_at(link.master)? };
        Ok(master.map(|l| l.name).unwrap_or_default())
    }

    /// Why a device of the node's own cannot be a port of a bridge of ours, if so.
    pub(super) fn why_not_lent(&mut self, link: &Link) -> Result<Option<String>> {
        if link.master == 0 {
            return self.why_needed(link);
        }
        let owner = self.owner(link)?;
        let ours = is_ours(&owner, names::BRIDGE) || is_ours(&owner, names::FABRIC);
        Ok((!ours).then(|| format!("it is a port of {owner}")))
    }

    /// Why the node cannot do without a device, if so. Addresses that a router told it for a time, as every idle device
    /// on a segment with a router gets them, do not count, unless the node's only way out is by them.
    pub(crate) fn why_needed(&mut self, link: &Link) -> Result<Option<String>> {
        let passing = self.rtnl.passing_addresses()?;
        let own = self.rtnl.addresses()?.into_iter().find(|a| match a.ip {
            _ if a.index != link.index => false,
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !passing.contains(a),
        });
        if let Some(a) = own {
            return Ok(Some(format!(
                "it carries the node's own address {}/{}, which would be cut off: use another device, or move it",
                a.ip, a.prefix
            )));
        }
        let mut out = self.rtnl.routes()?;
        out.retain(|r| r.prefix == 0 && r.table == TABLE_MAIN && r.oif != 0);
        let only = !out.is_empty() && out.iter().all(|r| r.oif == link.index);
        Ok(only.then(|| "the node's only default route leaves by it: use another device".into()))
    }

    /// Keeps IPv6 off a device of the node's own while it is a port of a bridge, and notes that it was on.
    pub(crate) fn hold_ipv6(&mut self, device: &str) -> Result<()> {
        let key = ipv6_key(device);
        match self.config.host.run(|| sysctl::read(&key))? {
            Ok(off) if off == "1" => return Ok(()),
            Err(e) if e.is_missing() => return Ok(()),
            other => drop(other?),
        }
        self.note("ipv6", device)?;
        self.silence(device)
    }

    /// Puts back what [`Kernel::hold_ipv6`] changed.
    pub(crate) fn release_ipv6(&mut self, device: &str) -> Result<()> {
        if self.noted("ipv6", device) {
            self.config.host.run(|| sysctl::set(&ipv6_key(device), "0"))?.unless_missing()?;
            self.forget_note("ipv6", device)?;
        }
        Ok(())
    }

    /// Takes an uplink away: a device of ours is removed, one of the node's own is given back.
    pub(super) fn delete_uplink(&mut self, name: &IfName) -> Result<()> {
        if name.as_str().starts_with(names::VLAN) || name.as_str().starts_with(names::VXLAN) {
            self.forget_remotes(name)?;
            let parent = self.parent_of(name)?;
            self.delete_device(name)?;
            self.put_own(name, &BTreeSet::new())?;
            return parent.map_or(Ok(()), |p| self.settle_mtu(&p));
        }
        if let Some(link) = self.rtnl.link(name.as_str())? {
            let bridge = self.owner(&link)?;
            if is_ours(&bridge, names::BRIDGE) {
                let change = LinkChange { master: Some(0), ..LinkChange::default() };
                self.rtnl.change(link.index, &change).unless_missing()?;
            }
        }
        self.put_fact(UNTAGGED, name, false)?;
        self.put_own(name, &BTreeSet::new())?;
        self.settle_mtu(name.as_str())?;
        self.release_ipv6(name.as_str())
    }

    pub(super) fn uplink_kind(&mut self, link: &Link) -> Result<Option<UplinkKind>> {
        Ok(match link.kind.as_str() {
            "vxlan" => link.vni.and_then(|vni| {
                Some(UplinkKind::Vxlan {
                    vni: multihome_model::Vni::new(vni).ok()?,
                    local: link.vxlan_local.filter(|a| !a.is_unspecified()),
                    port: link.vxlan_port?,
                })
            }),
            "vlan" => {
                let parent = self.rtnl.link_at(link.parent)?;
                parent.zip(link.vlan).and_then(|(parent, id)| {
                    Some(UplinkKind::Vlan {
                        parent: IfName::new(parent.name).ok()?,
                        id: multihome_model::VlanId::new(u32::from(id)).ok()?,
                    })
                })
            }
            _ => None,
        })
    }

    /// The index of a bridge; 0 where another engine has the bridges, for which [`Kernel::plug`] plugs nothing in.
    pub(super) fn bridge_index(&mut self, bridge: &IfName) -> Result<u32> {
        Ok(if self.beside.is_some() { 0 } else { self.rtnl.index(bridge.as_str())? })
    }

    /// Makes a device a port of a bridge, under an alias, and brings it up last.
    pub(crate) fn plug(&mut self, name: &IfName, bridge: u32, alias: &str, mtu: Mtu, learning: bool) -> Result<()> {
        let there = self.rtnl.link(name.as_str())?;
        let differs = |is: Option<u32>, want: u32| (is != Some(want)).then_some(want);
        let change = LinkChange {
            mtu: differs(there.as_ref().map(|l| l.mtu), mtu.get()),
            master: differs(there.as_ref().map(|l| l.master), bridge).filter(|_| bridge != 0),
            alias: Some(alias),
            port: if bridge == 0 { PortFlags::default() } else { port_flags(learning) },
            up: Some(true),
            ..LinkChange::default()
        };
        Ok(self.rtnl.change_named(name.as_str(), &change)?)
    }

    pub(super) fn put_tap(&mut self, name: &IfName, tap: &Tap) -> Result<()> {
        let bridge = self.rtnl.index(tap.bridge.as_str())?;
        // A port joins its bridge under guard or not at all.
        self.ensure_tables()?;
        let there = self.make_tap(name, tap)?;
        let port = self.known_ports()?.get(name).cloned();
        if there.is_some() || tap.bandwidth.ingress.is_some() {
            self.shape_tap(name, tap.bandwidth.ingress)?;
        }
        self.limit_egress(name, tap.bandwidth.egress)?;
        self.plug(name, bridge, &tap_alias(tap), tap.mtu, learns(port.as_ref()))?;
        if let Some(vlans) = &tap.vlans {
            let index = self.rtnl.index(name.as_str())?;
            self.set_vlans(index, false, vlans)?;
        }
        if let Some(link) = there {
            self.forget_others(link.index, bound_mac(port.as_ref()))?;
        }
        self.bind_mac(name, port.as_ref(), None)
    }

    /// Makes a tap that is a port of nothing yet; returns it as it was, if it was there and stays.
    pub(crate) fn make_tap(&mut self, name: &IfName, tap: &Tap) -> Result<Option<Link>> {
        self.require(Capability::Tap, || "TAP devices".into())?;
        let wanted = self.tap(name, tap.queues);
        let mut there = self.expect(name, "tun")?;
        if there.as_ref().is_some_and(|l| l.multi_queue != wanted.multi_queue) {
            self.rtnl.delete(name.as_str()).unless_missing()?;
            there = None;
        }
        if there.is_none() {
            let owner = self.config.tap_owner;
            let create = || {
                wanted.create(owner).unless_exists()?;
                silence(name.as_str())
            };
            self.config.host.run(create)??;
        }
        if let Some(length) = tap.tx_queue_length {
            let change = LinkChange { tx_queue_length: Some(length), ..LinkChange::default() };
            self.rtnl.change_named(name.as_str(), &change)?;
        }
        Ok(there)
    }

    /// Makes the MAC of a strict NIC a fixed entry of its port; `before` is the one that was.
    pub(super) fn bind_mac(&mut self, name: &IfName, port: Option<&Port>, before: Option<[u8; 6]>) -> Result<()> {
        let Some(link) = self.rtnl.link(name.as_str())?.filter(|l| l.master != 0) else {
            return Ok(());
        };
        let learning = learns(port);
        if link.port.learning != Some(learning) || link.port.unicast_flood != Some(learning) {
            let change = LinkChange { port: port_flags(learning), ..LinkChange::default() };
            self.rtnl.change(link.index, &change)?;
        }
        let entry = |mac| FdbEntry { index: link.index, mac, remote: None, own: false, permanent: true };
        let wanted = bound_mac(port);
        if let Some(mac) = before.filter(|_| before != wanted) {
            self.rtnl.fdb_delete(&[entry(mac)]).into_iter().collect::<Result<(), _>>().unless_missing()?;
        }
        if let Some(mac) = wanted {
            self.rtnl.fdb_set(&[entry(mac)]).into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    /// Makes a port the only place where a MAC is, whoever else claims it.
    pub(super) fn fix_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<()> {
        if self.beside.is_some() {
            return Ok(());
        }
        self.forget_others(index, Some(mac))?;
        let entry = FdbEntry { index, mac, remote: None, own: false, permanent: true };
        Ok(self.rtnl.fdb_set(&[entry]).into_iter().collect::<Result<(), _>>()?)
    }

    /// Removes fixed entries of a port that are not its own, as a crash half way may leave.
    pub(super) fn forget_others(&mut self, index: u32, own: Option<[u8; 6]>) -> Result<()> {
        let device = self.rtnl.link_at(index)?.and_then(|l| l.mac);
        let mut stale = self.rtnl.fdb_of(index)?;
        stale.retain(|e| !e.own && e.permanent && Some(e.mac) != device && Some(e.mac) != own);
        for result in self.rtnl.fdb_delete(&stale) {
            result.unless_missing()?;
        }
        Ok(())
    }
}

/// The MAC that is bound to a port, if it is strict.
pub(super) fn bound_mac(port: Option<&Port>) -> Option<[u8; 6]> {
    match port {
        Some(Port { security: Security::Strict { mac, .. }, .. }) => Some(mac.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::Bandwidth;

    #[test]
    fn an_alias_says_what_the_kernel_cannot() {
        let mut tap = Tap {
            alias: "nic default/a".into(),
            bridge: IfName::new("br").unwrap(),
            mtu: Mtu::ETHERNET,
            queues: 1,
            tx_queue_length: None,
            vlans: None,
            bandwidth: Bandwidth::default(),
        };
        let mut link = Link { tx_queue_length: DEFAULT_QUEUE, ..Link::default() };
        let read = |tap: &Tap, link: &Link| read_tap_alias(&tap_alias(tap), link);
        assert_eq!(read(&tap, &link), ("nic default/a".into(), 1, None));
        tap.queues = 4;
        tap.tx_queue_length = Some(1000);
        link.multi_queue = true;
        assert_eq!(read(&tap, &link), ("nic default/a".into(), 4, Some(1000)));
        link.tx_queue_length = 77;
        assert_eq!(read(&tap, &link).2, Some(77));
    }

    #[test]
    fn a_bridges_mac_is_its_own_and_unicast() {
        let a = fixed_mac(&IfName::new("mhb0123456789a").unwrap());
        let b = fixed_mac(&IfName::new("mhb0123456789b").unwrap());
        assert_ne!(a, b);
        assert_eq!(a[0], 2);
    }
}
