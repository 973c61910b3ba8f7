//! Networks: what else rides on the fabric, routes in the domain, and holds addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::{
    AddressClaim, ClusterNetwork, Family, FloatingIP, MGMT_FABRIC, Mtu, Network, NetworkInterface, NetworkType,
    Violations,
};
use multihome_plan::mtu;
use multihome_plan::primary::FAMILIES;

use super::fabric::refuse_users;
use super::{Lookup, Refusal, Request, Verb, Verdict, get, group, list, parse, spec_changed};
use crate::Key;
use crate::vm::is_builtin_fabric;
use crate::world::network_key;

pub(super) fn validate(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    let key = Key::new(req.namespace, req.name);
    if req.verb == Verb::Delete {
        refuse_users(&users(look, &key), &format!("Network {:?}", req.name), "NICs")?;
        let floating = list::<FloatingIP>(look, None).into_iter().map(|f| (Key::of(&f), f));
        let from = floating.filter(|(k, f)| Key::reference(&f.spec.network, &k.namespace) == key);
        let from: Vec<String> = from.map(|(k, _)| k.to_string()).collect();
        return refuse_users(&from, &format!("Network {:?}", req.name), "floating addresses");
    }
    let Some(new) = req.new else { return Ok(()) };
    if req.verb == Verb::Update && !spec_changed(req) {
        return Ok(());
    }
    let network: Network = parse(new)?;
    let checked = check_network(req.name, &network.spec)?;
    let mut v = Violations::default();
    references(look, &key, &checked, &mut v);
    let before: Option<Network> = req.old.map(parse).transpose()?;
    let named = before.map(|b| b.spec.policies).unwrap_or_default();
    group::exist(look, &checked.policies, &named, req.namespace, &mut v);
    let others: Vec<(Key, Network)> = list::<Network>(look, None)
        .into_iter()
        .map(|n| (Key::of(&n), n))
        .filter(|(k, n)| *k != key && n.metadata.deletion_timestamp.is_none())
        .collect();
    for (k, other) in &others {
        if let Ok(other) = check_network(&k.name, &other.spec) {
            conflicts(&key, &checked, k, &other, &mut v);
        }
    }
    if let Some(vpc) = &checked.vpc {
        let vpc = Key::new(key.namespace.clone(), vpc.clone());
        let mut all = super::fabric::domains(look);
        if let Some(domain) = all.get_mut(&vpc).filter(|d| !d.peers.is_empty()) {
            domain.networks.insert(key.name.clone(), crate::vpc::subnets(&checked));
            super::fabric::clashes(&vpc, &all).into_iter().for_each(|(_, text)| v.add("spec", text));
        }
    }
    if let Some(old) = req.old {
        let old: Network = parse(old)?;
        holders(look, &key, &old, &checked, &mut v);
    }
    Ok(v.into_result(())?)
}

fn users(look: &dyn Lookup, key: &Key) -> Vec<String> {
    let nics = list::<NetworkInterface>(look, None).into_iter().filter(|n| network_key(n) == *key);
    nics.map(|n| {
        let name = n.name_any();
        match n.namespace() {
            Some(ns) if ns != key.namespace => format!("{ns}/{name}"),
            _ => name,
        }
    })
    .collect()
}

fn references(look: &dyn Lookup, key: &Key, spec: &CheckedNetwork, v: &mut Violations) {
    let fabric = get::<ClusterNetwork>(look, &Key::new("", spec.fabric.clone()));
    if fabric.is_none() && !is_builtin_fabric(&spec.fabric) {
        v.add(
            "spec.clusterNetwork",
            format!("ClusterNetwork {:?} does not exist: create it, or use {MGMT_FABRIC:?}", spec.fabric),
        );
    }
    if let Some(vpc) = &spec.vpc
        && get::<multihome_model::Vpc>(look, &Key::new(key.namespace.clone(), vpc.clone())).is_none()
    {
        v.add("spec.vpc", format!("Vpc {vpc:?} does not exist in namespace {:?}: create it first", key.namespace));
    }
    let carried = fabric.map_or(1500, |f| f.spec.mtu());
    let most = mtu::ceiling(spec.kind, Mtu::new(carried).unwrap_or(Mtu::ETHERNET), false);
    if let Some(m) = spec.mtu.filter(|m| *m > most) {
        v.add(
            "spec.mtu",
            format!(
                "MTU {m} is above what ClusterNetwork {:?} carries for a network of this type: use {most} or less",
                spec.fabric
            ),
        );
    }
}

