//! What each step does: the kernel's part at once, and Open vSwitch's when the batch is done.

use multihome_model::{IfName, MacAddr};
use multihome_netlink::{Idempotent, Offload};
use multihome_plan::node::{Flood, Port, Remote, Step, Tap, UplinkKind};

use super::Ovs;
use super::model::{Fact, Limited, PortModel, Role};
use crate::error::{Error, Result};
use crate::kernel::bridge::tap_alias;
use crate::kernel::overlay::{ANYBODY, copy_to, host};

/// Whether a step is about bridges and their ports, and so for Open vSwitch.
pub(super) fn switches(step: &Step) -> bool {
    !matches!(
        step,
        Step::CreateDomain(_)
            | Step::DeleteDomain(_)
            | Step::PutBond(..)
            | Step::DeleteBond(_)
            | Step::PutEgress(..)
            | Step::DeleteEgress(..)
            | Step::PutRouter(..)
            | Step::DeleteRouter(..)
            | Step::PutPeering(_)
            | Step::DeletePeering(..)
            | Step::PutRoute(..)
            | Step::DeleteRoute(..)
            | Step::PutPolicyRoutes(..)
            | Step::PutMirror(..)
            | Step::DeleteMirror(_)
            | Step::PutReturns(..)
    )
}

impl Ovs {
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::PutFabric(name, fabric) => self.put_fabric(name, fabric),
            Step::DeleteFabric(name) | Step::DeleteBridge(name) => {
                self.take_bridge(name);
                Ok(())
            }
            Step::PutBridge(name, bridge) => self.put_bridge(name, Role::Network(bridge.clone())),
            Step::PutUplink(name, uplink) => match &uplink.kind {
                UplinkKind::Vxlan { .. } => self.put_tunnel(step, name, &uplink.bridge),
                UplinkKind::Vlan { parent, id } => self.put_patch(name, uplink, parent, Some(*id)),
                UplinkKind::Device => self.put_patch(&super::model::untagged_port(name), uplink, name, None),
            },
            Step::DeleteUplink(name) => self.delete_uplink(name),
            Step::PutFlood(name, flood) => self.put_flood(name, flood),
            Step::PutRemote(name, mac, remote) => self.put_remote(name, *mac, Some(remote)),
            Step::DeleteRemote(name, mac) => self.put_remote(name, *mac, None),
            Step::PutLeg(_, name, leg) => {
                let fact = Fact::Fixed { mac: leg.mac, gateway: true };
                self.put_pair(step, name, &leg.bridge, fact)
            }
            Step::PutFloating(_, name, f) => {
                let fact = Fact::Fixed { mac: f.mac, gateway: false };
                self.put_pair(step, name, &f.bridge, fact)
            }
            Step::DeleteLeg(_, name) | Step::DeleteFloating(_, name) => {
                self.take(name.as_str());
                self.kernel.step(step)
            }
            Step::PutPolicy(name, policy) => self.put_policy(name, Some(policy)),
            Step::DeletePolicy(name) => self.put_policy(name, None),
            Step::PutMembers(group, members) => {
                self.put_members(group, Some(members));
                Ok(())
            }
            Step::DeleteMembers(group) => {
                self.put_members(group, None);
                Ok(())
            }
            Step::PutPort(name, _) if self.refused.contains(name) => {
                let reason = "its policies could not be set".to_owned();
                Err(Error::Unsupported { what: format!("port {name}"), reason })
            }
            Step::PutPort(name, port) => self.put_facts(name, Some(port)),
            Step::DeletePort(name) => self.put_facts(name, None),
            Step::PutTap(name, tap) => self.put_tap(name, tap),
            Step::DeleteTap(name) => self.delete_tap(name),
            Step::PutBond(..) | Step::DeleteBond(_) => {
                // A bond takes devices that are nobody's, and leaves none that somebody has.
                self.flush()?;
                self.kernel.step(step)
            }
            _ => self.kernel.step(step),
        }
    }

    pub(super) fn put_bridge(&mut self, name: &IfName, role: Role) -> Result<()> {
        if !self.database.has_bridge(name)
            && let Some(link) = self.kernel.rtnl().link(name.as_str())?
        {
            let kind = if link.kind.is_empty() { "physical device".into() } else { link.kind };
            return Err(Error::Foreign { name: name.to_string(), kind });
        }
        self.put_role(name, role);
        Ok(())
    }

    /// A bridge that ports can be put on.
    pub(super) fn expect_bridge(&self, bridge: &IfName, what: &str) -> Result<()> {
        match self.model.contains_key(bridge) {
            true => Ok(()),
            false => Err(Error::Unsupported { what: what.to_owned(), reason: format!("there is no bridge {bridge}") }),
        }
    }

    /// The index of a device of the host's namespace.
    fn index(&mut self, name: &IfName) -> Result<Option<u32>> {
        Ok(self.kernel.rtnl().index(name.as_str()).unless_missing()?)
    }

    /// Lets Open vSwitch forget a port whose device is another than the one that it opened, so that it opens this one.
    pub(super) fn replug(&mut self, name: &IfName) -> Result<()> {
        if self.bridge_of(name.as_str()).is_none() {
            return Ok(());
        }
        // What is put in this batch is not opened yet.
        let Some(opened) = self.database.interface(name.as_str()).map(|i| i.index) else { return Ok(()) };
        if opened.is_some() && opened == self.index(name)? {
            return Ok(());
        }
        let Some(bridge) = self.bridge_of(name.as_str()) else { return Ok(()) };
        let Some(port) = self.take(name.as_str()) else { return Ok(()) };
        self.commit()?;
        self.put(&bridge, name.as_str(), port);
        Ok(())
    }

    fn put_pair(&mut self, step: &Step, name: &IfName, bridge: &IfName, fact: Fact) -> Result<()> {
        self.expect_bridge(bridge, &format!("port {name}"))?;
        self.kernel.step(step)?;
        self.replug(name)?;
        self.put(bridge, name.as_str(), fact.into());
        Ok(())
    }

    fn put_tap(&mut self, name: &IfName, tap: &Tap) -> Result<()> {
        self.expect_bridge(&tap.bridge, &format!("port {name}"))?;
        let there = self.kernel.make_tap(name, tap)?;
        if there.is_some() || tap.bandwidth.ingress.is_some() {
            self.shaping.insert(name.clone(), tap.bandwidth.ingress);
        }
        self.kernel.plug(name, 0, &tap_alias(tap), tap.mtu, false)?;
        self.replug(name)?;
        let on = self.bridge_of(name.as_str());
        // Before it is taken: another limit needs another meter.
        let limited = tap.bandwidth.egress.and_then(|rate| self.model.get(&tap.bridge)?.limited(rate));
        let (port, policed, egress) = match self.take(name.as_str()).map(|p| p.fact) {
            Some(Fact::Nic { port, policed, egress, .. }) => (port, policed, egress),
            // Kept until it is done: it may have to be tried again.
            _ => (self.loose.get(name).cloned(), None, None),
        };
        let same = |had: &Limited| on.as_ref() == Some(&tap.bridge) && Some(had.rate) == tap.bandwidth.egress;
        let egress = egress.filter(same).or(limited);
        // Of rules whose groups are known by other numbers on another bridge.
        let moved = policed.as_ref().filter(|_| on.as_ref() != Some(&tap.bridge)).map(|p| p.policy.clone());
        let policy = moved.or_else(|| self.loose_policies.get(name).cloned());
        let policed = policed.filter(|_| policy.is_none());
        // Nothing passes before its rules are there.
        let facts = port.clone().filter(|_| policy.is_none());
        let fact = Fact::Nic { vlans: tap.vlans.clone(), port: facts, policed, egress };
        self.put(&tap.bridge, name.as_str(), fact.into());
        let Some(policy) = policy else { return Ok(()) };
        self.put_policy(name, Some(&policy))?;
        self.put_facts(name, port.as_ref())
    }

    fn delete_tap(&mut self, name: &IfName) -> Result<()> {
        if let Some(PortModel { fact: Fact::Nic { port, policed, .. }, .. }) = self.take(name.as_str()) {
            self.loose.extend(port.map(|port| (name.clone(), port)));
            self.loose_policies.extend(policed.map(|p| (name.clone(), p.policy)));
        }
        self.shaping.remove(name);
        self.kernel.delete_device(name)
    }

    pub(super) fn put_facts(&mut self, name: &IfName, facts: Option<&Port>) -> Result<()> {
        let there =
            self.bridge_of(name.as_str()).and_then(|b| Some((self.model.get(&b)?.ports.get(name.as_str())?, b)));
        if let Some((PortModel { fact: Fact::Nic { vlans, policed, egress, .. }, .. }, bridge)) = there {
            let (vlans, policed, egress) = (vlans.clone(), policed.clone(), *egress);
            let fact = Fact::Nic { vlans, port: facts.cloned(), policed, egress };
            self.put(&bridge, name.as_str(), fact.into());
            return Ok(());
        }
        match facts {
            Some(facts) => drop(self.loose.insert(name.clone(), facts.clone())),
            None => drop(self.loose.remove(name)),
        }
        Ok(())
    }

    /// A VXLAN device as a port: the device is the kernel's in every data path (see `docs/decisions/0011-open-vswitch.md`).
    fn put_tunnel(&mut self, step: &Step, name: &IfName, bridge: &IfName) -> Result<()> {
        self.expect_bridge(bridge, &format!("port {name}"))?;
        let before = self.index(name)?;
        self.kernel.step(step)?;
        self.make_plain(name, &[Offload::GenericReceive])?;
        self.replug(name)?;
        let same = before.is_some() && before == self.index(name)?;
        // What a device knew went with it.
        let known = self.take(name.as_str()).filter(|p| same && matches!(p.fact, Fact::Tunnel(_)));
        self.displace(bridge, name.as_str())?;
        self.put(bridge, name.as_str(), known.unwrap_or_else(|| Fact::Tunnel(Flood::default()).into()));
        Ok(())
    }

    fn put_flood(&mut self, name: &IfName, flood: &Flood) -> Result<()> {
        let index = self.kernel.rtnl().index(name.as_str())?;
        let there: Vec<_> =
            self.kernel.rtnl().fdb_of(index)?.into_iter().filter(|e| e.own && e.mac == ANYBODY).collect();
        let gone: Vec<_> =
            there.into_iter().filter(|e| e.remote.is_none_or(|via| !flood.nodes.contains(&via))).collect();
        for result in self.kernel.rtnl().fdb_delete(&gone) {
            result.unless_missing()?;
        }
        let all: Vec<_> = flood.nodes.iter().map(|node| copy_to(index, *node)).collect();
        self.kernel.rtnl().fdb_set(&all).into_iter().collect::<multihome_netlink::Result<()>>()?;
        let Some(bridge) = self.bridge_of(name.as_str()) else { return Ok(()) };
        let known = self.model.get(&bridge).and_then(|b| b.ports.get(name.as_str()));
        let hosts = known.map(|p| p.hosts.clone()).unwrap_or_default();
        self.put(&bridge, name.as_str(), PortModel { fact: Fact::Tunnel(flood.clone()), hosts });
        Ok(())
    }

    fn put_remote(&mut self, name: &IfName, mac: MacAddr, remote: Option<&Remote>) -> Result<()> {
        let (index, bridge) = match (self.index(name)?, self.bridge_of(name.as_str())) {
            (Some(index), Some(bridge)) => (index, bridge),
            // What it knew went with it.
            _ if remote.is_none() => return Ok(()),
            _ => return Ok(self.kernel.rtnl().index(name.as_str()).map(drop)?),
        };
        match remote {
            Some(remote) => {
                let [tunnel, _] = host(index, mac, remote.via);
                self.kernel.rtnl().fdb_set(&[tunnel]).into_iter().collect::<multihome_netlink::Result<()>>()?;
            }
            None => {
                let mut stale = self.kernel.rtnl().fdb_of(index)?;
                stale.retain(|e| e.own && e.mac == mac.0);
                for result in self.kernel.rtnl().fdb_delete(&stale) {
                    result.unless_missing()?;
                }
            }
        }
        if let Some(port) = self.model.get_mut(&bridge).and_then(|b| b.ports.get_mut(name.as_str())) {
            match remote {
                Some(remote) => port.hosts.insert(mac, remote.clone()),
                None => port.hosts.remove(&mac),
            };
        }
        self.touched.hosts.insert((bridge, name.as_str().to_owned(), mac));
        Ok(())
    }

    /// Why this node can carry no trunks by a device, or without one, if so: a sentence's end.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn why_no_trunks(&mut self, device: Option<&IfName>) -> Result<Option<String>> {
        let Some(device) = device else { return Ok(None) };
        Ok(self.why_not_lent(device)?.map(|reason| format!("{device}: {reason}")))
    }
}
