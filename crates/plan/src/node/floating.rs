//! Floating addresses: an address of a network outside that leads to a NIC of a routing domain, by translation on the NIC's own node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{IfName, MacAddr, Mtu, NetworkType, names};
use serde::{Deserialize, Serialize};

use super::{NodeInput, NodeNetwork, NodeState, bridge_name, domain_name};

/// The routing tables of floating addresses in a domain, and the marks of conversations by them: this one and those after it.
pub const FLOATING_TABLES: std::ops::Range<u32> = 10_000..60_000;

/// A floating address whose NIC is on this node.
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
    /// Uid of the NIC that it leads to.
    pub nic: String,
    /// The NIC's own address of the same family.
    pub target: IpAddr,
    /// The ports that lead there; all of the address if there are none.
    pub forwards: BTreeSet<Forward>,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that leads to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// The protocol.
    pub transport: Transport,
    /// The port of the floating address, 1 to 65535.
    pub port: u16,
    /// The port of the NIC, 1 to 65535.
    pub target: u16,
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
    /// The address of the NIC that it leads to.
    pub target: IpAddr,
    /// The ports that lead there. Without any the whole address does, and what the NIC sends out of its domain comes from it.
    pub forwards: BTreeSet<Forward>,
    /// The routing table, and the mark, of conversations by it.
    pub table: u32,
}

/// Gives domains the floating addresses of their NICs.
pub(super) fn add_floating(input: &NodeInput, networks: &BTreeMap<&str, &NodeNetwork>, state: &mut NodeState) {
    let mut all: Vec<&NodeFloating> = input.floating.iter().collect();
    all.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut used: BTreeSet<(String, u32)> = BTreeSet::new();
    for f in all {
        let nic = input.nics.iter().find(|n| n.uid == f.nic && n.addresses.contains(&f.target));
        let inner = nic.and_then(|n| networks.get(n.network.as_str()));
        let (Some(inner), Some(outer)) = (inner, networks.get(f.network.as_str())) else { continue };
        if !matches!(outer.spec.kind, NetworkType::Vlan | NetworkType::Untagged) {
            continue;
        }
        let subnet = if f.address.is_ipv4() { &outer.spec.ipv4 } else { &outer.spec.ipv6 };
        let Some(subnet) = subnet.as_ref().filter(|_| f.address.is_ipv4() == f.target.is_ipv4()) else { continue };
        let ns = domain_name(inner);
        let Some(domain) = state.domains.get_mut(&ns) else { continue };
        let hash = u32::from_str_radix(&names::short_hash(&f.uid)[..7], 16).unwrap_or(0);
        let count = FLOATING_TABLES.end - FLOATING_TABLES.start;
        let mut free = (0..count).map(|i| FLOATING_TABLES.start + (hash + i) % count);
        let Some(table) = free.find(|t| used.insert((ns.clone(), *t))) else { continue };
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
                target: f.target,
                forwards: f.forwards.clone(),
                table,
            },
        );
    }
}
