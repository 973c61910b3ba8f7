//! Exactly one default route per family, by the right NIC.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::{Action, Fixer, OwnTable, Remedy};
use crate::machine::observation::{Link, MAIN, Options, Route};
use crate::machine::query::{Family, devices};
use crate::machine::show;

pub(super) fn judge(f: &Fixer<'_>, options: &Options) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = Family::ALL.iter().filter_map(|fam| held(f, options, *fam)).collect();
    found.extend(none(f));
    found
}

/// The NIC that is to hold the default route: as the user says, or the only one to which the
/// configuration gives a gateway.
fn wanted(f: &Fixer<'_>, options: &Options, family: Family) -> Option<(String, String)> {
    if let Some(primary) = &options.primary {
        return Some((primary.clone(), format!("--primary {primary}")));
    }
    let mut named = f.o.uplinks().into_iter().filter_map(|l| {
        let c = f.config(l)?;
        let gateway = c.gateways.iter().find(|g| Family::of(**g) == family)?;
        (!c.never_default).then(|| (l.name.clone(), format!("{}: gateway {gateway}", c.place())))
    });
    let first = named.next()?;
    named.next().is_none().then_some(first)
}

/// Default routes by links that lead out; tunnels hold one on purpose.
fn outward<'a>(f: &Fixer<'a>, family: Family) -> Vec<&'a Route> {
    let out = |r: &&Route| devices(r).iter().all(|d| f.o.link(d).is_some_and(|l| f.o.is_uplink(l)));
    f.o.defaults(family).into_iter().filter(out).collect()
}

fn held(f: &Fixer<'_>, options: &Options, family: Family) -> Option<Diagnosis> {
    let all = outward(f, family);
    let first = *all.first()?;
    let evidence: Vec<String> = all.iter().map(|r| show::route(r)).collect();
    let now = devices(first);
    // Where the configured NIC holds one, too, nobody can tell which is meant: that is the race itself.
    let holds = |link: &str| all.iter().any(|r| devices(r).contains(&link));
    let wish = wanted(f, options, family).filter(|(w, _)| options.primary.is_some() || !holds(w));
    if let Some((want, why)) = wish.as_ref().filter(|(w, _)| !now.contains(&w.as_str())) {
        return Some(wrong_nic(f, &all, want, why, evidence, family));
    }
    let keep = wish.map_or_else(|| now[0].to_owned(), |(w, _)| w);
    let others: Vec<&Route> = all.iter().copied().filter(|r| !devices(r).contains(&keep.as_str())).collect();
    // The kernel merges equal routes of router advertisements into one with several next hops.
    let merged = first.protocol == 9 && first.hops.iter().any(|(d, _)| *d != keep);
    if others.is_empty() && !merged {
        return None;
    }
    let equal = merged || others.iter().any(|r| r.metric == first.metric);
    let fallback = |r: &&Route| devices(r).iter().all(|d| f.o.link(d).is_some_and(|l| l.wireless));
    let severity = match equal {
        true => Severity::Error,
        false if others.iter().all(fallback) => Severity::Info,
        false => Severity::Warning,
    };
    let count = all.iter().map(|r| devices(r).len()).sum::<usize>();
    let mut links: Vec<&str> = others.iter().flat_map(|r| devices(r)).collect();
    links.extend(first.hops.iter().map(|(d, _)| d.as_str()).filter(|d| *d != keep));
    links.dedup();
    let mut cure = Remedy::default();
    for link in &links {
        let mine: Vec<&Route> = others.iter().copied().filter(|r| r.dev.as_deref() == Some(*link)).collect();
        cure = cure.and(f.no_default(link, &mine));
    }
    Some(
        Case {
            severity,
            rule: if equal { "equal-metrics" } else { "several-default-routes" },
            subject: keep.clone(),
            message: if equal {
                format!(
                    "{count} {} default routes have the same metric, by {keep} and {}",
                    family.name(),
                    links.join(", ")
                )
            } else {
                format!("{count} {} default routes, by {keep} and {}", family.name(), links.join(", "))
            },
            evidence,
            consequence: if equal {
                "which of them is used depends on the order in which they were set, and changes from boot to boot"
                    .into()
            } else {
                format!(
                    "traffic leaves by {keep} until its metric, link or lease changes (a replugged NIC, another \
                     order at boot), then by {}",
                    links[0]
                )
            },
        }
        .cure(cure),
    )
}

