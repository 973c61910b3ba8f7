//! Port security: what a guest may send. The rules of the kernel's engine (`kernel::security`), in the same order.

use std::net::{Ipv4Addr, Ipv6Addr};

use multihome_ovsdb::openflow::{Actions, Flow, Learn, Match, Meter, Unit, field};
use multihome_plan::node::{Port, Security, Service};

use super::super::model::Limited;
use super::super::policy::Policed;
use super::{
    ADVERTISED, ALL, ASKS, CLOSED, CLOSED4, CLOSED6, GUEST, HEARS, IN, LEARN, LEARNED, MAC, OPEN4, OPEN6, OUT, PORT,
    Piece, REFUSE, ROGUE, SAID, SORT, SOURCE6, STRICT, TO, TRIED, UNKNOWN, learned, mark,
};
use crate::kernel::{BURST, Rogue};

/// EtherType of probes between nodes (crate `probe`).
pub(super) const PROBES: u16 = 0x88b5;
/// The metadata service.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)];
/// How long a learned address stays, in seconds: IEEE 802.1Q's default.
const AGEING: u16 = 300;

/// What each kind of rogue is in a frame's metadata.
const ROGUES: [(Rogue, u64); 3] = [(Rogue::Dhcp4, 0x100), (Rogue::Dhcp6, 0x200), (Rogue::Router, 0x300)];

fn udp4() -> Match {
    Match::any().ipv4().protocol(17)
}

fn udp6() -> Match {
    Match::any().ipv6().protocol(17)
}

fn icmpv6(kind: u8) -> Match {
    Match::any().ipv6().icmpv6(kind)
}

fn marked(bits: u64) -> Match {
    Match::any().metadata(bits, bits)
}

/// The rules that are the same for every NIC.
pub(super) fn base() -> Vec<Flow> {
    let mut flows = guest();
    flows.extend(strict());
    flows
}

/// What no guest may say whatever it may, and what is answered at its port.
fn guest() -> Vec<Flow> {
    let drop = |priority, matching| Flow::new(GUEST, priority, matching);
    let mut flows = vec![
        // A trunk's tags are sorted by the fabric's bridge.
        Flow::new(GUEST, 90, Match::any().metadata(0, mark::TRUNK).tagged()).then(REFUSE),
        drop(80, Match::any().eth_type(PROBES)),
        drop(80, Match::any().ipv4().ipv4_dst(METADATA)),
        drop(80, Match::any().arp().arp_tpa(METADATA)),
        drop(70, marked(mark::SERVED4).ipv4().protocol(17).udp_dst(67)),
        drop(70, marked(mark::SERVED6).ipv6().protocol(17).udp_dst(547)),
        drop(70, marked(mark::SERVED6).ipv6().icmpv6(133)),
        Flow::new(GUEST, 60, marked(mark::PROMISCUOUS)).then(SAID),
        Flow::new(GUEST, 0, Match::any()).then(MAC),
        Flow::new(MAC, 0, Match::any()).then(REFUSE),
    ];
    for ip in METADATA6 {
        flows.extend([drop(80, Match::any().ipv6().ipv6_dst(ip)), drop(80, icmpv6(135).nd_target(ip))]);
    }
    flows
}

/// What a strict NIC says, by EtherType.
fn strict() -> Vec<Flow> {
    let to = |priority, matching, table| Flow::new(STRICT, priority, matching).then(table);
    let rogue = |which: Rogue, matching| {
        let bits = ROGUES.iter().find(|(r, _)| *r == which).map_or(0, |(_, bits)| *bits);
        to(100, matching, ROGUE).marks(bits)
    };
    let nobody = Ipv6Addr::UNSPECIFIED;
    let mut flows = vec![
        rogue(Rogue::Dhcp4, udp4().udp_src(67)),
        rogue(Rogue::Dhcp4, udp4().udp_dst(68)),
        rogue(Rogue::Router, icmpv6(134)),
        rogue(Rogue::Dhcp6, udp6().udp_src(547)),
        rogue(Rogue::Dhcp6, udp6().udp_dst(546)),
        to(100, icmpv6(137), REFUSE),
        to(95, udp4().udp_dst(67), ASKS),
        to(90, icmpv6(136), ADVERTISED),
        to(80, icmpv6(135).ipv6_src(nobody), TRIED),
    ];
    // Router solicitations and reports of multicast listeners (RFC 4861 section 4.1, RFC 2710, RFC 3810).
    flows.extend([133, 131, 143].map(|kind| to(80, icmpv6(kind).ipv6_src(nobody), SAID)));
    flows.extend([STRICT, ADVERTISED, SOURCE6, TRIED, ROGUE].map(|t| Flow::new(t, 0, Match::any()).then(REFUSE)));
    flows.push(Flow::new(ASKS, 0, Match::any()).does(Actions::none().resubmit(REFUSE)));
    flows
}

