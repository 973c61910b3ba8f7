//! The rules of one NIC as flows: the first that matches decides, and so has the highest priority.
//!
//! A rule is asked about what opened a conversation. The connection tracker says what that was, for an answer, too, so that a
//! conversation can be judged anew by any of its packets.

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{Direction, RuleAction};
use multihome_ovsdb::openflow::{Actions, Field, Flow, Match, ct, field};
use multihome_plan::policy::{ICMP, ICMP6, Rule};

use super::super::policy::{ELSE_IN, ELSE_OUT, Policed};
use super::policy::{ALLOWED, BITS, EGRESS, FLAGS, NIC, RULE, WHO};
use super::{COUNT, PASS, PICK, PLAIN, RULES};

/// The priority of the first rule.
const FIRST: u16 = 60_000;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The protocol number of its ICMP.
    pub(super) fn icmp(self) -> u8 {
        if self == Self::V4 { ICMP } else { ICMP6 }
    }
}

/// Where an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What of a packet is compared with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// The packet that opened its conversation, as the tracker says.
    Opening,
    /// The packet itself: of protocols that the tracker knows nothing of, and ICMP that belongs to nothing.
    Itself,
    /// The packet itself, as an answer of a TCP connection that is older than the rules.
    Answer,
}

impl View {
    const ALL: [Self; 3] = [Self::Opening, Self::Itself, Self::Answer];

    fn table(self) -> u8 {
        match self {
            Self::Opening => RULES,
            Self::Itself => PLAIN,
            Self::Answer => PICK,
        }
    }

    /// Where the other end's address stands.
    fn remote(self, direction: Direction) -> End {
        match (self == Self::Answer, direction) {
            (false, Direction::Egress) | (true, Direction::Ingress) => End::Destination,
            _ => End::Source,
        }
    }

    /// Whether a rule can match what is seen so.
    fn sees(self, rule: &Rule) -> bool {
        match self {
            Self::Opening => rule.protocol.is_none_or(|p| [6, 17, ICMP, ICMP6].contains(&p)),
            Self::Itself => rule.protocol.is_none_or(|p| ![6, 17].contains(&p)),
            Self::Answer => rule.protocol.is_none_or(|p| p == 6),
        }
    }
}

/// Packets whose tracker says something of them.
fn seen(matching: Match) -> Match {
    matching.tracked(ct::TRACKED, ct::TRACKED | ct::INVALID)
}

/// Adds an address, or a network, at one end; of what opened the conversation if it is tracked.
fn network(matching: Match, net: IpNet, end: End, tracked: bool) -> Match {
    let matching = if tracked { seen(matching) } else { matching };
    let [v4, v6] = match (end, tracked) {
        (End::Source, true) => [field::CT_IPV4_SRC, field::CT_IPV6_SRC],
        (End::Destination, true) => [field::CT_IPV4_DST, field::CT_IPV6_DST],
        (End::Source, false) => [field::IPV4_SRC, field::IPV6_SRC],
        (End::Destination, false) => [field::IPV4_DST, field::IPV6_DST],
    };
    match net {
        IpNet::V4(net) => matching.ipv4().is_masked(v4, &net.network().octets(), &net.netmask().octets()),
        IpNet::V6(net) => matching.ipv6().is_masked(v6, &net.network().octets(), &net.netmask().octets()),
    }
}

/// Adds one address, as [`network`].
pub(super) fn address(matching: Match, ip: IpAddr, end: End, tracked: bool) -> Match {
    network(matching, ip.into(), end, tracked)
}

/// Ranges of ports as values and masks.
fn masks(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut out = vec![];
    for (first, last) in ranges {
        let (mut at, last) = (u32::from(*first), u32::from(*last));
        while at <= last {
            let aligned = at.trailing_zeros().min(16);
            let bits = (0..=aligned).rev().find(|b| at + (1 << b) - 1 <= last).unwrap_or(0);
            // 16 bits or less, both of them.
            out.push((at as u16, (0xffff_u32 << bits) as u16));
            at += 1 << bits;
        }
    }
    out
}

/// What a rule says of the packet but for who is at the other end: none of these is no packet.
fn whats(rule: &Rule, view: View, family: Family, base: &Match) -> Vec<Match> {
    let ip = |m: Match| if family == Family::V4 { m.ipv4() } else { m.ipv6() };
    let base = ip(if view == View::Opening { seen(base.clone()) } else { base.clone() });
    let Some(protocol) = rule.protocol else { return vec![base] };
    let base = match view {
        View::Opening => base.is(field::CT_PROTO, &[protocol]),
        View::Itself | View::Answer => base.protocol(protocol),
    };
    if let Some((kind, code)) = rule.icmp {
        if family.icmp() != protocol {
            return vec![];
        }
        let (kind_field, code_field): (Field, Field) = match family {
            Family::V4 => (field::ICMP_TYPE, field::ICMP_CODE),
            Family::V6 => (field::ICMPV6_TYPE, field::ICMPV6_CODE),
        };
        return vec![match (view, code) {
            (View::Opening, Some(code)) => base
                .is(field::CT_TP_SRC, &u16::from(kind).to_be_bytes())
                .is(field::CT_TP_DST, &u16::from(code).to_be_bytes()),
            (View::Opening, None) => base.is(field::CT_TP_SRC, &u16::from(kind).to_be_bytes()),
            (_, Some(code)) => base.is(kind_field, &[kind]).is(code_field, &[code]),
            (_, None) => base.is(kind_field, &[kind]),
        }];
    }
    if rule.ports.is_empty() {
        return vec![base];
    }
    let port = match (view, protocol) {
        (View::Opening, _) => field::CT_TP_DST,
        (View::Answer, _) => field::TCP_SRC,
        (View::Itself, 132) => field::SCTP_DST,
        // Whose ports are in no field.
        (View::Itself, _) => return vec![],
    };
    let one = |(value, mask): (u16, u16)| base.clone().is_masked(port, &value.to_be_bytes(), &mask.to_be_bytes());
    masks(&rule.ports).into_iter().map(one).collect()
}

