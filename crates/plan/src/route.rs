//! The route plan: what each NIC of a VM is told, so that the guest has exactly one default route per family.

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::checked::{CheckedNetwork, Route, Subnet};
use multihome_model::{Addressing, DhcpMode, Family, MacAddr, Mtu};
use serde::{Deserialize, Serialize};

use crate::primary::{self, Candidate, FAMILIES};

/// Metric of the default route and of the primary's other routes.
pub const METRIC_PRIMARY: u32 = 100;
/// Metric of the routes by the first secondary NIC; each further one adds 1.
pub const METRIC_SECONDARY: u32 = 200;
/// Routing table of the first NIC in order; each further one adds 1. A NIC's table never depends on which is primary.
pub const TABLE_BASE: u32 = 101;

/// One NIC of a VM, with what its network says.
#[derive(Debug, Clone, PartialEq)]
pub struct VmNic<'a> {
    /// Its name, unique within the VM.
    pub name: &'a str,
    /// Its place among the VM's NICs.
    pub order: i32,
    /// Whether it says `primary: true`.
    pub wants_primary: bool,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its network.
    pub network: &'a CheckedNetwork,
    /// The network's effective MTU.
    pub mtu: Mtu,
    /// Its IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address.
    pub ipv6: Option<IpAddr>,
}

/// What a whole VM is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePlan {
    /// One entry per NIC, by order and name.
    pub nics: Vec<NicPlan>,
}

/// What one NIC is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicPlan {
    /// Its name.
    pub name: String,
    /// Its MAC, by which guests find it.
    pub mac: MacAddr,
    /// Largest packet, in bytes.
    pub mtu: Mtu,
    /// IPv4; none where its network has no such subnet and nobody serves it.
    pub ipv4: Option<FamilyPlan>,
    /// IPv6.
    pub ipv6: Option<FamilyPlan>,
}

/// What one NIC is told for one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyPlan {
    /// How the guest gets its address.
    pub method: Method,
    /// The address with the subnet's prefix length.
    pub address: Option<IpNet>,
    /// How the guest gets its IPv6 address; `None` for IPv4. `Slaac` where nobody knows whether a DHCPv6 server is there: router
    /// advertisements tell, by their M and O flags (RFC 4861 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,
    /// The gateway that the network offers.
    pub gateway: Option<IpAddr>,
    /// Whether the guest's default route is by this NIC.
    pub default_route: bool,
    /// Metric of its routes.
    pub metric: u32,
    /// Specific routes, ascending.
    pub routes: Vec<PlannedRoute>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domain name.
    pub domain: Option<String>,
    /// Search domains.
    pub search_domains: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// Lease time in seconds.
    pub lease_seconds: u32,
    /// Routing table for replies that must leave by this NIC; none on the primary, whose table is the main one.
    pub table: Option<u32>,
}

/// A specific route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlannedRoute {
    /// Destination.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
}

/// How a guest gets an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// From the DHCP server of Multihome.
    Server,
    /// From somebody else's DHCP server, guarded.
    Guard,
    /// Written into the guest's configuration.
    Static,
    /// Not at all.
    None,
}

impl NicPlan {
    /// The plan of one family.
    pub fn family(&self, family: Family) -> Option<&FamilyPlan> {
        match family {
            Family::IPv4 => self.ipv4.as_ref(),
            Family::IPv6 => self.ipv6.as_ref(),
        }
    }
}

impl RoutePlan {
    /// The plan of one NIC.
    pub fn nic(&self, name: &str) -> Option<&NicPlan> {
        self.nics.iter().find(|n| n.name == name)
    }

    /// The NIC that holds a family's default route.
    pub fn primary(&self, family: Family) -> Option<&NicPlan> {
        self.nics.iter().find(|n| n.family(family).is_some_and(|f| f.default_route))
    }
}

