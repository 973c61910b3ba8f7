//! What a guest's kernel must hold once its configuration is in force, whatever dialect it came in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::Family;
use multihome_plan::route::{Method, RoutePlan};
use serde::{Deserialize, Serialize};

use crate::Guest;
use crate::view::{How, Nic, Stack};

/// The main routing table (linux/rtnetlink.h, `RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;

/// Addresses, routes and rules of a guest; NICs go by their names in the plan. Link-local and multicast are left out, and
/// so are metrics and who put a route there, because the dialects differ in them and packets do not care.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// Links by NIC.
    pub links: BTreeMap<String, Link>,
    /// Routes of all tables, connected ones included.
    pub routes: BTreeSet<Route>,
    /// Rules besides the kernel's own three.
    pub rules: BTreeSet<Rule>,
    /// NICs whose addresses and routes only somebody else's servers and routers know, by family.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub foreign: BTreeSet<Foreign>,
}

/// A family of a NIC of which the plan knows nothing but whether it may hold the default route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Foreign {
    /// The NIC.
    pub nic: String,
    /// The family.
    pub family: Family,
    /// Whether a router there may be the default router.
    pub default_route: bool,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// IPv4 addresses with their prefix lengths.
    pub ipv4: BTreeSet<IpNet>,
    /// IPv6 addresses of global scope. Their prefix lengths are left out: clients of DHCPv6 differ in them.
    pub ipv6: BTreeSet<IpAddr>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// Where to.
    pub to: IpNet,
    /// The next hop.
    pub via: Via,
    /// By which NIC.
    pub nic: String,
}

/// A next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Via {
    /// None: the destination is on the link.
    Link,
    /// A gateway.
    Gateway(IpAddr),
    /// Whichever router advertised itself by its link-local address (RFC 4861 section 6.3.4).
    Router,
}

/// A rule `from ADDRESS lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Its place among the rules; lower goes first.
    pub priority: u32,
    /// Whose packets.
    pub from: IpAddr,
    /// Which table.
    pub table: u32,
}

impl KernelState {
    /// The default routes of one family in the main table. More than one is the fault that this project is about.
    pub fn default_routes(&self, family: Family) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(move |r| {
            r.table == MAIN && r.to.prefix_len() == 0 && r.to.addr().is_ipv4() == (family == Family::IPv4)
        })
    }

    /// What keeps `seen` from being this state, one sentence each; empty where it is. Beyond what is planned, a guest may
    /// have routes to single hosts in its main table, which clients of DHCP put there for gateways and name servers, and
    /// addresses and connected routes of a family whose address only a foreign server knows; by a NIC of which nothing but
    /// that is known, also specific routes, and the default route where it is the primary.
    pub fn differences(&self, seen: &KernelState) -> Vec<String> {
        let mut out = vec![];
        for (nic, want) in &self.links {
            match seen.links.get(nic) {
                None => out.push(format!("{nic}: is missing")),
                Some(got) => link_differences(nic, want, got, &mut out),
            }
        }
        let planned = |r: &Route| self.routes.iter().any(|w| same(w, r));
        for want in self.routes.iter().filter(|w| !seen.routes.iter().any(|r| same(w, r))) {
            out.push(format!("route is missing: {}", describe(want)));
        }
        let of_unknown = |r: &Route| {
            let addresses = self.links.get(&r.nic).map(|l| (l.ipv4.is_empty(), l.ipv6.is_empty()));
            let unknown = addresses.is_none_or(|(v4, v6)| if r.to.addr().is_ipv4() { v4 } else { v6 });
            (r.via == Via::Link && unknown) || self.foreign.iter().any(|f| f.allows(r))
        };
        let tolerated = |r: &&Route| r.table == MAIN && (r.to.prefix_len() == r.to.max_prefix_len() || of_unknown(r));
        for extra in seen.routes.iter().filter(|r| !planned(r)).filter(|r| !tolerated(r)) {
            out.push(format!("route is not planned: {}", describe(extra)));
        }
        out.extend(self.rules.difference(&seen.rules).map(|r| format!("rule is missing: {}", describe_rule(r))));
        out.extend(seen.rules.difference(&self.rules).map(|r| format!("rule is not planned: {}", describe_rule(r))));
        out
    }
}

impl Foreign {
    fn allows(&self, r: &Route) -> bool {
        let family = if r.to.addr().is_ipv4() { Family::IPv4 } else { Family::IPv6 };
        r.nic == self.nic && family == self.family && (r.to.prefix_len() > 0 || self.default_route)
    }
}

fn same(want: &Route, got: &Route) -> bool {
    let hop = want.via == got.via || (want.via == Via::Router && matches!(got.via, Via::Gateway(_)));
    hop && (want.table, want.to, &want.nic) == (got.table, got.to, &got.nic)
}

fn link_differences(nic: &str, want: &Link, got: &Link, out: &mut Vec<String>) {
    if want.mtu != got.mtu {
        out.push(format!("{nic}: MTU is {}, planned {}", got.mtu, want.mtu));
    }
    if want.up != got.up {
        out.push(format!("{nic}: is {}", if got.up { "up" } else { "down" }));
    }
    if !want.ipv4.is_empty() && want.ipv4 != got.ipv4 {
        out.push(format!("{nic}: IPv4 addresses are {:?}, planned {:?}", got.ipv4, want.ipv4));
    }
    if !want.ipv6.is_empty() && want.ipv6 != got.ipv6 {
        out.push(format!("{nic}: IPv6 addresses are {:?}, planned {:?}", got.ipv6, want.ipv6));
    }
}

