//! Floating addresses: a leg of a routing domain on the bridge of another network, and the translation between its address and a
//! NIC's.
//!
//! A conversation that begins on the leg carries a mark, so that its answers go back by it whatever the domain's own routes say. What
//! the NIC of a whole address begins goes by it, too. All of that is of the address's own family, and leaves the other one alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use multihome_model::{IfName, MacAddr, Mtu, names};
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{
    Capability, Conversation, Idempotent, Link, LinkChange, Netns, Route, Rtnl, Rule, TABLE_MAIN, Tuple, sysctl,
};
use multihome_plan::node::{Floating, Forward, Transport};

use super::Kernel;
use super::domain::{end_conversations, set_addresses};
use crate::error::Result;

/// After all policy routes and before any floating address, the domain's own routes are asked for all but the default.
const OWN_FIRST: u32 = 10_000;
/// Then what is marked as a conversation of an address, or comes from the NIC that has all of it.
const BY_ADDRESS: u32 = 10_001;

/// Every address of the family that an address is of.
fn any_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn own_first(f: &Floating) -> Rule {
    let mut rule = Rule::from_address(any_of(f.address), TABLE_MAIN, OWN_FIRST);
    rule.from.1 = 0;
    rule.suppress_prefix = Some(0);
    rule
}

/// The rules of one floating address.
fn rules_of(f: &Floating) -> Vec<Rule> {
    let mut marked = Rule::from_address(any_of(f.address), f.table, BY_ADDRESS);
    marked.from.1 = 0;
    marked.mark = Some(f.table);
    let own = f.forwards.is_empty().then(|| Rule::from_address(f.target, f.table, BY_ADDRESS));
    [marked].into_iter().chain(own).collect()
}

/// The routes of an address's table: to the subnet that it is from, and by the router of that, if it has one.
fn routes_of(f: &Floating, oif: u32) -> Vec<Route> {
    let near = Route { oif, table: f.table, ..Route::to(f.subnet.network(), f.subnet.prefix_len()) };
    let default = Route { oif, table: f.table, onlink: true, ..Route::to(any_of(f.address), 0) };
    let by = f.gateway.map(|gateway| Route { gateway: Some(gateway), ..default });
    [near].into_iter().chain(by).collect()
}

fn same_route(a: &Route, b: &Route) -> bool {
    (a.table, a.destination, a.prefix, a.oif, a.gateway) == (b.table, b.destination, b.prefix, b.oif, b.gateway)
}

fn same(a: &Rule, b: &Rule) -> bool {
    (a.priority, a.from, a.mark, a.table) == (b.priority, b.from, b.mark, b.table)
}

