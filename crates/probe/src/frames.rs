//! What a prober says to gateways, routers and DHCP servers, and what it understands of their answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use multihome_dhcp::client::ra::{self, ROUTERS};
use multihome_dhcp::client::v4::Offer;
use multihome_dhcp::client::v4::{self, Said, discover};
use multihome_dhcp::client::v6::{self, SERVERS};
use multihome_dhcp::frame::{self, build_udp};
use multihome_dhcp::frame6::{self, End, build_icmp};
use multihome_model::MacAddr;

use crate::icmp;
use crate::wire::Probe;

pub(crate) const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const ETHERTYPE_ARP: [u8; 2] = [8, 6];
/// Ethernet, IPv4, 6 and 4 octets (RFC 826), and the operations.
const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Echo of ICMPv6 (RFC 4443 section 4).
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// Options of neighbour discovery: the sender's MAC, the target's MAC (RFC 4861 section 4.6.1).
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
/// Solicited, and to be believed (RFC 4861 section 4.4).
const SOLICITED_OVERRIDE: u8 = 0x60;
/// Ports of DHCPv4 and of DHCPv6, the client's first.
const DHCP4: (u16, u16) = (68, 67);
const DHCP6: (u16, u16) = (546, 547);

/// What a prober understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A probe of another node, and the MAC that it comes from.
    Probe(MacAddr, Probe),
    /// An ARP reply: who has the address.
    Arp(MacAddr, Ipv4Addr),
    /// A neighbour advertisement: who has the address.
    Neighbour(MacAddr, Ipv6Addr),
    /// An echo reply: from whom, and the question's identifier and sequence number.
    Echo(Ipv6Addr, u16, u16),
    /// Somebody asks for the prober's own link-local address.
    Asked(End),
    /// A router advertises itself.
    Router(MacAddr, Ipv6Addr, ra::Advertised),
    /// What a DHCPv4 server says, and the MAC that it comes from.
    Server4(MacAddr, Said),
    /// An IPv4 echo reply: from whom, to whom, and the question's identifier and sequence number.
    Echo4(Ipv4Addr, Ipv4Addr, u16, u16),
    /// A DHCPv6 server advertises itself.
    Server6(Ipv6Addr, v6::Advertised),
}

fn own(mac: MacAddr) -> End {
    End { mac, address: mac.link_local() }
}

/// An ARP probe for `target` (RFC 5227 section 1.1: from 0.0.0.0, so that no cache learns anything), to one MAC or to all.
pub(crate) fn arp(mac: MacAddr, to: Option<MacAddr>, target: Ipv4Addr) -> Vec<u8> {
    arp_from((mac, Ipv4Addr::UNSPECIFIED), to, target)
}

/// An ARP request, by which whoever has `target` learns where it comes from (RFC 826).
pub(crate) fn arp_from((mac, source): (MacAddr, Ipv4Addr), to: Option<MacAddr>, target: Ipv4Addr) -> Vec<u8> {
    let mut f = Vec::with_capacity(42);
    f.extend(to.unwrap_or(BROADCAST).0);
    f.extend(mac.0);
    f.extend(ETHERTYPE_ARP);
    f.extend(ARP);
    f.extend(REQUEST);
    f.extend(mac.0);
    f.extend(source.octets());
    f.extend([0; 6]);
    f.extend(target.octets());
    f
}

/// A neighbour solicitation for `target` (RFC 4861 section 4.3), to one MAC or to the target's group.
pub(crate) fn solicitation(mac: MacAddr, to: Option<MacAddr>, target: Ipv6Addr) -> Option<Vec<u8>> {
    let mut m = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    m.extend(target.octets());
    m.extend([SOURCE, 1]);
    m.extend(mac.0);
    let to = match to {
        Some(mac) => End { mac, address: target },
        None => group(target),
    };
    build_icmp(own(mac), to, &m)
}

/// The group of those who have an address that ends like this one (RFC 4291 section 2.7.1).
fn group(a: Ipv6Addr) -> End {
    let [.., x, y, z] = a.octets();
    let address = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
    End { mac: MacAddr([0x33, 0x33, 0xff, x, y, z]), address }
}

/// The answer to somebody who asks for the prober's own link-local address: DHCPv6 servers do before they answer.
pub(crate) fn advertisement(mac: MacAddr, to: End) -> Option<Vec<u8>> {
    let mut m = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, SOLICITED_OVERRIDE, 0, 0, 0];
    m.extend(mac.link_local().octets());
    m.extend([TARGET, 1]);
    m.extend(mac.0);
    build_icmp(own(mac), to, &m)
}

/// An echo request (RFC 4443 section 4.1) to an address whose MAC is known.
pub(crate) fn echo(mac: MacAddr, to: End, identifier: u16, sequence: u16) -> Option<Vec<u8>> {
    let [a, b] = identifier.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    build_icmp(own(mac), to, &[ECHO_REQUEST, 0, 0, 0, a, b, c, d])
}

