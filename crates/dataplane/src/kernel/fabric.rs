//! Fabrics' bridges, which carry trunks: who is in which VLAN, and the device of the node's own that leads out.

use std::collections::BTreeSet;

use multihome_model::{IfName, VlanId, VlanSet, names};
use multihome_netlink::nft::{Changes, Data, Element, Family};
use multihome_netlink::{BridgeVlan, Capability, Idempotent, LinkChange, LinkKind, NewLink};
use multihome_plan::node::{FabricBridge, FabricUplink, PortVlans};

use super::bridge::{AGEING, fixed_mac, port_flags};
use super::security::{INNER_TAGS, TABLE, TAGGED, UNTAGGED, split};
use super::{Kernel, is_ours};
use crate::error::{Error, Result};

/// The notes of the devices that a fabric's bridge has taken, or was about to take.
fn members(fabric: &IfName) -> String {
    format!("fabric-{fabric}")
}

/// What a port's memberships are, if they are such as a plan can ask for.
pub(super) fn read_vlans(there: &[BridgeVlan]) -> Option<PortVlans> {
    let mut vlans = PortVlans::default();
    for v in there {
        let id = |id: u16| VlanId::new(id.into()).ok();
        match (v.pvid, v.untagged) {
            (false, false) => vlans.tagged.extend([(id(v.first)?, id(v.last)?)]),
            (true, true) => vlans.native = id(v.first),
            _ => return None,
        }
    }
    Some(vlans)
}

fn tagged(set: &VlanSet) -> Vec<BridgeVlan> {
    set.ranges().map(|(first, last)| BridgeVlan::tagged(first.get(), last.get())).collect()
}

