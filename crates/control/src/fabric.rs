//! Fabrics as nodes have them.

use std::collections::BTreeSet;

use kube::ResourceExt;
use multihome_model::{Bond, ClusterNetwork, IfName, Mtu, Uplink, names};
use multihome_plan::node::{Bond as NodeBond, Fabric, NodeFacts};

use crate::Key;
use crate::world::Tables;

/// How fabrics are present on a node. One that nobody has told of yet has no labels.
pub fn facts(t: &Tables, node: &str) -> NodeFacts {
    let labels = t.nodes.get(&Key::new("", node)).map(|n| n.labels().clone()).unwrap_or_default();
    let fabrics = t
        .fabrics
        .iter()
        .map(|(k, f)| {
            let mine = f.spec.uplinks.iter().find(|u| u.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v)));
            (k.name.clone(), mine.map(|u| carried(&k.name, f, u)).unwrap_or_default())
        })
        .collect();
    NodeFacts { fabrics, ..NodeFacts::default() }
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
