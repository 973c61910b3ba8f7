//! The node plan from resources: which networks and NICs a node carries, and what that takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use multihome_model::checked::CheckedNetwork;
use multihome_model::{Bandwidth, DhcpMode, Family, IfName, MacAddr, Mtu, NetworkType, PortSecurity, Vni, names};
use serde::{Deserialize, Serialize};

use crate::policy::{Members, Policy};

use super::fabric::{self, fabric_name};
use super::floating::{NodeFloating, add_floating, add_returns};
use super::mirror::{NodeMirror, add_mirrors};
use super::overlay::{RemoteNic, remotes};
use super::policy_route::hop_networks;
use super::vpc::{NodeVpc, add_vpcs};
use super::{
    Bond, Bridge, Domain, Egress, FabricBridge, Leg, NodeState, Port, PortVlans, Security, Service, Tap, Uplink,
    UplinkKind,
};

/// UDP port of VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

/// Where the /31s of the ways out come from: a part of the link-local range (RFC 3927), so that no network of a
/// user's can overlap, without the metadata address 169.254.169.254.
pub const TRANSIT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 64, 0), 18);

/// A network that this node carries.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeNetwork {
    /// Uid of the Network.
    pub uid: String,
    /// `NAMESPACE/NAME`.
    pub key: String,
    /// Its spec.
    pub spec: CheckedNetwork,
    /// Effective MTU.
    pub mtu: Mtu,
    /// VNI in force, for an overlay.
    pub vni: Option<Vni>,
    /// Uid of the Vpc that it names.
    pub vpc_uid: Option<String>,
}

/// A NIC that this node carries.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeNic {
    /// Uid of the NetworkInterface.
    pub uid: String,
    /// `NAMESPACE/NAME`.
    pub key: String,
    /// `NAMESPACE/NAME` of its network.
    pub network: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// What may leave it.
    pub security: PortSecurity,
    /// Queue pairs.
    pub queues: u32,
    /// Transmit queue length in packets.
    pub tx_queue_length: Option<u32>,
    /// How much it may carry, as far as it says so itself.
    pub bandwidth: Bandwidth,
}

/// How a fabric is present on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// The device that carries it. Without one, networks on it reach this node only.
    pub device: Option<IfName>,
    /// What that device is made of, where it is a bond of ours.
    pub bond: Option<Bond>,
}

/// What the node itself is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Fabrics by name.
    pub fabrics: BTreeMap<String, Fabric>,
    /// Outer source address of overlays.
    pub tunnel_address: Option<IpAddr>,
    /// The same of overlays on fabrics that have an underlay of their own, by the fabric's name; where this node has no address in
    /// it, they reach no other node.
    pub underlays: BTreeMap<String, Option<IpAddr>>,
    /// Why this node carries no trunks of a fabric, by the fabric's name: a sentence's end.
    pub no_trunks: BTreeMap<String, String>,
}

impl NodeFacts {
    /// Outer source address of tunnels that go by a fabric.
    pub fn tunnel(&self, fabric: &str) -> Option<IpAddr> {
        self.underlays.get(fabric).copied().unwrap_or(self.tunnel_address)
    }
}

/// Everything that a node plan depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInput {
    /// What the node itself is.
    pub node: NodeFacts,
    /// Networks, in any order.
    pub networks: Vec<NodeNetwork>,
    /// NICs, in any order.
    pub nics: Vec<NodeNic>,
    /// NICs of other nodes on these networks and on those of the routing domains below, in any order.
    pub remote: Vec<RemoteNic>,
    /// Floating addresses that this node has, whose networks are among those above, and others that lead to these NICs.
    pub floating: Vec<NodeFloating>,
    /// Where tunnels end that go by a fabric: by the fabric's name, and by the node's. Of the fabrics of those domains.
    pub tunnels: BTreeMap<String, BTreeMap<String, IpAddr>>,
    /// The routing domains of these networks, and those that they peer with, in any order.
    pub vpcs: Vec<NodeVpc>,
    /// What may be opened by and towards these NICs, by uid; of others everything.
    pub policies: BTreeMap<String, Policy>,
    /// Who the groups are that these name.
    pub members: Members,
    /// Where what these NICs say and hear is copied to, by uid; of others nothing is.
    pub mirrors: BTreeMap<String, NodeMirror>,
}

/// The device name of a NIC's tap.
pub fn tap_name(nic_uid: &str) -> IfName {
    names::device(names::TAP, nic_uid)
}

/// The device name of the bridge that a network's NICs are on: its own, the fabric's for a trunk, and one for all that
/// share a VLAN, which are one layer-2 network.
pub fn bridge_name(network: &NodeNetwork) -> IfName {
    match (network.spec.kind, shared_vlan(network)) {
        (NetworkType::VlanTrunk, _) => fabric_name(&network.spec.fabric),
        (_, Some(vlan)) => names::device(names::BRIDGE, &vlan),
        _ => names::device(names::BRIDGE, &network.uid),
    }
}

