//! netplan's YAML.

use serde_json::Value;

use super::{Dialect, NicConfig, bare_ip, is_any, mac};
use crate::machine::observation::ConfigFile;

const KINDS: [&str; 8] = ["ethernets", "wifis", "bonds", "bridges", "vlans", "modems", "tunnels", "vrfs"];

pub(super) fn read(file: &ConfigFile) -> Vec<NicConfig> {
    let Ok(tree) = serde_saphyr::from_str::<Value>(&file.text) else { return vec![] };
    let Some(network) = tree.get("network") else { return vec![] };
    let mut all = vec![];
    for kind in KINDS {
        for (id, v) in network.get(kind).and_then(Value::as_object).into_iter().flatten() {
            all.push(entry(file, id, v));
        }
    }
    // Ports of bridges and bonds, and parents of VLANs, need no address of their own.
    let mut used: Vec<String> = vec![];
    for kind in ["bridges", "bonds", "vrfs"] {
        for v in network.get(kind).and_then(Value::as_object).into_iter().flat_map(|o| o.values()) {
            used.extend(list(v.get("interfaces")).iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    for v in network.get("vlans").and_then(Value::as_object).into_iter().flat_map(|o| o.values()) {
        used.extend(v.get("link").and_then(Value::as_str).map(str::to_owned));
    }
    all.iter_mut().filter(|c| used.contains(&c.id)).for_each(|c| c.master = true);
    all
}

fn list(v: Option<&Value>) -> Vec<Value> {
    v.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn yes(v: Option<&Value>) -> Option<bool> {
    match v? {
        Value::Bool(b) => Some(*b),
        Value::String(s) => Some(super::truth(s)),
        _ => None,
    }
}

fn entry(file: &ConfigFile, id: &str, v: &Value) -> NicConfig {
    let place = |needle: &str| file.text.lines().position(|l| l.contains(needle)).map_or(1, |i| i + 1);
    let mut c = NicConfig::new(Dialect::Netplan, file, place(&format!("{id}:")));
    id.clone_into(&mut c.id);
    let matches = v.get("match");
    if let Some(m) = matches.and_then(|m| m.get("macaddress")).and_then(Value::as_str) {
        c.macs.extend(mac(m).map(|found| (found, place(m))));
    }
    match matches.and_then(|m| m.get("name")) {
        Some(Value::String(n)) => c.names.push(n.clone()),
        Some(Value::Array(n)) => c.names.extend(n.iter().filter_map(Value::as_str).map(str::to_owned)),
        _ if matches.is_none() => c.names.push(id.to_owned()),
        _ => c.names.extend(v.get("set-name").and_then(Value::as_str).map(str::to_owned)),
    }
    c.dhcp4 = yes(v.get("dhcp4"));
    for a in list(v.get("addresses")) {
        // An entry is a text, or a map whose only key is the address.
        let text = a.as_str().map(str::to_owned).or_else(|| a.as_object().and_then(|o| o.keys().next().cloned()));
        c.addresses.extend(text.as_deref().and_then(bare_ip));
    }
    for key in ["gateway4", "gateway6"] {
        c.gateways.extend(v.get(key).and_then(Value::as_str).and_then(bare_ip));
    }
    for r in list(v.get("routes")) {
        let text = |k: &str| r.get(k).and_then(Value::as_str);
        if text("to").is_some_and(is_any) && r.get("table").is_none() {
            c.gateways.extend(text("via").and_then(bare_ip));
        }
    }
    let overrides = |k: &str| v.get("dhcp4-overrides").and_then(|o| yes(o.get(k)));
    c.never_default = overrides("use-routes") == Some(false);
    c.bare = c.dhcp4 == Some(false) && c.addresses.is_empty();
    c
}
