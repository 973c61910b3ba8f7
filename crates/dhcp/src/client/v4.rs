//! DHCPv4 (RFC 2131 section 3.1): a DISCOVER, and the OFFER that answers it; and a lease for a moment, which is asked for, and
//! given back (section 4.4.6).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use multihome_model::MacAddr;

use crate::guard::v4::{collect, default_hop, entries, get, routers};
use crate::v4::MessageType;
use crate::v4::message::{COOKIE, FIXED, MIN_SIZE, option};

/// What the prober calls itself (option 60), so that who reads a server's log knows it.
pub const VENDOR: &[u8] = b"multihome-probe";
const VENDOR_CLASS: u8 = 60;
const PARAMETERS: u8 = 55;

/// How long a lease is asked for, in seconds: one that could not be given back ends by itself, where the server heeds that.
const BRIEF: u32 = 120;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It offers a lease.
    Offered(Offer),
    /// It gave the lease.
    Granted(Offer),
    /// It does not give it; the transaction that it answers.
    Refused(u32),
}

/// What a server offers, or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The transaction that it answers.
    pub transaction: u32,
    /// The address. None of anybody's where the server names none: 0.0.0.0.
    pub address: Ipv4Addr,
    /// The server (option 54).
    pub server: Ipv4Addr,
    /// The subnet: the address that is offered, masked by option 1. `None` where the server names no mask, or one that is
    /// none.
    pub subnet: Option<Ipv4Net>,
    /// Routers, the one that clients use first: option 3, else the default route of option 121 (RFC 3442). Empty where
    /// none is named.
    pub routers: Vec<Ipv4Addr>,
}

/// A message of a client with this MAC.
fn message(kind: MessageType, mac: MacAddr, transaction: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut p = vec![0; FIXED];
    p[..3].copy_from_slice(&[1, 1, 6]);
    p[4..8].copy_from_slice(&transaction.to_be_bytes());
    p[28..34].copy_from_slice(&mac.0);
    p[236..240].copy_from_slice(&COOKIE);
    let kind = [kind as u8];
    // All of them are short.
    for (code, value) in [(option::TYPE, &kind[..]), (VENDOR_CLASS, VENDOR)].iter().chain(options) {
        p.extend([*code, value.len() as u8]);
        p.extend_from_slice(value);
    }
    p.push(option::END);
    p.resize(p.len().max(MIN_SIZE), option::PAD);
    p
}

/// What is wanted to be told (option 55).
const WANTED: (u8, &[u8]) = (PARAMETERS, &[option::SUBNET_MASK, option::ROUTES, option::ROUTER]);

/// A DISCOVER from this MAC. The answer is asked for by unicast, so that nobody else is bothered by it.
pub fn discover(mac: MacAddr, transaction: u32) -> Vec<u8> {
    message(MessageType::Discover, mac, transaction, &[WANTED])
}

/// A REQUEST for what was offered, for two minutes. It is for all servers, so that others know that theirs was not taken.
pub fn request(mac: MacAddr, offer: &Offer) -> Vec<u8> {
    let (address, server, time) = (offer.address.octets(), offer.server.octets(), BRIEF.to_be_bytes());
    let options = [WANTED, (option::REQUESTED, &address), (option::SERVER, &server), (option::LEASE, &time)];
    message(MessageType::Request, mac, offer.transaction, &options)
}

/// A RELEASE of what was given; it is for that server alone, and comes from the address.
pub fn release(mac: MacAddr, given: &Offer) -> Vec<u8> {
    let mut p = message(MessageType::Release, mac, given.transaction, &[(option::SERVER, &given.server.octets())]);
    p[12..16].copy_from_slice(&given.address.octets());
    p
}

/// A DECLINE of what was given, because somebody else has the address; it is for all servers.
pub fn decline(mac: MacAddr, given: &Offer) -> Vec<u8> {
    let (address, server) = (given.address.octets(), given.server.octets());
    message(MessageType::Decline, mac, given.transaction, &[(option::REQUESTED, &address), (option::SERVER, &server)])
}

