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
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What is wrong with its uplinks",
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
pub struct ClusterNetworkSpec {
    /// The NICs that carry it, per group of nodes. None: networks on it reach their own node only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<Uplink>,
    /// Largest packet in bytes, 576 to 9000; 0 or left out means 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// CIDRs of one family, such as 10.20.0.0/16, at most 64: the tunnels of overlays on this fabric go from each node's own address
    /// in one of them to those of other nodes. Default: they go between the nodes' tunnel addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub underlay: Vec<String>,
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
    /// How often the link is looked at, in milliseconds, 1 to 10000. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub miimon: Option<u32>,
}

/// How a bond spreads frames over its NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum BondMode {
    /// By turns.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// One of them, another when it fails.
    #[default]
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// By a hash of addresses.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// All of them carry everything.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// By agreement with the switch (IEEE 802.3ad, LACP).
    #[serde(rename = "802.3ad")]
    Lacp,
    /// Transmit by load.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// Transmit and receive by load.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// All of them, in the order of the kernel's numbers (include/uapi/linux/if_bonding.h).
    pub const ALL: [Self; 7] = [
        Self::BalanceRr,
        Self::ActiveBackup,
        Self::BalanceXor,
        Self::Broadcast,
        Self::Lacp,
        Self::BalanceTlb,
        Self::BalanceAlb,
    ];

    /// Its name in the kernel's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BalanceRr => "balance-rr",
            Self::ActiveBackup => "active-backup",
            Self::BalanceXor => "balance-xor",
            Self::Broadcast => "broadcast",
            Self::Lacp => "802.3ad",
            Self::BalanceTlb => "balance-tlb",
            Self::BalanceAlb => "balance-alb",
        }
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl std::str::FromStr for BondMode {
    type Err = crate::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|m| m.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            crate::ParseError(format!("bond mode {text:?} is not known: use one of {all}"))
        })
    }
}

impl Bond {
    /// How often the link is looked at where nothing is said, in milliseconds.
    pub const DEFAULT_MIIMON: u32 = 100;
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
    /// The address that tunnels of overlays on it start from and end at, where the fabric has an underlay of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_address: Option<String>,
    /// What is wrong with it, in a sentence; left out if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl ClusterNetworkSpec {
    /// How many CIDRs an underlay may have.
    pub const MOST_UNDERLAYS: usize = 64;

    /// The MTU in bytes, with the default filled in.
    pub fn mtu(&self) -> u32 {
        match self.mtu {
            None | Some(0) => 1500,
            Some(m) => m,
        }
    }
}
