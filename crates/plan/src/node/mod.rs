//! The node plan: which devices, namespaces and port facts a node must hold, and the ordered steps to get there.
//!
//! [`NodeState`] describes both what is wanted and what was observed, so that «nothing to do» is equality. [`diff`]
//! turns a pair of them into [`Step`]s; an engine (crate `dataplane`) observes and applies. Every step is idempotent.

mod build;
mod diff;
mod fabric;
mod floating;
mod mirror;
mod overlay;
mod policy_route;
mod simulate;
mod touched;
mod vpc;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use multihome_model::{Bandwidth, BondMode, IfName, MacAddr, Mtu, VlanId, VlanSet, Vni};
use serde::{Deserialize, Serialize};

use crate::policy::{Members, Policy};

pub use build::{
    Fabric, NodeFacts, NodeInput, NodeNetwork, NodeNic, TRANSIT, VXLAN_PORT, bridge_name, build, domain_name,
    gateway_mac, tap_name,
};
pub use diff::diff;
pub use fabric::fabric_name;
pub use floating::{
    FLOATING_TABLES, Floating, Forward, NodeFloating, RETURN_TABLES, Return, Returns, Target, Transport,
};
pub use mirror::{Mirror, NodeMirror};
pub use overlay::{Flood, Remote, RemoteNic, Remotes, remotes};
pub use policy_route::{MOST_POLICY_ROUTES, NodePolicyRoute, PolicyRoute, Steer};
pub use simulate::simulate;
pub use touched::{Touched, touched};
pub use vpc::{NodeVpc, Peer, Peering, Router, Via, VpcPeer, peer_device, router_mac, vpc_domain};

/// What a node holds, or is to hold, of ours. Nothing else on the node is described, and nothing else is touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// What bundles several of the node's own devices, by device name.
    #[serde(default)]
    pub bonds: BTreeMap<IfName, Bond>,
    /// Bridges of fabrics that carry trunks, by device name.
    #[serde(default)]
    pub fabrics: BTreeMap<IfName, FabricBridge>,
    /// One bridge per network, by device name.
    pub bridges: BTreeMap<IfName, Bridge>,
    /// What connects bridges to other nodes, by device name.
    pub uplinks: BTreeMap<IfName, Uplink>,
    /// What VXLAN uplinks know of other nodes, by the uplink's device name.
    #[serde(default)]
    pub remotes: BTreeMap<IfName, Remotes>,
    /// Routing domains, by network namespace name.
    pub domains: BTreeMap<String, Domain>,
    /// One tap per NIC, by device name.
    pub taps: BTreeMap<IfName, Tap>,
    /// What may leave each port, by device name. Facts without a device are left over and are removed.
    pub ports: BTreeMap<IfName, Port>,
    /// What may be opened by and towards NICs, by device name; of others everything.
    #[serde(default)]
    pub policies: BTreeMap<IfName, Policy>,
    /// Who the groups are that these name.
    #[serde(default)]
    pub members: Members,
    /// Where what NICs say and hear is copied to, by device name; of others nothing is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrors: BTreeMap<IfName, Mirror>,
}

/// Several of the node's own devices as one (kernel document networking/bonding.rst). They are given back as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// How frames are spread.
    pub mode: BondMode,
    /// How often the links are looked at, in milliseconds.
    pub miimon: u32,
    /// The devices.
    pub nics: BTreeSet<IfName>,
    /// MTU in bytes, of all of them.
    pub mtu: Mtu,
}

/// The bridge of a fabric that trunks ride on: it sorts frames by VLAN (IEEE 802.1Q), and a port has the VLANs that it
/// is told and no other. Trunk NICs are its ports; networks of one VLAN have a VLAN device on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricBridge {
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// MTU in bytes.
    pub mtu: Mtu,
    /// The way out; without one, the VLANs reach this node only.
    pub uplink: Option<FabricUplink>,
    /// The VLANs of the VLAN devices on it, tagged.
    pub inside: VlanSet,
}

/// The port of a fabric's bridge that leads out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricUplink {
    /// The device: one of the node's own, or a bond.
    pub device: IfName,
    /// The VLANs that it carries, tagged.
    pub tagged: VlanSet,
    /// The VLAN that stands inside for what has no tag on the wire. Frames that have this tag on the wire are dropped.
    pub untagged: Option<VlanId>,
}

/// A network's bridge. No spanning tree, no forward delay, no multicast snooping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// MTU in bytes.
    pub mtu: Mtu,
}

/// What connects a bridge to other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// The bridge that it is a port of.
    pub bridge: IfName,
    /// MTU in bytes.
    pub mtu: Mtu,
    /// What it is.
    pub kind: UplinkKind,
    /// Of a wire (a VXLAN uplink says it in its [`Flood`]): the addresses of gateways of ours, which every node has itself. Nobody on
    /// the wire is asked for them, and nobody there is believed to have them.
    #[serde(default)]
    pub own: BTreeSet<IpAddr>,
}

