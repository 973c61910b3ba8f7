//! netplan, ifupdown, dhcpcd, and machines without any of these.

use std::fmt::Write;

use super::{Action, Edit, Fixer, OwnTable, Piece, Remedy, run, set, show};
use crate::machine::config::{Dialect, NicConfig};
use crate::machine::observation::{Link, Route};

/// The section of netplan's files that a link belongs to.
pub fn netplan_kind(link: &Link) -> &'static str {
    match link.kind.as_str() {
        "bond" => "bonds",
        "bridge" => "bridges",
        "vlan" => "vlans",
        _ if link.wireless => "wifis",
        _ => "ethernets",
    }
}

pub(super) fn netplan(f: &Fixer<'_>, link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let config = config.filter(|c| c.dialect == Dialect::Netplan);
    let kind = netplan_kind(link);
    let id = config.map_or(&link.name, |c| &c.id);
    let mut s = format!("network:\n  version: 2\n  {kind}:\n    {id}:\n");
    let mut say = vec![];
    if let (None, Some(mac)) = (config, &link.mac) {
        let _ = write!(s, "      match: {{macaddress: \"{mac}\"}}\n      set-name: {}\n", link.name);
    }
    if p.dhcp {
        s += "      dhcp4: true\n";
    }
    if let Some(mtu) = p.mtu {
        let _ = writeln!(s, "      mtu: {mtu}");
    }
    if !p.addresses.is_empty() {
        let list: Vec<String> = p.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let _ = writeln!(s, "      addresses: [{}]", list.join(", "));
    }
    let mut overrides = vec![];
    let mut routes: Vec<String> = vec![];
    if p.no_default {
        overrides.push("use-routes: false");
        // netplan knows no «use-gateway»: with the default route the specific ones of option 121 go, too.
        let own = |r: &&Route| r.dev.as_deref() == Some(&link.name) && r.protocol == 16 && r.to.prefix_len() > 0;
        for r in f.o.routes.iter().filter(own).filter(|r| r.table == crate::machine::MAIN) {
            routes.extend(r.via.map(|via| format!("{{to: \"{}\", via: \"{via}\"}}", r.to)));
        }
        for gw in config.iter().flat_map(|c| &c.gateways).filter(|g| p.forget.contains(g)) {
            let place = config.map(NicConfig::place).unwrap_or_default();
            say.push(format!("remove the default route via {gw} of {id} from {place}: a later file cannot"));
        }
    }
    if p.no_dns {
        overrides.push("use-dns: false");
    }
    if !overrides.is_empty() {
        let _ = writeln!(s, "      dhcp4-overrides: {{{}}}", overrides.join(", "));
    }
    routes.extend(p.gateway.map(|g| format!("{{to: default, via: \"{g}\"}}")));
    if let Some(t) = &p.table {
        routes.extend(t.subnets.iter().map(|n| format!("{{to: \"{n}\", scope: link, table: {}}}", t.number)));
        routes.extend(t.gateway.map(|g| format!("{{to: default, via: \"{g}\", table: {}}}", t.number)));
    }
    if !routes.is_empty() {
        let _ = writeln!(s, "      routes: [{}]", routes.join(", "));
    }
    if let Some(t) = &p.table {
        let rules = t.from.iter().map(|ip| {
            format!("{{from: \"{}\", table: {}, priority: {}}}", ipnet::IpNet::from(*ip), t.number, t.priority)
        });
        let _ = writeln!(s, "      routing-policy: [{}]", rules.collect::<Vec<_>>().join(", "));
    }
    let path = format!("/etc/netplan/90-multihome-{}-{}.yaml", link.name, p.purpose);
    let write = Action::WriteFile { path, content: s, mode: 0o600 };
    Remedy { say, actions: vec![write, run(&["netplan", "apply"])] }
}

/// What a client program is told so that it installs no default route on a link.
fn client_without_default(f: &Fixer<'_>, link: &str) -> Vec<Action> {
    let udhcpc = f.o.clients_of(link, false).iter().any(|c| c.program == "udhcpc")
        || f.o.configs.iter().any(|c| c.path == "/etc/udhcpc/udhcpc.conf");
    if udhcpc {
        // Of Alpine's script; it holds for all NICs that it names.
        let now = f.o.configs.iter().find(|c| c.path == "/etc/udhcpc/udhcpc.conf").map_or("", |c| &c.text);
        let listed = now.lines().find_map(|l| l.strip_prefix("NO_GATEWAY=")).unwrap_or_default().trim_matches('"');
        let all = if listed.is_empty() { link.to_owned() } else { format!("{listed} {link}") };
        let edits = vec![set(None, "NO_GATEWAY", format!("\"{all}\""))];
        return vec![Action::EditFile { path: "/etc/udhcpc/udhcpc.conf".into(), edits, mode: 0o644 }];
    }
    let text = format!("interface \"{link}\" {{\n  request subnet-mask, rfc3442-classless-static-routes;\n}}");
    let edits = vec![Edit::Append { text }];
    let path = if f.o.configs.iter().any(|c| c.path == "/etc/dhclient.conf") {
        "/etc/dhclient.conf"
    } else {
        "/etc/dhcp/dhclient.conf"
    };
    // A server may send a router without being asked; Debian's script sources this before it looks.
    let hook = format!("/etc/dhcp/dhclient-enter-hooks.d/multihome-{link}");
    let content = format!("case \"$interface\" in {link}) unset new_routers ;; esac\n");
    vec![
        Action::EditFile { path: path.into(), edits, mode: 0o644 },
        Action::WriteFile { path: hook, content, mode: 0o644 },
    ]
}

