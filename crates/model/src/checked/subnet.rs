//! Subnets, ranges and routes.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Addressing, DhcpMode, Family, IpFamilySpec, ParseError, Violations};

/// A range of addresses of one family, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// First address.
    pub first: IpAddr,
    /// Last address, not below the first.
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in it.
    pub fn contains(&self, a: IpAddr) -> bool {
        a.is_ipv4() == self.first.is_ipv4() && self.first <= a && a <= self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Parses `FIRST-LAST` or a single address.
pub fn parse_range(text: &str) -> Result<AddressRange, ParseError> {
    let one = |s: &str| {
        s.trim().parse::<IpAddr>().map_err(|_| {
            ParseError(format!(
                "range {text:?} is malformed: use an address or FIRST-LAST, such as 10.0.0.10-10.0.0.99"
            ))
        })
    };
    let (first, last) = match text.split_once('-') {
        Some((a, b)) => (one(a)?, one(b)?),
        None => (one(text)?, one(text)?),
    };
    if first.is_ipv4() != last.is_ipv4() {
        return Err(ParseError(format!("range {text:?} mixes IPv4 and IPv6: use one family")));
    }
    if last < first {
        return Err(ParseError(format!("range {text:?} ends before it starts: use {last}-{first}")));
    }
    Ok(AddressRange { first, last })
}

/// A specific route by a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destination, never the default route.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
}

/// Parses a route, with the subnet's gateway as the next hop where none is named.
pub fn parse_route(to: &str, via: Option<&str>, gateway: Option<IpAddr>) -> Result<Route, ParseError> {
    let to = parse_cidr(to)?;
    if to.prefix_len() == 0 {
        return Err(ParseError(format!(
            "route {to} is a default route: it is decided by which NIC is primary; set the network's gateway instead"
        )));
    }
    let via = match via {
        Some(text) => text
            .parse()
            .map_err(|_| ParseError(format!("next hop {text:?} is not an address: use one such as 10.0.0.1")))?,
        None => gateway.ok_or_else(|| {
            ParseError(format!(
                "route {to} has no next hop and the network no gateway: set via to an address of the subnet"
            ))
        })?,
    };
    if via.is_ipv4() != to.addr().is_ipv4() {
        return Err(ParseError(format!("route {to} via {via} mixes IPv4 and IPv6: use one family")));
    }
    Ok(Route { to, via })
}

/// Parses a CIDR without host bits.
pub fn parse_cidr(text: &str) -> Result<IpNet, ParseError> {
    let net: IpNet = text.parse().map_err(|_| {
        ParseError(format!("CIDR {text:?} is malformed: use a form such as 10.0.0.0/24 or fd00:1::/64"))
    })?;
    if net.trunc() != net {
        return Err(ParseError(format!("CIDR {text:?} has host bits set: use {}", net.trunc())));
    }
    Ok(net)
}

/// One address family of a network, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub cidr: IpNet,
    /// The router that it offers.
    pub gateway: Option<IpAddr>,
    /// Where addresses are chosen from; empty means the whole subnet.
    pub pools: Vec<AddressRange>,
    /// Addresses that are never given out.
    pub exclude: Vec<AddressRange>,
    /// Who serves DHCP.
    pub dhcp: DhcpMode,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Whether guests with their primary NIC elsewhere are told the name servers, too.
    pub dns_on_secondary: bool,
    /// Domain name.
    pub domain: Option<String>,
    /// Search domains.
    pub search_domains: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// Specific routes.
    pub routes: Vec<Route>,
    /// Lease time in seconds.
    pub lease_seconds: u32,
    /// Relays whose packets are answered.
    pub relays: Vec<IpAddr>,
    /// What nodes ping the gateway from; it is among the addresses that are never given out.
    pub probe: Option<IpAddr>,
    /// How guests get their IPv6 address; `None` for IPv4.
    pub addressing: Option<Addressing>,
}

impl Subnet {
    /// The prefix of 64 bits that guests form their address from, where they do.
    pub fn formed_prefix(&self) -> Option<std::net::Ipv6Addr> {
        match (self.cidr, self.addressing) {
            (IpNet::V6(net), Some(Addressing::Slaac | Addressing::Stateless)) if self.dhcp == DhcpMode::Server => {
                Some(net.network())
            }
            _ => None,
        }
    }

    /// Lease time where none is given, in seconds.
    pub const DEFAULT_LEASE: u32 = 3600;

