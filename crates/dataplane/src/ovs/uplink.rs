//! What connects a network's bridge to other nodes, and the devices of the node's own that are lent for it.
//!
//! A device can be a port of one bridge. So it is one of its fabric's, or of a bridge made for it, which sorts by VLAN; a network's
//! bridge is joined to that by a pair of patch ports, whose far end is an access port of the network's VLAN.

use multihome_model::{IfName, Mtu, VlanId, names};
use multihome_netlink::{Idempotent, LinkChange, Offload, offload, set_offload};
use multihome_plan::node::{FabricBridge, PortVlans, Uplink, UplinkKind};

use super::Ovs;
use super::model::{Fact, PortModel, Role, device_bridge, far_end, untagged_port};
use crate::error::{Error, Result};
use crate::kernel::is_ours;

/// The notes of devices that are ports of ours, or were about to be.
const LENT: &str = "ovs";
/// The notes of those that joined received packets before.
const JOINS: &str = "gro";

impl Ovs {
    /// The port of a network's bridge that an uplink of the plan is.
    pub(super) fn uplink_port(name: &IfName) -> IfName {
        match is_ours(name.as_str(), names::VLAN) || is_ours(name.as_str(), names::VXLAN) {
            true => name.clone(),
            false => untagged_port(name),
        }
    }

    /// The network's bridge that an uplink of the plan belongs to.
    pub(super) fn uplink_bridge(&mut self, name: &IfName) -> Option<IfName> {
        self.bridge_of(Self::uplink_port(name).as_str())
    }

    /// Removes what else is the uplink of a bridge.
    pub(super) fn displace(&mut self, bridge: &IfName, but: &str) -> Result<()> {
        let is_uplink = |p: &PortModel| matches!(p.fact, Fact::Tunnel(_) | Fact::Uplink(_));
        let ports = self.model.get(bridge).map(|b| &b.ports);
        let others: Vec<String> = ports
            .into_iter()
            .flatten()
            .filter(|(name, port)| name.as_str() != but && is_uplink(port))
            .map(|(name, _)| name.clone())
            .collect();
        others.iter().try_for_each(|name| self.remove_uplink(name))
    }

    fn remove_uplink(&mut self, port: &str) -> Result<()> {
        if port.starts_with(names::VXLAN) {
            self.take(port);
            let Ok(device) = IfName::new(port) else { return Ok(()) };
            return self.kernel.delete_device(&device);
        }
        self.take(port);
        let far = far_end(port);
        if let Some(bridge) = self.bridge_of(&far) {
            self.take(&far);
            self.drop_if_idle(&bridge);
        }
        Ok(())
    }

    pub(super) fn delete_uplink(&mut self, name: &IfName) -> Result<()> {
        self.remove_uplink(Self::uplink_port(name).as_str())
    }

    /// Removes a device's bridge that no network is joined to.
    fn drop_if_idle(&mut self, bridge: &IfName) {
        let Some(there) = self.model.get(bridge) else { return };
        if there.role == Role::Device && !there.ports.values().any(|p| matches!(p.fact, Fact::Far(_))) {
            self.take_bridge(bridge);
        }
    }

    /// Joins a network's bridge to the one of a device, or of a fabric, in a VLAN or without a tag.
    pub(super) fn put_patch(
        &mut self,
        near: &IfName,
        uplink: &Uplink,
        parent: &IfName,
        id: Option<VlanId>,
    ) -> Result<()> {
        let what = match id {
            Some(id) => format!("VLAN {} on {parent}", id.get()),
            None => format!("an untagged network on {parent}"),
        };
        self.expect_bridge(&uplink.bridge, &what)?;
        let bridge = match is_ours(parent.as_str(), names::FABRIC) {
            true => {
                self.expect_bridge(parent, &what)?;
                parent.clone()
            }
            false => {
                let bridge = device_bridge(parent);
                self.check_lent(parent, &what)?;
                self.put_bridge(&bridge, Role::Device)?;
                self.lend(parent, &bridge, None, uplink.mtu)?;
                bridge
            }
        };
        // Two networks in one VLAN of a device would be one.
        let far = far_end(near.as_str());
        let same = |(name, port): &(&String, &PortModel)| port.fact == Fact::Far(id) && **name != far;
        let other = self.model.get(&bridge).and_then(|b| b.ports.iter().find(same)).map(|(name, _)| name.clone());
        if let Some(other) = other {
            let near = other.replacen(names::PATCH, names::VLAN, 1);
            self.take(&near);
            self.take(&other);
        }
        if let Some(before) = self.bridge_of(&far).filter(|b| *b != bridge) {
            self.take(&far);
            self.drop_if_idle(&before);
        }
        self.put(&uplink.bridge, near.as_str(), Fact::Uplink(uplink.clone()).into());
        self.put(&bridge, &far, Fact::Far(id).into());
        // Last: the bridge of a device that nothing is joined to is removed.
        self.displace(&uplink.bridge, near.as_str())
    }