/// Decides what each NIC of one VM is told. The order of `nics` does not matter.
pub fn plan(nics: &[VmNic<'_>]) -> RoutePlan {
    let mut sorted: Vec<&VmNic<'_>> = nics.iter().collect();
    sorted.sort_by_key(|n| (n.order, n.name));
    let primaries = FAMILIES.map(|family| {
        let candidates: Vec<Candidate<'_>> = sorted
            .iter()
            .map(|n| Candidate {
                name: n.name,
                order: n.order,
                wants: n.wants_primary,
                // Where nobody knows whether there is a router, the wish of the user counts.
                offers_gateway: offers_gateway(n.network, family)
                    || (n.wants_primary && n.network.subnet(family).is_none() && guarded(n.network, family)),
            })
            .collect();
        primary::choose(&candidates)
    });
    let nics = sorted
        .iter()
        .enumerate()
        .map(|(i, nic)| {
            let [ipv4, ipv6] = [0, 1].map(|f| family_plan(nic, FAMILIES[f], primaries[f] == Some(nic.name), i as u32));
            NicPlan { name: nic.name.to_owned(), mac: nic.mac, mtu: nic.mtu, ipv4, ipv6 }
        })
        .collect();
    RoutePlan { nics }
}

/// Whether a network offers a gateway: one that is written down, or one that its own DHCP server may name.
pub fn offers_gateway(network: &CheckedNetwork, family: Family) -> bool {
    network.offers_gateway(family)
}

fn family_plan(nic: &VmNic<'_>, family: Family, primary: bool, position: u32) -> Option<FamilyPlan> {
    let Some(subnet) = nic.network.subnet(family) else {
        return guarded(nic.network, family).then(|| foreign(nic.network, family, primary, position));
    };
    let address = match family {
        Family::IPv4 => nic.ipv4,
        Family::IPv6 => nic.ipv6,
    };
    let tells_dns = primary || subnet.dns_on_secondary;
    Some(FamilyPlan {
        method: method(subnet, address.is_some()),
        address: address.and_then(|a| IpNet::new(a, subnet.cidr.prefix_len()).ok()),
        addressing: subnet.addressing,
        gateway: subnet.gateway,
        default_route: primary,
        metric: if primary { METRIC_PRIMARY } else { METRIC_SECONDARY + position },
        routes: specific_routes(subnet),
        dns: if tells_dns { subnet.dns.clone() } else { vec![] },
        domain: subnet.domain.clone().filter(|_| tells_dns),
        search_domains: if tells_dns { subnet.search_domains.clone() } else { vec![] },
        ntp: subnet.ntp.clone(),
        lease_seconds: subnet.lease_seconds,
        table: (!primary && subnet.gateway.is_some()).then_some(TABLE_BASE + position),
    })
}

fn guarded(network: &CheckedNetwork, family: Family) -> bool {
    network.dhcp(family) == DhcpMode::Guard
}

/// A family of which only somebody else's server knows anything.
fn foreign(network: &CheckedNetwork, family: Family, primary: bool, position: u32) -> FamilyPlan {
    FamilyPlan {
        method: Method::Guard,
        address: None,
        addressing: (family == Family::IPv6).then_some(Addressing::Slaac),
        gateway: None,
        default_route: primary,
        metric: if primary { METRIC_PRIMARY } else { METRIC_SECONDARY + position },
        routes: vec![],
        dns: vec![],
        domain: None,
        search_domains: vec![],
        ntp: vec![],
        lease_seconds: network.lease_seconds[usize::from(family == Family::IPv6)],
        table: None,
    }
}

fn method(subnet: &Subnet, has_address: bool) -> Method {
    match subnet.dhcp {
        DhcpMode::Server => Method::Server,
        DhcpMode::Guard => Method::Guard,
        DhcpMode::None if has_address => Method::Static,
        DhcpMode::None => Method::None,
    }
}

fn specific_routes(subnet: &Subnet) -> Vec<PlannedRoute> {
    let mut routes: Vec<PlannedRoute> =
        subnet.routes.iter().map(|Route { to, via }| PlannedRoute { to: *to, via: *via }).collect();
    routes.sort_unstable();
    routes.dedup();
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::checked::check_network;
    use multihome_model::{IpFamilySpec, NetworkRoute, NetworkSpec};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Shape {
        order: i32,
        wants: bool,
        gateway: bool,
        ipv6: bool,
        dns_on_secondary: bool,
    }

    fn shapes() -> impl Strategy<Value = Vec<Shape>> {
        let one = (0..4i32, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(order, wants, gateway, ipv6, dns_on_secondary)| Shape { order, wants, gateway, ipv6, dns_on_secondary },
        );
        proptest::collection::vec(one, 0..7).prop_map(|mut v| {
            let mut seen = false;
            for s in &mut v {
                s.wants &= !seen;
                seen |= s.wants;
            }
            v
        })
    }

    fn network(i: usize, s: &Shape) -> CheckedNetwork {
        let family = |cidr: String, gateway: String, to: String| IpFamilySpec {
            gateway: s.gateway.then_some(gateway.clone()),
            routes: vec![NetworkRoute { to, via: Some(gateway) }],
            dns_on_secondary: s.dns_on_secondary,
            cidr: Some(cidr),
            ..Default::default()
        };
        let spec = NetworkSpec {
            ipv4: Some(family(format!("10.{i}.0.0/24"), format!("10.{i}.0.1"), format!("10.{}.0.0/16", 100 + i))),
            ipv6: s.ipv6.then(|| family(format!("fd00:{i}::/64"), format!("fd00:{i}::1"), format!("fd10:{i}::/32"))),
            ..Default::default()
        };
        check_network("n", &spec).unwrap()
    }

    fn plan_of(shapes: &[Shape], reverse: bool, primary: Option<usize>) -> RoutePlan {
        let networks: Vec<_> = shapes.iter().enumerate().map(|(i, s)| network(i, s)).collect();
        let names: Vec<_> = (0..shapes.len()).map(|i| format!("nic{i}")).collect();
        let mut nics: Vec<VmNic<'_>> = shapes
            .iter()
            .enumerate()
            .map(|(i, s)| VmNic {
                name: &names[i],
                order: s.order,
                wants_primary: primary.map_or(s.wants, |p| p == i),
                mac: MacAddr([2, 0, 0, 0, 0, i as u8]),
                network: &networks[i],
                mtu: Mtu::ETHERNET,
                ipv4: Some(IpAddr::from([10, i as u8, 0, 5])),
                ipv6: None,
            })
            .collect();
        if reverse {
            nics.reverse();
        }
        plan(&nics)
    }

    fn holders(plan: &RoutePlan, family: Family) -> usize {
        plan.nics.iter().filter(|n| n.family(family).is_some_and(|f| f.default_route)).count()
    }

    proptest! {
        #[test]
        fn exactly_one_default_route_where_a_gateway_is_offered(s in shapes()) {
            let p = plan_of(&s, false, None);
            prop_assert_eq!(holders(&p, Family::IPv4), usize::from(s.iter().any(|x| x.gateway)));
            prop_assert_eq!(holders(&p, Family::IPv6), usize::from(s.iter().any(|x| x.gateway && x.ipv6)));
        }

        #[test]
        fn switching_the_primary_changes_two_nics_at_most(s in shapes(), to in 0usize..7) {
            prop_assume!(to < s.len());
            let before = plan_of(&s, false, None);
            let after = plan_of(&s, false, Some(to));
            for family in FAMILIES {
                let concerned: Vec<_> = [&before, &after].iter().filter_map(|p| p.primary(family)).map(|n| n.name.clone()).collect();
                for (a, b) in before.nics.iter().zip(&after.nics) {
                    if !concerned.contains(&a.name) {
                        prop_assert_eq!(a.family(family), b.family(family));
                    }
                }
            }
        }

        #[test]
        fn the_order_of_creation_does_not_matter(s in shapes()) {
            prop_assert_eq!(plan_of(&s, false, None), plan_of(&s, true, None));
        }

        #[test]
        fn no_specific_route_is_a_default_route_and_dns_stays_on_the_primary(s in shapes()) {
            for nic in plan_of(&s, false, None).nics {
                for f in [nic.ipv4, nic.ipv6].into_iter().flatten() {
                    prop_assert!(f.routes.iter().all(|r| r.to.prefix_len() > 0));
                    prop_assert!(f.default_route != f.table.is_some() || f.gateway.is_none());
                }
            }
        }
    }
}
