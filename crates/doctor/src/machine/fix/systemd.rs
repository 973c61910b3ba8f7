//! systemd-networkd and NetworkManager.

use std::fmt::Write;

use super::{Action, Edit, Piece, Remedy, run, set};
use crate::machine::config::{Dialect, NicConfig};
use crate::machine::observation::Link;

/// What a `.network` file or a drop-in for it says; without `[Match]`.
pub fn network_sections(p: &Piece) -> String {
    let mut s = String::new();
    if let Some(mtu) = p.mtu {
        let _ = write!(s, "[Link]\nMTUBytes={mtu}\n");
    }
    if p.dhcp || !p.addresses.is_empty() || p.gateway.is_some() {
        s += "[Network]\n";
        if p.dhcp {
            s += "DHCP=ipv4\n";
        }
        p.addresses.iter().for_each(|a| s += &(format!("Address={a}") + "\n"));
        p.gateway.iter().for_each(|g| s += &(format!("Gateway={g}") + "\n"));
    }
    if p.no_default {
        // UseGateway keeps the specific routes of option 121, which UseRoutes drops.
        s += "[DHCPv4]\nUseGateway=no\n[IPv6AcceptRA]\nUseGateway=no\n";
    }
    if p.no_dns {
        s += "[DHCPv4]\nUseDNS=no\n";
    }
    if let Some(t) = &p.table {
        t.subnets.iter().for_each(|n| s += &format!("[Route]\nDestination={n}\nScope=link\nTable={}\n", t.number));
        t.gateway.iter().for_each(|g| s += &format!("[Route]\nGateway={g}\nTable={}\n", t.number));
        for ip in &t.from {
            let net = ipnet::IpNet::from(*ip);
            let _ = write!(s, "[RoutingPolicyRule]\nFrom={net}\nTable={}\nPriority={}\n", t.number, t.priority);
        }
    }
    s
}

pub(super) fn networkd(link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let sections = network_sections(p);
    let mut actions = vec![];
    let stale: Vec<Edit> = p.forget.iter().map(|g| Edit::Remove { line: format!("Gateway={g}") }).collect();
    match config.filter(|c| c.dialect == Dialect::Networkd) {
        Some(c) => {
            if c.gateways.iter().any(|g| p.forget.contains(g)) {
                actions.push(Action::EditFile { path: c.path.clone(), edits: stale, mode: 0o644 });
            }
            let name = c.path.rsplit('/').next().unwrap_or_default();
            let path = format!("/etc/systemd/network/{name}.d/90-multihome-{}.conf", p.purpose);
            actions.push(Action::WriteFile { path, content: sections, mode: 0o644 });
        }
        None => {
            let by = link.mac.as_ref().map_or_else(|| format!("Name={}", link.name), |m| format!("MACAddress={m}"));
            let path = format!("/etc/systemd/network/10-multihome-{}.network", link.name);
            // The sections go into a drop-in per purpose, so that one cure leaves another's alone.
            let dropin = format!("{path}.d/90-multihome-{}.conf", p.purpose);
            actions.push(Action::WriteFile { path, content: format!("[Match]\n{by}\n"), mode: 0o644 });
            actions.push(Action::WriteFile { path: dropin, content: sections, mode: 0o644 });
        }
    }
    actions.push(run(&["networkctl", "reload"]));
    Remedy { say: vec![], actions }
}

/// What a keyfile says, as section, key and value. Entries get high numbers, so that they do not
/// collide with those that are there.
fn keys(p: &Piece) -> Vec<(&'static str, String, String)> {
    let mut all = vec![];
    let mut put = |s, k: &str, v: String| all.push((s, k.to_owned(), v));
    if p.dhcp {
        put("ipv4", "method", "auto".into());
    }
    for (i, a) in p.addresses.iter().enumerate() {
        let section = if a.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        put(section, "method", "manual".into());
        put(section, &format!("address{}", i + 1), a.to_string());
    }
    if let Some(g) = p.gateway {
        put(if g.is_ipv4() { "ipv4" } else { "ipv6" }, "gateway", g.to_string());
    }
    if p.no_default {
        put("ipv4", "never-default", "true".into());
        put("ipv6", "never-default", "true".into());
    }
    if p.no_dns {
        put("ipv4", "ignore-auto-dns", "true".into());
    }
    if let Some(mtu) = p.mtu {
        put("ethernet", "mtu", mtu.to_string());
    }
    if let Some(t) = &p.table {
        let routes = t.subnets.iter().map(|s| format!("{s}")).chain(t.gateway.map(|g| {
            let any = if g.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            format!("{any},{g}")
        }));
        for (i, r) in routes.enumerate() {
            let section = if r.contains(':') { "ipv6" } else { "ipv4" };
            put(section, &format!("route{}", i + 91), r);
            put(section, &format!("route{}_options", i + 91), format!("table={}", t.number));
        }
        for (i, ip) in t.from.iter().enumerate() {
            let net = ipnet::IpNet::from(*ip);
            let section = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
            // The priority is mandatory: «rule is invalid: missing priority».
            put(
                section,
                &format!("routing-rule{}", i + 91),
                format!("priority {} from {net} table {}", t.priority, t.number),
            );
        }
    }
    all
}

pub(super) fn network_manager(link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let mut say = vec![];
    let file = config.filter(|c| c.dialect == Dialect::NetworkManager && c.path.starts_with("/etc/"));
    let action = match file {
        Some(c) => {
            let mut edits: Vec<Edit> = keys(p).into_iter().map(|(s, k, v)| set(Some(s), k, v)).collect();
            edits.extend(p.forget.iter().map(|g| Edit::Remove { line: format!("gateway={g}") }));
            Action::EditFile { path: c.path.clone(), edits, mode: 0o600 }
        }
        None => {
            say.push(format!(
                "the profile of {} is not in a file; this one takes its place (or «nmcli connection modify» it)",
                link.name
            ));
            let mut all = vec![
                ("connection", "id".to_owned(), link.name.clone()),
                ("connection", "type".into(), "ethernet".into()),
                ("connection", "interface-name".into(), link.name.clone()),
            ];
            all.extend(link.mac.as_ref().map(|m| ("ethernet", "mac-address".to_owned(), m.clone())));
            let own = keys(p);
            // NetworkManager refuses a section of addresses without a method.
            for family in ["ipv4", "ipv6"] {
                if !own.iter().any(|(s, k, _)| (*s, k.as_str()) == (family, "method")) {
                    all.push((family, "method".into(), "auto".into()));
                }
            }
            // Lines rather than a whole file, so that one cure leaves another's alone.
            let edits = all.into_iter().chain(own).map(|(s, k, v)| set(Some(s), k, v)).collect();
            let path = format!("/etc/NetworkManager/system-connections/{}.nmconnection", link.name);
            Action::EditFile { path, edits, mode: 0o600 }
        }
    };
    let reload = run(&["nmcli", "connection", "reload"]);
    Remedy { say, actions: vec![action, reload, run(&["nmcli", "device", "reapply", &link.name])] }
}
