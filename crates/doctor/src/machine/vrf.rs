//! VRFs in each dialect that has words for them. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use super::config::Dialect;
use super::fix::{Action, Edit, Fixer, Remedy, netplan_kind};
use super::layout::Role;

/// Whether a dialect has words for VRFs.
pub fn can_say(d: Dialect) -> bool {
    !matches!(d, Dialect::Ifcfg | Dialect::Wicked | Dialect::Dhcpcd)
}

fn run(words: &[&str]) -> Action {
    Action::Run { argv: words.iter().map(ToString::to_string).collect() }
}

fn file(path: String, content: String, mode: u32) -> Action {
    Action::WriteFile { path, content, mode }
}

/// A VRF for a role, with its interfaces and the default route of its table.
pub fn write(f: &Fixer<'_>, role: &Role, table: u32, gateway: Option<IpAddr>) -> Remedy {
    let actions = match f.dialect {
        Dialect::Netplan => netplan(f, role, table, gateway),
        Dialect::Networkd => networkd(f, role, table, gateway),
        Dialect::NetworkManager => network_manager(f, role, table, gateway),
        Dialect::Ifupdown => ifupdown(role, table, gateway),
        _ => {
            let mut say = vec!["have whatever starts this machine's network do this:".to_owned()];
            say.extend(commands(role, table, gateway).iter().map(|c| format!("    {c}")));
            return Remedy { say, actions: vec![] };
        }
    };
    Remedy { say: vec![], actions }
}

/// The commands of iproute2. The unreachable route keeps lookups that find nothing in the table from
/// going on in the main one (Documentation/networking/vrf.rst).
fn commands(role: &Role, table: u32, gateway: Option<IpAddr>) -> Vec<String> {
    let vrf = format!("vrf-{}", role.name);
    let mut all = vec![
        format!("ip link add {vrf} type vrf table {table}"),
        format!("ip link set {vrf} up"),
        format!("ip route add vrf {vrf} unreachable default metric 4278198272"),
    ];
    all.extend(role.links.iter().map(|l| format!("ip link set {l} master {vrf}")));
    all.extend(gateway.map(|g| format!("ip route add vrf {vrf} default via {g}")));
    all
}

fn netplan(f: &Fixer<'_>, role: &Role, table: u32, gateway: Option<IpAddr>) -> Vec<Action> {
    // netplan knows interfaces by the ids of its files.
    let id = |l: &String| {
        let config = f.o.link(l).and_then(|l| f.config(l)).filter(|c| c.dialect == Dialect::Netplan);
        config.map_or_else(|| l.clone(), |c| c.id.clone())
    };
    let ids: Vec<String> = role.links.iter().map(id).collect();
    let mut s = format!(
        "network:\n  version: 2\n  vrfs:\n    vrf-{}:\n      table: {table}\n      interfaces: [{}]\n",
        role.name,
        ids.join(", ")
    );
    // The route stands with the interface: netplan 0.106 ends with a segmentation fault where a VRF has one.
    let first = role.links.first().and_then(|l| f.o.link(l));
    if let (Some(g), Some(link), Some(id)) = (gateway, first, ids.first()) {
        let kind = netplan_kind(link);
        let _ = write!(s, "  {kind}:\n    {id}:\n      routes: [{{to: default, via: \"{g}\", table: {table}}}]\n");
    }
    vec![file(format!("/etc/netplan/90-multihome-vrf-{}.yaml", role.name), s, 0o600), run(&["netplan", "apply"])]
}

