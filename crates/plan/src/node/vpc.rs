//! Routing domains beyond one node and beyond themselves.
//!
//! A domain is on every node that has NICs of it, and routes there, on the sender's node as on the receiver's, between its own
//! subnets: what is for a NIC of another node goes to that node's part of the domain by a tunnel of the domain's own (symmetric
//! routing, as RFC 9135 section 4.4 calls it). Both directions of a conversation so pass the domain on the node of each NIC, where
//! state about it can be kept. A link on a node joins two domains that peer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{IfName, MacAddr, Mtu, Vni, names};
use serde::{Deserialize, Serialize};

use super::policy_route::{NodePolicyRoute, policy_routes};
use super::{Domain, NodeInput, NodeState, RemoteNic, VXLAN_PORT};

/// A routing domain that several networks share.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeVpc {
    /// Uid of the Vpc.
    pub uid: String,
    /// `NAMESPACE/NAME`.
    pub key: String,
    /// The network identifier of its tunnels; without one it is on each node for itself.
    pub vni: Option<Vni>,
    /// MTU of its tunnels.
    pub mtu: Mtu,
    /// The fabric that they go by.
    pub fabric: String,
    /// The subnets of all its networks, wherever they are.
    pub subnets: BTreeSet<IpNet>,
    /// Routes that the user wrote: destination and next hop, an address in one of the subnets.
    pub static_routes: BTreeMap<IpNet, IpAddr>,
    /// Routes by source and destination that the user wrote, in the order in which they are asked.
    pub policy_routes: Vec<NodePolicyRoute>,
    /// The domains that it peers with.
    pub peers: Vec<VpcPeer>,
}

/// A domain that another one peers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcPeer {
    /// Uid of that Vpc.
    pub uid: String,
    /// What it offers.
    pub subnets: BTreeSet<IpNet>,
}

/// A domain's tunnel to itself on other nodes: a VXLAN device (RFC 7348) in its namespace, whose underlay is the host's. Frames
/// on it go from router to router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Its device name.
    pub device: IfName,
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// Network identifier.
    pub vni: Vni,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// The MAC of this node's router.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: Mtu,
    /// The routers of other nodes: MAC and tunnel address.
    pub nodes: BTreeMap<MacAddr, IpAddr>,
}

impl Router {
    /// What cannot be changed on the device that is there.
    pub fn kind(&self) -> (Vni, Option<IpAddr>, u16) {
        (self.vni, self.local, self.port)
    }
}

/// A domain's end of a link to another domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The other domain's namespace.
    pub domain: String,
    /// The readable name, kept as the interface alias.
    pub alias: String,
}

/// The link between two domains of this node: a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peering {
    /// Its ends: namespace, device, and the alias of each.
    pub ends: [(String, IfName, String); 2],
}

/// Where a domain sends what is for a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// To the router with this MAC, on another node.
    Router(MacAddr),
    /// To a next hop in one of its subnets.
    Hop(IpAddr),
    /// Into another domain, by this end of a link.
    Peer(IfName),
    /// Nowhere: senders are told that it cannot be reached.
    Unreachable,
}

/// The MAC of a domain's router on a node.
pub fn router_mac(vpc_uid: &str, node: &str) -> MacAddr {
    names::derived_mac(&format!("router {vpc_uid} {node}"), 0)
}

/// The device in a domain that leads to another one; also what its MAC follows from.
pub fn peer_device(domain: &str, other: &str) -> IfName {
    names::device(names::PEER, &format!("{domain} {other}"))
}

/// The network namespace of a Vpc's routing domain.
pub fn vpc_domain(uid: &str) -> String {
    format!("{}{}", names::NETNS, names::short_hash(uid))
}

