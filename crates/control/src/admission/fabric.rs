//! ClusterNetworks and Vpcs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use multihome_model::checked::{check_cluster_network, check_network, check_vpc};
use multihome_model::{ClusterNetwork, MGMT_FABRIC, Network, Violations, Vpc};

use super::{Lookup, Refusal, Request, Verb, Verdict, get, list, listing, parse, spec_changed};
use crate::Key;
use crate::fabric::uplink;
use crate::vm::is_builtin_fabric;
use crate::vpc::{Domain, Exchange, exchanges, subnets};

pub(super) fn validate_fabric(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    if req.verb == Verb::Delete {
        if is_builtin_fabric(req.name) {
            return Err(Refusal::Forbidden(format!("ClusterNetwork {:?} is built in and stays", req.name)));
        }
        let users: Vec<String> = list::<Network>(look, None)
            .iter()
            .filter(|n| n.spec.fabric() == req.name)
            .map(|n| format!("{}/{}", n.namespace().unwrap_or_default(), n.name_any()))
            .collect();
        refuse_users(&users, &format!("ClusterNetwork {:?}", req.name), "networks")?;
        let vpcs: Vec<String> = list::<Vpc>(look, None)
            .iter()
            .filter(|v| v.spec.fabric() == req.name && v.metadata.deletion_timestamp.is_none())
            .map(|v| Key::of(v).to_string())
            .collect();
        return refuse_users(&vpcs, &format!("ClusterNetwork {:?}", req.name), "Vpcs");
    }
    let Some(new) = req.new else { return Ok(()) };
    let fabric: ClusterNetwork = parse(new)?;
    check_cluster_network(req.name, &fabric.spec)?;
    if req.verb == Verb::Update && !spec_changed(req) {
        return Ok(());
    }
    let mut v = Violations::default();
    let nodes = list::<Node>(look, None);
    for other in list::<ClusterNetwork>(look, None).iter().filter(|o| o.name_any() != req.name) {
        shared_devices(&fabric, other, &nodes, &mut v);
    }
    Ok(v.into_result(())?)
}

/// A device carries one fabric: what has no tag on it could only belong to one.
fn shared_devices(fabric: &ClusterNetwork, other: &ClusterNetwork, nodes: &[Node], v: &mut Violations) {
    for node in nodes {
        let (Some((i, mine)), Some((_, theirs))) = (uplink(fabric, node.labels()), uplink(other, node.labels())) else {
            continue;
        };
        if let Some(device) = mine.nics.iter().find(|n| theirs.nics.contains(n)) {
            let name = other.name_any();
            v.add(
                format!("spec.uplinks[{i}].nics"),
                format!(
                    "device {device} of node {} carries ClusterNetwork {name:?} already: use another device, or have the networks ride on {name:?}",
                    node.name_any()
                ),
            );
            return;
        }
    }
}

pub(super) fn validate_vpc(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    if req.verb == Verb::Delete {
        let users: Vec<String> = list::<Network>(look, Some(req.namespace))
            .iter()
            .filter(|n| n.spec.vpc.as_deref() == Some(req.name) && n.metadata.deletion_timestamp.is_none())
            .map(|n| n.name_any())
            .collect();
        return refuse_users(&users, &format!("Vpc {:?}", req.name), "networks");
    }
    let Some(new) = req.new else { return Ok(()) };
    let vpc: Vpc = parse(new)?;
    check_vpc(req.name, &vpc.spec)?;
    if req.verb == Verb::Update && !spec_changed(req) {
        return Ok(());
    }
    let key = Key::new(req.namespace, req.name);
    let mut all = domains(look);
    all.entry(key.clone()).or_default().peers = vpc.spec.peers.clone();
    let mut v = Violations::default();
    let fabric = vpc.spec.fabric();
    if !is_builtin_fabric(fabric) && get::<ClusterNetwork>(look, &Key::new("", fabric)).is_none() {
        let text = format!("ClusterNetwork {fabric:?} does not exist: create it, or use {MGMT_FABRIC:?}");
        v.add("spec.clusterNetwork", text);
    }
    for (i, peer) in vpc.spec.peers.iter().enumerate() {
        if Key::reference(&peer.vpc, req.namespace) == key {
            v.add(format!("spec.peers[{i}].vpc"), "a Vpc does not peer with itself: name another one");
        }
    }
    for (at, text) in clashes(&key, &all) {
        v.add(at, text);
    }
    Ok(v.into_result(())?)
}

/// All Vpcs as their peers see them.
pub(super) fn domains(look: &dyn Lookup) -> BTreeMap<Key, Domain> {
    let mut all: BTreeMap<Key, Domain> = BTreeMap::new();
    for vpc in list::<Vpc>(look, None) {
        let key = Key::of(&vpc);
        all.entry(key).or_default().peers = vpc.spec.peers;
    }
    for network in list::<Network>(look, None) {
        let key = Key::of(&network);
        if let (Some(vpc), Ok(spec)) = (&network.spec.vpc, check_network(&key.name, &network.spec)) {
            let domain = all.entry(Key::new(key.namespace, vpc.clone())).or_default();
            domain.networks.insert(key.name, subnets(&spec));
        }
    }
    all
}

/// What a Vpc and those that peer with it would get that overlaps: the field, and a sentence.
pub(super) fn clashes(vpc: &Key, all: &BTreeMap<Key, Domain>) -> Vec<(String, String)> {
    let mut out = vec![];
    for (key, domain) in all {
        let concerned = key == vpc || domain.peers.iter().any(|p| Key::reference(&p.vpc, &key.namespace) == *vpc);
        // What is missing yet is no clash.
        let overlapping = |e: &Exchange| e.problem.as_ref().is_some_and(|p| p.contains(" overlaps "));
        for e in exchanges(key, all).into_iter().filter(|e| concerned && overlapping(e)) {
            out.push((
                "spec.peers".to_owned(),
                format!("between Vpcs {key} and {}: {}", e.other, e.problem.unwrap_or_default()),
            ));
        }
    }
    out
}

/// Refuses the removal of what others use, naming them.
pub(super) fn refuse_users(users: &[String], what: &str, kind: &str) -> Verdict {
    if users.is_empty() {
        return Ok(());
    }
    let kind = if kind.is_empty() { String::new() } else { format!("{kind} ") };
    Err(Refusal::Forbidden(format!("{what} is used by {kind}{}: delete or change them first", listing(users))))
}
