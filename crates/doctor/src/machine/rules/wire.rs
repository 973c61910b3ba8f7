//! What others on the segment say: doubled addresses and MACs, gateways that are silent.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::{Fixer, Remedy};
use crate::machine::observation::{Link, Route};
use crate::machine::query::{Family, devices};
use crate::machine::show;

pub(super) fn judge(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found = addresses(f);
    found.extend(macs(f));
    found.extend(gateways(f));
    found
}

fn addresses(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let failed = f.o.addresses.iter().filter(|a| a.dad_failed).map(|a| {
        (a.link.clone(), a.net.addr(), vec![show::address(a), "duplicate detection failed (RFC 4862)".to_owned()])
    });
    let heard = f.o.probes.iter().flat_map(|p| {
        p.duplicates.iter().map(|(ip, mac)| {
            (p.link.clone(), *ip, vec![format!("{mac} on {} answers an ARP probe for {ip} (RFC 5227)", p.link)])
        })
    });
    let case = |(link, ip, evidence): (String, std::net::IpAddr, Vec<String>)| {
        Case {
            severity: Severity::Error,
            rule: "duplicate-address",
            subject: link.clone(),
            message: format!("somebody else on the network of {link} has the address {ip}, too"),
            evidence,
            consequence: "neighbours send to one or the other as they please; connections break at random".into(),
        }
        .cure(Remedy::words(format!("take {ip} away from one of the two, or let DHCP give addresses on that network")))
    };
    failed.chain(heard).map(case).collect()
}

fn macs(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found = vec![];
    let uplinks = f.o.uplinks();
    for (i, a) in uplinks.iter().enumerate() {
        let twin = uplinks[i + 1..].iter().find(|b| a.mac.is_some() && a.mac == b.mac && !related(a, b));
        if let Some(b) = twin {
            let evidence = vec![show::link(a), show::link(b)];
            found.push(doubled(
                Severity::Warning,
                format!("{}, {}", a.name, b.name),
                evidence,
                "two NICs of this machine",
            ));
        }
    }
    for p in &f.o.probes {
        if let Some(seen) = &p.own_mac_seen {
            let evidence = vec![format!("{} received: {seen}", p.link)];
            found.push(doubled(Severity::Error, p.link.clone(), evidence, "somebody else on the network, or a loop,"));
        }
    }
    found
}

/// VLANs and macvlans share the MAC of what they are built on.
fn related(a: &Link, b: &Link) -> bool {
    let on = |x: &Link, y: &Link| x.parent.as_ref() == Some(&y.name) || y.master.as_ref() == Some(&x.name);
    on(a, b) || on(b, a) || (a.parent.is_some() && a.parent == b.parent) || (a.master.is_some() && a.master == b.master)
}

fn doubled(severity: Severity, subject: String, evidence: Vec<String>, who: &str) -> Diagnosis {
    Case {
        severity,
        rule: "duplicate-mac",
        message: format!("the MAC of {subject} is used twice: by {who}"),
        subject,
        evidence,
        consequence: "switches send frames to one or the other as they please; connections break at random".into(),
    }
    .cure(Remedy::words("give the NIC that was cloned a MAC of its own, at the hypervisor or in its configuration"))
}

fn gateways(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = vec![];
    let uses = |r: &&Route| r.to.prefix_len() == 0 && r.via.is_some() && r.kind == "unicast" && !r.dead;
    let mut told = vec![];
    for r in f.o.routes.iter().filter(uses) {
        let (Some(via), Some(dev)) = (r.via, r.dev.as_deref()) else { continue };
        let asked = f.o.probes.iter().find(|p| p.link == dev);
        let silent = match asked.and_then(|p| p.gateways.iter().find(|(g, _)| *g == via)) {
            Some((_, None)) => Some(format!("no answer to 3 {} requests for {via} on {dev}", word(via))),
            Some((_, Some(_))) => None,
            None => {
                f.o.neighbours
                    .iter()
                    .find(|n| n.link == dev && n.ip == via && n.state == "FAILED")
                    .map(|n| format!("{} dev {} {}", n.ip, n.link, n.state))
            }
        };
        let Some(why) = silent.filter(|_| !told.contains(&(via, dev))) else { continue };
        told.push((via, dev));
        let in_force =
            f.o.default_in_force(Family::of(via)).is_some_and(|d| devices(d).contains(&dev) && d.via == Some(via));
        let carrier = f.o.link(dev).map(show::link);
        found.push(
            Case {
                severity: if in_force { Severity::Error } else { Severity::Warning },
                rule: "gateway-silent",
                subject: dev.to_owned(),
                message: format!("gateway {via} of {dev} does not answer"),
                evidence: [show::route(r), why].into_iter().chain(carrier).collect(),
                consequence: "nothing beyond that network can be reached by it".into(),
            }
            .cure(Remedy::words(format!(
                "see that {via} is the right gateway and that {dev} is on its network: VLAN, cable, switch port, port security"
            ))),
        );
    }
    found
}

fn word(ip: std::net::IpAddr) -> &'static str {
    if ip.is_ipv4() { "ARP" } else { "neighbour" }
}
