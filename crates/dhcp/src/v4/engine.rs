//! The server's decisions (RFC 2131 section 4.3), for one message of one NIC. Pure: the caller says what the NIC is to
//! be told and what it was told last, and gets an answer and what happened.

use std::net::Ipv4Addr;

use super::message::{COOKIE, FIXED, MIN_SIZE, Message, MessageType, option};
use super::record::{Record, Told, put};

/// The smallest message that every client takes, in bytes of UDP payload (RFC 2131 section 2: 576 with headers).
const DEFAULT_MAX: usize = 548;
/// The largest that we send, in bytes: what an Ethernet frame of 1500 bytes holds.
const LARGEST: usize = 1472;

/// What a NIC was told last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortState {
    /// What the last acknowledgement said; `None` after a release, or where nobody knows. A NAK leaves it: it may be lost,
    /// and until the client starts afresh it has what it was told.
    pub told: Option<Told>,
}

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// On the NIC's own port.
    Port,
    /// Through a relay that the network lists, or routed, to a socket of the network's gateway.
    Gateway,
}

/// Where an answer goes (RFC 2131 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the relay, port 67.
    Relay(Ipv4Addr),
    /// To an address that the client already uses, port 68.
    Unicast(Ipv4Addr),
    /// To the client's MAC, with its new address as destination, port 68.
    Offered(Ipv4Addr),
    /// To everybody on the link, port 68.
    Broadcast,
}

/// Why a request was answered with a NAK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It asked for an address that is not its own.
    WrongAddress,
    /// What it was told of its server, routes or MTU is out of date, so that it must start afresh.
    RoutesChanged,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// An address was offered.
    Offered,
    /// An address was acknowledged; the guest now has what its record says.
    Acknowledged,
    /// A request was refused.
    Refused(Refusal),
    /// The client gave its address back.
    Released,
    /// The client found somebody else using its address.
    Declined,
    /// The client asked for settings without an address.
    Informed,
    /// The message was for another server, or not for this NIC; the text says why.
    Ignored(&'static str),
}

/// The outcome of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer's UDP payload, and where it goes.
    pub reply: Option<(Vec<u8>, Destination)>,
    /// What happened.
    pub fact: Fact,
}

impl Outcome {
    fn ignored(why: &'static str) -> Self {
        Self { reply: None, fact: Fact::Ignored(why) }
    }
}

/// Handles one message of the NIC that `record` is for, and keeps `state` up to date.
pub fn handle(record: &Record, state: &mut PortState, m: &Message<'_>, via: Via) -> Outcome {
    if m.chaddr != record.mac() {
        return Outcome::ignored("the client's MAC is not this NIC's");
    }
    if via == Via::Port && m.giaddr != Ipv4Addr::UNSPECIFIED {
        return Outcome::ignored("relayed on a port of a guest");
    }
    match m.kind {
        MessageType::Discover => Outcome { reply: Some(answer(record, m, MessageType::Offer)), fact: Fact::Offered },
        MessageType::Request => request(record, state, m),
        MessageType::Inform => inform(record, m),
        MessageType::Release if for_us(record, state, m) => {
            state.told = None;
            Outcome { reply: None, fact: Fact::Released }
        }
        MessageType::Decline if for_us(record, state, m) && m.requested.is_none_or(|a| a == record.address()) => {
            state.told = None;
            Outcome { reply: None, fact: Fact::Declined }
        }
        MessageType::Release | MessageType::Decline => Outcome::ignored("meant for another server"),
        MessageType::Offer | MessageType::Ack | MessageType::Nak => Outcome::ignored("a server's message"),
    }
}

/// Whether a message names no server, or this one by the identifier that it has or had when it spoke last.
fn for_us(record: &Record, state: &PortState, m: &Message<'_>) -> bool {
    m.server.is_none_or(|s| s == record.server() || state.told.as_ref().is_some_and(|t| t.server == s))
}

/// RFC 2131 section 4.3.2: SELECTING names a server; INIT-REBOOT has option 50 and no address yet; RENEWING and
/// REBINDING have an address.
fn request(record: &Record, state: &mut PortState, m: &Message<'_>) -> Outcome {
    if !for_us(record, state, m) {
        return Outcome::ignored("meant for another server");
    }
    let bound = m.ciaddr != Ipv4Addr::UNSPECIFIED;
    let asked = if bound { Some(m.ciaddr) } else { m.requested };
    let refusal = match asked {
        None => return Outcome::ignored("a request without an address"),
        Some(a) if a != record.address() => Some(Refusal::WrongAddress),
        Some(_) if bound && m.server.is_none() && state.told.as_ref().is_some_and(|t| t != record.told()) => {
            Some(Refusal::RoutesChanged)
        }
        Some(_) => None,
    };
    match refusal {
        None => {
            state.told = Some(record.told().clone());
            Outcome { reply: Some(answer(record, m, MessageType::Ack)), fact: Fact::Acknowledged }
        }
        Some(why) => {
            let known = state.told.as_ref().map_or(record.server(), |t| t.server);
            Outcome { reply: Some(nak(record, m, why, known)), fact: Fact::Refused(why) }
        }
    }
}

