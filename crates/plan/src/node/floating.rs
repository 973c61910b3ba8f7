//! Floating addresses: an address of a network outside that leads to NICs of a routing domain, by translation on the node that has it.
//!
//! A NIC may be on another node than the address. What was translated goes there by the tunnel of the routing domain, from the
//! client's own address, and the NIC's node sends the answers back by that tunnel ([`Returns`]), where they are translated back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{Algorithm, IfName, MacAddr, Mtu, NetworkType, names};
use serde::{Deserialize, Serialize};

use super::{Domain, NodeInput, NodeNetwork, NodeState, bridge_name, router_mac, vpc_domain};

/// The routing tables of floating addresses in a domain, and the marks of conversations by them: this one and those after it.
pub const FLOATING_TABLES: std::ops::Range<u32> = 10_000..60_000;

/// The routing tables, and the marks, of what goes back to other nodes: this one and those after it.
pub const RETURN_TABLES: std::ops::Range<u32> = 60_000..65_000;

/// A floating address that is on this node, or leads to a NIC of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFloating {
    /// Uid of the FloatingIP.
    pub uid: String,
    /// `NAMESPACE/NAME`.
    pub key: String,
    /// `NAMESPACE/NAME` of the network that the address is from.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// The node that has it.
    pub node: String,
    /// Uid of the routing domain that it leads to: of a Vpc, or of a Network that names none.
    pub domain: String,
    /// The address of the NIC that all of it leads to, of the same family; `None` if ports do.
    pub target: Option<IpAddr>,
    /// The ports that lead somewhere.
    pub forwards: BTreeSet<Forward>,
    /// Which of several NICs a new conversation gets.
    pub algorithm: Algorithm,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that leads to a port of NICs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// The protocol.
    pub transport: Transport,
    /// The port of the floating address, 1 to 65535.
    pub port: u16,
    /// The port of the NICs, 1 to 65535.
    pub target: u16,
    /// Addresses of the NICs, of the family of the address.
    pub backends: BTreeSet<IpAddr>,
}

/// A floating address in a domain: a veth pair from the bridge of the network that it is from, with the address inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floating {
    /// The readable name, kept as the alias of the end on the bridge.
    pub alias: String,
    /// The bridge of the network that it is from.
    pub bridge: IfName,
    /// The end inside the domain.
    pub peer: IfName,
    /// MAC of the end inside the domain: that of the address, wherever it goes.
    pub mac: MacAddr,
    /// MTU of both ends in bytes.
    pub mtu: Mtu,
    /// The address.
    pub address: IpAddr,
    /// The subnet that it is from.
    pub subnet: IpNet,
    /// The router of that subnet, if it has one.
    pub gateway: Option<IpAddr>,
    /// The address of the NIC that all of it leads to, and whose packets out of the domain come from it; `None` if ports do.
    pub target: Option<IpAddr>,
    /// The ports that lead somewhere.
    pub forwards: BTreeSet<Forward>,
    /// Which of several NICs a new conversation gets.
    pub algorithm: Algorithm,
    /// The routing table, and the mark, of conversations by it.
    pub table: u32,
}

/// What floating addresses on other nodes lead to NICs of a domain on this one, so that answers go back there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returns {
    /// Addresses of the domain and of those that it peers with. What they begin is none of an address's conversations.
    pub inside: BTreeSet<IpNet>,
    /// The routers of nodes that have such addresses, by MAC.
    pub routers: BTreeMap<MacAddr, Return>,
}

/// The way back to a router of another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// The routing table, and the mark, of conversations by it.
    pub table: u32,
    /// Which conversations these are: those that begin by that router for one of these.
    pub targets: BTreeSet<Target>,
}

/// A port of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The NIC's address.
    pub address: IpAddr,
    /// The protocol.
    pub transport: Transport,
    /// The port, 1 to 65535.
    pub port: u16,
}

/// The first number of a range, from one that follows from a text, that is nobody's yet.
fn number(range: std::ops::Range<u32>, text: &str, mut take: impl FnMut(u32) -> bool) -> Option<u32> {
    let hash = u32::from_str_radix(&names::short_hash(text)[..7], 16).unwrap_or(0);
    let count = range.end - range.start;
    (0..count).map(|i| range.start + (hash + i) % count).find(|t| take(*t))
}