    /// Checks one family's settings. Without a CIDR there is no subnet; anything else is then out of place.
    pub fn check(at: &str, spec: &IpFamilySpec, family: Family, dhcp: DhcpMode, v: &mut Violations) -> Option<Subnet> {
        if let Some(l) = spec.lease_seconds.filter(|l| !(60..u32::MAX).contains(l)) {
            v.add(
                format!("{at}.leaseSeconds"),
                format!("lease of {l} s is out of range: use 60 to 4294967294 seconds"),
            );
        }
        let Some(cidr) = &spec.cidr else {
            let empty = IpFamilySpec { dhcp: spec.dhcp, lease_seconds: spec.lease_seconds, ..Default::default() };
            if *spec != empty {
                v.add(format!("{at}.cidr"), "the subnet is missing: set cidr, such as 10.0.0.0/24");
            } else if dhcp == DhcpMode::Server {
                v.add(format!("{at}.cidr"), "DHCP cannot be served without a subnet: set cidr, such as 10.0.0.0/24");
            }
            return None;
        };
        let cidr = v.take(&format!("{at}.cidr"), parse_cidr(cidr))?;
        if cidr.addr().is_ipv4() != (family == Family::IPv4) {
            let right = if family == Family::IPv4 { "10.0.0.0/24" } else { "fd00:1::/64" };
            v.add(format!("{at}.cidr"), format!("CIDR {cidr} is of the other address family: use one such as {right}"));
            return None;
        }
        if cidr.addr().is_multicast() || cidr.addr().is_loopback() || cidr.prefix_len() == 0 {
            v.add(
                format!("{at}.cidr"),
                format!("CIDR {cidr} cannot hold NICs: use a unicast subnet such as 10.0.0.0/24"),
            );
            return None;
        }
        let mut s = Subnet {
            cidr,
            gateway: None,
            pools: vec![],
            exclude: vec![],
            dhcp,
            dns: addresses(&format!("{at}.dns"), "name server", &spec.dns, v),
            dns_on_secondary: spec.dns_on_secondary,
            domain: spec.domain.clone(),
            search_domains: spec.search_domains.clone(),
            ntp: addresses(&format!("{at}.ntp"), "time server", &spec.ntp, v),
            routes: vec![],
            lease_seconds: spec.lease_seconds.unwrap_or(Self::DEFAULT_LEASE),
            relays: addresses(&format!("{at}.relays"), "relay", &spec.relays, v),
            probe: None,
            addressing: (family == Family::IPv6).then(|| spec.addressing.unwrap_or_default()),
        };
        if let Some(addressing) = spec.addressing {
            if family == Family::IPv4 {
                v.add(format!("{at}.addressing"), "addressing is for IPv6 only: leave it out");
            } else if addressing != Addressing::Stateful && cidr.prefix_len() != 64 {
                v.add(
                    format!("{at}.addressing"),
                    format!(
                        "guests form addresses from a /64 only (RFC 4862), and {cidr} is none: use Stateful or a /64"
                    ),
                );
            }
        }
        for (i, d) in spec.domain.iter().chain(&spec.search_domains).enumerate() {
            let field = if i == 0 && spec.domain.is_some() { "domain" } else { "searchDomains" };
            if d.is_empty()
                || d.len() > 253
                || d.split('.').any(|l| crate::names::dns_label(&l.to_lowercase()).is_err())
            {
                v.add(format!("{at}.{field}"), format!("domain {d:?} is not a DNS name: use one such as example.com"));
            }
        }
        if let Some(gateway) = &spec.gateway {
            s.gateway = v.take(&format!("{at}.gateway"), s.check_gateway(gateway));
        }
        for (i, r) in spec.pools.iter().enumerate() {
            s.pools.extend(v.take(&format!("{at}.pools[{i}]"), s.check_range(r)));
        }
        for (i, r) in spec.exclude.iter().enumerate() {
            s.exclude.extend(v.take(&format!("{at}.exclude[{i}]"), s.check_range(r)));
        }
        if let Some(probe) = &spec.probe_address {
            s.probe = v.take(&format!("{at}.probeAddress"), s.check_probe(probe));
            s.exclude.extend(s.probe.map(|a| AddressRange { first: a, last: a }));
        }
        for (i, r) in spec.routes.iter().enumerate() {
            let route = parse_route(&r.to, r.via.as_deref(), s.gateway).and_then(|r| {
                // The gateway may be known by its link-local address only.
                if cidr.contains(&r.via) || s.gateway == Some(r.via) {
                    Ok(r)
                } else {
                    Err(ParseError(format!(
                        "next hop {} of route {} is outside {cidr}: use an address of it",
                        r.via, r.to
                    )))
                }
            });
            s.routes.extend(v.take(&format!("{at}.routes[{i}]"), route));
        }
        Some(s)
    }