/// RFC 2131 section 4.3.5: options without lease times, to an address that the client already has.
fn inform(record: &Record, m: &Message<'_>) -> Outcome {
    if m.ciaddr != record.address() {
        return Outcome::ignored("an INFORM from an address that is not this NIC's");
    }
    let mut out = head(m, Ipv4Addr::UNSPECIFIED);
    start_options(&mut out, MessageType::Ack, record.server());
    finish(&mut out, record, m, true);
    let to =
        if m.giaddr != Ipv4Addr::UNSPECIFIED { Destination::Relay(m.giaddr) } else { Destination::Unicast(m.ciaddr) };
    Outcome { reply: Some((out, to)), fact: Fact::Informed }
}

fn answer(record: &Record, m: &Message<'_>, kind: MessageType) -> (Vec<u8>, Destination) {
    let mut out = head(m, record.address());
    start_options(&mut out, kind, record.server());
    let lease = record.lease_seconds();
    put(&mut out, option::LEASE, &lease.to_be_bytes());
    put(&mut out, option::T1, &(lease / 2).to_be_bytes());
    put(&mut out, option::T2, &((u64::from(lease) * 7 / 8) as u32).to_be_bytes());
    finish(&mut out, record, m, true);
    let to = if m.giaddr != Ipv4Addr::UNSPECIFIED {
        Destination::Relay(m.giaddr)
    } else if m.ciaddr != Ipv4Addr::UNSPECIFIED {
        Destination::Unicast(m.ciaddr)
    } else if m.broadcast {
        Destination::Broadcast
    } else {
        Destination::Offered(record.address())
    };
    (out, to)
}

/// RFC 2131 section 4.3.2 and table 3: no address, no options but type, server, text and echoes; broadcast, because
/// the client's address may be wrong. Over a relay the broadcast flag asks the relay for the same. `server` is the
/// identifier that the client knows: a refusal by another one it takes for a stranger's.
fn nak(record: &Record, m: &Message<'_>, why: Refusal, server: Ipv4Addr) -> (Vec<u8>, Destination) {
    let mut out = head(m, Ipv4Addr::UNSPECIFIED);
    out[12..16].fill(0);
    start_options(&mut out, MessageType::Nak, server);
    let text = match why {
        Refusal::WrongAddress => "that address is not this NIC's",
        Refusal::RoutesChanged => "routes or settings have changed: start afresh",
    };
    put(&mut out, option::TEXT, text.as_bytes());
    finish(&mut out, record, m, false);
    if m.giaddr == Ipv4Addr::UNSPECIFIED {
        return (out, Destination::Broadcast);
    }
    out[10] |= 0x80;
    (out, Destination::Relay(m.giaddr))
}

/// The fixed part of an answer: the client's with `op` turned round, hops, secs, names and unused fields zero.
fn head(m: &Message<'_>, yiaddr: Ipv4Addr) -> Vec<u8> {
    let mut out = Vec::with_capacity(DEFAULT_MAX);
    out.resize(FIXED, 0);
    out[..4].copy_from_slice(&[2, 1, 6, 0]);
    out[4..8].copy_from_slice(&m.raw[4..8]);
    out[10..12].copy_from_slice(&m.raw[10..12]);
    out[12..16].copy_from_slice(&m.ciaddr.octets());
    out[16..20].copy_from_slice(&yiaddr.octets());
    out[24..28].copy_from_slice(&m.giaddr.octets());
    out[28..34].copy_from_slice(&m.chaddr.0);
    out[236..240].copy_from_slice(&COOKIE);
    out
}

fn start_options(out: &mut Vec<u8>, kind: MessageType, server: Ipv4Addr) {
    put(out, option::TYPE, &[kind as u8]);
    put(out, option::SERVER, &server.octets());
}

/// The record's options as far as the client takes them, the echoes, and the end. Relay information comes last (RFC
/// 3046 section 2.1).
fn finish(out: &mut Vec<u8>, record: &Record, m: &Message<'_>, with_options: bool) {
    let mut echoes = Vec::new();
    for (code, body) in [(option::CLIENT_ID, m.client_id), (option::RELAY, m.relay_info)] {
        if let Some(body) = body {
            put(&mut echoes, code, body);
        }
    }
    if with_options {
        let largest = m.max_size.map_or(DEFAULT_MAX, |n| usize::from(n).saturating_sub(28).clamp(DEFAULT_MAX, LARGEST));
        let room = largest.saturating_sub(out.len() + echoes.len() + 1);
        record.put_options(out, room);
    }
    out.extend_from_slice(&echoes);
    out.push(option::END);
    if out.len() < MIN_SIZE {
        out.resize(MIN_SIZE, option::PAD);
    }
}
