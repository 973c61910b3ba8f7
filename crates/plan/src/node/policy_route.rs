//! Policy routes of a domain: where packets go that its own NICs send, by source and destination, before any other route is asked.
//!
//! They are applied on the sender's node alone, to what comes in by the gateways of its networks: what comes from another node's
//! part of the domain, or from a domain that it peers with, was judged there. The network of the next hop itself is left out, so
//! that what the next hop sends on does not come back to it. The next hop is reached on its own network, wherever it is: the
//! sender's node carries that network, too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::IfName;
use serde::{Deserialize, Serialize};

use super::{Domain, NodeInput};

/// How many a domain may have: those of a Vpc, each for both address families.
pub const MOST_POLICY_ROUTES: usize = 2 * multihome_model::checked::MOST_POLICY_ROUTES;

/// A policy route that the user wrote. The order of a list of them is the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePolicyRoute {
    /// Source.
    pub from: IpNet,
    /// Destination, of the same family.
    pub to: IpNet,
    /// What is done with such packets.
    pub action: Steer,
}

/// What is done with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Steer {
    /// They go where other routes say.
    Allow,
    /// They are dropped, and nobody is told.
    Drop,
    /// They go to this next hop.
    Hop(IpAddr),
    /// Their sender is told that it cannot be reached.
    Unreachable,
}

/// A policy route for what comes in by one gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRoute {
    /// Its place: lower ones are asked first. Those of one route share it.
    pub order: u32,
    /// The gateway's device inside the domain.
    pub leg: IfName,
    /// Source.
    pub from: IpNet,
    /// Destination, of the same family.
    pub to: IpNet,
    /// What is done.
    pub action: Steer,
}

/// The keys of the networks that next hops are in, in domains with a NIC on this node.
pub(super) fn hop_networks(input: &NodeInput) -> impl Iterator<Item = &str> {
    let carried: BTreeSet<&str> = input.nics.iter().map(|n| n.network.as_str()).collect();
    let of = |uid: &str| input.networks.iter().filter(move |n| n.vpc_uid.as_deref() == Some(uid)).collect::<Vec<_>>();
    let here = |uid: &str| of(uid).iter().any(|n| carried.contains(n.key.as_str()));
    let mut keys = vec![];
    for vpc in input.vpcs.iter().filter(|v| here(&v.uid)) {
        let hops: Vec<IpAddr> = vpc.policy_routes.iter().filter_map(|r| r.action.hop()).collect();
        let holds = |n: &&super::NodeNetwork| {
            let subnets = [&n.spec.ipv4, &n.spec.ipv6];
            subnets.into_iter().flatten().any(|s| hops.iter().any(|hop| s.cidr.contains(hop)))
        };
        keys.extend(of(&vpc.uid).into_iter().filter(holds).map(|n| n.key.as_str()));
    }
    keys.into_iter()
}

impl Steer {
    /// The next hop, where there is one.
    pub fn hop(self) -> Option<IpAddr> {
        match self {
            Self::Hop(hop) => Some(hop),
            _ => None,
        }
    }
}

/// The policy routes of a domain with these legs.
pub(super) fn policy_routes(routes: &[NodePolicyRoute], domain: &Domain) -> BTreeSet<PolicyRoute> {
    let holds = |leg: &super::Leg, hop: IpAddr| leg.addresses.iter().any(|a| a.contains(&hop));
    let mut all = BTreeSet::new();
    for (order, route) in routes.iter().take(MOST_POLICY_ROUTES).enumerate() {
        for leg in domain.legs.values() {
            let action = match route.action {
                Steer::Hop(hop) if holds(leg, hop) => continue,
                Steer::Hop(hop) if !domain.legs.values().any(|l| holds(l, hop)) => Steer::Unreachable,
                other => other,
            };
            let (order, leg) = (order as u32, leg.peer.clone());
            all.insert(PolicyRoute { order, leg, from: route.from, to: route.to, action });
        }
    }
    all
}
