//! What a guest says about its network, read without trusting it: whatever cannot be understood is
//! left out, and nothing panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// An interface as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    /// Its name in the guest.
    pub name: String,
    /// Its MAC address, which says which NIC it is.
    pub mac: Option<[u8; 6]>,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A route as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRoute {
    /// The interface that it leaves by.
    pub interface: String,
    /// Destination.
    pub destination: IpAddr,
    /// Prefix length of the destination.
    pub prefix: u8,
    /// Next hop, if not on the link.
    pub gateway: Option<IpAddr>,
    /// Metric; lower wins.
    pub metric: u32,
}

impl GuestRoute {
    /// Whether it is a default route of its family.
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// A number that some versions of the agent give as a text.
fn number(value: &Value, key: &str) -> Option<u64> {
    let value = value.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Reads the answer to `guest-network-get-interfaces`.
pub fn interfaces(answer: &Value) -> Vec<GuestInterface> {
    let one = |entry: &Value| {
        let addresses = entry.get("ip-addresses").and_then(Value::as_array);
        let address = |a: &Value| {
            let ip: IpAddr = text(a, "ip-address")?.parse().ok()?;
            let prefix = u8::try_from(number(a, "prefix")?).ok()?;
            Some((ip, prefix))
        };
        Some(GuestInterface {
            name: text(entry, "name")?.to_owned(),
            mac: text(entry, "hardware-address").and_then(mac),
            addresses: addresses.into_iter().flatten().filter_map(address).collect(),
        })
    };
    answer.as_array().into_iter().flatten().filter_map(one).collect()
}

fn reachable(gateway: IpAddr) -> Option<IpAddr> {
    (!gateway.is_unspecified()).then_some(gateway)
}

/// Reads the answer to `guest-network-get-route`.
pub fn routes(answer: &Value) -> Vec<GuestRoute> {
    let one = |entry: &Value| {
        let destination: IpAddr = text(entry, "destination")?.parse().ok()?;
        let (prefix, gateway) = match destination {
            IpAddr::V4(_) => {
                let mask: Ipv4Addr = text(entry, "mask")?.parse().ok()?;
                (u32::from(mask).leading_ones() as u8, text(entry, "gateway"))
            }
            IpAddr::V6(_) => (u8::try_from(number(entry, "desprefixlen")?).ok()?, text(entry, "nexthop")),
        };
        let interface = text(entry, "iface")?.to_owned();
        if destination.is_ipv6() && uninteresting(&interface, destination) {
            return None;
        }
        Some(GuestRoute {
            interface,
            destination,
            prefix,
            gateway: gateway.and_then(|g| g.parse().ok()).and_then(reachable),
            metric: number(entry, "metric").and_then(|m| m.try_into().ok()).unwrap_or(0),
        })
    };
    answer.as_array().into_iter().flatten().filter_map(one).collect()
}

/// Reads a Linux guest's `/proc/net/route` (net/ipv4/fib_trie.c, fib_route_seq_show): addresses are
/// the hexadecimal of a number in the guest's byte order, which is little-endian here.
pub fn proc_route(content: &str) -> Vec<GuestRoute> {
    const RTF_UP: u32 = 1;
    let one = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        if hex(3)? & RTF_UP == 0 {
            return None;
        }
        let ip = |value: u32| Ipv4Addr::from(value.swap_bytes());
        Some(GuestRoute {
            interface: (*fields.first()?).to_owned(),
            destination: ip(hex(1)?).into(),
            prefix: u32::from(ip(hex(7)?)).leading_ones() as u8,
            gateway: reachable(ip(hex(2)?).into()),
            metric: fields.get(6)?.parse().ok()?,
        })
    };
    content.lines().skip(1).filter_map(one).collect()
}

/// Reads a Linux guest's `/proc/net/ipv6_route` (net/ipv6/route.c, rt6_info_route), without what
/// every guest has: local and multicast entries, and loopback's.
pub fn proc_ipv6_route(content: &str) -> Vec<GuestRoute> {
    const RTF_UP: u32 = 1;
    const RTF_REJECT: u32 = 0x200;
    const RTF_LOCAL: u32 = 0x8000_0000;
    let one = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let ip = |at: usize| {
            let field = fields.get(at)?;
            let value = u128::from_str_radix(field, 16).ok()?;
            (field.len() == 32).then(|| IpAddr::from(Ipv6Addr::from(value)))
        };
        let flags = hex(8)?;
        if flags & RTF_UP == 0 || flags & (RTF_REJECT | RTF_LOCAL) != 0 {
            return None;
        }
        let interface = (*fields.get(9)?).to_owned();
        let destination = ip(0)?;
        if uninteresting(&interface, destination) {
            return None;
        }
        Some(GuestRoute {
            interface,
            destination,
            prefix: u8::try_from(hex(1)?).ok()?,
            gateway: reachable(ip(4)?),
            metric: hex(5)?,
        })
    };
    content.lines().filter_map(one).collect()
}

