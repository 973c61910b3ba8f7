//! A network's bridge: where frames go. It learns from uplinks and promiscuous NICs alone; of everybody else it is told.

use multihome_model::{MacAddr, names};
use multihome_ovsdb::openflow::{Actions, Flow, IN_PORT, LOCAL, Match, field};
use multihome_plan::node::{Flood, Remote};
use std::net::IpAddr;

use super::nic::{PROBES, learns};
use super::{
    ALL, CLOSED, CLOSED4, CLOSED6, EAR, FLOOD, IN, KNOWN, LEARN, LEARNED, OPEN4, OPEN6, OUT, PORT, Piece, SORT, TO,
    UNKNOWN, UPLINK, Way, mark, speaks4, speaks6,
};

/// How many addresses are learned from an uplink.
const ADDRESSES: u32 = 65_536;
/// EtherType of reverse ARP (RFC 903).
const REVERSE_ARP: u16 = 0x8035;
/// A bit that only addresses of several have (IEEE 802).
const MULTICAST: [u8; 6] = [1, 0, 0, 0, 0, 0];
/// What no bridge forwards (IEEE 802.1Q table 8-1).
const RESERVED: ([u8; 6], [u8; 6]) = ([1, 0x80, 0xc2, 0, 0, 0], [0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]);

/// The MACs that nodes probe from, with the mask of what they have in common.
fn probers() -> ([u8; 6], [u8; 6]) {
    let [a, b] = names::PROBE_MAC;
    ([a, b, 0, 0, 0, 0], [0xff, 0xff, 0, 0, 0, 0])
}

fn from_uplink() -> Match {
    Match::any().metadata(mark::UPLINK, mark::UPLINK)
}

fn not_from_uplink() -> Match {
    Match::any().metadata(0, mark::UPLINK)
}

/// The rules of the bridge, whoever is on it.
pub(super) fn base(uplink: Option<Way<'_>>) -> Vec<Flow> {
    let (prober, mask) = probers();
    let flood = |group| Actions::none().group(group).resubmit(UPLINK);
    let mut flows = vec![
        // What the node says on the uplink by the bridge's own port: nothing but probes, and that a NIC is here now.
        Flow::new(IN, 10, Match::any().in_port(LOCAL).eth_type(REVERSE_ARP)).then(UPLINK),
        Flow::new(IN, 10, Match::any().in_port(LOCAL).from_masked(prober, mask)).then(UPLINK),
        Flow::new(IN, 10, Match::any().in_port(LOCAL).eth_type(PROBES)).then(UPLINK),
        // No network knows of tags, and nobody is a group.
        Flow::new(LEARN, 100, Match::any().tagged()),
        Flow::new(LEARN, 90, Match::any().from_masked(MULTICAST, MULTICAST)),
        Flow::new(LEARN, 0, Match::any()).then(SORT),
        Flow::new(SORT, 200, Match::any().to_masked(RESERVED.0, RESERVED.1)),
        // Probes are the node's own business, and no guest's.
        Flow::new(SORT, 190, Match::any().eth_type(PROBES)),
        Flow::new(SORT, 181, from_uplink().to_masked(prober, mask)),
        Flow::new(SORT, 180, Match::any().to_masked(prober, mask)).then(UPLINK),
        Flow::new(SORT, 100, Match::any().to_masked(MULTICAST, MULTICAST)).then(FLOOD),
        Flow::new(SORT, 0, Match::any()).does(Actions::none().resubmit(LEARNED)).then(KNOWN),
        Flow::new(KNOWN, 10, Match::any().reg(PORT, 0, u32::MAX)).does(unknown(uplink)),
        Flow::new(KNOWN, 0, Match::any()).then(TO),
        Flow::new(FLOOD, 20, speaks4()).does(flood(OPEN4)),
        Flow::new(FLOOD, 0, Match::any()).does(flood(ALL)),
        Flow::new(OUT, 20, speaks4_to_closed()),
        Flow::new(OUT, 0, Match::any()).does(Actions::none().output_reg(PORT)),
    ];
    for said in speaks6() {
        flows.push(Flow::new(FLOOD, 20, said).does(flood(OPEN6)));
    }
    flows.extend(speaks6_to_closed().map(|said| Flow::new(OUT, 20, said)));
    if let Some(way) = uplink {
        flows.extend(leaves(way));
        flows.extend(heard(way));
    }
    flows
}

fn speaks4_to_closed() -> Match {
    Match::any().reg(CLOSED, CLOSED4, CLOSED4).ipv4().protocol(17).udp_dst(68)
}

fn speaks6_to_closed() -> [Match; 3] {
    let closed = || Match::any().reg(CLOSED, CLOSED6, CLOSED6).ipv6();
    let link_local = ([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), [0xffc0, 0, 0, 0, 0, 0, 0, 0].into());
    [
        closed().protocol(17).udp_dst(546),
        closed().icmpv6(134),
        closed().ipv6_src_masked(link_local.0, link_local.1).fragment().protocol(58),
    ]
}

/// What is done with frames for addresses that nobody knows.
fn unknown(uplink: Option<Way<'_>>) -> Actions {
    let here = Actions::none().group(UNKNOWN);
    match uplink {
        Some(Way { flood: Some(flood), .. }) if !flood.unknown => here,
        Some(_) => here.resubmit(UPLINK),
        None => here,
    }
}

