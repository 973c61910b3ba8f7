//! Security groups: which of them a NIC is in, what that makes of what it opens and what is opened towards it, and who their
//! members are as they are met from one place.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_model::checked::{CheckedGroup, CheckedRule, check_group, check_network};
use multihome_model::{DefaultPolicy, Direction, Network, NetworkInterface, NetworkType, RuleAction, names};
use multihome_plan::policy::{Members, Peers, Policy, Rule, Rules, members_name};

use crate::world::{Tables, network_key};
use crate::{Key, vm, vpc};

/// What is to be enforced at a NIC, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Enforced {
    /// The rules.
    pub policy: Policy,
    /// The groups that the NIC is in, in the order in which their rules are asked.
    pub groups: Vec<Key>,
    /// The rules by where they are from, in order.
    pub sources: Vec<Source>,
    /// What becomes of what no rule decides, and why.
    pub defaults: Vec<(Direction, RuleAction, String)>,
    /// Groups that the NIC is in and that cannot be enforced: a sentence for each.
    pub problems: Vec<String>,
}

/// Where a rule is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The rule's name among the NIC's.
    pub id: String,
    /// The group.
    pub group: Key,
    /// Which way.
    pub direction: Direction,
    /// The rule in words.
    pub text: String,
}

fn keys(names: &[String], namespace: &str) -> Vec<Key> {
    names.iter().map(|n| Key::reference(n, namespace)).collect()
}

/// The groups that a NIC names itself.
pub fn own_groups(nic: &NetworkInterface) -> Vec<Key> {
    keys(&nic.spec.policies, &nic.namespace().unwrap_or_default())
}

/// The groups that a network names for every NIC in it.
pub fn network_groups(network: &Network) -> Vec<Key> {
    keys(&network.spec.policies, &network.namespace().unwrap_or_default())
}

/// The groups that a NIC is in: its network's, then its own, each once.
pub fn groups_of(t: &Tables, nic: &NetworkInterface) -> Vec<Key> {
    let network = t.network_of(nic).map(|(_, n)| network_groups(&n)).unwrap_or_default();
    let mut all: Vec<Key> = vec![];
    for key in network.into_iter().chain(own_groups(nic)) {
        if !all.contains(&key) {
            all.push(key);
        }
    }
    all
}

/// The NICs that are in a group.
pub fn nics_of_group<'a>(t: &'a Tables, group: &'a Key) -> BTreeSet<&'a Key> {
    let by_network = t.networks_of_group(group).flat_map(|n| t.nics_of_network(n));
    t.nics_naming_group(group).chain(by_network).collect()
}

/// What is to be enforced at a NIC; nothing, where everything passes.
pub fn enforced(t: &Tables, nic: &NetworkInterface) -> Option<Enforced> {
    let (network_key, network) = t.network_of(nic)?;
    // Frames with tags are not looked into.
    if matches!(network.spec.r#type, NetworkType::VlanTrunk | NetworkType::Cni) {
        return None;
    }
    let (mut groups, mut problems) = (vec![], vec![]);
    for key in groups_of(t, nic) {
        match t.groups.get(&key).map(|g| check_group(&key.name, &g.spec)) {
            Some(Ok(group)) => groups.push((key, group)),
            Some(Err(v)) => problems.push(format!("SecurityGroup {key} is not valid ({v}): mend it")),
            None => problems.push(format!("SecurityGroup {key} does not exist: create it, or take it out of policies")),
        }
    }
    let place = place(t, &network_key, &network)?;
    let default = network.spec.default_policy.unwrap_or_default();
    let mut sources = vec![];
    let mut defaults = vec![];
    let [ingress, egress] = Direction::ALL.map(|direction| {
        let (action, because) = otherwise(direction, &groups, &problems, default, &network_key);
        defaults.push((direction, action, because));
        Rules { rules: rules_of(t, direction, &groups, &place, &mut sources), otherwise: action }
    });
    let policy = Policy { ingress, egress };
    let shown = !policy.is_open() || !groups.is_empty() || !problems.is_empty();
    let groups = groups.into_iter().map(|(key, _)| key).collect();
    shown.then_some(Enforced { policy, groups, sources, defaults, problems })
}

