//! `Network`: one layer-2 network that NICs attach to.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BandwidthSpec, Condition, Connectivity, DefaultPolicy, Family};

/// One layer-2 network that the NICs of virtual machines attach to.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    shortname = "net",
    category = "multihome",
    namespaced,
    status = "NetworkStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One layer-2 network that the NICs of virtual machines attach to.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "What kind of network it is"),
    printcolumn(name = "VLAN", type_ = "integer", json_path = ".spec.vlan.id", description = "VLAN id, 1 to 4094"),
    printcolumn(
        name = "CIDR",
        type_ = "string",
        json_path = ".status.route.ipv4.cidr",
        description = "IPv4 subnet in force, written down or learnt"
    ),
    printcolumn(
        name = "Gateway",
        type_ = "string",
        json_path = ".status.route.ipv4.gateway",
        description = "IPv4 gateway in force, written down or learnt"
    ),
    printcolumn(name = "MTU", type_ = "integer", json_path = ".status.mtu", description = "Effective MTU in bytes"),
    printcolumn(name = "NICs", type_ = "integer", json_path = ".status.nics", description = "NICs that use it"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether NICs can attach"
    ),
    printcolumn(
        name = "Connectivity",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].reason",
        description = "What the nodes that carry it found by probing, the worst of it in one word"
    ),
    printcolumn(name = "VPC", type_ = "string", json_path = ".spec.vpc", description = "Routing domain", priority = 1),
    printcolumn(
        name = "VNI",
        type_ = "integer",
        json_path = ".status.vni",
        description = "VXLAN network identifier",
        priority = 1
    ),
    printcolumn(
        name = "Free",
        type_ = "integer",
        json_path = ".status.ipv4Free",
        description = "IPv4 addresses left",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(
        name = "Findings",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].message",
        description = "What is wrong with its connectivity, and on which nodes",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSpec {
    /// What kind of network it is. Management: a bridge on each node behind a gateway of its own, with NAT to the
    /// outside. Vlan: one VLAN of a cluster network's fabric. VlanTrunk: several VLANs, tagged. Untagged: the fabric
    /// itself. Overlay: VXLAN between the nodes. Cni: made by a CNI plugin that is not ours.
    pub r#type: NetworkType,
    /// The ClusterNetwork (physical fabric) that it rides on. Default: `mgmt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_network: Option<String>,
    /// VLAN settings; needed for types Vlan and VlanTrunk and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanSpec>,
    /// The Vpc (routing domain) that its gateway belongs to. A Management or Overlay network without one is a routing
    /// domain of its own. A Vlan or Untagged network with one gets its gateway from Multihome; without one, the
    /// gateway is a router of yours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// VXLAN network identifier, 1 to 16777215; chosen if left out. Type Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16777215))]
    pub vni: Option<u32>,
    /// IPv4 subnet and what is served on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<IpFamilySpec>,
    /// IPv6 subnet and what is served on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<IpFamilySpec>,
    /// Where CIDR and gateway come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteMode>,
    /// Whether traffic that leaves the routing domain is source-translated to the node's address.
    /// Default: true for Management, false for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// How the replies of guests whose default route is by another NIC find their way back: None (as the guest routes
    /// them), or Gateway: what the gateway here forwards into the network comes from the gateway's own address, so that
    /// the guest answers on-link, whatever it is configured to do. The guest then sees the gateway's address instead of
    /// the client's. Only where Multihome is the gateway. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<Symmetric>,
    /// Nobody on other networks may open connections into this one, but for `allowFrom`; what its own guests open is answered.
    /// Only where Multihome is the gateway. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// The CIDRs that may open connections into a private network, such as 10.50.0.0/16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    /// The SecurityGroups that every NIC in it is in, before the NIC's own: NAME in its own namespace, or NAMESPACE/NAME. Not for
    /// type VlanTrunk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// What becomes of what no rule of a NIC's SecurityGroups decides, for NICs in no group that allows something in that
    /// direction: once one does, it is refused. Default: Allow in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_policy: Option<DefaultPolicy>,
    /// How much each NIC in it may carry that says nothing itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthSpec>,
    /// Largest packet in bytes, 576 (with IPv6 1280) up to what the fabric carries. Default: what the fabric carries,
    /// less the encapsulation's overhead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<u32>,
}

/// Who sees to it that replies leave by the NIC that they are due on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum Symmetric {
    /// The guest, or nobody.
    #[default]
    None,
    /// The gateway, by source translation.
    Gateway,
}

