//! From observed to desired, in an order that never leaves a port open: what a port may send is known before the
//! device joins its bridge, and forgotten after it has left.

use std::collections::BTreeSet;

use multihome_model::IfName;

use super::{FabricBridge, FabricUplink, NodeState, Peering, Router, Step, Uplink, UplinkKind, Via, mirror};

/// The ordered steps from `observed` to `desired`. Empty where they are equal.
pub fn diff(observed: &NodeState, desired: &NodeState) -> Vec<Step> {
    let mut steps = Vec::new();
    remove(observed, desired, &mut steps);
    add(observed, desired, &mut steps);
    finish(observed, desired, &mut steps);
    steps
}

/// What to do with an uplink that is there.
#[derive(PartialEq)]
enum Fate {
    Stays,
    /// Removed before anything is made.
    Goes,
    /// Its bridge gets another one, which is made before this one is removed.
    Superseded,
    /// Its device becomes the uplink of a fabric's bridge, without being given back in between.
    TakenOver,
}

fn fate(name: &IfName, uplink: &Uplink, observed: &NodeState, desired: &NodeState) -> Fate {
    if let Some(wanted) = desired.uplinks.get(name) {
        return if wanted.kind == uplink.kind { Fate::Stays } else { Fate::Goes };
    }
    if desired.fabrics.values().flat_map(|f| &f.uplink).any(|u| u.device == *name) {
        return Fate::TakenOver;
    }
    let UplinkKind::Vlan { parent, .. } = &uplink.kind else { return Fate::Goes };
    // What it rides on must neither go nor become a part of a bond meanwhile.
    let bond_goes = observed.bonds.contains_key(parent) && !desired.bonds.contains_key(parent);
    let fabric_goes =
        !desired.fabrics.contains_key(parent) && observed.fabrics.get(parent).is_some_and(|f| !hands_over(f, desired));
    let keeps = !claimed(parent, desired) && !bond_goes && !fabric_goes;
    match keeps && desired.uplinks.values().any(|u| u.bridge == uplink.bridge) {
        true => Fate::Superseded,
        false => Fate::Goes,
    }
}

/// Whether a bond is to have this device.
fn claimed(device: &IfName, desired: &NodeState) -> bool {
    desired.bonds.values().any(|b| b.nics.contains(device))
}

/// Whether a fabric's bridge that is not wanted stays until its device has become what it is to be instead.
fn hands_over(fabric: &FabricBridge, desired: &NodeState) -> bool {
    let Some(FabricUplink { device, .. }) = &fabric.uplink else { return false };
    desired.uplinks.iter().any(|(name, u)| match &u.kind {
        UplinkKind::Device => name == device,
        UplinkKind::Vlan { parent, .. } => parent == device,
        UplinkKind::Vxlan { .. } => false,
    })
}

