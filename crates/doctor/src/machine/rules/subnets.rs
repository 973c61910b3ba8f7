//! Several NICs in one subnet or fed by one DHCP server.

use super::{Case, Diagnosis};
use crate::Severity;
use crate::machine::fix::{Fixer, Remedy, sysctls};
use crate::machine::observation::{Address, Options};
use crate::machine::query::{Family, is_global, subnet};
use crate::machine::show;

pub(super) fn judge(f: &Fixer<'_>, options: &Options) -> Vec<Diagnosis> {
    let mut found = vec![];
    let mut seen: Vec<(String, String, Family)> = vec![];
    for (a, b) in pairs(f) {
        let family = Family::of(a.net.addr());
        let key = (a.link.clone(), b.link.clone(), family);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let bound = options.bound.iter().any(|s| s.contains(&a.link) && s.contains(&b.link));
        let roams = f.o.roams(&[&a.link, &b.link]);
        if !bound && !own_ways(f, a, b) {
            found.push(same_subnet(f, a, b, roams));
        }
        if family == Family::V4 {
            found.extend(arp_flux(f, a, b, bound || roams));
        }
    }
    found.extend(one_server(f));
    found
}

/// Addresses of different uplinks, in the same VRF, whose subnets overlap.
fn pairs<'a>(f: &Fixer<'a>) -> Vec<(&'a Address, &'a Address)> {
    let uplinks = f.o.uplinks();
    let counts = |a: &&Address| {
        let shared = a.net.prefix_len() < a.net.max_prefix_len();
        is_global(a) && shared && !a.secondary && uplinks.iter().any(|l| l.name == a.link && l.up)
    };
    let all: Vec<&Address> = f.o.addresses.iter().filter(counts).collect();
    let mut out = vec![];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            let overlap = subnet(a).contains(&subnet(b)) || subnet(b).contains(&subnet(a));
            let apart = f.o.vrf_of(&a.link) != f.o.vrf_of(&b.link);
            if a.link != b.link && overlap && !apart {
                out.push((*a, *b));
            }
        }
    }
    out
}

/// Whether rules send each address's packets to the subnet by its own NIC: it is done on purpose.
fn own_ways(f: &Fixer<'_>, a: &Address, b: &Address) -> bool {
    [(a, b), (b, a)].iter().all(|(mine, other)| {
        // Somebody in the subnet who is neither of the two.
        let stranger = subnet(mine).hosts().find(|h| *h != mine.net.addr() && *h != other.net.addr());
        let Some(to) = stranger else { return true };
        f.o.lookup(to, Some(mine.net.addr())).is_some_and(|r| r.dev.as_ref() == Some(&mine.link))
    })
}

fn same_subnet(f: &Fixer<'_>, a: &Address, b: &Address, roams: bool) -> Diagnosis {
    let stranger = subnet(a).hosts().find(|h| *h != a.net.addr() && *h != b.net.addr());
    let way = stranger.and_then(|to| f.o.lookup(to, None));
    let used = way.and_then(|r| r.dev.clone()).unwrap_or_else(|| a.link.clone());
    let mut evidence = vec![show::address(a), show::address(b)];
    evidence.extend(way.map(show::route));
    let mut cure = Remedy::words(
        "give each NIC a network of its own, or bond them; if both are to stay (say so with --bound), a table of its own per NIC:",
    );
    for x in [a, b] {
        let gateway = f.o.gateway(&x.link, Family::of(x.net.addr())).map(|(g, _)| g).filter(|g| x.net.contains(g));
        cure = cure.and(f.own_table(&x.link, x.net, gateway));
    }
    Case {
        severity: if roams { Severity::Info } else { Severity::Warning },
        rule: "same-subnet",
        subject: format!("{}, {}", a.link, b.link),
        message: format!("{} and {} are both in subnet {}", a.link, b.link, subnet(a)),
        evidence,
        consequence: format!("all traffic to that subnet leaves by {used}, whichever NIC it belongs to"),
    }
    .cure(cure)
}

