//! Policy routes of a domain: a rule per gateway and route, and a table with one default route per next hop
//! (kernel document networking/policy-routing.rst).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use multihome_model::IfName;
use multihome_netlink::{
    Idempotent, Link, PROTOCOL, RULE_BLACKHOLE, RULE_UNREACHABLE, Route, RouteKind, Rtnl, Rule, TABLE_MAIN,
};
use multihome_plan::node::{FLOATING_TABLES, MOST_POLICY_ROUTES, PolicyRoute, Steer};

use super::Kernel;
use crate::error::{Error, Result};

/// The priority of the first rule; the last one comes before those of floating addresses.
const FIRST: u32 = 1;
/// The table of the first next hop, above those that fit into a byte and below those of floating addresses.
const TABLES: u32 = 5_000;
// Whose they are is known by their numbers alone.
const _: () = assert!(TABLES + MOST_POLICY_ROUTES as u32 <= FLOATING_TABLES.start);
/// The kernel's own action: ask the table.
const ASK: u8 = 1;
const LAST: u32 = FIRST + MOST_POLICY_ROUTES as u32;

fn prefix(net: IpNet) -> (IpAddr, u8) {
    (net.addr(), net.prefix_len())
}

fn rule_of(route: &PolicyRoute) -> Rule {
    let (table, action) = match route.action {
        Steer::Allow => (TABLE_MAIN, ASK),
        Steer::Hop(_) => (TABLES + route.order, ASK),
        Steer::Drop => (0, RULE_BLACKHOLE),
        Steer::Unreachable => (0, RULE_UNREACHABLE),
    };
    Rule {
        from: prefix(route.from),
        to: (route.to.prefix_len() > 0).then(|| prefix(route.to)),
        iif: Some(route.leg.to_string()),
        action,
        protocol: PROTOCOL,
        ..Rule::from_address(route.from.addr(), table, FIRST + route.order)
    }
}

/// The routes of a next hop's table: by it, and where its network is not there any more, nowhere.
fn routes_of(order: u32, hop: IpAddr) -> [Route; 2] {
    let any: IpAddr = match hop {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let default = Route { table: TABLES + order, ..Route::to(any, 0) };
    let nowhere = Route { kind: RouteKind::Unreachable, metric: 0xffff_0000, ..default.clone() };
    [Route { gateway: Some(hop), metric: 100, ..default }, nowhere]
}

fn is_ours(rule: &Rule) -> bool {
    (FIRST..LAST).contains(&rule.priority) && rule.protocol == PROTOCOL
}

fn same(a: &Rule, b: &Rule) -> bool {
    let key = |r: &Rule| (r.priority, r.from, r.to, r.iif.clone(), r.action, if r.action == ASK { r.table } else { 0 });
    key(a) == key(b)
}

impl Kernel {
    /// Makes exactly these the domain's policy routes. New ones come before old ones go.
    pub(super) fn put_policy_routes(&mut self, domain: &str, routes: &BTreeSet<PolicyRoute>) -> Result<()> {
        let Some((_, mut inside)) = self.inside(domain)? else {
            let reason = format!("there is no domain {domain}");
            return Err(Error::Unsupported { what: "policy routes".into(), reason });
        };
        let hops: BTreeSet<(u32, IpAddr)> =
            routes.iter().filter_map(|r| r.action.hop().map(|hop| (r.order, hop))).collect();
        let wanted: Vec<Route> = hops.iter().flat_map(|(order, hop)| routes_of(*order, *hop)).collect();
        for route in &wanted {
            inside.route_set(route)?;
        }
        let rules: Vec<Rule> = routes.iter().map(rule_of).collect();
        let present: Vec<Rule> = inside.rules()?.into_iter().filter(is_ours).collect();
        for rule in rules.iter().filter(|w| !present.iter().any(|p| same(p, w))) {
            inside.rule_add(rule).unless_exists()?;
        }
        for stale in present.iter().filter(|p| !rules.iter().any(|w| same(p, w))) {
            inside.rule_delete(stale).unless_missing()?;
        }
        let is_wanted = |r: &Route| wanted.iter().any(|w| (w.table, w.gateway, w.kind) == (r.table, r.gateway, r.kind));
        for stale in inside.routes()?.iter().filter(|r| in_a_table(r) && !is_wanted(r)) {
            inside.route_delete(stale).unless_missing()?;
        }
        Ok(())
    }
}

fn in_a_table(route: &Route) -> bool {
    (TABLES..TABLES + MOST_POLICY_ROUTES as u32).contains(&route.table) && route.protocol == PROTOCOL
}

/// Reads a domain's policy routes back; one whose table is not as it must be is not there.
pub(super) fn observed(inside: &mut Rtnl, links: &[Link]) -> Result<BTreeSet<PolicyRoute>> {
    let rules: Vec<Rule> = inside.rules()?.into_iter().filter(is_ours).collect();
    if rules.is_empty() {
        return Ok(BTreeSet::new());
    }
    let routes: Vec<Route> = inside.routes()?.into_iter().filter(in_a_table).collect();
    let read = |rule: &Rule| {
        let leg = IfName::new(rule.iif.clone()?).ok()?;
        links.iter().find(|l| l.name == leg.as_str())?;
        let order = rule.priority - FIRST;
        let from = IpNet::new(rule.from.0, rule.from.1).ok()?;
        let to = match rule.to {
            Some((ip, length)) => IpNet::new(ip, length).ok()?,
            None => IpNet::new(from.network(), 0).ok()?.trunc(),
        };
        let here = |r: &&Route| r.table == rule.table && r.destination.is_ipv4() == from.addr().is_ipv4();
        let action = match rule.action {
            ASK if rule.table == TABLE_MAIN => Steer::Allow,
            ASK => {
                let nowhere = routes.iter().filter(here).any(|r| r.kind == RouteKind::Unreachable);
                Steer::Hop(routes.iter().filter(here).find_map(|r| r.gateway).filter(|_| nowhere)?)
            }
            RULE_BLACKHOLE => Steer::Drop,
            RULE_UNREACHABLE => Steer::Unreachable,
            _ => return None,
        };
        Some(PolicyRoute { order, leg, from, to, action })
    };
    Ok(rules.iter().filter_map(read).collect())
}