    pub(super) fn put_fabric(&mut self, name: &IfName, fabric: &FabricBridge) -> Result<()> {
        let what = format!("trunks on {}", fabric.alias);
        // Nothing is changed before it is known that everything can be.
        if let Some(uplink) = &fabric.uplink {
            self.check_lent(&uplink.device, &what)?;
        }
        self.put_bridge(name, Role::Fabric(fabric.clone()))?;
        let keeps = fabric.uplink.as_ref().map(|u| u.device.as_str().to_owned());
        let devices: Vec<String> = self
            .model
            .get(name)
            .into_iter()
            .flat_map(|b| &b.ports)
            .filter(|(device, port)| matches!(port.fact, Fact::Device(_)) && Some(*device) != keeps.as_ref())
            .map(|(device, _)| device.clone())
            .collect();
        for device in devices {
            self.take(&device);
        }
        if let Some(uplink) = &fabric.uplink {
            let vlans = PortVlans { tagged: uplink.tagged.clone(), native: uplink.untagged };
            self.lend(&uplink.device, name, Some(vlans), fabric.mtu)?;
        }
        Ok(())
    }

    /// Why a device of the node's own cannot be a port of a bridge of ours, if so.
    pub(super) fn why_not_lent(&mut self, device: &IfName) -> Result<Option<String>> {
        if self.bridge_of(device.as_str()).is_some() {
            return Ok(None);
        }
        let Some(link) = self.kernel.rtnl().link(device.as_str())? else { return Ok(None) };
        if link.master != 0 {
            let owner = self.kernel.rtnl().link_at(link.master)?.map(|l| l.name).unwrap_or_default();
            return Ok(Some(format!("it is a port of {owner}")));
        }
        self.kernel.why_needed(&link)
    }

    /// Refuses a device that is not there, or that the node cannot do without.
    fn check_lent(&mut self, device: &IfName, what: &str) -> Result<()> {
        let unsupported = |reason| Err(Error::Unsupported { what: what.to_owned(), reason });
        if self.kernel.rtnl().link(device.as_str())?.is_none() {
            return unsupported(format!("there is no device {device}"));
        }
        match self.why_not_lent(device)? {
            Some(reason) => unsupported(format!("{device}: {reason}")),
            None => Ok(()),
        }
    }