fn wrong_nic(f: &Fixer<'_>, all: &[&Route], want: &str, why: &str, evidence: Vec<String>, family: Family) -> Diagnosis {
    let wrong: Vec<&Route> = all.iter().copied().filter(|r| !devices(r).contains(&want)).collect();
    let by = devices(wrong[0])[0].to_owned();
    let mut cure = f.no_default(&by, &wrong);
    let has = all.iter().any(|r| devices(r).contains(&want));
    match (has, gateway_of(f, want, family)) {
        (false, Some(gateway)) => cure = cure.and(add(want, gateway)),
        (false, None) => {
            cure.say.push(format!("no gateway of {want} is known: add the default route by {want} yourself"))
        }
        (true, _) => {}
    }
    Case {
        severity: Severity::Error,
        rule: "default-route-wrong-nic",
        subject: by.clone(),
        message: format!("the {} default route is by {by}; it should be by {want}", family.name()),
        evidence: evidence.into_iter().chain([why.to_owned()]).collect(),
        consequence: "traffic to other networks leaves by the wrong NIC".into(),
    }
    .cure(cure)
}

fn gateway_of(f: &Fixer<'_>, link: &str, family: Family) -> Option<std::net::IpAddr> {
    let config = f.o.link(link).and_then(|l| f.config(l));
    let said = config.and_then(|c| c.gateways.iter().copied().find(|g| Family::of(*g) == family));
    said.or_else(|| f.o.gateway(link, family).map(|(g, _)| g))
}

fn add(link: &str, gateway: std::net::IpAddr) -> Remedy {
    let main = OwnTable { number: MAIN, gateway: Some(gateway), subnets: vec![], from: vec![], priority: 0 };
    let actions = main.routes(link).into_iter().map(|route| Action::AddRoute { route }).collect();
    Remedy { say: vec![], actions }
}

/// No default route, although a lease or the configuration names a gateway.
fn none(f: &Fixer<'_>) -> Vec<Diagnosis> {
    let mut found = vec![];
    let uplinks = f.o.uplinks();
    let any = Family::ALL.iter().any(|fam| f.o.default_in_force(*fam).is_some() || !f.o.defaults(*fam).is_empty());
    for family in Family::ALL {
        if f.o.default_in_force(family).is_some() || !f.o.defaults(family).is_empty() {
            continue;
        }
        let free = |l: &&Link| f.o.vrf_of(&l.name).is_none() && !f.o.global(&l.name, family).is_empty();
        let candidates: Vec<&&Link> = uplinks.iter().filter(|l| free(l)).collect();
        let known = candidates.iter().find_map(|l| {
            let c = f.config(l);
            if c.is_some_and(|c| c.never_default) {
                return None;
            }
            let gateway = gateway_of(f, &l.name, family)?;
            let lease = f.o.lease(&l.name).filter(|s| s.routers.contains(&gateway)).map(|s| s.source.clone());
            let place = lease.or_else(|| c.map(|c| c.place())).unwrap_or_default();
            // A gateway that only a table of the NIC's own names is there on purpose.
            let own = f.o.routes.iter().any(|r| r.to.prefix_len() == 0 && r.via == Some(gateway) && r.table != MAIN);
            (!own).then(|| (l.name.clone(), gateway, format!("{place}: gateway {gateway}")))
        });
        let Some((link, gateway, why)) = known else {
            // Nothing says that there should be one: an isolated network is no fault.
            if !any && family == Family::V4 && !candidates.is_empty() {
                found.push(isolated());
            }
            continue;
        };
        found.push(
            Case {
                severity: Severity::Error,
                rule: "no-default-route",
                subject: link.clone(),
                message: format!("there is no {} default route; it should go by {link} via {gateway}", family.name()),
                evidence: vec!["no default route in the main table".into(), why],
                consequence: "the machine reaches its own networks only".into(),
            }
            .cure(add(&link, gateway)),
        );
    }
    found
}

fn isolated() -> Diagnosis {
    Case {
        severity: Severity::Info,
        rule: "no-default-route",
        subject: "machine".into(),
        message: "there is no default route, and nothing here names a gateway".into(),
        evidence: vec!["no default route in the main table".into()],
        consequence: "the machine reaches its own networks only, which may be on purpose".into(),
    }
    .cure(Remedy::words("if it is not on purpose, name a gateway for one NIC"))
}
