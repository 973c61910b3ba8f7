//! Routing domains: which networks they have, and what they exchange with others.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::{Network, Vni, VpcPeer, names};
use multihome_plan::primary::FAMILIES;

use crate::Key;
use crate::world::Tables;

/// A routing domain as far as its peers are concerned.
#[derive(Debug, Clone, Default)]
pub struct Domain {
    /// The Vpcs that it wants to peer with.
    pub peers: Vec<VpcPeer>,
    /// The subnets of its networks, by the networks' names.
    pub networks: BTreeMap<String, BTreeSet<IpNet>>,
}

/// What a domain gets from one that it peers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The other one.
    pub other: Key,
    /// Its subnets that are reached from here.
    pub subnets: BTreeSet<IpNet>,
    /// What is in the way, in a sentence.
    pub problem: Option<String>,
}

/// The subnets of a network.
pub fn subnets(network: &CheckedNetwork) -> BTreeSet<IpNet> {
    FAMILIES.into_iter().filter_map(|f| network.subnet(f)).map(|s| s.cidr).collect()
}

/// The networks of a Vpc, in the order of their names.
pub fn members<'a>(t: &'a Tables, vpc: &'a Key) -> impl Iterator<Item = (&'a Key, CheckedNetwork)> {
    let all = t.networks_of_vpc(vpc).filter_map(|k| Some((k, t.networks.get(k)?)));
    all.filter_map(|(k, n)| Some((k, check_network(&k.name, &n.spec).ok()?)))
}

/// A domain and those that it wants to peer with.
pub fn around(t: &Tables, vpc: &Key) -> BTreeMap<Key, Domain> {
    let peers = |k: &Key| t.vpcs.get(k).map(|v| v.spec.peers.clone()).unwrap_or_default();
    let networks = |k: &Key| members(t, k).map(|(n, spec)| (n.name.clone(), subnets(&spec))).collect();
    let others = peers(vpc).into_iter().map(|p| Key::reference(&p.vpc, &vpc.namespace));
    let there = others.chain([vpc.clone()]).filter(|k| t.vpcs.contains_key(k));
    there.map(|k| (k.clone(), Domain { peers: peers(&k), networks: networks(&k) })).collect()
}

/// The Vpcs that want to peer with one.
pub fn naming<'a>(t: &'a Tables, vpc: &'a Key) -> impl Iterator<Item = &'a Key> {
    let names = move |k: &Key, p: &VpcPeer| Key::reference(&p.vpc, &k.namespace) == *vpc;
    t.vpcs.iter().filter(move |(k, v)| v.spec.peers.iter().any(|p| names(k, p))).map(|(k, _)| k)
}

/// What a domain gets from each that it wants to peer with: what that one offers it, less what is its own already or another
/// peer's, in the order in which it names them.
pub fn exchanges(me: &Key, all: &BTreeMap<Key, Domain>) -> Vec<Exchange> {
    let Some(mine) = all.get(me) else { return vec![] };
    let mut taken: Vec<(IpNet, String)> = vec![];
    for (name, nets) in &mine.networks {
        taken.extend(nets.iter().map(|n| (*n, format!("its own Network {name:?}"))));
    }
    let mut out = vec![];
    for peer in &mine.peers {
        let other = Key::reference(&peer.vpc, &me.namespace);
        let (offered, problem) = offer(me, &other, all);
        let (mut subnets, mut clashes) = (BTreeSet::new(), vec![]);
        for (net, name) in offered {
            match taken.iter().find(|(t, _)| t.contains(&net) || net.contains(t)) {
                Some((t, whose)) => clashes.push(format!("{net} of Network {name:?} there overlaps {t} of {whose}")),
                None => drop(subnets.insert(net)),
            }
        }
        taken.extend(subnets.iter().map(|n| (*n, format!("Vpc {other}"))));
        let clash = (!clashes.is_empty()).then(|| {
            format!("{}: name the networks to exchange in spec.peers[].networks of Vpc {other}", clashes.join(", "))
        });
        out.push(Exchange { other, subnets, problem: problem.or(clash) });
    }
    out
}