fn uninteresting(interface: &str, destination: IpAddr) -> bool {
    interface == "lo" || destination.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn interfaces_are_read() {
        let answer = json!([
            {"name": "lo", "hardware-address": "00:00:00:00:00:00",
             "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "eth0", "hardware-address": "52:54:00:00:00:01", "statistics": {},
             "ip-addresses": [{"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                              {"ip-address": "nonsense", "prefix": 8}]},
            {"hardware-address": 3}
        ]);
        let seen = interfaces(&answer);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].mac, Some([0x52, 0x54, 0, 0, 0, 1]));
        assert_eq!(seen[1].addresses, [("fe80::1".parse().unwrap(), 64)]);
    }

    #[test]
    fn the_kernels_route_files_are_read() {
        let four = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t01000A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t00010A0A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let seen = proc_route(four);
        assert_eq!(seen.len(), 2);
        assert!(seen[0].is_default());
        assert_eq!(seen[0].gateway, Some("10.10.0.1".parse().unwrap()));
        assert_eq!((seen[1].destination, seen[1].prefix), ("10.10.1.0".parse().unwrap(), 24));
        assert_eq!((seen[1].metric, seen[1].gateway), (100, None));
        let six = "fd000001000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let seen = proc_ipv6_route(six);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].prefix, seen[0].metric), (64, 256));
        assert_eq!(seen[1].gateway, Some("fe80::1".parse().unwrap()));
        assert!(seen[1].is_default());
    }

    #[test]
    fn the_agents_routes_are_read() {
        let answer = json!([
            {"iface": "eth0", "destination": "0.0.0.0", "mask": "0.0.0.0", "gateway": "10.0.0.1",
             "metric": 0, "version": 4},
            {"iface": "eth0", "destination": "fd00::", "desprefixlen": "64", "nexthop": "::",
             "metric": 256, "version": 6},
            {"iface": "eth0", "destination": "ff00::", "desprefixlen": "8", "nexthop": "::", "version": 6}
        ]);
        let seen = routes(&answer);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[1].prefix, seen[1].gateway, seen[1].metric), (64, None, 256));
    }

    proptest! {
        #[test]
        fn no_file_makes_a_reader_panic(
            text in "([0-9a-fA-F]{0,40}[ \\t]|eth0 |\\PC{0,3}|\\n){0,60}"
        ) {
            let _ = proc_route(&text);
            let _ = proc_ipv6_route(&text);
        }

        #[test]
        fn no_answer_makes_a_reader_panic(
            name in "\\PC{0,20}", ip in "[0-9a-f:.]{0,20}", prefix in any::<i64>()
        ) {
            let entry = json!({"name": name, "hardware-address": ip, "iface": name,
                "destination": ip, "mask": ip, "desprefixlen": prefix, "metric": prefix,
                "ip-addresses": [{"ip-address": ip, "prefix": prefix}]});
            let _ = interfaces(&json!([entry.clone(), 1, null]));
            let _ = routes(&json!([entry, {}]));
            let _ = (interfaces(&json!({})), routes(&json!("x")));
        }
    }
}
