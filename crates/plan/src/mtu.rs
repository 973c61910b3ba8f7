//! A network's effective MTU: its fabric's, less the encapsulation's overhead, lowered by wish, never raised.

use multihome_model::{Mtu, NetworkType};

/// What VXLAN adds over IPv4, in bytes: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348 section 5).
pub const VXLAN_OVERHEAD: u32 = 50;
/// What VXLAN adds over IPv6, in bytes: 20 more for the outer header.
pub const VXLAN_OVERHEAD_V6: u32 = 70;

/// What the fabric leaves for packets of a network of this kind.
pub fn ceiling(kind: NetworkType, fabric: Mtu, tunnel_over_ipv6: bool) -> Mtu {
    match kind {
        NetworkType::Overlay if tunnel_over_ipv6 => fabric.minus(VXLAN_OVERHEAD_V6),
        NetworkType::Overlay => fabric.minus(VXLAN_OVERHEAD),
        _ => fabric,
    }
}

/// The MTU in force.
pub fn effective(kind: NetworkType, fabric: Mtu, wish: Option<Mtu>, tunnel_over_ipv6: bool) -> Mtu {
    let most = ceiling(kind, fabric, tunnel_over_ipv6);
    wish.map_or(most, |w| w.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_and_wish() {
        let jumbo = Mtu::new(9000).unwrap();
        assert_eq!(effective(NetworkType::Overlay, jumbo, None, false).get(), 8950);
        assert_eq!(effective(NetworkType::Overlay, Mtu::ETHERNET, None, true).get(), 1430);
        assert_eq!(effective(NetworkType::Vlan, jumbo, Mtu::new(1500).ok(), false).get(), 1500);
        assert_eq!(effective(NetworkType::Vlan, Mtu::ETHERNET, Some(jumbo), false).get(), 1500);
    }
}
