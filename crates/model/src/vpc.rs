//! `Vpc`: a routing domain, a namespace of its own on every node that needs it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

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
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it routes"
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
    /// Routes inside the domain, beside those of its networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
}

/// A route inside a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticRoute {
    /// Destination, such as 10.60.0.0/16.
    pub cidr: String,
    /// Next hop, an address in one of the domain's networks.
    pub next_hop: String,
}

/// What is observed of a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VpcStatus {
    /// How many networks are in it.
    #[serde(default)]
    pub networks: u32,
    /// Nodes on which it exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Ready: it routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
