//! cloud-init's network-config, versions 1 and 2: the part of it that every renderer of cloud-init keeps.
//!
//! cloud-init hands the same file to netplan, networkd, NetworkManager, sysconfig or ifupdown, and all but the first drop
//! what they do not know: `table` of a route, which makes a default route in the main table of it, and `routing-policy`.
//! So there is no default route but the primary's, every route has a next hop, and [`crate::vendor`] does the rest.
//! See docs/decisions/0004.

use serde_json::{Map, Value, json};

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{MacAddr, Mtu};

use crate::Guest;
use crate::view::{How, Nic, Stack};

/// Version 1. Devices are renamed, because this version cannot leave a name out.
pub(crate) fn v1(guest: &Guest) -> Value {
    let config: Vec<Value> = guest.nics().iter().map(physical).collect();
    json!({"version": 1, "config": config})
}

fn physical(nic: &Nic<'_>) -> Value {
    let mut subnets: Vec<Value> = nic.stacks().iter().filter_map(|s| subnet(nic, s)).collect();
    if subnets.is_empty() {
        subnets.push(json!({"type": "manual"}));
    }
    json!({
        "type": "physical",
        "name": nic.device,
        "mac_address": nic.plan.mac.to_string(),
        "mtu": nic.plan.mtu.get(),
        "accept-ra": nic.v6().is_served(),
        "subnets": subnets,
    })
}

fn subnet(nic: &Nic<'_>, s: &Stack<'_>) -> Option<Value> {
    let six = s.digit() == 6;
    let mut out = match s.how() {
        How::Nothing => return None,
        How::Dhcp => json!({"type": format!("dhcp{}", s.digit())}),
        How::Router { info: false } => json!({"type": "ipv6_slaac"}),
        How::Router { info: true } => json!({"type": "ipv6_dhcpv6-stateless"}),
        How::Static(a) => json!({"type": if six { "static6" } else { "static" }, "address": a.to_string()}),
    };
    if let Some(via) = s.default_via() {
        out["gateway"] = via.to_string().into();
    }
    if s.address().is_some() {
        let dns: Vec<String> = nic.dns().iter().filter(|d| d.is_ipv6() == six).map(ToString::to_string).collect();
        if !dns.is_empty() {
            out["dns_nameservers"] = json!(dns);
            if !nic.search().is_empty() {
                out["dns_search"] = json!(nic.search());
            }
        }
    }
    let routes: Vec<Value> = s
        .routes()
        .iter()
        .map(|r| json!({"destination": r.to.to_string(), "gateway": r.via.to_string(), "metric": s.metric()}))
        .collect();
    if !routes.is_empty() {
        out["routes"] = json!(routes);
    }
    Some(out)
}

/// Version 2. Devices keep their names: cloud-init finds them by their MACs (since 22.2; older ones take version 1).
pub(crate) fn v2(guest: &Guest) -> Value {
    let ethernets: Map<String, Value> = guest.nics().iter().map(|n| (n.device.clone(), ethernet(n))).collect();
    json!({"version": 2, "ethernets": ethernets})
}

fn ethernet(nic: &Nic<'_>) -> Value {
    let [v4, v6] = nic.stacks();
    let mut e = json!({
        "match": {"macaddress": nic.plan.mac.to_string()},
        "mtu": nic.plan.mtu.get(),
        "dhcp4": v4.is_dhcp(),
        "dhcp6": v6.is_dhcp(),
        "accept-ra": v6.is_served(),
    });
    if !nic.is_primary() {
        e["optional"] = true.into();
    }
    // Both families must say the same where both ask a server, or netplan and networkd refuse the file.
    let asking: Vec<Stack<'_>> = nic.stacks().into_iter().filter(Stack::is_dhcp).collect();
    if let Some(first) = asking.first() {
        for s in &asking {
            e[format!("dhcp{}-overrides", s.digit())] = json!({"route-metric": first.metric()});
        }
    }
    let addresses: Vec<String> = nic.stacks().iter().filter_map(Stack::address).map(|a| a.to_string()).collect();
    if !addresses.is_empty() {
        e["addresses"] = json!(addresses);
    }
    for s in nic.stacks() {
        if let Some(via) = s.default_via() {
            // Not a route to ::/0, of which the networkd renderer makes ::/64.
            e[format!("gateway{}", s.digit())] = via.to_string().into();
        }
    }
    let routes: Vec<Value> = first_subnet(nic).map(|s| routes(&s)).unwrap_or_default();
    if !routes.is_empty() {
        e["routes"] = json!(routes);
    }
    if !nic.dns().is_empty() {
        let list: Vec<String> = nic.dns().iter().map(ToString::to_string).collect();
        e["nameservers"] = json!({"addresses": list});
        if !nic.search().is_empty() {
            e["nameservers"]["search"] = json!(nic.search());
        }
    }
    e
}

/// Where cloud-init puts all routes of a device: the first of DHCPv4, DHCPv6 and the addresses. Renderers that know routes
/// per family (NetworkManager) lose those of the other.
fn first_subnet<'a>(nic: &Nic<'a>) -> Option<Stack<'a>> {
    let asking = nic.stacks().into_iter().find(Stack::is_dhcp);
    asking.or_else(|| nic.stacks().into_iter().find(|s| s.address().is_some()))
}

/// What a network configuration leaves to vendor-data, besides tables and rules, which all leave out.
pub(crate) enum Left {
    /// A route of the main table.
    Route(MacAddr, IpNet, IpAddr),
    /// A link that is only to be up.
    Link(MacAddr, Mtu),
    /// An address.
    Address(MacAddr, IpNet),
}

/// What version 2 leaves out: routes of a device's second family, and links without addresses, which ifupdown would not
/// bring up.
pub(crate) fn left_out_by_v2(guest: &Guest) -> Vec<Left> {
    let mut out = left_out_by_openstack(guest);
    for nic in guest.nics() {
        let first = first_subnet(&nic).map(|s| s.digit());
        for s in nic.stacks().iter().filter(|s| Some(s.digit()) != first) {
            out.extend(s.routes().iter().map(|r| Left::Route(nic.plan.mac, r.to, r.via)));
        }
    }
    out
}

/// What `network_data.json` leaves out: links without addresses.
pub(crate) fn left_out_by_openstack(guest: &Guest) -> Vec<Left> {
    let bare = guest.nics().into_iter().filter(|n| first_subnet(n).is_none());
    bare.map(|n| Left::Link(n.plan.mac, n.plan.mtu)).collect()
}

/// What EC2's metadata leaves out: everything but DHCP.
pub(crate) fn left_out_by_ec2(guest: &Guest) -> Vec<Left> {
    let mut out = vec![];
    for nic in guest.nics() {
        let mac = nic.plan.mac;
        if !nic.v4().is_dhcp() {
            out.push(Left::Link(mac, nic.plan.mtu));
        }
        for s in nic.stacks() {
            let Some(a) = s.address() else { continue };
            out.push(Left::Address(mac, a));
            let any: Option<IpNet> = s.any().parse().ok();
            out.extend(any.zip(s.default_via()).map(|(to, via)| Left::Route(mac, to, via)));
            out.extend(s.routes().iter().map(|r| Left::Route(mac, r.to, r.via)));
        }
    }
    out
}

fn routes(s: &Stack<'_>) -> Vec<Value> {
    s.routes().iter().map(|r| json!({"to": r.to.to_string(), "via": r.via.to_string(), "metric": s.metric()})).collect()
}
