//! Tells switches where a NIC is now.
//!
//! A NIC keeps its MAC wherever it goes, and a switch knows it at the port where it was last heard. Whoever sends to it first after a
//! move is sent there, until the NIC has sent something itself, which a guest that only waits may not do for long. So the node speaks
//! for it, as hypervisors do after a migration: a reverse ARP request (RFC 903) from its MAC, which asks for nothing that anybody
//! still answers. Overlays need none of it: what other nodes carry is programmed there.

use std::time::Duration;

use multihome_model::{IfName, MacAddr};
use multihome_netlink::packet::{PacketSocket, filter};

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
}
