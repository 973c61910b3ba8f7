//! Routes, rules, addresses and links as `ip` shows them: the evidence of a finding.

use std::fmt::Write;

use super::observation::{Address, Link, MAIN, Route, Rule};

/// As `ip route show table all` shows a route; its table is named where it is not the main one.
pub fn route(r: &Route) -> String {
    let mut s = String::new();
    if r.kind != "unicast" {
        let _ = write!(s, "{} ", r.kind);
    }
    s += &if r.to.prefix_len() == 0 { "default".into() } else { host_or_net(&r.to) };
    if let Some(via) = r.via {
        let _ = write!(s, " via {via}");
    }
    if let Some(dev) = &r.dev {
        let _ = write!(s, " dev {dev}");
    }
    if r.table != MAIN {
        let _ = write!(s, " table {}", r.table);
    }
    let _ = write!(s, "{}", protocol(r.protocol).map(|p| format!(" proto {p}")).unwrap_or_default());
    if let Some(source) = r.source {
        let _ = write!(s, " src {source}");
    }
    if r.metric != 0 {
        let _ = write!(s, " metric {}", r.metric);
    }
    for (dev, via) in &r.hops {
        let via = via.map(|v| format!(" via {v}")).unwrap_or_default();
        let _ = write!(s, " nexthop{via} dev {dev}");
    }
    if r.onlink {
        s += " onlink";
    }
    if r.dead {
        s += " linkdown";
    }
    s
}

fn host_or_net(net: &ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// The name of a routing protocol number (/etc/iproute2/rt_protos); none for 0 and 3 (boot), which
/// `ip` shows nothing for.
fn protocol(number: u8) -> Option<String> {
    Some(match number {
        0 | 3 => return None,
        1 => "redirect".into(),
        2 => "kernel".into(),
        4 => "static".into(),
        9 => "ra".into(),
        16 => "dhcp".into(),
        n => n.to_string(),
    })
}

/// As `ip rule` shows a rule.
pub fn rule(r: &Rule) -> String {
    let from = if r.from.prefix_len() == 0 { "all".into() } else { host_or_net(&r.from) };
    let mut s = format!("{}:\t{}from {from}", r.priority, if r.invert { "not " } else { "" });
    if let Some(to) = &r.to {
        let _ = write!(s, " to {}", host_or_net(to));
    }
    for (word, value) in [("iif", &r.iif), ("oif", &r.oif)] {
        if let Some(v) = value {
            let _ = write!(s, " {word} {v}");
        }
    }
    if let Some(mark) = r.mark {
        let _ = write!(s, " fwmark {mark:#x}");
    }
    if r.action == "lookup" {
        let _ = write!(s, " lookup {}", table(r.table));
    } else {
        let _ = write!(s, " {}", r.action);
    }
    s
}

fn table(number: u32) -> String {
    match number {
        253 => "default".into(),
        MAIN => "main".into(),
        255 => "local".into(),
        n => n.to_string(),
    }
}

/// As `ip -brief address` shows an address.
pub fn address(a: &Address) -> String {
    let family = if a.net.addr().is_ipv4() { "inet" } else { "inet6" };
    let mut s = format!("{family} {} scope {}", a.net, a.scope);
    for (on, word) in
        [(a.dynamic, "dynamic"), (a.secondary, "secondary"), (a.tentative, "tentative"), (a.dad_failed, "dadfailed")]
    {
        if on {
            let _ = write!(s, " {word}");
        }
    }
    let _ = write!(s, " dev {}", a.link);
    s
}

/// As `ip link` shows a link, without what no rule looks at.
pub fn link(l: &Link) -> String {
    let mut flags = vec![];
    if l.up && !l.carrier {
        flags.push("NO-CARRIER");
    }
    if l.up {
        flags.push("UP");
    }
    if l.carrier {
        flags.push("LOWER_UP");
    }
    let master = l.master.as_ref().map(|m| format!(" master {m}")).unwrap_or_default();
    let mac = l.mac.as_ref().map(|m| format!(" link/ether {m}")).unwrap_or_default();
    let driver = if l.driver.is_empty() { String::new() } else { format!(" driver {}", l.driver) };
    format!("{}: {}: <{}> mtu {}{master}{mac}{driver}", l.index, l.name, flags.join(","), l.mtu)
}