fn table_commands(link: &str, t: &OwnTable) -> Vec<String> {
    let mut lines: Vec<String> =
        t.routes(link).iter().map(|r| format!("ip {}route replace {}", show::six(r.to), show::spec(r))).collect();
    for r in t.rules() {
        let six = show::six(r.from);
        lines.push(format!("ip {six}rule del {} 2>/dev/null", show::rule(&r)));
        lines.push(format!("ip {six}rule add {}", show::rule(&r)));
    }
    lines
}

pub(super) fn ifupdown(f: &Fixer<'_>, link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let mut actions = vec![];
    let name = &link.name;
    if p.no_default {
        let stale = config.is_some_and(|c| c.gateways.iter().any(|g| p.forget.contains(g)));
        if let (true, Some(c)) = (stale, config) {
            let edits = p.forget.iter().map(|g| Edit::Remove { line: format!("gateway {g}") }).collect();
            actions.push(Action::EditFile { path: c.path.clone(), edits, mode: 0o644 });
        } else {
            actions.extend(client_without_default(f, name));
        }
    }
    if p.dhcp || !p.addresses.is_empty() {
        let mut s = format!("auto {name}\niface {name} inet {}\n", if p.dhcp { "dhcp" } else { "static" });
        p.addresses.iter().for_each(|a| s += &(format!("    address {a}") + "\n"));
        p.gateway.iter().for_each(|g| s += &(format!("    gateway {g}") + "\n"));
        let path = format!("/etc/network/interfaces.d/multihome-{name}");
        actions.push(Action::WriteFile { path, content: s, mode: 0o644 });
    }
    let mut lines: Vec<String> = p.mtu.iter().map(|m| format!("ip link set {name} mtu {m}")).collect();
    lines.extend(p.table.iter().flat_map(|t| table_commands(name, t)));
    if let (true, Some(g)) = (!p.dhcp && p.addresses.is_empty(), p.gateway) {
        lines.push(format!("ip route replace default via {g} dev {name}"));
    }
    if !lines.is_empty() {
        let body = lines.join("\n");
        let content = format!("#!/bin/sh\n[ \"$IFACE\" = {name} ] || exit 0\n{body}\n");
        let path = format!("/etc/network/if-up.d/multihome-{name}-{}", p.purpose);
        actions.push(Action::WriteFile { path, content, mode: 0o755 });
    }
    Remedy { say: vec![], actions }
}

pub(super) fn dhcpcd(link: &Link, p: &Piece) -> Remedy {
    let mut block = vec![format!("interface {}", link.name)];
    block.extend(p.no_default.then(|| "nogateway".to_owned()));
    block.extend(p.no_dns.then(|| "nooption domain_name_servers".to_owned()));
    block.extend(p.mtu.map(|m| format!("mtu {m}")));
    block.extend(p.addresses.iter().map(|a| format!("static ip_address={a}")));
    block.extend(p.gateway.map(|g| format!("static routers={g}")));
    let mut actions = vec![];
    if block.len() > 1 || p.dhcp {
        let edits = vec![Edit::Append { text: block.join("\n") }];
        actions.push(Action::EditFile { path: "/etc/dhcpcd.conf".into(), edits, mode: 0o644 });
    }
    if let Some(t) = &p.table {
        // dhcpcd runs this after each change; it has no words for tables and rules.
        let body = table_commands(&link.name, t).join("\n  ");
        let text = format!("if [ \"$interface\" = {} ] && [ \"$if_up\" = true ]; then\n  {body}\nfi", link.name);
        let edits = vec![Edit::Append { text }];
        actions.push(Action::EditFile { path: "/etc/dhcpcd.exit-hook".into(), edits, mode: 0o755 });
    }
    Remedy { say: vec![], actions }
}

pub(super) fn plain(f: &Fixer<'_>, link: &Link, p: &Piece) -> Remedy {
    let name = link.name.as_str();
    let actions = match f.o.clients_of(name, false).first() {
        Some(c) if p.no_default && ["dhclient", "udhcpc"].contains(&c.program.as_str()) => {
            client_without_default(f, name)
        }
        Some(c) if c.program == "dhcpcd" => return dhcpcd(link, p),
        _ => vec![],
    };
    let mut say = vec![];
    if actions.is_empty() {
        say.push("nothing that is known manages this machine's network; have whatever starts it do this:".into());
    }
    if p.dhcp {
        say.push(format!("    udhcpc -i {name}    (or dhclient {name})"));
    }
    say.extend(p.addresses.iter().map(|a| format!("    ip address add {a} dev {name}")));
    say.extend(p.gateway.iter().map(|g| format!("    ip route add default via {g} dev {name}")));
    Remedy { say, actions }
}
