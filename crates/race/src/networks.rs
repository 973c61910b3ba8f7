//! The two networks, and what the route plan says of the guest's two NICs on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::{
    Addressing, Bandwidth, DhcpMode, IfName, IpFamilySpec, MacAddr, Mtu, NetworkRoute, NetworkSpec, NetworkType,
    PortSecurity,
};
use multihome_plan::node::{Fabric, NodeInput, NodeNetwork, NodeNic};
use multihome_plan::route::{RoutePlan, VmNic, plan};

use crate::Result;

/// The guest's NICs, by uid and by name; the first is the primary unless a network or NIC says otherwise.
pub const NICS: [&str; 2] = ["nic0", "nic1"];

/// MAC of a NIC.
pub fn mac(nic: usize) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, 0x10 + nic as u8])
}

/// IPv4 address of a network's router, and of its own DHCP server.
pub fn gateway(nic: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + nic as u8, 0, 1)
}

/// IPv4 address that Multihome gives a NIC.
pub fn address(nic: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + nic as u8, 0, 50)
}

/// IPv6 address that Multihome gives a NIC.
pub fn address6(nic: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x100 + nic as u16, 0, 0, 0, 0, 0, 0x50)
}

/// The key of a network.
pub fn key(nic: usize) -> String {
    format!("default/net{nic}")
}

/// The uid of a network.
pub fn uid(nic: usize) -> String {
    format!("net{nic}")
}

/// An IPv4 network on the device `up0` or `up1`, with a router outside, whose DHCP is as `dhcp` says.
pub fn spec(nic: usize, dhcp: DhcpMode) -> NetworkSpec {
    let third = 100 + nic;
    NetworkSpec {
        r#type: NetworkType::Untagged,
        cluster_network: Some(format!("lan{nic}")),
        ipv4: Some(IpFamilySpec {
            cidr: Some(format!("10.{third}.0.0/24")),
            gateway: Some(gateway(nic).to_string()),
            dhcp: Some(dhcp),
            dns: vec![gateway(nic).to_string()],
            routes: vec![NetworkRoute { to: format!("10.{}.0.0/16", 50 + nic), via: None }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same with IPv6 only. The router's link-local address is `fe80::1` outside.
pub fn spec6(nic: usize, dhcp: DhcpMode, addressing: Addressing) -> NetworkSpec {
    let prefix = 0x100 + nic;
    NetworkSpec {
        r#type: NetworkType::Untagged,
        cluster_network: Some(format!("lan{nic}")),
        ipv6: Some(IpFamilySpec {
            cidr: Some(format!("fd00:{prefix:x}::/64")),
            gateway: Some("fe80::1".into()),
            dhcp: Some(dhcp),
            dns: vec![format!("fd00:{prefix:x}::1")],
            routes: vec![NetworkRoute { to: format!("fd50:{nic}::/32"), via: None }],
            addressing: (dhcp == DhcpMode::Server).then_some(addressing),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Both networks as the planner takes them.
///
/// # Errors
/// When a spec breaks a rule.
pub fn checked(specs: &[NetworkSpec; 2]) -> Result<[CheckedNetwork; 2]> {
    let check = |i: usize| check_network(&uid(i), &specs[i]).map_err(|v| format!("{}: {v}", uid(i)));
    Ok([check(0)?, check(1)?])
}

/// What the guest is told; `primary` is the NIC that is asked to hold the default route. Leases last `lease` seconds,
/// which may be shorter than a user may have them.
pub fn route_plan(networks: &[CheckedNetwork; 2], primary: usize, lease: u32) -> RoutePlan {
    let nics = [0, 1].map(|i| VmNic {
        name: NICS[i],
        order: i as i32,
        wants_primary: primary == i,
        mac: mac(i),
        network: &networks[i],
        mtu: networks[i].mtu.unwrap_or(Mtu::ETHERNET),
        ipv4: networks[i].ipv4.as_ref().filter(|s| s.dhcp == DhcpMode::Server).map(|_| IpAddr::V4(address(i))),
        ipv6: networks[i].ipv6.as_ref().filter(|s| s.dhcp == DhcpMode::Server).map(|_| IpAddr::V6(address6(i))),
    });
    let mut plan = plan(&nics);
    for nic in &mut plan.nics {
        for f in [&mut nic.ipv4, &mut nic.ipv6].into_iter().flatten() {
            f.lease_seconds = lease;
        }
    }
    plan
}

/// What the node is to hold.
pub fn node_input(networks: &[CheckedNetwork; 2]) -> NodeInput {
    let mut input = NodeInput::default();
    for (i, spec) in networks.iter().enumerate() {
        input.node.fabrics.insert(format!("lan{i}"), Fabric { device: IfName::new(format!("up{i}")).ok(), bond: None });
        let served = spec.ipv4.iter().map(|_| IpAddr::V4(address(i)));
        let served6 = spec.ipv6.iter().map(|_| IpAddr::V6(address6(i)));
        input.networks.push(NodeNetwork {
            uid: uid(i),
            key: key(i),
            spec: spec.clone(),
            mtu: spec.mtu.unwrap_or(Mtu::ETHERNET),
            vni: None,
            vpc_uid: None,
        });
        input.nics.push(NodeNic {
            uid: NICS[i].into(),
            key: format!("default/{}", NICS[i]),
            network: key(i),
            mac: mac(i),
            addresses: served.chain(served6).collect(),
            security: PortSecurity::Strict,
            queues: 1,
            tx_queue_length: None,
            bandwidth: Bandwidth::default(),
        });
    }
    input
}
