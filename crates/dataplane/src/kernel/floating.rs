//! Floating addresses: a leg of a routing domain on the bridge of another network, and the translation between its address and
//! those of NICs.
//!
//! A conversation that begins on the leg carries a mark, so that its answers go back by it whatever the domain's own routes say. What
//! the NIC of a whole address begins goes by it, too. All of that is of the address's own family, and leaves the other one alone.
//!
//! Which of several NICs a conversation gets is decided once, by its first packet; connection tracking keeps it there. The rules are
//! replaced in one transaction, so that changing one NIC disturbs no conversation with another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use multihome_model::{Algorithm, IfName, MacAddr, Mtu, names};
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{
    Capability, Conversation, Idempotent, Link, LinkChange, Netns, Route, Rtnl, Rule, TABLE_MAIN, Tuple, sysctl,
};
use multihome_plan::node::{Floating, Forward, Transport};

use super::domain::{end_conversations, set_addresses};
use super::{Kernel, sets};
use crate::error::Result;

/// After all policy routes and before any floating address, the domain's own routes are asked for all but the default.
const OWN_FIRST: u32 = 10_000;
/// Then what is marked as a conversation of an address goes by that.
pub(super) const BY_ADDRESS: u32 = 10_001;
/// And last what comes from the NIC that has all of one: it may serve ports of others, too.
const FROM_NIC: u32 = 10_002;
/// How many shares the clients' addresses are cut into where each is to get the same NIC. A power of two that leaves each of the
/// most NICs that there may be some of them.
const SHARES: u32 = 256;
/// What clients' addresses are hashed with: the same on every node, so that who gets which NIC survives a move of the address.
const SEED: u32 = 0x6d68_6f6d;

/// Every address of the family that an address is of.
pub(super) fn any_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(super) fn own_first(address: IpAddr) -> Rule {
    let mut rule = Rule::from_address(any_of(address), TABLE_MAIN, OWN_FIRST);
    rule.from.1 = 0;
    rule.suppress_prefix = Some(0);
    rule
}

/// The rules of one floating address.
fn rules_of(f: &Floating) -> Vec<Rule> {
    let own = f.target.map(|target| Rule::from_address(target, f.table, FROM_NIC));
    [marked(f.address, f.table)].into_iter().chain(own).collect()
}

/// The rule of what has a mark, of the family of an address: it goes by the table of that number.
pub(super) fn marked(address: IpAddr, table: u32) -> Rule {
    let mut marked = Rule::from_address(any_of(address), table, BY_ADDRESS);
    marked.from.1 = 0;
    marked.mark = Some(table);
    marked
}

/// The routes of an address's table: to the subnet that it is from, and by the router of that, if it has one.
fn routes_of(f: &Floating, oif: u32) -> Vec<Route> {
    let near = Route { oif, table: f.table, ..Route::to(f.subnet.network(), f.subnet.prefix_len()) };
    let default = Route { oif, table: f.table, onlink: true, ..Route::to(any_of(f.address), 0) };
    let by = f.gateway.map(|gateway| Route { gateway: Some(gateway), ..default });
    [near].into_iter().chain(by).collect()
}

pub(super) fn same_route(a: &Route, b: &Route) -> bool {
    (a.table, a.destination, a.prefix, a.oif, a.gateway) == (b.table, b.destination, b.prefix, b.oif, b.gateway)
}

pub(super) fn same(a: &Rule, b: &Rule) -> bool {
    (a.priority, a.from, a.mark, a.table) == (b.priority, b.from, b.mark, b.table)
}