/// What becomes of what no rule decides. Who allows something means that the rest is refused; who only refuses something means
/// that the rest passes. What a group that cannot be read would allow is not known.
fn otherwise(
    direction: Direction,
    groups: &[(Key, CheckedGroup)],
    problems: &[String],
    default: DefaultPolicy,
    network: &Key,
) -> (RuleAction, String) {
    let allows = |g: &CheckedGroup| g.of(direction).iter().any(|r| r.action == RuleAction::Allow);
    if !problems.is_empty() {
        return (RuleAction::Deny, "a group that it is in cannot be enforced".into());
    }
    if let Some((key, _)) = groups.iter().find(|(_, g)| allows(g)) {
        return (RuleAction::Deny, format!("SecurityGroup {key} allows something, and so nothing else"));
    }
    let action = default.of(direction);
    (action, format!("the default of Network {network}"))
}

fn rules_of(
    t: &Tables,
    direction: Direction,
    groups: &[(Key, CheckedGroup)],
    place: &str,
    sources: &mut Vec<Source>,
) -> Vec<Rule> {
    let mut out: Vec<Rule> = vec![];
    for (key, group) in groups {
        for rule in group.of(direction) {
            let planned = planned(t, key, direction, rule, place);
            // The same rule twice in a group decides nothing the second time.
            if out.iter().any(|r| r.id == planned.id) {
                continue;
            }
            sources.push(Source { id: planned.id.clone(), group: key.clone(), direction, text: rule.text.clone() });
            out.push(planned);
        }
    }
    out
}

/// A rule as engines take it.
fn planned(t: &Tables, group: &Key, direction: Direction, rule: &CheckedRule, place: &str) -> Rule {
    let peers = (!rule.is_for_anyone()).then(|| Peers {
        nets: rule.nets.iter().copied().collect(),
        groups: rule.groups.iter().map(|g| peer_name(t, &Key::reference(g, &group.namespace), place)).collect(),
    });
    Rule {
        id: names::short_hash(&format!("{group} {} {}", direction.as_str(), rule.text)),
        action: rule.action,
        protocol: rule.protocol,
        ports: rule.ports.clone(),
        icmp: rule.icmp,
        peers,
    }
}

/// What rules call the members of a group as they are met from a place. One that does not exist has a name, and no members.
fn peer_name(t: &Tables, group: &Key, place: &str) -> String {
    let uid = t.groups.get(group).and_then(|g| g.uid());
    members_name(&uid.unwrap_or_else(|| format!("no group {group}")), place)
}

/// Where a network's NICs meet others: its routing domain, or itself.
fn place(t: &Tables, key: &Key, network: &Network) -> Option<String> {
    match &network.spec.vpc {
        Some(vpc) => t.vpcs.get(&Key::new(key.namespace.clone(), vpc.clone()))?.uid(),
        None => network.uid(),
    }
}

/// The networks that a NIC of this one meets others from, and of networks of peers the subnets that are exchanged.
fn met(t: &Tables, key: &Key, network: &Network) -> BTreeMap<Key, Option<BTreeSet<IpNet>>> {
    let mut all = BTreeMap::from([(key.clone(), None)]);
    if let Some(vpc) = &network.spec.vpc {
        let mine = Key::new(key.namespace.clone(), vpc.clone());
        all.extend(vpc::members(t, &mine).map(|(k, _)| (k.clone(), None)));
        for exchange in vpc::exchanges(&mine, &vpc::around(t, &mine)) {
            let theirs = vpc::members(t, &exchange.other).map(|(k, _)| (k.clone(), Some(exchange.subnets.clone())));
            all.extend(theirs);
        }
    }
    // Networks that share a VLAN are one.
    let shared = |k: &Key, n: &Network| {
        let spec = check_network(&k.name, &n.spec).ok().filter(|s| s.kind == NetworkType::Vlan && s.shares_vlan)?;
        Some((spec.fabric, spec.vlan))
    };
    if let Some(mine) = shared(key, network) {
        let same = t.networks.iter().filter(|(k, n)| shared(k, n).as_ref() == Some(&mine));
        all.extend(same.map(|(k, _)| (k.clone(), None)));
    }
    all
}

