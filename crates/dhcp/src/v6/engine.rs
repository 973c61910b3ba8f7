//! The server's decisions (RFC 8415 section 18.3), for one message of one NIC. Pure: the address comes from the NIC's
//! record, whatever DUID and identity association the client names; they are echoed and are no identity.

use std::net::Ipv6Addr;

use super::message::{Message, MessageType, option};
use super::record::{Record, put};

/// Status codes (RFC 8415 section 21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Status {
    Success = 0,
    NoAddress = 2,
    NoBinding = 3,
    NotOnLink = 4,
    NoPrefix = 6,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// An address was advertised.
    Advertised,
    /// An address was given or extended; the guest now has it.
    Given(Ipv6Addr),
    /// The client asked whether its addresses are right on this link; whether they are.
    Confirmed(bool),
    /// The client gave its address back.
    Released,
    /// The client found somebody else using its address.
    Declined,
    /// The client asked for settings without an address.
    Informed,
    /// There is nothing for what the client asked: prefixes, temporary addresses.
    Nothing,
    /// The message was for another server or breaks the rules; the text says why.
    Ignored(&'static str),
}

/// The outcome of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer's UDP payload; it goes where the message came from.
    pub reply: Option<Vec<u8>>,
    /// What happened.
    pub fact: Fact,
}

/// Handles one message of the NIC that `record` is for.
pub fn handle(record: &Record, m: &Message<'_>) -> Outcome {
    if let Some(why) = breaks_rules(record, m) {
        return Outcome { reply: None, fact: Fact::Ignored(why) };
    }
    match m.kind {
        MessageType::Solicit if m.rapid_commit => {
            let mut out = head(record, m, MessageType::Reply);
            put(&mut out, option::RAPID_COMMIT, &[]);
            lease(record, m, out, true)
        }
        MessageType::Solicit => {
            let mut out = head(record, m, MessageType::Advertise);
            // No other server of ours could answer better, so that the client need not wait for one.
            put(&mut out, option::PREFERENCE, &[255]);
            let outcome = lease(record, m, out, true);
            let fact = if matches!(outcome.fact, Fact::Given(_)) { Fact::Advertised } else { outcome.fact };
            Outcome { fact, ..outcome }
        }
        MessageType::Request => lease(record, m, head(record, m, MessageType::Reply), true),
        MessageType::Renew | MessageType::Rebind => lease(record, m, head(record, m, MessageType::Reply), false),
        MessageType::Confirm => confirm(record, m),
        MessageType::Release => done(record, m, Fact::Released),
        MessageType::Decline => done(record, m, Fact::Declined),
        MessageType::InformationRequest => {
            let mut out = head(record, m, MessageType::Reply);
            out.extend_from_slice(record.settings());
            // RFC 4242 section 3.1: 600 s at least.
            put(&mut out, option::REFRESH, &record.lease_seconds().max(600).to_be_bytes());
            Outcome { reply: Some(out), fact: Fact::Informed }
        }
        MessageType::Advertise | MessageType::Reply => {
            Outcome { reply: None, fact: Fact::Ignored("a server's message") }
        }
    }
}

/// RFC 8415 section 16: which identifiers a message must and must not carry.
fn breaks_rules(record: &Record, m: &Message<'_>) -> Option<&'static str> {
    let for_any = matches!(m.kind, MessageType::Solicit | MessageType::Confirm | MessageType::Rebind);
    if m.client_id.is_none() && m.kind != MessageType::InformationRequest {
        return Some("a message without a client identifier");
    }
    match m.server_id {
        Some(_) if for_any => Some("a message to any server that names one"),
        Some(id) if id != record.duid() => Some("meant for another server"),
        None if !for_any && m.kind != MessageType::InformationRequest => Some("a message that must name its server"),
        _ => None,
    }
}

fn head(record: &Record, m: &Message<'_>, kind: MessageType) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(kind as u8);
    out.extend_from_slice(&m.transaction);
    if let Some(id) = m.client_id {
        put(&mut out, option::CLIENT_ID, id);
    }
    put(&mut out, option::SERVER_ID, record.duid());
    out
}

fn status(code: Status, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 + text.len());
    let mut body = (code as u16).to_be_bytes().to_vec();
    body.extend_from_slice(text.as_bytes());
    put(&mut out, option::STATUS, &body);
    out
}

