//! `ifcfg-NAME` of RHEL's network-scripts and of SUSE's wicked, with their route files.

use super::{Dialect, NicConfig, bare_ip, mac, truth};
use crate::machine::observation::ConfigFile;

pub(super) fn read(file: &ConfigFile, all: &[ConfigFile], dialect: Dialect) -> Vec<NicConfig> {
    let mut c = NicConfig::new(dialect, file, 1);
    let Some((dir, name)) = file.path.rsplit_once("/ifcfg-") else { return vec![] };
    if name == "lo" || name == "template" || name.ends_with('~') || name.contains(".rpm") {
        return vec![];
    }
    name.clone_into(&mut c.id);
    let mut device = name.to_owned();
    for (i, line) in file.text.lines().enumerate() {
        let line = line.trim();
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        // IPADDR0, IPADDR_1 and so on count as IPADDR.
        match key.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '_') {
            "DEVICE" => value.clone_into(&mut device),
            "HWADDR" | "LLADDR" => c.macs.extend(mac(value).map(|m| (m, i + 1))),
            "BOOTPROTO" => {
                c.dhcp4 = Some(value.starts_with("dhcp"));
                c.bare = value == "none" || value == "static";
            }
            "IPADDR" | "IPV6ADDR" => c.addresses.extend(bare_ip(value)),
            "GATEWAY" | "IPV6_DEFAULTGW" => c.gateways.extend(bare_ip(value)),
            "DEFROUTE" | "DHCLIENT_SET_DEFAULT_ROUTE" if !truth(value) => c.never_default = true,
            "MASTER" | "BRIDGE" | "TEAM_MASTER" | "VRF" => c.master = true,
            "STARTMODE" if value == "off" || value == "manual" => c.bare = true,
            _ => {}
        }
    }
    for kind in ["route", "ifroute"] {
        let path = format!("{dir}/{kind}-{name}");
        let lines = all.iter().filter(|f| f.path == path).flat_map(|f| f.text.lines());
        c.gateways.extend(lines.filter_map(default_in_main));
    }
    c.bare &= c.addresses.is_empty();
    c.names.push(device);
    vec![c]
}

/// The gateway of a line that sets the default route of the main table: `default via G …` or
/// `default G - …`.
fn default_in_main(line: &str) -> Option<std::net::IpAddr> {
    let mut words = line.split_whitespace();
    let first = words.next().filter(|w| super::is_any(w))?;
    let second = words.next()?;
    let gateway = if second == "via" { words.next()? } else { second };
    let other = line.contains(" table ") && !line.contains(" table main");
    bare_ip(gateway).filter(|_| !other && !first.starts_with('#'))
}