/// What the other domain offers, and why it is nothing.
fn offer(me: &Key, other: &Key, all: &BTreeMap<Key, Domain>) -> (Vec<(IpNet, String)>, Option<String>) {
    if me == other {
        return (vec![], Some("a Vpc does not peer with itself".into()));
    }
    let Some(theirs) = all.get(other) else {
        return (vec![], Some(format!("Vpc {other} does not exist: create it")));
    };
    let Some(back) = theirs.peers.iter().find(|p| Key::reference(&p.vpc, &other.namespace) == *me) else {
        return (vec![], Some(format!("Vpc {other} does not name {me} among its peers: both must name each other")));
    };
    let offered = |name: &String| back.networks.is_empty() || back.networks.contains(name);
    let list = theirs.networks.iter().filter(|(n, _)| offered(n));
    (list.flat_map(|(name, nets)| nets.iter().map(|n| (*n, name.clone()))).collect(), None)
}

/// A network identifier that nothing has: `wish` if it is free, else one that follows from the uid.
pub fn choose_vni(t: &Tables, uid: &str, wish: Option<u32>) -> Option<Vni> {
    let of_network = |n: &Network| n.spec.vni.or(n.status.as_ref().and_then(|s| s.vni));
    let networks = t.networks.values().filter(|n| n.uid().as_deref() != Some(uid)).filter_map(|n| of_network(n));
    let vpcs = t.vpcs.values().filter(|v| v.uid().as_deref() != Some(uid)).filter_map(|v| v.status.as_ref()?.vni);
    let taken: BTreeSet<u32> = networks.chain(vpcs).collect();
    if let Some(v) = wish.filter(|v| !taken.contains(v)) {
        return Vni::new(v).ok();
    }
    let start = u32::from_str_radix(&names::short_hash(uid)[..6], 16).unwrap_or(1);
    (0..Vni::MAX).map(|i| (start + i) % Vni::MAX + 1).find(|v| !taken.contains(v)).and_then(|v| Vni::new(v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(peers: &[(&str, &[&str])], networks: &[(&str, &str)]) -> Domain {
        let peer = |(vpc, nets): &(&str, &[&str])| VpcPeer {
            vpc: (*vpc).into(),
            networks: nets.iter().map(|n| (*n).to_owned()).collect(),
        };
        Domain {
            peers: peers.iter().map(peer).collect(),
            networks: networks.iter().map(|(n, c)| ((*n).to_owned(), [c.parse().unwrap()].into())).collect(),
        }
    }

    fn key(name: &str) -> Key {
        Key::reference(name, "ns")
    }

    #[test]
    fn both_must_name_each_other() {
        let mut all = BTreeMap::from([
            (key("a"), domain(&[("b", &[])], &[("one", "10.1.0.0/24")])),
            (key("b"), domain(&[], &[("two", "10.2.0.0/24")])),
        ]);
        let got = exchanges(&key("a"), &all);
        assert!(got[0].subnets.is_empty());
        assert_eq!(
            got[0].problem.as_deref(),
            Some("Vpc ns/b does not name ns/a among its peers: both must name each other")
        );
        all.insert(key("b"), domain(&[("ns/a", &[])], &[("two", "10.2.0.0/24")]));
        let got = exchanges(&key("a"), &all);
        assert_eq!((got[0].subnets.len(), got[0].problem.as_deref()), (1, None));
        assert!(exchanges(&key("a"), &BTreeMap::from([(key("a"), all[&key("a")].clone())]))[0].problem.is_some());
    }

    #[test]
    fn two_with_one_cidr_peer_with_a_third_by_what_does_not_overlap() {
        let shared = ("lan", "10.1.0.0/24");
        let mut all = BTreeMap::from([
            (key("a"), domain(&[("c", &[])], &[shared, ("front", "10.5.0.0/24")])),
            (key("b"), domain(&[("c", &["front"])], &[shared, ("front", "10.6.0.0/24")])),
            (key("c"), domain(&[("a", &[]), ("b", &[])], &[("services", "10.9.0.0/24")])),
        ]);
        let got = exchanges(&key("c"), &all);
        assert!(got.iter().all(|e| e.problem.is_none()), "{got:?}");
        assert_eq!(got[0].subnets.len(), 2);
        assert_eq!(got[1].subnets, ["10.6.0.0/24".parse().unwrap()].into());
        // Where it is offered all the same, the first one keeps it, and the sentence says what to do.
        all.get_mut(&key("b")).unwrap().peers[0].networks.clear();
        let got = exchanges(&key("c"), &all);
        assert_eq!(got[1].subnets, ["10.6.0.0/24".parse().unwrap()].into());
        assert_eq!(
            got[1].problem.as_deref(),
            Some(
                "10.1.0.0/24 of Network \"lan\" there overlaps 10.1.0.0/24 of Vpc ns/a: name the networks to exchange in \
                 spec.peers[].networks of Vpc ns/b"
            )
        );
    }
}
