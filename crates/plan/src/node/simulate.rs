//! What a step does to a node, without a node: the meaning of [`Step`], against which engines and `diff` are tested.

use super::{Domain, NodeState, Step};

/// Applies one step to a described node.
pub fn simulate(state: &mut NodeState, step: &Step) {
    match step.clone() {
        Step::CreateDomain(ns) => {
            state.domains.entry(ns).or_insert_with(|| Domain { legs: Default::default(), egress: None });
        }
        Step::DeleteDomain(ns) => {
            state.domains.remove(&ns);
        }
        Step::PutBond(name, bond) => {
            state.bonds.insert(name, bond);
        }
        Step::DeleteBond(name) => {
            state.bonds.remove(&name);
        }
        Step::PutFabric(name, fabric) => {
            if let Some(uplink) = &fabric.uplink {
                state.uplinks.remove(&uplink.device);
            }
            state.fabrics.insert(name, fabric);
        }
        Step::DeleteFabric(name) => {
            state.fabrics.remove(&name);
        }
        Step::PutBridge(name, bridge) => {
            state.bridges.insert(name, bridge);
        }
        Step::DeleteBridge(name) => {
            state.bridges.remove(&name);
        }
        Step::PutUplink(name, uplink) => {
            for fabric in state.fabrics.values_mut() {
                fabric.uplink = fabric.uplink.take().filter(|u| u.device != name);
            }
            state.uplinks.insert(name, uplink);
        }
        Step::DeleteUplink(name) => {
            state.uplinks.remove(&name);
        }
        Step::PutLeg(ns, name, leg) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.legs.insert(name, leg);
            }
        }
        Step::DeleteLeg(ns, name) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.legs.remove(&name);
            }
        }
        Step::PutEgress(ns, egress) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.egress = Some(egress);
            }
        }
        Step::DeleteEgress(ns, _) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.egress = None;
            }
        }
        Step::PutPort(name, port) => {
            state.ports.insert(name, port);
        }
        Step::DeletePort(name) => {
            state.ports.remove(&name);
        }
        Step::PutTap(name, tap) => {
            state.taps.insert(name, tap);
        }
        Step::DeleteTap(name) => {
            state.taps.remove(&name);
        }
    }
}
