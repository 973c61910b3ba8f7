//! `ClusterNetwork`: a physical fabric that networks ride on.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// Name of the fabric that is built in: the nodes' own management network.
pub const MGMT_FABRIC: &str = "mgmt";

/// A physical fabric that networks ride on. `mgmt`, the nodes' own network, is built in.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "ClusterNetwork",
    plural = "clusternetworks",
    shortname = "cn",
    category = "multihome",
    status = "ClusterNetworkStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A physical fabric that networks ride on. `mgmt`, the nodes' own network, is built in.",
    printcolumn(name = "MTU", type_ = "integer", json_path = ".spec.mtu", description = "Largest packet in bytes"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether networks can ride on it"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkSpec {
    /// The NICs that carry it, per group of nodes. None: networks on it reach their own node only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<Uplink>,
    /// Largest packet in bytes, 576 to 9000; 0 or left out means 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9000))]
    pub mtu: Option<u32>,
}

/// The NICs that carry a fabric on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// Labels of the nodes that this is for. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Device names; more than one makes a bond.
    pub nics: Vec<String>,
    /// How several NICs are bundled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
}

/// How several NICs are bundled (kernel document networking/bonding.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bond {
    /// active-backup, balance-rr, balance-xor, broadcast, 802.3ad, balance-tlb or balance-alb. Default: active-backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How often the link is looked at, in milliseconds. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miimon: Option<u32>,
}

/// What is observed of a fabric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkStatus {
    /// What each node sees, by node name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, ClusterNetworkNodeStatus>,
    /// Ready: networks can ride on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What one node sees of a fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkNodeStatus {
    /// The device that carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether the cable is plugged in.
    #[serde(default)]
    pub carrier: bool,
    /// Speed in Mbit/s, where the driver says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u32>,
    /// MTU in bytes that the device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl ClusterNetworkSpec {
    /// The MTU in bytes, with the default filled in.
    pub fn mtu(&self) -> u32 {
        match self.mtu {
            None | Some(0) => 1500,
            Some(m) => m,
        }
    }
}
