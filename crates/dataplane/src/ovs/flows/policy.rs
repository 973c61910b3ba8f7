//! Policies at the port: the flows that are the same for all NICs with rules, and how those of one NIC come in between
//! (`docs/decisions/0013-policies-by-open-vswitch.md`).
//!
//! A packet from a NIC comes here after port security, one towards it before it goes out. A NIC's own flows say which zones and
//! rules are meant; from there on everything goes by registers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multihome_ovsdb::openflow::{Actions, Flow, Learn, Match, Part, ct, field};

use super::super::policy::{self, Bits, CROWDED, Policed, STRAY};
use super::rules::{self, Family};
use super::{
    ASTRAY, CLASS, COUNT, FRESH, HEARS, KEEP, KEPT, LEARN, MEMBERS, NEW, OUT, PASS, PICK, PLAIN, PORT, RULES, SAID,
    STATE, STATED, TRACK, VERDICT, learned,
};

/// The zone of what is opened the packet's way, and above it the zone of what is opened the other way.
const ZONE: u8 = 0;
/// The NIC's port, and the topmost bit where the packet is from it.
pub(super) const WHO: u8 = 3;
pub(super) const NIC: u32 = 0xffff;
const FROM: u32 = 1 << 31;
/// What connections of the NIC are marked with.
const EPOCH: u8 = 4;
/// The number of the rule that decided.
pub(super) const RULE: u8 = 5;
/// What is known of the packet so far.
pub(super) const FLAGS: u8 = 6;
/// The first register of the groups that the other end is in.
pub(super) const BITS: u8 = 8;

/// It is asked whether the NIC may open it, not whether it may be opened towards the NIC.
pub(super) const EGRESS: u32 = 1;
/// Rules of the NIC name groups.
const GROUPED: u32 = 2;
/// The second zone was looked into.
const SECOND: u32 = 4;
/// It belongs to what earlier rules allowed, and was found in the second zone.
const KEEP_SECOND: u32 = 8;
/// It belongs to what earlier rules allowed.
const AGAIN: u32 = 16;
/// It is judged by its own header, because the connection tracker makes nothing of it.
const BARE: u32 = 32;
/// Connections of the NIC may be older than its rules.
const YOUNG: u32 = 64;
/// The rules allow it.
pub(super) const ALLOWED: u32 = 128;
/// It belongs to a conversation that the tracker knows nothing of.
const KNOWN_BIT: u16 = 8;
const KNOWN: u32 = 1 << KNOWN_BIT;
/// Such a conversation could be remembered.
const ROOM_BIT: u16 = 9;
const ROOM: u32 = 1 << ROOM_BIT;

/// How many conversations by other protocols than TCP, UDP and ICMP a NIC may have, counted twice.
const BARE_MOST: u32 = 2048;
/// How long they are remembered when idle, in seconds: SCTP, and the others (as the kernel's engine does).
const SCTP_IDLE: u16 = 180;
const OTHER_IDLE: u16 = 600;
/// For how long TCP connections are taken up that are older than the rules, in seconds.
const YOUNG_FOR: u16 = 300;

const SCTP: u8 = 132;
/// What stands for the protocol of a later fragment of IPv6 (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// The parts of a tracked packet's state that tell whether it belongs to something.
const OLD: (u32, u32) = (ct::TRACKED, ct::TRACKED | ct::NEW | ct::INVALID);

fn reg(actions: Actions, number: u8, value: u32) -> Actions {
    actions.set(field::reg(number), &value.to_be_bytes())
}

fn flags(actions: Actions, set: u32, clear: u32) -> Actions {
    actions.set_masked(field::reg(FLAGS), &set.to_be_bytes(), &(set | clear).to_be_bytes())
}

fn with(set: u32, mask: u32) -> Match {
    Match::any().reg(FLAGS, set, mask)
}

fn from_nic() -> Match {
    Match::any().reg(WHO, FROM, FROM)
}

fn to_nic() -> Match {
    Match::any().reg(WHO, 0, FROM)
}

fn of_family(matching: Match, family: Family) -> Match {
    match family {
        Family::V4 => matching.ipv4(),
        Family::V6 => matching.ipv6(),
    }
}

/// Counts it under a number, which drops it.
fn counted(number: u32) -> Actions {
    reg(Actions::none(), RULE, number).resubmit(COUNT)
}

/// The flows for whichever NICs have rules.
pub(super) fn base() -> Vec<Flow> {
    let mut flows = vec![
        Flow::new(SAID, 0, Match::any()).then(LEARN),
        Flow::new(HEARS, 0, Match::any()).then(OUT),
        Flow::new(PASS, 10, from_nic()).does(Actions::none().resubmit(LEARN)),
        Flow::new(PASS, 0, Match::any()).does(Actions::none().resubmit(OUT)),
    ];
    flows.extend(always());
    flows.extend(tracking());
    flows.extend(opening());
    flows.extend(judging());
    flows.extend(keeping());
    flows
}

