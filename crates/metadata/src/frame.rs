//! Frames between a guest and its endpoint: neighbours are answered for, TCP is unwrapped and wrapped again.

use std::net::{Ipv4Addr, Ipv6Addr};

use multihome_guest::metadata::ADDRESS;
use multihome_model::MacAddr;

/// The IPv6 addresses that guests ask, besides [`ADDRESS`]: OpenStack's, on the link, and EC2's.
pub const ADDRESSES6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)];

const ETHERNET: usize = 14;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// What a frame is to the service.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A question for our MAC, with the frame that answers it.
    Neighbour(Vec<u8>),
    /// A TCP packet to one of our addresses, from its IP header on.
    Packet(&'a [u8]),
    /// None of our business.
    Nothing,
}

/// Takes a frame of the guest with the MAC `mac`; `ours` is the MAC that our addresses have. A guest that sends to its
/// gateway's MAC instead is heard all the same.
pub fn hear(frame: &[u8], mac: MacAddr, ours: MacAddr) -> Heard<'_> {
    let Some((header, body)) = frame.split_at_checked(ETHERNET) else { return Heard::Nothing };
    if header[6..12] != mac.0 {
        return Heard::Nothing;
    }
    let heard = match u16::from_be_bytes([header[12], header[13]]) {
        ARP => arp(body, mac, ours).map(Heard::Neighbour),
        IPV4 => ipv4(body).map(Heard::Packet),
        IPV6 if body.get(6) == Some(&ICMPV6) => solicitation(body, mac, ours).map(Heard::Neighbour),
        IPV6 => ipv6(body).map(Heard::Packet),
        _ => None,
    };
    heard.unwrap_or(Heard::Nothing)
}

/// A frame to the guest around an IP packet.
pub(crate) fn wrap(packet: &[u8], mac: MacAddr, ours: MacAddr) -> Vec<u8> {
    let kind = if packet.first().is_some_and(|b| b >> 4 == 6) { IPV6 } else { IPV4 };
    [&ethernet(mac, ours, kind)[..], packet].concat()
}

fn ethernet(to: MacAddr, from: MacAddr, kind: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes()].concat()
}

/// RFC 826: a request for our address, answered.
fn arp(body: &[u8], mac: MacAddr, ours: MacAddr) -> Option<Vec<u8>> {
    let request: &[u8; 28] = body.first_chunk()?;
    let ethernet_ipv4_request = [0, 1, 8, 0, 6, 4, 0, 1];
    if request[..8] != ethernet_ipv4_request || request[24..28] != ADDRESS.octets() {
        return None;
    }
    let mut out = ethernet(mac, ours, ARP);
    out.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    out.extend(ours.0);
    out.extend(ADDRESS.octets());
    out.extend(&request[8..18]);
    Some(out)
}

fn ipv4(body: &[u8]) -> Option<&[u8]> {
    let header: &[u8; 20] = body.first_chunk()?;
    let to = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    (header[9] == TCP && to == ADDRESS).then(|| body.get(..length)).flatten()
}

fn ipv6(body: &[u8]) -> Option<&[u8]> {
    let header: &[u8; 40] = body.first_chunk()?;
    let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    (header[6] == TCP && ADDRESSES6.contains(&address(header, 24)?)).then(|| body.get(..length)).flatten()
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// A neighbour solicitation for one of our addresses, answered (RFC 4861 sections 4.3, 4.4 and 7.2.4).
fn solicitation(body: &[u8], mac: MacAddr, ours: MacAddr) -> Option<Vec<u8>> {
    let target = address(body, 48)?;
    // Hop limit 255: from this link.
    if body[7] != 255 || body[40..42] != [SOLICITATION, 0] || !ADDRESSES6.contains(&target) {
        return None;
    }
    let asker = address(body, 8)?;
    // One that looks for duplicates has no address yet, and is told by everybody's.
    let (to, flags) =
        if asker.is_unspecified() { (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0x20) } else { (asker, 0x60) };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(ours.0);
    let mut header = vec![0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255];
    header.extend(target.octets());
    header.extend(to.octets());
    let sum = checksum(&[&header[8..], &[0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some([&ethernet(mac, ours, IPV6)[..], &header, &message].concat())
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks_exact(2).fold(0u32, |n, p| n + u32::from(u16::from_be_bytes([p[0], p[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn question(target: Ipv4Addr) -> Vec<u8> {
        let mut f = ethernet(MacAddr([0xff; 6]), GUEST, ARP);
        f.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        f.extend(GUEST.0);
        f.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
        f.extend(target.octets());
        f
    }

    #[test]
    fn arp_is_answered_for_our_address_and_no_other() {
        let Heard::Neighbour(reply) = hear(&question(ADDRESS), GUEST, OURS) else { panic!("no answer") };
        assert_eq!(reply[..12], [GUEST.0, OURS.0].concat());
        assert_eq!(reply[20..32], [&[0, 2][..], &OURS.0, &ADDRESS.octets()].concat());
        assert_eq!(reply[32..], [&GUEST.0[..], &[10, 0, 0, 2]].concat());
        assert_eq!(hear(&question(Ipv4Addr::new(10, 0, 0, 1)), GUEST, OURS), Heard::Nothing);
        // Somebody else's frame on this port.
        assert_eq!(hear(&question(ADDRESS), OURS, OURS), Heard::Nothing);
    }

    #[test]
    fn neighbours_are_answered_with_a_checksum_that_holds() {
        for target in ADDRESSES6 {
            let mut f = ethernet(MacAddr([0x33; 6]), GUEST, IPV6);
            f.extend([0x60, 0, 0, 0, 0, 24, ICMPV6, 255]);
            f.extend(GUEST.link_local().octets());
            f.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x254).octets());
            f.extend([SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
            f.extend(target.octets());
            let Heard::Neighbour(reply) = hear(&f, GUEST, OURS) else { panic!("no answer") };
            let (header, message) = reply[ETHERNET..].split_at(40);
            assert_eq!((message[0], &message[8..24]), (ADVERTISEMENT, &target.octets()[..]));
            assert_eq!(checksum(&[&header[8..], &[0, 0, 0, 32, 0, 0, 0, ICMPV6], message].concat()), 0);
            // From beyond the link nobody asks.
            f[ETHERNET + 7] = 64;
            assert_eq!(hear(&f, GUEST, OURS), Heard::Nothing);
        }
    }
}
