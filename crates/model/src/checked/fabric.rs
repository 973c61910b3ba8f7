//! ClusterNetwork and Vpc specs, checked.

use std::net::IpAddr;

use super::subnet::parse_cidr;
use crate::{ClusterNetworkSpec, IfName, ParseError, Violations, VpcSpec, names};

const BOND_MODES: [&str; 7] =
    ["active-backup", "balance-rr", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];

/// Checks a ClusterNetwork's name and spec.
pub fn check_cluster_network(name: &str, spec: &ClusterNetworkSpec) -> Result<(), Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    if let Some(m) = spec.mtu.filter(|m| *m != 0 && !(576..=9000).contains(m)) {
        v.add("spec.mtu", format!("MTU {m} is out of range: use 576 to 9000 bytes, or 0 for 1500"));
    }
    for (i, uplink) in spec.uplinks.iter().enumerate() {
        let at = format!("spec.uplinks[{i}]");
        if uplink.nics.is_empty() {
            v.add(format!("{at}.nics"), "an uplink needs at least one device: name one such as eth1");
        }
        for nic in &uplink.nics {
            v.take(&format!("{at}.nics"), IfName::new(nic.clone()));
        }
        if let Some(mode) = uplink.bond.as_ref().and_then(|b| b.mode.as_deref())
            && !BOND_MODES.contains(&mode)
        {
            v.add(
                format!("{at}.bond.mode"),
                format!("bond mode {mode:?} is not known: use one of {}", BOND_MODES.join(", ")),
            );
        }
    }
    v.into_result(())
}

/// Checks a Vpc's name and spec.
pub fn check_vpc(name: &str, spec: &VpcSpec) -> Result<(), Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    for (i, route) in spec.static_routes.iter().enumerate() {
        let at = format!("spec.staticRoutes[{i}]");
        v.take(&format!("{at}.cidr"), parse_cidr(&route.cidr));
        let hop = &route.next_hop;
        v.take(
            &format!("{at}.nextHop"),
            hop.parse::<IpAddr>()
                .map_err(|_| ParseError(format!("next hop {hop:?} is not an address: use one such as 10.0.0.2"))),
        );
    }
    v.into_result(())
}