impl Kernel {
    /// Why this node can carry no trunks by a device, or without one, if so: a sentence's end.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn why_no_trunks(&mut self, device: Option<&IfName>) -> Result<Option<String>> {
        if let Err(reason) = self.config.capabilities.check(Capability::BridgeVlanFiltering) {
            return Ok(Some(format!("its kernel's bridges do not filter VLANs: {reason}")));
        }
        let Some(link) = device.map(|d| self.rtnl.link(d.as_str())).transpose()?.flatten() else { return Ok(None) };
        Ok(self.why_not_lent(&link)?.map(|reason| format!("{}: {reason}", link.name)))
    }

    pub(super) fn put_fabric(&mut self, name: &IfName, fabric: &FabricBridge) -> Result<()> {
        let what = || format!("trunks on {}", fabric.alias);
        self.require(Capability::BridgeVlanFiltering, what)?;
        // Nothing is changed before it is known that everything can be.
        if let Some(uplink) = &fabric.uplink {
            let unsupported = |reason| Error::Unsupported { what: what(), reason };
            let Some(link) = self.rtnl.link(uplink.device.as_str())? else {
                return Err(unsupported(format!("there is no device {}", uplink.device)));
            };
            if let Some(reason) = self.why_not_lent(&link)? {
                return Err(unsupported(format!("{}: {reason}", uplink.device)));
            }
        }
        self.ensure_tables()?;
        let mut there = self.expect(name, "bridge")?;
        if there.as_ref().is_some_and(|l| !l.vlan_filtering) {
            self.delete_device(name)?;
            there = None;
        }
        if there.is_none() {
            let kind = LinkKind::Bridge { ageing: AGEING, vlan_filtering: true };
            let change = LinkChange { mac: Some(fixed_mac(name)), ..LinkChange::default() };
            self.rtnl.create(&NewLink { name: name.as_str(), kind, change })?;
            self.silence(name.as_str())?;
        }
        let index = self.rtnl.index(name.as_str())?;
        let mtu = there.as_ref().is_none_or(|l| l.mtu != fabric.mtu.get()).then_some(fabric.mtu.get());
        let change = LinkChange { mtu, alias: Some(&fabric.alias), up: Some(true), ..LinkChange::default() };
        self.rtnl.change(index, &change)?;
        self.release_ports(name, index, |device| fabric.uplink.as_ref().is_none_or(|u| u.device != *device))?;
        if let Some(uplink) = &fabric.uplink {
            self.take_uplink(name, index, fabric, uplink)?;
        }
        self.set_vlans(index, true, &PortVlans { tagged: fabric.inside.clone(), native: None })
    }

    /// Makes a device the way out of a fabric's bridge.
    fn take_uplink(&mut self, name: &IfName, index: u32, fabric: &FabricBridge, uplink: &FabricUplink) -> Result<()> {
        let device = uplink.device.as_str();
        // The tag that stands for no tag inside is closed from the wire before it means anything.
        self.close_inner_tag(&uplink.device, uplink.untagged)?;
        let Some(link) = self.rtnl.link(device)? else { return Ok(()) };
        if link.master != index {
            self.note(&members(name), device)?;
        }
        self.hold_ipv6(device)?;
        self.put_fact(TAGGED, &uplink.device, true)?;
        let change = LinkChange {
            mtu: self.raised_mtu(&link, fabric.mtu)?,
            master: (link.master != index).then_some(index),
            port: port_flags(true),
            up: Some(true),
            ..LinkChange::default()
        };
        self.rtnl.change(link.index, &change)?;
        self.settle_mtu(device)?;
        // It may come from a network's bridge, where tags were refused for as long as it was there.
        self.put_fact(UNTAGGED, &uplink.device, false)?;
        // Of a network that it carried alone; now it carries others, too.
        self.put_own(&uplink.device, &BTreeSet::new())?;
        self.set_vlans(link.index, false, &PortVlans { tagged: uplink.tagged.clone(), native: uplink.untagged })
    }

    /// Makes a port, or a bridge itself, a member of exactly these VLANs.
    pub(super) fn set_vlans(&mut self, index: u32, own: bool, wanted: &PortVlans) -> Result<()> {
        let there = self.rtnl.vlans()?.remove(&index).unwrap_or_default();
        let is = read_vlans(&there);
        if is.as_ref() == Some(wanted) {
            return Ok(());
        }
        let all = |v: &PortVlans| {
            let mut all = v.tagged.clone();
            all.extend(v.native.map(|id| (id, id)));
            all
        };
        let is = match is {
            Some(is) => is,
            // Somebody has been at it.
            None => {
                self.rtnl.vlans_delete(index, own, &there)?;
                PortVlans::default()
            }
        };
        self.rtnl.vlans_delete(index, own, &tagged(&all(&is).minus(&all(wanted))))?;
        let mut add = tagged(&wanted.tagged.minus(&is.tagged));
        add.extend(wanted.native.filter(|_| wanted.native != is.native).map(|id| BridgeVlan::native(id.get())));
        Ok(self.rtnl.vlans_add(index, own, &add)?)
    }

    /// Closes one VLAN from the wire of a device, or none.
    fn close_inner_tag(&mut self, device: &IfName, id: Option<VlanId>) -> Result<()> {
        let mut changes = Changes::new();
        let key = |id: VlanId| Data::new().ifname(device.as_str()).be16(id.get());
        let there: Vec<VlanId> =
            self.inner_tags()?.into_iter().filter(|(d, _)| d == device).map(|(_, there)| there).collect();
        if there.iter().copied().eq(id) {
            return Ok(());
        }
        for other in there.iter().filter(|there| Some(**there) != id) {
            changes.delete(INNER_TAGS, key(*other));
        }
        if let Some(id) = id.filter(|id| !there.contains(id)) {
            changes.add(INNER_TAGS, Element::key(key(id)));
        }
        Ok(self.nft.apply(Family::Bridge, TABLE, &changes)?)
    }

    /// The VLANs that are closed from the wire, by device.
    pub(super) fn inner_tags(&mut self) -> Result<Vec<(IfName, VlanId)>> {
        let read = |key: &[u8]| {
            let (name, id) = split(key)?;
            Some((name, VlanId::new(u16::from_be_bytes(*id.first_chunk()?).into()).ok()?))
        };
        Ok(self.facts_in(INNER_TAGS)?.iter().filter_map(|e| read(&e.key)).collect())
    }

    /// Gives back devices of a fabric's bridge, and those that it was about to take.
    fn release_ports(&mut self, name: &IfName, index: u32, which: impl Fn(&IfName) -> bool) -> Result<()> {
        let mut all = self.all_noted(&members(name));
        let ports = self.rtnl.links()?.into_iter().filter(|l| index != 0 && l.master == index);
        all.extend(ports.filter(|l| !is_ours(&l.name, names::TAP)).map(|l| l.name));
        all.sort();
        all.dedup();
        for device in all.into_iter().filter_map(|d| IfName::new(d).ok()).filter(which) {
            self.close_inner_tag(&device, None)?;
            self.put_fact(TAGGED, &device, false)?;
            if let Some(link) = self.rtnl.link(device.as_str())? {
                // A network's bridge may have it by now.
                let elsewhere = link.master != 0 && link.master != index;
                if link.master == index && index != 0 {
                    let change = LinkChange { master: Some(0), ..LinkChange::default() };
                    self.rtnl.change(link.index, &change).unless_missing()?;
                }
                if !elsewhere {
                    self.release_ipv6(device.as_str())?;
                }
            }
            self.settle_mtu(device.as_str())?;
            if self.noted(&members(name), device.as_str()) {
                self.forget_note(&members(name), device.as_str())?;
            }
        }
        Ok(())
    }

    pub(super) fn delete_fabric(&mut self, name: &IfName) -> Result<()> {
        let index = self.expect(name, "bridge")?.map_or(0, |l| l.index);
        self.release_ports(name, index, |_| true)?;
        self.delete_device(name)
    }
}
