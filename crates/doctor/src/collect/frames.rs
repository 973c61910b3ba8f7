//! Frames that a prober sends and understands: ARP (RFC 826), neighbour solicitation (RFC 4861) and
//! echo requests (RFC 792). Bytes in, bytes out.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERNET: usize = 14;

/// An answer that a prober waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// An ARP packet: the sender's MAC and address.
    Arp(Mac, Ipv4Addr),
    /// A neighbour advertisement: the address and its MAC.
    Neighbour(Ipv6Addr, Mac),
    /// An echo reply: from, sequence number, and length of the IP packet in bytes.
    Echo(Ipv4Addr, u16, u32),
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut f = to.to_vec();
    f.extend(from);
    f.extend(kind.to_be_bytes());
    f
}

/// An ARP request; with an unspecified sender it is a probe (RFC 5227, section 1.1).
pub(super) fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut f = ethernet(BROADCAST, mac, 0x0806);
    f.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(mac);
    f.extend(sender.octets());
    f.extend([0; 6]);
    f.extend(target.octets());
    f
}

/// A neighbour solicitation to the target's solicited-node address (RFC 4861, section 4.3).
pub(super) fn solicitation(mac: Mac, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let t = target.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&t[13..]);
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(t);
    body.extend([1, 1]);
    body.extend(mac);
    let mut pseudo = sender.octets().to_vec();
    pseudo.extend(group);
    pseudo.extend((body.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, 58]);
    pseudo.extend(&body);
    let sum = checksum(&pseudo);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = ethernet([0x33, 0x33, 0xff, t[13], t[14], t[15]], mac, 0x86dd);
    f.extend([0x60, 0, 0, 0]);
    f.extend((body.len() as u16).to_be_bytes());
    f.extend([58, 255]);
    f.extend(sender.octets());
    f.extend(group);
    f.extend(body);
    f
}

/// An echo request whose IP packet is `size` bytes long (28 at least) and must not be fragmented.
pub(super) fn echo(mac: Mac, to_mac: Mac, from: Ipv4Addr, to: Ipv4Addr, id: u16, seq: u16, size: u16) -> Vec<u8> {
    let size = size.max(28);
    let mut ip = vec![0x45, 0];
    ip.extend(size.to_be_bytes());
    ip.extend(seq.to_be_bytes());
    ip.extend([0x40, 0, 64, 1, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut icmp = vec![8, 0, 0, 0];
    icmp.extend(id.to_be_bytes());
    icmp.extend(seq.to_be_bytes());
    icmp.resize(usize::from(size) - 20, 0);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = ethernet(to_mac, mac, 0x0800);
    f.extend(ip);
    f.extend(icmp);
    f
}

/// The internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 =
        data.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn at<const N: usize>(data: &[u8], from: usize) -> Option<[u8; N]> {
    data.get(from..from + N)?.try_into().ok()
}

/// The source MAC of a frame.
pub(super) fn source(frame: &[u8]) -> Option<Mac> {
    at(frame, 6)
}

/// Reads a frame; `id` is that of our own echo requests.
pub(super) fn read(frame: &[u8], id: u16) -> Option<Heard> {
    match at::<2>(frame, 12)? {
        [8, 6] => Some(Heard::Arp(at(frame, 22)?, Ipv4Addr::from(at::<4>(frame, 28)?))),
        [8, 0] => {
            let ip = frame.get(ETHERNET..)?;
            let header = usize::from(ip.first()? & 15) * 4;
            let icmp = ip.get(header..)?;
            if ip.get(9) != Some(&1) || icmp.first() != Some(&0) || at::<2>(icmp, 4)? != id.to_be_bytes() {
                return None;
            }
            let length = u32::from(u16::from_be_bytes(at(ip, 2)?));
            Some(Heard::Echo(Ipv4Addr::from(at::<4>(ip, 12)?), u16::from_be_bytes(at(icmp, 6)?), length))
        }
        [0x86, 0xdd] => {
            let icmp = frame.get(ETHERNET + 40..)?;
            if frame.get(ETHERNET + 6) != Some(&58) || icmp.first() != Some(&136) {
                return None;
            }
            // The target's link-layer address (option 2) may be left out; then it is the frame's source.
            let option = icmp.get(24..32).filter(|o| o[0] == 2 && o[1] == 1).and_then(|o| at(o, 2));
            Some(Heard::Neighbour(Ipv6Addr::from(at::<16>(icmp, 8)?), option.or(source(frame))?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn an_arp_request_names_its_sender() {
        let f = arp_request(A, Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(f.len(), 42);
        assert_eq!(read(&f, 1), Some(Heard::Arp(A, Ipv4Addr::new(10, 0, 0, 5))));
    }

    #[test]
    fn an_echo_request_has_its_size_and_checksums() {
        let f = echo(A, B, Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1), 7, 3, 1400);
        assert_eq!(f.len(), 1414);
        // A checksum over data that contains its own is zero.
        assert_eq!((checksum(&f[14..34]), checksum(&f[34..])), (0, 0));
        let mut reply = f;
        reply[34] = 0;
        assert_eq!(read(&reply, 7), Some(Heard::Echo(Ipv4Addr::new(10, 0, 0, 5), 3, 1400)));
        assert_eq!(read(&reply, 8), None);
    }

    #[test]
    fn a_solicitation_goes_to_its_group() {
        let f = solicitation(A, "fe80::1".parse().unwrap(), "fe80::aabb:ccdd".parse().unwrap());
        assert_eq!(f[..6], [0x33, 0x33, 0xff, 0xbb, 0xcc, 0xdd]);
        let mut advertisement = f;
        advertisement[54] = 136;
        advertisement[78] = 2;
        assert_eq!(read(&advertisement, 0), Some(Heard::Neighbour("fe80::aabb:ccdd".parse().unwrap(), A)));
    }

    #[test]
    fn no_cut_frame_makes_the_reader_panic() {
        let f = echo(A, B, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 7, 3, 60);
        let s = solicitation(A, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        for frame in [f, s] {
            // What has no type yet is nothing; what has one must not be read beyond its end.
            (0..frame.len()).for_each(|cut| assert!(read(&frame[..cut], 7).is_none() || cut >= 14));
        }
    }
}
