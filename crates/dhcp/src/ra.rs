//! Router advertisements (RFC 4861 section 4.2; RFC 4191; RFC 8106): what a NIC is told by them, and their encoding.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use multihome_model::{Addressing, MacAddr};
use multihome_plan::route::{Method, NicPlan};

use crate::v6::record::names;

/// ICMPv6 type of a router solicitation.
pub const SOLICITATION: u8 = 133;
/// ICMPv6 type of a router advertisement.
pub const ADVERTISEMENT: u8 = 134;

/// How long a router is a default router after an advertisement, in seconds: the most that RFC 4861 section 6.2.1
/// allows, so that guests keep their route while the node's agent is away. A change is told at once with a lifetime of 0.
pub const ROUTER_LIFETIME: u16 = 9000;
/// How long an address formed from a prefix is valid and preferred, in seconds: 30 and 7 days (RFC 4861 section 6.2.1).
pub const PREFIX_LIFETIMES: (u32, u32) = (2_592_000, 604_800);

const OPTION_SOURCE: u8 = 1;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_ROUTE: u8 = 24;
const OPTION_RDNSS: u8 = 25;
const OPTION_DNSSL: u8 = 31;

/// What one NIC is told by router advertisements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The NIC's MAC.
    pub mac: MacAddr,
    /// Addresses come from DHCPv6.
    pub managed: bool,
    /// Other settings come from DHCPv6.
    pub other: bool,
    /// Seconds for which the sender is a default router; 0: it is none.
    pub router_lifetime: u16,
    /// The router's MAC, if it is known.
    pub source: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Prefixes.
    pub prefixes: Vec<Prefix>,
    /// Specific routes by this router.
    pub routes: Vec<Route>,
    /// Name servers, and for how many seconds.
    pub dns: Vec<(Ipv6Addr, u32)>,
    /// Search domains, and for how many seconds.
    pub domains: Vec<(String, u32)>,
}

/// A prefix (RFC 4861 section 4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix; always on-link.
    pub net: Ipv6Net,
    /// Guests form an address from it (RFC 4862).
    pub autonomous: bool,
    /// Valid lifetime in seconds.
    pub valid: u32,
    /// Preferred lifetime in seconds.
    pub preferred: u32,
}

/// A route (RFC 4191 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Ipv6Net,
    /// Seconds for which it holds; 0 takes it back.
    pub lifetime: u32,
}

impl Advertisement {
    /// From a NIC's plan; `None` where Multihome does not speak for the network's router. `source` is the router's MAC,
    /// where that is ours.
    ///
    /// The rule for routes: on the primary a router lifetime, on a secondary none; the prefix on-link and specific
    /// routes on both; name servers on the primary, and elsewhere where the network says so.
    pub fn new(plan: &NicPlan, source: Option<MacAddr>) -> Option<Self> {
        let f = plan.ipv6.as_ref().filter(|f| f.method == Method::Server)?;
        let IpNet::V6(net) = f.address? else { return None };
        let addressing = f.addressing.unwrap_or_default();
        let (valid, preferred) = PREFIX_LIFETIMES;
        let lifetime = u32::from(ROUTER_LIFETIME);
        let routes = f.routes.iter().filter_map(|r| match r.to {
            IpNet::V6(to) => Some(Route { to, lifetime }),
            IpNet::V4(_) => None,
        });
        let dns = f.dns.iter().filter_map(|a| match a {
            IpAddr::V6(a) => Some((*a, lifetime)),
            IpAddr::V4(_) => None,
        });
        let mut domains: Vec<String> = f.domain.iter().chain(&f.search_domains).cloned().collect();
        domains.dedup();
        Some(Self {
            mac: plan.mac,
            managed: addressing == Addressing::Stateful,
            other: addressing != Addressing::Slaac,
            router_lifetime: if f.default_route && f.gateway.is_some() { ROUTER_LIFETIME } else { 0 },
            source,
            mtu: plan.mtu.get(),
            prefixes: vec![Prefix {
                net: net.trunc(),
                autonomous: addressing != Addressing::Stateful,
                valid,
                preferred,
            }],
            routes: routes.collect(),
            dns: dns.collect(),
            domains: domains.into_iter().map(|d| (d, lifetime)).collect(),
        })
    }

    /// This advertisement, taking back whatever `before` said and it does not: a lifetime of 0 each. Guests keep a
    /// prefix that is gone for two hours at most (RFC 4862 section 5.5.3), and use it for nothing new.
    #[must_use]
    pub fn taking_back(&self, before: &Self) -> Self {
        let mut out = self.clone();
        let gone = before.routes.iter().filter(|r| !self.routes.iter().any(|s| s.to == r.to));
        out.routes.extend(gone.map(|r| Route { lifetime: 0, ..*r }));
        let gone = before.prefixes.iter().filter(|p| !self.prefixes.iter().any(|s| s.net == p.net));
        out.prefixes.extend(gone.map(|p| Prefix { valid: 0, preferred: 0, ..*p }));
        let gone = before.dns.iter().filter(|d| !self.dns.iter().any(|s| s.0 == d.0));
        out.dns.extend(gone.map(|d| (d.0, 0)));
        let gone = before.domains.iter().filter(|d| !self.domains.iter().any(|s| s.0 == d.0));
        out.domains.extend(gone.map(|d| (d.0.clone(), 0)));
        out
    }