/// What rules are never asked about: what makes addresses work. Later fragments of what the tracker does not put together pass
/// as on the kernel's engine: they are nothing without the first.
fn always() -> Vec<Flow> {
    let link_local = ([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), [0xffc0, 0, 0, 0, 0, 0, 0, 0].into());
    let servers: Ipv6Addr = [0xff02, 0, 0, 0, 0, 0, 1, 2].into();
    let hops = |n: u8, kind| Match::any().ipv6().is(field::IP_TTL, &[n]).icmpv6(kind);
    let udp = |m: Match, from, to| m.protocol(17).udp_src(from).udp_dst(to);
    let mut passes: Vec<Match> = [133, 134, 135, 136, 137].map(|kind| hops(255, kind)).into();
    passes.extend([130, 131, 132, 143].map(|kind| hops(1, kind)));
    passes.extend([
        udp(from_nic().ipv4().ipv4_dst(Ipv4Addr::BROADCAST), 68, 67),
        udp(from_nic().ipv6().ipv6_dst(servers), 546, 547),
        udp(to_nic().ipv4(), 67, 68),
        udp(to_nic().ipv6().ipv6_src_masked(link_local.0, link_local.1), 547, 546),
    ]);
    let mut flows: Vec<Flow> = passes.into_iter().map(|m| Flow::new(CLASS, 100, m).then(PASS)).collect();
    let later = Match::any().ipv4().is_masked(field::IP_FRAG, &[2], &[2]);
    flows.push(Flow::new(CLASS, 20, later).then(PASS));
    flows
}

/// Whether it belongs to something that is known: looked up in one zone of the NIC, and then in the other.
fn tracking() -> Vec<Flow> {
    let mut flows = vec![];
    for family in Family::ALL {
        for protocol in [6, 17, family.icmp()] {
            let matching = of_family(Match::any(), family).protocol(protocol);
            flows.push(Flow::new(CLASS, 50, matching).does(Actions::none().track((ZONE, 0), TRACK, None)));
        }
        let next = flags(Actions::none(), SECOND, 0).track((ZONE, 16), TRACK, None);
        flows.push(Flow::new(TRACK, 10, of_family(with(0, SECOND), family)).does(next));
    }
    // A later fragment of IPv6 does not say of which protocol it is: the tracker finds the first.
    let fragment = Match::any().ipv6().fragment();
    flows.push(Flow::new(CLASS, 60, fragment).does(Actions::none().track((ZONE, 0), TRACK, None)));
    let old = |m: Match| m.tracked(OLD.0, OLD.1);
    // Of earlier rules. What was opened the other way is judged by the rules for that.
    let again =
        |m: Match, set, clear| Flow::new(TRACK, 50, old(m)).does(flags(Actions::none(), set, clear)).then(MEMBERS);
    let second = || Match::any().reg(FLAGS, SECOND, SECOND);
    flows.extend([
        again(with(0, SECOND), AGAIN, 0),
        again(second().reg(WHO, FROM, FROM), AGAIN | KEEP_SECOND, EGRESS),
        again(second().reg(WHO, 0, FROM), AGAIN | KEEP_SECOND | EGRESS, 0),
        Flow::new(TRACK, 10, with(SECOND, SECOND)).then(NEW),
    ]);
    // What the tracker knows nothing of.
    flows.extend([
        Flow::new(CLASS, 0, Match::any()).does(flags(Actions::none(), BARE, 0).resubmit(STATE)).then(STATED),
        Flow::new(STATED, 10, with(KNOWN, KNOWN)).does(Actions::none().resubmit(KEEP)),
        Flow::new(STATED, 0, Match::any()).then(MEMBERS),
    ]);
    flows
}

