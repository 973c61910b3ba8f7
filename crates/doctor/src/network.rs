//! The rules for a network: what its nodes found out about it by probing.

use std::collections::BTreeMap;

use multihome_model::connectivity::{
    DHCP_SILENT, GATEWAY_SILENT, LAYER2_FAILED, LAYER2_UNREACHABLE, MTU_HOLE, NO_CARRIER, NO_UPLINK,
};
use multihome_model::{Connectivity, ProbeResult};

use crate::{Finding, Severity};

/// Everything that nodes found wrong with a network, the worst first. `network` is its name as people write it; `seen` is what
/// each node sees, by node name.
pub fn examine_network(network: &str, seen: &BTreeMap<String, Connectivity>) -> Vec<Finding> {
    let mut found: Vec<Finding> = seen.iter().flat_map(|(node, c)| faults(network, node, c)).collect();
    found.sort_by_key(|f| f.severity);
    found
}

/// What one node found wrong with a network.
pub(crate) fn faults(network: &str, node: &str, seen: &Connectivity) -> Vec<Finding> {
    seen.faults().into_iter().map(|r| finding(network, node, r)).collect()
}

fn finding(network: &str, node: &str, result: &ProbeResult) -> Finding {
    let since = result.time.as_ref().map(|t| format!(" since {t}")).unwrap_or_default();
    let (rule, severity, consequence, fix) = words(&result.reason);
    Finding {
        severity,
        rule,
        subject: format!("net/{network}"),
        message: format!("network {network} on node {node}: {}", result.message),
        evidence: vec![format!("status.connectivity of net/{network}: {} on node {node}{since}", result.reason)],
        consequence: consequence.into(),
        fix: fix.into(),
    }
}

/// Rule, severity, what it leads to, and its cure.
fn words(reason: &str) -> (&'static str, Severity, &'static str, &'static str) {
    match reason {
        LAYER2_FAILED => (
            "network-broken",
            Severity::Error,
            "VMs of other nodes and hosts outside are not reached by it",
            "mend what the sentence names; it is tried again by itself",
        ),
        NO_CARRIER => (
            "no-carrier",
            Severity::Error,
            "nothing outside of the node is reached by it",
            "put the cable in, or bring up the switch's port",
        ),
        LAYER2_UNREACHABLE => (
            "layer2-unreachable",
            Severity::Error,
            "VMs of these nodes do not reach each other by it",
            "give the switch's ports of all these nodes the network's VLAN, and start the agent on a node where it does not run",
        ),
        MTU_HOLE => (
            "mtu-hole",
            Severity::Error,
            "connections open and then hang as soon as much is sent",
            "raise the MTU of what is between the nodes, or lower the network's to what passes: «kubectl edit net», spec.mtu",
        ),
        GATEWAY_SILENT => (
            "gateway-silent",
            Severity::Error,
            "guests reach nothing beyond the network by it",
            "bring up the router or its port; if the network has another gateway, write it into its spec",
        ),
        DHCP_SILENT => (
            "dhcp-silent",
            Severity::Error,
            "guests get no address, or lose theirs when the lease ends",
            "start the network's DHCP server; where there is to be none, say dhcp: None in the network's spec",
        ),
        NO_UPLINK => (
            "no-uplink",
            Severity::Warning,
            "VMs on this node reach each other alone by it",
            "add an uplink for this node to the ClusterNetwork",
        ),
        _ => (
            "network-fault",
            Severity::Warning,
            "traffic by this network may go wrong",
            "mend what the sentence names; it is looked at again by itself",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::FamilyConnectivity;
    use multihome_model::connectivity::{ANSWERS, NOT_ROUTED, WORST_FIRST};

    #[test]
    fn every_word_has_a_rule_and_a_cure_of_its_own() {
        let rules: std::collections::BTreeSet<_> = WORST_FIRST.iter().map(|w| words(w).0).collect();
        assert_eq!(rules.len(), WORST_FIRST.len());
        assert!(!rules.contains("network-fault"));
    }

    #[test]
    fn what_nodes_found_wrong_is_told_the_worst_first() {
        let result = |ok, reason: &str| Some(ProbeResult::new(ok, reason, "so it is").since(None, "noon"));
        let a = Connectivity { layer2: result(false, NO_UPLINK), ..Connectivity::default() };
        // Management need not be routed to it.
        let routed = FamilyConnectivity { routed: result(false, NOT_ROUTED), ..FamilyConnectivity::default() };
        let b = Connectivity {
            layer2: result(true, ANSWERS),
            ipv4: Some(routed),
            path_mtu: result(false, MTU_HOLE),
            ..Connectivity::default()
        };
        let found = examine_network("lan", &[("a".into(), a), ("b".into(), b)].into());
        assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), ["mtu-hole", "no-uplink"]);
        assert_eq!(found[0].message, "network lan on node b: so it is");
        assert_eq!(found[0].evidence, ["status.connectivity of net/lan: MTUHole on node b since noon"]);
        assert!(examine_network("lan", &BTreeMap::new()).is_empty());
    }
}