/// Kinds of uplink. Changing one needs a new device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UplinkKind {
    /// A VXLAN device without learning (RFC 7348); forwarding entries are programmed.
    Vxlan {
        /// Network identifier.
        vni: Vni,
        /// Outer source address; without one the kernel chooses by route.
        local: Option<IpAddr>,
        /// UDP port, 4789 by RFC 7348.
        port: u16,
    },
    /// A device of the node itself, such as `eth1`, as it is: untagged frames. It is not ours: it is given back as it
    /// was, and keeps its alias.
    Device,
    /// An 802.1Q sub-interface.
    Vlan {
        /// The device that carries the tagged frames.
        parent: IfName,
        /// VLAN id.
        id: VlanId,
    },
}

/// A routing domain: a network namespace with one leg per subnet, and maybe ways out, to other nodes and to other domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Gateway legs, by the name of their end on the bridge.
    pub legs: BTreeMap<IfName, Leg>,
    /// The way out to the host's own network.
    pub egress: Option<Egress>,
    /// The tunnel to the same domain on other nodes.
    #[serde(default)]
    pub router: Option<Router>,
    /// Links to other domains on this node, by the name of this domain's end.
    #[serde(default)]
    pub peers: BTreeMap<IfName, Peer>,
    /// Addresses of other networks that lead to NICs of this domain, by the name of their end on that network's bridge.
    #[serde(default)]
    pub floating: BTreeMap<IfName, Floating>,
    /// The ways back of conversations with NICs of this domain that floating addresses of other nodes led here.
    #[serde(default)]
    pub returns: Returns,
    /// Routes beside those that follow from legs and the way out.
    #[serde(default)]
    pub routes: BTreeMap<IpNet, Via>,
    /// What is asked before any route.
    #[serde(default)]
    pub policy_routes: BTreeSet<PolicyRoute>,
}

/// A subnet's gateway: a veth pair from the network's bridge into the domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// The readable name, kept as the alias of the end on the bridge.
    pub alias: String,
    /// The bridge that it is a port of.
    pub bridge: IfName,
    /// The name of the other end, inside the domain.
    pub peer: IfName,
    /// MAC of the end inside the domain: on a network with a wire the node's own, on others the same on every node.
    pub mac: MacAddr,
    /// Gateway addresses with prefix length, on the end inside the domain.
    pub addresses: BTreeSet<IpNet>,
    /// MTU of both ends in bytes.
    pub mtu: Mtu,
    /// Whether what is forwarded into the network gets the gateway's address as its source.
    pub symmetric: bool,
    /// Who on other networks may open connections into this one; everybody, if nothing is said.
    #[serde(default)]
    pub admits: Option<BTreeSet<IpNet>>,
}

/// A domain's way out: a veth pair to the host with a /31 (RFC 3021) of link-local addresses, the default route of the
/// domain over it, source translation to `peer_address` for the networks in `nat`, and for them alone: what comes from
/// any other source is not forwarded to the host. The host in turn masquerades what comes from the link-local
/// transit range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// The readable name, kept as the alias of the host's end.
    pub alias: String,
    /// The host's end.
    pub host: IfName,
    /// The end inside the domain.
    pub peer: IfName,
    /// Address of the host's end, /31.
    pub host_address: Ipv4Addr,
    /// Address of the end inside the domain, /31.
    pub peer_address: Ipv4Addr,
    /// Subnets whose traffic may leave, source-translated.
    pub nat: BTreeSet<IpNet>,
}

/// A NIC's tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The readable name, kept as the interface alias.
    pub alias: String,
    /// The bridge that it is a port of.
    pub bridge: IfName,
    /// MTU in bytes.
    pub mtu: Mtu,
    /// Queue pairs; more than one makes a multi-queue tap. Changing between one and more needs a new device.
    pub queues: u32,
    /// Transmit queue length in packets, where asked for.
    pub tx_queue_length: Option<u32>,
    /// Its VLANs, where it is a port of a fabric's bridge.
    #[serde(default)]
    pub vlans: Option<PortVlans>,
    /// How much it may carry.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// The VLANs of a trunk's port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlans {
    /// Those that are tagged towards the guest.
    pub tagged: VlanSet,
    /// The one that is untagged towards the guest.
    pub native: Option<VlanId>,
}

/// What may leave a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Who speaks DHCPv4 to it.
    pub dhcp4: Service,
    /// Who speaks DHCPv6 and router advertisements to it.
    pub dhcp6: Service,
    /// What it may send.
    pub security: Security,
}