/// All addresses of a NIC that others meet it by.
pub fn addresses(nic: &NetworkInterface) -> BTreeSet<IpAddr> {
    let Some(status) = nic.status.as_ref() else { return BTreeSet::new() };
    let mut all = BTreeSet::new();
    for a in [&status.ipv4, &status.ipv6].into_iter().flatten() {
        all.extend(a.address.parse::<IpNet>().map(|n| n.addr()));
        all.extend(a.secondary.iter().filter_map(|s| s.parse::<IpAddr>().ok()));
    }
    all.extend(status.addresses.iter().filter_map(|a| a.address.parse::<IpAddr>().ok()));
    if status.mac.is_some() {
        all.insert(vm::nic_mac(nic).link_local().into());
    }
    all
}

/// Who the groups are that rules of these NICs name.
pub fn members<'a>(t: &Tables, nics: impl Iterator<Item = &'a NetworkInterface>) -> Members {
    let mut out = Members::new();
    for nic in nics {
        let Some((key, network)) = t.network_of(nic) else { continue };
        let Some(place) = place(t, &key, &network) else { continue };
        let mut around = None;
        for group in groups_of(t, nic) {
            for peer in peers_of(t, &group) {
                let name = peer_name(t, &peer, &place);
                if let Entry::Vacant(unknown) = out.entry(name) {
                    let met = around.get_or_insert_with(|| met(t, &key, &network));
                    unknown.insert(met_members(t, &peer, met));
                }
            }
        }
    }
    out
}

/// The groups that rules of a group name.
pub fn peers_of(t: &Tables, group: &Key) -> BTreeSet<Key> {
    let Some(there) = t.groups.get(group) else { return BTreeSet::new() };
    let rules = there.spec.ingress.iter().chain(&there.spec.egress);
    let peers = rules.flat_map(|r| &r.peers).filter_map(|p| p.group.as_deref());
    peers.map(|g| Key::reference(g, &group.namespace)).collect()
}