/// The protocol's number (IANA).
pub(super) fn protocol(t: Transport) -> u8 {
    match t {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// The protocol of a number.
pub(super) fn transport(protocol: u8) -> Option<Transport> {
    [Transport::Tcp, Transport::Udp].into_iter().find(|t| self::protocol(*t) == protocol)
}

/// A family by the name that rules have for it.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Who of several gets a share of the clients: whoever has the greatest hash with it (rendezvous hashing), so that a share goes
/// elsewhere only if its own NIC goes, or a new one takes it over.
fn owner(share: u32, backends: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    backends.iter().copied().max_by_key(|b| names::short_hash(&format!("{share} {b}")))
}

/// Where a new conversation goes: an address and a port, or an expression that chooses the address.
fn destination(f: &Floating, forward: &Forward) -> String {
    let (ip, port) = (family(f.address), forward.target);
    let map = |chosen: Vec<(u32, IpAddr)>| {
        let pairs: Vec<String> = chosen.iter().map(|(i, b)| format!("{i} : {b}")).collect();
        format!("map {{ {} }} : {port}", pairs.join(", "))
    };
    let all = &forward.backends;
    match (all.len(), f.algorithm, all.first()) {
        (1, _, Some(IpAddr::V4(one))) => format!("{one}:{port}"),
        (1, _, Some(IpAddr::V6(one))) => format!("[{one}]:{port}"),
        (n, Algorithm::RoundRobin, _) => {
            format!("numgen inc mod {n} {}", map((0..).zip(all.iter().copied()).collect()))
        }
        (_, Algorithm::Source, _) => {
            let shares = (0..SHARES).filter_map(|i| Some((i, owner(i, all)?))).collect();
            format!("jhash {ip} saddr mod {SHARES} seed {SEED:#x} {}", map(shares))
        }
    }
}

fn nft_rules(name: &IfName, f: &Floating) -> String {
    let (address, inner, mark) = (f.address, &f.peer, f.table);
    let ip = family(address);
    let to = |forward: &Forward| {
        let t = if forward.transport == Transport::Tcp { "tcp" } else { "udp" };
        let port = forward.port;
        format!("iifname \"{inner}\" {ip} daddr {address} {t} dport {port} dnat {ip} to {}", destination(f, forward))
    };
    let mut inwards: Vec<String> = f.forwards.iter().map(to).collect();
    let (mut outwards, mut leaves) = (String::new(), "ct direction reply".to_owned());
    if let Some(target) = f.target {
        inwards.push(format!("iifname \"{inner}\" {ip} daddr {address} dnat {ip} to {target}"));
        outwards = format!("oifname \"{inner}\" {ip} saddr {target} snat {ip} to {address}");
        leaves = format!("{ip} saddr {target}");
    }
    let inwards = inwards.join("\n        ");
    // Of a choice the kernel lists parts, so where each port leads is kept a second time, in a set that no rule uses.
    let fact = |w: &Forward| {
        let (number, port, target) = (protocol(w.transport), w.port, w.target);
        w.backends.iter().map(|b| format!("{number} . {port} . {target} . {b}")).collect::<Vec<_>>()
    };
    let kind = if address.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
    let elements = sets::elements(f.forwards.iter().flat_map(fact));
    format!(
        r#"
table inet {name}
delete table inet {name}
table inet {name} {{
    set {FORWARDS} {{ type inet_proto . inet_service . inet_service . {kind}; {elements} }}
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

/// The set of where ports lead: protocol, port, the NIC's port, and its address.
const FORWARDS: &str = "forwards";

/// Where ports lead, as [`FORWARDS`] has it. A table without that set is from before there was one, and is made anew.
fn read_forwards(nft: &mut Nft, name: &IfName) -> Result<BTreeSet<Forward>> {
    let listed = nft.elements(Family::Inet, name.as_str(), FORWARDS).unless_missing()?.unwrap_or_default();
    let mut all: BTreeMap<(Transport, u16, u16), BTreeSet<IpAddr>> = BTreeMap::new();
    for element in &listed {
        let key = element.key.as_slice();
        let port = |at: usize| key.get(at..at + 2).and_then(|p| Some(u16::from_be_bytes(p.try_into().ok()?)));
        let (Some(transport), Some(outer), Some(target)) = (key.first().and_then(|p| transport(*p)), port(4), port(8))
        else {
            continue;
        };
        let Some(address) = key.get(12..).and_then(sets::read_address) else { continue };
        all.entry((transport, outer, target)).or_default().insert(address);
    }
    let forward = |((transport, port, target), backends)| Forward { transport, port, target, backends };
    Ok(all.into_iter().map(forward).collect())
}

/// What devices and rules cannot say of a floating address, as the alias of the inner end, of which the kernel keeps 255 bytes. The
/// subnet is a length.
fn details(f: &Floating) -> String {
    let or_none = |a: Option<IpAddr>| a.map_or("-".to_owned(), |a| a.to_string());
    let algorithm = match f.algorithm {
        Algorithm::RoundRobin => "",
        Algorithm::Source => " source",
    };
    let (gateway, target) = (or_none(f.gateway), or_none(f.target));
    format!("{}/{} {target} {gateway} {}{algorithm}", f.address, f.subnet.prefix_len(), f.table)
}

struct Details {
    address: IpAddr,
    target: Option<IpAddr>,
    subnet: IpNet,
    gateway: Option<IpAddr>,
    table: u32,
    algorithm: Algorithm,
}

fn read_details(alias: &str) -> Option<Details> {
    let mut words = alias.split(' ');
    let mut next = || words.next();
    let within: IpNet = next()?.parse().ok()?;
    let (target, gateway, table) = (next()?.parse().ok(), next()?.parse().ok(), next()?.parse().ok()?);
    // Ports, as they were once kept here, are looked for elsewhere.
    let algorithm = if next() == Some("source") { Algorithm::Source } else { Algorithm::RoundRobin };
    let (address, subnet) = (within.addr(), within.trunc());
    Some(Details { address, target, subnet, gateway, table, algorithm })
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
    let Tuple { protocol: number, ports: (_, port), .. } = c.original;
    let (answers, from) = (c.reply.source, c.reply.ports.0);
    if c.original.destination == f.address {
        let forward = |w: &Forward| {
            (protocol(w.transport), w.port, w.target) == (number, port, from) && w.backends.contains(&answers)
        };
        // What the domain answers itself is not led anywhere.
        return answers == f.address || f.target == Some(answers) || f.forwards.iter().any(forward);
    }
    c.reply.destination != f.address || c.original.source == f.address || f.target == Some(c.original.source)
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
        for rule in [own_first(f.address)].iter().chain(&wanted).filter(|w| !present.iter().any(|r| same(w, r))) {
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
        target: None,
        subnet: IpNet::default(),
        gateway: None,
        table: 0,
        algorithm: Algorithm::RoundRobin,
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
        forwards: read_forwards(nft, name)?,
        algorithm: d.algorithm,
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
        && has(&own_first(floating.address))
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

    fn six(target: Option<&str>, algorithm: Algorithm) -> Floating {
        Floating {
            alias: String::new(),
            bridge: IfName::new("b").unwrap(),
            peer: IfName::new("p").unwrap(),
            mac: MacAddr([2; 6]),
            mtu: Mtu::ETHERNET,
            address: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
            subnet: "2001:db8:1111:2222:3333:4444:5555:6600/120".parse().unwrap(),
            gateway: Some("2001:db8:1111:2222:3333:4444:5555:66ff".parse().unwrap()),
            target: target.map(|t| t.parse().unwrap()),
            forwards: BTreeSet::new(),
            algorithm,
            table: 59_999,
        }
    }

    #[test]
    fn details_read_back_and_fit() {
        for (target, algorithm) in
            [(Some("fd01:2222:3333:4444:5555:6666:7777:8888"), Algorithm::Source), (None, Algorithm::RoundRobin)]
        {
            let mut f = six(target, algorithm);
            let read = read_details(&details(&f)).unwrap();
            assert_eq!((read.address, read.target, read.subnet, read.table), (f.address, f.target, f.subnet, f.table));
            assert_eq!((read.gateway, read.algorithm), (f.gateway, algorithm));
            assert!(details(&f).len() <= 255, "{}", details(&f).len());
            f.gateway = None;
            (f.address, f.target) = ("203.100.113.205".parse().unwrap(), "192.168.100.200".parse().ok());
            f.subnet = "203.100.112.0/23".parse().unwrap();
            let read = read_details(&details(&f)).unwrap();
            assert_eq!((read.gateway, read.address, read.target, read.subnet), (None, f.address, f.target, f.subnet));
        }
        assert!(read_details("10.0.0.1/24 10.0.0.2 - 7 t50>1f90").is_some_and(|d| d.table == 7), "as it once was");
        for wrong in ["", "a b c d e", "10.0.0.1/24 10.0.0.2 - x"] {
            assert!(read_details(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_share_of_the_clients_goes_elsewhere_only_with_its_own_nic() {
        let three: BTreeSet<IpAddr> = (1..4).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let gone = IpAddr::from([10, 0, 0, 2]);
        let two: BTreeSet<IpAddr> = three.iter().copied().filter(|a| *a != gone).collect();
        let mut shares: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for share in 0..SHARES {
            let before = owner(share, &three).unwrap();
            *shares.entry(before).or_default() += 1;
            let after = owner(share, &two).unwrap();
            assert!(before == gone && after != gone || before == after, "{share}");
        }
        assert!(shares.len() == 3 && shares.values().all(|n| *n > SHARES / 6), "{shares:?}");
    }
}
