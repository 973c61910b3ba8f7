//! Fabrics as nodes have them.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use multihome_model::{Bond, ClusterNetwork, IfName, Mtu, NetworkType, Uplink, names};
use multihome_plan::node::{Bond as NodeBond, Fabric, NodeFacts};

use crate::Key;
use crate::world::Tables;

/// The uplink that carries a fabric on a node of these labels: the first whose selector matches, with its index.
pub fn uplink<'a>(fabric: &'a ClusterNetwork, labels: &BTreeMap<String, String>) -> Option<(usize, &'a Uplink)> {
    let matches = |u: &Uplink| u.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v));
    fabric.spec.uplinks.iter().enumerate().find(|(_, u)| matches(u))
}

/// How fabrics are present on a node. One that nobody has told of yet has no labels.
pub fn facts(t: &Tables, node: &str) -> NodeFacts {
    let known = t.nodes.get(&Key::new("", node));
    let labels = known.map(|n| n.labels().clone()).unwrap_or_default();
    let fabrics = t
        .fabrics
        .iter()
        .map(|(k, f)| (k.name.clone(), uplink(f, &labels).map(|(_, u)| carried(&k.name, f, u)).unwrap_or_default()))
        .collect();
    let tunnel_address = known.and_then(|n| crate::node::tunnel_address(n));
    let own = t.fabrics.iter().filter(|(_, f)| !f.spec.underlay.is_empty());
    let underlays = own.map(|(k, _)| (k.name.clone(), t.tunnels(&k.name).to(node))).collect();
    NodeFacts { name: node.to_owned(), fabrics, tunnel_address, underlays, ..NodeFacts::default() }
}

/// What this node lacks that others have, of a fabric that a VM's networks ride on: the end of a sentence.
pub fn missing(t: &Tables, node: &str, vm: &Key) -> Option<String> {
    let facts = facts(t, node);
    let networks = t.nics_of_vm(vm).into_iter().filter_map(|n| t.network_of(&n));
    let mut fabrics = networks.map(|(_, n)| (n.spec.r#type, n.spec.fabric().to_owned()));
    let not_here = |(kind, name): &(NetworkType, String)| match kind {
        NetworkType::Overlay => t.tunnels(name).all().next().is_some() && facts.underlays.get(name) == Some(&None),
        kind if kind.rides_on_uplink() => {
            let somewhere = t.fabrics.get(&Key::new("", name.clone())).is_some_and(|f| !f.spec.uplinks.is_empty());
            somewhere && facts.fabrics.get(name).is_none_or(|f| f.device.is_none())
        }
        _ => false,
    };
    fabrics.find(not_here).map(|(kind, name)| match kind {
        NetworkType::Overlay => format!("no address in the underlay of {name}"),
        _ => format!("no uplink to {name}"),
    })
}

/// A fabric on a node where this uplink carries it.
fn carried(name: &str, of: &ClusterNetwork, uplink: &Uplink) -> Fabric {
    let nics: BTreeSet<IfName> = uplink.nics.iter().filter_map(|n| IfName::new(n.clone()).ok()).collect();
    if let (Some(one), None, 1) = (nics.first(), &uplink.bond, nics.len()) {
        return Fabric { device: Some(one.clone()), bond: None };
    }
    let bond = uplink.bond.clone().unwrap_or_default();
    let mode = bond.mode.and_then(|m| m.parse().ok()).unwrap_or_default();
    let miimon = bond.miimon.unwrap_or(Bond::DEFAULT_MIIMON);
    let mtu = Mtu::new(of.spec.mtu()).unwrap_or(Mtu::ETHERNET);
    let alias = format!("fabric {name}");
    Fabric {
        device: Some(names::device(names::BOND, &of.uid().unwrap_or_else(|| name.to_owned()))),
        bond: Some(NodeBond { alias, mode, miimon, nics, mtu }),
    }
}
