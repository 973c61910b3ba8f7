//! A routing domain's ways beyond its node and beyond itself: its tunnel to other nodes, links to other domains, and the routes by
//! both.
//!
//! Next hops are the link-local addresses of routers' MACs, for IPv4 destinations too (RFC 8950 section 4), and permanent
//! neighbours: nobody asks and nobody answers, and no address is spent on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use multihome_model::{IfName, MacAddr, Mtu, Vni, names};
use multihome_netlink::{
    Capability, FdbEntry, Idempotent, Link, LinkChange, LinkKind, Netns, NewLink, PROTOCOL, Route, RouteKind, Rtnl,
    TABLE_MAIN, VethPeer,
};
use multihome_plan::node::{Domain, Peer, Peering, Router, Via};

use super::{Kernel, is_ours};
use crate::error::{Error, Result};

/// The metric of routes that lead nowhere: any other route to the same destination is better.
const LAST: u32 = 0xffff_0000;
/// MTU of links between domains, in bytes: the most that a veth takes, and so never what makes a packet too big.
const LINK_MTU: u32 = 65535;

/// The MAC of a link's end, which follows from its name.
fn end_mac(device: &IfName) -> MacAddr {
    names::derived_mac(device.as_str(), 0)
}

/// Where a router is, on the tunnel: nobody asks for it.
pub(super) fn next_hop(mac: MacAddr) -> IpAddr {
    IpAddr::V6(mac.link_local())
}

fn entry(index: u32, mac: MacAddr, node: IpAddr) -> FdbEntry {
    FdbEntry { index, mac: mac.0, remote: Some(node), own: true, permanent: true }
}

impl Kernel {
    /// A domain's namespace, if it is there.
    pub(super) fn inside(&self, domain: &str) -> Result<Option<(Netns, Rtnl)>> {
        let Some(netns) = Netns::open(&self.netns_name(domain)).unless_missing()? else { return Ok(None) };
        let rtnl = Rtnl::open_in(&netns)?;
        Ok(Some((netns, rtnl)))
    }

    pub(super) fn put_router(&mut self, domain: &str, router: &Router) -> Result<()> {
        self.require(Capability::Vxlan, || format!("the tunnel of {}", router.alias))?;
        let netns = self.create_domain(domain)?;
        let mut inside = Rtnl::open_in(&netns)?;
        let name = router.device.as_str();
        let index = match inside.link(name)? {
            Some(link) if kind_of(&link) == Some(router.kind()) => link.index,
            other => {
                if other.is_some() {
                    inside.delete(name).unless_missing()?;
                }
                // Made outside, where its underlay is and stays, and then moved in.
                self.rtnl.delete(name).unless_missing()?;
                let kind = LinkKind::Vxlan {
                    vni: router.vni.get(),
                    port: router.port,
                    local: router.local,
                    ttl: 64,
                    learning: false,
                    underlay: None,
                };
                let made = self.rtnl.create(&NewLink { name, kind, change: LinkChange::default() })?;
                self.silence(name)?;
                let moved = LinkChange { netns: Some(netns.as_fd()), ..LinkChange::default() };
                self.rtnl.change(made, &moved)?;
                inside.index(name)?
            }
        };
        let there = inside.link_at(index)?.unwrap_or_default();
        let change = LinkChange {
            mac: (there.mac != Some(router.mac.0)).then_some(router.mac.0),
            mtu: (there.mtu != router.mtu.get()).then_some(router.mtu.get()),
            up: Some(true),
            ..LinkChange::default()
        };
        inside.change(index, &change)?;
        for stale in inside.fdb_of(index)?.into_iter().filter(|e| e.own && !router.nodes.contains_key(&MacAddr(e.mac)))
        {
            for result in inside.fdb_delete(std::slice::from_ref(&stale)) {
                result.unless_missing()?;
            }
            inside.neighbour_delete(index, next_hop(MacAddr(stale.mac))).unless_missing()?;
        }
        let entries: Vec<FdbEntry> = router.nodes.iter().map(|(mac, node)| entry(index, *mac, *node)).collect();
        inside.fdb_set(&entries).into_iter().collect::<multihome_netlink::Result<()>>()?;
        let hops: Vec<_> = router.nodes.keys().map(|mac| (index, next_hop(*mac), mac.0)).collect();
        inside.neighbours_set(&hops).into_iter().collect::<multihome_netlink::Result<()>>()?;
        // The alias says that all of it is done.
        let done = LinkChange { alias: Some(&router.alias), ..LinkChange::default() };
        Ok(inside.change(index, &done)?)
    }