fn met_members(t: &Tables, group: &Key, met: &BTreeMap<Key, Option<BTreeSet<IpNet>>>) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    for nic in nics_of_group(t, group).into_iter().filter_map(|k| t.nics.get(k)) {
        let Some(by) = met.get(&network_key(nic)) else { continue };
        let reached = |a: &IpAddr| by.as_ref().is_none_or(|nets| nets.iter().any(|n| n.contains(a)));
        all.extend(addresses(nic).into_iter().filter(reached));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::{NetworkInterfaceStatus, NicAddressStatus, SecurityGroup, Vpc};
    use serde_json::{Value, json};

    fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value) -> K {
        let meta = json!({"name": name, "namespace": "ns", "uid": format!("{kind}-{name}")});
        let api = "multihome.io/v1alpha1";
        serde_json::from_value(json!({"apiVersion": api, "kind": kind, "metadata": meta, "spec": spec})).unwrap()
    }

    fn nic(t: &mut Tables, name: &str, network: &str, policies: &[&str], address: &str) -> NetworkInterface {
        let mut nic: NetworkInterface =
            object("NetworkInterface", name, json!({"network": network, "policies": policies}));
        let ipv4 = NicAddressStatus { address: address.into(), ..Default::default() };
        nic.status = Some(NetworkInterfaceStatus { ipv4: Some(ipv4), ..Default::default() });
        t.put_nic(nic.clone());
        nic
    }

    fn overlay(t: &mut Tables, name: &str, vpc: &str, cidr: &str, more: Value) {
        let mut spec = json!({"type": "Overlay", "vpc": vpc, "ipv4": {"cidr": cidr}});
        more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
        t.put_network(object::<Network>("Network", name, spec));
    }

    fn group(t: &mut Tables, name: &str, spec: Value) {
        t.put_group(object::<SecurityGroup>("SecurityGroup", name, spec));
    }

    fn defaults(e: &Enforced) -> [RuleAction; 2] {
        [e.policy.ingress.otherwise, e.policy.egress.otherwise]
    }

    #[test]
    fn who_allows_something_refuses_the_rest_of_that_direction() {
        use RuleAction::{Allow, Deny};
        let mut t = Tables::default();
        t.put_vpc(object::<Vpc>("Vpc", "v", json!({})));
        overlay(&mut t, "lan", "v", "10.1.0.0/24", json!({"policies": ["no-mail"]}));
        overlay(&mut t, "strict", "v", "10.2.0.0/24", json!({"defaultPolicy": {"egress": "Deny"}}));
        let mail = json!({"action": "Deny", "protocol": "TCP", "ports": ["25"]});
        group(&mut t, "no-mail", json!({"egress": [mail]}));
        group(
            &mut t,
            "web",
            json!({"ingress": [{"protocol": "TCP", "ports": ["80"]}, {"protocol": "TCP", "ports": ["80"], "description": "again"}]}),
        );
        let plain = nic(&mut t, "plain", "lan", &[], "10.1.0.2/24");
        let web = nic(&mut t, "web", "lan", &["web", "no-mail"], "10.1.0.3/24");
        let strict = nic(&mut t, "strict", "strict", &[], "10.2.0.2/24");
        let lost = nic(&mut t, "lost", "lan", &["nowhere"], "10.1.0.4/24");

        let e = enforced(&t, &plain).unwrap();
        assert_eq!((defaults(&e), e.policy.egress.rules.len()), ([Allow, Allow], 1), "who only refuses");
        let e = enforced(&t, &web).unwrap();
        assert_eq!((defaults(&e), e.policy.ingress.rules.len()), ([Deny, Allow], 1), "who allows");
        assert_eq!(e.groups, [Key::new("ns", "no-mail"), Key::new("ns", "web")], "the network's first");
        assert_eq!(e.defaults[0].2, "SecurityGroup ns/web allows something, and so nothing else");
        assert_eq!(defaults(&enforced(&t, &strict).unwrap()), [Allow, Deny], "the network says so");
        let e = enforced(&t, &lost).unwrap();
        assert_eq!(defaults(&e), [Deny, Deny]);
        assert_eq!(e.problems, ["SecurityGroup ns/nowhere does not exist: create it, or take it out of policies"]);
        overlay(&mut t, "open", "v", "10.3.0.0/24", json!({}));
        assert_eq!(enforced(&t, &nic(&mut Tables::default(), "x", "open", &[], "10.3.0.2/24")), None);
    }

    #[test]
    fn members_are_those_that_can_be_met() {
        let mut t = Tables::default();
        for (vpc, peers) in
            [("a", json!([{"vpc": "b"}])), ("b", json!([{"vpc": "a", "networks": ["b1"]}])), ("c", json!([]))]
        {
            t.put_vpc(object::<Vpc>("Vpc", vpc, json!({"peers": peers})));
        }
        for (name, vpc, cidr) in [
            ("a1", "a", "10.1.0.0/24"),
            ("a2", "a", "10.2.0.0/24"),
            ("b1", "b", "10.3.0.0/24"),
            ("b2", "b", "10.4.0.0/24"),
            ("c1", "c", "10.1.0.0/24"),
        ] {
            overlay(&mut t, name, vpc, cidr, json!({}));
        }
        group(&mut t, "db", json!({"ingress": [{"peers": [{"group": "app"}]}]}));
        group(&mut t, "app", json!({}));
        let db = nic(&mut t, "db", "a1", &["db"], "10.1.0.2/24");
        for (i, network) in ["a1", "a2", "b1", "b2", "c1"].into_iter().enumerate() {
            nic(&mut t, &format!("app{i}"), network, &["app"], &format!("10.{}.0.9/24", [1, 2, 3, 4, 1][i]));
        }
        let members = members(&t, std::iter::once(&db));
        let e = enforced(&t, &db).unwrap();
        assert_eq!(e.policy.groups().into_iter().collect::<Vec<_>>(), members.keys().collect::<Vec<_>>());
        let met: Vec<String> = members.values().flatten().map(ToString::to_string).collect();
        assert_eq!(met, ["10.1.0.9", "10.2.0.9", "10.3.0.9"], "b2 is not offered, and c does not peer");
    }
}