fn transport(t: Transport) -> &'static str {
    match t {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn nft_rules(name: &IfName, f: &Floating) -> String {
    let (address, target, inner, mark) = (f.address, f.target, &f.peer, f.table);
    // The family by the name that rules have for it, and an address as it stands before a port.
    let (ip, host) = match target {
        IpAddr::V4(a) => ("ip", a.to_string()),
        IpAddr::V6(a) => ("ip6", format!("[{a}]")),
    };
    let to = |forward: &Forward| {
        let t = transport(forward.transport);
        format!(
            "iifname \"{inner}\" {ip} daddr {address} {t} dport {} dnat {ip} to {host}:{}",
            forward.port, forward.target
        )
    };
    let (inwards, outwards) = if f.forwards.is_empty() {
        let own = format!("oifname \"{inner}\" {ip} saddr {target} snat {ip} to {address}");
        (format!("iifname \"{inner}\" {ip} daddr {address} dnat {ip} to {target}"), own)
    } else {
        (f.forwards.iter().map(to).collect::<Vec<_>>().join("\n        "), String::new())
    };
    let leaves = if f.forwards.is_empty() { format!("{ip} saddr {target}") } else { "ct direction reply".to_owned() };
    format!(
        r#"
table inet {name}
delete table inet {name}
table inet {name} {{
    chain begun {{
        type filter hook prerouting priority -150; policy accept;
        iifname "{inner}" ct state new ct mark set {mark}
        ct mark {mark} meta mark set {mark}
    }}
    chain inwards {{
        type nat hook prerouting priority -100; policy accept;
        {inwards}
    }}
    chain outwards {{
        type nat hook postrouting priority 100; policy accept;
        {outwards}
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{inner}" ct status dnat accept
        iifname "{inner}" ct state established,related accept
        iifname "{inner}" drop
        oifname "{inner}" {leaves} accept
        oifname "{inner}" drop
    }}
}}
"#
    )
}

/// What the devices cannot say of a floating address, as the alias of the inner one. The kernel keeps 255 bytes of it, so the
/// subnet is a length, and ports are hexadecimal.
fn details(f: &Floating) -> String {
    let gateway = f.gateway.map_or("-".to_owned(), |g| g.to_string());
    let mut text = format!("{}/{} {} {gateway} {}", f.address, f.subnet.prefix_len(), f.target, f.table);
    for forward in &f.forwards {
        let t = &transport(forward.transport)[..1];
        text += &format!(" {t}{:x}>{:x}", forward.port, forward.target);
    }
    text
}

struct Details {
    address: IpAddr,
    target: IpAddr,
    subnet: IpNet,
    gateway: Option<IpAddr>,
    table: u32,
    forwards: BTreeSet<Forward>,
}

fn read_details(alias: &str) -> Option<Details> {
    let mut words = alias.split(' ');
    let mut next = || words.next();
    let within: IpNet = next()?.parse().ok()?;
    let (target, gateway, table) = (next()?.parse().ok()?, next()?.parse().ok(), next()?.parse().ok()?);
    let forward = |word: &str| {
        let (transport, ports) = match word.split_at_checked(1)? {
            ("t", ports) => (Transport::Tcp, ports),
            ("u", ports) => (Transport::Udp, ports),
            _ => return None,
        };
        let (port, target) = ports.split_once('>')?;
        let number = |hex: &str| u16::from_str_radix(hex, 16).ok();
        Some(Forward { transport, port: number(port)?, target: number(target)? })
    };
    let (address, subnet) = (within.addr(), within.trunc());
    Some(Details { address, target, subnet, gateway, table, forwards: words.map(forward).collect::<Option<_>>()? })
}

/// Parameters of the end inside. Its addresses are where it is and nowhere else, so that nobody is asked for them before they are
/// used (RFC 4862 section 5.4); until then IPv6 would ask for no neighbour.
fn set_up(netns: &Netns, peer: &IfName) -> Result<()> {
    let key = format!("net/ipv6/conf/{peer}/accept_dad");
    netns.run(|| sysctl::set(&key, "0"))?.unless_missing()?;
    Ok(())
}

/// Whether a conversation is with an address, or comes from it.
fn concerns(address: IpAddr, c: &Conversation) -> bool {
    c.original.destination == address || c.reply.destination == address
}

/// Whether a conversation is none of an address's, or one that it still leads to where it did.
fn still_leads(f: &Floating, c: &Conversation) -> bool {
    let Tuple { protocol, ports: (_, port), .. } = c.original;
    let whole = f.forwards.is_empty();
    if c.original.destination == f.address {
        let forward = |w: &Forward| {
            let number = match w.transport {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            };
            (number, w.port, w.target) == (protocol, port, c.reply.ports.0)
        };
        // What the domain answers itself is not led anywhere.
        return c.reply.source == f.address || c.reply.source == f.target && (whole || f.forwards.iter().any(forward));
    }
    c.reply.destination != f.address || c.original.source == f.address || whole && c.original.source == f.target
}

impl Kernel {
    pub(super) fn put_floating(&mut self, domain: &str, name: &IfName, f: &Floating) -> Result<()> {
        self.require(Capability::Nat, || format!("{} ({})", f.alias, f.address))?;
        let bridge = self.bridge_index(&f.bridge)?;
        let netns = self.create_domain(domain)?;
        let mut inside = Rtnl::open_in(&netns)?;
        // The rules come before the address that they guard.
        load_in(&netns, &nft_rules(name, f))?;
        let (outer, inner) = self.pair(&netns, &mut inside, name, &f.peer)?;
        let before = inside.link_at(inner)?.and_then(|l| read_details(&l.alias)).map(|d| d.address);
        if let Some(before) = before.filter(|a| *a != f.address) {
            end_conversations(&netns, |c| concerns(before, c))?;
        }
        // First of all, so that whatever is there can be taken away again.
        inside.change(inner, &LinkChange { alias: Some(&details(f)), ..LinkChange::default() })?;
        set_up(&netns, &f.peer)?;
        let there = inside.link_at(inner)?.unwrap_or_default();
        let change = LinkChange {
            mac: (there.mac != Some(f.mac.0)).then_some(f.mac.0),
            mtu: (there.mtu != f.mtu.get()).then_some(f.mtu.get()),
            up: Some(true),
            ..LinkChange::default()
        };
        inside.change(inner, &change)?;
        self.plug(name, bridge, "", f.mtu, false)?;
        self.fix_mac(outer, f.mac.0)?;
        set_addresses(&mut inside, inner, &BTreeSet::from([(f.address, IpNet::from(f.address).prefix_len())]))?;
        let routes = routes_of(f, inner);
        for route in &routes {
            inside.route_set(route)?;
        }
        let stale = |r: &&Route| r.table == f.table && !routes.iter().any(|w| same_route(w, r));
        for route in inside.routes()?.iter().filter(stale) {
            inside.route_delete(route).unless_missing()?;
        }
        let wanted = rules_of(f);
        let present = inside.rules()?;
        for stale in present.iter().filter(|r| r.table == f.table && !wanted.iter().any(|w| same(w, r))) {
            inside.rule_delete(stale).unless_missing()?;
        }
        for rule in [own_first(f)].iter().chain(&wanted).filter(|w| !present.iter().any(|r| same(w, r))) {
            inside.rule_add(rule).unless_exists()?;
        }
        // A translation holds until the end of its conversation, whatever the rules say meanwhile.
        end_conversations(&netns, |c| !still_leads(f, c))?;
        // The alias says that all of it is done.
        Ok(self.rtnl.change(outer, &LinkChange { alias: Some(&f.alias), ..LinkChange::default() })?)
    }

    pub(super) fn delete_floating(&mut self, domain: &str, name: &IfName) -> Result<()> {
        if let Some((netns, mut inside)) = self.inside(domain)? {
            let inner = name.as_str().replacen(names::FLOATING, names::FLOATING_PEER, 1);
            let there = inside.link(&inner)?.and_then(|l| read_details(&l.alias));
            let table = there.as_ref().map(|d| d.table);
            // Routes go with the device.
            for rule in inside.rules()?.iter().filter(|r| Some(r.table) == table) {
                inside.rule_delete(rule).unless_missing()?;
            }
            self.delete_device(name)?;
            Nft::open_in(&netns)?.delete_table(Family::Inet, name.as_str()).unless_missing()?;
            if let Some(Details { address, .. }) = there {
                end_conversations(&netns, |c| concerns(address, c))?;
            }
        }
        self.delete_device(name)
    }
}

/// The floating address whose ends these are, as it is; its alias is empty if it is not whole.
pub(super) fn observed(
    inside: &mut Rtnl,
    nft: &mut Nft,
    (name, near): (&IfName, &Link),
    far: &Link,
    bridge: IfName,
    fixed: bool,
) -> Result<Option<Floating>> {
    let Ok(peer) = IfName::new(far.name.as_str()) else { return Ok(None) };
    // One that was hardly begun is shown all the same, so that it goes.
    let d = read_details(&far.alias).unwrap_or(Details {
        address: Ipv4Addr::UNSPECIFIED.into(),
        target: Ipv4Addr::UNSPECIFIED.into(),
        subnet: IpNet::default(),
        gateway: None,
        table: 0,
        forwards: BTreeSet::new(),
    });
    let mtu = Mtu::new(far.mtu);
    let mut floating = Floating {
        alias: String::new(),
        bridge,
        peer,
        mac: MacAddr(far.mac.unwrap_or_default()),
        mtu: *mtu.as_ref().unwrap_or(&Mtu::ETHERNET),
        address: d.address,
        subnet: d.subnet,
        gateway: d.gateway,
        target: d.target,
        forwards: d.forwards,
        table: d.table,
    };
    let rules = inside.rules()?;
    let has = |w: &Rule| rules.iter().any(|r| same(w, r));
    let routes: Vec<Route> = inside.routes()?.into_iter().filter(|r| r.table == d.table).collect();
    let wanted = routes_of(&floating, far.index);
    let routed = routes.len() == wanted.len() && wanted.iter().all(|w| routes.iter().any(|r| same_route(w, r)));
    let addressed = inside.addresses()?.iter().any(|a| a.index == far.index && a.ip == d.address);
    let whole = near.up
        && far.up
        && fixed
        && mtu.is_ok()
        && near.mtu == far.mtu
        && has(&own_first(&floating))
        && rules_of(&floating).iter().all(has)
        && routed
        && addressed
        && nft.has_table(Family::Inet, name.as_str())?;
    if whole {
        floating.alias = near.alias.clone();
    }
    Ok(Some(floating))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_read_back_and_fit() {
        let forward = |n: u16| Forward { transport: Transport::Udp, port: 65_500 + n, target: 65_500 };
        let mut f = Floating {
            alias: String::new(),
            bridge: IfName::new("b").unwrap(),
            peer: IfName::new("p").unwrap(),
            mac: MacAddr([2; 6]),
            mtu: Mtu::ETHERNET,
            address: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
            subnet: "2001:db8:1111:2222:3333:4444:5555:6600/120".parse().unwrap(),
            gateway: Some("2001:db8:1111:2222:3333:4444:5555:66ff".parse().unwrap()),
            target: "fd01:2222:3333:4444:5555:6666:7777:8888".parse().unwrap(),
            forwards: (0..10).map(forward).collect(),
            table: 59_999,
        };
        let read = read_details(&details(&f)).unwrap();
        assert_eq!((read.address, read.target, read.subnet, read.table), (f.address, f.target, f.subnet, f.table));
        assert_eq!((read.gateway, &read.forwards), (f.gateway, &f.forwards));
        assert!(details(&f).len() <= 255, "{}", details(&f).len());
        (f.gateway, f.forwards) = (None, BTreeSet::new());
        (f.address, f.target) = ("203.100.113.205".parse().unwrap(), "192.168.100.200".parse().unwrap());
        f.subnet = "203.100.112.0/23".parse().unwrap();
        let read = read_details(&details(&f)).unwrap();
        assert_eq!((read.gateway, read.forwards.len()), (None, 0));
        assert_eq!((read.address, read.target, read.subnet), (f.address, f.target, f.subnet));
        for wrong in ["", "a b c d e", "10.0.0.1/24 10.0.0.2 - 7 x", "10.0.0.1/24 10.0.0.2 - 7 t50"] {
            assert!(read_details(wrong).is_none(), "{wrong}");
        }
    }
}
