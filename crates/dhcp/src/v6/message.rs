//! Reading DHCPv6 messages of clients (RFC 8415 sections 8 and 21).

use std::net::Ipv6Addr;

/// Option codes (RFC 8415 section 21; RFC 3646; RFC 5908; RFC 4242; RFC 7083).
pub mod option {
    /// Client identifier: a DUID.
    pub const CLIENT_ID: u16 = 1;
    /// Server identifier: a DUID.
    pub const SERVER_ID: u16 = 2;
    /// Identity association for addresses.
    pub const IA_NA: u16 = 3;
    /// Identity association for temporary addresses.
    pub const IA_TA: u16 = 4;
    /// An address in an identity association.
    pub const IA_ADDRESS: u16 = 5;
    /// Preference of a server, 0 to 255.
    pub const PREFERENCE: u16 = 7;
    /// Status code and text.
    pub const STATUS: u16 = 13;
    /// Two messages instead of four.
    pub const RAPID_COMMIT: u16 = 14;
    /// Name servers (RFC 3646 section 3).
    pub const DNS: u16 = 23;
    /// Search domains (RFC 3646 section 4).
    pub const DOMAINS: u16 = 24;
    /// Identity association for prefixes.
    pub const IA_PD: u16 = 25;
    /// How long settings without an address may be kept, in seconds (RFC 4242).
    pub const REFRESH: u16 = 32;
    /// Time servers (RFC 5908).
    pub const NTP: u16 = 56;
}

/// Identity associations that are answered in one message; further ones are left out.
const MOST_ASSOCIATIONS: usize = 16;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// Who serves?
    Solicit = 1,
    /// A server's answer to that.
    Advertise = 2,
    /// I take what you advertised.
    Request = 3,
    /// Are my addresses right on this link?
    Confirm = 4,
    /// Extend, to the server that gave them.
    Renew = 5,
    /// Extend, to any server.
    Rebind = 6,
    /// A server's answer to all but Solicit.
    Reply = 7,
    /// I do not need them any more.
    Release = 8,
    /// Somebody else uses this address.
    Decline = 9,
    /// Settings without an address.
    InformationRequest = 11,
}

/// An identity association with the addresses that the client names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// The client's number for it.
    pub iaid: [u8; 4],
    /// Addresses in it.
    pub addresses: Vec<Ipv6Addr>,
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: MessageType,
    /// Transaction id.
    pub transaction: [u8; 3],
    /// The client's DUID.
    pub client_id: Option<&'a [u8]>,
    /// The DUID of the server that it is meant for.
    pub server_id: Option<&'a [u8]>,
    /// Identity associations for addresses.
    pub addresses: Vec<Association>,
    /// Identity associations for temporary addresses.
    pub temporary: Vec<[u8; 4]>,
    /// Identity associations for prefixes.
    pub prefixes: Vec<[u8; 4]>,
    /// Whether two messages are enough for the client.
    pub rapid_commit: bool,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short for a header, or an option reaches beyond its end.
    #[error("it ends in the middle of something")]
    Truncated,
    /// A type that clients do not send.
    #[error("a message of type {0} is not a client's")]
    Type(u8),
    /// A DUID that is longer than 128 octets or has no content (RFC 8415 section 11.1).
    #[error("a DUID of {0} octets: 3 to 130 are right")]
    Duid(usize),
    /// An option twice that may be there once.
    #[error("option {0} is there twice")]
    Twice(u16),
}

/// Splits options; the first error ends it.
pub(crate) fn options(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let cut = bytes.split_first_chunk::<4>().and_then(|(head, rest)| {
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (body, rest) = rest.split_at_checked(len)?;
            Some((u16::from_be_bytes([head[0], head[1]]), body, rest))
        });
        match cut {
            Some((code, body, rest)) => {
                bytes = rest;
                Some(Ok((code, body)))
            }
            None => {
                bytes = &[];
                Some(Err(Malformed::Truncated))
            }
        }
    })
}

