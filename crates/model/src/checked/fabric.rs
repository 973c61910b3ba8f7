//! ClusterNetwork and Vpc specs, checked.

use std::net::IpAddr;

use super::policy_route::check_policy_routes;
use super::subnet::parse_cidr;
use crate::{BondMode, ClusterNetworkSpec, IfName, ParseError, Violations, VpcSpec, names};

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
        if let Some(twice) = uplink.nics.iter().enumerate().find_map(|(i, n)| uplink.nics[..i].contains(n).then_some(n))
        {
            v.add(format!("{at}.nics"), format!("device {twice} is named twice: name each once"));
        }
        let bond = uplink.bond.as_ref();
        if let Some(mode) = bond.and_then(|b| b.mode.as_deref()) {
            v.take(&format!("{at}.bond.mode"), mode.parse::<BondMode>());
        }
        if let Some(m) = bond.and_then(|b| b.miimon).filter(|m| !(1..=10_000).contains(m)) {
            v.add(format!("{at}.bond.miimon"), format!("miimon {m} is out of range: use 1 to 10000 milliseconds"));
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
    check_policy_routes(&spec.policy_routes, &mut v);
    for (i, peer) in spec.peers.iter().enumerate() {
        let at = format!("spec.peers[{i}].vpc");
        for part in peer.vpc.split('/') {
            v.take(&at, names::dns_label(part));
        }
        if peer.vpc.split('/').count() > 2 {
            v.add(&at, format!("{:?} names no Vpc: use NAME or NAMESPACE/NAME", peer.vpc));
        }
        if spec.peers[..i].iter().any(|p| p.vpc == peer.vpc) {
            v.add(&at, format!("Vpc {:?} is named twice: name it once", peer.vpc));
        }
    }
    v.into_result(())
}
