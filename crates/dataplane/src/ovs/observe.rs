//! What a node holds of ours, read back from Open vSwitch and from the kernel.

use std::collections::BTreeMap;

use multihome_model::{Bandwidth, IfName, MacAddr, Mtu};
use multihome_netlink::{FdbEntry, Link};
use multihome_plan::node::{Bridge, FabricBridge, FabricUplink, Flood, NodeState, Remote, Remotes, Tap, Uplink};

use super::Ovs;
use super::model::{BridgeModel, Fact, Role};
use crate::error::Result;
use crate::kernel::overlay::ANYBODY;

fn alias_if(right: bool, alias: &str) -> String {
    if right { alias.to_owned() } else { String::new() }
}

/// A tunnel's entries say the same as what is known of it.
fn tunnel_is_right(entries: &[FdbEntry], flood: &Flood) -> bool {
    let mut copies: Vec<_> = entries.iter().filter(|e| e.own && e.mac == ANYBODY).filter_map(|e| e.remote).collect();
    copies.sort_unstable();
    copies == flood.nodes.iter().copied().collect::<Vec<_>>()
}

/// The NICs of other nodes that the tunnel leads to, too.
fn hosts_of(entries: &[FdbEntry], known: &BTreeMap<MacAddr, Remote>) -> BTreeMap<MacAddr, Remote> {
    let leads: BTreeMap<_, _> = entries.iter().filter(|e| e.own).map(|e| (MacAddr(e.mac), e.remote)).collect();
    let mut hosts: BTreeMap<MacAddr, Remote> = known.clone();
    hosts.retain(|mac, remote| leads.get(mac) == Some(&Some(remote.via)));
    // What the tunnel knows and nobody told us.
    let nobody = |(mac, via): (MacAddr, Option<std::net::IpAddr>)| {
        Some((mac, Remote { via: via?, addresses: Default::default() })).filter(|_| mac.0 != ANYBODY)
    };
    let strange = leads.into_iter().filter(|(mac, _)| !known.contains_key(mac)).filter_map(nobody);
    hosts.extend(strange.collect::<Vec<_>>());
    hosts
}

impl Ovs {
    pub(super) fn observed(&mut self) -> Result<NodeState> {
        // Somebody else may have been at the database, and at the bridges.
        self.load()?;
        self.database.listen()?;
        let model = self.model.clone();
        let kernel = self.kernel.observed()?;
        let mut state =
            NodeState { domains: kernel.domains, bonds: kernel.bonds, mirrors: kernel.mirrors, ..NodeState::default() };
        state.ports = self.loose.clone();
        state.policies = self.loose_policies.clone();
        state.members = self.groups.clone();
        for (name, bridge) in &model {
            self.observe_bridge(name, bridge, &mut state)?;
        }
        self.program.listen(&self.model);
        for (name, uplink) in kernel.uplinks {
            let opened = self.is_opened(&name)?;
            let right = self.database.port_is_right(&uplink.bridge, name.as_str()) && opened;
            state.uplinks.insert(name, Uplink { alias: alias_if(right, &uplink.alias), ..uplink });
        }
        for (name, tap) in kernel.taps {
            let observed = self.observed_tap(&name, tap, &model)?;
            state.taps.insert(name, observed);
        }
        for domain in state.domains.values_mut() {
            for (name, leg) in &mut domain.legs {
                let right = self.database.port_is_right(&leg.bridge, name.as_str()) && self.is_opened(name)?;
                leg.alias = alias_if(right && self.has_fact(&model, name, leg.mac), &leg.alias);
            }
            for (name, f) in &mut domain.floating {
                let right = self.database.port_is_right(&f.bridge, name.as_str()) && self.is_opened(name)?;
                f.alias = alias_if(right && self.has_fact(&model, name, f.mac), &f.alias);
            }
        }
        Ok(state)
    }

    /// Whether Open vSwitch has opened the device that has a name now.
    fn is_opened(&mut self, name: &IfName) -> Result<bool> {
        let link = self.kernel.rtnl().link(name.as_str())?;
        let opened = self.database.interface(name.as_str()).and_then(|i| i.index);
        Ok(opened.is_some() && opened == link.map(|l| l.index))
    }

    fn has_fact(&self, model: &super::Model, name: &IfName, of: MacAddr) -> bool {
        let facts = model.values().filter_map(|b| b.ports.get(name.as_str())).map(|p| &p.fact);
        facts.into_iter().any(|f| matches!(f, Fact::Fixed { mac, .. } if *mac == of))
    }