/// Gives domains their ways to other nodes and to each other. The domains with legs are there already.
pub(super) fn add_vpcs(input: &NodeInput, state: &mut NodeState) {
    let by_uid: HashMap<&str, &NodeVpc> = input.vpcs.iter().map(|v| (v.uid.as_str(), v)).collect();
    let mut remote: HashMap<&str, Vec<&RemoteNic>> = HashMap::new();
    for nic in &input.remote {
        if let Some(vpc) = &nic.vpc {
            remote.entry(vpc).or_default().push(nic);
        }
    }
    let mut here: BTreeSet<&str> = BTreeSet::new();
    for vpc in input.vpcs.iter().filter(|v| state.domains.contains_key(&vpc_domain(&v.uid))) {
        here.insert(&vpc.uid);
        // What a peer answers comes back by the peer's own domain.
        here.extend(vpc.peers.iter().map(|p| p.uid.as_str()).filter(|uid| by_uid.contains_key(uid)));
    }
    for vpc in here.iter().filter_map(|uid| by_uid.get(uid)) {
        let legs: BTreeSet<IpNet> = state
            .domains
            .get(&vpc_domain(&vpc.uid))
            .iter()
            .flat_map(|d| d.legs.values())
            .flat_map(|l| l.addresses.iter().map(IpNet::trunc))
            .collect();
        let router = router(input, vpc, &remote);
        // What no tunnel leads to is not reached.
        let tunnels = input.tunnels.get(&vpc.fabric).filter(|_| router.is_some());
        let reached = |n: &&&RemoteNic| tunnels.is_some_and(|t| t.contains_key(&n.node));
        let own = remote.get(vpc.uid.as_str()).into_iter().flatten().filter(reached).copied();
        let mut routes = routes(vpc, &legs, own);
        let mut peers = BTreeMap::new();
        for peer in vpc.peers.iter().filter(|p| here.contains(p.uid.as_str())) {
            let other = vpc_domain(&peer.uid);
            let device = peer_device(&vpc_domain(&vpc.uid), &other);
            routes.extend(peer.subnets.iter().map(|s| (*s, Via::Peer(device.clone()))));
            let alias = format!("peer {}", by_uid.get(peer.uid.as_str()).map_or("", |p| p.key.as_str()));
            peers.insert(device, Peer { domain: other, alias });
        }
        let domain: &mut Domain = state.domains.entry(vpc_domain(&vpc.uid)).or_default();
        domain.policy_routes = policy_routes(&vpc.policy_routes, domain);
        (domain.router, domain.peers, domain.routes) = (router, peers, routes);
    }
}

/// The tunnel of a domain that is on other nodes: because NICs of it are, or because NICs of a peer are, whose packets come that
/// way.
fn router(input: &NodeInput, vpc: &NodeVpc, remote: &HashMap<&str, Vec<&RemoteNic>>) -> Option<Router> {
    let concerned: BTreeSet<&str> = vpc.peers.iter().map(|p| p.uid.as_str()).chain([vpc.uid.as_str()]).collect();
    let nics = concerned.iter().filter_map(|v| remote.get(v)).flatten();
    // Many NICs are on few nodes, and a router's MAC is a hash.
    let nodes: BTreeSet<&str> = nics.map(|n| n.node.as_str()).collect();
    let tunnels = input.tunnels.get(&vpc.fabric);
    let nodes = nodes.into_iter().filter_map(|n| Some((n, *tunnels?.get(n)?)));
    let nodes: BTreeMap<MacAddr, IpAddr> = nodes.map(|(n, via)| (router_mac(&vpc.uid, n), via)).collect();
    if nodes.is_empty() {
        return None;
    }
    Some(Router {
        device: names::device(names::ROUTER, &vpc.uid),
        alias: format!("router vpc {}", vpc.key),
        vni: vpc.vni?,
        local: input.node.tunnel(&vpc.fabric),
        port: VXLAN_PORT,
        mac: router_mac(&vpc.uid, &input.node.name),
        mtu: vpc.mtu,
        nodes,
    })
}

/// Routes to NICs of other nodes, those that the user wrote, and none out of the domain for what is its own and not there.
fn routes<'a>(
    vpc: &NodeVpc,
    legs: &BTreeSet<IpNet>,
    remote: impl Iterator<Item = &'a RemoteNic>,
) -> BTreeMap<IpNet, Via> {
    let mut all: BTreeMap<IpNet, Via> = vpc.subnets.difference(legs).map(|s| (*s, Via::Unreachable)).collect();
    let mut at: HashMap<IpAddr, MacAddr> = HashMap::new();
    let mut routers: HashMap<&str, MacAddr> = HashMap::new();
    for nic in remote {
        let router = *routers.entry(&nic.node).or_insert_with(|| router_mac(&vpc.uid, &nic.node));
        let own = nic.addresses.iter().filter(|a| vpc.subnets.iter().any(|s| s.contains(*a)));
        for a in own {
            at.insert(*a, router);
            all.insert(IpNet::from(*a), Via::Router(router));
        }
    }
    for (to, hop) in &vpc.static_routes {
        let via = match at.get(hop) {
            // The hop is on another node: that node knows the way on.
            Some(router) => Via::Router(*router),
            None if legs.iter().any(|s| s.contains(hop)) => Via::Hop(*hop),
            None => Via::Unreachable,
        };
        all.insert(*to, via);
    }
    all
}