    /// Removes a device of a domain.
    pub(super) fn delete_inside(&mut self, domain: &str, name: &IfName) -> Result<()> {
        if let Some((_, mut inside)) = self.inside(domain)? {
            inside.delete(name.as_str()).unless_missing()?;
        }
        Ok(())
    }

    pub(super) fn put_peering(&mut self, peering: &Peering) -> Result<()> {
        self.require(Capability::Veth, || "links between routing domains".into())?;
        let [(a, near, near_alias), (b, far, far_alias)] = &peering.ends;
        let netns = [self.create_domain(a)?, self.create_domain(b)?];
        let mut rtnl = [Rtnl::open_in(&netns[0])?, Rtnl::open_in(&netns[1])?];
        let there = (rtnl[0].link(near.as_str())?, rtnl[1].link(far.as_str())?);
        let joined = matches!(&there, (Some(n), Some(f)) if n.parent == f.index && f.parent == n.index);
        if !joined {
            rtnl[0].delete(near.as_str()).unless_missing()?;
            rtnl[1].delete(far.as_str()).unless_missing()?;
            let peer = VethPeer { name: far.as_str(), netns: Some(netns[1].as_fd()), mac: None, mtu: None };
            let kind = LinkKind::Veth { peer };
            rtnl[0].create(&NewLink { name: near.as_str(), kind, change: LinkChange::default() })?;
        }
        for (rtnl, (own, other)) in rtnl.iter_mut().zip([(near, far), (far, near)]) {
            let index = rtnl.index(own.as_str())?;
            let change =
                LinkChange { mac: Some(end_mac(own).0), mtu: Some(LINK_MTU), up: Some(true), ..LinkChange::default() };
            rtnl.change(index, &change)?;
            let hop = (index, next_hop(end_mac(other)), end_mac(other).0);
            rtnl.neighbours_set(&[hop]).into_iter().collect::<multihome_netlink::Result<()>>()?;
        }
        for (rtnl, (own, alias)) in rtnl.iter_mut().zip([(near, near_alias), (far, far_alias)]) {
            rtnl.change_named(own.as_str(), &LinkChange { alias: Some(alias), ..LinkChange::default() })?;
        }
        Ok(())
    }

    pub(super) fn put_route(&mut self, domain: &str, to: IpNet, via: &Via) -> Result<()> {
        let missing = |what: String| Error::Unsupported { what: format!("a route to {to}"), reason: what };
        let Some((_, mut inside)) = self.inside(domain)? else {
            return Err(missing(format!("there is no domain {domain}")));
        };
        let route = Route::to(to.addr(), to.prefix_len());
        let index = |inside: &mut Rtnl, device: &str| match inside.link(device) {
            Ok(Some(link)) => Ok(link.index),
            Ok(None) => Err(missing(format!("{domain} has no device {device}"))),
            Err(e) => Err(e.into()),
        };
        let wanted = match via {
            Via::Unreachable => nowhere(to),
            Via::Hop(hop) => Route { gateway: Some(*hop), ..route },
            Via::Router(mac) => {
                let oif = index(&mut inside, &router_device(domain))?;
                Route { gateway: Some(next_hop(*mac)), oif, onlink: true, ..route }
            }
            Via::Peer(device) => {
                let oif = index(&mut inside, device.as_str())?;
                let far = inside.neighbours()?.into_iter().find(|n| n.index == oif && n.permanent);
                let far = far.ok_or_else(|| missing(format!("the link {device} has no other end")))?;
                Route { gateway: Some(far.ip), oif, onlink: true, ..route }
            }
        };
        inside.route_set(&wanted)?;
        // One of another metric would stand beside it.
        let other = if *via == Via::Unreachable { Route::to(to.addr(), to.prefix_len()) } else { nowhere(to) };
        inside.route_delete(&other).unless_missing()?;
        Ok(())
    }

    pub(super) fn delete_route(&mut self, domain: &str, to: IpNet) -> Result<()> {
        let Some((_, mut inside)) = self.inside(domain)? else { return Ok(()) };
        for route in [Route::to(to.addr(), to.prefix_len()), nowhere(to)] {
            inside.route_delete(&route).unless_missing()?;
        }
        Ok(())
    }
}

