//! Policies: what may be opened by and towards a NIC, kept at its port, whatever is at the other end: a NIC on the same bridge,
//! a gateway, the world behind an uplink. One table, which is there for as long as a NIC has policies; NICs without any are not
//! in its maps.
//!
//! Which conversations are known is state of ours, in sets of the NIC, because not every kernel tracks connections on bridges,
//! and none tells overlapping networks apart there. So the same holds on every kernel, and a NIC that opens without end
//! crowds out itself alone.
//!
//! What a NIC's rules are is written down in the set `facts1` last of all, and taken out first: a process that was killed half
//! way leaves a NIC whose rules are to be made again.

mod rules;
mod wordless;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use multihome_model::{Direction, IfName, RuleAction};
use multihome_netlink::nft::{Changes, Data, Element, Family, Listed, Value, load_in};
use multihome_netlink::{Capability, Idempotent};
use multihome_plan::policy::{ICMP, ICMP6, Members, Packet, Policy, Rules, has_ports};

use super::Kernel;
use super::security::{device_name, split};
use crate::error::Result;

/// The name of our table.
const TABLE: &str = "multihome-policies";
/// What the rules of each NIC are, in pieces; the set by which a table of this version is known.
const FACTS: &str = "facts1";
/// The groups that are there.
const MEMBERS: &str = "members";
/// NICs whose connections may be older than their rules.
const FRESH: &str = "fresh";
/// Bytes of facts in one element.
const PIECE: usize = 32;

/// What the table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) policies: BTreeMap<IfName, Policy>,
    pub(super) members: Members,
}

/// What was counted at a NIC with policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that each rule decided about, by the rule's name.
    pub rules: BTreeMap<String, u64>,
    /// Packets that no rule decided about, towards the NIC and from it.
    pub otherwise: BTreeMap<Direction, u64>,
    /// TCP packets that belong to no connection that is known, and open none; they were dropped.
    pub stray: u64,
    /// Packets that were allowed, and dropped because no more conversations of the NIC can be remembered.
    pub crowded: u64,
}

/// What a policy is as elements: its text in pieces.
fn facts(nic: &IfName, policy: &Policy) -> Vec<Data> {
    let text = serde_json::to_vec(policy).expect("a policy is plain data");
    let piece = |(i, bytes): (usize, &[u8])| {
        let mut padded = [b' '; PIECE];
        padded[..bytes.len()].copy_from_slice(bytes);
        let (a, b) = padded.split_at(PIECE / 2);
        Data::new().ifname(nic.as_str()).native(i as u32).bytes(a).bytes(b)
    };
    text.chunks(PIECE).enumerate().map(piece).collect()
}

/// The policies that elements are; what is not whole is none.
fn read_facts(list: &[Listed]) -> BTreeMap<IfName, Policy> {
    let mut pieces: BTreeMap<IfName, BTreeMap<u32, &[u8]>> = BTreeMap::new();
    for e in list {
        let Some((name, rest)) = split(&e.key) else { continue };
        let Some((number, bytes)) = rest.split_first_chunk::<4>() else { continue };
        pieces.entry(name).or_default().insert(u32::from_ne_bytes(*number), bytes);
    }
    let whole = |pieces: BTreeMap<u32, &[u8]>| {
        let in_order = pieces.keys().enumerate().all(|(i, n)| i as u32 == *n);
        let text: Vec<u8> = pieces.into_values().flatten().copied().collect();
        in_order.then(|| serde_json::from_slice(&text).ok()).flatten()
    };
    pieces.into_iter().filter_map(|(name, pieces)| Some((name, whole(pieces)?))).collect()
}

/// What stands for rules that are not whole: no plan asks for it.
fn broken() -> Policy {
    let nothing = || Rules { rules: vec![], otherwise: RuleAction::Allow };
    Policy { ingress: nothing(), egress: nothing() }
}

