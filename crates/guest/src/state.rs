//! What a guest's kernel must hold once its configuration is in force, whatever dialect it came in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::Family;
use multihome_plan::route::RoutePlan;
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
        let advertised = stack.is_dhcp() && stack.family == Family::IPv6;
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
    fn both_families_have_their_own_rules() {
        assert_eq!(expected(&dual()).rules.len(), 2);
    }
}