    /// Makes a device of the node's own a port of a bridge, which carries packets of this size.
    fn lend(&mut self, device: &IfName, bridge: &IfName, vlans: Option<PortVlans>, mtu: Mtu) -> Result<()> {
        let Some(link) = self.kernel.rtnl().link(device.as_str())? else { return Ok(()) };
        self.kernel.note(LENT, device.as_str())?;
        self.kernel.hold_ipv6(device.as_str())?;
        self.barrier.lend(device, true)?;
        let name = device.as_str();
        let joins = || offload(name, Offload::GenericReceive).unwrap_or(false);
        if self.kernel.beside().plain && self.kernel.config().host.run(joins)? {
            self.kernel.note(JOINS, name)?;
            self.make_plain(device, &[Offload::GenericReceive])?;
        }
        let change = LinkChange {
            mtu: self.kernel.raised_mtu(&link, mtu)?,
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        self.kernel.rtnl().change(link.index, &change)?;
        self.replug(device)?;
        self.put(bridge, device.as_str(), Fact::Device(vlans).into());
        Ok(())
    }

    /// The largest packet of the networks that ride on a bridge's device, in bytes.
    fn needed_mtu(&self, bridge: &IfName) -> u32 {
        let Some(there) = self.model.get(bridge) else { return 0 };
        let uplink = |far: &String| {
            let near = far.replacen(names::PATCH, names::VLAN, 1);
            self.model.values().find_map(|b| match b.ports.get(&near).map(|p| &p.fact) {
                Some(Fact::Uplink(uplink)) => Some(uplink.mtu.get()),
                _ => None,
            })
        };
        match &there.role {
            Role::Fabric(fabric) => fabric.mtu.get(),
            _ => there.ports.keys().filter_map(uplink).max().unwrap_or(0),
        }
    }

    /// Gives back devices that are ports of ours no more, and what of the others' MTU is not needed any more.
    pub(super) fn release_lent(&mut self) -> Result<()> {
        for device in self.kernel.all_noted(LENT) {
            let Ok(name) = IfName::new(device.as_str()) else { continue };
            if let Some(bridge) = self.bridge_of(&device) {
                self.kernel.settle_mtu_to(&device, self.needed_mtu(&bridge))?;
                continue;
            }
            self.kernel.release_ipv6(&device)?;
            self.kernel.settle_mtu_to(&device, 0)?;
            self.barrier.lend(&name, false)?;
            if self.kernel.noted(JOINS, &device) {
                let on = || set_offload(&device, Offload::GenericReceive, true);
                self.kernel.config().host.run(on)?.unless_missing()?;
                self.kernel.forget_note(JOINS, &device)?;
            }
            self.kernel.forget_note(LENT, &device)?;
        }
        Ok(())
    }

    /// The uplink that a port of a network's bridge is, as it is; `is_whole` says whether all it takes is there.
    pub(super) fn observed_uplink(&mut self, near: &str, uplink: &Uplink, bridge: &IfName) -> Result<(IfName, Uplink)> {
        let far = far_end(near);
        let (name, parent) = match &uplink.kind {
            UplinkKind::Vlan { parent, .. } => (IfName::new(near), parent.clone()),
            // The device that the far end's bridge is for says its own name.
            _ => {
                let far = self.bridge_of(&far);
                let is_device = |(_, p): &(&String, &PortModel)| matches!(p.fact, Fact::Device(_));
                let ports = far.as_ref().and_then(|b| self.model.get(b)).map(|b| &b.ports);
                let device = ports.into_iter().flatten().find(is_device).map(|(name, _)| name.clone());
                let name = IfName::new(device.unwrap_or_else(|| near.to_owned()));
                (name.clone(), name.unwrap_or_else(|_| bridge.clone()))
            }
        };
        let name = name.unwrap_or_else(|_| bridge.clone());
        let mut whole = self.database.port_is_right(bridge, near);
        whole &= match self.bridge_of(&far) {
            Some(on) => self.database.port_is_right(&on, &far) && self.carries(&on, &parent, uplink.mtu)?,
            None => false,
        };
        let alias = if whole { uplink.alias.clone() } else { String::new() };
        Ok((name, Uplink { alias, bridge: bridge.clone(), ..uplink.clone() }))
    }

    /// Whether a bridge has what carries its frames away, as it must be. A fabric's says that of itself.
    fn carries(&mut self, bridge: &IfName, parent: &IfName, mtu: Mtu) -> Result<bool> {
        if bridge == parent {
            return Ok(true);
        }
        Ok(self.database.bridge_is_right(bridge) && self.lent_is_right(bridge, parent, mtu)?)
    }

    /// Whether a device is a port of a bridge as it must be.
    pub(super) fn lent_is_right(&mut self, bridge: &IfName, device: &IfName, mtu: Mtu) -> Result<bool> {
        let Some(link) = self.kernel.rtnl().link(device.as_str())? else { return Ok(false) };
        let opened = self.database.interface(device.as_str()).and_then(|i| i.index) == Some(link.index);
        let right = self.database.port_is_right(bridge, device.as_str());
        Ok(right && opened && link.up && link.mtu >= mtu.get())
    }
}
