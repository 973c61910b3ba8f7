//! The kernel's state, by netlink and `/proc/sys`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use multihome_netlink::{Result, RouteKind, Rtnl, driver, sysctl};

use crate::machine::{Address, Link, MachineObservation, Neighbour, Route, Rule};

/// Names of links by their indexes.
pub(super) type Indexes = BTreeMap<u32, String>;

const IPV4: [&str; 4] = ["rp_filter", "arp_ignore", "arp_announce", "arp_filter"];
const IPV6: [&str; 4] = ["accept_ra", "disable_ipv6", "forwarding", "accept_ra_rt_info_max_plen"];

pub(super) fn read(o: &mut MachineObservation) -> Result<Indexes> {
    let mut rtnl = Rtnl::open()?;
    let links = rtnl.links()?;
    let indexes: Indexes = links.iter().map(|l| (l.index, l.name.clone())).collect();
    let name = |index: u32| indexes.get(&index).cloned();
    let locals: Vec<(String, IpAddr)> =
        links.iter().filter_map(|l| Some((l.name.clone(), l.vxlan_local.filter(|_| l.underlay == 0)?))).collect();
    for l in links {
        let hardware = !l.bus.is_empty() || (l.kind.is_empty() && !l.loopback && l.mac.is_some());
        o.links.push(Link {
            index: l.index,
            driver: if l.loopback { String::new() } else { driver(&l.name).unwrap_or_default() },
            wireless: hardware && is_wireless(&l.name, l.index),
            hardware,
            loopback: l.loopback,
            up: l.up,
            carrier: l.carrier,
            mtu: l.mtu,
            mac: l.mac.filter(|_| !l.loopback).map(mac),
            permanent_mac: l.permanent_mac.map(mac),
            master: if l.master == 0 { None } else { name(l.master) },
            parent: below(&l).and_then(name),
            foreign_peer: l.parent_netnsid.is_some(),
            kind: l.kind,
            name: l.name,
        });
    }
    addresses(&mut rtnl, &indexes, o)?;
    for (tunnel, ip) in locals {
        // A tunnel that names no device leaves by the one that has its address.
        let by = o.addresses.iter().find(|a| a.net.addr() == ip).map(|a| a.link.clone());
        o.links.iter_mut().filter(|l| l.name == tunnel).for_each(|l| l.parent.clone_from(&by));
    }
    routes(&mut rtnl, &indexes, o)?;
    rules(&mut rtnl, o)?;
    for n in rtnl.neighbour_infos()? {
        let multicast = n.ip.is_multicast() || n.state & 0x40 != 0;
        if let (Some(link), false) = (name(n.index), multicast) {
            o.neighbours.push(Neighbour { link, ip: n.ip, mac: n.mac.map(mac), state: state(n.state).into() });
        }
    }
    sysctls(o);
    o.kernel_vrf = has_vrf();
    Ok(indexes)
}

/// Whether the kernel has VRF devices: loaded, or among its modules, which list what is built in, too.
fn has_vrf() -> Option<bool> {
    if Path::new("/sys/module/vrf").exists() {
        return Some(true);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let dir = Path::new("/lib/modules").join(release.trim());
    let lists = ["modules.dep", "modules.builtin"].map(|n| std::fs::read_to_string(dir.join(n)).unwrap_or_default());
    Some(lists.iter().any(|l| l.contains("drivers/net/vrf.ko")))
}

/// The device below a link, by index, if it is in this namespace.
fn below(l: &multihome_netlink::Link) -> Option<u32> {
    let parent = if l.parent_netnsid.is_some() || l.parent == l.index { 0 } else { l.parent };
    [l.underlay, parent].into_iter().find(|i| *i != 0)
}

/// A MAC address as text.
pub(super) fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// Wireless devices have a directory of their own in sysfs, which shows the mounter's namespace:
/// the index tells whether it is the same device. Predictable names begin with `wl` and `ww`.
fn is_wireless(name: &str, index: u32) -> bool {
    let dir = Path::new("/sys/class/net").join(name);
    let same = std::fs::read_to_string(dir.join("ifindex")).is_ok_and(|i| i.trim() == index.to_string());
    name.starts_with("wl") || name.starts_with("ww") || (same && dir.join("phy80211").exists())
}

fn state(bits: u16) -> &'static str {
    match bits {
        b if b & 0x01 != 0 => "INCOMPLETE",
        b if b & 0x02 != 0 => "REACHABLE",
        b if b & 0x04 != 0 => "STALE",
        b if b & 0x08 != 0 => "DELAY",
        b if b & 0x10 != 0 => "PROBE",
        b if b & 0x20 != 0 => "FAILED",
        b if b & 0x80 != 0 => "PERMANENT",
        _ => "NONE",
    }
}

