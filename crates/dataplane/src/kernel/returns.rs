//! The ways back of conversations that floating addresses of other nodes led to NICs of a domain here.
//!
//! What the node of an address translated comes in by the domain's tunnel, from that node's router and from the client's own address.
//! Answered by the domain's own default route it would leave the node by itself, and untranslated. So its conversation is marked
//! where it begins, and what carries the mark goes by a table of its own, whose default route is that router. Routes of the domain
//! other than the default come first, as for addresses of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multihome_model::MacAddr;
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{Capability, Conversation, Idempotent, PROTOCOL, Route, Rtnl, Rule};
use multihome_plan::node::{RETURN_TABLES, Return, Returns, Target};

use super::domain::end_conversations;
use super::floating::{BY_ADDRESS, marked, own_first, protocol, same, same_route, transport};
use super::router::{next_hop, router_device};
use super::sets::read_address;
use super::{Kernel, sets};
use crate::error::{Error, Result};

/// The table in a domain's namespace.
const TABLE: &str = "multihome-returns";

/// The marks of such conversations, as rules write them.
pub(super) fn marks() -> String {
    format!("{}-{}", RETURN_TABLES.start, RETURN_TABLES.end - 1)
}

fn is_mark(number: u32) -> bool {
    RETURN_TABLES.contains(&number)
}

/// An address of each family that a way back is for.
fn families(way: &Return) -> impl Iterator<Item = IpAddr> {
    let has = |v6: bool| way.targets.iter().any(|t| t.address.is_ipv6() == v6);
    let four = has(false).then_some(IpAddr::from(Ipv4Addr::UNSPECIFIED));
    four.into_iter().chain(has(true).then_some(IpAddr::from(Ipv6Addr::UNSPECIFIED)))
}

fn rules_of(returns: &Returns) -> Vec<Rule> {
    let of = |way: &Return| families(way).map(|any| marked(any, way.table)).collect::<Vec<_>>();
    returns.routers.values().flat_map(of).collect()
}

fn routes_of(returns: &Returns, oif: u32) -> Vec<Route> {
    let of = |(mac, way): (&MacAddr, &Return)| {
        let default =
            |any| Route { gateway: Some(next_hop(*mac)), oif, onlink: true, table: way.table, ..Route::to(any, 0) };
        families(way).map(default).collect::<Vec<_>>()
    };
    returns.routers.iter().flat_map(of).collect()
}

fn nft_rules(tunnel: &str, returns: &Returns) -> String {
    let begun = |v6: bool| {
        let of = |(mac, way): (&MacAddr, &Return)| {
            let mine = way.targets.iter().filter(|t| t.address.is_ipv6() == v6);
            let element =
                |t: &Target| format!("{mac} . {} . {} . {} : {}", t.address, protocol(t.transport), t.port, way.table);
            mine.map(element).collect::<Vec<_>>()
        };
        sets::elements(returns.routers.iter().flat_map(of))
    };
    format!(
        r#"
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    set inside4 {{ type ipv4_addr; flags interval; auto-merge; {inside4} }}
    set inside6 {{ type ipv6_addr; flags interval; auto-merge; {inside6} }}
    set facts4 {{ type ipv4_addr . mark; {facts4} }}
    set facts6 {{ type ipv6_addr . mark; {facts6} }}
    map begun4 {{ type ether_addr . ipv4_addr . inet_proto . inet_service : mark; {begun4} }}
    map begun6 {{ type ether_addr . ipv6_addr . inet_proto . inet_service : mark; {begun6} }}
    chain begun {{
        type filter hook prerouting priority -150; policy accept;
        iifname "{tunnel}" ct state new ip saddr != @inside4 ct mark set ether saddr . ip daddr . meta l4proto . th dport map @begun4
        iifname "{tunnel}" ct state new ip6 saddr != @inside6 ct mark set ether saddr . ip6 daddr . meta l4proto . th dport map @begun6
        ct mark {marks} meta mark set ct mark
    }}
}}
"#,
        inside4 = sets::ranges(&returns.inside, false),
        inside6 = sets::ranges(&returns.inside, true),
        facts4 = sets::facts(&returns.inside, false),
        facts6 = sets::facts(&returns.inside, true),
        begun4 = begun(false),
        begun6 = begun(true),
        marks = marks(),
    )
}

/// Whether a conversation is none of these, or one that is still to go back where it did.
fn still_returns(returns: &Returns, c: &Conversation) -> bool {
    let to = |t: &Target| {
        let led = (c.original.destination, c.original.protocol, c.original.ports.1);
        (t.address, protocol(t.transport), t.port) == led
    };
    !is_mark(c.mark) || returns.routers.values().any(|way| way.table == c.mark && way.targets.iter().any(to))
}

fn is_ours(rule: &Rule) -> bool {
    rule.priority == BY_ADDRESS && is_mark(rule.table)
}

