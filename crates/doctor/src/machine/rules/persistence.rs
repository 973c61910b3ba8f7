//! What works now is configured, too, and so works after a reboot.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::config::{Dialect, find_word};
use crate::machine::fix::{Fixer, Piece};
use crate::machine::observation::{Address, Link, MAIN, Route};
use crate::machine::query::Family;
use crate::machine::show;

pub(super) fn judge(f: &Fixer<'_>) -> Vec<Diagnosis> {
    // Where nothing that is known configures the network, nobody can tell what a reboot brings.
    if f.dialect == Dialect::Plain {
        return vec![];
    }
    f.o.uplinks().into_iter().filter_map(|l| one(f, l)).collect()
}

/// Whether a DHCP client works on a link whose lease is not known: its address may be the client's.
fn unknown_lease(f: &Fixer<'_>, l: &Link) -> bool {
    let asks = !f.o.clients_of(&l.name, false).is_empty() || f.config(l).is_some_and(|c| c.dhcp4 == Some(true));
    asks && f.o.lease(&l.name).is_none()
}

fn one(f: &Fixer<'_>, l: &Link) -> Option<Diagnosis> {
    let mut addresses: Vec<&Address> = vec![];
    for family in Family::ALL {
        for a in f.o.global(&l.name, family) {
            let ip = a.net.addr();
            let leased = f.o.leases.iter().any(|x| x.address == Some(ip));
            let written = find_word(&f.o.configs, &ip.to_string()).is_some();
            // A single address is a service's own that a daemon moves about (keepalived, kube-vip).
            let single = a.net.prefix_len() == a.net.max_prefix_len();
            if !a.dynamic && !leased && !written && !a.secondary && !single {
                addresses.push(a);
            }
        }
    }
    if unknown_lease(f, l) {
        let first = f.o.global(&l.name, Family::V4).first().map(|a| a.net);
        addresses.retain(|a| Some(a.net) != first);
    }
    let route = f.o.routes.iter().find(|r| r.table == MAIN && r.dev.as_ref() == Some(&l.name) && set_by_hand(f, l, r));
    if addresses.is_empty() && route.is_none() {
        return None;
    }
    let gateway = route.and_then(|r| r.via);
    let nets: Vec<_> = addresses.iter().map(|a| a.net).collect();
    let what: Vec<String> = nets
        .iter()
        .map(|n| format!("address {n}"))
        .chain(gateway.map(|g| format!("the default route via {g}")))
        .collect();
    let piece = Piece { purpose: "static", addresses: nets, gateway, ..Piece::default() };
    Some(
        Case {
            severity: Severity::Warning,
            rule: "not-persistent",
            subject: l.name.clone(),
            message: format!("{} of {} is in the kernel and in no configuration file", what.join(" and "), l.name),
            evidence: addresses
                .iter()
                .map(|a| show::address(a))
                .chain(route.map(show::route))
                .chain([format!("no file of {} names it", f.dialect.name())])
                .collect(),
            consequence: "it works now and is gone after a reboot".into(),
        }
        .cure(f.write(&l.name, &piece)),
    )
}

/// A default route that neither the kernel, a router advertisement, a client nor a file gave.
fn set_by_hand(f: &Fixer<'_>, l: &Link, r: &Route) -> bool {
    let Some(via) = r.via else { return false };
    let named = f.o.leases.iter().any(|x| x.routers.contains(&via) || x.classless_default == Some(via));
    r.to.prefix_len() == 0
        && !matches!(r.protocol, 2 | 9 | 16)
        && !named
        && !unknown_lease(f, l)
        && find_word(&f.o.configs, &via.to_string()).is_none()
}
