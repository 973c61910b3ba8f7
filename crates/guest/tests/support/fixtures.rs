//! Plans that the tests share, made by the planner itself.

use std::net::IpAddr;

use multihome_guest::Guest;
use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::{
    Addressing, DhcpMode, IpFamilySpec, MacAddr, Mtu, NetworkRoute, NetworkSpec, NetworkType, VlanSpec,
};
use multihome_plan::route::{RoutePlan, VmNic, plan};

/// A subnet that the tests describe in one line. The gateway is the first address.
pub fn subnet(cidr: &str, dhcp: DhcpMode, gateway: Option<&str>, route: Option<&str>, dns: &[&str]) -> IpFamilySpec {
    IpFamilySpec {
        cidr: Some(cidr.into()),
        gateway: gateway.map(Into::into),
        dhcp: Some(dhcp),
        dns: dns.iter().map(|d| (*d).into()).collect(),
        routes: route.map(|to| NetworkRoute { to: to.into(), via: gateway.map(Into::into) }).into_iter().collect(),
        ..Default::default()
    }
}

/// One NIC: its name, its last MAC octet, its MTU, its subnets and addresses.
pub struct Shape {
    pub name: &'static str,
    pub mac: u8,
    pub mtu: u32,
    pub ipv4: Option<(IpFamilySpec, Option<&'static str>)>,
    pub ipv6: Option<(IpFamilySpec, Option<&'static str>)>,
}

/// The plan of a VM with these NICs, in this order.
pub fn plan_of(shapes: &[Shape]) -> RoutePlan {
    let networks: Vec<CheckedNetwork> = shapes
        .iter()
        .map(|s| {
            let guarded = s.ipv4.iter().chain(&s.ipv6).any(|(f, _)| f.dhcp == Some(DhcpMode::Guard));
            let spec = NetworkSpec {
                r#type: if guarded { NetworkType::Vlan } else { NetworkType::Management },
                vlan: guarded.then(|| VlanSpec { id: Some(100), ..Default::default() }),
                cluster_network: guarded.then(|| "fabric".into()),
                ipv4: s.ipv4.as_ref().map(|(f, _)| f.clone()),
                ipv6: s.ipv6.as_ref().map(|(f, _)| f.clone()),
                ..Default::default()
            };
            check_network("n", &spec).unwrap_or_else(|e| panic!("{}: {e:?}", s.name))
        })
        .collect();
    let address = |a: &Option<(IpFamilySpec, Option<&str>)>| -> Option<IpAddr> { a.as_ref()?.1?.parse().ok() };
    let nics: Vec<VmNic<'_>> = shapes
        .iter()
        .zip(&networks)
        .enumerate()
        .map(|(i, (s, network))| VmNic {
            name: s.name,
            order: i as i32,
            wants_primary: false,
            mac: MacAddr([0x52, 0x54, 0, 0, 0, s.mac]),
            network,
            mtu: Mtu::new(s.mtu).expect("a possible MTU"),
            ipv4: address(&s.ipv4),
            ipv6: address(&s.ipv6),
        })
        .collect();
    plan(&nics)
}

/// A DHCP primary, a DHCP secondary with jumbo frames, and a static secondary that holds the default route of IPv6.
pub fn three() -> RoutePlan {
    let (served, told) = (DhcpMode::Server, DhcpMode::None);
    plan_of(&[
        Shape {
            name: "web-mgmt",
            mac: 0x10,
            mtu: 1450,
            ipv4: Some((
                subnet("10.100.0.0/24", served, Some("10.100.0.1"), None, &["10.100.0.53"]),
                Some("10.100.0.50"),
            )),
            ipv6: None,
        },
        Shape {
            name: "web-storage",
            mac: 0x11,
            mtu: 9000,
            ipv4: Some((
                subnet("10.101.0.0/24", served, Some("10.101.0.1"), Some("10.50.0.0/16"), &[]),
                Some("10.101.0.50"),
            )),
            ipv6: None,
        },
        Shape {
            name: "web-lab",
            mac: 0x12,
            mtu: 1500,
            ipv4: Some((
                subnet("10.102.0.0/24", told, Some("10.102.0.1"), Some("10.60.0.0/16"), &[]),
                Some("10.102.0.50"),
            )),
            ipv6: Some((
                subnet("fd00:102::/64", told, Some("fd00:102::1"), Some("fd00:60::/32"), &["fd00:102::53"]),
                Some("fd00:102::50"),
            )),
        },
    ])
}

/// Two NICs with static addresses of both families; the first holds both default routes.
pub fn dual() -> RoutePlan {
    let told = DhcpMode::None;
    plan_of(&[
        Shape {
            name: "web-a",
            mac: 0x20,
            mtu: 1500,
            ipv4: Some((
                subnet("10.1.0.0/24", told, Some("10.1.0.1"), Some("10.50.0.0/16"), &["10.1.0.53"]),
                Some("10.1.0.5"),
            )),
            ipv6: Some((subnet("fd00:1::/64", told, Some("fd00:1::1"), None, &["fd00:1::53"]), Some("fd00:1::5"))),
        },
        Shape {
            name: "web-b",
            mac: 0x21,
            mtu: 1400,
            ipv4: Some((subnet("10.2.0.0/24", told, Some("10.2.0.1"), Some("10.60.0.0/16"), &[]), Some("10.2.0.5"))),
            ipv6: Some((subnet("fd00:2::/64", told, Some("fd00:2::1"), Some("fd00:60::/32"), &[]), Some("fd00:2::5"))),
        },
    ])
}

/// A served primary, a secondary behind the guard whose address nobody knows, and a NIC without any address.
pub fn foreign() -> RoutePlan {
    plan_of(&[
        Shape {
            name: "web-a",
            mac: 0x30,
            mtu: 1500,
            ipv4: Some((
                subnet("10.1.0.0/24", DhcpMode::Server, Some("10.1.0.1"), None, &["10.1.0.53"]),
                Some("10.1.0.5"),
            )),
            ipv6: None,
        },
        Shape {
            name: "web-b",
            mac: 0x31,
            mtu: 1500,
            ipv4: Some((subnet("10.2.0.0/24", DhcpMode::Guard, Some("10.2.0.1"), None, &[]), None)),
            ipv6: None,
        },
        Shape {
            name: "web-c",
            mac: 0x32,
            mtu: 1500,
            ipv4: Some((subnet("10.3.0.0/24", DhcpMode::None, None, None, &[]), None)),
            ipv6: None,
        },
    ])
}

/// Two NICs that ask our servers for everything, in both families; the first holds both default routes.
pub fn served() -> RoutePlan {
    let s = DhcpMode::Server;
    plan_of(&[
        Shape {
            name: "web-a",
            mac: 0x40,
            mtu: 1500,
            ipv4: Some((subnet("10.1.0.0/24", s, Some("10.1.0.1"), None, &[]), Some("10.1.0.5"))),
            ipv6: Some((subnet("fd00:1::/64", s, Some("fd00:1::1"), None, &[]), Some("fd00:1::5"))),
        },
        Shape {
            name: "web-b",
            mac: 0x41,
            mtu: 1400,
            ipv4: Some((subnet("10.2.0.0/24", s, Some("10.2.0.1"), Some("10.60.0.0/16"), &[]), Some("10.2.0.5"))),
            ipv6: Some((subnet("fd00:2::/64", s, Some("fd00:2::1"), None, &[]), Some("fd00:2::5"))),
        },
    ])
}

/// NICs that form their IPv6 addresses: the primary from router advertisements alone, a secondary that asks DHCPv6 for
/// the rest, and one that has nothing else.
pub fn formed() -> RoutePlan {
    let s = DhcpMode::Server;
    let six = |cidr, gateway, addressing| IpFamilySpec {
        addressing: Some(addressing),
        ..subnet(cidr, s, Some(gateway), None, &[])
    };
    plan_of(&[
        Shape {
            name: "web-a",
            mac: 0x50,
            mtu: 1500,
            ipv4: Some((subnet("10.1.0.0/24", s, Some("10.1.0.1"), None, &[]), Some("10.1.0.5"))),
            ipv6: Some((six("fd00:1::/64", "fd00:1::1", Addressing::Slaac), Some("fd00:1::5054:ff:fe00:50"))),
        },
        Shape {
            name: "web-b",
            mac: 0x51,
            mtu: 1400,
            ipv4: Some((subnet("10.2.0.0/24", s, Some("10.2.0.1"), Some("10.60.0.0/16"), &[]), Some("10.2.0.5"))),
            ipv6: Some((six("fd00:2::/64", "fd00:2::1", Addressing::Stateless), Some("fd00:2::5054:ff:fe00:51"))),
        },
        Shape {
            name: "web-c",
            mac: 0x52,
            mtu: 1500,
            ipv4: None,
            ipv6: Some((six("fd00:3::/64", "fd00:3::1", Addressing::Slaac), Some("fd00:3::5054:ff:fe00:52"))),
        },
    ])
}

/// A guest with a plan.
pub fn guest(plan: RoutePlan) -> Guest {
    let mut g = Guest::new("web", "i-0c0ffee0", plan);
    g.ssh_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample admin@example".into()];
    g
}