/// Who is at the other end, added to what else is said.
fn peers(
    rule: &Rule,
    view: View,
    direction: Direction,
    family: Family,
    policed: &Policed,
) -> Vec<Box<dyn Fn(Match) -> Match>> {
    let Some(peers) = &rule.peers else { return vec![Box::new(|m| m)] };
    let mut all: Vec<Box<dyn Fn(Match) -> Match>> = vec![];
    let end = view.remote(direction);
    for net in IpNet::aggregate(&peers.nets.iter().copied().collect()) {
        if net.addr().is_ipv4() == (family == Family::V4) {
            all.push(Box::new(move |m| network(m, net, end, view == View::Opening)));
        }
    }
    for bit in peers.groups.iter().filter_map(|g| policed.groups.get(g).copied()) {
        let mask = 1 << (bit % 32);
        all.push(Box::new(move |m| m.reg(BITS + bit / 32, mask, mask)));
    }
    all
}

/// What is done when a rule decides.
fn verdict(action: RuleAction, number: u32, view: View) -> Flow {
    let flow = Flow::default();
    if view == View::Answer {
        // It passes, and is not counted.
        return match action {
            RuleAction::Allow => flow.then(PASS),
            RuleAction::Deny => flow.does(
                Actions::none().set(field::reg(RULE), &super::super::policy::STRAY.to_be_bytes()).resubmit(COUNT),
            ),
        };
    }
    let set = if action == RuleAction::Allow { ALLOWED } else { 0 };
    let actions = Actions::none().set(field::reg(RULE), &number.to_be_bytes());
    flow.does(actions.set_masked(field::reg(FLAGS), &set.to_be_bytes(), &ALLOWED.to_be_bytes())).then(COUNT)
}

/// The flows of all rules of a NIC.
pub(super) fn all(number: u32, policed: &Policed) -> Vec<Flow> {
    let mut flows = vec![];
    for (direction, view) in Direction::ALL.into_iter().flat_map(|d| View::ALL.map(|v| (d, v))) {
        // An answer is judged by the rules for the other way than its own.
        let egress = (direction == Direction::Egress) != (view == View::Answer);
        let base = Match::any().reg(WHO, number, NIC).reg(FLAGS, if egress { EGRESS } else { 0 }, EGRESS);
        let rules = policed.policy.of(direction);
        for (at, rule) in rules.rules.iter().enumerate().filter(|(_, r)| view.sees(r)) {
            let Some(which) = policed.numbers.get(&rule.id) else { continue };
            let priority = FIRST.saturating_sub(u16::try_from(at).unwrap_or(u16::MAX));
            let conjunction = number << 16 | u32::from(egress) << 15 | which & 0x7fff;
            let decides = verdict(rule.action, *which, view);
            for family in Family::ALL {
                let whats = whats(rule, view, family, &base);
                let peers = peers(rule, view, direction, family, policed);
                let one = |matching| Flow { table: view.table(), priority, matching, ..decides.clone() };
                if whats.len() < 2 || peers.len() < 2 {
                    flows.extend(whats.iter().flat_map(|w| peers.iter().map(|p| one(p(w.clone())))));
                    continue;
                }
                // Rather the sum than the product of the two.
                let base = if family == Family::V4 { base.clone().ipv4() } else { base.clone().ipv6() };
                let part = |matching, n| {
                    let does = Actions::none().part_of(conjunction, n, 2);
                    Flow::new(view.table(), priority, matching).does(does)
                };
                flows.extend(whats.into_iter().map(|w| part(w, 0)));
                flows.extend(peers.iter().map(|p| part(p(base.clone()), 1)));
                flows.push(one(base.is(field::CONJUNCTION, &conjunction.to_be_bytes())));
            }
        }
        let otherwise = if direction == Direction::Egress { ELSE_OUT } else { ELSE_IN };
        let rest = verdict(rules.otherwise, otherwise, view);
        flows.push(Flow { table: view.table(), priority: 1, matching: base, ..rest });
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_ranges() {
        let all = [0, 1, 2, 79, 80, 1023, 1024, 8000, 8191, 8192, 32_767, 40_001, 65_534, 65_535];
        for (first, last) in all.into_iter().flat_map(|a| all.map(|b| (a, b))).filter(|(a, b)| a <= b) {
            let list = masks(&[(first, last)]);
            assert!(list.len() <= 30, "{first}-{last}");
            for port in 0..=u16::MAX {
                let hits = list.iter().filter(|(value, mask)| port & mask == *value).count();
                assert_eq!(hits, usize::from((first..=last).contains(&port)), "{port} of {first}-{last}");
            }
        }
    }
}