/// Who speaks DHCP, or is a router, to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Service {
    /// Whoever is on the network.
    #[default]
    Open,
    /// Multihome, on the port itself: requests go no further, and nobody else's answers reach it.
    Served,
    /// Somebody else, whose answers reach it as the guard hands them on, and in no other way.
    Guarded,
}

/// What a port may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Frames from this MAC, with these addresses as sources (and the MAC's own link-local one), and neither DHCP
    /// server messages nor router advertisements or redirects.
    Strict {
        /// The NIC's MAC.
        mac: MacAddr,
        /// IPv4 addresses of the NIC.
        ipv4: BTreeSet<Ipv4Addr>,
        /// IPv6 addresses of the NIC, the link-local one included.
        ipv6: BTreeSet<Ipv6Addr>,
    },
    /// Of a port of a fabric's bridge: frames with or without a tag, whatever is in them, because behind a trunk there may
    /// be a router or a DHCP server; from this MAC alone, where there is one.
    Trunk(Option<MacAddr>),
    /// Anything.
    Promiscuous,
}

/// One change to a node. Applying it when it is already true changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Make the namespace: loopback up, forwarding on.
    CreateDomain(String),
    /// Remove the namespace, with everything in it.
    DeleteDomain(String),
    /// Make the bond, or make it this; its devices must not carry addresses of the node's own.
    PutBond(IfName, Bond),
    /// Remove the bond, and give its devices back.
    DeleteBond(IfName),
    /// Make the fabric's bridge, or make it this. A device that is the uplink of a network's bridge is taken over.
    PutFabric(IfName, FabricBridge),
    /// Remove the fabric's bridge, and give its device back, where it is still its port.
    DeleteFabric(IfName),
    /// Make the bridge, or give it this alias and MTU.
    PutBridge(IfName, Bridge),
    /// Remove the bridge.
    DeleteBridge(IfName),
    /// Make the uplink, or give it this bridge, alias and MTU; a device of another kind is replaced, and what else
    /// connected the bridge is removed. A device that is the uplink of a fabric's bridge is taken over.
    PutUplink(IfName, Uplink),
    /// Remove the uplink, with what it knows of other nodes.
    DeleteUplink(IfName),
    /// Make these the nodes that a VXLAN uplink copies broadcasts to.
    PutFlood(IfName, Flood),
    /// Make a NIC of another node known to a VXLAN uplink, or make it known with exactly this.
    PutRemote(IfName, MacAddr, Remote),
    /// Forget a NIC of another node.
    DeleteRemote(IfName, MacAddr),
    /// Make the leg of a domain, or give it this bridge, alias, MTU, MAC and exactly these addresses.
    PutLeg(String, IfName, Leg),
    /// Remove a leg by its end on the bridge.
    DeleteLeg(String, IfName),
    /// Make the domain's way out, or make it this.
    PutEgress(String, Egress),
    /// Remove the domain's way out; the second field is the host's end.
    DeleteEgress(String, IfName),
    /// Make the domain's tunnel to other nodes, or make it this; a device of another kind is replaced.
    PutRouter(String, Router),
    /// Remove the domain's tunnel to other nodes.
    DeleteRouter(String, IfName),
    /// Make the link between two domains, or make it anew if it is not whole.
    PutPeering(Peering),
    /// Remove a domain's end of a link to another domain, and so the link.
    DeletePeering(String, IfName),
    /// Make this the domain's route to a destination.
    PutRoute(String, IpNet, Via),
    /// Remove the domain's route to a destination.
    DeleteRoute(String, IpNet),
    /// Make exactly these the domain's policy routes.
    PutPolicyRoutes(String, BTreeSet<PolicyRoute>),
    /// Make an address of another network lead to NICs of the domain, or make it this.
    PutFloating(String, IfName, Floating),
    /// Remove a floating address by its end on the bridge.
    DeleteFloating(String, IfName),
    /// Make exactly these the ways back to floating addresses of other nodes.
    PutReturns(String, Returns),
    /// Make exactly these facts true for the port, whether the device exists or not.
    PutPort(IfName, Port),
    /// Forget the port's facts.
    DeletePort(IfName),
    /// Make exactly these the members of a group.
    PutMembers(String, BTreeSet<IpAddr>),
    /// Forget a group that no policy names any more.
    DeleteMembers(String),
    /// Make these the rules of a port, whether the device exists or not. Conversations that they allow go on, others end.
    PutPolicy(IfName, Policy),
    /// Let everything be opened by and towards a port.
    DeletePolicy(IfName),
    /// Make the tap, or give it this bridge, alias, MTU, queue length and VLANs.
    PutTap(IfName, Tap),
    /// Remove the tap.
    DeleteTap(IfName),
    /// Copy what a NIC says and hears to exactly this tap, in exactly these directions; both taps must be there.
    PutMirror(IfName, Mirror),
    /// Copy nothing of a NIC any more, whether its tap is there or not.
    DeleteMirror(IfName),
}