/// What networks that share a VLAN are called together.
fn shared_vlan(network: &NodeNetwork) -> Option<String> {
    let id = network.spec.vlan.filter(|_| network.spec.kind == NetworkType::Vlan && network.spec.shares_vlan)?;
    Some(format!("VLAN {} of {}", id.get(), network.spec.fabric))
}

/// The network namespace of the routing domain that a network's gateway is in.
pub fn domain_name(network: &NodeNetwork) -> String {
    format!("{}{}", names::NETNS, names::short_hash(domain_uid(network)))
}

/// Computes what the node must hold. Networks without a NIC or a floating address on this node take nothing, but for those that
/// next hops of policy routes are in.
pub fn build(input: &NodeInput) -> NodeState {
    let mut state = NodeState::default();
    let had = input.floating.iter().filter(|f| f.node == input.node.name);
    let outside = had.map(|f| f.network.as_str());
    let own = input.nics.iter().map(|n| n.network.as_str());
    let carried: BTreeSet<&str> = own.chain(outside).chain(hop_networks(input)).collect();
    let mut networks: Vec<&NodeNetwork> = input.networks.iter().filter(|n| carried.contains(n.key.as_str())).collect();
    networks.sort_by(|a, b| a.uid.cmp(&b.uid));
    let by_key: BTreeMap<&str, &NodeNetwork> = networks.iter().map(|n| (n.key.as_str(), *n)).collect();

    let mut remote: HashMap<&str, Vec<&RemoteNic>> = HashMap::new();
    input.remote.iter().for_each(|n| remote.entry(&n.network).or_default().push(n));
    let trunked = fabric::bridges(&networks, &input.node);
    for network in &networks {
        if network.spec.kind == NetworkType::VlanTrunk && trunked.contains_key(&network.spec.fabric) {
            add_bond(network, &input.node, &mut state);
            continue;
        }
        let bridge = bridge_here(network, &trunked);
        let called = shared_vlan(network).unwrap_or_else(|| network.key.clone());
        let there = state
            .bridges
            .entry(bridge.clone())
            .or_insert_with(|| Bridge { alias: format!("net {called}"), mtu: network.mtu });
        there.mtu = there.mtu.max(network.mtu);
        let mtu = there.mtu;
        if let Some((name, kind)) = fabric::uplink(network, &input.node, &trunked) {
            if !matches!(kind, UplinkKind::Vxlan { .. }) {
                add_bond(network, &input.node, &mut state);
            }
            let alias = format!("uplink {called}");
            let mut own = if network.spec.kind.rides_on_uplink() { gateways(network) } else { BTreeSet::new() };
            // Of the networks that share a VLAN each may have a gateway.
            own.extend(state.uplinks.get(&name).into_iter().flat_map(|u| u.own.clone()));
            state.uplinks.insert(name, Uplink { alias, bridge: bridge.clone(), mtu, kind, own });
        }
        let open = |n: &NodeNic| n.network == network.key && n.security == PortSecurity::Promiscuous;
        let there = remote.get(network.key.as_str()).into_iter().flatten().copied();
        state.remotes.extend(remotes(network, input.nics.iter().any(open), there));
        add_leg(network, &input.node.name, bridge, &mut state);
    }
    add_vpcs(input, &mut state);
    add_floating(input, &by_key, &mut state);
    add_returns(input, &mut state);
    assign_transit(&networks, &mut state);
    for nic in &input.nics {
        if let Some(network) = by_key.get(nic.network.as_str()) {
            add_nic(nic, network, bridge_here(network, &trunked), &mut state);
            add_policy(nic, input, &mut state);
        }
    }
    add_mirrors(input, &mut state);
    state.fabrics = trunked.into_iter().map(|(name, bridge)| (fabric_name(&name), bridge)).collect();
    state
}

/// The bridge of a network on this node. A trunk that the node cannot carry has one by itself, so that its VMs run.
fn bridge_here(network: &NodeNetwork, trunked: &BTreeMap<String, FabricBridge>) -> IfName {
    match network.spec.kind == NetworkType::VlanTrunk && !trunked.contains_key(&network.spec.fabric) {
        true => names::device(names::BRIDGE, &network.uid),
        false => bridge_name(network),
    }
}

fn domain_uid(network: &NodeNetwork) -> &str {
    network.vpc_uid.as_deref().unwrap_or(&network.uid)
}

fn add_bond(network: &NodeNetwork, node: &NodeFacts, state: &mut NodeState) {
    if let Some(Fabric { device: Some(device), bond: Some(bond) }) = node.fabrics.get(&network.spec.fabric) {
        state.bonds.insert(device.clone(), bond.clone());
    }
}

/// The addresses of a network's gateway, where it is ours.
pub(super) fn gateways(network: &NodeNetwork) -> BTreeSet<IpAddr> {
    let subnets = [&network.spec.ipv4, &network.spec.ipv6].into_iter().flatten();
    subnets.filter_map(|s| s.gateway).filter(|_| network.spec.owns_gateway).collect()
}

/// The MAC of a network's gateway on a node. Networks that ride on a wire have one per node: a switch is to see each MAC at one port.
pub fn gateway_mac(network_uid: &str, kind: NetworkType, node: &str) -> MacAddr {
    let whose = if kind.rides_on_uplink() { format!("{network_uid} {node}") } else { network_uid.to_owned() };
    names::derived_mac(&format!("gateway {whose}"), 0)
}

