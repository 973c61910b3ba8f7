//! What a NIC is told by DHCPv6, and its encoding, made once per change and not per packet.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use multihome_model::{Addressing, MacAddr};
use multihome_plan::route::{Method, NicPlan};

use super::message::option;

/// What one NIC is told by DHCPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    mac: MacAddr,
    address: Option<Ipv6Addr>,
    prefix: Ipv6Net,
    duid: [u8; 10],
    lease_seconds: u32,
    settings: Vec<u8>,
}

impl Record {
    /// From a NIC's plan; `None` where Multihome does not serve DHCPv6 to it.
    ///
    /// `server` is the MAC that the server's DUID is made of (DUID-LL, RFC 8415 section 11.4): the network's own, so
    /// that every node is the same server. The address is given on stateful networks only.
    pub fn new(plan: &NicPlan, server: MacAddr) -> Option<Record> {
        let f = plan.ipv6.as_ref().filter(|f| f.method == Method::Server)?;
        let IpNet::V6(net) = f.address? else { return None };
        let addressing = f.addressing.unwrap_or_default();
        if addressing == Addressing::Slaac {
            return None;
        }
        let mut duid = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
        duid[4..].copy_from_slice(&server.0);
        let mut settings = vec![];
        let dns: Vec<u8> = v6(&f.dns).flat_map(|a| a.octets()).collect();
        let mut domains: Vec<String> = f.domain.iter().chain(&f.search_domains).cloned().collect();
        domains.dedup();
        for (code, body) in [(option::DNS, dns), (option::DOMAINS, names(&domains)), (option::NTP, time(&f.ntp))] {
            if !body.is_empty() {
                put(&mut settings, code, &body);
            }
        }
        Some(Record {
            mac: plan.mac,
            address: (addressing == Addressing::Stateful).then_some(net.addr()),
            prefix: net.trunc(),
            duid,
            lease_seconds: f.lease_seconds,
            settings,
        })
    }

    /// The NIC's MAC.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }
    /// The address that it is given; none on a stateless network.
    pub fn address(&self) -> Option<Ipv6Addr> {
        self.address
    }
    /// The subnet.
    pub fn prefix(&self) -> Ipv6Net {
        self.prefix
    }
    /// The server's DUID.
    pub fn duid(&self) -> &[u8] {
        &self.duid
    }
    /// Valid and preferred lifetime in seconds.
    pub fn lease_seconds(&self) -> u32 {
        self.lease_seconds
    }
    /// Name servers, search domains and time servers as options.
    pub(super) fn settings(&self) -> &[u8] {
        &self.settings
    }
}

/// Appends an option.
pub(crate) fn put(out: &mut Vec<u8>, code: u16, body: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
}

fn v6(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv6Addr> {
    addresses.iter().filter_map(|a| match a {
        IpAddr::V6(a) => Some(*a),
        IpAddr::V4(_) => None,
    })
}

/// Names in DNS encoding without compression, one after the other (RFC 8415 section 10).
pub(crate) fn names(domains: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for domain in domains {
        for label in domain.split('.').filter(|l| !l.is_empty()) {
            out.push(label.len().min(63) as u8);
            out.extend_from_slice(&label.as_bytes()[..label.len().min(63)]);
        }
        out.push(0);
    }
    out
}

/// RFC 5908 section 4.1: one suboption 1 per server.
fn time(servers: &[IpAddr]) -> Vec<u8> {
    let mut out = Vec::new();
    for a in v6(servers) {
        put(&mut out, 1, &a.octets());
    }
    out
}