/// Kinds of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum NetworkType {
    /// A bridge on each node behind a gateway of its own, with NAT to the outside.
    #[default]
    Management,
    /// One VLAN of a fabric, untagged towards the guest.
    Vlan,
    /// Several VLANs of a fabric, tagged towards the guest.
    VlanTrunk,
    /// The fabric itself, untagged.
    Untagged,
    /// VXLAN between the nodes (RFC 7348).
    Overlay,
    /// Made by a CNI plugin that is not ours.
    Cni,
}

impl NetworkType {
    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Management => "Management",
            Self::Vlan => "Vlan",
            Self::VlanTrunk => "VlanTrunk",
            Self::Untagged => "Untagged",
            Self::Overlay => "Overlay",
            Self::Cni => "Cni",
        }
    }

    /// Whether it leaves the node by a ClusterNetwork's own devices, as frames of its own.
    pub fn rides_on_uplink(self) -> bool {
        matches!(self, Self::Vlan | Self::VlanTrunk | Self::Untagged)
    }
}

/// VLAN settings of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VlanSpec {
    /// The VLAN id, 1 to 4094; for a trunk, the native VLAN: untagged towards the guest, tagged on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The VLANs that a trunk carries, tagged. They may be VLANs of other networks, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<TrunkRange>,
    /// Whether networks of other namespaces may be the same VLAN of the same fabric; all of them must say so. They are
    /// then one layer-2 network. Type Vlan only. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A range of VLAN ids, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrunkRange {
    /// First VLAN id, 1 to 4094.
    pub first: u32,
    /// Last VLAN id, at least `first`. Default: `first`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
}

/// One address family of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpFamilySpec {
    /// The subnet, such as 10.10.0.0/24, without host bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The router that guests reach other networks by; an address of the subnet. Leave it out on a network that
    /// offers none: it can then never hold a default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Where addresses are chosen from: `FIRST-LAST` or a single address each. Default: the whole subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// Addresses that are never given to a NIC: `FIRST-LAST` or a single address each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Who serves DHCP: Server (Multihome), Guard (a server of yours, guarded), None (nobody). Default: Server for
    /// Management and Overlay and for networks of a Vpc, else Guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<DhcpMode>,
    /// Name servers, told to guests whose primary NIC is here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Tell the name servers to guests whose primary NIC is elsewhere, too. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dns_on_secondary: bool,
    /// The domain name that guests are told (DHCP option 15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains that guests search names in (DHCP option 119, RFC 3397).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search_domains: Vec<String>,
    /// Time servers (DHCP option 42).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Routes by this network that every guest gets, whichever NIC is primary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<NetworkRoute>,
    /// How long a guest may keep what it was told before it asks again, in seconds, 60 to 4294967294. Default: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u32>,
    /// How guests get their IPv6 address where Multihome serves it: Stateful (DHCPv6), Stateless (formed from the
    /// router advertisement's prefix, other settings by DHCPv6) or Slaac (everything by router advertisement). The
    /// latter two need a /64. Default: Stateful. Not for IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,
    /// DHCP relays (giaddr) whose packets are answered. Others are dropped and counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// An address of the subnet that every node pings a gateway of yours from. No NIC gets it. Default: none; where a DHCP server
    /// of yours gives leases, one is taken for a moment instead. Not for IPv6, whose gateways are pinged from link-local addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_address: Option<String>,
}

/// A route by a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkRoute {
    /// Destination, such as 10.50.0.0/16. Never the default route: that is decided by which NIC is primary.
    pub to: String,
    /// Next hop, an address of the subnet. Default: the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// Who serves DHCP on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DhcpMode {
    /// Multihome answers.
    Server,
    /// A server of yours answers; Multihome stands between and keeps the route plan true.
    Guard,
    /// Nobody does.
    None,
}

