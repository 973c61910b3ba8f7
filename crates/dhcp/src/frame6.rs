//! Ethernet frames around IPv6: UDP and ICMPv6 as guests and servers send them. RFC 8200, RFC 4443, RFC 768.

use std::net::Ipv6Addr;

use multihome_model::MacAddr;

use crate::frame::checksum;

const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Next header: UDP.
pub const UDP: u8 = 17;
/// Next header: ICMPv6.
pub const ICMP: u8 = 58;
const HEADER: usize = 40;

/// A packet in an Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source MAC of the frame.
    pub source_mac: MacAddr,
    /// Destination MAC of the frame.
    pub destination_mac: MacAddr,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit; 255 where neighbour discovery came from this link.
    pub hop_limit: u8,
    /// [`UDP`] or [`ICMP`].
    pub protocol: u8,
    /// What follows the headers.
    pub payload: &'a [u8],
}

/// A UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// Reads a frame; `None` for anything but a whole, intact packet of UDP or ICMPv6 without extension headers but
/// hop-by-hop and destination options. `checksum_pending` says that the sender left the checksum to hardware.
pub fn parse(frame: &[u8], checksum_pending: bool) -> Option<Packet<'_>> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    let (header, rest) = packet.split_at_checked(HEADER)?;
    if u16::from_be_bytes([ethernet[12], ethernet[13]]) != ETHERTYPE_IPV6 || header[0] >> 4 != 6 {
        return None;
    }
    let mut payload = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let mut protocol = header[6];
    // RFC 8200 section 4: two kinds of options may come first; fragments and routing have no business here (RFC 6980).
    for _ in 0..2 {
        if protocol == 0 || protocol == 60 {
            let len = 8 + usize::from(*payload.get(1)?) * 8;
            protocol = payload[0];
            payload = payload.get(len..)?;
        }
    }
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
        Some(Ipv6Addr::from(octets))
    };
    let (source, destination) = (address(8)?, address(24)?);
    let smallest = match protocol {
        UDP => 8,
        ICMP => 4,
        _ => return None,
    };
    if payload.len() < smallest {
        return None;
    }
    if !checksum_pending && checksum(payload, pseudo_header(source, destination, payload.len(), protocol)) != 0 {
        return None;
    }
    let mac = |at: usize| Some(MacAddr(ethernet[at..at + 6].try_into().ok()?));
    Some(Packet {
        source_mac: mac(6)?,
        destination_mac: mac(0)?,
        source,
        destination,
        hop_limit: header[7],
        protocol,
        payload,
    })
}

impl<'a> Packet<'a> {
    /// The datagram that it carries. UDP without checksum is not allowed over IPv6 (RFC 8200 section 8.1).
    pub fn udp(&self) -> Option<Datagram<'a>> {
        let p = self.payload;
        if self.protocol != UDP || p.len() < 8 {
            return None;
        }
        let len = usize::from(u16::from_be_bytes([p[4], p[5]]));
        Some(Datagram {
            source_port: u16::from_be_bytes([p[0], p[1]]),
            destination_port: u16::from_be_bytes([p[2], p[3]]),
            payload: p.get(8..len)?,
        })
    }
}

/// One end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// MAC.
    pub mac: MacAddr,
    /// Address.
    pub address: Ipv6Addr,
}

impl End {
    /// All nodes of the link (RFC 4291 section 2.7.1, RFC 2464 section 7).
    pub const ALL_NODES: End =
        End { mac: MacAddr([0x33, 0x33, 0, 0, 0, 1]), address: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) };
}

/// Writes an ICMPv6 message; its checksum is filled in.
pub fn build_icmp(from: End, to: End, message: &[u8]) -> Option<Vec<u8>> {
    build(from, to, 255, ICMP, message, 2)
}

/// Writes a UDP datagram.
pub fn build_udp(from: End, to: End, ports: (u16, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(payload.len() + 8).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(len));
    datagram.extend_from_slice(&ports.0.to_be_bytes());
    datagram.extend_from_slice(&ports.1.to_be_bytes());
    datagram.extend_from_slice(&len.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    build(from, to, 64, UDP, &datagram, 6)
}

fn build(from: End, to: End, hop_limit: u8, protocol: u8, payload: &[u8], checksum_at: usize) -> Option<Vec<u8>> {
    let len = u16::try_from(payload.len()).ok()?;
    let mut f = Vec::with_capacity(14 + HEADER + payload.len());
    f.extend_from_slice(&to.mac.0);
    f.extend_from_slice(&from.mac.0);
    f.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    f.extend_from_slice(&[0x60, 0, 0, 0]);
    f.extend_from_slice(&len.to_be_bytes());
    f.extend_from_slice(&[protocol, hop_limit]);
    f.extend_from_slice(&from.address.octets());
    f.extend_from_slice(&to.address.octets());
    let start = f.len();
    f.extend_from_slice(payload);
    let field = start + checksum_at;
    f.get_mut(field..field + 2)?.fill(0);
    let sum = match checksum(&f[start..], pseudo_header(from.address, to.address, payload.len(), protocol)) {
        0 => 0xffff,
        sum => sum,
    };
    f[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(f)
}

/// RFC 8200 section 8.1.
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, len: usize, protocol: u8) -> u32 {
    let sum = |a: Ipv6Addr| a.segments().iter().map(|s| u32::from(*s)).sum::<u32>();
    sum(source) + sum(destination) + len as u32 + u32::from(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(last: u8) -> End {
        let mac = MacAddr([2, 0, 0, 0, 0, last]);
        End { mac, address: mac.link_local() }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in proptest::collection::vec(any::<u8>(), 0..1300), cut in 0usize..1300) {
            let f = build_udp(end(1), end(2), (547, 546), &payload).unwrap();
            let p = parse(&f, false).unwrap();
            let d = p.udp().unwrap();
            prop_assert_eq!((d.payload, d.source_port, d.destination_port), (&payload[..], 547, 546));
            prop_assert_eq!((p.source, p.destination_mac), (end(1).address, end(2).mac));
            prop_assert!(parse(&f[..cut.min(f.len() - 1)], false).is_none());
        }

        #[test]
        fn a_flipped_bit_of_a_message_is_found(at in 0usize..24, bit in 0u8..8) {
            let mut f = build_icmp(end(1), End::ALL_NODES, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            let at = 54 + at % 16;
            f[at] ^= 1 << bit;
            prop_assert!(parse(&f, false).is_none());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120), whole: bool) {
            let mut bytes = bytes;
            if whole && bytes.len() > 60 {
                let len = bytes.len() - 54;
                bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                bytes[18..20].copy_from_slice(&(len as u16).to_be_bytes());
            }
            if let Some(p) = parse(&bytes, true) {
                let _ = p.udp();
            }
        }
    }
}
