//! `/etc/sysconfig`: RHEL's network-scripts and SUSE's wicked.

use super::{Action, Edit, Fixer, OwnTable, Piece, Remedy, run, set};
use crate::machine::config::NicConfig;
use crate::machine::observation::Link;

fn quoted(words: &[(&str, &str)]) -> Vec<Edit> {
    words.iter().map(|(k, v)| set(None, *k, *v)).collect()
}

fn append(path: String, lines: Vec<String>) -> Action {
    Action::EditFile { path, edits: vec![Edit::Append { text: lines.join("\n") }], mode: 0o644 }
}

fn table_actions(dir: &str, link: &str, t: &OwnTable, rhel: bool) -> Vec<Action> {
    let n = t.number;
    let six = t.from.iter().any(std::net::IpAddr::is_ipv6);
    if rhel {
        let routes = t.subnets.iter().map(|s| format!("{s} dev {link} table {n}"));
        let routes = routes.chain(t.gateway.map(|g| format!("default via {g} dev {link} table {n}"))).collect();
        let rules =
            t.from.iter().map(|ip| format!("from {} lookup {n} priority {}", ipnet::IpNet::from(*ip), t.priority));
        let end = if six { "6" } else { "" };
        return vec![
            append(format!("{dir}/route{end}-{link}"), routes),
            append(format!("{dir}/rule{end}-{link}"), rules.collect()),
        ];
    }
    let routes = t.subnets.iter().map(|s| format!("{s} - - {link} table {n}"));
    let routes = routes.chain(t.gateway.map(|g| format!("default {g} - {link} table {n}"))).collect();
    let family = if six { "ipv6" } else { "ipv4" };
    let rules =
        t.from.iter().map(|ip| format!("{family} from {} table {n} pref {}", ipnet::IpNet::from(*ip), t.priority));
    vec![append(format!("{dir}/ifroute-{link}"), routes), append(format!("{dir}/ifrule-{link}"), rules.collect())]
}

fn common(p: &Piece, edits: &mut Vec<Edit>) {
    for a in p.addresses.iter().filter(|a| a.addr().is_ipv4()) {
        edits.push(set(None, "IPADDR", a.addr().to_string()));
        edits.push(set(None, "PREFIXLEN", a.prefix_len().to_string()));
    }
    if let Some(mtu) = p.mtu {
        edits.push(set(None, "MTU", mtu.to_string()));
    }
}

pub(super) fn rhel(link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let dir = "/etc/sysconfig/network-scripts";
    let mut edits = vec![];
    if config.is_none() {
        edits.extend(quoted(&[("DEVICE", link.name.as_str()), ("ONBOOT", "yes")]));
        edits.extend(link.mac.iter().map(|m| set(None, "HWADDR", m.as_str())));
    }
    if p.dhcp {
        edits.push(set(None, "BOOTPROTO", "dhcp"));
    } else if !p.addresses.is_empty() {
        edits.push(set(None, "BOOTPROTO", "none"));
    }
    common(p, &mut edits);
    edits.extend(p.gateway.map(|g| set(None, "GATEWAY", g.to_string())));
    if p.no_default {
        edits.extend(quoted(&[("DEFROUTE", "no"), ("IPV6_DEFROUTE", "no")]));
        edits.extend(p.forget.iter().map(|g| Edit::Remove { line: format!("GATEWAY={g}") }));
    }
    if p.no_dns {
        edits.push(set(None, "PEERDNS", "no"));
    }
    let path = config.map_or_else(|| format!("{dir}/ifcfg-{}", link.name), |c| c.path.clone());
    let mut actions = vec![];
    if !edits.is_empty() {
        actions.push(Action::EditFile { path, edits, mode: 0o644 });
    }
    let mut say = vec![];
    if let Some(t) = &p.table {
        actions.extend(table_actions(dir, &link.name, t, true));
        say.push("rule files need the network-scripts or NetworkManager-dispatcher-routing-rules".into());
    }
    Remedy { say, actions }
}

pub(super) fn suse(f: &Fixer<'_>, link: &Link, config: Option<&NicConfig>, p: &Piece) -> Remedy {
    let dir = "/etc/sysconfig/network";
    let mut edits = vec![];
    if config.is_none() {
        edits.push(set(None, "STARTMODE", "auto"));
    }
    if p.dhcp {
        edits.push(set(None, "BOOTPROTO", "dhcp4"));
    } else if !p.addresses.is_empty() {
        edits.push(set(None, "BOOTPROTO", "static"));
    }
    common(p, &mut edits);
    if p.no_default {
        edits.push(set(None, "DHCLIENT_SET_DEFAULT_ROUTE", "no"));
    }
    if p.no_dns {
        edits.push(set(None, "DHCLIENT_UPDATE", "default,no-dns"));
    }
    let mut actions = vec![];
    if !edits.is_empty() {
        actions.push(Action::EditFile { path: format!("{dir}/ifcfg-{}", link.name), edits, mode: 0o644 });
    }
    let path = format!("{dir}/ifroute-{}", link.name);
    let stale = |l: &&str| {
        let mut w = l.split_whitespace();
        w.next() == Some("default") && w.next().and_then(|g| g.parse().ok()).is_some_and(|g| p.forget.contains(&g))
    };
    let lines = f.o.configs.iter().filter(|c| c.path == path).flat_map(|c| c.text.lines());
    let remove: Vec<Edit> = lines.filter(stale).map(|l| Edit::Remove { line: l.trim().into() }).collect();
    if !remove.is_empty() {
        actions.push(Action::EditFile { path: path.clone(), edits: remove, mode: 0o644 });
    }
    let mut say = vec![];
    if let Some(g) = p.gateway {
        actions.push(append(path, vec![format!("default {g} - {}", link.name)]));
    }
    if let Some(t) = &p.table {
        actions.extend(table_actions(dir, &link.name, t, false));
        if f.o.lease(&link.name).is_some() || config.is_some_and(|c| c.dhcp4 == Some(true)) {
            say.push("wicked does not install the gateway of a table before the lease: make this NIC static".into());
        }
    }
    actions.push(run(&["wicked", "ifreload", &link.name]));
    Remedy { say, actions }
}
