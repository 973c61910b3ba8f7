//! What a Node says of itself, beyond what Kubernetes knows.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// The annotation with the address that a node's tunnels start from and end at. Without it, the node's InternalIP is.
pub const TUNNEL_ADDRESS: &str = "multihome.io/tunnel-address";

/// The annotation with the identity of the agent that speaks for a node: what tells it from another agent of the same name.
pub const AGENT_ID: &str = "multihome.io/agent-id";

/// What our agents call themselves in `status.nodeInfo.kubeletVersion`, before the version.
pub const AGENT: &str = "multihome-";

/// The address that a node's tunnels start from and end at.
pub fn tunnel_address(node: &Node) -> Option<IpAddr> {
    if let Some(text) = node.annotations().get(TUNNEL_ADDRESS) {
        return text.parse().ok();
    }
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
}

/// Whether the node is one of ours alone: no kubelet speaks for it.
pub fn is_ours_alone(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
    info.is_none_or(|i| i.kubelet_version.is_empty() || i.kubelet_version.starts_with(AGENT))
}

/// Whether VMs may be started on it.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        && node.spec.as_ref().is_none_or(|s| s.unschedulable != Some(true))
        && node.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_comes_before_what_others_say() {
        let mut node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"},
            "status": {"addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.7"}]},
        }))
        .unwrap();
        assert_eq!(tunnel_address(&node), "192.0.2.7".parse().ok());
        node.annotations_mut().insert(TUNNEL_ADDRESS.into(), "2001:db8::7".into());
        assert_eq!(tunnel_address(&node), "2001:db8::7".parse().ok());
        node.annotations_mut().insert(TUNNEL_ADDRESS.into(), "seven".into());
        assert_eq!(tunnel_address(&node), None, "what is written there counts, right or wrong");
    }
}