fn add_leg(network: &NodeNetwork, node: &str, bridge: IfName, state: &mut NodeState) {
    if !network.spec.owns_gateway {
        return;
    }
    let addresses: BTreeSet<IpNet> = [&network.spec.ipv4, &network.spec.ipv6]
        .into_iter()
        .flatten()
        .filter_map(|s| IpNet::new(s.gateway?, s.cidr.prefix_len()).ok())
        .collect();
    if addresses.is_empty() {
        return;
    }
    let domain: &mut Domain = state.domains.entry(domain_name(network)).or_default();
    domain.legs.insert(
        names::device(names::LEG, &network.uid),
        Leg {
            alias: format!("gateway {}", network.key),
            bridge,
            peer: names::device(names::GATEWAY, &network.uid),
            mac: gateway_mac(&network.uid, network.spec.kind, node),
            addresses,
            mtu: network.mtu,
            symmetric: network.spec.symmetric,
            admits: network.spec.admits.clone(),
        },
    );
}

/// Gives every domain with a NAT network its /31. The pair follows from the domain's uid; where two want the same one,
/// the next free one is taken in the order of uids, so that only those two are concerned.
fn assign_transit(networks: &[&NodeNetwork], state: &mut NodeState) {
    let mut wants: BTreeMap<&str, (String, String, BTreeSet<IpNet>)> = BTreeMap::new();
    for network in networks.iter().filter(|n| n.spec.owns_gateway && n.spec.nat) {
        let Some(subnet) = network.spec.ipv4.as_ref().filter(|s| s.gateway.is_some()) else { continue };
        let alias = match &network.spec.vpc {
            Some(vpc) => format!("egress vpc {vpc}"),
            None => format!("egress {}", network.key),
        };
        wants
            .entry(domain_uid(network))
            .or_insert_with(|| (domain_name(network), alias, BTreeSet::new()))
            .2
            .insert(subnet.cidr);
    }
    let pairs = 1u32 << (31 - TRANSIT.prefix_len());
    let mut used = BTreeSet::new();
    for (uid, (ns, alias, nat)) in wants {
        let hash = u32::from_str_radix(&names::short_hash(uid)[..7], 16).unwrap_or(0);
        let Some(pair) = (0..pairs).map(|i| (hash + i) % pairs).find(|p| used.insert(*p)) else { continue };
        let base = u32::from(TRANSIT.network()) + pair * 2;
        if let Some(domain) = state.domains.get_mut(&ns) {
            domain.egress = Some(Egress {
                alias,
                host: names::device(names::EGRESS, uid),
                peer: IfName::new("uplink").expect("a valid device name"),
                host_address: Ipv4Addr::from(base),
                peer_address: Ipv4Addr::from(base + 1),
                nat,
            });
        }
    }
}

/// What is to be enforced at a NIC, where there is anything.
fn add_policy(nic: &NodeNic, input: &NodeInput, state: &mut NodeState) {
    let Some(policy) = input.policies.get(&nic.uid).filter(|p| !p.is_open()) else { return };
    for group in policy.groups() {
        let members = input.members.get(group).cloned().unwrap_or_default();
        state.members.insert(group.clone(), members);
    }
    state.policies.insert(tap_name(&nic.uid), policy.clone());
}

fn add_nic(nic: &NodeNic, network: &NodeNetwork, bridge: IfName, state: &mut NodeState) {
    let name = tap_name(&nic.uid);
    let trunk = network.spec.kind == NetworkType::VlanTrunk && bridge == bridge_name(network);
    let security = match nic.security {
        PortSecurity::Promiscuous if trunk => Security::Trunk(None),
        PortSecurity::Promiscuous => Security::Promiscuous,
        PortSecurity::Strict if trunk => Security::Trunk(Some(nic.mac)),
        PortSecurity::Strict => {
            let mut ipv4 = BTreeSet::new();
            let mut ipv6 = BTreeSet::from([nic.mac.link_local()]);
            for a in &nic.addresses {
                match a {
                    IpAddr::V4(a) => ipv4.insert(*a),
                    IpAddr::V6(a) => ipv6.insert(*a),
                };
            }
            Security::Strict { mac: nic.mac, ipv4, ipv6 }
        }
    };
    let service = |family| match network.spec.dhcp(family) {
        DhcpMode::Server => Service::Served,
        DhcpMode::Guard => Service::Guarded,
        DhcpMode::None => Service::Open,
    };
    let port = Port { dhcp4: service(Family::IPv4), dhcp6: service(Family::IPv6), security };
    state.ports.insert(name.clone(), port);
    state.taps.insert(
        name,
        Tap {
            alias: format!("nic {}", nic.key),
            bridge,
            mtu: network.mtu,
            queues: nic.queues,
            tx_queue_length: nic.tx_queue_length,
            bandwidth: nic.bandwidth.or(network.spec.bandwidth),
            vlans: trunk.then(|| PortVlans { tagged: network.spec.trunk.clone(), native: network.spec.vlan }),
        },
    );
}