/// With `arp_ignore` 0 any NIC answers for any address of the machine (ip-sysctl.rst).
fn arp_flux(f: &Fixer<'_>, a: &Address, b: &Address, wanted: bool) -> Option<Diagnosis> {
    f.o.sysctl("net/ipv4/conf/all/arp_ignore")?;
    let loose: Vec<&str> = [&a.link, &b.link]
        .into_iter()
        .filter(|l| f.o.strictest(l, "arp_ignore") == 0 && f.o.strictest(l, "arp_filter") == 0)
        .map(String::as_str)
        .collect();
    if loose.is_empty() {
        return None;
    }
    let mut pairs = vec![];
    for l in &loose {
        pairs.push((format!("net/ipv4/conf/{l}/arp_ignore"), "1".to_owned()));
        pairs.push((format!("net/ipv4/conf/{l}/arp_announce"), "2".to_owned()));
    }
    let mut evidence = vec![show::address(a), show::address(b)];
    evidence.extend(loose.iter().map(|l| format!("net.ipv4.conf.{l}.arp_ignore = 0")));
    Some(
        Case {
            severity: if wanted { Severity::Info } else { Severity::Warning },
            rule: "arp-flux",
            subject: format!("{}, {}", a.link, b.link),
            message: format!("{} answers ARP for the addresses of the other NIC in {}", loose.join(" and "), subnet(a)),
            evidence,
            consequence: "neighbours learn the wrong MAC, and traffic comes in by the wrong NIC".into(),
        }
        .cure(sysctls("arp", &pairs)),
    )
}

/// Two leases from one server. On some clouds one server feeds every network and only the primary
/// is told of a router; that is no fault.
fn one_server(f: &Fixer<'_>) -> Option<Diagnosis> {
    let uplinks = f.o.uplinks();
    let leases: Vec<_> = uplinks.iter().filter_map(|l| f.o.lease(&l.name)).filter(|l| l.server.is_some()).collect();
    let (i, a) = leases.iter().enumerate().find(|(i, a)| leases[i + 1..].iter().any(|b| b.server == a.server))?;
    let b = leases[i + 1..].iter().find(|b| b.server == a.server)?;
    let server = a.server?;
    let both_routed = [a, b].iter().all(|l| !l.routers.is_empty() || l.classless_default.is_some());
    let net = |link: &str| f.o.global(link, Family::V4).first().map(|x| subnet(x));
    let shared = net(&a.link).is_some() && net(&a.link) == net(&b.link);
    let line = |l: &crate::machine::Lease| {
        let routers: Vec<String> = l.routers.iter().map(ToString::to_string).collect();
        let address = l.address.map(|x| x.to_string()).unwrap_or_default();
        format!("{}: {} has {address} from server {server}, routers [{}]", l.source, l.link, routers.join(", "))
    };
    Some(
        Case {
            severity: if (both_routed || shared) && !f.o.roams(&[&a.link, &b.link]) {
                Severity::Warning
            } else {
                Severity::Info
            },
            rule: "one-dhcp-server",
            subject: format!("{}, {}", a.link, b.link),
            message: format!("{} and {} are both fed by the DHCP server {server}", a.link, b.link),
            evidence: vec![line(a), line(b)],
            consequence: if shared {
                "both NICs are on one network, and all its traffic leaves by one of them".into()
            } else if both_routed {
                "each lease names a router, and the client that is last or first decides which is used".into()
            } else {
                "none that is seen here: only one lease names a router".into()
            },
        }
        .cure(Remedy::words(if shared {
            format!(
                "put {} and {} on networks of their own, or give {} a static address without a gateway",
                a.link, b.link, b.link
            )
        } else {
            format!("have the server name no router for the network of {}, or keep its default route out here", b.link)
        })),
    )
}
