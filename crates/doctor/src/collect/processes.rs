//! Network managers and DHCP clients that run in this network namespace.

use std::path::Path;

use super::{names, text};
use crate::machine::{DhcpClient, MachineObservation};

const MANAGERS: [&str; 5] = ["NetworkManager", "systemd-networkd", "wickedd", "dhcpcd", "connmand"];
const CLIENTS: [&str; 6] = ["dhclient", "udhcpc", "udhcpc6", "dhcpcd", "dhcp6c", "pump"];

pub(super) fn read(root: &Path, o: &mut MachineObservation) {
    let proc = Path::new("/proc");
    let mine = std::fs::read_link("/proc/thread-self/ns/net").ok();
    for name in names(proc, "") {
        let Ok(pid) = name.parse::<u32>() else { continue };
        let Some(raw) = text(proc, &format!("{name}/cmdline")).filter(|c| !c.is_empty()) else { continue };
        let words: Vec<&str> = raw.split('\0').filter(|w| !w.is_empty()).collect();
        let Some((program, args)) = program(&words) else { continue };
        // Of a process that may not be looked into, nobody can tell; it counts.
        let its = std::fs::read_link(proc.join(&name).join("ns/net")).ok();
        let foreign = if its.is_some() { its != mine } else { in_container(proc, &name) };
        if foreign {
            continue;
        }
        if MANAGERS.contains(&program.as_str()) && !o.managers.contains(&program) {
            o.managers.push(program.clone());
        }
        if CLIENTS.contains(&program.as_str()) {
            clients(pid, &program, &args, &words.join(" "), o);
        }
    }
    by_lease(root, o);
}

/// Whether a process belongs to a container that this program is not in, by its control group.
fn in_container(proc: &Path, pid: &str) -> bool {
    const ENGINES: [&str; 6] = ["docker", "kubepods", "libpod", "lxc", "containerd", "machine.slice"];
    let group = |p: &str| text(proc, &format!("{p}/cgroup")).unwrap_or_default();
    let (its, mine) = (group(pid), group("self"));
    its != mine && ENGINES.iter().any(|e| its.contains(e))
}

/// The program's name and its arguments; a busybox applet is its own program, and dhcpcd shows
/// `dhcpcd: eth0 [ip4]` and the like.
fn program(words: &[&str]) -> Option<(String, Vec<String>)> {
    let first = words.first()?;
    if let Some(rest) = first.strip_prefix("dhcpcd: ") {
        return Some(("dhcpcd".into(), rest.split_whitespace().map(str::to_owned).collect()));
    }
    let base = |w: &str| w.rsplit('/').next().unwrap_or_default().to_owned();
    let mut at = 0;
    let mut name = base(first);
    if ["busybox", "sh", "ash", "bash"].contains(&name.as_str()) && words.len() > 1 && name == "busybox" {
        at = 1;
        name = base(words[1]);
    }
    Some((name, words[at + 1..].iter().map(ToString::to_string).collect()))
}

fn clients(pid: u32, program: &str, args: &[String], command: &str, o: &mut MachineObservation) {
    let ipv6 = program.ends_with('6') || program == "dhcp6c" || args.iter().any(|a| a == "-6");
    // What NetworkManager starts is NetworkManager's.
    let program = if command.contains("nm-dhcp-helper") { "NetworkManager" } else { program };
    let joined = |a: &String| a.strip_prefix("-i").or(a.strip_prefix("--interface=")).map(str::to_owned);
    let mut on: Vec<String> = args
        .iter()
        .flat_map(|a| [Some(a.clone()), joined(a).filter(|_| program == "udhcpc")])
        .flatten()
        .filter(|a| o.links.iter().any(|l| l.name == *a))
        .collect();
    on.dedup();
    if on.is_empty() && program == "udhcpc" && o.links.iter().any(|l| l.name == "eth0") {
        on.push("eth0".into());
    }
    let links: Vec<Option<String>> = if on.is_empty() { vec![None] } else { on.into_iter().map(Some).collect() };
    for link in links {
        // dhcpcd splits itself into several processes.
        let known = program == "dhcpcd"
            && o.clients.iter().any(|c| c.program == program && (c.link == link || c.link.is_none()));
        if !known {
            o.clients.push(DhcpClient { pid, program: program.into(), link, ipv6, command: command.trim().into() });
        }
    }
}

/// Managers with a DHCP client inside show it by their leases alone.
fn by_lease(_root: &Path, o: &mut MachineObservation) {
    for manager in ["systemd-networkd", "NetworkManager"] {
        if !o.managers.iter().any(|m| m == manager) {
            continue;
        }
        for lease in o.leases.iter().filter(|l| l.client == manager) {
            let link = Some(lease.link.clone());
            if !o.clients.iter().any(|c| c.program == manager && c.link == link) {
                let command = lease.source.clone();
                o.clients.push(DhcpClient { pid: 0, program: manager.into(), link, ipv6: false, command });
            }
        }
    }
}
