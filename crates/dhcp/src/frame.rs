//! Ethernet frames around UDP over IPv4, and ARP: reading what a guest sent, writing what it gets.
//! RFC 791, RFC 768, RFC 826, RFC 1071.

use std::net::Ipv4Addr;

use multihome_model::MacAddr;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const UDP: u8 = 17;

/// A UDP datagram in an Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Source MAC of the frame.
    pub source_mac: MacAddr,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// Reads a frame; `None` for anything but a whole, intact UDP datagram over IPv4. `checksum_pending` says that the
/// sender left the UDP checksum to hardware, so that it is not checked.
pub fn parse_udp(frame: &[u8], checksum_pending: bool) -> Option<Datagram<'_>> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    if u16::from_be_bytes([ethernet[12], ethernet[13]]) != ETHERTYPE_IPV4 {
        return None;
    }
    let first = *packet.first()?;
    let header_len = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_len < 20 || packet.len() < header_len {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
    if packet[9] != UDP || fragment != 0 || total < header_len + 8 || packet.len() < total {
        return None;
    }
    if checksum(&packet[..header_len], 0) != 0 {
        return None;
    }
    let address = |i: usize| Ipv4Addr::new(packet[i], packet[i + 1], packet[i + 2], packet[i + 3]);
    let (source, destination) = (address(12), address(16));
    let udp = &packet[header_len..total];
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    if len < 8 || len > udp.len() {
        return None;
    }
    let udp = &udp[..len];
    let has_checksum = udp[6..8] != [0, 0];
    if has_checksum && !checksum_pending && checksum(udp, pseudo_header(source, destination, len)) != 0 {
        return None;
    }
    let mut mac = [0; 6];
    mac.copy_from_slice(&ethernet[6..12]);
    Some(Datagram {
        source_mac: MacAddr(mac),
        source,
        destination,
        source_port: u16::from_be_bytes([udp[0], udp[1]]),
        destination_port: u16::from_be_bytes([udp[2], udp[3]]),
        payload: &udp[8..],
    })
}

/// One end of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// MAC.
    pub mac: MacAddr,
    /// Address.
    pub address: Ipv4Addr,
    /// UDP port.
    pub port: u16,
}

/// Writes a UDP datagram in an Ethernet frame. `None` if it does not fit into one IPv4 packet.
pub fn build_udp(from: End, to: End, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_len = u16::try_from(payload.len() + 8).ok()?;
    let total = udp_len.checked_add(20)?;
    let mut f = Vec::with_capacity(usize::from(total) + 14);
    f.extend_from_slice(&to.mac.0);
    f.extend_from_slice(&from.mac.0);
    f.extend_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    f.extend_from_slice(&[0x45, 0x10]);
    f.extend_from_slice(&total.to_be_bytes());
    f.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
    f.extend_from_slice(&from.address.octets());
    f.extend_from_slice(&to.address.octets());
    let sum = checksum(&f[14..34], 0);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f.extend_from_slice(&from.port.to_be_bytes());
    f.extend_from_slice(&to.port.to_be_bytes());
    f.extend_from_slice(&udp_len.to_be_bytes());
    f.extend_from_slice(&[0, 0]);
    f.extend_from_slice(payload);
    let sum = match checksum(&f[34..], pseudo_header(from.address, to.address, usize::from(udp_len))) {
        0 => 0xffff,
        sum => sum,
    };
    f[40..42].copy_from_slice(&sum.to_be_bytes());
    Some(f)
}

/// The answer to an ARP request for `address`, saying that it is at `mac`; `None` for any other frame.
pub fn answer_arp(frame: &[u8], address: Ipv4Addr, mac: MacAddr) -> Option<Vec<u8>> {
    let f: &[u8; 42] = frame.first_chunk()?;
    // Ethernet, IPv4, 6 and 4 octets, request (RFC 826).
    if f[12..14] != ETHERTYPE_ARP.to_be_bytes()
        || f[14..22] != [0, 1, 8, 0, 6, 4, 0, 1]
        || f[38..42] != address.octets()
    {
        return None;
    }
    let mut out = Vec::with_capacity(42);
    out.extend_from_slice(&f[6..12]);
    out.extend_from_slice(&mac.0);
    out.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    out.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    out.extend_from_slice(&mac.0);
    out.extend_from_slice(&address.octets());
    out.extend_from_slice(&f[22..32]);
    Some(out)
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> u32 {
    let half = |a: Ipv4Addr| (u32::from(a) >> 16) + (u32::from(a) & 0xffff);
    half(source) + half(destination) + u32::from(UDP) + len as u32
}

/// The Internet checksum (RFC 1071) over `bytes`, starting from `sum`.
pub fn checksum(bytes: &[u8], mut sum: u32) -> u16 {
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        sum += u32::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(last: u8, port: u16) -> End {
        End { mac: MacAddr([2, 0, 0, 0, 0, last]), address: Ipv4Addr::new(10, 0, 0, last), port }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(payload in proptest::collection::vec(any::<u8>(), 0..1400), cut in 0usize..1400) {
            let f = build_udp(end(1, 67), end(2, 68), &payload).unwrap();
            let d = parse_udp(&f, false).unwrap();
            prop_assert_eq!(d.payload, &payload[..]);
            prop_assert_eq!((d.source, d.destination_port), (Ipv4Addr::new(10, 0, 0, 1), 68));
            prop_assert!(parse_udp(&f[..cut.min(f.len() - 1)], false).is_none());
        }

        #[test]
        fn a_flipped_bit_is_found(payload in proptest::collection::vec(any::<u8>(), 1..200), at in 14usize..240, bit in 0u8..8) {
            let mut f = build_udp(end(1, 67), end(2, 68), &payload).unwrap();
            let at = at % (f.len() - 14) + 14;
            f[at] ^= 1 << bit;
            // A checksum of zero means «none»; only the two bytes of the UDP checksum can become it.
            prop_assume!(f[40..42] != [0, 0]);
            prop_assert!(parse_udp(&f, false).is_none());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), ipv4: bool) {
            let mut bytes = bytes;
            if ipv4 && bytes.len() > 15 {
                bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            }
            let _ = parse_udp(&bytes, true);
            let _ = answer_arp(&bytes, Ipv4Addr::LOCALHOST, MacAddr([0; 6]));
        }
    }

    #[test]
    fn arp_requests_for_us_are_answered() {
        let mut f = vec![0xff; 6];
        f.extend([
            2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0,
            1,
        ]);
        let us = MacAddr([2, 0, 0, 0, 0, 1]);
        let reply = answer_arp(&f, Ipv4Addr::new(10, 0, 0, 1), us).unwrap();
        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 9]);
        assert_eq!(reply[20..32], [0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        assert!(answer_arp(&f, Ipv4Addr::new(10, 0, 0, 2), us).is_none());
    }
}