impl<'a> Message<'a> {
    /// Reads the payload of a datagram.
    ///
    /// # Errors
    /// When it is not a whole message of a client.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = payload.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
        let kind = match head[0] {
            1 => MessageType::Solicit,
            3 => MessageType::Request,
            4 => MessageType::Confirm,
            5 => MessageType::Renew,
            6 => MessageType::Rebind,
            8 => MessageType::Release,
            9 => MessageType::Decline,
            11 => MessageType::InformationRequest,
            other => return Err(Malformed::Type(other)),
        };
        let mut m = Self {
            kind,
            transaction: [head[1], head[2], head[3]],
            client_id: None,
            server_id: None,
            addresses: vec![],
            temporary: vec![],
            prefixes: vec![],
            rapid_commit: false,
        };
        for option in options(rest) {
            let (code, body) = option?;
            match code {
                option::CLIENT_ID => once(&mut m.client_id, code, duid(body)?)?,
                option::SERVER_ID => once(&mut m.server_id, code, duid(body)?)?,
                option::RAPID_COMMIT => m.rapid_commit = true,
                option::IA_NA if m.addresses.len() < MOST_ASSOCIATIONS => m.addresses.push(association(body)?),
                option::IA_TA if m.temporary.len() < MOST_ASSOCIATIONS => m.temporary.push(iaid(body)?),
                option::IA_PD if m.prefixes.len() < MOST_ASSOCIATIONS => m.prefixes.push(iaid(body)?),
                _ => {}
            }
        }
        Ok(m)
    }
}

fn once<'a>(slot: &mut Option<&'a [u8]>, code: u16, value: &'a [u8]) -> Result<(), Malformed> {
    if slot.replace(value).is_some() { Err(Malformed::Twice(code)) } else { Ok(()) }
}

fn duid(body: &[u8]) -> Result<&[u8], Malformed> {
    if (3..=130).contains(&body.len()) { Ok(body) } else { Err(Malformed::Duid(body.len())) }
}

fn iaid(body: &[u8]) -> Result<[u8; 4], Malformed> {
    body.first_chunk().copied().ok_or(Malformed::Truncated)
}

/// RFC 8415 section 21.4: number, T1, T2, options.
fn association(body: &[u8]) -> Result<Association, Malformed> {
    let inner = body.get(12..).ok_or(Malformed::Truncated)?;
    let mut addresses = vec![];
    for option in options(inner) {
        let (code, body) = option?;
        if code == option::IA_ADDRESS {
            let octets: &[u8; 16] = body.first_chunk().ok_or(Malformed::Truncated)?;
            if addresses.len() < MOST_ASSOCIATIONS {
                addresses.push(Ipv6Addr::from(*octets));
            }
        }
    }
    Ok(Association { iaid: iaid(body)?, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_solicit_is_read() {
        let bytes =
            [1, 0xa, 0xb, 0xc, 0, 1, 0, 4, 0, 3, 0, 1, 0, 14, 0, 0, 0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
        let m = Message::parse(&bytes).unwrap();
        assert_eq!((m.kind, m.transaction, m.rapid_commit), (MessageType::Solicit, [0xa, 0xb, 0xc], true));
        assert_eq!(m.addresses, [Association { iaid: [0, 0, 0, 7], addresses: vec![] }]);
        assert_eq!(m.client_id, Some(&[0, 3, 0, 1][..]));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        assert_eq!(Message::parse(&[1, 0, 0]), Err(Malformed::Truncated));
        assert_eq!(Message::parse(&[1, 0, 0, 0, 0, 1, 0, 9, 1]), Err(Malformed::Truncated));
        assert_eq!(Message::parse(&[7, 0, 0, 0]), Err(Malformed::Type(7)));
        assert_eq!(Message::parse(&[1, 0, 0, 0, 0, 1, 0, 1, 1]), Err(Malformed::Duid(1)));
        let twice = [1, 0, 0, 0, 0, 2, 0, 3, 1, 1, 1, 0, 2, 0, 3, 1, 1, 1];
        assert_eq!(Message::parse(&twice), Err(Malformed::Twice(2)));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&bytes);
        }
    }
}