    fn check_gateway(&self, text: &str) -> Result<IpAddr, ParseError> {
        let a: IpAddr = text
            .parse()
            .map_err(|_| ParseError(format!("gateway {text:?} is not an address: use one of {}", self.cidr)))?;
        // A router that is not ours may be known by its link-local address only.
        if matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()) && self.cidr.addr().is_ipv6() {
            return Ok(a);
        }
        if !self.cidr.contains(&a) {
            return Err(ParseError(format!("gateway {a} is outside {}: use an address of that subnet", self.cidr)));
        }
        if self.is_reserved(a) {
            return Err(ParseError(format!(
                "gateway {a} is the {} address of {}: use another address of that subnet",
                if a == self.cidr.network() { "network" } else { "broadcast" },
                self.cidr
            )));
        }
        Ok(a)
    }

    fn check_probe(&self, text: &str) -> Result<IpAddr, ParseError> {
        let cidr = self.cidr;
        if cidr.addr().is_ipv6() {
            let why = "IPv6 gateways are pinged from link-local addresses: leave it out";
            return Err(ParseError(format!("probe address {text:?} is not needed, {why}")));
        }
        let a: IpAddr =
            text.parse().map_err(|_| ParseError(format!("probe address {text:?} is no address: use one of {cidr}")))?;
        let wrong = if !cidr.contains(&a) {
            format!("outside {cidr}")
        } else if self.is_reserved(a) {
            format!("the {} address of {cidr}", if a == cidr.network() { "network" } else { "broadcast" })
        } else if self.gateway == Some(a) {
            "the gateway's".to_owned()
        } else {
            return Ok(a);
        };
        Err(ParseError(format!("probe address {a} is {wrong}: use an address of that subnet that nobody has")))
    }

    fn check_range(&self, text: &str) -> Result<AddressRange, ParseError> {
        let r = parse_range(text)?;
        if self.cidr.contains(&r.first) && self.cidr.contains(&r.last) {
            Ok(r)
        } else {
            Err(ParseError(format!("range {r} is outside {}: use addresses of that subnet", self.cidr)))
        }
    }

    /// Whether an address is the subnet's network or broadcast address (IPv6: the subnet-router anycast address,
    /// RFC 4291 section 2.6.1). Point-to-point subnets (/31 and /127, RFC 3021 and RFC 6164) have none.
    pub fn is_reserved(&self, a: IpAddr) -> bool {
        let bits = if self.cidr.addr().is_ipv4() { 32 } else { 128 };
        if self.cidr.prefix_len() + 1 >= bits {
            return false;
        }
        a == self.cidr.network() || (a.is_ipv4() && a == self.cidr.broadcast())
    }

    /// Why a NIC cannot have this address, or nothing.
    pub fn refuse(&self, a: IpAddr) -> Option<String> {
        let cidr = self.cidr;
        if !cidr.contains(&a) {
            return Some(format!("address {a} is outside {cidr}: use an address of that subnet"));
        }
        if self.gateway == Some(a) {
            return Some(format!("address {a} is the gateway of {cidr}: use another"));
        }
        if self.is_reserved(a) {
            let which = if a == cidr.network() { "network" } else { "broadcast" };
            return Some(format!("address {a} is the {which} address of {cidr}: use another"));
        }
        if let Some(r) = self.exclude.iter().find(|r| r.contains(a)) {
            return Some(format!("address {a} is excluded ({r}): use another of {cidr}"));
        }
        if !self.pools.is_empty() && !self.pools.iter().any(|r| r.contains(a)) {
            let pools = self.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Some(format!("address {a} is outside the pools ({pools}): use one of them"));
        }
        None
    }
}

fn addresses(at: &str, what: &str, list: &[String], v: &mut Violations) -> Vec<IpAddr> {
    list.iter()
        .enumerate()
        .filter_map(|(i, text)| {
            let parsed = text
                .parse()
                .map_err(|_| ParseError(format!("{what} {text:?} is not an address: use one such as 10.0.0.53")));
            v.take(&format!("{at}[{i}]"), parsed)
        })
        .collect()
}
