//! Packets that are larger than what the way takes.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::Fixer;
use crate::machine::observation::{Link, Probe};
use crate::machine::query::Family;
use crate::machine::show;

/// What VXLAN (RFC 7348) and Geneve (RFC 8926) without options put around a packet, in bytes: outer
/// IP header, UDP, tunnel header, inner Ethernet header.
const OVER_IPV4: u32 = 50;
const OVER_IPV6: u32 = 70;
/// Engines that set a size beyond any wire's limit on purpose and use routes' MTUs instead.
const MANAGED: u32 = 60_000;

pub(super) fn judge(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = f.o.links.iter().filter_map(|l| overlay(f, l)).collect();
    for link in f.o.uplinks() {
        let by_lease = lease(f, link);
        let told = by_lease.is_some();
        found.extend(by_lease);
        if !told && let Some(p) = f.o.probes.iter().find(|p| p.link == link.name) {
            found.extend(path(f, link, p));
        }
    }
    found
}

fn overlay(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    if !["vxlan", "geneve"].contains(&l.kind.as_str()) || l.mtu > MANAGED {
        return None;
    }
    let parent = f.o.link(l.parent.as_deref()?)?;
    let six = f.o.global(&parent.name, Family::V4).is_empty() && !f.o.global(&parent.name, Family::V6).is_empty();
    let around = if six { OVER_IPV6 } else { OVER_IPV4 };
    let room = parent.mtu.saturating_sub(around);
    (l.mtu > room).then(|| {
        Case {
            severity: Severity::Error,
            rule: "overlay-mtu",
            subject: l.name.clone(),
            message: format!("{} has MTU {}, and {} below it leaves room for {room}", l.name, l.mtu, parent.name),
            evidence: vec![
                show::link(l),
                show::link(parent),
                format!("{} takes {around} bytes of each packet", l.kind),
            ],
            consequence: "small packets pass and large ones vanish: connections open and then hang".into(),
        }
        .cure(f.mtu(&l.name, room))
    })
}

fn lease(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    let lease = f.o.lease(&l.name)?;
    let mtu = lease.mtu.filter(|m| (68..l.mtu).contains(m))?;
    Some(
        Case {
            severity: Severity::Error,
            rule: "lease-mtu",
            subject: l.name.clone(),
            message: format!("{} has MTU {}, and its DHCP server says {mtu}", l.name, l.mtu),
            evidence: vec![show::link(l), format!("{}: interface MTU {mtu} (option 26)", lease.source)],
            consequence: "packets larger than the network's MTU vanish: connections open and then hang".into(),
        }
        .cure(f.mtu(&l.name, mtu)),
    )
}

fn path(f: &Fixer<'_>, l: &Link, p: &Probe) -> Option<Diagnosis> {
    let seen = p.path_mtu.as_ref()?;
    let lost = seen.lost?;
    let limited = |r: &&crate::machine::Route| r.via == Some(seen.gateway) && r.mtu.is_some_and(|m| m <= seen.answered);
    if f.o.routes.iter().any(|r| limited(&r)) {
        return None;
    }
    Some(
        Case {
            severity: Severity::Error,
            rule: "mtu-above-path",
            subject: l.name.clone(),
            message: format!("{} has MTU {}, and packets of {lost} bytes do not reach its gateway", l.name, l.mtu),
            evidence: vec![
                show::link(l),
                format!("gateway {} answers packets of {} bytes and none of {lost}", seen.gateway, seen.answered),
            ],
            consequence: "small packets pass and large ones vanish: connections open and then hang".into(),
        }
        .cure(f.mtu(&l.name, seen.answered)),
    )
}
