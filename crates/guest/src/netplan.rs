//! netplan, for either of its renderers.

use serde_json::{Map, Value, json};

use crate::view::{Nic, Stack, no_rule};
use crate::yaml::yaml;
use crate::{File, Guest};

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let nics = guest.nics();
    let mut ethernets = Map::new();
    let mut notes = String::new();
    for nic in &nics {
        ethernets.insert(nic.device.clone(), ethernet(nic));
        for s in nic.stacks().iter().filter(|s| s.lacks_rule()) {
            notes += &format!("# {}\n", no_rule(&nic.device, s));
        }
    }
    let body = yaml(&json!({"network": {"version": 2, "ethernets": ethernets}}));
    // netplan warns of files that others may read.
    vec![File::new("/etc/netplan/60-multihome.yaml", 0o600, notes + &body)]
}

fn ethernet(nic: &Nic<'_>) -> Value {
    let mut e = json!({"match": {"macaddress": nic.plan.mac.to_string()}, "mtu": nic.plan.mtu.get()});
    if !nic.is_primary() {
        e["optional"] = true.into();
    }
    let [v4, v6] = nic.stacks();
    e["dhcp4"] = v4.is_dhcp().into();
    e["dhcp6"] = v6.is_dhcp().into();
    overrides(&mut e, &v4, &v6);
    e["accept-ra"] = v6.is_served().into();
    let addresses: Vec<String> = nic.stacks().iter().filter_map(Stack::address).map(|a| a.to_string()).collect();
    let routes: Vec<Value> = nic.stacks().iter().flat_map(routes).collect();
    let rules: Vec<Value> = nic
        .stacks()
        .iter()
        .filter_map(Stack::own_table)
        .map(|t| json!({"from": t.from.to_string(), "table": t.id, "priority": t.priority}))
        .collect();
    let mut nameservers = Map::new();
    for (key, list) in [("search", nic.search()), ("addresses", nic.dns().iter().map(ToString::to_string).collect())] {
        if !list.is_empty() {
            nameservers.insert(key.into(), json!(list));
        }
    }
    for (key, list) in [("addresses", json!(addresses)), ("routes", json!(routes)), ("routing-policy", json!(rules))] {
        if list.as_array().is_some_and(|l| !l.is_empty()) {
            e[key] = list;
        }
    }
    if !nameservers.is_empty() {
        e["nameservers"] = nameservers.into();
    }
    e
}

/// netplan has no word for «routes, but not the gateway»: a secondary takes none from DHCP, and its routes are listed. Both
/// families must say the same where both ask a server (netplan-generate(8) refuses anything else), so that what one of
/// them needs decides.
fn overrides(e: &mut Value, v4: &Stack<'_>, v6: &Stack<'_>) {
    let asking: Vec<&Stack<'_>> = [v4, v6].into_iter().filter(|s| s.is_dhcp()).collect();
    let Some(first) = asking.first() else { return };
    let mut o = Map::new();
    o.insert("route-metric".into(), first.metric().into());
    if asking.iter().all(|s| !s.is_primary()) {
        o.insert("use-routes".into(), false.into());
    }
    if asking.iter().all(|s| !s.wants_dns()) {
        o.insert("use-dns".into(), false.into());
    }
    for s in asking {
        e[format!("dhcp{}-overrides", s.digit())] = o.clone().into();
    }
}

fn routes(s: &Stack<'_>) -> Vec<Value> {
    let mut out = vec![];
    if let Some(via) = s.default_via() {
        out.push(json!({"to": s.any(), "via": via.to_string(), "metric": s.metric()}));
    }
    for r in s.routes() {
        let mut route = json!({"to": r.to.to_string(), "via": r.via.to_string()});
        if !s.is_served() {
            route["metric"] = s.metric().into();
        }
        out.push(route);
    }
    if let Some(t) = s.own_table() {
        out.push(json!({"to": s.any(), "via": t.gateway.to_string(), "table": t.id}));
        out.push(json!({"to": t.prefix.to_string(), "scope": "link", "table": t.id}));
    }
    out
}
