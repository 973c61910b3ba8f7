//! What a node's networks ride on: a fabric's device as it is, or, where a trunk rides along, the fabric's own bridge.
//!
//! The kernel hands a tagged frame to the VLAN device of its tag, if the device that it came in by has one, before any
//! bridge sees it (net/8021q/vlan_core.c). A trunk and the networks of its VLANs can share a node only where both are
//! behind one bridge that sorts by VLAN, and the VLAN devices are on it.

use std::collections::BTreeMap;

use multihome_model::{IfName, Mtu, NetworkType, VlanId, VlanSet, names};

use super::{Fabric, FabricBridge, FabricUplink, NodeFacts, NodeNetwork, UplinkKind, VXLAN_PORT};

/// The device name of a fabric's bridge.
pub fn fabric_name(fabric: &str) -> IfName {
    names::device(names::FABRIC, fabric)
}

fn device<'a>(fabric: &str, node: &'a NodeFacts) -> Option<&'a IfName> {
    node.fabrics.get(fabric).and_then(|f: &Fabric| f.device.as_ref())
}

/// The bridges of the fabrics that carry a trunk, by fabric.
pub(super) fn bridges(networks: &[&NodeNetwork], node: &NodeFacts) -> BTreeMap<String, FabricBridge> {
    let trunks = networks.iter().filter(|n| n.spec.kind == NetworkType::VlanTrunk);
    let fabrics = trunks.map(|n| n.spec.fabric.as_str()).filter(|f| !node.no_trunks.contains_key(*f));
    fabrics.map(|f| (f.to_owned(), bridge(f, networks, node))).collect()
}

fn bridge(fabric: &str, networks: &[&NodeNetwork], node: &NodeFacts) -> FabricBridge {
    let riders = || networks.iter().filter(|n| n.spec.fabric == fabric);
    let of = |kind| riders().filter(move |n| n.spec.kind == kind);
    let one = |n: &&NodeNetwork| n.spec.vlan.map(|id| (id, id));
    let mut inside: VlanSet = of(NetworkType::Vlan).filter_map(one).collect();
    let mut tagged = inside.clone();
    for trunk in of(NetworkType::VlanTrunk) {
        tagged.extend(trunk.spec.trunk.ranges());
        tagged.extend(one(trunk));
    }
    let uplink = device(fabric, node).map(|device| {
        // What nobody else uses: the highest one, because people count from below.
        let free = VlanSet::all().minus(&tagged);
        let highest = free.ranges().next_back().map(|(_, last)| last);
        let untagged = highest.filter(|_| of(NetworkType::Untagged).next().is_some());
        FabricUplink { device: device.clone(), tagged, untagged }
    });
    if let Some(id) = uplink.as_ref().and_then(|u| u.untagged) {
        inside.insert(id);
    }
    let mtu = riders().filter(|n| n.spec.kind.rides_on_uplink()).map(|n| n.mtu).max().unwrap_or(Mtu::ETHERNET);
    FabricBridge { alias: format!("fabric {fabric}"), mtu, uplink, inside }
}

/// What connects a network's bridge to other nodes, by device name.
pub(super) fn uplink(
    network: &NodeNetwork,
    node: &NodeFacts,
    trunked: &BTreeMap<String, FabricBridge>,
) -> Option<(IfName, UplinkKind)> {
    let fabric = network.spec.fabric.as_str();
    match (network.spec.kind, trunked.get(fabric)) {
        (NetworkType::Overlay, _) => Some((
            names::device(names::VXLAN, &network.uid),
            UplinkKind::Vxlan { vni: network.vni?, local: node.tunnel(fabric), port: VXLAN_PORT },
        )),
        (NetworkType::Vlan, Some(_)) => Some(vlan(fabric_name(fabric), network.spec.vlan?)),
        (NetworkType::Vlan, None) => Some(vlan(device(fabric, node)?.clone(), network.spec.vlan?)),
        (NetworkType::Untagged, Some(bridge)) => {
            Some(vlan(fabric_name(fabric), bridge.uplink.as_ref().and_then(|u| u.untagged)?))
        }
        (NetworkType::Untagged, None) => Some((device(fabric, node)?.clone(), UplinkKind::Device)),
        _ => None,
    }
}

/// A VLAN device has the name of what it is: a network whose VLAN changes gets another device, which is made while the
/// old one is there.
fn vlan(parent: IfName, id: VlanId) -> (IfName, UplinkKind) {
    (names::device(names::VLAN, &format!("{parent} {}", id.get())), UplinkKind::Vlan { parent, id })
}