fn in_a_table(route: &Route) -> bool {
    is_mark(route.table) && route.protocol == PROTOCOL
}

impl Kernel {
    /// Makes exactly these the ways back from a domain. New ones come before old ones go.
    pub(super) fn put_returns(&mut self, domain: &str, returns: &Returns) -> Result<()> {
        let what = || "ways back to floating addresses of other nodes".to_owned();
        let Some((netns, mut inside)) = self.inside(domain)? else {
            if returns.routers.is_empty() {
                return Ok(());
            }
            return Err(Error::Unsupported { what: what(), reason: format!("there is no domain {domain}") });
        };
        let mut wanted = Vec::new();
        if !returns.routers.is_empty() {
            self.require(Capability::Nat, what)?;
            let device = router_device(domain);
            let Some(tunnel) = inside.link(&device)? else {
                return Err(Error::Unsupported { what: what(), reason: format!("{domain} has no device {device}") });
            };
            wanted = routes_of(returns, tunnel.index);
            for route in &wanted {
                inside.route_set(route)?;
            }
            let present = inside.rules()?;
            let own: Vec<Rule> = returns.routers.values().flat_map(families).map(own_first).collect();
            for rule in own.into_iter().chain(rules_of(returns)) {
                if !present.iter().any(|r| same(&rule, r)) {
                    inside.rule_add(&rule).unless_exists()?;
                }
            }
            // The rules mark what there is a way for.
            load_in(&netns, &nft_rules(&device, returns))?;
        }
        let rules = rules_of(returns);
        for stale in inside.rules()?.iter().filter(|r| is_ours(r) && !rules.iter().any(|w| same(w, r))) {
            inside.rule_delete(stale).unless_missing()?;
        }
        for stale in inside.routes()?.iter().filter(|r| in_a_table(r) && !wanted.iter().any(|w| same_route(w, r))) {
            inside.route_delete(stale).unless_missing()?;
        }
        if returns.routers.is_empty() {
            match Nft::open_in(&netns)?.delete_table(Family::Inet, TABLE).unless_missing() {
                // A kernel that has no such family has no such table.
                Err(e) if e.is_unsupported() => {}
                other => drop(other?),
            }
        }
        end_conversations(&netns, |c| !still_returns(returns, c))
    }
}

/// Reads a domain's ways back; one whose rules or routes are not as they must be is not there.
pub(super) fn observed(inside: &mut Rtnl, nft: &mut Nft, domain: &str) -> Result<Returns> {
    match nft.has_table(Family::Inet, TABLE) {
        Err(e) if e.is_unsupported() => return Ok(Returns::default()),
        Ok(false) => return Ok(Returns::default()),
        other => drop(other?),
    }
    let inside_nets = sets::read_facts(nft, TABLE, ["facts4", "facts6"])?.unwrap_or_default();
    let mut returns = Returns { inside: inside_nets, ..Returns::default() };
    let mut routers: BTreeMap<(MacAddr, u32), BTreeSet<Target>> = BTreeMap::new();
    for (set, length) in [("begun4", 4), ("begun6", 16)] {
        for e in nft.elements(Family::Inet, TABLE, set).unless_missing()?.unwrap_or_default() {
            if let Some((mac, target)) = read_begun(&e.key, length)
                && let Ok(mark) = <[u8; 4]>::try_from(e.value.as_slice())
            {
                routers.entry((mac, u32::from_ne_bytes(mark))).or_default().insert(target);
            }
        }
    }
    returns.routers = routers.into_iter().map(|((mac, table), targets)| (mac, Return { table, targets })).collect();
    let tunnel = inside.link(&router_device(domain))?.map_or(0, |l| l.index);
    let (rules, routes) = (inside.rules()?, inside.routes()?);
    returns.routers.retain(|mac, way| {
        let alone = Returns { inside: BTreeSet::new(), routers: BTreeMap::from([(*mac, way.clone())]) };
        let wanted = routes_of(&alone, tunnel);
        let there: Vec<&Route> = routes.iter().filter(|r| r.table == way.table).collect();
        there.len() == wanted.len()
            && wanted.iter().all(|w| there.iter().any(|r| same_route(w, r)))
            && rules_of(&alone)
                .into_iter()
                .chain(families(way).map(own_first))
                .all(|w| rules.iter().any(|r| same(&w, r)))
    });
    Ok(returns)
}

/// A router's MAC, an address, a protocol and a port, each on a boundary of four bytes.
fn read_begun(key: &[u8], length: usize) -> Option<(MacAddr, Target)> {
    let mac = MacAddr(key.get(..6)?.try_into().ok()?);
    let address = read_address(key.get(8..8 + length)?)?;
    let transport = transport(*key.get(8 + length)?)?;
    let port = u16::from_be_bytes(key.get(12 + length..14 + length)?.try_into().ok()?);
    Some((mac, Target { address, transport, port }))
}
