//! What a step does to a node, without a node: the meaning of [`Step`], against which engines and `diff` are tested.

use super::{NodeState, Peer, Step};

/// Applies one step to a described node.
pub fn simulate(state: &mut NodeState, step: &Step) {
    match step.clone() {
        Step::CreateDomain(ns) => {
            state.domains.entry(ns).or_default();
        }
        Step::DeleteDomain(ns) => {
            state.domains.remove(&ns);
            // The other ends of its links go with it.
            state.domains.values_mut().for_each(|d| d.peers.retain(|_, p| p.domain != ns));
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
            state.remotes.remove(&name);
        }
        Step::PutFlood(name, flood) => state.remotes.entry(name).or_default().flood = flood,
        Step::PutRemote(name, mac, remote) => {
            state.remotes.entry(name).or_default().hosts.insert(mac, remote);
        }
        Step::DeleteRemote(name, mac) => {
            if let Some(known) = state.remotes.get_mut(&name) {
                known.hosts.remove(&mac);
            }
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
        Step::PutRouter(ns, router) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.router = Some(router);
            }
        }
        Step::DeleteRouter(ns, _) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.router = None;
            }
        }
        Step::PutPeering(peering) => {
            for (end, other) in [(0, 1), (1, 0)] {
                let (ns, device, alias) = peering.ends[end].clone();
                if let Some(domain) = state.domains.get_mut(&ns) {
                    domain.peers.insert(device, Peer { domain: peering.ends[other].0.clone(), alias });
                }
            }
        }
        Step::DeletePeering(ns, device) => {
            let other = state.domains.get_mut(&ns).and_then(|d| d.peers.remove(&device));
            if let Some(domain) = other.and_then(|p| state.domains.get_mut(&p.domain)) {
                domain.peers.retain(|_, p| p.domain != ns);
            }
        }
        Step::PutFloating(ns, name, floating) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.floating.insert(name, floating);
            }
        }
        Step::DeleteFloating(ns, name) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.floating.remove(&name);
            }
        }
        Step::PutReturns(ns, returns) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.returns = returns;
            }
        }
        Step::PutRoute(ns, to, via) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.routes.insert(to, via);
            }
        }
        Step::DeleteRoute(ns, to) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.routes.remove(&to);
            }
        }
        Step::PutPolicyRoutes(ns, routes) => {
            if let Some(domain) = state.domains.get_mut(&ns) {
                domain.policy_routes = routes;
            }
        }
        Step::PutPort(name, port) => {
            state.ports.insert(name, port);
        }
        Step::DeletePort(name) => {
            state.ports.remove(&name);
        }
        Step::PutMembers(name, members) => {
            state.members.insert(name, members);
        }
        Step::DeleteMembers(name) => {
            state.members.remove(&name);
        }
        Step::PutPolicy(name, policy) => {
            state.policies.insert(name, policy);
        }
        Step::DeletePolicy(name) => {
            state.policies.remove(&name);
        }
        Step::PutTap(name, tap) => {
            state.taps.insert(name, tap);
        }
        Step::DeleteTap(name) => {
            state.taps.remove(&name);
        }
        Step::PutMirror(name, mirror) => {
            state.mirrors.insert(name, mirror);
        }
        Step::DeleteMirror(name) => {
            state.mirrors.remove(&name);
        }
    }
}
