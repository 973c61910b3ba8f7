//! Floating addresses: a leg of a routing domain on the bridge of another network, and the translation between its address and a
//! NIC's.
//!
//! A conversation that begins on the leg carries a mark, so that its answers go back by it whatever the domain's own routes say. What
//! the NIC of a whole address begins goes by it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use multihome_model::{IfName, MacAddr, Mtu, names};
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{Capability, Idempotent, Link, LinkChange, Route, Rtnl, Rule, TABLE_MAIN, sysctl};
use multihome_plan::node::{Floating, Forward, Transport};

use super::Kernel;
use super::domain::set_addresses;
use crate::error::Result;

/// After all policy routes and before any floating address, the domain's own routes are asked for all but the default.
const OWN_FIRST: u32 = 10_000;
/// Then what is marked as a conversation of an address, or comes from the NIC that has all of it.
const BY_ADDRESS: u32 = 10_001;

fn own_first() -> Rule {
    let mut rule = Rule::from_address(Ipv4Addr::UNSPECIFIED.into(), TABLE_MAIN, OWN_FIRST);
    rule.from.1 = 0;
    rule.suppress_prefix = Some(0);
    rule
}

/// The rules of one floating address.
fn rules_of(f: &Floating) -> Vec<Rule> {
    let mut marked = Rule::from_address(Ipv4Addr::UNSPECIFIED.into(), f.table, BY_ADDRESS);
    marked.from.1 = 0;
    marked.mark = Some(f.table);
    let own = f.forwards.is_empty().then(|| Rule::from_address(f.target.into(), f.table, BY_ADDRESS));
    [marked].into_iter().chain(own).collect()
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
    let to = |forward: &Forward| {
        let t = transport(forward.transport);
        format!(
            "iifname \"{inner}\" ip daddr {address} {t} dport {} dnat ip to {target}:{}",
            forward.port, forward.target
        )
    };
    let (inwards, outwards) = if f.forwards.is_empty() {
        let own = format!("oifname \"{inner}\" ip saddr {target} snat ip to {address}");
        (format!("iifname \"{inner}\" ip daddr {address} dnat ip to {target}"), own)
    } else {
        (f.forwards.iter().map(to).collect::<Vec<_>>().join("\n        "), String::new())
    };
    let leaves = if f.forwards.is_empty() { format!("ip saddr {target}") } else { "ct direction reply".to_owned() };
    format!(
        r#"
table inet {name}
delete table inet {name}
table inet {name} {{
    chain begun {{
        type filter hook prerouting priority -150; policy accept;
        iifname "{inner}" ct state new ct mark set {mark}
        iifname != "{inner}" ct mark {mark} meta mark set {mark}
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

/// What the devices cannot say of a floating address, as the alias of the inner one. The kernel keeps 255 bytes of it.
fn details(f: &Floating) -> String {
    let gateway = f.gateway.map_or("-".to_owned(), |g| g.to_string());
    let mut text = format!("{} {} {} {gateway} {}", f.address, f.target, f.subnet, f.table);
    for forward in &f.forwards {
        text += &format!(" {}/{}>{}", transport(forward.transport), forward.port, forward.target);
    }
    text
}

struct Details {
    address: Ipv4Addr,
    target: Ipv4Addr,
    subnet: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    table: u32,
    forwards: BTreeSet<Forward>,
}

fn read_details(alias: &str) -> Option<Details> {
    let mut words = alias.split(' ');
    let mut next = || words.next();
    let (address, target) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (subnet, gateway, table) = (next()?.parse().ok()?, next()?.parse().ok(), next()?.parse().ok()?);
    let forward = |word: &str| {
        let (t, ports) = word.split_once('/')?;
        let (port, target) = ports.split_once('>')?;
        let transport = if t == "udp" { Transport::Udp } else { Transport::Tcp };
        Some(Forward { transport, port: port.parse().ok()?, target: target.parse().ok()? })
    };
    Some(Details { address, target, subnet, gateway, table, forwards: words.map(forward).collect::<Option<_>>()? })
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
        // First of all, so that whatever is there can be taken away again.
        inside.change(inner, &LinkChange { alias: Some(&details(f)), ..LinkChange::default() })?;
        // Neighbours are told at once where the address is now (ip-sysctl, arp_notify).
        let notify = format!("net/ipv4/conf/{}/arp_notify", f.peer);
        netns.run(|| sysctl::set(&notify, "1"))??;
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
        set_addresses(&mut inside, inner, &BTreeSet::from([(IpAddr::V4(f.address), 32)]))?;
        let near = Route::to(f.subnet.network().into(), f.subnet.prefix_len());
        inside.route_set(&Route { oif: inner, table: f.table, ..near })?;
        let default = Route { table: f.table, oif: inner, ..Route::to(Ipv4Addr::UNSPECIFIED.into(), 0) };
        match f.gateway {
            Some(gateway) => inside.route_set(&Route { gateway: Some(gateway.into()), onlink: true, ..default })?,
            None => inside.route_delete(&default).unless_missing().map(drop)?,
        }
        let wanted = rules_of(f);
        let present = inside.rules()?;
        for stale in present.iter().filter(|r| r.table == f.table && !wanted.iter().any(|w| same(w, r))) {
            inside.rule_delete(stale).unless_missing()?;
        }
        for rule in [own_first()].iter().chain(&wanted).filter(|w| !present.iter().any(|r| same(w, r))) {
            inside.rule_add(rule).unless_exists()?;
        }
        // The alias says that all of it is done.
        Ok(self.rtnl.change(outer, &LinkChange { alias: Some(&f.alias), ..LinkChange::default() })?)
    }

    pub(super) fn delete_floating(&mut self, domain: &str, name: &IfName) -> Result<()> {
        if let Some((netns, mut inside)) = self.inside(domain)? {
            let inner = name.as_str().replacen(names::FLOATING, names::FLOATING_PEER, 1);
            let table = inside.link(&inner)?.and_then(|l| read_details(&l.alias)).map(|d| d.table);
            // Routes go with the device.
            for rule in inside.rules()?.iter().filter(|r| Some(r.table) == table) {
                inside.rule_delete(rule).unless_missing()?;
            }
            self.delete_device(name)?;
            Nft::open_in(&netns)?.delete_table(Family::Inet, name.as_str()).unless_missing()?;
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
        address: Ipv4Addr::UNSPECIFIED,
        target: Ipv4Addr::UNSPECIFIED,
        subnet: Ipv4Net::default(),
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
    let own: BTreeMap<u8, Option<IpAddr>> = inside
        .routes()?
        .into_iter()
        .filter(|r| r.table == d.table && r.oif == far.index)
        .map(|r| (r.prefix, r.gateway))
        .collect();
    let routed =
        own.contains_key(&d.subnet.prefix_len()) && own.get(&0).copied().flatten() == d.gateway.map(IpAddr::V4);
    let addressed = inside.addresses()?.iter().any(|a| a.index == far.index && a.ip == IpAddr::V4(d.address));
    let whole = near.up
        && far.up
        && fixed
        && mtu.is_ok()
        && near.mtu == far.mtu
        && has(&own_first())
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
            address: "203.100.113.205".parse().unwrap(),
            subnet: "203.100.113.0/24".parse().unwrap(),
            gateway: Some("203.100.113.254".parse().unwrap()),
            target: "192.168.100.200".parse().unwrap(),
            forwards: (0..10).map(forward).collect(),
            table: 59_999,
        };
        let read = read_details(&details(&f)).unwrap();
        assert_eq!((read.address, read.target, read.subnet, read.table), (f.address, f.target, f.subnet, f.table));
        assert_eq!((read.gateway, &read.forwards), (f.gateway, &f.forwards));
        assert!(details(&f).len() <= 255, "{}", details(&f).len());
        f.gateway = None;
        f.forwards.clear();
        let read = read_details(&details(&f)).unwrap();
        assert_eq!((read.gateway, read.forwards.len()), (None, 0));
        for wrong in ["", "a b c d e", "10.0.0.1 10.0.0.2 10.0.0.0/24 - 7 x"] {
            assert!(read_details(wrong).is_none(), "{wrong}");
        }
    }
}