impl Said {
    /// Reads the payload of a datagram; `None` for anything but an OFFER, an ACK or a NAK to this MAC from a server that says who it
    /// is.
    pub fn parse(payload: &[u8], mac: MacAddr) -> Option<Self> {
        let fixed: &[u8; FIXED] = payload.first_chunk()?;
        if fixed[..3] != [2, 1, 6] || fixed[28..34] != mac.0 {
            return None;
        }
        let (options, _) = collect(payload).ok()?;
        let said: fn(Offer) -> Self = match *get(&options, option::TYPE)? {
            [k] if k == MessageType::Offer as u8 => Self::Offered,
            [k] if k == MessageType::Ack as u8 => Self::Granted,
            [k] if k == MessageType::Nak as u8 => |o| Self::Refused(o.transaction),
            _ => return None,
        };
        let four = |code| get(&options, code).and_then(|b| <[u8; 4]>::try_from(b).ok());
        let address = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
        let subnet = four(option::SUBNET_MASK).and_then(|mask| {
            let net = Ipv4Net::with_netmask(address, mask.into()).ok()?;
            (net.prefix_len() > 0 && !address.is_unspecified()).then(|| net.trunc())
        });
        let usable = |a: &Ipv4Addr| !a.is_unspecified() && !a.is_broadcast();
        let mut routers: Vec<Ipv4Addr> = match get(&options, option::ROUTER) {
            Some(b) if b.len() % 4 == 0 => routers(&options).filter(usable).collect(),
            _ => vec![],
        };
        if routers.is_empty() {
            let classless = get(&options, option::ROUTES).and_then(|b| entries(b).ok());
            routers.extend(classless.and_then(|list| default_hop(&list)).filter(usable));
        }
        let transaction = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        Some(said(Offer { transaction, address, server: four(option::SERVER)?.into(), subnet, routers }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v4::Message;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 1]);

    fn offer(options: &[u8]) -> Vec<u8> {
        let mut p = discover(MAC, 7)[..FIXED].to_vec();
        p[0] = 2;
        p[16..20].copy_from_slice(&[10, 7, 0, 99]);
        p.extend([53, 1, 2, 54, 4, 10, 7, 0, 2]);
        p.extend_from_slice(options);
        p.push(255);
        p
    }

    #[test]
    fn a_discover_is_what_servers_read() {
        let p = discover(MAC, 0x0102_0304);
        let m = Message::parse(&p).unwrap();
        assert_eq!(
            (m.kind, m.chaddr, m.broadcast, m.parameters),
            (MessageType::Discover, MAC, false, &[1, 121, 3][..])
        );
        assert_eq!(p[4..8], [1, 2, 3, 4]);
    }

    /// What is said in an OFFER.
    fn offered(payload: &[u8]) -> Offer {
        match Said::parse(payload, MAC) {
            Some(Said::Offered(o)) => o,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lease_is_asked_for_and_given_back() {
        let o = offered(&offer(&[1, 4, 255, 255, 255, 0]));
        assert_eq!(o.address, Ipv4Addr::new(10, 7, 0, 99));
        let p = request(MAC, &o);
        let m = Message::parse(&p).unwrap();
        let asked = (m.kind, m.requested, m.server, m.ciaddr);
        assert_eq!(asked, (MessageType::Request, Some(o.address), Some(o.server), Ipv4Addr::UNSPECIFIED));
        let p = release(MAC, &o);
        let m = Message::parse(&p).unwrap();
        assert_eq!((m.kind, m.requested, m.server, m.ciaddr), (MessageType::Release, None, Some(o.server), o.address));
        let p = decline(MAC, &o);
        let m = Message::parse(&p).unwrap();
        assert_eq!((m.kind, m.requested, m.server), (MessageType::Decline, Some(o.address), Some(o.server)));
        let mut p = offer(&[1, 4, 255, 255, 255, 0]);
        p[FIXED + 2] = 5;
        assert_eq!(Said::parse(&p, MAC), Some(Said::Granted(o)));
        p[FIXED + 2] = 6;
        assert_eq!(Said::parse(&p, MAC), Some(Said::Refused(7)));
        p[FIXED + 2] = 7;
        assert_eq!(Said::parse(&p, MAC), None, "what clients say");
    }

    #[test]
    fn subnet_and_routers_are_read() {
        let o = offered(&offer(&[1, 4, 255, 255, 255, 0, 3, 8, 10, 7, 0, 1, 10, 7, 0, 3]));
        assert_eq!((o.transaction, o.server), (7, [10, 7, 0, 2].into()));
        assert_eq!(o.subnet, "10.7.0.0/24".parse().ok());
        assert_eq!(o.routers, [Ipv4Addr::new(10, 7, 0, 1), [10, 7, 0, 3].into()]);
    }

    #[test]
    fn no_router_is_none() {
        let o = offered(&offer(&[1, 4, 255, 255, 255, 128]));
        assert_eq!((o.subnet, o.routers), ("10.7.0.0/25".parse().ok(), vec![]));
        let o = offered(&offer(&[3, 4, 0, 0, 0, 0, 1, 4, 255, 0, 255, 0]));
        assert_eq!((o.subnet, o.routers), (None, vec![]), "an address of zeros and a mask with a hole are nothing");
        let o = offered(&offer(&[121, 11, 8, 10, 10, 7, 0, 4, 0, 10, 7, 0, 5]));
        assert_eq!(o.routers, [Ipv4Addr::new(10, 7, 0, 5)], "the default route of option 121");
    }

    #[test]
    fn what_is_for_others_is_not_read() {
        assert_eq!(Said::parse(&offer(&[]), MacAddr([2; 6])), None);
        assert_eq!(Said::parse(&discover(MAC, 1), MAC), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), shaped: bool) {
            if shaped && bytes.len() > FIXED + 3 {
                bytes[..FIXED].copy_from_slice(&offer(&[])[..FIXED]);
                bytes[FIXED..FIXED + 3].copy_from_slice(&[53, 1, 2]);
            }
            let _ = Said::parse(&bytes, MAC);
        }
    }
}