/// What belongs to nothing. A TCP connection is opened by a segment with SYN and without ACK.
fn opening() -> Vec<Flow> {
    let mut flows = vec![];
    let (syn, syn_ack) = (2u16.to_be_bytes(), 0x12u16.to_be_bytes());
    for family in Family::ALL {
        let ip = || of_family(Match::any(), family);
        let valid = |m: Match| m.tracked(ct::TRACKED, ct::TRACKED | ct::INVALID);
        let invalid = |m: Match| m.tracked(ct::TRACKED | ct::INVALID, ct::TRACKED | ct::INVALID);
        flows.extend([
            Flow::new(NEW, 100, valid(ip()).protocol(6).is_masked(field::TCP_FLAGS, &syn, &syn_ack)).then(MEMBERS),
            Flow::new(NEW, 90, valid(ip()).protocol(6)).does(Actions::none().resubmit(FRESH)).then(ASTRAY),
            // Answers to nothing, and errors about nothing.
            Flow::new(NEW, 90, invalid(ip()).protocol(family.icmp()))
                .does(flags(Actions::none(), BARE, 0))
                .then(MEMBERS),
        ]);
    }
    let invalid = Match::any().tracked(ct::TRACKED | ct::INVALID, ct::TRACKED | ct::INVALID);
    // Fragments of IPv6 of which the tracker makes nothing.
    let fragment =
        |m: Match| Flow::new(NEW, 85, m.fragment().tracked(ct::TRACKED | ct::INVALID, ct::TRACKED | ct::INVALID));
    flows.extend([6, 17].map(|p| fragment(Match::any().ipv6().protocol(p)).does(counted(STRAY))));
    flows.extend([
        fragment(Match::any().ipv6().protocol(FRAGMENT)).then(PASS),
        Flow { priority: 84, ..fragment(Match::any().ipv6()) }
            .does(flags(Actions::none(), BARE, 0).resubmit(STATE).resubmit(STATED)),
        Flow::new(NEW, 80, invalid).does(counted(STRAY)),
        Flow::new(NEW, 0, Match::any()).then(MEMBERS),
        Flow::new(ASTRAY, 10, with(YOUNG, YOUNG)).then(MEMBERS),
        Flow::new(ASTRAY, 0, Match::any()).does(counted(STRAY)),
    ]);
    flows
}

/// Which groups the other end is in, and what follows from the rule that decided.
fn judging() -> Vec<Flow> {
    let nobody = || bits(&Bits::default());
    let mut flows = vec![
        Flow::new(MEMBERS, 100, with(0, GROUPED | BARE)).then(RULES),
        Flow::new(MEMBERS, 100, with(BARE, GROUPED | BARE)).then(PLAIN),
        Flow::new(MEMBERS, 0, with(0, BARE)).does(nobody()).then(RULES),
        Flow::new(MEMBERS, 0, with(BARE, BARE)).does(nobody()).then(PLAIN),
        Flow::new(VERDICT, 50, with(ALLOWED, ALLOWED)).then(KEEP),
        Flow::new(VERDICT, 40, with(YOUNG, ALLOWED | YOUNG)).then(PICK),
        Flow::new(PICK, 0, Match::any()).does(counted(STRAY)),
    ];
    for family in Family::ALL {
        let refused = of_family(with(AGAIN, ALLOWED | AGAIN), family).protocol(6);
        flows.push(Flow::new(VERDICT, 30, refused).does(counted(STRAY)));
    }
    flows
}

/// What was allowed is remembered, and passes.
fn keeping() -> Vec<Flow> {
    let mut flows = vec![
        Flow::new(KEPT, 20, with(BARE | ROOM, BARE | ROOM)).then(PASS),
        Flow::new(KEPT, 10, with(BARE, BARE)).does(counted(CROWDED)),
        // Without room the tracker marks nothing (in user space), or drops it (in the kernel).
        Flow::new(KEPT, 10, Match::any().is(field::CT_MARK, &[0; 4])).does(counted(CROWDED)),
        Flow::new(KEPT, 0, Match::any()).then(PASS),
    ];
    for family in Family::ALL {
        let (ip, icmp) = (|m| of_family(m, family), family.icmp());
        for (which, shift) in [(0, 0), (KEEP_SECOND, 16)] {
            let keeps = Actions::none().track((ZONE, shift), KEPT, Some(EPOCH));
            flows.push(Flow::new(KEEP, 50, ip(with(which, KEEP_SECOND | BARE))).does(keeps));
        }
        flows.push(Flow::new(KEEP, 60, ip(with(BARE, BARE)).protocol(icmp)).then(PASS));
    }
    flows
}

/// Says which groups the other end is in.
fn bits(which: &Bits) -> Actions {
    let wide = |half: &[u32]| half.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    let (low, high) = which.split_at(which.len() / 2);
    Actions::none().set(field::wide(2), &wide(low)).set(field::wide(3), &wide(high))
}

/// A member of groups that rules on this bridge name.
pub(super) fn member(address: IpAddr, groups: &Bits) -> Vec<Flow> {
    let one = |set, tracked: bool| {
        let matching = with(set, EGRESS | BARE);
        let end = if set & EGRESS == 0 { rules::End::Source } else { rules::End::Destination };
        let matching = rules::address(matching, address, end, tracked);
        Flow::new(MEMBERS, 50, matching).does(bits(groups)).then(if tracked { RULES } else { PLAIN })
    };
    vec![one(0, true), one(EGRESS, true), one(BARE, false), one(BARE | EGRESS, false)]
}

