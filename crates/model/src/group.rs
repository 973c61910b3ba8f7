//! `SecurityGroup`: rules about what NICs may open, and what may be opened towards them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// Rules about what NICs may open and what may be opened towards them, and the NICs that they are for.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "SecurityGroup",
    plural = "securitygroups",
    shortname = "sg",
    category = "multihome",
    namespaced,
    status = "SecurityGroupStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Rules about what NICs may open and what may be opened towards them, and the NICs that they are for.",
    printcolumn(
        name = "Ingress",
        type_ = "integer",
        json_path = ".status.ingressRules",
        description = "Rules about what is opened towards its NICs"
    ),
    printcolumn(
        name = "Egress",
        type_ = "integer",
        json_path = ".status.egressRules",
        description = "Rules about what its NICs open"
    ),
    printcolumn(name = "NICs", type_ = "integer", json_path = ".status.nics", description = "NICs that it is for"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its rules can be enforced as written"
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
pub struct SecurityGroupSpec {
    /// What others may open towards its NICs, in order: the first rule that matches decides. Once one of them allows something,
    /// what none of a NIC's groups allows is refused. Without any, the group says nothing of this direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<SecurityRule>,
    /// What its NICs may open towards others; otherwise as `ingress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<SecurityRule>,
}

/// A rule. It matches where everything that it says is true of the first packet of a conversation; what belongs to a
/// conversation that was allowed passes in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityRule {
    /// Allow or Deny. Default: Allow.
    #[serde(default)]
    pub action: RuleAction,
    /// Any, TCP, UDP, SCTP, ICMP, ICMPv6, or the number of an IP protocol, 0 to 255. Default: Any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Ports at the side that is opened to, of TCP, UDP and SCTP: such as "22", or "8000-8100". Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Type of ICMP or ICMPv6, 0 to 255. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_type: Option<u32>,
    /// Code of that type, 0 to 255. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_code: Option<u32>,
    /// Who is at the other end: any of these. Default: anyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<RulePeer>,
    /// What it is for, in your words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What becomes of what a rule matches, and of what no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum RuleAction {
    /// It passes, and so does what belongs to it.
    #[default]
    Allow,
    /// It is dropped, and counted.
    Deny,
}

/// Who is at the other end of a conversation: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RulePeer {
    /// Addresses, such as 10.50.0.0/16 or 2001:db8::7/128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The NICs of a SecurityGroup, by the addresses that they have in the same network, the same Vpc or one that peers with it:
    /// NAME in the group's own namespace, or NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Which way a conversation is opened, as its NIC sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// Towards the NIC.
    Ingress,
    /// By the NIC.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// What becomes of what no rule matches, for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultPolicy {
    /// What others open towards NICs of the network. Default: Allow.
    #[serde(default)]
    pub ingress: RuleAction,
    /// What NICs of the network open. Default: Allow.
    #[serde(default)]
    pub egress: RuleAction,
}

impl DefaultPolicy {
    /// The default of one direction.
    pub fn of(&self, direction: Direction) -> RuleAction {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// What is observed of a security group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupStatus {
    /// How many rules it has about what is opened towards its NICs.
    #[serde(default)]
    pub ingress_rules: u32,
    /// How many rules it has about what its NICs open.
    #[serde(default)]
    pub egress_rules: u32,
    /// How many NICs it is for: those that name it, and those of networks that do.
    #[serde(default)]
    pub nics: u32,
    /// Ready: its rules can be enforced as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What is enforced at a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The groups in force, in the order in which their rules are asked: NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What becomes of what no rule matches, and why, for each direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<DefaultInForce>,
    /// The rules, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleStatus>,
    /// TCP packets that belong to no conversation that is known and do not open one; they are dropped.
    #[serde(default)]
    pub stray: u64,
    /// Packets that a rule allowed and that were dropped because the NIC has as many conversations as can be remembered of one.
    #[serde(default)]
    pub crowded: u64,
}

/// What becomes of what no rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultInForce {
    /// Which way.
    pub direction: Direction,
    /// Allow or Deny.
    pub action: RuleAction,
    /// Why: what says so.
    pub because: String,
    /// Packets that it decided about.
    #[serde(default)]
    pub packets: u64,
}

/// A rule in force, and how often it decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// The group that it is from: NAMESPACE/NAME.
    pub group: String,
    /// Which way.
    pub direction: Direction,
    /// The rule in words.
    pub rule: String,
    /// Packets that it decided about: those that opened conversations, or were refused.
    #[serde(default)]
    pub packets: u64,
}
