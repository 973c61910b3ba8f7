//! `Vpc`: a routing domain, a namespace of its own on every node that needs it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, MGMT_FABRIC};

/// A routing domain: its networks reach each other by their gateways and nobody else; CIDRs of two VPCs may overlap.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "Vpc",
    plural = "vpcs",
    shortname = "vpc",
    category = "multihome",
    namespaced,
    status = "VpcStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A routing domain: its networks reach each other by their gateways and nobody else; CIDRs of two VPCs may overlap.",
    printcolumn(name = "Networks", type_ = "integer", json_path = ".status.networks", description = "Networks in it"),
    printcolumn(
        name = "VNI",
        type_ = "integer",
        json_path = ".status.vni",
        description = "VXLAN network identifier of its tunnels",
        priority = 1
    ),
    printcolumn(
        name = "Peers",
        type_ = "string",
        json_path = ".status.peers[*].vpc",
        description = "Vpcs that it peers with",
        priority = 1
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it routes"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What is wrong, or that nothing is",
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
pub struct VpcSpec {
    /// The fabric whose underlay its tunnels between nodes go by. Default: mgmt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_network: Option<String>,
    /// Routes inside the domain, beside those of its networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
    /// Where packets go that NICs of the domain's networks send by their gateways, by source and destination, before any other
    /// route is asked. What the network of a next hop itself sends is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_routes: Vec<PolicyRoute>,
    /// Other Vpcs whose networks are reached from here, and reach these. In force once both name each other. CIDRs that are
    /// exchanged must not overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<VpcPeer>,
}

/// A Vpc that another one peers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VpcPeer {
    /// Its name, or NAMESPACE/NAME.
    pub vpc: String,
    /// The networks of this Vpc that the other one reaches. Default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
}

/// A route inside a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticRoute {
    /// Destination, such as 10.60.0.0/16.
    pub cidr: String,
    /// Next hop: the address of a NIC in one of the domain's networks, or of a router on one that has a NIC on the same node.
    pub next_hop: String,
}

/// A route by source and destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRoute {
    /// The highest is asked first, 0 to 32767; of equal ones, the first in the list. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Source, such as 10.1.0.0/24. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Destination, such as 0.0.0.0/0. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What is done with such packets. Default: Reroute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<PolicyAction>,
    /// With Reroute: the next hop, the address of a NIC in one of the domain's networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
}

/// What a policy route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum PolicyAction {
    /// Packets go to the next hop.
    #[default]
    Reroute,
    /// Packets are dropped.
    Drop,
    /// Packets go where other routes say, whatever policy routes come after this one.
    Allow,
}

/// What became of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VpcPeerStatus {
    /// The other Vpc, NAMESPACE/NAME.
    pub vpc: String,
    /// CIDRs of the other one that are reached from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// What is in the way, in a sentence; left out if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What is observed of a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VpcStatus {
    /// How many networks are in it.
    #[serde(default)]
    pub networks: u32,
    /// Nodes on which NICs of it are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// VXLAN network identifier of its tunnels between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The Vpcs that it peers with, as far as that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<VpcPeerStatus>,
    /// Ready: it routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl VpcSpec {
    /// The fabric whose underlay its tunnels go by.
    pub fn fabric(&self) -> &str {
        self.cluster_network.as_deref().unwrap_or(MGMT_FABRIC)
    }
}
