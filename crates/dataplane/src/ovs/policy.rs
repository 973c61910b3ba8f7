//! Policies of NICs as this engine keeps them: with numbers in place of names, because flows know numbers alone. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use multihome_model::{IfName, RuleAction};
use multihome_plan::policy::{Members, Policy};
use serde::{Deserialize, Serialize};

use super::Model;
use super::model::{BridgeModel, Fact};
use crate::error::{Error, Result};

/// Zones of the connection tracker that a NIC has: what it opened and what was opened towards it, of IPv4 and of IPv6.
pub(super) const ZONES: u16 = 4;
/// How many groups rules on one bridge may name: bits that flows know the members of each by.
pub(super) const GROUPS: usize = 256;
/// The groups that an address is in.
pub(super) type Bits = [u32; GROUPS / 32];
/// The numbers of what is counted but not by a rule: what no rule decided about (egress, ingress), what belongs to nothing
/// that is known, and what there was no room for.
pub(super) const ELSE_OUT: u32 = 1;
pub(super) const ELSE_IN: u32 = 2;
pub(super) const STRAY: u32 = 3;
pub(super) const CROWDED: u32 = 4;
/// The first number of a rule.
const FIRST_RULE: u32 = 5;

/// The rules of a NIC and the numbers that its flows know them by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policed {
    pub(super) policy: Policy,
    /// Which zones are the NIC's, counted from the uppermost one: networks of others on this switch count from the lowest.
    pub(super) block: u16,
    /// How often the rules were changed. Connections are marked with it: those of an earlier number are asked about again.
    pub(super) epoch: u32,
    /// The bits of the groups that the rules name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) groups: BTreeMap<String, u8>,
    /// The number of each rule. It stays for as long as the rule does, and so does what it counted.
    pub(super) numbers: BTreeMap<String, u32>,
}

/// The zones of a block: what the NIC opened and what was opened towards it, by IPv4; the same by IPv6.
pub(super) fn zones(block: u16) -> [u16; ZONES as usize] {
    let last = u16::MAX - block * ZONES;
    [last, last - 1, last - 2, last - 3]
}

/// The first number from `first` on that is not among those.
fn free(first: u32, taken: &BTreeSet<u32>) -> u32 {
    (first..).find(|n| !taken.contains(n)).unwrap_or(u32::MAX)
}

/// The policed NICs of a bridge.
pub(super) fn of_bridge(bridge: &BridgeModel) -> impl Iterator<Item = (&String, &Policed)> {
    bridge.ports.iter().filter_map(|(name, port)| match &port.fact {
        Fact::Nic { policed: Some(policed), .. } => Some((name, policed)),
        _ => None,
    })
}

/// The blocks of zones that are taken, with a bridge of the data path that they are in.
pub(super) fn blocks(model: &Model) -> BTreeMap<u16, IfName> {
    let of = |(name, bridge)| of_bridge(bridge).map(move |(_, p): (_, &Policed)| (p.block, IfName::clone(name)));
    model.iter().flat_map(of).collect()
}

/// The bits of the groups that rules on a bridge name, but for those of one port.
fn groups_of(bridge: &BridgeModel, but: &str) -> BTreeMap<String, u8> {
    let others = of_bridge(bridge).filter(|(name, _)| *name != but);
    others.flat_map(|(_, p)| p.groups.clone()).collect()
}