/// The flow that counts what a strict NIC was not let say.
pub(in crate::ovs) fn refused(port: u32) -> Flow {
    Flow::new(REFUSE, 10, Match::any().in_port(port))
}

/// The flows that count what a strict NIC pretended to be.
pub(in crate::ovs) fn rogues(port: u32) -> [(Rogue, Flow); 3] {
    let counts = |bits| Flow::new(ROGUE, 10, Match::any().in_port(port).metadata(bits, mark::ROGUES)).then(REFUSE);
    ROGUES.map(|(rogue, bits)| (rogue, counts(bits)))
}

/// The flow by which a bridge learns who is behind a port.
pub(super) fn learns(port: u32, limit: u32) -> Flow {
    let learn = Learn::address(LEARNED, learned(port), AGEING, PORT, limit);
    Flow::new(LEARN, 50, Match::any().in_port(port)).does(Actions::none().learn(&learn)).then(SORT)
}

/// How many addresses a NIC may have the bridge learn: a guest is not to fill its memory.
const ADDRESSES: u32 = 1024;

/// What a NIC may send, and what it hears. `sorts` says that its bridge sorts by VLAN, and forwards by itself.
pub(super) fn port(
    number: u32,
    facts: &Port,
    policed: Option<&Policed>,
    egress: Option<Limited>,
    sorts: bool,
) -> Piece {
    // Each fact is looked at: one that this engine does not know must not be passed over.
    let Port { dhcp4, dhcp6, security } = facts;
    let mut piece = Piece { epoch: policed.map(|p| p.epoch), ..Piece::default() };
    piece.flows.extend(policed.into_iter().flat_map(|p| super::policy::nic(number, p)));
    let trunk = matches!(security, Security::Trunk(_));
    let promiscuous = matches!(security, Security::Promiscuous | Security::Trunk(None));
    let mut marks = 0;
    for (is, bit) in [
        (*dhcp4 == Service::Served, mark::SERVED4),
        (*dhcp6 == Service::Served, mark::SERVED6),
        (trunk, mark::TRUNK),
        (promiscuous, mark::PROMISCUOUS),
    ] {
        marks |= if is { bit } else { 0 };
    }
    let own = || Match::any().in_port(number);
    let enters = Flow::new(IN, 10, own());
    let enters = match egress {
        Some(Limited { meter, rate }) => {
            // As the kernel's engine.
            let burst = rate.get() + BURST / 125;
            piece.meters.push(Meter { id: meter, unit: Unit::Kilobits, rate: rate.get(), burst });
            enters.does(Actions::none().meter(meter))
        }
        None => enters,
    };
    piece.flows.push(enters.marks(marks).then(GUEST));
    match security {
        Security::Promiscuous | Security::Trunk(None) => {}
        Security::Trunk(Some(mac)) => {
            piece.flows.push(Flow::new(MAC, 10, own().from(mac.0)).then(SAID));
            piece.flows.push(refused(number));
        }
        Security::Strict { mac, ipv4, ipv6 } => {
            piece.flows.push(Flow::new(MAC, 10, own().from(mac.0)).then(STRICT));
            piece.flows.push(refused(number));
            piece.flows.extend(rogues(number).map(|(_, flow)| flow));
            let says = |table, matching, next| Flow::new(table, 50, matching).then(next);
            let arp = || own().arp().arp_sha(mac.0);
            piece.flows.push(says(STRICT, arp().arp_op(1).arp_spa(Ipv4Addr::UNSPECIFIED), SAID));
            for ip in ipv4 {
                piece.flows.push(says(STRICT, arp().arp_spa(*ip), SAID));
                piece.flows.push(says(STRICT, own().ipv4().ipv4_src(*ip), SAID));
            }
            asking(&mut piece, number, mac.0, facts);
            for ip in ipv6 {
                piece.flows.push(says(STRICT, own().ipv6().ipv6_src(*ip), SAID));
                piece.flows.push(says(SOURCE6, own().ipv6().ipv6_src(*ip), SAID));
                piece.flows.push(says(ADVERTISED, own().ipv6().icmpv6(136).nd_target(*ip), SOURCE6));
                piece.flows.push(says(TRIED, own().ipv6().icmpv6(135).nd_target(*ip), SAID));
            }
        }
    }
    if !sorts {
        hears(&mut piece, number, facts);
    }
    piece
}

