//! DHCPv6: a SOLICIT, and the ADVERTISE that answers it (RFC 8415 sections 18.2.1 and 18.3.9). Without rapid commit and
//! without a REQUEST nothing is leased.

use std::net::Ipv6Addr;

use multihome_model::MacAddr;

use crate::v6::message::{option, options};

/// All servers and relays of the link (RFC 8415 section 7.1), and the MAC of that group (RFC 2464 section 7).
pub const SERVERS: crate::frame6::End =
    crate::frame6::End { mac: MacAddr([0x33, 0x33, 0, 1, 0, 2]), address: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2) };
const ELAPSED: u16 = 8;
/// NoAddrsAvail (RFC 8415 section 21.13).
const NO_ADDRESSES: [u8; 2] = [0, 2];

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// The transaction that it answers.
    pub transaction: [u8; 3],
    /// Whether it has an address to give.
    pub gives: bool,
}

/// A SOLICIT from this MAC, which is its client identifier (DUID-LL, RFC 8415 section 11.4).
pub fn solicit(mac: MacAddr, transaction: [u8; 3]) -> Vec<u8> {
    let mut p = vec![1];
    p.extend(transaction);
    let mut put = |code: u16, body: &[u8]| {
        p.extend(code.to_be_bytes());
        p.extend((body.len() as u16).to_be_bytes());
        p.extend_from_slice(body);
    };
    put(option::CLIENT_ID, &[&[0, 3, 0, 1][..], &mac.0].concat());
    put(ELAPSED, &[0, 0]);
    put(option::IA_NA, &[&mac.0[2..], &[0; 8]].concat());
    p
}

impl Advertised {
    /// Reads the payload of a datagram; `None` for anything but a whole ADVERTISE to this MAC.
    pub fn parse(payload: &[u8], mac: MacAddr) -> Option<Self> {
        let (head, rest) = payload.split_first_chunk::<4>()?;
        if head[0] != 2 {
            return None;
        }
        let (mut server, mut mine, mut gives) = (false, false, true);
        for o in options(rest) {
            match o.ok()? {
                (option::SERVER_ID, _) => server = true,
                (option::CLIENT_ID, id) => mine = id.strip_prefix(&[0, 3, 0, 1]) == Some(&mac.0),
                (option::STATUS, body) => gives &= !body.starts_with(&NO_ADDRESSES),
                (option::IA_NA, body) => {
                    for inner in options(body.get(12..)?) {
                        let (code, body) = inner.ok()?;
                        gives &= code != option::STATUS || !body.starts_with(&NO_ADDRESSES);
                    }
                }
                _ => {}
            }
        }
        (server && mine).then_some(Self { transaction: [head[1], head[2], head[3]], gives })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v6::{Message, MessageType};
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 1]);

    #[test]
    fn a_solicit_is_what_servers_read() {
        let p = solicit(MAC, [1, 2, 3]);
        let m = Message::parse(&p).unwrap();
        assert_eq!((m.kind, m.transaction, m.rapid_commit), (MessageType::Solicit, [1, 2, 3], false));
        assert_eq!(m.addresses.len(), 1);
    }

    #[test]
    fn an_advertise_is_read() {
        let mut p = solicit(MAC, [1, 2, 3]);
        p[0] = 2;
        assert_eq!(Advertised::parse(&p, MAC), None, "of no server");
        p.extend([0, 2, 0, 4, 0, 3, 0, 1]);
        assert_eq!(Advertised::parse(&p, MAC), Some(Advertised { transaction: [1, 2, 3], gives: true }));
        assert_eq!(Advertised::parse(&p, MacAddr([2; 6])), None, "to somebody else");
        p.extend([0, 13, 0, 2, 0, 2]);
        assert!(!Advertised::parse(&p, MAC).unwrap().gives);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(b) = bytes.first_mut() {
                *b = 2;
            }
            let _ = Advertised::parse(&bytes, MAC);
        }
    }
}
