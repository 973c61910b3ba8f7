//! Routes, rules and MTUs in the kernel, so that what is there already, or gone already, is no fault.

use std::net::IpAddr;

use multihome_netlink as nl;
use nl::{Idempotent, LinkChange, Result, Rtnl};

use crate::machine::{Route, Rule};

fn route(rtnl: &mut Rtnl, r: &Route) -> Result<nl::Route> {
    let oif = match &r.dev {
        Some(dev) => rtnl.index(dev)?,
        None => 0,
    };
    Ok(nl::Route {
        gateway: r.via,
        oif,
        onlink: r.onlink,
        source: r.source,
        metric: r.metric,
        table: r.table,
        protocol: r.protocol,
        ..nl::Route::to(r.to.addr(), r.to.prefix_len())
    })
}

fn rule(r: &Rule) -> nl::Rule {
    let ip: IpAddr = r.from.addr();
    nl::Rule {
        from: (ip, r.from.prefix_len()),
        protocol: r.protocol,
        ..nl::Rule::from_address(ip, r.table, r.priority)
    }
}

fn same(a: &nl::Route, b: &nl::Route) -> bool {
    // IPv6 routes get metric 1024 where none is asked for.
    let metric = |r: &nl::Route| if r.metric == 1024 && r.destination.is_ipv6() { 0 } else { r.metric };
    (a.destination, a.prefix, a.gateway, a.oif, a.table) == (b.destination, b.prefix, b.gateway, b.oif, b.table)
        && metric(a) == metric(b)
}

pub(super) fn route_is_there(r: &Route) -> Result<bool> {
    let mut rtnl = Rtnl::open()?;
    let wanted = route(&mut rtnl, r)?;
    Ok(rtnl.routes()?.iter().any(|x| same(x, &wanted)))
}

pub(super) fn add_route(r: &Route) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let wanted = route(&mut rtnl, r)?;
    if rtnl.routes()?.iter().any(|x| same(x, &wanted)) {
        return Ok(());
    }
    rtnl.route_append(&wanted).unless_exists().map(drop)
}

pub(super) fn delete_route(r: &Route) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let gone = match route(&mut rtnl, r) {
        Err(e) if e.is_missing() => return Ok(()),
        other => other?,
    };
    rtnl.route_delete(&gone).unless_missing().map(drop)
}

pub(super) fn rule_is_there(r: &Rule) -> Result<bool> {
    let wanted = rule(r);
    let same = |x: &nl::Rule| (x.from, x.table, x.priority) == (wanted.from, wanted.table, wanted.priority);
    Ok(Rtnl::open()?.rules()?.iter().any(same))
}

pub(super) fn add_rule(r: &Rule) -> Result<()> {
    Rtnl::open()?.rule_add(&rule(r)).unless_exists().map(drop)
}

pub(super) fn delete_rule(r: &Rule) -> Result<()> {
    Rtnl::open()?.rule_delete(&rule(r)).unless_missing().map(drop)
}

pub(super) fn mtu(link: &str) -> Result<u32> {
    let mut rtnl = Rtnl::open()?;
    let index = rtnl.index(link)?;
    Ok(rtnl.link_at(index)?.map_or(0, |l| l.mtu))
}

pub(super) fn set_mtu(link: &str, mtu: u32) -> Result<()> {
    Rtnl::open()?.change_named(link, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })
}