/// Answers every identity association: the first one gets the record's address, further ones none; what the client
/// names that is not its own gets lifetime 0, so that it lets go of it (section 18.3.4). `fresh` says that the client
/// may ask for what it does not have yet.
fn lease(record: &Record, m: &Message<'_>, mut out: Vec<u8>, fresh: bool) -> Outcome {
    let mut given = None;
    for (i, ia) in m.addresses.iter().enumerate() {
        let mut body = ia.iaid.to_vec();
        let own = record.address().filter(|_| i == 0);
        let seconds = record.lease_seconds();
        let (t1, t2) = own.map_or((0, 0), |_| (seconds / 2, (u64::from(seconds) * 4 / 5) as u32));
        body.extend_from_slice(&t1.to_be_bytes());
        body.extend_from_slice(&t2.to_be_bytes());
        if let Some(a) = own {
            put(&mut body, option::IA_ADDRESS, &address(a, seconds));
            given = Some(a);
        }
        for stale in ia.addresses.iter().filter(|a| Some(**a) != own) {
            put(&mut body, option::IA_ADDRESS, &address(*stale, 0));
        }
        if own.is_none() {
            let nothing = if fresh {
                status(Status::NoAddress, "this NIC has one address by DHCPv6")
            } else {
                status(Status::NoBinding, "that association is not known")
            };
            body.extend_from_slice(&nothing);
        }
        put(&mut out, option::IA_NA, &body);
    }
    for iaid in &m.temporary {
        let mut body = iaid.to_vec();
        body.extend_from_slice(&status(Status::NoAddress, "there are no temporary addresses here"));
        put(&mut out, option::IA_TA, &body);
    }
    for iaid in &m.prefixes {
        let mut body = iaid.to_vec();
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(&status(Status::NoPrefix, "there are no prefixes here"));
        put(&mut out, option::IA_PD, &body);
    }
    out.extend_from_slice(record.settings());
    let fact = given.map_or(Fact::Nothing, Fact::Given);
    Outcome { reply: Some(out), fact }
}

/// RFC 8415 section 21.6: address, preferred and valid lifetime.
fn address(a: Ipv6Addr, seconds: u32) -> [u8; 24] {
    let mut body = [0; 24];
    body[..16].copy_from_slice(&a.octets());
    body[16..20].copy_from_slice(&seconds.to_be_bytes());
    body[20..].copy_from_slice(&seconds.to_be_bytes());
    body
}

/// Section 18.3.3: whether all addresses are right here. Without any, nothing can be said.
fn confirm(record: &Record, m: &Message<'_>) -> Outcome {
    let mut named = m.addresses.iter().flat_map(|ia| &ia.addresses).peekable();
    if named.peek().is_none() {
        return Outcome { reply: None, fact: Fact::Ignored("a CONFIRM without addresses") };
    }
    let right = named.all(|a| Some(*a) == record.address());
    let mut out = head(record, m, MessageType::Reply);
    out.extend_from_slice(&if right {
        status(Status::Success, "")
    } else {
        status(Status::NotOnLink, "that address is not this NIC's")
    });
    Outcome { reply: Some(out), fact: Fact::Confirmed(right) }
}

fn done(record: &Record, m: &Message<'_>, fact: Fact) -> Outcome {
    let mut out = head(record, m, MessageType::Reply);
    out.extend_from_slice(&status(Status::Success, ""));
    let own = m.addresses.iter().flat_map(|ia| &ia.addresses).any(|a| Some(*a) == record.address());
    for ia in m.addresses.iter().filter(|ia| ia.addresses.iter().any(|a| Some(*a) != record.address())) {
        let mut body = ia.iaid.to_vec();
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(&status(Status::NoBinding, "that address is not this NIC's"));
        put(&mut out, option::IA_NA, &body);
    }
    Outcome { reply: Some(out), fact: if own { fact } else { Fact::Nothing } }
}
