//! Name servers are reached by the NIC that named them, or by the one with the default route.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::{Fixer, Piece, Remedy};
use crate::machine::observation::Resolver;
use crate::machine::query::{Family, devices, is_global};
use crate::machine::show;

enum Verdict<'a> {
    Good,
    Unreachable(&'a Resolver),
    /// The resolver, the NIC whose name server it is, and the sentence.
    Wrong(&'a Resolver, String, String),
}

pub(super) fn judge(f: &Fixer<'_>) -> Vec<Diagnosis> {
    if !f.o.addresses.iter().any(is_global) {
        return vec![];
    }
    let verdicts: Vec<Verdict<'_>> = f.o.resolvers.iter().map(|r| one(f, r)).collect();
    let any_good = verdicts.iter().any(|v| matches!(v, Verdict::Good));
    verdicts.into_iter().filter_map(|v| report(f, v, any_good)).collect()
}

fn one<'a>(f: &Fixer<'_>, r: &'a Resolver) -> Verdict<'a> {
    // A link-local server is asked by the link that its scope names.
    if r.ip.is_loopback() || matches!(r.ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Verdict::Good;
    }
    let Some(way) = f.o.lookup(r.ip, None) else { return Verdict::Unreachable(r) };
    let local = way.kind == "local";
    let uplinks = f.o.uplinks();
    let outward = devices(way).iter().all(|d| uplinks.iter().any(|l| l.name == *d));
    // A tunnel's name server is reached by the tunnel; one NIC is never the wrong one.
    if local || !outward || uplinks.iter().filter(|l| f.o.addresses_of(&l.name).any(is_global)).count() < 2 {
        return Verdict::Good;
    }
    let by = devices(way).join(", ");
    let mut from: Vec<&str> = f.o.leases.iter().filter(|l| l.dns.contains(&r.ip)).map(|l| l.link.as_str()).collect();
    from.extend(r.link.as_deref());
    if let Some(named) = from.first().filter(|_| !from.iter().any(|l| devices(way).contains(l))) {
        let text = format!("name server {} was named on {named}, and is asked by {by}", r.ip);
        return Verdict::Wrong(r, (*named).to_owned(), text);
    }
    let holder = f.o.default_in_force(Family::of(r.ip)).and_then(|d| d.dev.clone());
    match holder {
        Some(h) if !devices(way).contains(&h.as_str()) => {
            let text = format!("name server {} is reached by {by} alone, and the default route is by {h}", r.ip);
            Verdict::Wrong(r, by, text)
        }
        _ => Verdict::Good,
    }
}

fn report(f: &Fixer<'_>, v: Verdict<'_>, any_good: bool) -> Option<Diagnosis> {
    let line = |r: &Resolver| format!("{}: nameserver {}", r.source, r.ip);
    match v {
        Verdict::Good => None,
        Verdict::Unreachable(r) => Some(
            Case {
                severity: if any_good { Severity::Warning } else { Severity::Error },
                rule: "dns-unreachable",
                subject: r.ip.to_string(),
                message: format!("no route leads to name server {}", r.ip),
                evidence: vec![line(r)],
                consequence: if any_good {
                    "names resolve after a delay".into()
                } else {
                    "names do not resolve".into()
                },
            }
            .cure(Remedy::words("name a server that can be reached, or mend the default route")),
        ),
        Verdict::Wrong(r, link, message) => {
            let way = f.o.lookup(r.ip, None).map(show::route);
            let cure = f.write(&link, &Piece { purpose: "dns", no_dns: true, ..Piece::default() });
            Some(
                Case {
                    severity: if any_good { Severity::Info } else { Severity::Warning },
                    rule: "dns-wrong-nic",
                    subject: link.clone(),
                    message,
                    evidence: [line(r)].into_iter().chain(way).collect(),
                    consequence: format!("names resolve only as long as {link}'s network answers there"),
                }
                .cure(
                    Remedy::words(format!(
                        "take name servers from the NIC with the default route, and none from {link}"
                    ))
                    .and(cure),
                ),
            )
        }
    }
}