/// The packet that opened a conversation, from its key: the NIC's address, the other one, the protocol and both ports.
fn opening(key: &[u8], direction: Direction) -> Option<Packet> {
    // Fields are padded to four bytes.
    let length = if key.len() > 32 { 16 } else { 4 };
    let (remote, rest) = key.get(length..)?.split_at_checked(length)?;
    let remote: IpAddr = match length {
        4 => <[u8; 4]>::try_from(remote).ok()?.into(),
        _ => <[u8; 16]>::try_from(remote).ok()?.into(),
    };
    let protocol = *rest.first()?;
    let port = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let port = if direction == Direction::Egress { port(8) } else { port(4) };
    let icmp = match protocol {
        ICMP => Some((8, 0)),
        ICMP6 => Some((128, 0)),
        _ => None,
    };
    Some(Packet { remote, protocol, port: port.filter(|_| has_ports(protocol)), icmp })
}

fn member_sets(group: &str, members: &BTreeSet<IpAddr>) -> [(String, BTreeSet<IpAddr>); 2] {
    let (four, six) = members.iter().partition(|a| a.is_ipv4());
    [(format!("{group}-4"), four), (format!("{group}-6"), six)]
}

fn address(key: &[u8]) -> Option<IpAddr> {
    match key.len() {
        4 => <[u8; 4]>::try_from(key).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(key).ok().map(|b| Ipv6Addr::from(b).into()),
    }
}

impl Kernel {
    /// What is in the table; read once, then kept.
    pub(super) fn known_policies(&mut self) -> Result<&mut Known> {
        if self.policies.is_none() {
            self.policies = Some(self.read_policies()?);
        }
        Ok(self.policies.get_or_insert_default())
    }

    fn listed(&mut self, set: &str) -> Result<Vec<Listed>> {
        Ok(self.nft.elements(Family::Bridge, TABLE, set).unless_missing()?.unwrap_or_default())
    }

    fn has_policies(&mut self) -> Result<bool> {
        match self.nft.has_table(Family::Bridge, TABLE) {
            Err(e) if e.is_unsupported() => Ok(false),
            other => Ok(other?),
        }
    }

    /// Reads what the table holds.
    pub(super) fn read_policies(&mut self) -> Result<Known> {
        let mut known = Known::default();
        if !self.has_policies()? {
            return Ok(known);
        }
        let mut entered: BTreeMap<IfName, usize> = BTreeMap::new();
        for map in ["from_nic", "to_nic"] {
            for name in self.listed(map)?.iter().filter_map(|e| device_name(&e.key)) {
                *entered.entry(name).or_default() += 1;
            }
        }
        let mut facts = read_facts(&self.listed(FACTS)?);
        facts.retain(|name, _| entered.get(name) == Some(&rules::entries(name).len()));
        // What is there of a NIC and not whole is made again, or removed.
        let counted = self.nft.counters(Family::Bridge, TABLE)?;
        let counted = counted.iter().filter_map(|(name, _)| IfName::new(name.split_once('-')?.0).ok());
        known.policies = counted.chain(entered.into_keys()).map(|name| (name, broken())).collect();
        known.policies.extend(facts);
        for group in self.listed(MEMBERS)?.iter().filter_map(|e| device_name(&e.key)) {
            let mut members = BTreeSet::new();
            for (set, _) in member_sets(group.as_str(), &members.clone()) {
                members.extend(self.listed(&set)?.iter().filter_map(|e| address(&e.key)));
            }
            known.members.insert(group.to_string(), members);
        }
        Ok(known)
    }

    /// Loads the table if it is not there, or of an earlier version.
    fn ensure_policies(&mut self) -> Result<()> {
        if !self.has_policies()? {
            self.require(Capability::BridgeNftables, || "policies".into())?;
            self.policies = Some(Known::default());
            return Ok(load_in(&self.config.host, rules::BASE)?);
        }
        if self.nft.elements(Family::Bridge, TABLE, FACTS).unless_missing()?.is_none() {
            load_in(&self.config.host, &format!("delete table bridge {TABLE}\n{}", rules::BASE))?;
            self.policies = Some(Known::default());
        }
        self.known_policies().map(drop)
    }