/// What an uplink carries away: everything; but nobody asks it for a gateway that every node has, and across a tunnel that neither
/// asks nor answers.
fn leaves(way: Way<'_>) -> Vec<Flow> {
    let mut flows = vec![Flow::new(UPLINK, 0, Match::any()).does(Actions::none().output(way.port))];
    flows.extend(way.own.iter().map(|ip| match ip {
        IpAddr::V4(ip) => Flow::new(UPLINK, 90, Match::any().arp().arp_tpa(*ip)),
        IpAddr::V6(ip) => Flow::new(UPLINK, 90, Match::any().ipv6().icmpv6(135).nd_target(*ip)),
    }));
    if way.flood.is_none() {
        return flows;
    }
    let gateway = || Match::any().metadata(mark::GATEWAY, mark::GATEWAY);
    flows.push(Flow::new(UPLINK, 100, gateway().arp()));
    flows.extend([134, 135, 136, 137].map(|kind| Flow::new(UPLINK, 100, gateway().ipv6().icmpv6(kind))));
    flows
}

/// What the node hears of an uplink that is no device: probes and their answers, and what servers of others say, by the bridge's
/// own port.
fn heard(way: Way<'_>) -> Vec<Flow> {
    let mut flows = vec![Flow::new(EAR, 0, Match::any()).then(LEARN)];
    // Nobody there is believed to have what every node has itself.
    flows.extend(way.own.iter().map(|ip| match ip {
        IpAddr::V4(ip) => Flow::new(EAR, 80, Match::any().arp().arp_spa(*ip)),
        IpAddr::V6(ip) => Flow::new(EAR, 80, Match::any().ipv6().icmpv6(136).nd_target(*ip)),
    }));
    if way.flood.is_some() {
        return flows;
    }
    let (prober, mask) = probers();
    let ear = || Actions::none().output(LOCAL);
    flows.push(Flow::new(EAR, 90, Match::any().tagged()));
    flows.push(Flow::new(EAR, 20, Match::any().eth_type(PROBES)).does(ear()));
    flows.push(Flow::new(EAR, 20, Match::any().to_masked(prober, mask)).does(ear()));
    flows.push(Flow::new(EAR, 10, speaks4()).does(ear()).then(LEARN));
    flows.extend(speaks6().map(|said| Flow::new(EAR, 10, said).does(ear()).then(LEARN)));
    flows
}

/// Frames for a MAC that is behind a port.
pub(super) fn lives(mac: MacAddr, port: u32) -> Flow {
    let to = Actions::none().set(field::reg(PORT), &port.to_be_bytes());
    Flow::new(SORT, 150, Match::any().to(mac.0)).does(to).then(TO)
}

/// The end of a pair into a routing domain.
pub(super) fn fixed(number: u32, mac: MacAddr, gateway: bool) -> Piece {
    let marks = if gateway { mark::GATEWAY } else { 0 };
    let flows = vec![
        Flow::new(IN, 10, Match::any().in_port(number)).marks(marks).then(LEARN),
        lives(mac, number),
        Flow::new(TO, 10, Match::any().reg(PORT, number, u32::MAX)).then(OUT),
    ];
    Piece { flows, groups: vec![ALL, OPEN4, OPEN6], ..Piece::default() }
}

/// The way to other nodes.
pub(super) fn uplink(number: u32, flood: Option<&Flood>) -> Piece {
    let learning = flood.is_none_or(|f| f.unknown);
    let mut flows = vec![
        Flow::new(IN, 10, Match::any().in_port(number)).marks(mark::UPLINK).then(EAR),
        Flow::new(TO, 10, Match::any().reg(PORT, number, u32::MAX)).then(UPLINK),
    ];
    if learning {
        flows.push(learns(number, ADDRESSES));
    }
    Piece { flows, learns: learning, ..Piece::default() }
}

/// A NIC of another node: what is for it goes there, and who asks for its IPv4 addresses is answered here. Who asks for an IPv6
/// address asks that node alone: an answer made here would need what not every data path can rewrite (ovs-fields(7),
/// `nd_options_type`).
pub(super) fn host(mac: MacAddr, remote: &Remote, unknown: bool) -> Vec<Flow> {
    let mut flows = vec![Flow::new(SORT, 140, Match::any().to(mac.0)).then(UPLINK)];
    if unknown {
        return flows;
    }
    for ip in &remote.addresses {
        flows.push(match ip {
            IpAddr::V4(ip) => Flow::new(SORT, 170, not_from_uplink().arp().arp_op(1).arp_tpa(*ip)).does(
                Actions::none()
                    .copy(field::ETH_SRC, field::ETH_DST)
                    .set(field::ETH_SRC, &mac.0)
                    .set(field::ARP_OP, &2u16.to_be_bytes())
                    .copy(field::ARP_SHA, field::ARP_THA)
                    .set(field::ARP_SHA, &mac.0)
                    .copy(field::ARP_SPA, field::ARP_TPA)
                    .set(field::ARP_SPA, &ip.octets())
                    .output(IN_PORT),
            ),
            IpAddr::V6(ip) => Flow::new(SORT, 170, not_from_uplink().ipv6().icmpv6(135).nd_target(*ip))
                .does(Actions::none().set(field::ETH_DST, &mac.0))
                .then(UPLINK),
        });
    }
    flows
}
