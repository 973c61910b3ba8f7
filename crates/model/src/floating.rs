//! `FloatingIP`: an address of a network outside that leads to NICs of a routing domain.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Family};

/// An address of a Vlan or Untagged network that leads to NICs behind a gateway of Multihome's: all of it to one, or some ports to several.
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
    doc = "An address of a Vlan or Untagged network that leads to NICs behind a gateway of Multihome's: all of it to one, or some ports to several.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", description = "The address"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network", description = "Where it is from"),
    printcolumn(
        name = "NIC",
        type_ = "string",
        json_path = ".spec.nic",
        description = "Where it leads, if it is one NIC"
    ),
    printcolumn(
        name = "Backends",
        type_ = "string",
        json_path = ".status.backendsReady",
        description = "How many of the NICs that it leads to are ready"
    ),
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
        description = "The NIC's own address, if it is one NIC",
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
    /// The NIC that it leads to, in the same namespace. Not needed where every forward has NICs of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// The ports that lead there, at most 10. Without any the whole address does, in and out; of the NIC's other family nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<PortForward>,
    /// Which of several NICs a new conversation gets. Default: RoundRobin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// How it is found out whether a NIC answers. Default: a NIC counts while its VM runs and it has an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
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
    /// The NICs that it leads to, in the same namespace, instead of spec.nic; at most 32 different ones in all forwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<String>,
    /// Or the NICs with all these labels, in the same namespace, so that new ones join by themselves; the first 32 by name. Labels of
    /// its VM count as a NIC's, and multihome.io/network is the name of its network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nic_selector: BTreeMap<String, String>,
}

/// Which of several NICs a new conversation gets: RoundRobin (the default), the next one, or Source, the same one as all of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum Algorithm {
    /// One after the other.
    #[default]
    RoundRobin,
    /// All conversations of a client's address get the same one, for as long as that is ready.
    Source,
}

/// How it is found out whether a NIC answers: a TCP connection to it, from its own node. Default: one counts while its VM runs and it
/// has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// The TCP port that is asked, 1 to 65535. Default: each target port that leads to the NIC; forwards of UDP need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u32>,
    /// Seconds from one question to the next, 1 to 300. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub interval: Option<u32>,
    /// Seconds until a question counts as not answered, 1 to 60. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout: Option<u32>,
    /// How many questions in a row must fail until the NIC is not ready, 1 to 100. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: Option<u32>,
    /// How many in a row must be answered until it is ready again, 1 to 100. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub successes: Option<u32>,
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
    /// The NIC's own address of the same family, where it leads to one NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The node that has it: one with a NIC that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many of the NICs that it leads to are ready, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends_ready: Option<String>,
    /// The NICs that it leads to, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, Backend>,
    /// Ready: it leads there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What is observed of a NIC that a floating address leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its own address of the same family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether it is ready for new conversations. Where none is, all those get them that run.
    #[serde(default)]
    pub ready: bool,
    /// Why it is ready or not, in a word: Ready, NotChecked, CheckFailed, NodeSilent, NotRunning, NoAddress, NICMissing,
    /// NotBehindGateway, OtherDomain or OtherNode.
    #[serde(default)]
    pub reason: String,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What its node found when it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// What a node found when it asked a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The node that asked.
    pub node: String,
    /// The address and ports that it asked, such as 10.1.0.7:80,443.
    pub asked: String,
    /// Whether it was answered.
    pub passes: bool,
    /// What was wrong, in a sentence; empty if nothing was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl FloatingIPSpec {
    /// How many ports one may forward.
    pub const MOST_FORWARDS: usize = 10;
    /// How many NICs one may lead to.
    pub const MOST_BACKENDS: usize = 32;
}
