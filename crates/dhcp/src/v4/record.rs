//! What a NIC is told, and its encoding, made once per change and not per packet.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use multihome_model::MacAddr;
use multihome_plan::route::{Method, NicPlan};

use super::message::option;

/// What one NIC is told by DHCPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    mac: MacAddr,
    address: Ipv4Addr,
    told: Told,
    lease_seconds: u32,
    /// Options in the order of importance, without message type, lease times and echoes.
    options: Vec<(u8, Vec<u8>)>,
    /// The same, encoded.
    encoded: Vec<u8>,
}

/// What of an answer clients do not all follow at a renewal: many keep routes and an MTU that they were told before. A
/// client that was told something else must start afresh. Name servers are not among it: every client takes new ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// The server identifier. Clients heed an answer to a renewal, a refusal as well, from this one only.
    pub server: Ipv4Addr,
    /// The router of option 3 and of the default route in option 121.
    pub router: Option<Ipv4Addr>,
    /// The specific routes.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Largest packet, in bytes.
    pub mtu: u16,
}

impl Record {
    /// From a NIC's plan; `None` where Multihome does not serve it, or has no address for it.
    ///
    /// `server` is the address that renewals go to: the network's gateway where it is ours, else an address that the
    /// port answers for. The rule for routes: on the primary option 3, and 121 and 249 with the default route too (RFC
    /// 3442: a client that knows 121 ignores 3); on a secondary never option 3, and 121 and 249 with the specific
    /// routes only; never option 33.
    pub fn new(plan: &NicPlan, host_name: Option<&str>, server: Ipv4Addr) -> Option<Record> {
        let f = plan.ipv4.as_ref().filter(|f| f.method == Method::Server)?;
        let net = match f.address? {
            IpNet::V4(net) => net,
            IpNet::V6(_) => return None,
        };
        let v4 = |a: &IpAddr| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        };
        let router = f.gateway.as_ref().and_then(v4).filter(|_| f.default_route);
        let routes: Vec<(Ipv4Net, Ipv4Addr)> = f
            .routes
            .iter()
            .filter_map(|r| match (r.to, r.via) {
                (IpNet::V4(to), IpAddr::V4(via)) => Some((to, via)),
                _ => None,
            })
            .collect();
        let mtu = u16::try_from(plan.mtu.get()).unwrap_or(u16::MAX);
        let told = Told { server, router, routes, mtu };
        let classless = classless_routes(&told);
        let list = |addresses: &[IpAddr]| addresses.iter().filter_map(v4).flat_map(|a| a.octets()).collect::<Vec<u8>>();
        let mut options: Vec<(u8, Vec<u8>)> = vec![(option::SUBNET_MASK, net.netmask().octets().to_vec())];
        if let Some(r) = router {
            options.push((option::ROUTER, r.octets().to_vec()));
        }
        let rest = [
            (option::ROUTES, classless.clone()),
            (option::MTU, mtu.to_be_bytes().to_vec()),
            (option::DNS, list(&f.dns)),
            (option::DOMAIN, f.domain.clone().unwrap_or_default().into_bytes()),
            (option::BROADCAST, broadcast(net)),
            (option::HOST_NAME, host_name.unwrap_or_default().as_bytes().to_vec()),
            (option::ROUTES_MS, classless),
            (option::NTP, list(&f.ntp)),
            (option::SEARCH, search_domains(&f.search_domains)),
        ];
        options.extend(rest.into_iter().filter(|(_, body)| !body.is_empty()));
        let mut encoded = Vec::new();
        options.iter().for_each(|(code, body)| put(&mut encoded, *code, body));
        Some(Record { mac: plan.mac, address: net.addr(), told, lease_seconds: f.lease_seconds, options, encoded })
    }

    /// The NIC's MAC.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }
    /// The NIC's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
    /// The server identifier.
    pub fn server(&self) -> Ipv4Addr {
        self.told.server
    }
    /// What clients must not keep when it changes.
    pub fn told(&self) -> &Told {
        &self.told
    }
    /// Lease time in seconds.
    pub fn lease_seconds(&self) -> u32 {
        self.lease_seconds
    }

    /// Appends the options to `out`, the most important first, as far as `room` bytes go.
    pub(super) fn put_options(&self, out: &mut Vec<u8>, room: usize) {
        if self.encoded.len() <= room {
            out.extend_from_slice(&self.encoded);
            return;
        }
        let start = out.len();
        for (code, body) in &self.options {
            let parts = body.len().div_ceil(255).max(1);
            if out.len() - start + body.len() + 2 * parts <= room {
                put(out, *code, body);
            }
        }
    }
}

/// Appends an option, split into parts of 255 bytes where it is longer (RFC 3396).
pub(crate) fn put(out: &mut Vec<u8>, code: u8, body: &[u8]) {
    let mut parts = body.chunks(255);
    loop {
        let part = parts.next().unwrap_or_default();
        out.push(code);
        out.push(part.len() as u8);
        out.extend_from_slice(part);
        if parts.len() == 0 {
            return;
        }
    }
}

/// RFC 3442: prefix length, the significant octets of the destination, the next hop. The default route comes last.
fn classless_routes(told: &Told) -> Vec<u8> {
    let mut out = Vec::new();
    for (to, via) in &told.routes {
        out.push(to.prefix_len());
        out.extend_from_slice(&to.network().octets()[..usize::from(to.prefix_len().div_ceil(8))]);
        out.extend_from_slice(&via.octets());
    }
    if let Some(router) = told.router {
        out.push(0);
        out.extend_from_slice(&router.octets());
    }
    out
}

fn broadcast(net: Ipv4Net) -> Vec<u8> {
    if net.prefix_len() < 31 { net.broadcast().octets().to_vec() } else { vec![] }
}

/// RFC 3397: names in DNS encoding, one after the other (compression is allowed, not required).
fn search_domains(domains: &[String]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3442_examples() {
        let net = |s: &str| s.parse::<Ipv4Net>().unwrap();
        let told = Told {
            server: Ipv4Addr::new(10, 0, 0, 1),
            mtu: 1500,
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            routes: vec![
                (net("10.17.0.0/16"), Ipv4Addr::new(10, 0, 0, 2)),
                (net("10.27.129.0/24"), Ipv4Addr::new(10, 0, 0, 3)),
            ],
        };
        assert_eq!(classless_routes(&told), [16, 10, 17, 10, 0, 0, 2, 24, 10, 27, 129, 10, 0, 0, 3, 0, 10, 0, 0, 1]);
    }

    #[test]
    fn long_options_are_split() {
        let mut out = vec![];
        put(&mut out, 121, &[7; 300]);
        assert_eq!((out[0], out[1], out[257], out[258], out.len()), (121, 255, 121, 45, 304));
    }

    #[test]
    fn search_list_is_dns_encoded() {
        assert_eq!(search_domains(&["a.example".into(), "b".into()]), b"\x01a\x07example\0\x01b\0");
    }
}
