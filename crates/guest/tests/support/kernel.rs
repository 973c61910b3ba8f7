//! Reads a namespace's addresses, routes and rules by `ip -json`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use ipnet::IpNet;
use multihome_guest::state::{KernelState, Link, MAIN, Route, Rule, Via};
use multihome_plan::route::RoutePlan;
use serde_json::Value;

/// What a namespace holds, with the devices under the names of the NICs whose MACs they have.
#[allow(dead_code)]
pub fn observed(ns: &str, plan: &RoutePlan) -> KernelState {
    observed_by(plan, |args| {
        let o = Command::new("ip").args(["-json", "-n", ns]).args(args).output().unwrap();
        String::from_utf8_lossy(&o.stdout).into_owned()
    })
}

/// The same by anything that runs `ip -json` with these arguments.
pub fn observed_by(plan: &RoutePlan, run: impl Fn(&[&str]) -> String) -> KernelState {
    let ip = |args: &[&str]| parsed(&run(args));
    let mut out = KernelState::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for link in ip(&["address", "show"]) {
        let Some(nic) = plan.nics.iter().find(|n| link["address"] == n.mac.to_string()) else { continue };
        names.insert(text(&link["ifname"]), nic.name.clone());
        let flags = link["flags"].as_array().cloned().unwrap_or_default();
        let mut l = Link {
            mtu: link["mtu"].as_u64().unwrap_or(0) as u32,
            up: flags.contains(&"UP".into()),
            ipv4: BTreeSet::new(),
            ipv6: BTreeSet::new(),
        };
        for a in link["addr_info"].as_array().into_iter().flatten().filter(|a| a["scope"] == "global") {
            let address: IpNet = format!("{}/{}", text(&a["local"]), a["prefixlen"]).parse().unwrap();
            match address {
                // A DAD that is still under way keeps the address from being used.
                IpNet::V6(_) if a["tentative"] == true => {}
                IpNet::V6(v) => drop(l.ipv6.insert(v.addr().into())),
                IpNet::V4(_) => drop(l.ipv4.insert(address)),
            }
        }
        out.links.insert(nic.name.clone(), l);
    }
    for family in ["-4", "-6"] {
        for r in ip(&[family, "route", "show", "table", "all"]) {
            out.routes.extend(route(&r, family == "-6", &names));
        }
        for r in ip(&[family, "rule", "show"]) {
            out.rules.extend(rule(&r));
        }
    }
    out
}

/// `ip` prints nothing at all for an empty table.
fn parsed(text: &str) -> Vec<Value> {
    if text.trim().is_empty() { vec![] } else { serde_json::from_str(text).unwrap() }
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn route(r: &Value, six: bool, names: &BTreeMap<String, String>) -> Option<Route> {
    let table = match r["table"].as_str() {
        None | Some("main") => MAIN,
        Some("local") => return None,
        Some(t) => t.parse().ok()?,
    };
    if ["local", "broadcast", "multicast", "anycast", "unreachable"].contains(&text(&r["type"]).as_str()) {
        return None;
    }
    let dst = text(&r["dst"]);
    let to: IpNet = match (dst.as_str(), six) {
        ("default", false) => "0.0.0.0/0".parse().ok()?,
        ("default", true) => "::/0".parse().ok()?,
        (d, _) if d.contains('/') => d.parse().ok()?,
        (d, _) => IpNet::from(d.parse::<std::net::IpAddr>().ok()?),
    };
    let multicast_or_link_local = dst.starts_with("ff00:") || dst.starts_with("fe80:") || dst.starts_with("169.254.");
    if multicast_or_link_local {
        return None;
    }
    let via = match r["gateway"].as_str() {
        None => Via::Link,
        Some(g) if g.starts_with("fe80:") => Via::Router,
        Some(g) => Via::Gateway(g.parse().ok()?),
    };
    Some(Route { table, to, via, nic: names.get(&text(&r["dev"])).cloned().unwrap_or_else(|| text(&r["dev"])) })
}

fn rule(r: &Value) -> Option<Rule> {
    let priority = r["priority"].as_u64()? as u32;
    if [0, 32766, 32767].contains(&priority) {
        return None;
    }
    let from = r["src"].as_str()?.parse().unwrap_or_else(|_| "0.0.0.0".parse().unwrap());
    Some(Rule { priority, from, table: r["table"].as_str()?.parse().ok()? })
}