fn networkd(f: &Fixer<'_>, role: &Role, table: u32, gateway: Option<IpAddr>) -> Vec<Action> {
    let vrf = format!("vrf-{}", role.name);
    let dir = "/etc/systemd/network";
    let mut actions = vec![
        file(
            format!("{dir}/25-{vrf}.netdev"),
            format!("[NetDev]\nName={vrf}\nKind=vrf\n\n[VRF]\nTable={table}\n"),
            0o644,
        ),
        file(
            format!("{dir}/25-{vrf}.network"),
            format!("[Match]\nName={vrf}\n\n[Link]\nRequiredForOnline=no\n"),
            0o644,
        ),
    ];
    for (i, name) in role.links.iter().enumerate() {
        let Some(link) = f.o.link(name) else { continue };
        let mut s = format!("[Network]\nVRF={vrf}\n");
        if let (0, Some(g)) = (i, gateway) {
            let _ = write!(s, "[Route]\nGateway={g}\nTable={table}\n");
        }
        let config = f.config(link).filter(|c| c.dialect == Dialect::Networkd);
        let action = match config {
            Some(c) => {
                let base = c.path.rsplit('/').next().unwrap_or_default();
                file(format!("{dir}/{base}.d/90-multihome-vrf.conf"), s, 0o644)
            }
            None => file(format!("{dir}/10-multihome-{name}.network"), format!("[Match]\nName={name}\n{s}"), 0o644),
        };
        actions.push(action);
    }
    actions.push(run(&["networkctl", "reload"]));
    actions
}

fn network_manager(f: &Fixer<'_>, role: &Role, table: u32, gateway: Option<IpAddr>) -> Vec<Action> {
    let vrf = format!("vrf-{}", role.name);
    let dir = "/etc/NetworkManager/system-connections";
    let text = format!(
        "[connection]\nid={vrf}\ntype=vrf\ninterface-name={vrf}\n[vrf]\ntable={table}\n[ipv4]\nmethod=disabled\n[ipv6]\nmethod=disabled\n"
    );
    let mut actions = vec![file(format!("{dir}/{vrf}.nmconnection"), text, 0o600)];
    for (i, name) in role.links.iter().enumerate() {
        let set = |section: &str, key: &str, value: String| Edit::Set {
            section: Some(section.into()),
            key: key.into(),
            value,
        };
        // The old names of «controller» and «port-type», which 1.46 brought: every version reads these.
        let mut edits = vec![set("connection", "master", vrf.clone()), set("connection", "slave-type", "vrf".into())];
        if let (0, Some(g)) = (i, gateway) {
            edits.push(set("ipv4", "route81", format!("0.0.0.0/0,{g}")));
            edits.push(set("ipv4", "route81_options", format!("table={table}")));
        }
        let config = f.o.link(name).and_then(|l| f.config(l)).filter(|c| c.dialect == Dialect::NetworkManager);
        let path = config.map_or_else(|| format!("{dir}/{name}.nmconnection"), |c| c.path.clone());
        if config.is_none() {
            // A new profile; NetworkManager refuses one without these.
            edits.insert(0, set("connection", "id", name.clone()));
            edits.insert(1, set("connection", "type", "ethernet".into()));
            edits.insert(2, set("connection", "interface-name", name.clone()));
            edits.insert(3, set("ipv4", "method", "auto".into()));
            edits.insert(4, set("ipv6", "method", "auto".into()));
        }
        actions.push(Action::EditFile { path, edits, mode: 0o600 });
    }
    actions.push(run(&["nmcli", "connection", "reload"]));
    actions
}

fn ifupdown(role: &Role, table: u32, gateway: Option<IpAddr>) -> Vec<Action> {
    let vrf = format!("vrf-{}", role.name);
    let mut s = String::from("#!/bin/sh\ncase \"$IFACE\" in\n");
    let _ = writeln!(s, "{}) ;;\n*) exit 0 ;;\nesac", role.links.join("|"));
    let _ = writeln!(s, "ip link show {vrf} >/dev/null 2>&1 || ip link add {vrf} type vrf table {table}");
    let _ = writeln!(s, "ip link set {vrf} up");
    let _ = writeln!(s, "ip route replace vrf {vrf} unreachable default metric 4278198272");
    let _ = writeln!(s, "ip link set \"$IFACE\" master {vrf}");
    if let (Some(g), Some(first)) = (gateway, role.links.first()) {
        let _ = writeln!(s, "[ \"$IFACE\" != {first} ] || ip route replace vrf {vrf} default via {g}");
    }
    vec![file(format!("/etc/network/if-up.d/multihome-{vrf}"), s, 0o755)]
}
