//! `/etc/network/interfaces` and the files beside it: ifupdown, ifupdown2, ifupdown-ng and busybox.

use super::{Dialect, NicConfig, bare_ip, mac};
use crate::machine::observation::ConfigFile;

pub(super) fn read(file: &ConfigFile) -> Vec<NicConfig> {
    let mut all: Vec<NicConfig> = vec![];
    let mut current: Option<usize> = None;
    for (i, line) in file.text.lines().enumerate() {
        let line = line.trim();
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first {
            "auto" | "mapping" | "source" | "source-directory" | "no-auto-down" | "no-scripts" => current = None,
            w if w.starts_with("allow-") => current = None,
            "iface" => current = Some(stanza(&mut all, file, i + 1, second, words.nth(1).unwrap_or_default())),
            _ if line.starts_with('#') => {}
            _ => {
                if let Some(c) = current.and_then(|at| all.get_mut(at)) {
                    option(c, first, second, line, i + 1);
                }
            }
        }
    }
    all
}

/// The entry of a NIC; stanzas of one NIC for several families are one.
fn stanza(all: &mut Vec<NicConfig>, file: &ConfigFile, line: usize, name: &str, method: &str) -> usize {
    let at = all.iter().position(|c| c.id == name).unwrap_or_else(|| {
        let mut c = NicConfig::new(Dialect::Ifupdown, file, line);
        name.clone_into(&mut c.id);
        c.names.push(name.to_owned());
        c.bare = true;
        all.push(c);
        all.len() - 1
    });
    let c = &mut all[at];
    if method == "dhcp" {
        c.dhcp4 = Some(true);
    }
    c.bare &= method == "manual";
    at
}

fn option(c: &mut NicConfig, key: &str, value: &str, line: &str, number: usize) {
    match key {
        "address" => c.addresses.extend(bare_ip(value)),
        "gateway" => c.gateways.extend(bare_ip(value)),
        "hwaddress" => c.macs.extend(line.split_whitespace().filter_map(mac).map(|m| (m, number))),
        "bond-master" | "vrf" => c.master = true,
        "up" | "post-up" if line.contains("route") && line.contains("default") && !line.contains("table") => {
            let mut words = line.split_whitespace().skip_while(|w| *w != "via" && *w != "gw");
            c.gateways.extend(words.nth(1).and_then(bare_ip));
        }
        _ => {}
    }
    // «hwaddress» sets a MAC there; it does not match one.
    if key == "hwaddress" {
        c.macs.clear();
    }
}