/// The device of a domain's tunnel: both are named after the domain's uid.
pub(super) fn router_device(domain: &str) -> String {
    format!("{}{}", names::ROUTER, domain.strip_prefix(names::NETNS).unwrap_or(domain))
}

fn nowhere(to: IpNet) -> Route {
    Route { kind: RouteKind::Unreachable, metric: LAST, ..Route::to(to.addr(), to.prefix_len()) }
}

/// What cannot be changed on a tunnel that is there.
fn kind_of(link: &Link) -> Option<(Vni, Option<IpAddr>, u16)> {
    let local = link.vxlan_local.filter(|a| !a.is_unspecified());
    Some((Vni::new(link.vni?).ok()?, local, link.vxlan_port?))
}

/// Reads back a domain's tunnel, its links and its routes. `namespaces` says which domain the other end of a link is in, by the
/// end's MAC.
pub(super) fn observe(
    inside: &mut Rtnl,
    links: &[Link],
    far_ends: &BTreeMap<[u8; 6], String>,
    domain: &mut Domain,
) -> Result<()> {
    let ours = |l: &&Link, prefix: &str, kind: &str| l.kind == kind && is_ours(&l.name, prefix);
    let neighbours = inside.neighbours()?;
    let known = |index: u32, mac: MacAddr| {
        neighbours.iter().any(|n| n.index == index && n.permanent && n.mac == Some(mac.0) && n.ip == next_hop(mac))
    };
    if let Some(link) = links.iter().find(|l| ours(l, names::ROUTER, "vxlan")) {
        let mut nodes = BTreeMap::new();
        for e in inside.fdb_of(link.index)?.into_iter().filter(|e| e.own && known(link.index, MacAddr(e.mac))) {
            nodes.extend(e.remote.map(|node| (MacAddr(e.mac), node)));
        }
        if let (Some((vni, local, port)), Ok(device)) = (kind_of(link), IfName::new(link.name.as_str())) {
            let mtu = Mtu::new(link.mtu);
            domain.router = Some(Router {
                device,
                alias: if link.up && mtu.is_ok() { link.alias.clone() } else { String::new() },
                vni,
                local,
                port,
                mac: MacAddr(link.mac.unwrap_or_default()),
                mtu: mtu.unwrap_or(Mtu::ETHERNET),
                nodes,
            });
        }
    }
    for link in links.iter().filter(|l| ours(l, names::PEER, "veth")) {
        let Ok(device) = IfName::new(link.name.as_str()) else { continue };
        let far = neighbours.iter().find(|n| n.index == link.index && n.permanent).and_then(|n| n.mac);
        let other = far.and_then(|mac| far_ends.get(&mac)).cloned().unwrap_or_default();
        let right = link.up && link.carrier && link.mac == Some(end_mac(&device).0) && !other.is_empty();
        let alias = if right { link.alias.clone() } else { String::new() };
        domain.peers.insert(device, Peer { domain: other, alias });
    }
    domain.policy_routes = super::policy_route::observed(inside, links)?;
    let by = |index: u32| links.iter().find(|l| l.index == index);
    for r in inside.routes()?.into_iter().filter(|r| r.protocol == PROTOCOL && r.table == TABLE_MAIN && r.prefix > 0) {
        let Ok(to) = IpNet::new(r.destination, r.prefix) else { continue };
        let via = match (r.kind, by(r.oif), r.gateway) {
            (RouteKind::Unreachable, ..) => Via::Unreachable,
            (_, Some(l), Some(IpAddr::V6(hop))) if is_ours(&l.name, names::ROUTER) => {
                match MacAddr::from_link_local(hop) {
                    Some(mac) => Via::Router(mac),
                    None => continue,
                }
            }
            (_, Some(l), _) if is_ours(&l.name, names::PEER) => match IfName::new(l.name.as_str()) {
                Ok(device) => Via::Peer(device),
                Err(_) => continue,
            },
            (_, _, Some(hop)) => Via::Hop(hop),
            _ => continue,
        };
        domain.routes.insert(to, via);
    }
    Ok(())
}

/// The ends of links that a domain's namespace holds, by MAC.
pub(super) fn ends<'a>(links: &'a [Link], domain: &'a str) -> impl Iterator<Item = ([u8; 6], String)> + 'a {
    let ends = links.iter().filter(|l| l.kind == "veth" && is_ours(&l.name, names::PEER));
    ends.filter_map(move |l| Some((l.mac?, domain.to_owned())))
}
