//! Which NICs of a node a change of its plan reaches, and how.

use std::collections::BTreeMap;

use multihome_model::{IfName, Mtu};
use serde::Serialize;

use super::{NodeState, Tap, UplinkKind};

/// What changes for a NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// MTU in bytes, before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<(Mtu, Mtu)>,
    /// How its network leaves the node, before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<(String, String)>,
    /// How much it may carry, before and after, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<(String, String)>,
    /// The VLANs of a trunk, or who speaks DHCP to it, or what it may send, or its policies, or where it is copied to.
    pub port: bool,
}

/// The NICs that are there before and after and for which something changes, by their taps' aliases.
pub fn touched(before: &NodeState, after: &NodeState) -> BTreeMap<String, Touched> {
    let mut all = BTreeMap::new();
    for (name, old) in &before.taps {
        let Some(new) = after.taps.get(name) else { continue };
        let ways = (way_out(before, old), way_out(after, new));
        let change = Touched {
            mtu: (old.mtu != new.mtu).then_some((old.mtu, new.mtu)),
            bandwidth: (old.bandwidth != new.bandwidth).then(|| (old.bandwidth.to_string(), new.bandwidth.to_string())),
            way_out: (ways.0 != ways.1).then_some(ways),
            port: old.vlans != new.vlans
                || before.ports.get(name) != after.ports.get(name)
                || before.policies.get(name) != after.policies.get(name)
                || before.mirrors.get(name) != after.mirrors.get(name),
        };
        if change != Touched::default() {
            all.insert(old.alias.clone(), change);
        }
    }
    all
}

/// How what a tap sends leaves the node, in words.
fn way_out(state: &NodeState, tap: &Tap) -> String {
    if let Some(fabric) = state.fabrics.get(&tap.bridge) {
        return match &fabric.uplink {
            Some(uplink) => device(state, &uplink.device),
            None => "nowhere".into(),
        };
    }
    match state.uplinks.iter().find(|(_, u)| u.bridge == tap.bridge) {
        None => "nowhere".into(),
        Some((name, uplink)) => match &uplink.kind {
            UplinkKind::Vxlan { vni, local, .. } => {
                let from = local.map(|a| format!(" from {a}")).unwrap_or_default();
                format!("VXLAN {}{from}", vni.get())
            }
            UplinkKind::Device => device(state, name),
            UplinkKind::Vlan { parent, id } => format!("VLAN {} of {}", id.get(), device(state, parent)),
        },
    }
}

/// A device that is the node's own, or one of ours with what it is made of.
fn device(state: &NodeState, name: &IfName) -> String {
    if let Some(bond) = state.bonds.get(name) {
        let nics: Vec<&str> = bond.nics.iter().map(IfName::as_str).collect();
        return format!("a bond of {} ({}, every {} ms)", nics.join(" and "), bond.mode.as_str(), bond.miimon);
    }
    match state.fabrics.get(name).and_then(|f| f.uplink.as_ref()) {
        Some(uplink) => device(state, &uplink.device),
        None => name.to_string(),
    }
}
