//! NICs that may send anything: what that opens is said on the NIC, and in an Event when it begins and when it ends.

use kube::ResourceExt;
use multihome_model::condition::find;
use multihome_model::{DhcpMode, Family, NetworkInterface, NetworkType, PortSecurity};

use super::Context;
use crate::status;
use crate::vm::VmNicView;

pub(super) const REASON: &str = "Promiscuous";

/// What a NIC may do because it may send anything, in one sentence; nothing where it may not.
pub(super) fn what_is_open(view: &VmNicView) -> Option<String> {
    if view.nic.spec.port_security != Some(PortSecurity::Promiscuous) {
        return None;
    }
    let (nic, network) = (view.nic.name_any(), &view.network_key);
    if view.spec.kind == NetworkType::VlanTrunk {
        return Some(format!(
            "NIC {nic} may send from any MAC address on every VLAN of trunk {network}, where whatever is behind it is heard: \
             portSecurity: Strict binds it to its own"
        ));
    }
    let services = match (view.spec.dhcp(Family::IPv4), view.spec.dhcp(Family::IPv6)) {
        (DhcpMode::None, DhcpMode::None) => "be the DHCP server and router of its neighbours",
        (DhcpMode::Guard, _) | (_, DhcpMode::Guard) => {
            "be the network's DHCP server or router, whose answers the guard hands on to its neighbours"
        }
        _ => "send DHCP answers and router advertisements, which reach no NIC that Multihome serves",
    };
    Some(format!(
        "NIC {nic} may send from any MAC address and any IP address on Network {network}, those of its neighbours and of the \
         gateway included; answer ARP and neighbour discovery in their place, so that what is meant for them is sent to it; {services}; \
         and hear what is sent to MAC addresses that no port is known to have: portSecurity: Strict closes all of this"
    ))
}

/// Tells of a NIC that became, or is no longer, open.
pub(super) async fn tell(ctx: &Context, before: &NetworkInterface, now: Option<&NetworkInterface>, open: Option<&str>) {
    let Some(now) = now else { return };
    let conditions = before.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let was = find(conditions, status::PORT_SECURED).map(|c| c.message.as_str());
    match (was, open) {
        (None, Some(text)) => ctx.events.warning(now, "PortOpened", text).await,
        (Some(was), Some(text)) if was != text => ctx.events.warning(now, "PortOpened", text).await,
        (Some(_), None) => {
            ctx.events.normal(now, "PortClosed", "only its own MAC and addresses leave it from now on").await;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::vm;
    use crate::world::Tables;
    use serde_json::{Value, json};

    fn said(network: &Value, security: &str) -> Option<String> {
        let object = |kind: &str, name: &str, spec: &Value| json!({"apiVersion": "multihome.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec});
        let mut t = Tables::default();
        t.put_network(serde_json::from_value(object("Network", "lan", network)).unwrap());
        let spec = json!({"network": "lan", "portSecurity": security});
        let nic: NetworkInterface = serde_json::from_value(object("NetworkInterface", "web", &spec)).unwrap();
        what_is_open(&vm::view(&t, Arc::new(nic)).unwrap())
    }

    #[test]
    fn it_is_said_what_a_nic_may_do_on_its_network() {
        let vlan = |dhcp: &str| json!({"type": "Vlan", "vlan": {"id": 100}, "ipv4": {"cidr": "10.0.0.0/24", "dhcp": dhcp}, "ipv6": {"cidr": "fd00::/64", "dhcp": dhcp}});
        assert_eq!(said(&vlan("Guard"), "Strict"), None);
        for (network, part) in [
            (vlan("Server"), "reach no NIC that Multihome serves"),
            (vlan("Guard"), "whose answers the guard hands on"),
            (vlan("None"), "be the DHCP server and router of its neighbours"),
            (json!({"type": "VlanTrunk", "vlan": {"trunk": [{"first": 5}]}}), "on every VLAN of trunk ns/lan"),
        ] {
            let text = said(&network, "Promiscuous").unwrap();
            assert!(text.contains(part) && text.contains("portSecurity: Strict"), "{text}");
        }
    }
}