fn describe(r: &Route) -> String {
    let via = match r.via {
        Via::Link => String::new(),
        Via::Gateway(g) => format!(" via {g}"),
        Via::Router => " via its router".into(),
    };
    format!("{}{via} by {} in table {}", r.to, r.nic, r.table)
}

fn describe_rule(r: &Rule) -> String {
    format!("{}: from {} lookup {}", r.priority, r.from, r.table)
}

/// The state that a plan leads to. Addresses that only a foreign DHCP server knows, and what follows from them, are not in
/// it.
pub fn expected(plan: &RoutePlan) -> KernelState {
    let guest = Guest::new("", "", plan.clone());
    let mut out = KernelState::default();
    for nic in guest.nics() {
        let mut link = Link { mtu: nic.plan.mtu.get(), up: true, ipv4: BTreeSet::new(), ipv6: BTreeSet::new() };
        for stack in nic.stacks() {
            expect_stack(&nic, &stack, &mut link, &mut out);
        }
        out.links.insert(nic.plan.name.clone(), link);
    }
    out
}

fn expect_stack(nic: &Nic<'_>, stack: &Stack<'_>, link: &mut Link, out: &mut KernelState) {
    if stack.how() == How::Nothing {
        return;
    }
    let Some(plan) = nic.plan.family(stack.family) else { return };
    if plan.method == Method::Guard && plan.address.is_none() && plan.gateway.is_none() {
        let (nic, family) = (nic.plan.name.clone(), stack.family);
        out.foreign.insert(Foreign { nic, family, default_route: plan.default_route });
    }
    let mut route = |table, to: IpNet, via| out.routes.insert(Route { table, to, via, nic: nic.plan.name.clone() });
    if let Some(address) = plan.address {
        match address {
            IpNet::V4(_) => link.ipv4.insert(address),
            IpNet::V6(a) => link.ipv6.insert(a.addr().into()),
        };
        route(MAIN, address.trunc(), Via::Link);
    }
    let any: Option<IpNet> = stack.any().parse().ok();
    if let (true, Some(any), Some(gateway)) = (plan.default_route, any, plan.gateway) {
        let advertised = stack.is_served() && stack.family == Family::IPv6;
        route(MAIN, any, if advertised { Via::Router } else { Via::Gateway(gateway) });
    }
    for r in stack.routes() {
        route(MAIN, r.to, Via::Gateway(r.via));
    }
    if let (Some(t), Some(any)) = (stack.own_table(), any) {
        route(t.id, any, Via::Gateway(t.gateway));
        route(t.id, t.prefix, Via::Link);
        out.rules.insert(Rule { priority: t.priority, from: t.from, table: t.id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{dual, foreign, three};

    #[test]
    fn secondaries_with_a_gateway_have_tables_and_only_the_primary_a_default_route() {
        let s = expected(&three());
        let by = |f| s.default_routes(f).map(|r| r.nic.as_str()).collect::<Vec<_>>();
        assert_eq!((by(Family::IPv4), by(Family::IPv6)), (vec!["web-mgmt"], vec!["web-lab"]));
        let rules: Vec<_> = s.rules.iter().map(|r| (r.priority, r.from.to_string(), r.table)).collect();
        assert_eq!(rules, [(1002, "10.101.0.50".into(), 102), (1003, "10.102.0.50".into(), 103)]);
        assert_eq!(s.routes.iter().filter(|r| r.table == 102).count(), 2);
    }

    #[test]
    fn an_address_that_only_a_foreign_server_knows_brings_no_rule() {
        let s = expected(&foreign());
        assert!(s.rules.is_empty() && s.links["web-b"].ipv4.is_empty());
    }

    #[test]
    fn a_state_differs_from_itself_in_nothing_and_every_fault_is_named() {
        let want = expected(&three());
        assert_eq!(want.differences(&want), Vec::<String>::new());
        let fault = |change: &dyn Fn(&mut KernelState)| {
            let mut seen = want.clone();
            change(&mut seen);
            want.differences(&seen).join("; ")
        };
        let via = |g: &str| Via::Gateway(g.parse().unwrap());
        let second =
            Route { table: MAIN, to: "0.0.0.0/0".parse().unwrap(), via: via("10.101.0.1"), nic: "web-storage".into() };
        assert_eq!(
            fault(&|s| _ = s.routes.insert(second.clone())),
            "route is not planned: 0.0.0.0/0 via 10.101.0.1 by web-storage in table 254"
        );
        let host = Route { to: "10.101.0.1/32".parse().unwrap(), via: Via::Link, ..second.clone() };
        assert_eq!(fault(&|s| _ = s.routes.insert(host.clone())), "");
        assert!(fault(&|s| s.rules.clear()).starts_with("rule is missing: 1002: from 10.101.0.50 lookup 102"));
        assert!(
            fault(&|s| s.routes.retain(|r| r.table == MAIN)).contains("route is missing: 0.0.0.0/0 via 10.101.0.1")
        );
        assert!(fault(&|s| s.links.get_mut("web-storage").unwrap().mtu = 1500).contains("MTU is 1500, planned 9000"));
        assert!(fault(&|s| s.links.get_mut("web-lab").unwrap().ipv6.clear()).contains("IPv6 addresses are {}"));
        assert_eq!(fault(&|s| _ = s.links.remove("web-lab")), "web-lab: is missing");
    }

    #[test]
    fn both_families_have_their_own_rules() {
        assert_eq!(expected(&dual()).rules.len(), 2);
    }
}
