//! Policies and groups: steps, and what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use multihome_model::{Direction, IfName};
use multihome_plan::policy::Policy;

use super::model::Fact;
use super::policy::{self, CROWDED, ELSE_IN, ELSE_OUT, Policed, STRAY};
use super::{Ovs, flows};
use crate::error::Result;
use crate::kernel::Counted;

impl Ovs {
    /// The rules of a NIC whose tap is there, and its bridge.
    pub(super) fn policed(&mut self, name: &str) -> Option<(IfName, Policed)> {
        let bridge = self.bridge_of(name)?;
        match &self.model.get(&bridge)?.ports.get(name)?.fact {
            Fact::Nic { policed: Some(policed), .. } => Some((bridge, policed.clone())),
            _ => None,
        }
    }

    /// Makes these the rules of a NIC; of one that is not there, when it is. What fails is not passed over: nothing leaves
    /// or reaches the NIC then.
    pub(super) fn put_policy(&mut self, name: &IfName, policy: Option<&Policy>) -> Result<()> {
        let Some(bridge) = self.bridge_of(name.as_str()) else {
            match policy {
                Some(policy) => self.loose_policies.insert(name.clone(), policy.clone()),
                None => self.loose_policies.remove(name),
            };
            return Ok(());
        };
        let before = self.policed(name.as_str()).map(|(_, policed)| policed);
        let after = match policy.map(|p| policy::number(&self.model, &bridge, name.as_str(), p, before.as_ref())) {
            Some(Err(error)) => {
                self.refused.insert(name.clone());
                self.put_facts(name, None)?;
                return Err(error);
            }
            Some(Ok(policed)) => Some(policed),
            None => None,
        };
        self.refused.remove(name);
        self.set_policed(&bridge, name.as_str(), after);
        Ok(())
    }

    fn set_policed(&mut self, bridge: &IfName, name: &str, after: Option<Policed>) {
        let there = self.model.get_mut(bridge).and_then(|b| b.ports.get_mut(name));
        if let Some(Fact::Nic { policed, .. }) = there.map(|p| &mut p.fact) {
            *policed = after;
            self.touched.ports.insert((bridge.clone(), name.to_owned()));
        }
    }

    /// Makes exactly these the members of a group, or forgets it.
    pub(super) fn put_members(&mut self, group: &str, members: Option<&BTreeSet<IpAddr>>) {
        let before = match members {
            Some(members) => self.groups.insert(group.to_owned(), members.clone()),
            None => self.groups.remove(group),
        };
        self.touched.groups.insert(group.to_owned());
        let (before, after) = (before.unwrap_or_default(), members.cloned().unwrap_or_default());
        // What rules refuse now, and did not before, is asked about again.
        let users: Vec<(IfName, String, Policed)> = self
            .model
            .iter()
            .flat_map(|(bridge, b)| policy::of_bridge(b).map(|(name, p)| (bridge.clone(), name.clone(), p.clone())))
            .filter(|(_, _, p)| p.groups.contains_key(group) && policy::refuses(&p.policy, group, &before, &after))
            .collect();
        for (bridge, name, policed) in users {
            let epoch = policed.epoch.checked_add(1).unwrap_or(1);
            self.set_policed(&bridge, &name, Some(Policed { epoch, ..policed }));
        }
    }

    /// Knows which addresses are in which groups on each bridge.
    pub(super) fn group_addresses(&mut self) {
        for (name, bridge) in &mut self.model {
            let after = policy::addresses(bridge, &self.groups);
            let other = |a: &BTreeMap<IpAddr, policy::Bits>, b: &BTreeMap<IpAddr, policy::Bits>| -> Vec<IpAddr> {
                a.iter().filter(|(address, bits)| b.get(address) != Some(bits)).map(|(address, _)| *address).collect()
            };
            let changed = other(&bridge.grouped, &after).into_iter().chain(other(&after, &bridge.grouped));
            self.touched.grouped.extend(changed.map(|address| (name.clone(), address)));
            bridge.grouped = after;
        }
    }

    /// What was counted at each NIC with policies, since its port got its flows.
    ///
    /// # Errors
    /// When a bridge cannot be asked.
    pub fn policy_counters(&mut self) -> Result<BTreeMap<IfName, Counted>> {
        self.ensure_loaded()?;
        let mut all = BTreeMap::new();
        if self.model.values().all(|b| policy::of_bridge(b).next().is_none()) {
            return Ok(all);
        }
        // The data path tells what it counted now and then.
        self.program.settle();
        for (bridge, there) in &self.model {
            let policed: Vec<_> = policy::of_bridge(there).collect();
            if policed.is_empty() {
                continue;
            }
            let seen = self.program.seen(bridge, Some(flows::COUNTED))?;
            let packets: BTreeMap<u64, u64> = seen.iter().map(|s| (s.cookie, s.packets)).collect();
            for (name, policed) in policed {
                let (Ok(tap), Some(port)) =
                    (IfName::new(name.as_str()), self.database.interface(name).and_then(|i| i.port))
                else {
                    continue;
                };
                let of = |what: u32| packets.get(&flows::counter(port, what).cookie()).copied().unwrap_or(0);
                let rules = policed.numbers.iter().map(|(id, number)| (id.clone(), of(*number))).collect();
                let otherwise = [(Direction::Egress, of(ELSE_OUT)), (Direction::Ingress, of(ELSE_IN))].into();
                all.insert(tap, Counted { rules, otherwise, stray: of(STRAY), crowded: of(CROWDED) });
            }
        }
        Ok(all)
    }
}