/// Asks all routers for an advertisement.
pub(crate) fn router_solicitation(mac: MacAddr) -> Option<Vec<u8>> {
    build_icmp(own(mac), ROUTERS, &ra::solicitation(mac))
}

/// Asks all DHCPv4 servers what they offer.
pub(crate) fn dhcp4(mac: MacAddr, transaction: u32) -> Option<Vec<u8>> {
    let from = frame::End { mac, address: Ipv4Addr::UNSPECIFIED, port: DHCP4.0 };
    let to = frame::End { mac: BROADCAST, address: Ipv4Addr::BROADCAST, port: DHCP4.1 };
    build_udp(from, to, &discover(mac, transaction))
}

/// Asks for what a DHCPv4 server offered.
pub(crate) fn request4(mac: MacAddr, offer: &Offer) -> Option<Vec<u8>> {
    let from = frame::End { mac, address: Ipv4Addr::UNSPECIFIED, port: DHCP4.0 };
    let to = frame::End { mac: BROADCAST, address: Ipv4Addr::BROADCAST, port: DHCP4.1 };
    build_udp(from, to, &v4::request(mac, offer))
}

/// Says that somebody else has what a DHCPv4 server gave.
pub(crate) fn decline4(mac: MacAddr, given: &Offer) -> Option<Vec<u8>> {
    let from = frame::End { mac, address: Ipv4Addr::UNSPECIFIED, port: DHCP4.0 };
    let to = frame::End { mac: BROADCAST, address: Ipv4Addr::BROADCAST, port: DHCP4.1 };
    build_udp(from, to, &v4::decline(mac, given))
}

/// Gives back what a DHCPv4 server gave, by the MAC that its answers come from.
pub(crate) fn release4((mac, to): (MacAddr, MacAddr), given: &Offer) -> Option<Vec<u8>> {
    let from = frame::End { mac, address: given.address, port: DHCP4.0 };
    let to = frame::End { mac: to, address: given.server, port: DHCP4.1 };
    build_udp(from, to, &v4::release(mac, given))
}

/// An IPv4 echo request (RFC 792) in an Ethernet frame.
pub(crate) fn echo4(
    (mac, from): (MacAddr, Ipv4Addr),
    (to_mac, to): (MacAddr, Ipv4Addr),
    identifier: u16,
    sequence: u16,
) -> Vec<u8> {
    let message = icmp::request(false, identifier, sequence);
    let mut f = Vec::with_capacity(34 + message.len());
    f.extend(to_mac.0);
    f.extend(mac.0);
    f.extend([8, 0, 0x45, 0]);
    f.extend((20 + message.len() as u16).to_be_bytes());
    f.extend([0, 0, 0x40, 0, 64, icmp::ICMP, 0, 0]);
    f.extend(from.octets());
    f.extend(to.octets());
    let sum = frame::checksum(&f[14..34], 0);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f.extend(message);
    f
}

/// Asks all DHCPv6 servers what they offer.
pub(crate) fn dhcp6(mac: MacAddr, transaction: [u8; 3]) -> Option<Vec<u8>> {
    frame6::build_udp(own(mac), SERVERS, DHCP6, &v6::solicit(mac, transaction))
}

/// Reads a frame for the prober with this MAC. `checksum_pending` says that its sender left the checksum to hardware.
pub fn hear(frame: &[u8], mac: MacAddr, checksum_pending: bool) -> Option<Heard> {
    match frame.get(12..14)? {
        [0x88, 0xb5] => Probe::parse(frame).map(|(from, p)| Heard::Probe(from, p)),
        [8, 6] => {
            let f: &[u8; 42] = frame.first_chunk()?;
            let reply = f[14..20] == ARP && f[20..22] == REPLY;
            let sender = MacAddr(f[22..28].try_into().ok()?);
            reply.then(|| Heard::Arp(sender, Ipv4Addr::new(f[28], f[29], f[30], f[31])))
        }
        [8, 0] => {
            let packet = frame.get(14..)?;
            if packet.get(9) == Some(&icmp::ICMP) {
                let reply = (frame[..6] == mac.0).then(|| icmp::Reply::parse(packet, false))??;
                let at = |i: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(i..i + 4)?).ok()?));
                return Some(Heard::Echo4(at(12)?, at(16)?, reply.identifier, reply.sequence));
            }
            let d = frame::parse_udp(frame, checksum_pending)?;
            let said = (d.destination_port == DHCP4.0).then(|| Said::parse(d.payload, mac))??;
            Some(Heard::Server4(d.source_mac, said))
        }
        [0x86, 0xdd] => hear6(&frame6::parse(frame, checksum_pending)?, mac),
        _ => None,
    }
}

