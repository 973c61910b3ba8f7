//! What nodes find out about a network by probing it, and the words by which that is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FamilyRoute;

/// Type of the condition that sums up what the nodes found.
pub const CONNECTED: &str = "Connected";
/// Nothing wrong was found.
pub const OK: &str = "Connected";
/// The devices are in place, and there is nobody to ask.
pub const IN_PLACE: &str = "InPlace";
/// Multihome itself is what is asked for: its DHCP server, its gateway.
pub const OURS: &str = "Ours";
/// Somebody answers.
pub const ANSWERS: &str = "Answers";
/// No probe has come to an end yet.
pub const PROBING: &str = "Probing";
/// No node has a NIC of it.
pub const NOT_CARRIED: &str = "NotCarried";
/// Devices cannot be made.
pub const LAYER2_FAILED: &str = "Layer2Failed";
/// The cable is out.
pub const NO_CARRIER: &str = "NoCarrier";
/// Other nodes that carry the network do not answer.
pub const LAYER2_UNREACHABLE: &str = "Layer2Unreachable";
/// Small frames arrive, and large ones do not.
pub const MTU_HOLE: &str = "MTUHole";
/// The gateway does not answer.
pub const GATEWAY_SILENT: &str = "GatewaySilent";
/// No DHCP server answers.
pub const DHCP_SILENT: &str = "DHCPSilent";
/// The gateway does not answer from the node's own network. That is no fault.
pub const NOT_ROUTED: &str = "NotRouted";
/// The fabric has no device on this node.
pub const NO_UPLINK: &str = "NoUplink";

/// The words for what is wrong, the worst first: what explains others comes before them.
pub const WORST_FIRST: [&str; 7] =
    [LAYER2_FAILED, NO_CARRIER, LAYER2_UNREACHABLE, MTU_HOLE, GATEWAY_SILENT, DHCP_SILENT, NO_UPLINK];

/// What one node sees of a network. What was not asked for, or not found out yet, is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Connectivity {
    /// Whether something that is asked for is not known yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probing: bool,
    /// Whether the bridge and its uplink are in place, the uplink has a carrier, and other nodes that carry the network
    /// answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer2: Option<ProbeResult>,
    /// Whether packets as large as the network's MTU arrive at other nodes that carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<ProbeResult>,
    /// What is seen of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilyConnectivity>,
    /// What is seen of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilyConnectivity>,
}

/// What one node sees of one address family of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct FamilyConnectivity {
    /// Whether a DHCP server answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<ProbeResult>,
    /// Whether the gateway answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ProbeResult>,
    /// What somebody else's DHCP server or router says of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt: Option<FamilyRoute>,
    /// Whether the node's own (management) network is routed to somebody else's gateway: an echo request from the node, by its
    /// ordinary routing, is answered. `NotRouted` may well be meant, and is never a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<ProbeResult>,
}

/// The outcome of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// Whether it succeeded.
    pub ok: bool,
    /// Why, in one CamelCase word that programs can compare.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in one sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when it is so (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

impl Connectivity {
    /// All results by which a network is judged, layer 2 first. `routed` is none of them: it is about the node's own network.
    pub fn results(&self) -> impl Iterator<Item = &ProbeResult> {
        let families = [&self.ipv4, &self.ipv6].into_iter().flatten();
        let of_families = families.flat_map(|f| [&f.gateway, &f.dhcp]);
        [&self.layer2, &self.path_mtu].into_iter().chain(of_families).flatten()
    }

    /// What is wrong.
    pub fn faults(&self) -> Vec<&ProbeResult> {
        self.results().filter(|r| !r.ok).collect()
    }
}

impl ProbeResult {
    /// A result of which nobody has said yet since when it is so.
    pub fn new(ok: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { ok, reason: reason.into(), message: message.into(), time: None }
    }

    /// This result with its time: that of `before` where that says the same, else `now` (RFC 3339). Two that differ in
    /// their sentence alone are the same for as long as the word stays.
    #[must_use]
    pub fn since(self, before: Option<&Self>, now: &str) -> Self {
        let same = before.filter(|b| b.ok == self.ok && b.reason == self.reason).and_then(|b| b.time.clone());
        Self { time: Some(same.unwrap_or_else(|| now.to_owned())), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_not_judged_by_how_its_gateway_is_reached_from_elsewhere() {
        let routed = Some(ProbeResult::new(false, NOT_ROUTED, "it does not answer"));
        let ipv4 = Some(FamilyConnectivity { routed, ..FamilyConnectivity::default() });
        let seen = Connectivity { ipv4: ipv4.clone(), ipv6: ipv4, ..Connectivity::default() };
        assert!(seen.results().next().is_none() && seen.faults().is_empty());
        assert!(!WORST_FIRST.contains(&NOT_ROUTED));
    }

    #[test]
    fn time_moves_with_the_word_alone() {
        let first = ProbeResult::new(false, DHCP_SILENT, "one").since(None, "t1");
        let same = ProbeResult::new(false, DHCP_SILENT, "two").since(Some(&first), "t2");
        assert_eq!((same.time.as_deref(), same.message.as_str()), (Some("t1"), "two"));
        let other = ProbeResult::new(true, ANSWERS, "three").since(Some(&same), "t3");
        assert_eq!(other.time.as_deref(), Some("t3"));
    }
}
