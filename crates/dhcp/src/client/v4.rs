//! DHCPv4: a DISCOVER, and the OFFER that answers it (RFC 2131 section 3.1). Without a REQUEST nothing is leased, so that
//! nothing is to be given back.

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

/// What a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The transaction that it answers.
    pub transaction: u32,
    /// The server (option 54).
    pub server: Ipv4Addr,
    /// The subnet: the address that is offered, masked by option 1. `None` where the server names no mask, or one that is
    /// none.
    pub subnet: Option<Ipv4Net>,
    /// Routers, the one that clients use first: option 3, else the default route of option 121 (RFC 3442). Empty where
    /// none is named.
    pub routers: Vec<Ipv4Addr>,
}

/// A DISCOVER from this MAC. The answer is asked for by unicast, so that nobody else is bothered by it.
pub fn discover(mac: MacAddr, transaction: u32) -> Vec<u8> {
    let mut p = vec![0; FIXED];
    p[..3].copy_from_slice(&[1, 1, 6]);
    p[4..8].copy_from_slice(&transaction.to_be_bytes());
    p[28..34].copy_from_slice(&mac.0);
    p[236..240].copy_from_slice(&COOKIE);
    p.extend([option::TYPE, 1, MessageType::Discover as u8]);
    p.extend([VENDOR_CLASS, VENDOR.len() as u8]);
    p.extend_from_slice(VENDOR);
    p.extend([PARAMETERS, 3, option::SUBNET_MASK, option::ROUTES, option::ROUTER]);
    p.push(option::END);
    p.resize(p.len().max(MIN_SIZE), option::PAD);
    p
}

impl Offer {
    /// Reads the payload of a datagram; `None` for anything but an OFFER to this MAC from a server that says who it is.
    pub fn parse(payload: &[u8], mac: MacAddr) -> Option<Self> {
        let fixed: &[u8; FIXED] = payload.first_chunk()?;
        if fixed[..3] != [2, 1, 6] || fixed[28..34] != mac.0 {
            return None;
        }
        let (options, _) = collect(payload).ok()?;
        if get(&options, option::TYPE)? != [MessageType::Offer as u8] {
            return None;
        }
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
        Some(Self { transaction, server: four(option::SERVER)?.into(), subnet, routers })
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

    #[test]
    fn subnet_and_routers_are_read() {
        let o = Offer::parse(&offer(&[1, 4, 255, 255, 255, 0, 3, 8, 10, 7, 0, 1, 10, 7, 0, 3]), MAC).unwrap();
        assert_eq!((o.transaction, o.server), (7, [10, 7, 0, 2].into()));
        assert_eq!(o.subnet, "10.7.0.0/24".parse().ok());
        assert_eq!(o.routers, [Ipv4Addr::new(10, 7, 0, 1), [10, 7, 0, 3].into()]);
    }

    #[test]
    fn no_router_is_none() {
        let o = Offer::parse(&offer(&[1, 4, 255, 255, 255, 128]), MAC).unwrap();
        assert_eq!((o.subnet, o.routers), ("10.7.0.0/25".parse().ok(), vec![]));
        let o = Offer::parse(&offer(&[3, 4, 0, 0, 0, 0, 1, 4, 255, 0, 255, 0]), MAC).unwrap();
        assert_eq!((o.subnet, o.routers), (None, vec![]), "an address of zeros and a mask with a hole are nothing");
        let o = Offer::parse(&offer(&[121, 11, 8, 10, 10, 7, 0, 4, 0, 10, 7, 0, 5]), MAC).unwrap();
        assert_eq!(o.routers, [Ipv4Addr::new(10, 7, 0, 5)], "the default route of option 121");
    }

    #[test]
    fn what_is_for_others_is_not_read() {
        assert_eq!(Offer::parse(&offer(&[]), MacAddr([2; 6])), None);
        assert_eq!(Offer::parse(&discover(MAC, 1), MAC), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), shaped: bool) {
            if shaped && bytes.len() > FIXED + 3 {
                bytes[..FIXED].copy_from_slice(&offer(&[])[..FIXED]);
                bytes[FIXED..FIXED + 3].copy_from_slice(&[53, 1, 2]);
            }
            let _ = Offer::parse(&bytes, MAC);
        }
    }
}