    fn observed_tap(&mut self, name: &IfName, tap: Tap, model: &super::Model) -> Result<Tap> {
        let port = model.get(&tap.bridge).and_then(|b| b.ports.get(name.as_str()));
        let (vlans, egress) = match port.map(|p| &p.fact) {
            Some(Fact::Nic { vlans, egress, .. }) => (vlans.clone(), egress.map(|e| e.rate)),
            _ => (None, None),
        };
        let bandwidth = Bandwidth { egress, ..tap.bandwidth };
        let right = self.database.port_is_right(&tap.bridge, name.as_str()) && self.is_opened(name)?;
        Ok(Tap { alias: alias_if(right, &tap.alias), vlans, bandwidth, ..tap })
    }

    /// A bridge, and those of its ports that are not devices of ours.
    fn observe_bridge(&mut self, name: &IfName, bridge: &BridgeModel, state: &mut NodeState) -> Result<()> {
        let link = self.kernel.rtnl().link(name.as_str())?.unwrap_or_default();
        let flows = self.program.check(name, bridge, &self.database);
        let right = flows && self.database.bridge_is_right(name) && link.up;
        for (port, there) in &bridge.ports {
            match &there.fact {
                Fact::Nic { port: facts, policed, .. } => {
                    let Ok(tap) = IfName::new(port.as_str()) else { continue };
                    state.ports.extend(facts.clone().map(|facts| (tap.clone(), facts)));
                    state.policies.extend(policed.clone().map(|p| (tap, p.policy)));
                }
                Fact::Uplink(uplink) => {
                    let (device, mut uplink) = self.observed_uplink(port, uplink, name)?;
                    if !self.far_is_right(port) {
                        uplink.alias.clear();
                    }
                    state.uplinks.insert(device, uplink);
                }
                Fact::Tunnel(flood) => {
                    let Ok(device) = IfName::new(port.as_str()) else { continue };
                    let known = self.observed_remotes(&device, flood, &there.hosts)?;
                    state.remotes.extend(known.map(|r| (device, r)));
                }
                _ => {}
            }
        }
        match &bridge.role {
            Role::Network(b) => {
                let (mtu, fits) = mtu_of(&link, b.mtu);
                let alias = alias_if(right && fits && link.alias == b.alias, &b.alias);
                state.bridges.insert(name.clone(), Bridge { alias, mtu });
            }
            Role::Fabric(f) => {
                let seen = self.observed_fabric(name, bridge, f, right.then_some(&link))?;
                state.fabrics.insert(name.clone(), seen);
            }
            Role::Device => {}
        }
        Ok(())
    }

    /// Whether the flows of the bridge at an uplink's other end are right; a fabric's says so itself.
    fn far_is_right(&mut self, near: &str) -> bool {
        let Some(far) = self.bridge_of(&super::model::far_end(near)) else { return false };
        let Some(bridge) = self.model.get(&far).filter(|b| b.role == Role::Device).cloned() else { return true };
        self.program.check(&far, &bridge, &self.database)
    }

    fn observed_fabric(
        &mut self,
        name: &IfName,
        bridge: &BridgeModel,
        fabric: &FabricBridge,
        link: Option<&Link>,
    ) -> Result<FabricBridge> {
        let (mtu, mut right) = link.map_or((fabric.mtu, false), |l| mtu_of(l, fabric.mtu));
        right &= link.is_some_and(|l| l.alias == fabric.alias);
        let mut uplink = None;
        for (port, there) in &bridge.ports {
            let (Fact::Device(Some(vlans)), Ok(device)) = (&there.fact, IfName::new(port.as_str())) else { continue };
            right &= self.lent_is_right(name, &device, mtu)?;
            uplink = Some(FabricUplink { device, tagged: vlans.tagged.clone(), untagged: vlans.native });
        }
        Ok(FabricBridge { alias: alias_if(right, &fabric.alias), mtu, uplink, inside: fabric.inside.clone() })
    }

    fn observed_remotes(
        &mut self,
        device: &IfName,
        flood: &Flood,
        hosts: &BTreeMap<MacAddr, Remote>,
    ) -> Result<Option<Remotes>> {
        let Some(link) = self.kernel.rtnl().link(device.as_str())? else { return Ok(None) };
        let entries = self.kernel.rtnl().fdb_of(link.index)?;
        let right = tunnel_is_right(&entries, flood);
        let copies = entries.iter().filter(|e| e.own && e.mac == ANYBODY).filter_map(|e| e.remote).collect();
        let flood = if right { flood.clone() } else { Flood { nodes: copies, ..flood.clone() } };
        Ok(Some(Remotes { flood, hosts: hosts_of(&entries, hosts) }))
    }
}

/// The MTU of a bridge's own device, and whether it is what it must be.
fn mtu_of(link: &Link, wanted: Mtu) -> (Mtu, bool) {
    match Mtu::new(link.mtu) {
        Ok(mtu) => (mtu, mtu == wanted),
        Err(_) => (wanted, false),
    }
}
