//! Tells switches where a NIC is now, and neighbours where a floating address is.
//!
//! A NIC keeps its MAC wherever it goes, and a switch knows it at the port where it was last heard. Whoever sends to it first after a
//! move is sent there, until the NIC has sent something itself, which a guest that only waits may not do for long. So the node speaks
//! for it, as hypervisors do after a migration: a reverse ARP request (RFC 903) from its MAC, which asks for nothing that anybody
//! still answers. Overlays need none of it: what other nodes carry is programmed there.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use multihome_dhcp::frame6::{End, build_icmp};
use multihome_model::{IfName, MacAddr};
use multihome_netlink::packet::{PacketSocket, filter};
use multihome_plan::node::Floating;

use crate::plumbing::Plumbing;

/// How often, because the first may be lost while a port of the switch comes up.
const TIMES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(1);

/// A reverse ARP request from a MAC for itself.
fn frame(mac: MacAddr) -> Vec<u8> {
    const REVERSE_ARP: [u8; 2] = [0x80, 0x35];
    let mut f = vec![0xff; 6];
    f.extend(mac.0);
    f.extend(REVERSE_ARP);
    // Ethernet, IPv4, lengths 6 and 4, operation 3: request reverse.
    f.extend([0, 1, 8, 0, 6, 4, 0, 3]);
    f.extend(mac.0);
    f.extend([0; 4]);
    f.extend(mac.0);
    f.extend([0; 4]);
    f.resize(60, 0);
    f
}

/// All nodes of a link (RFC 4291 section 2.7.1).
const ALL_NODES: End =
    End { mac: MacAddr([0x33, 0x33, 0, 0, 0, 1]), address: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) };

/// Who has an address, told unasked: an ARP announcement (RFC 5227 section 3), or a neighbour advertisement of a router that
/// replaces what was known (RFC 4861 section 7.2.6).
fn announcement(mac: MacAddr, address: IpAddr) -> Option<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            let mut f = [&[0xff; 6][..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac.0].concat();
            f.extend([&address.octets()[..], &[0; 6], &address.octets()].concat());
            f.resize(60, 0);
            Some(f)
        }
        IpAddr::V6(address) => {
            const ROUTER_OVERRIDE: u8 = 0xa0;
            let message = [&[136, 0, 0, 0, ROUTER_OVERRIDE, 0, 0, 0][..], &address.octets(), &[2, 1], &mac.0].concat();
            build_icmp(End { mac, address }, ALL_NODES, &message)
        }
    }
}

/// Announces a floating address by its own leg, from where it is now.
pub(crate) fn announce_floating(plumbing: &Plumbing, domain: String, floating: &Floating) {
    let Some(frame) = announcement(floating.mac, floating.address) else { return };
    let (plumbing, peer, address) = (plumbing.clone(), floating.peer.clone(), floating.address);
    tokio::spawn(async move {
        for _ in 0..TIMES {
            let socket = plumbing.domain_socket(domain.clone(), peer.clone()).await;
            let sent = socket.map_err(|e| e.to_string()).map(|s| s.send(&frame).map_err(|e| e.to_string()));
            if let Err(e) = sent.flatten() {
                // It may be gone again.
                tracing::debug!(%address, "not announced: {e}");
                return;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    });
}

/// Announces a MAC by the uplink of a bridge, where it has one that is a wire.
pub(crate) fn announce(plumbing: &Plumbing, bridge: IfName, mac: MacAddr) {
    let plumbing = plumbing.clone();
    tokio::spawn(async move {
        for _ in 0..TIMES {
            let Some(index) = plumbing.wire_of(&bridge).await else { return };
            let sent = PacketSocket::open(index, &filter::all()).map(|s| s.send(&frame(mac)));
            if let Err(e) = sent.map_err(|e| e.to_string()).and_then(|s| s.map_err(|e| e.to_string())) {
                tracing::debug!(%bridge, %mac, "not announced: {e}");
            }
            tokio::time::sleep(BETWEEN).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_from_the_nic_and_asks_for_itself() {
        let f = frame(MacAddr([2, 0, 0, 0, 0, 7]));
        assert_eq!((f.len(), &f[6..12], &f[12..14]), (60, &[2, 0, 0, 0, 0, 7][..], &[0x80, 0x35][..]));
        assert_eq!((&f[22..28], &f[32..38]), (&f[6..12], &f[6..12]));
    }

    #[test]
    fn addresses_are_told_as_the_neighbours_of_their_family_hear_it() {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let f = announcement(mac, "198.18.0.7".parse().unwrap()).unwrap();
        assert_eq!((f.len(), &f[12..14], &f[20..22]), (60, &[8, 6][..], &[0, 1][..]));
        assert_eq!((&f[28..32], &f[38..42]), (&[198, 18, 0, 7][..], &[198, 18, 0, 7][..]));
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let f = announcement(mac, address.into()).unwrap();
        let heard = multihome_dhcp::frame6::parse(&f, false);
        assert!(heard.is_some(), "its checksum is right");
        assert_eq!((&f[..6], f[21], f[54], f[58]), (&[0x33, 0x33, 0, 0, 0, 1][..], 255, 136, 0xa0));
        assert_eq!((&f[62..78], &f[78..80], &f[80..86]), (&address.octets()[..], &[2, 1][..], &mac.0[..]));
    }
}