    pub(super) fn delete_policies(&mut self) -> Result<()> {
        self.policies = None;
        match self.nft.delete_table(Family::Bridge, TABLE).unless_missing() {
            Err(e) if e.is_unsupported() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Does something to the table; what is known of it is looked at again if that fails.
    fn at_policies(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let done = self.ensure_policies().and_then(|()| work(self));
        if done.is_err() {
            self.policies = None;
        }
        done
    }

    fn change(&mut self, fill: impl FnOnce(&mut Changes)) -> Result<()> {
        let mut changes = Changes::new();
        fill(&mut changes);
        Ok(self.nft.apply(Family::Bridge, TABLE, &changes)?)
    }

    /// The names of the named counters of a NIC, where something of it is there.
    fn counters_of(&mut self, nic: &IfName) -> Result<Vec<String>> {
        let (set, _) = rules::flow_sets(nic).swap_remove(0);
        if self.nft.elements(Family::Bridge, TABLE, &set).unless_missing()?.is_none() {
            return Ok(vec![]);
        }
        let own = format!("{nic}-");
        let all = self.nft.counters(Family::Bridge, TABLE)?;
        Ok(all.into_iter().map(|(name, _)| name).filter(|n| n.starts_with(&own)).collect())
    }

    /// Makes these the rules of a NIC.
    pub(super) fn put_policy(&mut self, nic: &IfName, policy: &Policy) -> Result<()> {
        // A NIC that runs already may have connections.
        let runs = self.rtnl.link(nic.as_str())?.is_some_and(|l| l.master != 0);
        self.at_policies(|this| {
            let before = this.known_policies()?.policies.remove(nic).filter(|p| *p != broken());
            if let Some(before) = &before {
                let old = facts(nic, before);
                this.change(|c| old.into_iter().for_each(|key| _ = c.delete(FACTS, key)))?;
            }
            let wanted = rules::counters(nic, policy);
            let mut stale = match &before {
                Some(before) => rules::counters(nic, before),
                None => this.counters_of(nic)?,
            };
            stale.retain(|c| !wanted.contains(c));
            load_in(&this.config.host, &rules::install(nic, policy, before.is_none(), &stale))?;
            if before.is_none() {
                this.nft.append(Family::Bridge, TABLE, &wordless::rules(nic))?;
            }
            this.sweep(nic, policy)?;
            let key = || Data::new().ifname(nic.as_str());
            let new = facts(nic, policy);
            this.change(|c| {
                if before.is_none() {
                    if runs {
                        c.add(FRESH, Element::key(key()));
                    }
                    for (map, kind, chain) in rules::entries(nic) {
                        c.add(map, Element::verdict(key().be16(kind), Value::Jump(chain)));
                    }
                }
                new.into_iter().for_each(|key| _ = c.add(FACTS, Element::key(key)));
            })?;
            this.known_policies()?.policies.insert(nic.clone(), policy.clone());
            Ok(())
        })
    }

    /// Removes the rules of a NIC, and what it was known to have open.
    pub(super) fn delete_policy(&mut self, nic: &IfName) -> Result<()> {
        if !self.has_policies()? {
            return Ok(());
        }
        self.at_policies(|this| {
            this.known_policies()?.policies.remove(nic);
            let mine: Vec<Data> = this
                .listed(FACTS)?
                .into_iter()
                .map(|e| e.key)
                .filter(|k| device_name(k).as_ref() == Some(nic))
                .map(|k| Data::new().bytes(&k))
                .collect();
            let key = || Data::new().ifname(nic.as_str());
            this.change(|c| {
                for (map, kind, _) in rules::entries(nic) {
                    c.delete(map, key().be16(kind));
                }
                c.delete(FRESH, key());
                mine.into_iter().for_each(|key| _ = c.delete(FACTS, key));
            })?;
            let counters = this.counters_of(nic)?;
            let mut text = rules::remove(nic, &counters);
            for (set, _) in rules::flow_sets(nic) {
                if this.nft.elements(Family::Bridge, TABLE, &set).unless_missing()?.is_some() {
                    text += &format!("delete set bridge {TABLE} {set}\n");
                }
            }
            load_in(&this.config.host, &text)?;
            this.drop_if_unused()
        })
    }

    /// Removes the table once nobody needs it.
    fn drop_if_unused(&mut self) -> Result<()> {
        let known = self.known_policies()?;
        if known.policies.is_empty() && known.members.is_empty() { self.delete_policies() } else { Ok(()) }
    }

    /// Makes exactly these the members of a group.
    pub(super) fn put_members(&mut self, group: &str, members: &BTreeSet<IpAddr>) -> Result<()> {
        self.at_policies(|this| {
            let fact = || Data::new().ifname(group);
            let before = this.known_policies()?.members.remove(group);
            match &before {
                Some(_) => this.change(|c| _ = c.delete(MEMBERS, fact()))?,
                None => {
                    let sets = rules::group_sets(group);
                    load_in(&this.config.host, &sets)?;
                }
            }
            let mut changes = Changes::new();
            let mut fewer = false;
            for (set, wanted) in member_sets(group, members) {
                let there: BTreeSet<IpAddr> = this.listed(&set)?.iter().filter_map(|e| address(&e.key)).collect();
                there.difference(&wanted).for_each(|a| _ = changes.delete(&set, Data::new().ip(*a)));
                wanted.difference(&there).for_each(|a| _ = changes.add(&set, Element::key(Data::new().ip(*a))));
                fewer |= !there.is_subset(&wanted);
            }
            this.nft.apply(Family::Bridge, TABLE, &changes)?;
            this.known_policies()?.members.insert(group.to_owned(), members.clone());
            if fewer || before.is_none() {
                let named = |p: &Policy| p.groups().into_iter().any(|g| g == group);
                let users: Vec<(IfName, Policy)> = this
                    .known_policies()?
                    .policies
                    .iter()
                    .filter(|(_, p)| named(p))
                    .map(|(n, p)| (n.clone(), p.clone()))
                    .collect();
                for (nic, policy) in users {
                    this.sweep(&nic, &policy)?;
                }
            }
            this.change(|c| _ = c.add(MEMBERS, Element::key(fact())))
        })
    }

    /// Forgets a group that no rule names.
    pub(super) fn delete_members(&mut self, group: &str) -> Result<()> {
        if !self.has_policies()? {
            return Ok(());
        }
        self.at_policies(|this| {
            let text: String = ["4", "6"].map(|n| format!("delete set bridge {TABLE} {group}-{n}\n")).concat();
            let there = this.nft.elements(Family::Bridge, TABLE, &format!("{group}-4")).unless_missing()?.is_some();
            if there {
                load_in(&this.config.host, &text)?;
            }
            this.known_policies()?.members.remove(group);
            this.change(|c| _ = c.delete(MEMBERS, Data::new().ifname(group)))?;
            this.drop_if_unused()
        })
    }

    /// Ends the conversations of a NIC that its rules do not allow.
    fn sweep(&mut self, nic: &IfName, policy: &Policy) -> Result<()> {
        let members = self.known_policies()?.members.clone();
        for (set, direction) in rules::flow_sets(nic) {
            let rules = policy.of(direction);
            let mut list = self.listed(&set)?;
            list.retain(|e| opening(&e.key, direction).is_none_or(|p| !rules.allows(&p, &members)));
            self.change(|c| list.iter().for_each(|e| _ = c.delete(&set, Data::new().bytes(&e.key))))?;
        }
        Ok(())
    }

    /// What was counted at each NIC with policies, since it has them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn policy_counters(&mut self) -> Result<BTreeMap<IfName, Counted>> {
        let mut out: BTreeMap<IfName, Counted> = BTreeMap::new();
        if self.known_policies()?.policies.is_empty() {
            return Ok(out);
        }
        for (name, packets) in self.nft.counters(Family::Bridge, TABLE)? {
            let Some((nic, what)) = name.split_once('-') else { continue };
            let Ok(nic) = IfName::new(nic) else { continue };
            let counted = out.entry(nic).or_default();
            let default = Direction::ALL.into_iter().find(|d| rules::otherwise(*d) == what);
            match (what, default) {
                (rules::STRAY, _) => counted.stray = packets,
                (rules::CROWDED, _) => counted.crowded = packets,
                (_, Some(direction)) => drop(counted.otherwise.insert(direction, packets)),
                (rule, None) => drop(counted.rules.insert(rule.to_owned(), packets)),
            }
        }
        Ok(out)
    }
}