fn hear6(p: &frame6::Packet<'_>, mac: MacAddr) -> Option<Heard> {
    if let Some(d) = p.udp() {
        let mine = d.destination_port == DHCP6.0 && p.destination == mac.link_local();
        let said = mine.then(|| v6::Advertised::parse(d.payload, mac))??;
        return Some(Heard::Server6(p.source, said));
    }
    if p.protocol != frame6::ICMP {
        return None;
    }
    if let [ECHO_REPLY, 0, _, _, a, b, c, d, ..] = *p.payload
        && p.destination == mac.link_local()
    {
        return Some(Heard::Echo(p.source, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
    }
    // RFC 4861 sections 6.1.2, 7.1.1 and 7.1.2: from this link.
    if p.hop_limit != 255 {
        return None;
    }
    let target = || p.payload.get(8..24).and_then(|t| <[u8; 16]>::try_from(t).ok()).map(Ipv6Addr::from);
    match p.payload[0] {
        multihome_dhcp::ra::ADVERTISEMENT if p.source.is_unicast_link_local() => {
            Some(Heard::Router(p.source_mac, p.source, ra::Advertised::parse(p.payload)?))
        }
        NEIGHBOUR_ADVERTISEMENT => Some(Heard::Neighbour(p.source_mac, target()?)),
        NEIGHBOUR_SOLICITATION if target()? == mac.link_local() && !p.source.is_unspecified() => {
            Some(Heard::Asked(End { mac: p.source_mac, address: p.source }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_dhcp::frame::answer_arp;
    use proptest::prelude::*;

    const ME: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 1]);
    const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    #[test]
    fn a_gateway_that_is_asked_by_arp_is_heard() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let question = arp(ME, None, gateway);
        assert_eq!(question[28..32], [0; 4], "from no address");
        let answer = answer_arp(&question, gateway, THEM).unwrap();
        assert_eq!(hear(&answer, ME, false), Some(Heard::Arp(THEM, gateway)));
        assert_eq!(hear(&question, ME, false), None, "a question is no answer");
    }

    #[test]
    fn neighbours_ask_and_answer() {
        let question = solicitation(THEM, None, ME.link_local()).unwrap();
        let Some(Heard::Asked(by)) = hear(&question, ME, false) else { panic!("{question:x?}") };
        assert_eq!(by, End { mac: THEM, address: THEM.link_local() });
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        let answer = advertisement(ME, by).unwrap();
        assert_eq!(hear(&answer, THEM, false), Some(Heard::Neighbour(ME, ME.link_local())));
        assert_eq!(hear(&question, MacAddr([2; 6]), false), None, "for somebody else");
    }

    #[test]
    fn an_echo_comes_back() {
        let to = End { mac: THEM, address: THEM.link_local() };
        let mut f = echo(ME, to, 7, 0x102).unwrap();
        let p = frame6::parse(&f, false).unwrap();
        assert_eq!((p.source, p.destination, p.payload[0]), (ME.link_local(), THEM.link_local(), 128));
        assert_eq!(hear(&f, THEM, false), None, "questions are the kernel's to answer");
        f = build_icmp(to, own(ME), &[129, 0, 0, 0, 0, 7, 1, 2]).unwrap();
        assert_eq!(hear(&f, ME, false), Some(Heard::Echo(to.address, 7, 0x102)));
        f = build_icmp(to, own(MacAddr([2; 6])), &[129, 0, 0, 0, 0, 7, 1, 2]).unwrap();
        assert_eq!(hear(&f, ME, false), None, "for somebody else");
    }

    #[test]
    fn questions_to_all_servers_are_whole() {
        let f = dhcp4(ME, 7).unwrap();
        assert_eq!(frame::parse_udp(&f, false).unwrap().destination_port, 67);
        let f = dhcp6(ME, [1, 2, 3]).unwrap();
        let p = frame6::parse(&f, false).unwrap();
        assert_eq!((p.destination, p.udp().unwrap().destination_port), ("ff02::1:2".parse().unwrap(), 547));
        let f = router_solicitation(ME).unwrap();
        assert_eq!(frame6::parse(&f, false).unwrap().payload[0], 133);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..5, cut in 0usize..80) {
            let mut bytes = bytes;
            let kinds = [[0x88, 0xb5], [8, 6], [8, 0], [0x86, 0xdd], [0, 0]];
            if bytes.len() > 15 {
                bytes[12..14].copy_from_slice(&kinds[kind]);
            }
            let _ = hear(&bytes, ME, true);
            let whole = [solicitation(THEM, None, ME.link_local()), dhcp6(THEM, [0; 3])];
            let mut real = whole[kind % 2].clone().unwrap();
            real.truncate(cut);
            let _ = hear(&real, ME, true);
        }
    }
}