/// From the leaves to the root: mirrors, taps, their facts, legs, ways out, uplinks, bridges, fabrics, bonds, domains.
fn remove(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    mirror::remove(observed, desired, steps);
    for (name, tap) in &observed.taps {
        let replaced = desired.taps.get(name).is_some_and(|d| (d.queues > 1) != (tap.queues > 1));
        if !desired.taps.contains_key(name) || replaced {
            steps.push(Step::DeleteTap(name.clone()));
        }
    }
    for name in observed.ports.keys().filter(|n| !desired.ports.contains_key(*n)) {
        steps.push(Step::DeletePort(name.clone()));
    }
    for (ns, domain) in &observed.domains {
        let wanted = desired.domains.get(ns);
        for leg in domain.legs.keys().filter(|l| !wanted.is_some_and(|w| w.legs.contains_key(*l))) {
            steps.push(Step::DeleteLeg(ns.clone(), leg.clone()));
        }
        if let Some(egress) = &domain.egress
            && wanted.is_none_or(|w| w.egress.is_none())
        {
            steps.push(Step::DeleteEgress(ns.clone(), egress.host.clone()));
        }
        for (name, floating) in &domain.floating {
            // Translations of conversations that run go with the old one.
            if wanted.and_then(|w| w.floating.get(name)).is_none_or(|w| w.table != floating.table) {
                steps.push(Step::DeleteFloating(ns.clone(), name.clone()));
            }
        }
        // A domain that goes takes its inside along.
        if let Some(wanted) = wanted {
            let gone = domain.routes.keys().filter(|to| !wanted.routes.contains_key(*to));
            steps.extend(gone.map(|to| Step::DeleteRoute(ns.clone(), *to)));
            let gone = domain.peers.keys().filter(|device| !wanted.peers.contains_key(*device));
            steps.extend(gone.map(|device| Step::DeletePeering(ns.clone(), device.clone())));
            // What is asked of a gateway that goes, goes with it.
            let stay: BTreeSet<_> = domain.policy_routes.intersection(&wanted.policy_routes).cloned().collect();
            if stay.len() < domain.policy_routes.len() {
                steps.push(Step::PutPolicyRoutes(ns.clone(), stay));
            }
            if let (Some(router), None) = (&domain.router, &wanted.router) {
                steps.push(Step::DeleteRouter(ns.clone(), router.device.clone()));
            }
        }
    }
    for (name, seen) in &observed.remotes {
        let wanted = desired.remotes.get(name);
        // An uplink that goes takes along what it knows.
        if kept(observed, desired, name) {
            let gone = seen.hosts.keys().filter(|mac| wanted.is_none_or(|w| !w.hosts.contains_key(*mac)));
            steps.extend(gone.map(|mac| Step::DeleteRemote(name.clone(), *mac)));
        }
    }
    for (name, uplink) in &observed.uplinks {
        if fate(name, uplink, observed, desired) == Fate::Goes {
            steps.push(Step::DeleteUplink(name.clone()));
        }
    }
    for name in observed.bridges.keys().filter(|n| !desired.bridges.contains_key(*n)) {
        steps.push(Step::DeleteBridge(name.clone()));
    }
    for (name, fabric) in &observed.fabrics {
        if !desired.fabrics.contains_key(name) {
            if !hands_over(fabric, desired) {
                steps.push(Step::DeleteFabric(name.clone()));
            }
        } else if fabric.uplink.as_ref().is_some_and(|u| claimed(&u.device, desired)) {
            // A bond takes devices that are nobody's.
            steps.push(Step::PutFabric(name.clone(), FabricBridge { uplink: None, ..fabric.clone() }));
        }
    }
    for name in observed.bonds.keys().filter(|n| !desired.bonds.contains_key(*n)) {
        steps.push(Step::DeleteBond(name.clone()));
    }
    for name in observed.domains.keys().filter(|n| !desired.domains.contains_key(*n)) {
        steps.push(Step::DeleteDomain(name.clone()));
    }
}

/// Tunnels of domains, links between them, and then the routes by both.
fn inside(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for (ns, domain) in &desired.domains {
        let seen = observed.domains.get(ns);
        if let Some(router) = &domain.router
            && seen.and_then(|s| s.router.as_ref()) != Some(router)
        {
            steps.push(Step::PutRouter(ns.clone(), router.clone()));
        }
        for (device, peer) in domain.peers.iter().filter(|(_, p)| *ns < p.domain) {
            let Some(other) = desired.domains.get(&peer.domain) else { continue };
            let Some((far, back)) = other.peers.iter().find(|(_, p)| p.domain == *ns) else { continue };
            let there =
                |ns: &str, device, peer| observed.domains.get(ns).is_some_and(|d| d.peers.get(device) == Some(peer));
            if !there(ns, device, peer) || !there(&peer.domain, far, back) {
                let near = (ns.clone(), device.clone(), peer.alias.clone());
                let far = (peer.domain.clone(), far.clone(), back.alias.clone());
                steps.push(Step::PutPeering(Peering { ends: [near, far] }));
            }
        }
    }
    for (ns, domain) in &desired.domains {
        let seen = observed.domains.get(ns);
        // Routes by a device that is made anew went with the old one.
        let rerouted =
            seen.and_then(|s| s.router.as_ref()).map(Router::kind) != domain.router.as_ref().map(Router::kind);
        let fresh = |via: &Via| match via {
            Via::Router(_) => rerouted,
            Via::Peer(device) => seen.and_then(|s| s.peers.get(device)) != domain.peers.get(device),
            Via::Hop(_) | Via::Unreachable => false,
        };
        for (name, floating) in &domain.floating {
            if seen.and_then(|s| s.floating.get(name)) != Some(floating) {
                steps.push(Step::PutFloating(ns.clone(), name.clone(), floating.clone()));
            }
        }
        let back = seen.map(|s| s.returns.clone()).unwrap_or_default();
        if back != domain.returns || rerouted && !domain.returns.routers.is_empty() {
            steps.push(Step::PutReturns(ns.clone(), domain.returns.clone()));
        }
        if seen.map_or(!domain.policy_routes.is_empty(), |s| s.policy_routes != domain.policy_routes) {
            steps.push(Step::PutPolicyRoutes(ns.clone(), domain.policy_routes.clone()));
        }
        for (to, via) in &domain.routes {
            if seen.and_then(|s| s.routes.get(to)) != Some(via) || fresh(via) {
                steps.push(Step::PutRoute(ns.clone(), *to, via.clone()));
            }
        }
    }
}

