//! Router solicitations, and what is learnt from the advertisements that answer them (RFC 4861 sections 4.1 and 4.2).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use multihome_model::MacAddr;

use crate::frame6::End;
use crate::ra::{ADVERTISEMENT, SOLICITATION};

/// All routers of the link (RFC 4291 section 2.7.1, RFC 2464 section 7).
pub const ROUTERS: End =
    End { mac: MacAddr([0x33, 0x33, 0, 0, 0, 2]), address: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2) };

const SOURCE: u8 = 1;
const PREFIX: u8 = 3;
const ON_LINK: u8 = 0x80;
const MANAGED: u8 = 0x80;

/// What a router says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// Seconds for which it is a default router; 0: it is none.
    pub lifetime: u16,
    /// Whether it says that addresses come from DHCPv6.
    pub managed: bool,
    /// The prefixes that are on the link, in its order.
    pub prefixes: Vec<Ipv6Net>,
}

/// A solicitation from this MAC; its checksum is left at zero.
pub fn solicitation(mac: MacAddr) -> Vec<u8> {
    let mut m = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0, SOURCE, 1];
    m.extend(mac.0);
    m
}

impl Advertised {
    /// Reads an ICMPv6 message; `None` for anything but a whole advertisement.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (head, mut rest) = message.split_first_chunk::<16>()?;
        if head[0] != ADVERTISEMENT || head[1] != 0 {
            return None;
        }
        let lifetime = u16::from_be_bytes([head[6], head[7]]);
        let mut said = Self { lifetime, managed: head[5] & MANAGED != 0, prefixes: vec![] };
        while let [code, units, ..] = *rest {
            let (body, after) = rest.split_at_checked(usize::from(units) * 8).filter(|(b, _)| !b.is_empty())?;
            rest = after;
            let Ok(p) = <&[u8; 32]>::try_from(body) else { continue };
            let valid = p[4..8] != [0; 4];
            if code != PREFIX || p[3] & ON_LINK == 0 || !valid {
                continue;
            }
            let octets: [u8; 16] = p[16..].try_into().ok()?;
            let net = Ipv6Net::new(octets.into(), p[2]).ok()?.trunc();
            if !net.network().is_unicast_link_local() {
                said.prefixes.push(net);
            }
        }
        rest.is_empty().then_some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ra::{Advertisement, Prefix};
    use proptest::prelude::*;

    fn sample(router_lifetime: u16, valid: u32) -> Vec<u8> {
        let net = "fd00:1::/64".parse().unwrap();
        Advertisement {
            mac: MacAddr([2; 6]),
            managed: true,
            other: false,
            router_lifetime,
            source: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            prefixes: vec![Prefix { net, autonomous: true, valid, preferred: 0 }],
            routes: vec![],
            dns: vec![],
            domains: vec![],
        }
        .encode()
    }

    #[test]
    fn what_is_encoded_is_read() {
        let said = Advertised::parse(&sample(1800, 7200)).unwrap();
        assert_eq!((said.lifetime, said.managed), (1800, true));
        assert_eq!(said.prefixes, ["fd00:1::/64".parse().unwrap()]);
        assert_eq!(Advertised::parse(&sample(0, 0)).unwrap().prefixes, [], "a prefix that is taken back");
        assert_eq!(solicitation(MacAddr([2; 6])).len(), 16);
    }

    proptest! {
        #[test]
        fn never_panics(cut in 0usize..80, at in 0usize..80, byte: u8) {
            let mut bytes = sample(1, 1);
            bytes.truncate(cut);
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            let _ = Advertised::parse(&bytes);
        }
    }
}
