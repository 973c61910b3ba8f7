//! systemd-networkd's `.network` files and NetworkManager's keyfiles.

use super::{Dialect, NicConfig, bare_ip, is_any, mac, truth};
use crate::machine::observation::ConfigFile;

/// Section, key, value and line number of each assignment.
fn entries(text: &str) -> Vec<(&str, &str, &str, usize)> {
    let mut section = "";
    let mut out = vec![];
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            out.push((section, "", "", i + 1));
        } else if let Some((key, value)) = line.split_once('=') {
            out.push((section, key.trim(), value.trim(), i + 1));
        }
    }
    out
}

/// A `.network` file.
pub(super) fn networkd(file: &ConfigFile) -> Vec<NicConfig> {
    let mut c = NicConfig::new(Dialect::Networkd, file, 1);
    // A [Route] section as it is read: destination, gateway, table.
    let mut route: (Option<&str>, Option<&str>, bool) = (None, None, false);
    let flush = |c: &mut NicConfig, r: &mut (Option<&str>, Option<&str>, bool)| {
        if let (true, Some(gw), false) = (r.0.is_none_or(is_any), r.1, r.2) {
            c.gateways.extend(bare_ip(gw));
        }
        *r = (None, None, false);
    };
    for (section, key, value, line) in entries(&file.text) {
        match (section, key) {
            (_, "") => flush(&mut c, &mut route),
            ("Match", "Name") => c.names.extend(value.split_whitespace().map(str::to_owned)),
            ("Match", "MACAddress" | "PermanentMACAddress") => {
                c.macs.extend(value.split_whitespace().filter_map(mac).map(|m| (m, line)));
            }
            ("Network", "DHCP") => c.dhcp4 = Some(truth(value) || value == "ipv4" || value == "both"),
            ("Network", "Gateway") => c.gateways.extend(bare_ip(value)),
            ("Network" | "Address", "Address") => c.addresses.extend(bare_ip(value)),
            ("Network", "Bridge" | "Bond" | "VRF" | "MACVLAN" | "VLAN" | "VXLAN" | "BatmanAdvanced") => c.master = true,
            ("Network", "LinkLocalAddressing") if value == "no" => c.bare = true,
            ("DHCPv4" | "DHCP", "UseGateway" | "UseRoutes") if !truth(value) => c.never_default = true,
            ("Route", "Destination") => route.0 = Some(value),
            ("Route", "Gateway") => route.1 = Some(value),
            ("Route", "Table") => route.2 = value != "main" && value != "254",
            ("Link", "Unmanaged" | "ActivationPolicy") if truth(value) || value.ends_with("down") => c.bare = true,
            _ => {}
        }
    }
    flush(&mut c, &mut route);
    c.bare &= c.dhcp4 != Some(true) && c.addresses.is_empty();
    vec![c]
}

/// A keyfile of a connection.
pub(super) fn keyfile(file: &ConfigFile) -> Vec<NicConfig> {
    let mut c = NicConfig::new(Dialect::NetworkManager, file, 1);
    for (section, key, value, line) in entries(&file.text) {
        match (section, key) {
            ("connection", "id") => value.clone_into(&mut c.id),
            ("connection", "interface-name") => c.names.push(value.to_owned()),
            ("connection", "master" | "controller") => c.master = true,
            ("match", "interface-name") => {
                c.names.extend(value.split(';').filter(|n| !n.is_empty()).map(str::to_owned))
            }
            ("ethernet" | "802-3-ethernet", "mac-address") => c.macs.extend(mac(value).map(|m| (m, line))),
            ("ipv4", "method") => {
                c.dhcp4 = Some(value == "auto");
                c.bare = value == "disabled";
            }
            ("ipv4" | "ipv6", k) if k.starts_with("address") && k != "address-data" => {
                c.addresses.extend(bare_ip(value));
                if let Some(gw) = value.split(',').nth(1) {
                    c.gateways.extend(bare_ip(gw));
                }
            }
            ("ipv4" | "ipv6", "gateway") => c.gateways.extend(bare_ip(value)),
            ("ipv4", "never-default") if truth(value) => c.never_default = true,
            ("ipv4" | "ipv6", k) if k.starts_with("route") && !k.contains('_') && !k.contains('-') => {
                let mut parts = value.split(',');
                let default = parts.next().is_some_and(is_any);
                let table = format!("{k}_options=");
                let other = file.text.lines().any(|l| l.trim().starts_with(&table) && l.contains("table="));
                if let (true, Some(gw), false) = (default, parts.next(), other) {
                    c.gateways.extend(bare_ip(gw));
                }
            }
            _ => {}
        }
    }
    vec![c]
}
