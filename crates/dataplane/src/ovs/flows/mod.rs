//! The flows of a bridge, from what its ports are. Pure.
//!
//! Rules that are the same for every NIC are there once; what a NIC may do is a few flows of its own, so that attaching the
//! ten-thousandth one costs what the first one did. Nothing is forwarded but by a flow that says so.

mod fabric;
mod network;
mod nic;
mod policy;
mod rules;

use std::collections::BTreeSet;
use std::net::IpAddr;

use multihome_model::{MacAddr, VlanId};
use multihome_ovsdb::openflow::{Actions, Bucket, Flow, Match, Meter, field};
use multihome_plan::node::{Flood, Remote};

use super::model::{Fact, Role};
use super::policy::Bits;

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
/// What a NIC says that it may be heard with: its policies come next, if it has any.
const SAID: u8 = 9;
/// What comes from an uplink and concerns the node itself.
const EAR: u8 = 10;
/// Where MACs are learned, and on fabrics' bridges the way out.
const LEARN: u8 = 11;
/// Where it goes, by its destination.
const SORT: u8 = 12;
/// What was learned.
const LEARNED: u8 = 13;
/// Whether anything was.
const KNOWN: u8 = 14;
/// What the port that it goes to may hear.
const TO: u8 = 15;
/// What an uplink may carry away.
const UPLINK: u8 = 16;
/// To everybody.
const FLOOD: u8 = 17;
/// What a NIC is to hear: its policies come next, if it has any.
const HEARS: u8 = 18;
/// Out of one port.
const OUT: u8 = 19;

/// Policies: what rules are asked about at all.
const CLASS: u8 = 20;
/// Whether the connection tracker knows it.
const TRACK: u8 = 21;
/// Conversations that the tracker knows nothing of, as they were learned.
const STATE: u8 = 22;
/// Whether any was.
const STATED: u8 = 23;
/// What belongs to nothing.
const NEW: u8 = 24;
/// NICs whose connections may be older than their rules.
const FRESH: u8 = 25;
/// TCP that belongs to nothing and opens nothing.
const ASTRAY: u8 = 26;
/// Which groups the other end is in.
const MEMBERS: u8 = 27;
/// Rules, asked about what opened a conversation.
const RULES: u8 = 28;
/// Rules, asked about the packet itself.
const PLAIN: u8 = 29;
/// What each rule decided, counted.
const COUNT: u8 = 30;
/// What follows from it.
const VERDICT: u8 = 31;
/// Rules, asked about an answer of a connection that is older than they are.
const PICK: u8 = 32;
/// What was allowed is remembered.
const KEEP: u8 = 33;
/// Whether it could be.
const KEPT: u8 = 34;
/// On its way again.
const PASS: u8 = 35;

/// A flow that no frame comes to.
pub(super) fn nudge() -> Flow {
    Flow::new(253, 0, Match::any())
}

/// What a strict NIC asks DHCP servers of others.
const ASKS: u8 = 36;

/// The tables whose flows come and go by themselves.
pub(super) const OWN: [u8; 3] = [LEARNED, STATE, FRESH];

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
    /// How often the rules of its NIC were changed, if it has some.
    pub(super) epoch: Option<u32>,
    /// How much its flows let pass of what is counted.
    pub(super) meters: Vec<Meter>,
}

impl Piece {
    /// What a group does with a copy for its port: one for a NIC with rules goes by them.
    pub(super) fn bucket(&self, port: u32) -> Bucket {
        let actions = match self.epoch {
            None => Actions::none().output(port),
            Some(_) => Actions::none().set(field::reg(PORT), &port.to_be_bytes()).resubmit(HEARS),
        };
        Bucket { id: port, actions }
    }
}

/// The cookie of what was learned from a port. The topmost bit sets it apart from ours.
fn learned(port: u32) -> u64 {
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
        Role::Network(_) => {
            flows.extend(network::base(uplink));
            flows.extend(policy::base());
        }
        Role::Fabric(_) | Role::Device => flows.extend(fabric::base()),
    }
    Piece { flows, ..Piece::default() }
}

/// What a port has.
pub(super) fn port(role: &Role, number: u32, fact: &Fact) -> Piece {
    let sorts = !matches!(role, Role::Network(_));
    let piece = match fact {
        Fact::Nic { port: Some(facts), policed, egress, .. } => {
            nic::port(number, facts, policed.as_ref(), *egress, sorts)
        }
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

/// The flows of an address that is in groups.
pub(super) fn member(address: IpAddr, groups: &Bits) -> Piece {
    Piece { flows: policy::member(address, groups), ..Piece::default() }
}

/// Everything that a bridge made by itself for a NIC, by its port: table and cookie.
pub(super) fn conversations(number: u32) -> (u8, u64) {
    (STATE, policy::conversations(number))
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

/// The cookie and table of the addresses that were learned from a port.
pub(super) fn addresses(number: u32) -> (u8, u64) {
    (LEARNED, learned(number))
}

pub(super) use nic::{asks, refused, rogues};
pub(super) use policy::{counter, young};

/// The table of what rules decided.
pub(super) const COUNTED: u8 = COUNT;

/// The flows that count for a NIC.
pub(super) fn counters(port: u32) -> Vec<Flow> {
    [refused(port)].into_iter().chain(rogues(port).map(|(_, flow)| flow)).collect()
}