/// How guests get their IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum Addressing {
    /// From DHCPv6 (RFC 8415), with the address of the NIC's claim.
    #[default]
    Stateful,
    /// Formed by the guest (RFC 4862); name servers and the like by DHCPv6.
    Stateless,
    /// Formed by the guest; name servers by router advertisements (RFC 8106).
    Slaac,
}

/// Where a network's CIDR and gateway come from. Default: Auto where the DHCP server is somebody else's and no CIDR is
/// given, else Manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouteMode {
    /// Learnt from the network's own DHCP server and router, on every node that carries it.
    Auto,
    /// Written in the spec.
    Manual,
    /// Not known, and nobody is asked.
    None,
}

/// What is observed of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// Effective MTU in bytes: the fabric's, less the encapsulation's overhead, lowered by `spec.mtu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// VXLAN network identifier in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// How many NICs use it.
    #[serde(default)]
    pub nics: u32,
    /// IPv4 addresses that NICs hold.
    #[serde(default)]
    pub ipv4_used: u64,
    /// IPv4 addresses that are left to choose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_free: Option<u64>,
    /// Name of the NetworkAttachmentDefinition that it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_attachment_definition: Option<String>,
    /// CIDR and gateway in force, and where they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteStatus>,
    /// What each node that carries it sees, by node name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connectivity: BTreeMap<String, Connectivity>,
    /// Ready: NICs can attach. Connected: no node that carries it found anything wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where a network's CIDRs and gateways come from, and what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The mode in force.
    pub mode: RouteMode,
    /// IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilyRoute>,
    /// IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilyRoute>,
    /// Where nodes learnt different things: who learnt what, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// CIDR and gateway of one address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FamilyRoute {
    /// The subnet, such as 10.10.0.0/24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The router; missing where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Who it was learnt from: the DHCP server, or the router that advertised the prefix. Missing where it is written
    /// down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Since when it is known so (RFC 3339). Missing where it is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

impl NetworkSpec {
    /// The fabric that it rides on.
    pub fn fabric(&self) -> &str {
        self.cluster_network.as_deref().unwrap_or(crate::MGMT_FABRIC)
    }
    /// Whether Multihome itself is the gateway.
    pub fn owns_gateway(&self) -> bool {
        matches!(self.r#type, NetworkType::Management | NetworkType::Overlay) || self.vpc.is_some()
    }
    /// Whether traffic that leaves the routing domain is source-translated.
    pub fn nat(&self) -> bool {
        self.nat_outgoing.unwrap_or(self.r#type == NetworkType::Management)
    }
    /// Where CIDR and gateway come from.
    pub fn route_mode(&self) -> RouteMode {
        let written = [&self.ipv4, &self.ipv6].into_iter().flatten().any(|f| f.cidr.is_some());
        let foreign = self.dhcp_mode(Family::IPv4) == DhcpMode::Guard;
        self.route.unwrap_or(if foreign && !written { RouteMode::Auto } else { RouteMode::Manual })
    }
    /// The settings of one address family.
    pub fn family(&self, family: Family) -> Option<&IpFamilySpec> {
        match family {
            Family::IPv4 => self.ipv4.as_ref(),
            Family::IPv6 => self.ipv6.as_ref(),
        }
    }
    /// Who serves DHCP for a family.
    pub fn dhcp_mode(&self, family: Family) -> DhcpMode {
        match self.family(family) {
            // Whoever answers there is not us: nothing is told twice, nothing reaches a guest unguarded.
            None if !self.owns_gateway() && matches!(self.r#type, NetworkType::Vlan | NetworkType::Untagged) => {
                DhcpMode::Guard
            }
            None => DhcpMode::None,
            Some(f) => f.dhcp.unwrap_or(match self.r#type {
                NetworkType::VlanTrunk | NetworkType::Cni => DhcpMode::None,
                _ if self.owns_gateway() => DhcpMode::Server,
                _ => DhcpMode::Guard,
            }),
        }
    }
}
