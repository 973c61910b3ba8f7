//! The flows of a bridge, from what its ports are. Pure.
//!
//! Rules that are the same for every NIC are there once; what a NIC may do is a few flows of its own, so that attaching the
//! ten-thousandth one costs what the first one did. Nothing is forwarded but by a flow that says so.

mod fabric;
mod network;
mod nic;

use std::collections::BTreeSet;
use std::net::IpAddr;

use multihome_model::{MacAddr, VlanId};
use multihome_ovsdb::openflow::{Flow, Match};
use multihome_plan::node::{Flood, Remote};

use super::model::{Fact, Role};

/// Where frames begin: by the port that they came in by.
pub(super) const IN: u8 = 0;
/// What no guest may say, and requests that are answered at its port.
const GUEST: u8 = 1;
/// Whose MAC it is.
const MAC: u8 = 2;
/// What else must be true of a strict NIC's frame, by EtherType.
const STRICT: u8 = 3;
/// Neighbour advertisements: whose address they tell of.
const ADVERTISED: u8 = 4;
/// And whose address they are from.
const SOURCE6: u8 = 5;
/// Neighbour solicitations from nobody: whose address is tried.
const TRIED: u8 = 6;
/// Guests that pretend to be servers or routers, counted by NIC.
pub(super) const ROGUE: u8 = 7;
/// What is dropped and counted by NIC.
pub(super) const REFUSE: u8 = 8;
/// What comes from an uplink and concerns the node itself.
const EAR: u8 = 9;
/// Where MACs are learned, and on fabrics' bridges the way out.
const LEARN: u8 = 10;
/// Where it goes, by its destination.
const SORT: u8 = 11;
/// What was learned.
pub(super) const LEARNED: u8 = 12;
/// Whether anything was.
const KNOWN: u8 = 13;
/// What the port that it goes to may hear.
const TO: u8 = 14;
/// What an uplink may carry away.
const UPLINK: u8 = 15;
/// To everybody.
const FLOOD: u8 = 16;
/// Out of one port.
const OUT: u8 = 17;

/// The group of all ports but the uplink.
const ALL: u32 = 1;
/// Those of them to which anybody may speak as a DHCPv4 server.
const OPEN4: u32 = 2;
/// And as a DHCPv6 server or a router.
const OPEN6: u32 = 3;
/// Those that are shown what is for addresses that nobody knows.
const UNKNOWN: u32 = 4;
/// The groups of a network's bridge.
pub(super) const GROUPS: [u32; 4] = [ALL, OPEN4, OPEN6, UNKNOWN];

/// What tables tell each other of a frame (its metadata).
mod mark {
    pub(super) const TRUNK: u64 = 1;
    pub(super) const PROMISCUOUS: u64 = 2;
    pub(super) const SERVED4: u64 = 4;
    pub(super) const SERVED6: u64 = 8;
    pub(super) const UPLINK: u64 = 16;
    pub(super) const GATEWAY: u64 = 32;
    /// What a rogue pretends to be: 0x100 to 0x300.
    pub(super) const ROGUES: u64 = 0x300;
}

/// The register of the port that a frame goes to.
const PORT: u8 = 1;
/// The register of what that port may not hear.
const CLOSED: u8 = 2;
const CLOSED4: u32 = 1;
const CLOSED6: u32 = 2;

/// The flows and memberships of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) flows: Vec<Flow>,
    /// The groups that its port is in.
    pub(super) groups: Vec<u32>,
    /// The port, if it is one.
    pub(super) port: Option<u32>,
    /// Whether its port teaches the bridge addresses.
    pub(super) learns: bool,
}

/// The cookie of what was learned from a port. The topmost bit sets it apart from ours.
pub(super) fn learned(port: u32) -> u64 {
    1 << 63 | u64::from(port)
}

/// A network's way to other nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// Its port.
    pub(super) port: u32,
    /// What is known of a tunnel; none for a VLAN or a device of the node's own.
    pub(super) flood: Option<&'a Flood>,
    /// The addresses that nobody there is asked for.
    pub(super) own: &'a BTreeSet<IpAddr>,
}

/// What a bridge has whichever ports it has. `bridge_port` is whether its own port is the node's ear on the uplink.
pub(super) fn base(role: &Role, uplink: Option<Way<'_>>) -> Piece {
    let mut flows = nic::base();
    match role {
        Role::Network(_) => flows.extend(network::base(uplink)),
        Role::Fabric(_) | Role::Device => flows.extend(fabric::base()),
    }
    Piece { flows, ..Piece::default() }
}

/// What a port has.
pub(super) fn port(role: &Role, number: u32, fact: &Fact) -> Piece {
    let sorts = !matches!(role, Role::Network(_));
    let piece = match fact {
        Fact::Nic { port: Some(facts), .. } => nic::port(number, facts, sorts),
        // Of whom nothing is known nothing is heard.
        Fact::Nic { port: None, .. } => Piece::default(),
        Fact::Fixed { mac, gateway } => network::fixed(number, *mac, *gateway),
        Fact::Tunnel(flood) => network::uplink(number, Some(flood)),
        Fact::Uplink(_) => network::uplink(number, None),
        Fact::Far(_) => fabric::far(number),
        Fact::Device(vlans) => fabric::device(number, vlans.as_ref().and_then(|v| v.native).map(VlanId::get)),
    };
    Piece { port: Some(number), ..piece }
}

/// What a NIC of another node has.
pub(super) fn host(mac: MacAddr, remote: &Remote, unknown: bool) -> Piece {
    Piece { flows: network::host(mac, remote, unknown), ..Piece::default() }
}

/// What only servers and routers say: DHCPv4 to clients.
fn speaks4() -> Match {
    Match::any().ipv4().protocol(17).udp_dst(68)
}

/// DHCPv6 to clients, router advertisements, and what may be one in pieces.
fn speaks6() -> [Match; 3] {
    let link_local = ([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), [0xffc0, 0, 0, 0, 0, 0, 0, 0].into());
    [
        Match::any().ipv6().protocol(17).udp_dst(546),
        Match::any().ipv6().icmpv6(134),
        Match::any().ipv6().ipv6_src_masked(link_local.0, link_local.1).fragment().protocol(58),
    ]
}

pub(super) use nic::{refused, rogues};

/// The flows that count for a NIC.
pub(super) fn counters(port: u32) -> Vec<Flow> {
    [refused(port)].into_iter().chain(rogues(port).map(|(_, flow)| flow)).collect()
}