/// Gives rules their numbers; what has some keeps them.
pub(super) fn number(
    model: &Model,
    bridge: &IfName,
    port: &str,
    policy: &Policy,
    before: Option<&Policed>,
) -> Result<Policed> {
    let unsupported = |reason: String| Error::Unsupported { what: format!("policies of {port}"), reason };
    let taken: BTreeSet<u32> = blocks(model).into_keys().map(u32::from).collect();
    let block = before.map_or_else(|| free(0, &taken), |b| b.block.into());
    let most = u32::from(u16::MAX / ZONES) - 1;
    let block = u16::try_from(block).ok().filter(|b| u32::from(*b) < most);
    let block = block.ok_or_else(|| unsupported(format!("{most} NICs with policies are the most on one node")))?;

    let known = model.get(bridge).map(|b| groups_of(b, port)).unwrap_or_default();
    let mut bits: BTreeSet<u32> = known.values().map(|b| u32::from(*b)).collect();
    let kept = |group: &str| known.get(group).or_else(|| before.and_then(|b| b.groups.get(group))).copied();
    let mut groups = BTreeMap::new();
    for group in policy.groups() {
        let bit = kept(group).filter(|b| known.contains_key(group) || !bits.contains(&u32::from(*b)));
        let bit = bit.map_or_else(|| free(0, &bits), u32::from);
        bits.insert(bit);
        let reason = || unsupported(format!("rules on one network of a node name at most {GROUPS} groups"));
        groups.insert(group.clone(), u8::try_from(bit).map_err(|_| reason())?);
    }

    let ids = || policy.ingress.rules.iter().chain(&policy.egress.rules).map(|r| &r.id);
    let old = |id: &String| before.and_then(|b| b.numbers.get(id)).copied();
    let mut taken: BTreeSet<u32> = ids().filter_map(old).collect();
    let mut numbers = BTreeMap::new();
    for id in ids() {
        let number = old(id).or_else(|| numbers.get(id).copied()).unwrap_or_else(|| free(FIRST_RULE, &taken));
        taken.insert(number);
        numbers.insert(id.clone(), number);
    }
    let epoch = before.map_or(1, |b| b.epoch.checked_add(1).unwrap_or(1));
    Ok(Policed { policy: policy.clone(), block, epoch, groups, numbers })
}

/// Whether a group that is now other than it was may refuse what was allowed.
pub(super) fn refuses(policy: &Policy, group: &str, before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) -> bool {
    let rules = policy.ingress.rules.iter().chain(&policy.egress.rules);
    let mut naming = rules.filter(|r| r.peers.as_ref().is_some_and(|p| p.groups.contains(group)));
    naming.any(|r| match r.action {
        RuleAction::Allow => !before.is_subset(after),
        RuleAction::Deny => !after.is_subset(before),
    })
}

/// Which groups each address is in, as far as rules on a bridge name them.
pub(super) fn addresses(bridge: &BridgeModel, members: &Members) -> BTreeMap<IpAddr, Bits> {
    let mut all: BTreeMap<IpAddr, Bits> = BTreeMap::new();
    for (group, bit) in groups_of(bridge, "") {
        for address in members.get(&group).into_iter().flatten() {
            all.entry(*address).or_default()[usize::from(bit / 32)] |= 1 << (bit % 32);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_plan::policy::{Peers, Rule, Rules};

    fn policy(ids: &[&str], groups: &[&str]) -> Policy {
        let peers = Peers { nets: BTreeSet::new(), groups: groups.iter().map(|g| (*g).to_owned()).collect() };
        let rule = |id: &&str| Rule {
            id: (*id).to_owned(),
            action: RuleAction::Allow,
            protocol: None,
            ports: vec![],
            icmp: None,
            peers: Some(peers.clone()),
        };
        let rules = |list: &[&str]| Rules { rules: list.iter().map(rule).collect(), otherwise: RuleAction::Deny };
        Policy { ingress: rules(ids), egress: rules(&[]) }
    }

    #[test]
    fn numbers_stay_with_what_they_are_of() {
        let (model, bridge) = (Model::new(), IfName::new("mhb0").unwrap());
        let first = number(&model, &bridge, "t", &policy(&["a", "b"], &["g", "h"]), None).unwrap();
        let second = number(&model, &bridge, "t", &policy(&["c", "b"], &["h", "i"]), Some(&first)).unwrap();
        assert_eq!(second.numbers["b"], first.numbers["b"]);
        assert_eq!(second.numbers["c"], first.numbers["a"], "free again");
        assert_eq!(second.groups["h"], first.groups["h"]);
        assert_ne!(second.groups["i"], second.groups["h"]);
        assert_eq!((second.block, second.epoch), (first.block, first.epoch + 1));
        assert_eq!(zones(0), [65535, 65534, 65533, 65532]);
        assert!(zones(u16::MAX / ZONES - 2).iter().all(|z| *z > 3));
    }
}
