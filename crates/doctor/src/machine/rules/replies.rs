//! Replies leave by the NIC that the request came in on.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::{Fixer, Remedy};
use crate::machine::observation::{Address, Options};
use crate::machine::query::{Family, devices, subnet};
use crate::machine::show;

pub(super) fn judge(f: &Fixer<'_>, options: &Options) -> Vec<Diagnosis> {
    let mut found = vec![];
    for link in f.o.uplinks().into_iter().filter(|l| l.up && f.o.vrf_of(&l.name).is_none()) {
        for family in Family::ALL {
            let first = f.o.global(&link.name, family).into_iter().find(|a| !a.deprecated && !a.secondary);
            found.extend(first.and_then(|a| one(f, options, a, family)));
        }
    }
    found
}

/// A rule names the address that the NIC has now.
fn leased(f: &Fixer<'_>, a: &Address) -> Vec<String> {
    let lease = f.o.lease(&a.link).is_some_and(|l| l.address == Some(a.net.addr()));
    let note = format!("{} is leased: have the server give {} this address always", a.net.addr(), a.link);
    (lease || a.dynamic).then_some(note).into_iter().collect()
}

fn one(f: &Fixer<'_>, options: &Options, a: &Address, family: Family) -> Option<Diagnosis> {
    let link = a.link.as_str();
    let main = f.o.default_in_force(family)?;
    if devices(main).contains(&link) || options.primary.as_deref() == Some(link) {
        return None;
    }
    // Off-link clients are known to come in here only where this NIC's network has a gateway.
    let (gateway, why) = f.o.gateway(link, family)?;
    let holder = main.dev.as_deref()?;
    let shared = f.o.global(holder, family).iter().any(|h| subnet(h) == subnet(a));
    let leaves = f.o.lookup(family.far_away(), Some(a.net.addr()))?;
    if shared || devices(leaves).contains(&link) {
        return None;
    }
    let by = devices(leaves).join(", ");
    let filter = f.o.strictest(link, "rp_filter");
    let strict = family == Family::V4 && filter == 1;
    let mut evidence = vec![show::address(a), why, show::route(leaves)];
    let rules = f.o.rules.iter().filter(|r| Family::of(r.from.addr()) == family && r.table != 255);
    evidence.extend(rules.map(show::rule));
    evidence.push(format!("no rule for packets from {}", a.net.addr()));
    let fate = match (family, filter) {
        (Family::V6, _) => "they are lost where the network drops foreign source addresses".to_owned(),
        (_, 1) => {
            evidence.push(format!("rp_filter of {link} is 1 (the larger of all and {link})"));
            format!("with rp_filter 1 this machine drops the requests themselves: {link} is dead to other networks")
        }
        (_, n) => format!(
            "rp_filter {n} lets the requests in, and the replies are lost where the network drops foreign source addresses"
        ),
    };
    Some(
        Case {
            severity: match strict {
                _ if f.o.roams(&[link, holder]) => Severity::Info,
                true => Severity::Error,
                false => Severity::Warning,
            },
            rule: "asymmetric-replies",
            subject: link.to_owned(),
            message: format!("replies from {} ({link}) to other networks leave by {by}", a.net.addr()),
            evidence,
            consequence: fate,
        }
        .cure(Remedy { say: leased(f, a), actions: vec![] }.and(f.own_table(link, a.net, Some(gateway)))),
    )
}