/// Whether an uplink stays the device that it is.
fn kept(observed: &NodeState, desired: &NodeState, name: &IfName) -> bool {
    let kind = |s: &NodeState| s.uplinks.get(name).map(|u| u.kind.clone());
    kind(observed) == kind(desired)
}

/// Groups before the rules that name them, and both before ports that they are for.
fn policies(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for (name, members) in &desired.members {
        if observed.members.get(name) != Some(members) {
            steps.push(Step::PutMembers(name.clone(), members.clone()));
        }
    }
    for (name, policy) in &desired.policies {
        if observed.policies.get(name) != Some(policy) {
            steps.push(Step::PutPolicy(name.clone(), policy.clone()));
        }
    }
}

/// What was kept until there was something in its place.
fn finish(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for (name, uplink) in &observed.uplinks {
        if fate(name, uplink, observed, desired) == Fate::Superseded {
            steps.push(Step::DeleteUplink(name.clone()));
        }
    }
    for (name, fabric) in observed.fabrics.iter().filter(|(n, _)| !desired.fabrics.contains_key(*n)) {
        if hands_over(fabric, desired) {
            steps.push(Step::DeleteFabric(name.clone()));
        }
    }
    for name in observed.policies.keys().filter(|n| !desired.policies.contains_key(*n)) {
        steps.push(Step::DeletePolicy(name.clone()));
    }
    for name in observed.members.keys().filter(|n| !desired.members.contains_key(*n)) {
        steps.push(Step::DeleteMembers(name.clone()));
    }
}

/// From the root to the leaves: domains, bonds, fabrics, bridges, uplinks, legs, ways out, facts of ports, taps, mirrors.
fn add(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for name in desired.domains.keys().filter(|n| !observed.domains.contains_key(*n)) {
        steps.push(Step::CreateDomain(name.clone()));
    }
    for (name, bond) in &desired.bonds {
        if observed.bonds.get(name) != Some(bond) {
            steps.push(Step::PutBond(name.clone(), bond.clone()));
        }
    }
    for (name, fabric) in &desired.fabrics {
        if observed.fabrics.get(name) != Some(fabric) {
            steps.push(Step::PutFabric(name.clone(), fabric.clone()));
        }
    }
    for (name, bridge) in &desired.bridges {
        if observed.bridges.get(name) != Some(bridge) {
            steps.push(Step::PutBridge(name.clone(), bridge.clone()));
        }
    }
    for (name, uplink) in &desired.uplinks {
        if observed.uplinks.get(name) != Some(uplink) {
            steps.push(Step::PutUplink(name.clone(), uplink.clone()));
        }
    }
    for (name, wanted) in &desired.remotes {
        let seen = observed.remotes.get(name).filter(|_| kept(observed, desired, name));
        if seen.map(|s| &s.flood) != Some(&wanted.flood) {
            steps.push(Step::PutFlood(name.clone(), wanted.flood.clone()));
        }
        for (mac, remote) in &wanted.hosts {
            if seen.and_then(|s| s.hosts.get(mac)) != Some(remote) {
                steps.push(Step::PutRemote(name.clone(), *mac, remote.clone()));
            }
        }
    }
    for (ns, domain) in &desired.domains {
        let seen = observed.domains.get(ns);
        for (name, leg) in &domain.legs {
            if seen.and_then(|s| s.legs.get(name)) != Some(leg) {
                steps.push(Step::PutLeg(ns.clone(), name.clone(), leg.clone()));
            }
        }
        if let Some(egress) = &domain.egress
            && seen.and_then(|s| s.egress.as_ref()) != Some(egress)
        {
            steps.push(Step::PutEgress(ns.clone(), egress.clone()));
        }
    }
    inside(observed, desired, steps);
    policies(observed, desired, steps);
    for (name, port) in &desired.ports {
        if observed.ports.get(name) != Some(port) {
            steps.push(Step::PutPort(name.clone(), port.clone()));
        }
    }
    for (name, tap) in &desired.taps {
        if observed.taps.get(name) != Some(tap) {
            steps.push(Step::PutTap(name.clone(), tap.clone()));
        }
    }
    mirror::add(observed, desired, steps);
}
