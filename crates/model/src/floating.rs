//! `FloatingIP`: an address of a network outside that leads to a NIC of a routing domain.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Family};

/// An address of a Vlan or Untagged network that leads to a NIC behind a gateway of Multihome's: all of it, or some ports.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "FloatingIP",
    plural = "floatingips",
    shortname = "fip",
    category = "multihome",
    namespaced,
    status = "FloatingIPStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "An address of a Vlan or Untagged network that leads to a NIC behind a gateway of Multihome's: all of it, or some ports.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", description = "The address"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network", description = "Where it is from"),
    printcolumn(name = "NIC", type_ = "string", json_path = ".spec.nic", description = "Where it leads"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", description = "The node that has it"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it leads there"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.target",
        description = "The NIC's own address",
        priority = 1
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
pub struct FloatingIPSpec {
    /// The network that the address is from: type Vlan or Untagged, with a subnet of the address's family. NAME or NAMESPACE/NAME.
    pub network: String,
    /// IPv4 or IPv6. Default: that of `address`, or IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// The address. Default: one of the network's pools; where another DHCP server gives addresses too, pools or an address must
    /// be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The NIC that it leads to, in the same namespace.
    pub nic: String,
    /// The ports that lead there, at most 10. Without any the whole address does, in and out; of the NIC's other family nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<PortForward>,
}

/// A port that leads to a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortForward {
    /// TCP or UDP. Default: TCP.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port of the floating address, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u32,
    /// The port of the NIC, 1 to 65535. Default: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<u32>,
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// RFC 768.
    #[serde(rename = "UDP")]
    Udp,
}

/// What is observed of a floating address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FloatingIPStatus {
    /// The address that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The NIC's own address of the same family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The node that has it: the NIC's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Ready: it leads there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl FloatingIPSpec {
    /// How many ports one may forward.
    pub const MOST_FORWARDS: usize = 10;
}