/// Gives domains the floating addresses that this node has.
pub(super) fn add_floating(input: &NodeInput, networks: &BTreeMap<&str, &NodeNetwork>, state: &mut NodeState) {
    let mut all: Vec<&NodeFloating> = input.floating.iter().filter(|f| f.node == input.node.name).collect();
    all.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut used: BTreeSet<(String, u32)> = BTreeSet::new();
    for f in all {
        let Some(outer) = networks.get(f.network.as_str()) else { continue };
        if !matches!(outer.spec.kind, NetworkType::Vlan | NetworkType::Untagged) {
            continue;
        }
        let of_family = |a: &IpAddr| a.is_ipv4() == f.address.is_ipv4();
        let subnet = if f.address.is_ipv4() { &outer.spec.ipv4 } else { &outer.spec.ipv6 };
        let Some(subnet) = subnet.as_ref() else { continue };
        let target = f.target.filter(of_family);
        let forwards: BTreeSet<Forward> =
            f.forwards.iter().filter(|w| !w.backends.is_empty() && w.backends.iter().all(of_family)).cloned().collect();
        if target.is_none() && forwards.is_empty() {
            continue;
        }
        let ns = vpc_domain(&f.domain);
        let Some(domain) = state.domains.get_mut(&ns) else { continue };
        let Some(table) = number(FLOATING_TABLES, &f.uid, |t| used.insert((ns.clone(), t))) else { continue };
        domain.floating.insert(
            names::device(names::FLOATING, &f.uid),
            Floating {
                alias: format!("floating {}", f.key),
                bridge: bridge_name(outer),
                peer: names::device(names::FLOATING_PEER, &f.uid),
                mac: names::derived_mac(&format!("floating {}", f.uid), 0),
                mtu: outer.mtu,
                address: f.address,
                subnet: subnet.cidr,
                gateway: subnet.gateway,
                target,
                forwards,
                algorithm: f.algorithm,
                table,
            },
        );
    }
}

/// Gives domains the ways back to the nodes whose floating addresses lead to NICs of this one.
pub(super) fn add_returns(input: &NodeInput, state: &mut NodeState) {
    let vpcs: BTreeMap<&str, &str> =
        input.networks.iter().filter_map(|n| Some((n.key.as_str(), n.vpc_uid.as_deref()?))).collect();
    let mut mine: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for nic in &input.nics {
        if let Some(vpc) = vpcs.get(nic.network.as_str()) {
            mine.entry(vpc).or_default().extend(&nic.addresses);
        }
    }
    let mut all: BTreeMap<&str, BTreeMap<MacAddr, BTreeSet<Target>>> = BTreeMap::new();
    for f in input.floating.iter().filter(|f| f.node != input.node.name) {
        let Some(mine) = mine.get(f.domain.as_str()) else { continue };
        let router = router_mac(&f.domain, &f.node);
        for w in &f.forwards {
            let here = w.backends.intersection(mine);
            let targets = here.map(|a| Target { address: *a, transport: w.transport, port: w.target });
            all.entry(&f.domain).or_default().entry(router).or_default().extend(targets);
        }
    }
    for vpc in &input.vpcs {
        let Some(domain) = state.domains.get_mut(&vpc_domain(&vpc.uid)) else { continue };
        let Some(wanted) = all.remove(vpc.uid.as_str()) else { continue };
        let mut used = BTreeSet::new();
        let mut routers = BTreeMap::new();
        for (mac, targets) in wanted.into_iter().filter(|(mac, targets)| !targets.is_empty() && knows(domain, *mac)) {
            let Some(table) = number(RETURN_TABLES, &mac.to_string(), |t| used.insert(t)) else { continue };
            routers.insert(mac, Return { table, targets });
        }
        if routers.is_empty() {
            continue;
        }
        let theirs = vpc.peers.iter().flat_map(|p| &p.subnets).chain(vpc.static_routes.keys());
        let inside = vpc.subnets.iter().chain(theirs).filter(|n| n.prefix_len() > 0).copied().collect();
        domain.returns = Returns { inside, routers };
    }
}

/// Whether a domain's tunnel leads to a router.
fn knows(domain: &Domain, router: MacAddr) -> bool {
    domain.router.as_ref().is_some_and(|r| r.nodes.contains_key(&router))
}