/// Whether a NIC's requests to DHCPv4 servers of others are looked at one by one.
pub(in crate::ovs) fn asks(facts: &Port) -> bool {
    matches!(facts.security, Security::Strict { .. }) && facts.dhcp4 != Service::Served
}

/// How often a NIC asks servers of others, and how often at once.
const ASKS_PER_SECOND: u32 = 1;
const ASKS_AT_ONCE: u32 = 60;

/// What a NIC asks DHCP servers of others: not too often, and by IPv4 for itself alone. Whom a server gives an address to is said in
/// the request, where flows do not look: so a program is asked ([`super::super::asks`]).
fn asking(piece: &mut Piece, number: u32, mac: [u8; 6], facts: &Port) {
    let Security::Strict { ipv4, ipv6, .. } = &facts.security else { return };
    let own = || Match::any().in_port(number);
    if asks(facts) {
        let asks = |m: Match| m.protocol(17).udp_dst(67);
        let nobody = asks(own().ipv4().ipv4_src(Ipv4Addr::UNSPECIFIED)).udp_src(68);
        let all = ipv4.iter().map(|ip| asks(own().ipv4().ipv4_src(*ip))).chain([nobody]);
        let does = || Actions::none().meter(number).ask(&mac).resubmit(SAID);
        piece.flows.extend(all.map(|m| Flow::new(ASKS, 50, m).does(does())));
    }
    if facts.dhcp6 != Service::Served {
        let all = ipv6.iter().map(|ip| own().ipv6().ipv6_src(*ip).protocol(17).udp_dst(547));
        piece.flows.extend(all.map(|m| Flow::new(STRICT, 60, m).does(Actions::none().meter(number)).then(SAID)));
    }
    piece.meters.push(Meter { id: number, unit: Unit::Packets, rate: ASKS_PER_SECOND, burst: ASKS_AT_ONCE });
}

/// What a NIC on a network's bridge hears.
fn hears(piece: &mut Piece, number: u32, facts: &Port) {
    let mut closed = 0;
    piece.groups.push(ALL);
    for (service, bit, group) in [(facts.dhcp4, CLOSED4, OPEN4), (facts.dhcp6, CLOSED6, OPEN6)] {
        match service {
            Service::Open => piece.groups.push(group),
            Service::Served | Service::Guarded => closed |= bit,
        }
    }
    let out = if piece.epoch.is_some() { HEARS } else { OUT };
    let to = Actions::none().set(field::reg(CLOSED), &u32::to_be_bytes(closed));
    piece.flows.push(Flow::new(TO, 10, Match::any().reg(PORT, number, u32::MAX)).does(to).then(out));
    match facts.security {
        // It has one known address, and is not shown what is meant for others.
        Security::Strict { mac, .. } => piece.flows.push(super::network::lives(mac, number)),
        Security::Promiscuous | Security::Trunk(_) => {
            piece.groups.push(UNKNOWN);
            piece.flows.push(learns(number, ADDRESSES));
            piece.learns = true;
        }
    }
}