fn addresses(rtnl: &mut Rtnl, indexes: &Indexes, o: &mut MachineObservation) -> Result<()> {
    for a in rtnl.address_infos()? {
        let (Some(link), Ok(net)) = (indexes.get(&a.index).cloned(), IpNet::new(a.ip, a.prefix)) else { continue };
        let scope = match a.scope {
            0 => "global",
            200 => "site",
            253 => "link",
            _ => "host",
        };
        o.addresses.push(Address {
            link,
            net,
            scope: scope.into(),
            dynamic: a.dynamic,
            secondary: a.secondary,
            tentative: a.tentative,
            dad_failed: a.dad_failed,
            deprecated: a.deprecated,
            valid_seconds: a.valid,
        });
    }
    Ok(())
}

fn kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Other(2) => "local",
        RouteKind::Other(3) => "broadcast",
        RouteKind::Other(4) => "anycast",
        RouteKind::Other(5) => "multicast",
        RouteKind::Other(9) => "throw",
        RouteKind::Other(_) => "other",
    }
}

fn routes(rtnl: &mut Rtnl, indexes: &Indexes, o: &mut MachineObservation) -> Result<()> {
    for info in rtnl.route_infos()? {
        let r = info.route;
        let Ok(to) = IpNet::new(r.destination, r.prefix) else { continue };
        let name = |i: u32| indexes.get(&i).cloned();
        o.routes.push(Route {
            to,
            via: r.gateway,
            dev: name(r.oif),
            hops: info.next_hops.iter().filter_map(|h| Some((name(h.oif)?, h.gateway))).collect(),
            table: r.table,
            metric: r.metric,
            source: r.source,
            protocol: r.protocol,
            kind: kind(r.kind).into(),
            onlink: r.onlink,
            mtu: info.mtu,
            dead: info.dead,
        });
    }
    Ok(())
}

fn rules(rtnl: &mut Rtnl, o: &mut MachineObservation) -> Result<()> {
    for r in rtnl.rules()? {
        let Ok(from) = IpNet::new(r.from.0, r.from.1) else { continue };
        let action = match r.action {
            1 => "lookup",
            2 => "goto",
            3 => "nop",
            6 => "blackhole",
            7 => "unreachable",
            8 => "prohibit",
            _ => "other",
        };
        o.rules.push(Rule {
            priority: r.priority,
            from,
            to: r.to.and_then(|(ip, len)| IpNet::new(ip, len).ok()),
            iif: r.iif,
            oif: r.oif,
            mark: r.mark,
            table: r.table,
            action: action.into(),
            invert: r.invert,
            l3mdev: r.l3mdev,
            suppress_prefix: r.suppress_prefix,
            protocol: r.protocol,
        });
    }
    Ok(())
}

fn sysctls(o: &mut MachineObservation) {
    let mut keys = vec!["net/ipv4/ip_forward".to_owned()];
    let mut names = vec!["all", "default"];
    names.extend(o.links.iter().map(|l| l.name.as_str()));
    for n in names {
        keys.extend(IPV4.map(|k| format!("net/ipv4/conf/{n}/{k}")));
        keys.extend(IPV6.map(|k| format!("net/ipv6/conf/{n}/{k}")));
    }
    for key in keys {
        if let Ok(value) = sysctl::read(&key) {
            o.sysctls.insert(key, value);
        }
    }
}