    /// What a router says last (RFC 4861 section 6.2.5): that it is none any more, and that its routes are gone.
    #[must_use]
    pub fn last(&self) -> Self {
        let nothing = Self { routes: vec![], dns: vec![], domains: vec![], router_lifetime: 0, ..self.clone() };
        nothing.taking_back(self)
    }

    /// The ICMPv6 message, with its checksum left at zero.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ADVERTISEMENT, 0, 0, 0, 64, 0];
        out[5] = (u8::from(self.managed) << 7) | (u8::from(self.other) << 6);
        out.extend_from_slice(&self.router_lifetime.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        if let Some(source) = self.source {
            out.extend_from_slice(&[OPTION_SOURCE, 1]);
            out.extend_from_slice(&source.0);
        }
        out.extend_from_slice(&[OPTION_MTU, 1, 0, 0]);
        out.extend_from_slice(&self.mtu.to_be_bytes());
        for p in &self.prefixes {
            out.extend_from_slice(&[OPTION_PREFIX, 4, p.net.prefix_len(), 0x80 | (u8::from(p.autonomous) << 6)]);
            out.extend_from_slice(&p.valid.to_be_bytes());
            out.extend_from_slice(&p.preferred.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&p.net.network().octets());
        }
        for r in &self.routes {
            // RFC 4191 section 2.3: as many octets of the destination as its length needs, in units of 8.
            let octets = usize::from(r.to.prefix_len().div_ceil(64)) * 8;
            out.extend_from_slice(&[OPTION_ROUTE, 1 + (octets / 8) as u8, r.to.prefix_len(), 0]);
            out.extend_from_slice(&r.lifetime.to_be_bytes());
            out.extend_from_slice(&r.to.network().octets()[..octets]);
        }
        put_dns(&mut out, &self.dns);
        put_domains(&mut out, &self.domains);
        out
    }
}

/// RFC 8106 section 5.1: one option per lifetime, 127 servers in each at most.
fn put_dns(out: &mut Vec<u8>, dns: &[(Ipv6Addr, u32)]) {
    let mut lifetimes: Vec<u32> = dns.iter().map(|d| d.1).collect();
    lifetimes.dedup();
    for lifetime in lifetimes {
        let servers: Vec<Ipv6Addr> = dns.iter().filter(|d| d.1 == lifetime).map(|d| d.0).take(127).collect();
        out.extend_from_slice(&[OPTION_RDNSS, (1 + 2 * servers.len()) as u8, 0, 0]);
        out.extend_from_slice(&lifetime.to_be_bytes());
        servers.iter().for_each(|s| out.extend_from_slice(&s.octets()));
    }
}

/// RFC 8106 section 5.2: names in DNS encoding, padded with zeros to 8 octets.
fn put_domains(out: &mut Vec<u8>, domains: &[(String, u32)]) {
    let mut lifetimes: Vec<u32> = domains.iter().map(|d| d.1).collect();
    lifetimes.dedup();
    for lifetime in lifetimes {
        let list: Vec<String> = domains.iter().filter(|d| d.1 == lifetime).map(|d| d.0.clone()).collect();
        let mut body = names(&list);
        body.truncate(255 * 8 - 8);
        body.resize(body.len().div_ceil(8) * 8, 0);
        out.extend_from_slice(&[OPTION_DNSSL, 1 + (body.len() / 8) as u8, 0, 0]);
        out.extend_from_slice(&lifetime.to_be_bytes());
        out.extend_from_slice(&body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Advertisement {
        Advertisement {
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            managed: true,
            other: true,
            router_lifetime: 1800,
            source: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: 1450,
            prefixes: vec![Prefix {
                net: "fd00:1::/64".parse().unwrap(),
                autonomous: false,
                valid: 7200,
                preferred: 3600,
            }],
            routes: vec![Route { to: "fd00:50::/32".parse().unwrap(), lifetime: 1800 }],
            dns: vec![("fd00::53".parse().unwrap(), 1800)],
            domains: vec![("example.com".into(), 1800)],
        }
    }

    #[test]
    fn every_field_is_where_the_rfcs_say() {
        let b = sample().encode();
        assert_eq!(b[..8], [134, 0, 0, 0, 64, 0xc0, 7, 8]);
        assert_eq!(b[16..24], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(b[24..32], [5, 1, 0, 0, 0, 0, 5, 170]);
        assert_eq!(b[32..36], [3, 4, 64, 0x80]);
        assert_eq!(b[64..76], [24, 2, 32, 0, 0, 0, 7, 8, 0xfd, 0, 0, 0x50]);
        assert_eq!(b[80..84], [25, 3, 0, 0]);
        assert_eq!(b[104..108], [31, 3, 0, 0]);
        assert_eq!(&b[112..125], b"\x07example\x03com\0");
        assert_eq!(b.len(), 128);
    }

    #[test]
    fn what_is_gone_is_taken_back() {
        let before = sample();
        let after = Advertisement { routes: vec![], dns: vec![], router_lifetime: 0, ..sample() };
        let said = after.taking_back(&before);
        assert_eq!(said.routes, [Route { lifetime: 0, ..before.routes[0] }]);
        assert_eq!(said.dns, [(before.dns[0].0, 0)]);
        assert_eq!(said.prefixes, before.prefixes);
        let last = before.last();
        assert_eq!((last.router_lifetime, last.routes[0].lifetime, last.domains[0].1), (0, 0, 0));
        assert_eq!(last.prefixes, before.prefixes);
    }
}
