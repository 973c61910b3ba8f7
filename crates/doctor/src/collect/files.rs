//! Configuration files and name servers.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::kernel::Indexes;
use super::{names, text};
use crate::machine::{ConfigFile, MachineObservation, Resolver};

/// Directories with the beginnings and endings of the names that matter there.
const DIRS: &[(&str, &[&str], &str)] = &[
    ("/etc/netplan", &[""], ".yaml"),
    ("/run/netplan", &[""], ".yaml"),
    ("/usr/lib/netplan", &[""], ".yaml"),
    ("/etc/systemd/network", &[""], ".network"),
    ("/run/systemd/network", &[""], ".network"),
    ("/etc/NetworkManager/system-connections", &[""], ""),
    ("/run/NetworkManager/system-connections", &[""], ""),
    ("/etc/sysconfig/network-scripts", &["ifcfg-", "route-", "rule-", "route6-", "rule6-"], ""),
    ("/etc/sysconfig/network", &["ifcfg-", "ifroute-", "ifrule-", "routes"], ""),
    ("/etc/network/interfaces.d", &[""], ""),
    ("/etc/network/if-up.d", &["multihome"], ""),
    ("/etc/sysctl.d", &[""], ".conf"),
    ("/etc/cloud/cloud.cfg.d", &[""], ".cfg"),
];

const FILES: &[&str] = &[
    "/etc/network/interfaces",
    "/etc/dhcpcd.conf",
    "/etc/dhcp/dhclient.conf",
    "/etc/dhclient.conf",
    "/etc/udhcpc/udhcpc.conf",
    "/etc/sysctl.conf",
    "/etc/iproute2/rt_tables",
    "/etc/rc.local",
    "/etc/keepalived/keepalived.conf",
];

pub(super) fn read(root: &Path, o: &mut MachineObservation) {
    let mut paths: Vec<String> = vec![];
    for (dir, starts, end) in DIRS {
        for name in names(root, dir) {
            if starts.iter().any(|s| name.starts_with(s)) && name.ends_with(end) && !name.starts_with('.') {
                paths.push(format!("{dir}/{name}"));
            }
            // Drop-ins of a .network file.
            if name.ends_with(".network.d") {
                paths.extend(names(root, &format!("{dir}/{name}")).iter().map(|n| format!("{dir}/{name}/{n}")));
            }
        }
    }
    paths.extend(FILES.iter().map(ToString::to_string));
    let mut refused = vec![];
    for path in paths {
        let real = root.join(path.trim_start_matches('/'));
        let Ok(meta) = std::fs::metadata(&real) else { continue };
        if !meta.is_file() {
            continue;
        }
        match text(root, &path) {
            Some(text) => o.configs.push(ConfigFile { path, text, mode: meta.permissions().mode() & 0o7777 }),
            None => refused.push(path),
        }
    }
    if !refused.is_empty() {
        o.notes.push(format!("not readable without root: {}", refused.join(", ")));
    }
}

/// The name servers in use: the stub of systemd-resolved stands for those that it asks.
pub(super) fn resolvers(root: &Path, indexes: &Indexes, o: &mut MachineObservation) {
    let mut found = of_file(root, "/etc/resolv.conf");
    if found.iter().any(|r| r.ip.is_loopback()) {
        found.extend(of_file(root, "/run/systemd/resolve/resolv.conf"));
        for (index, name) in indexes {
            let path = format!("/run/systemd/netif/links/{index}");
            let lines = text(root, &path).unwrap_or_default();
            for (i, line) in lines.lines().enumerate() {
                let servers = line.strip_prefix("DNS=").unwrap_or_default();
                for ip in servers.split_whitespace().filter_map(server) {
                    let source = format!("{path}:{}", i + 1);
                    found.retain(|r| r.ip != ip || r.link.is_some());
                    found.push(Resolver { ip, link: Some(name.clone()), source });
                }
            }
        }
        found.retain(|r| !r.ip.is_loopback());
    }
    o.resolvers = found;
}

/// `ADDRESS`, or `ADDRESS#NAME` as systemd writes it.
fn server(word: &str) -> Option<IpAddr> {
    word.split(['#', '%']).next()?.trim_matches(['[', ']']).parse().ok()
}

fn of_file(root: &Path, path: &str) -> Vec<Resolver> {
    let content = text(root, path).unwrap_or_default();
    let line = |(i, l): (usize, &str)| {
        let ip = server(l.trim().strip_prefix("nameserver")?.trim())?;
        Some(Resolver { ip, link: None, source: format!("{path}:{}", i + 1) })
    };
    content.lines().enumerate().filter_map(line).collect()
}