/// The cookie of conversations that a NIC's flows learned.
pub(super) fn conversations(number: u32) -> u64 {
    learned(number) | 1 << 62
}

/// The flow by which connections of a NIC are taken up that are older than its rules: for a while.
pub(in crate::ovs) fn young(number: u32) -> Flow {
    let does = flags(Actions::none(), YOUNG, 0);
    Flow::new(FRESH, 10, Match::any().reg(WHO, number, NIC)).does(does).lasts(YOUNG_FOR)
}

/// The flow that counts for a NIC under a number.
pub(in crate::ovs) fn counter(number: u32, what: u32) -> Flow {
    let flow = Flow::new(COUNT, 10, Match::any().reg(WHO, number, NIC).reg(RULE, what, u32::MAX));
    match what {
        STRAY | CROWDED => flow,
        _ => flow.then(VERDICT),
    }
}

/// The flows of a NIC with rules.
pub(super) fn nic(number: u32, policed: &Policed) -> Vec<Flow> {
    let mut flows = vec![];
    let zones = policy::zones(policed.block);
    let grouped = if policed.groups.is_empty() { 0 } else { GROUPED };
    let entry = |flow: Flow, who, (a, b): (u16, u16), set| {
        let actions = reg(Actions::none(), WHO, who);
        let actions = reg(actions, ZONE, u32::from(b) << 16 | u32::from(a));
        flow.does(reg(reg(actions, EPOCH, policed.epoch), FLAGS, set | grouped)).then(CLASS)
    };
    for (family, ours, theirs) in [(Family::V4, zones[0], zones[1]), (Family::V6, zones[2], zones[3])] {
        let said = Flow::new(SAID, 10, of_family(Match::any().in_port(number), family));
        let heard = Flow::new(HEARS, 10, of_family(Match::any().reg(PORT, number, u32::MAX), family));
        flows.push(entry(said, number | FROM, (ours, theirs), EGRESS));
        flows.push(entry(heard, number, (theirs, ours), 0));
        flows.extend(remembers(number, family));
    }
    let mark = policed.epoch.to_be_bytes();
    let known = Match::any().reg(WHO, number, NIC).tracked(OLD.0, OLD.1).is(field::CT_MARK, &mark);
    flows.push(Flow::new(TRACK, 100, known).then(PASS));
    let counts = policed.numbers.values().chain(&[policy::ELSE_OUT, policy::ELSE_IN, STRAY, CROWDED]);
    flows.extend(counts.map(|what| counter(number, *what)));
    flows.extend(rules::all(number, policed));
    flows
}

/// How a NIC's conversations by protocols are remembered that the tracker knows nothing of: in both directions, so many of them.
fn remembers(number: u32, family: Family) -> [Flow; 2] {
    let (source, destination, kind) = match family {
        Family::V4 => (field::IPV4_SRC, field::IPV4_DST, 0x0800),
        Family::V6 => (field::IPV6_SRC, field::IPV6_DST, 0x86dd),
    };
    let who = field::reg(WHO);
    let learn = |from, to, protocol: &[Part], idle| {
        let mut parts = vec![Part::Is(field::ETH_TYPE, kind), Part::Like(who, who, 16)];
        let bits = 8 * if family == Family::V4 { 4 } else { 16 };
        parts.extend([Part::Like(source, from, bits), Part::Like(destination, to, bits)]);
        parts.extend_from_slice(protocol);
        parts.push(Part::Set(FLAGS, KNOWN_BIT));
        let (cookie, result) = (conversations(number), Some((FLAGS, ROOM_BIT)));
        Learn { table: STATE, priority: 1, cookie, idle, limit: BARE_MOST, result, parts }
    };
    let other = [Part::Like(field::IP_PROTO, field::IP_PROTO, 8)];
    let sctp = |from, to| {
        let ports = [Part::Like(field::SCTP_SRC, from, 16), Part::Like(field::SCTP_DST, to, 16)];
        [&[Part::Is(field::IP_PROTO, SCTP.into())][..], &ports].concat()
    };
    let both = |one: Learn, back: Learn| Actions::none().learn(&one).learn(&back).resubmit(KEPT);
    let own = || of_family(Match::any().reg(WHO, number, NIC).reg(FLAGS, BARE, BARE), family);
    [
        Flow::new(KEEP, 55, own().protocol(SCTP)).does(both(
            learn(source, destination, &sctp(field::SCTP_SRC, field::SCTP_DST), SCTP_IDLE),
            learn(destination, source, &sctp(field::SCTP_DST, field::SCTP_SRC), SCTP_IDLE),
        )),
        Flow::new(KEEP, 50, own())
            .does(both(learn(source, destination, &other, OTHER_IDLE), learn(destination, source, &other, OTHER_IDLE))),
    ]
}
