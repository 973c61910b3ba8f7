//! NICs without an address, without a configuration, with too many clients, or with the wrong MAC.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::config::NicConfig;
use crate::machine::fix::{Action, Edit, Fixer, Piece, Remedy};
use crate::machine::observation::{DhcpClient, Link};
use crate::machine::query::{Family, is_global};
use crate::machine::show;

/// Drivers of NICs that a hypervisor plugged in: an unused one is an oversight more often than a spare.
const VIRTUAL: [&str; 9] = ["virtio_net", "vmxnet3", "xen-netfront", "vif", "hv_netvsc", "ena", "gve", "veth", "e1000"];

pub(super) fn judge(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found = vec![];
    for l in f.o.links.iter().filter(|l| f.o.is_nic(l) && !f.o.is_enslaved(l)) {
        found.extend(no_address(f, l));
        found.extend(not_configured(f, l));
        found.extend(several_clients(f, l));
    }
    found.extend(foreign_macs(f));
    found
}

fn carries_others(f: &Fixer<'_>, l: &Link) -> bool {
    f.o.links.iter().any(|o| o.parent.as_ref() == Some(&l.name))
}

fn ask_by_dhcp(f: &Fixer<'_>, l: &Link) -> Remedy {
    let held = f.o.default_in_force(Family::V4).is_some();
    f.write(&l.name, &Piece { purpose: "dhcp", dhcp: true, no_default: held, ..Piece::default() })
}

fn no_address(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    if !l.up || !l.carrier || f.o.addresses_of(&l.name).any(is_global) || carries_others(f, l) {
        return None;
    }
    let config = f.config(l);
    if config.is_some_and(|c| c.bare || c.master) {
        return None;
    }
    let clients = f.o.clients_of(&l.name, false);
    let mut evidence = vec![show::link(l)];
    evidence.extend(f.o.addresses_of(&l.name).map(show::address));
    evidence.extend(clients.iter().map(|c| format!("DHCP client: {} (process {})", c.command, c.pid)));
    let cure = match clients.first() {
        Some(_) => Remedy::words(format!(
            "see why no DHCP server answers on the network of {}: its VLAN, its server, or a filter in between",
            l.name
        )),
        None => ask_by_dhcp(f, l),
    };
    Some(
        Case {
            severity: Severity::Warning,
            rule: "no-address",
            subject: l.name.clone(),
            message: match clients.is_empty() {
                true => format!("{} is up and has no address, and no DHCP client runs on it", l.name),
                false => format!("{} is up and has no address: its DHCP client gets no answer", l.name),
            },
            evidence,
            consequence: "its network is not reachable".into(),
        }
        .cure(cure),
    )
}

fn not_configured(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    // NetworkManager takes every NIC that it is not told to leave.
    let taken = f.o.managers.iter().any(|m| m == "NetworkManager");
    if l.up || f.config(l).is_some() || taken || carries_others(f, l) || l.wireless {
        return None;
    }
    let virtual_nic = VIRTUAL.contains(&l.driver.as_str());
    Some(
        Case {
            severity: if virtual_nic { Severity::Warning } else { Severity::Info },
            rule: "not-configured",
            subject: l.name.clone(),
            message: format!("{} is there and nothing configures it", l.name),
            evidence: vec![show::link(l), format!("no configuration file names {} or its MAC", l.name)],
            consequence: "it stays down, and its network is not reachable".into(),
        }
        .cure(ask_by_dhcp(f, l)),
    )
}

fn several_clients(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    let distinct = |six| {
        let mut all = f.o.clients_of(&l.name, six);
        // These split themselves into several processes, or show themselves by process and by lease.
        for program in ["dhcpcd", "NetworkManager", "systemd-networkd"] {
            let first = all.iter().position(|c| c.program == program);
            let mut at = 0;
            all.retain(|c| {
                at += 1;
                c.program != program || Some(at - 1) == first
            });
        }
        all
    };
    let clients = [false, true].into_iter().map(distinct).find(|c| c.len() > 1)?;
    let lines = clients.iter().map(|c| format!("process {}: {}", c.pid, c.command)).collect();
    // The one that the machine's manager started stays; of equals, the one that was started last.
    let manager = |c: &&&DhcpClient| f.o.managers.contains(&c.program);
    let stays = clients.iter().find(manager).or(clients.iter().max_by_key(|c| c.pid))?;
    let words = clients
        .iter()
        .filter(|c| c != &stays)
        .map(|c| format!("stop {} (process {}) and whatever starts it; {} stays", c.program, c.pid, stays.program));
    Some(
        Case {
            severity: Severity::Error,
            rule: "several-dhcp-clients",
            subject: l.name.clone(),
            message: format!("{} DHCP clients run on {}", clients.len(), l.name),
            evidence: lines,
            consequence: "each undoes what the other set, at every renewal: addresses and routes come and go".into(),
        }
        .cure(Remedy { say: words.collect(), actions: vec![] }),
    )
}

fn foreign_macs(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let has = |m: &str| f.o.links.iter().any(|l| [&l.mac, &l.permanent_mac].into_iter().flatten().any(|x| x == m));
    let mut found: Vec<Diagnosis> = vec![];
    let mut told: Vec<&str> = vec![];
    for c in &f.said {
        for (mac, line) in c.macs.iter().filter(|(m, _)| !has(m)) {
            // What a generator wrote to /run says the same again.
            if told.contains(&mac.as_str()) || c.path.starts_with("/run/") {
                continue;
            }
            told.push(mac);
            found.push(foreign_mac(f, c, mac, *line));
        }
    }
    found
}

fn foreign_mac(f: &Fixer<'_>, c: &NicConfig, mac: &str, line: usize) -> Diagnosis {
    let text = f.o.configs.iter().find(|x| x.path == c.path).and_then(|x| x.text.lines().nth(line - 1));
    let free: Vec<&Link> = f.o.links.iter().filter(|l| f.o.is_nic(l) && f.config(l).is_none()).collect();
    let mut evidence = vec![format!("{}:{line}: {}", c.path, text.unwrap_or_default().trim())];
    evidence.extend(free.iter().map(|l| show::link(l)));
    let cure = match (free.as_slice(), text) {
        ([one], Some(text)) if one.mac.is_some() => {
            // As the file writes it: case and separators may differ from ours.
            let as_written =
                text.split(['"', '\'', '=', ' ', '}', ',']).find(|w| super::super::config::same_mac(w, mac));
            let edits = vec![Edit::Replace {
                from: as_written.unwrap_or(mac).to_owned(),
                to: one.mac.clone().unwrap_or_default(),
            }];
            Remedy {
                say: vec![format!("{} is the only NIC that nothing configures", one.name)],
                actions: vec![Action::EditFile { path: c.path.clone(), edits, mode: 0o600 }],
            }
        }
        _ => Remedy::words(format!("write the MAC of the right NIC into {}:{line}, or remove the entry", c.path)),
    };
    Case {
        // Without a NIC that waits for it, the entry may be of a NIC that is unplugged at the moment.
        severity: if free.is_empty() { Severity::Info } else { Severity::Warning },
        rule: "mac-mismatch",
        subject: c.id.clone(),
        message: format!("the configuration is for a NIC with MAC {mac}, and there is none"),
        evidence,
        consequence: "what the entry says is not applied to any NIC (a cloned disk, or a NIC that was replaced)".into(),
    }
    .cure(cure)
}