fn conflicts(key: &Key, spec: &CheckedNetwork, k: &Key, other: &CheckedNetwork, v: &mut Violations) {
    // Trunks carry what is others' as well: that is what they are for.
    if let (Some(a), Some(b)) = (spec.vlan, other.vlan)
        && (spec.kind, other.kind) == (NetworkType::Vlan, NetworkType::Vlan)
        && a == b
        && spec.fabric == other.fabric
    {
        let taken = format!("VLAN id {} of ClusterNetwork {:?} is used by Network {k}", a.get(), spec.fabric);
        if key.namespace == k.namespace {
            v.add("spec.vlan.id", format!("{taken}: use another, or that Network"));
        } else if !(spec.shares_vlan && other.shares_vlan) {
            v.add(
                "spec.vlan.id",
                format!("{taken}: use another, or set vlan.shared: true on both, which makes them one layer-2 network"),
            );
        }
    }
    if let (Some(a), Some(b)) = (spec.vni, other.vni)
        && a == b
    {
        v.add("spec.vni", format!("VNI {} is used by Network {k}: use another, or leave it out", a.get()));
    }
    if spec.vpc.is_none() || spec.vpc != other.vpc || key.namespace != k.namespace {
        return;
    }
    for family in FAMILIES {
        if let (Some(a), Some(b)) = (spec.subnet(family), other.subnet(family))
            && overlap(&a.cidr, &b.cidr)
        {
            let at = if family == Family::IPv4 { "spec.ipv4.cidr" } else { "spec.ipv6.cidr" };
            let vpc = spec.vpc.as_deref().unwrap_or_default();
            v.add(
                at,
                format!("CIDR {} overlaps {} of Network {k} in the same Vpc {vpc:?}: use another", a.cidr, b.cidr),
            );
        }
    }
}

/// Whether two subnets share an address.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// What NICs already hold must stay possible.
fn holders(look: &dyn Lookup, key: &Key, old: &Network, spec: &CheckedNetwork, v: &mut Violations) {
    let nics = users(look, key);
    if nics.is_empty() {
        return;
    }
    if old.spec.r#type != spec.kind {
        v.add(
            "spec.type",
            format!(
                "the type cannot change while NICs use the network ({}): create another network and move them",
                super::listing(&nics)
            ),
        );
    }
    let claims = list::<AddressClaim>(look, Some(&key.namespace));
    for claim in claims.iter().filter(|c| c.spec.network == key.name) {
        let Ok(a) = claim.spec.address.parse::<IpAddr>() else { continue };
        let (family, at) = match a {
            IpAddr::V4(_) => (Family::IPv4, "spec.ipv4"),
            IpAddr::V6(_) => (Family::IPv6, "spec.ipv6"),
        };
        let owner = &claim.spec.owner.name;
        match spec.subnet(family) {
            None => v.add(at, format!("NIC {owner} holds {a}: the subnet cannot go while it does")),
            Some(s) if !s.cidr.contains(&a) => v.add(
                format!("{at}.cidr"),
                format!("NIC {owner} holds {a}, which is outside {}: use a CIDR that contains it", s.cidr),
            ),
            Some(s) if s.gateway == Some(a) => {
                v.add(format!("{at}.gateway"), format!("gateway {a} is the address of NIC {owner}: use another"))
            }
            Some(s) if s.probe == Some(a) => v.add(
                format!("{at}.probeAddress"),
                format!("probe address {a} is the address of NIC {owner}: use another"),
            ),
            Some(_) => {}
        }
    }
}

/// For other rules: the network of a NIC, checked.
pub(super) fn checked(look: &dyn Lookup, key: &Key) -> Result<CheckedNetwork, Refusal> {
    let missing = || Refusal::Forbidden(format!("Network {key} does not exist: create it first"));
    let network = get::<Network>(look, key).ok_or_else(missing)?;
    check_network(&key.name, &network.spec).map_err(Refusal::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(mine: &str, others: &str, namespace: &str) -> Option<String> {
        let spec = |text: &str| check_network("n", &serde_json::from_str(text).unwrap()).unwrap();
        let mut v = Violations::default();
        conflicts(&Key::new("a", "mine"), &spec(mine), &Key::new(namespace, "other"), &spec(others), &mut v);
        v.into_result(()).err().map(|v| v.to_string())
    }

    #[test]
    fn a_vlan_is_shared_by_namespaces_that_all_say_so_and_by_trunks() {
        let own = r#"{"type": "Vlan", "vlan": {"id": 100}}"#;
        let shared = r#"{"type": "Vlan", "vlan": {"id": 100, "shared": true}}"#;
        let trunk = r#"{"type": "VlanTrunk", "vlan": {"id": 100, "trunk": [{"first": 200}]}}"#;
        let taken = "spec.vlan.id: VLAN id 100 of ClusterNetwork \"mgmt\" is used by Network";
        for (mine, others) in [(own, own), (own, shared), (shared, own)] {
            let said = refused(mine, others, "b").unwrap();
            assert_eq!(
                said,
                format!(
                    "{taken} b/other: use another, or set vlan.shared: true on both, which makes them one layer-2 network"
                )
            );
        }
        assert_eq!(refused(shared, shared, "b"), None);
        assert_eq!(refused(shared, shared, "a"), Some(format!("{taken} a/other: use another, or that Network")));
        for (mine, others) in [(own, trunk), (trunk, own), (trunk, trunk)] {
            assert_eq!(refused(mine, others, "a"), None);
        }
        let elsewhere = r#"{"type": "Vlan", "clusterNetwork": "data", "vlan": {"id": 100}}"#;
        assert_eq!(refused(own, elsewhere, "a"), None);
    }
}
