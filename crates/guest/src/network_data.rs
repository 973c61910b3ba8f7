//! OpenStack's `network_data.json`. It has no place for tables and rules: vendor data carries them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::Guest;
use crate::view::{How, Nic, Stack};

/// The document, as Nova writes it.
pub(crate) fn network_data(guest: &Guest) -> Value {
    let nics = guest.nics();
    let links: Vec<Value> = nics
        .iter()
        .map(|n| {
            json!({
                "id": n.plan.name,
                "vif_id": n.plan.name,
                "type": "phy",
                "ethernet_mac_address": n.plan.mac.to_string(),
                "mtu": n.plan.mtu.get(),
            })
        })
        .collect();
    let networks: Vec<Value> =
        nics.iter().flat_map(|n| n.stacks().into_iter().filter_map(|s| network(n, &s)).collect::<Vec<_>>()).collect();
    let services: Vec<Value> =
        nics.iter().flat_map(Nic::dns).map(|d| json!({"type": "dns", "address": d.to_string()})).collect();
    json!({"links": links, "networks": networks, "services": services})
}

fn network(nic: &Nic<'_>, s: &Stack<'_>) -> Option<Value> {
    let id = format!("{}-ipv{}", nic.plan.name, s.digit());
    let kind = match (s.how(), s.digit()) {
        (How::Nothing, _) => return None,
        (How::Dhcp, 4) => "ipv4_dhcp",
        (How::Dhcp, _) => "ipv6_dhcpv6-stateful",
        (How::Router { info: false }, _) => "ipv6_slaac",
        (How::Router { info: true }, _) => "ipv6_dhcpv6-stateless",
        (How::Static(_), 4) => "ipv4",
        (How::Static(_), _) => "ipv6",
    };
    let mut out = json!({"id": id, "network_id": id, "link": nic.plan.name, "type": kind});
    if let Some(a) = s.address() {
        out["ip_address"] = a.addr().to_string().into();
        out["netmask"] = a.netmask().to_string().into();
    }
    let any: Option<IpNet> = s.any().parse().ok();
    let default = any.zip(s.default_via()).map(|(to, via)| route(&to, &via));
    let routes: Vec<Value> = default.into_iter().chain(s.routes().iter().map(|r| route(&r.to, &r.via))).collect();
    out["routes"] = json!(routes);
    Some(out)
}

fn route(to: &IpNet, via: &IpAddr) -> Value {
    json!({"network": to.network().to_string(), "netmask": to.netmask().to_string(), "gateway": via.to_string()})
}
