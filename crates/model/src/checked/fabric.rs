//! ClusterNetwork and Vpc specs, checked.

use std::net::IpAddr;

use ipnet::IpNet;

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
    check_underlay(&spec.underlay, &mut v);
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

/// The CIDRs of a fabric's underlay, with everything that is wrong with them.
pub fn check_underlay(underlay: &[String], v: &mut Violations) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = vec![];
    for (i, text) in underlay.iter().enumerate() {
        let at = format!("spec.underlay[{i}]");
        let Some(cidr) = v.take(&at, parse_cidr(text)) else { continue };
        let special = |a: IpAddr| match a {
            IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_multicast(),
            IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_multicast(),
        };
        if special(cidr.addr()) {
            v.add(&at, format!("{cidr} holds no addresses that other nodes reach: use a CIDR such as 10.20.0.0/16"));
        } else if let Some(other) = all.iter().find(|o| o.addr().is_ipv4() != cidr.addr().is_ipv4()) {
            v.add(&at, format!("{cidr} is of another family than {other}: tunnels of one fabric are of one family"));
        } else if let Some(other) = all.iter().find(|o| o.contains(&cidr) || cidr.contains(*o)) {
            v.add(&at, format!("{cidr} overlaps {other}: leave one of the two out"));
        }
        all.push(cidr);
    }
    if underlay.len() > ClusterNetworkSpec::MOST_UNDERLAYS {
        let most = ClusterNetworkSpec::MOST_UNDERLAYS;
        v.add("spec.underlay", format!("{} CIDRs are too many for an underlay: use at most {most}", underlay.len()));
    }
    all
}

/// Checks a Vpc's name and spec.
pub fn check_vpc(name: &str, spec: &VpcSpec) -> Result<(), Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    v.take("spec.clusterNetwork", names::dns_label(spec.fabric()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underlay_is_of_one_family_and_reaches_other_nodes() {
        let check = |cidrs: &[&str]| {
            let underlay = cidrs.iter().map(|c| (*c).to_owned()).collect();
            check_cluster_network("data", &ClusterNetworkSpec { underlay, ..Default::default() })
        };
        assert!(check(&["10.20.0.0/24", "10.20.1.0/24"]).is_ok());
        assert!(check(&["fd20::/64"]).is_ok());
        for (cidrs, says) in [
            (&["10.20.0.7/24"][..], "CIDR \"10.20.0.7/24\" has host bits set: use 10.20.0.0/24"),
            (&["127.0.0.0/8"], "127.0.0.0/8 holds no addresses that other nodes reach"),
            (&["fe80::/64"], "fe80::/64 holds no addresses that other nodes reach"),
            (&["10.20.0.0/24", "fd20::/64"], "fd20::/64 is of another family than 10.20.0.0/24"),
            (&["10.20.0.0/16", "10.20.1.0/24"], "10.20.1.0/24 overlaps 10.20.0.0/16: leave one of the two out"),
        ] {
            let text = check(cidrs).unwrap_err().to_string();
            assert!(text.contains(says), "{text}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("10.{n}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(check(&many[..64]).is_ok());
        assert!(
            check(&many).unwrap_err().to_string().contains("65 CIDRs are too many for an underlay: use at most 64")
        );
    }
}
