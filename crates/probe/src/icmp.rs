//! Echo requests and replies as a raw socket sends and hears them (RFC 792, RFC 4443 section 4).

use multihome_dhcp::frame::checksum;

/// Types and codes: echo requests, and replies.
const REQUEST: [u8; 2] = [8, 0];
const REQUEST6: [u8; 2] = [128, 0];
const REPLY: [u8; 2] = [0, 0];
const REPLY6: [u8; 2] = [129, 0];
/// The number of ICMP in IPv4 headers.
pub(crate) const ICMP: u8 = 1;
/// What requests carry, so that whoever captures one sees what it is. Some firewalls drop requests that carry nothing.
const DATA: &[u8; 16] = b"multihome-probe\n";

/// Of an echo reply, what the request had, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Whose request it was.
    pub identifier: u16,
    /// Which of them it was.
    pub sequence: u16,
}

impl Reply {
    /// Reads what a raw socket heard: of IPv4 with the IP header, of IPv6 without, because the kernel hands it over like that.
    pub fn parse(bytes: &[u8], ipv6: bool) -> Option<Self> {
        let message = if ipv6 { bytes } else { message4(bytes)? };
        let &[t, code, _, _, a, b, c, d, ..] = message else { return None };
        // The kernel has looked at the checksum of ICMPv6, which includes the addresses.
        let whole = if ipv6 { [t, code] == REPLY6 } else { [t, code] == REPLY && checksum(message, 0) == 0 };
        whole.then(|| Self { identifier: u16::from_be_bytes([a, b]), sequence: u16::from_be_bytes([c, d]) })
    }
}

/// The ICMP message of an IPv4 packet (RFC 791 section 3.1).
fn message4(packet: &[u8]) -> Option<&[u8]> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let words = header[0] & 0xf;
    if header[0] >> 4 != 4 || words < 5 || header[9] != ICMP {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    packet.get(usize::from(words) * 4..total)
}

/// An echo request. The checksum of ICMPv6 is left to the kernel.
pub(crate) fn request(ipv6: bool, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut m = Vec::with_capacity(8 + DATA.len());
    m.extend(if ipv6 { REQUEST6 } else { REQUEST });
    m.extend([0, 0]);
    m.extend(identifier.to_be_bytes());
    m.extend(sequence.to_be_bytes());
    m.extend(DATA);
    if !ipv6 {
        let sum = checksum(&m, 0);
        m[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes back as the answer to a request.
    fn answer(ipv6: bool, options: usize) -> Vec<u8> {
        let mut m = request(ipv6, 0x1234, 0xfffe);
        m[0] = if ipv6 { 129 } else { 0 };
        if ipv6 {
            return m;
        }
        m[2..4].copy_from_slice(&[0, 0]);
        let sum = checksum(&m, 0);
        m[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = 20 + options * 4;
        let mut p = vec![0; header];
        p[0] = 0x45 + options as u8;
        p[2..4].copy_from_slice(&((header + m.len()) as u16).to_be_bytes());
        p[9] = 1;
        p.extend(m);
        p
    }

    #[test]
    fn a_request_is_whole_and_its_answer_is_understood() {
        let m = request(false, 0x1234, 0xfffe);
        assert_eq!((m[..2].to_vec(), checksum(&m, 0)), (vec![8, 0], 0));
        let m = request(true, 0x1234, 0xfffe);
        assert_eq!(m[..8], [128, 0, 0, 0, 0x12, 0x34, 0xff, 0xfe]);
        let reply = Some(Reply { identifier: 0x1234, sequence: 0xfffe });
        for (ipv6, options) in [(false, 0), (false, 10), (true, 0)] {
            assert_eq!(Reply::parse(&answer(ipv6, options), ipv6), reply, "{ipv6} {options}");
        }
    }

    #[test]
    fn what_is_no_echo_reply_is_not_taken_for_one() {
        let good = answer(false, 0);
        // Version, length of header, total length, protocol, type, code, checksum, identifier.
        for (at, value) in [(0, 0x65), (0, 0x44), (3, 27), (3, 200), (9, 58), (20, 8), (21, 1), (23, 7), (24, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Reply::parse(&bad, false), None, "octet {at} is {value}");
        }
        for (at, value) in [(0, 128), (1, 1)] {
            let mut bad = answer(true, 0);
            bad[at] = value;
            assert_eq!(Reply::parse(&bad, true), None, "octet {at} is {value}");
        }
        let mut padded = good;
        padded.extend([1; 9]);
        assert!(Reply::parse(&padded, false).is_some(), "what follows the packet is no part of it");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120), cut in 0usize..80, ipv6: bool, at in 0usize..28) {
            let _ = Reply::parse(&bytes, ipv6);
            let mut real = answer(ipv6, 3);
            if let Some(b) = bytes.first() {
                let at = at.min(real.len() - 1);
                real[at] = *b;
            }
            real.truncate(cut);
            let _ = Reply::parse(&real, ipv6);
        }
    }
}
