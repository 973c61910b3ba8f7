//! Steps as text.

use std::fmt::Write;

use super::{Action, Edit, dotted};
use crate::machine::observation::{MAIN, Route, Rule};

/// A step as the person at the keyboard would do it.
pub fn action(a: &Action) -> String {
    match a {
        Action::WriteFile { path, content, mode } => {
            let body: String = content.lines().map(|l| format!("\n    {l}")).collect();
            format!("write {path} (mode {mode:04o}):{body}")
        }
        Action::EditFile { path, edits, .. } => {
            let body: String = edits.iter().map(|e| format!("\n    {}", edit(e))).collect();
            format!("in {path}:{body}")
        }
        Action::Sysctl { key, value } => format!("sysctl -w {}={value}", dotted(key)),
        Action::AddRoute { route: r } => format!("ip {}route append {}", six(r.to), spec(r)),
        Action::DeleteRoute { route: r } => format!("ip {}route del {}", six(r.to), spec(r)),
        Action::AddRule { rule: r } => format!("ip {}rule add {}", six(r.from), rule(r)),
        Action::SetMtu { link, mtu } => format!("ip link set {link} mtu {mtu}"),
        Action::Run { argv } => argv.join(" "),
    }
}

fn edit(e: &Edit) -> String {
    match e {
        Edit::Set { section: Some(s), key, value } => format!("set in [{s}]: {key}={value}"),
        Edit::Set { section: None, key, value } => format!("set {key}={value}"),
        Edit::Remove { line } => format!("remove the line «{line}»"),
        Edit::Replace { from, to } => format!("replace {from} by {to}"),
        Edit::Append { text } => format!("append:\n      {}", text.replace('\n', "\n      ")),
    }
}

/// The option that `ip` needs where no address tells the family.
pub fn six(net: ipnet::IpNet) -> &'static str {
    if net.addr().is_ipv6() { "-6 " } else { "" }
}

/// A route as arguments of `ip route add` and `del`.
pub fn spec(r: &Route) -> String {
    let to = if r.to.prefix_len() == 0 { "default".to_owned() } else { r.to.to_string() };
    let mut s = to;
    if let Some(via) = r.via {
        let _ = write!(s, " via {via}");
    }
    if let Some(dev) = &r.dev {
        let _ = write!(s, " dev {dev}");
    }
    if r.table != MAIN {
        let _ = write!(s, " table {}", r.table);
    }
    if r.metric != 0 {
        let _ = write!(s, " metric {}", r.metric);
    }
    s
}

/// A rule as arguments of `ip rule add` and `del`.
pub fn rule(r: &Rule) -> String {
    format!("pref {} from {} lookup {}", r.priority, r.from, r.table)
}
