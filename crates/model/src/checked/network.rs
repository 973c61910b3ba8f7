//! A Network's spec, checked.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Subnet;
use super::subnet::parse_cidr;
use crate::{
    Bandwidth, DefaultPolicy, DhcpMode, Family, Mtu, NetworkSpec, NetworkType, RouteMode, Symmetric, Violations,
    VlanId, VlanSet, Vni, names,
};

/// A Network's spec with every value parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedNetwork {
    /// What kind of network it is.
    pub kind: NetworkType,
    /// The fabric that it rides on.
    pub fabric: String,
    /// VLAN id; of a trunk, the native VLAN.
    pub vlan: Option<VlanId>,
    /// The VLANs that a trunk carries, tagged.
    pub trunk: VlanSet,
    /// Whether networks of other namespaces may be the same VLAN.
    pub shares_vlan: bool,
    /// The routing domain that it names.
    pub vpc: Option<String>,
    /// VXLAN network identifier that it asks for.
    pub vni: Option<Vni>,
    /// IPv4 subnet.
    pub ipv4: Option<Subnet>,
    /// IPv6 subnet.
    pub ipv6: Option<Subnet>,
    /// Whether Multihome itself is the gateway.
    pub owns_gateway: bool,
    /// Whether traffic that leaves the routing domain is source-translated.
    pub nat: bool,
    /// Whether what the gateway forwards into the network comes from the gateway's own address.
    pub symmetric: bool,
    /// Who on other networks may open connections into it; everybody, if nothing is said.
    pub admits: Option<BTreeSet<IpNet>>,
    /// The SecurityGroups that every NIC in it is in, as they are named.
    pub policies: Vec<String>,
    /// What becomes of what no rule decides.
    pub default_policy: DefaultPolicy,
    /// The MTU that it asks for.
    pub mtu: Option<Mtu>,
    /// How much each of its NICs may carry that says nothing itself.
    pub bandwidth: Bandwidth,
    /// Who serves DHCP and router advertisements, for IPv4 and IPv6.
    pub dhcp: [DhcpMode; 2],
    /// The longest lease that guests are given, in seconds, for IPv4 and IPv6.
    pub lease_seconds: [u32; 2],
    /// Whether a gateway that nobody wrote down may be offered by whoever serves there, for IPv4 and IPv6.
    pub may_offer_gateway: [bool; 2],
    /// Where CIDR and gateway come from.
    pub route: RouteMode,
}

impl CheckedNetwork {
    /// Who serves DHCP and router advertisements of a family.
    pub fn dhcp(&self, family: Family) -> DhcpMode {
        self.dhcp[usize::from(family == Family::IPv6)]
    }

    /// Whether the network offers a gateway: one that is written down, or one that somebody else's server is taken to
    /// name. Where nothing is said of a family, IPv4 is taken to have one and IPv6 not.
    pub fn offers_gateway(&self, family: Family) -> bool {
        match self.subnet(family) {
            Some(s) => s.gateway.is_some(),
            None => self.may_offer_gateway[usize::from(family == Family::IPv6)],
        }
    }

    /// The subnet of one family.
    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        match family {
            Family::IPv4 => self.ipv4.as_ref(),
            Family::IPv6 => self.ipv6.as_ref(),
        }
    }
}

/// Checks a Network's name and spec.
pub fn check_network(name: &str, spec: &NetworkSpec) -> Result<CheckedNetwork, Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    let (vlan, trunk) = check_vlan(spec, &mut v);
    let vni = match spec.vni {
        Some(_) if spec.r#type != NetworkType::Overlay => {
            v.add(
                "spec.vni",
                format!("a {} network has no VNI: leave it out, or use type Overlay", spec.r#type.as_str()),
            );
            None
        }
        Some(n) => v.take("spec.vni", Vni::new(n)),
        None => None,
    };
    if spec.vpc.is_some() && matches!(spec.r#type, NetworkType::VlanTrunk | NetworkType::Cni) {
        v.add("spec.vpc", format!("a {} network cannot be in a Vpc: leave it out", spec.r#type.as_str()));
    }
    if let Some(vpc) = &spec.vpc {
        v.take("spec.vpc", names::dns_label(vpc));
    }
    v.take("spec.clusterNetwork", names::dns_label(spec.fabric()));
    let subnet = |family, at: &str, v: &mut Violations| {
        let f = spec.family(family)?;
        Subnet::check(at, f, family, spec.dhcp_mode(family), v)
    };
    let ipv4 = subnet(Family::IPv4, "spec.ipv4", &mut v);
    let ipv6 = subnet(Family::IPv6, "spec.ipv6", &mut v);
    if let Some(probe) = ipv4.as_ref().and_then(|s| s.probe).filter(|_| spec.owns_gateway()) {
        let text = format!("the gateway is Multihome's own and is not asked from {probe}: leave it out");
        v.add("spec.ipv4.probeAddress", text);
    }
    for (at, s) in [("spec.ipv4", &ipv4), ("spec.ipv6", &ipv6)] {
        if let Some(s) = s
            && s.dhcp == DhcpMode::Guard
            && spec.owns_gateway()
        {
            v.add(
                format!("{at}.dhcp"),
                "Guard is for networks whose DHCP server is yours: use Server, or leave vpc out".to_string(),
            );
        }
    }
    let mtu = spec.mtu.and_then(|m| v.take("spec.mtu", Mtu::new(m)));
    if let Some(m) = mtu
        && spec.ipv6.as_ref().is_some_and(|f| f.cidr.is_some())
        && m.get() < Mtu::MIN_IPV6
    {
        v.add("spec.mtu", format!("MTU {m} is too small for IPv6: use {} or more", Mtu::MIN_IPV6));
    }
    if let Some(s) = &ipv6
        && let Some(gateway) = s.gateway
    {
        let local = matches!(gateway, std::net::IpAddr::V6(a) if a.is_unicast_link_local());
        if local && spec.owns_gateway() {
            v.add(
                "spec.ipv6.gateway",
                format!("gateway {gateway} is link-local, and the gateway here is ours: use an address of {}", s.cidr),
            );
        } else if !local && !spec.owns_gateway() && s.dhcp == DhcpMode::Server {
            v.add(
                "spec.ipv6.gateway",
                format!("gateway {gateway} is not ours, and guests learn routers by their link-local address (RFC 4861): use that, such as fe80::1, or dhcp: Guard"),
            );
        }
    }
    let symmetric = spec.symmetric == Some(Symmetric::Gateway);
    if symmetric && !spec.owns_gateway() {
        v.add(
            "spec.symmetric",
            "Gateway needs a gateway of ours, and this network's is a router of yours: put the network into a vpc, or leave symmetric out",
        );
    } else if symmetric && [&ipv4, &ipv6].into_iter().flatten().all(|s| s.gateway.is_none()) {
        v.add("spec.symmetric", "Gateway needs a gateway: set the gateway of ipv4 or ipv6, or leave symmetric out");
    }
    let admits = check_private(spec, &mut v);
    check_policies(spec, &mut v);
    check_route(spec, &mut v);
    let bandwidth = Bandwidth::check("spec.bandwidth", spec.bandwidth.as_ref(), &mut v);
    let dhcp = [Family::IPv4, Family::IPv6].map(|f| spec.dhcp_mode(f));
    let may = |i: usize, said: bool| dhcp[i] == DhcpMode::Guard && said && spec.route != Some(RouteMode::None);
    v.into_result(CheckedNetwork {
        kind: spec.r#type,
        fabric: spec.fabric().to_owned(),
        vlan,
        trunk,
        shares_vlan: spec.vlan.as_ref().is_some_and(|s| s.shared),
        vpc: spec.vpc.clone(),
        vni,
        ipv4,
        ipv6,
        owns_gateway: spec.owns_gateway(),
        nat: spec.nat(),
        symmetric,
        admits,
        policies: spec.policies.clone(),
        default_policy: spec.default_policy.unwrap_or_default(),
        mtu,
        bandwidth,
        dhcp,
        lease_seconds: [Family::IPv4, Family::IPv6]
            .map(|f| spec.family(f).and_then(|s| s.lease_seconds).unwrap_or(Subnet::DEFAULT_LEASE)),
        may_offer_gateway: [may(0, true), may(1, spec.ipv6.is_some())],
        route: spec.route_mode(),
    })
}

/// Who may open connections into a private network.
fn check_private(spec: &NetworkSpec, v: &mut Violations) -> Option<BTreeSet<IpNet>> {
    let cidr = |(i, c): (usize, &String)| v.take(&format!("spec.allowFrom[{i}]"), parse_cidr(c));
    let allowed: BTreeSet<IpNet> = spec.allow_from.iter().enumerate().filter_map(cidr).collect();
    if !spec.private && !spec.allow_from.is_empty() {
        v.add(
            "spec.allowFrom",
            "everybody may open connections into a network that is not private: set private: true, or leave it out",
        );
    }
    if spec.private && !spec.owns_gateway() {
        v.add(
            "spec.private",
            "a private network is kept by its gateway, and this network's is a router of yours: put the network into a vpc, or leave private out",
        );
    }
    spec.private.then_some(allowed)
}

/// The groups of a network, and what its default is.
fn check_policies(spec: &NetworkSpec, v: &mut Violations) {
    super::nic::group_names(&spec.policies, v);
    let default = spec.default_policy.filter(|d| *d != DefaultPolicy::default());
    if matches!(spec.r#type, NetworkType::VlanTrunk | NetworkType::Cni) {
        let kind = spec.r#type.as_str();
        for (field, said) in [("spec.policies", !spec.policies.is_empty()), ("spec.defaultPolicy", default.is_some())] {
            if said {
                v.add(field, format!("policies cannot be enforced on a {kind} network, whose frames carry tags or are not ours: leave it out, and use them on the networks of its VLANs"));
            }
        }
    }
}

/// What is learnt is not written down, and the other way round.
fn check_route(spec: &NetworkSpec, v: &mut Violations) {
    let families = [("spec.ipv4", &spec.ipv4), ("spec.ipv6", &spec.ipv6)];
    match spec.route {
        Some(RouteMode::Auto) if spec.owns_gateway() => {
            v.add(
                "spec.route",
                "Auto learns from a DHCP server of yours, and here Multihome serves: use Manual, or leave route out",
            );
        }
        Some(RouteMode::Auto) if [Family::IPv4, Family::IPv6].iter().all(|f| spec.dhcp_mode(*f) != DhcpMode::Guard) => {
            v.add(
                "spec.route",
                "Auto learns from a DHCP server of yours, and this network says that there is none: use dhcp: Guard, or route: Manual",
            );
        }
        Some(RouteMode::Auto) => {
            for (at, family) in families {
                if let Some(cidr) = family.as_ref().and_then(|f| f.cidr.as_ref()) {
                    v.add(
                        format!("{at}.cidr"),
                        format!("with route: Auto the subnet is learnt, and {cidr} is written down: leave it out, or use route: Manual"),
                    );
                }
            }
        }
        Some(RouteMode::Manual) if families.iter().all(|(_, f)| f.as_ref().is_none_or(|f| f.cidr.is_none())) => {
            v.add("spec.route", "Manual takes the subnet from the spec, and none is there: set ipv4.cidr, or use Auto");
        }
        _ => {}
    }
}

/// The VLAN id, and the VLANs of a trunk.
fn check_vlan(spec: &NetworkSpec, v: &mut Violations) -> (Option<VlanId>, VlanSet) {
    let kind = spec.r#type;
    let id = spec.vlan.as_ref().and_then(|s| s.id);
    let ranges = spec.vlan.as_ref().map(|s| s.trunk.as_slice()).unwrap_or_default();
    match kind {
        NetworkType::Vlan if id.is_none() => v.add("spec.vlan.id", "a Vlan network needs a VLAN id: set 1 to 4094"),
        NetworkType::VlanTrunk if ranges.is_empty() => {
            v.add("spec.vlan.trunk", "a VlanTrunk network needs at least one range: add first and last, 1 to 4094")
        }
        NetworkType::Vlan | NetworkType::VlanTrunk => {}
        _ if spec.vlan.is_some() => {
            v.add("spec.vlan", format!("a {} network has no VLAN: leave it out, or use type Vlan", kind.as_str()))
        }
        _ => {}
    }
    if kind == NetworkType::Vlan && !ranges.is_empty() {
        v.add("spec.vlan.trunk", "a Vlan network carries one VLAN: leave trunk out, or use type VlanTrunk");
    }
    if kind == NetworkType::VlanTrunk {
        if spec.vlan.as_ref().is_some_and(|s| s.shared) {
            v.add(
                "spec.vlan.shared",
                "the VLANs of a VlanTrunk network may be those of others as they are: leave it out",
            );
        }
        for (field, given) in [("spec.ipv4", spec.ipv4.is_some()), ("spec.ipv6", spec.ipv6.is_some())] {
            if given {
                v.add(field, "a VlanTrunk network carries the subnets of its VLANs, and guests have their addresses from those: leave it out");
            }
        }
    }
    let mut trunk = VlanSet::default();
    for (i, range) in ranges.iter().enumerate() {
        let field = format!("spec.vlan.trunk[{i}]");
        let first = v.take(&field, VlanId::new(range.first));
        let last = v.take(&field, VlanId::new(range.last.unwrap_or(range.first)));
        if let (Some(a), Some(b)) = (first, last) {
            if b < a {
                v.add(&field, format!("range {}-{} ends before it starts: swap its ends", a.get(), b.get()));
            }
            trunk.extend([(a, b)]);
        }
    }
    let id = id.and_then(|id| v.take("spec.vlan.id", VlanId::new(id)));
    if let Some(id) = id.filter(|id| trunk.contains(*id)) {
        let id = id.get();
        v.add("spec.vlan.id", format!("VLAN {id} cannot be untagged as the native VLAN and tagged as one of trunk {trunk}: take it out of trunk, or leave id out"));
    }
    (id, trunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IpFamilySpec, NetworkRoute, VlanSpec};

    fn management(cidr: &str, gateway: &str) -> NetworkSpec {
        NetworkSpec {
            ipv4: Some(IpFamilySpec { cidr: Some(cidr.into()), gateway: Some(gateway.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refusal(spec: &NetworkSpec) -> String {
        check_network("n", spec).unwrap_err().to_string()
    }

    #[test]
    fn sentences() {
        assert_eq!(
            refusal(&management("10.0.0.1/24", "10.0.0.1")),
            "spec.ipv4.cidr: CIDR \"10.0.0.1/24\" has host bits set: use 10.0.0.0/24"
        );
        assert_eq!(
            refusal(&management("10.0.0.0/24", "10.0.1.1")),
            "spec.ipv4.gateway: gateway 10.0.1.1 is outside 10.0.0.0/24: use an address of that subnet"
        );
        assert!(refusal(&management("10.0.0.0/24", "10.0.0.255")).contains("broadcast address"));
        assert!(refusal(&management("10.0.0/24", "10.0.0.1")).contains("malformed"));
        let vlan = NetworkSpec {
            r#type: NetworkType::Vlan,
            vlan: Some(VlanSpec { id: Some(4095), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(refusal(&vlan), "spec.vlan.id: VLAN id 4095 is out of range: use 1 to 4094");
        assert!(check_network("Not_a_label", &management("10.0.0.0/24", "10.0.0.1")).is_err());
    }

    #[test]
    fn a_trunk_has_ranges_and_maybe_a_native_vlan() {
        let range = |first, last| crate::TrunkRange { first, last };
        let trunk = |id, ranges: Vec<crate::TrunkRange>| NetworkSpec {
            r#type: NetworkType::VlanTrunk,
            vlan: Some(VlanSpec { id, trunk: ranges, shared: false }),
            ..Default::default()
        };
        let right = trunk(Some(1), vec![range(100, Some(200)), range(150, Some(250)), range(4094, None)]);
        let checked = check_network("n", &right).unwrap();
        assert_eq!((checked.vlan.map(VlanId::get), checked.trunk.to_string()), (Some(1), "100-250,4094".into()));
        assert!(!checked.offers_gateway(Family::IPv4) && checked.dhcp == [DhcpMode::None; 2]);
        for (spec, said) in [
            (
                trunk(Some(150), vec![range(100, Some(200))]),
                "spec.vlan.id: VLAN 150 cannot be untagged as the native VLAN and tagged as one of trunk 100-200",
            ),
            (trunk(None, vec![range(5, Some(4))]), "spec.vlan.trunk[0]: range 5-4 ends before it starts"),
            (trunk(None, vec![range(1, None), range(0, Some(9))]), "spec.vlan.trunk[1]: VLAN id 0 is out of range"),
            (trunk(Some(7), vec![]), "spec.vlan.trunk: a VlanTrunk network needs at least one range"),
            (NetworkSpec { ipv4: Some(IpFamilySpec::default()), ..right }, "spec.ipv4: a VlanTrunk network carries"),
        ] {
            assert!(refusal(&spec).starts_with(said), "{}", refusal(&spec));
        }
    }

    #[test]
    fn a_gateway_that_is_not_ours_translates_nothing() {
        let mut n = management("10.0.0.0/24", "10.0.0.1");
        n.symmetric = Some(Symmetric::Gateway);
        assert!(check_network("n", &n).unwrap().symmetric);
        n.allow_from = vec!["10.5.0.0/16".into()];
        assert!(refusal(&n).starts_with("spec.allowFrom: everybody may open connections"), "{}", refusal(&n));
        n.private = true;
        assert_eq!(check_network("n", &n).unwrap().admits.unwrap().len(), 1);
        n.allow_from = vec!["10.5.0.1/16".into()];
        assert!(refusal(&n).starts_with("spec.allowFrom[0]:"), "{}", refusal(&n));
        (n.private, n.allow_from) = (false, vec![]);
        n.r#type = NetworkType::Untagged;
        assert!(refusal(&n).starts_with("spec.symmetric: Gateway needs a gateway of ours"), "{}", refusal(&n));
        n.vpc = Some("dc".into());
        assert!(check_network("n", &n).unwrap().symmetric);
        n.ipv4.as_mut().unwrap().gateway = None;
        assert!(refusal(&n).contains("spec.symmetric: Gateway needs a gateway: set"), "{}", refusal(&n));
    }

    #[test]
    fn what_is_learnt_is_not_written_down() {
        let auto = |spec: NetworkSpec| NetworkSpec { route: Some(RouteMode::Auto), ..spec };
        assert!(refusal(&auto(management("10.0.0.0/24", "10.0.0.1"))).contains("here Multihome serves"));
        let lan = NetworkSpec { r#type: NetworkType::Untagged, ..Default::default() };
        assert_eq!(check_network("n", &lan).unwrap().route, RouteMode::Auto);
        assert!(check_network("n", &auto(lan.clone())).is_ok());
        let written = NetworkSpec { r#type: NetworkType::Untagged, ..management("10.0.0.0/24", "10.0.0.1") };
        assert_eq!(check_network("n", &written).unwrap().route, RouteMode::Manual);
        let text = refusal(&auto(written));
        assert!(text.contains("10.0.0.0/24 is written down") && text.contains("spec.ipv4.cidr: "), "{text}");
        assert!(refusal(&NetworkSpec { route: Some(RouteMode::Manual), ..lan.clone() }).contains("set ipv4.cidr"));
        let silent = IpFamilySpec { dhcp: Some(DhcpMode::None), ..Default::default() };
        let silent = NetworkSpec { ipv4: Some(silent.clone()), ipv6: Some(silent), ..lan };
        assert!(refusal(&auto(silent)).contains("says that there is none"));
    }

    #[test]
    fn mtu_bounds_depend_on_ipv6() {
        let mut n = management("10.0.0.0/24", "10.0.0.1");
        n.mtu = Some(575);
        assert!(refusal(&n).contains("576"));
        n.mtu = Some(1000);
        assert!(check_network("n", &n).is_ok());
        n.ipv6 = Some(IpFamilySpec { cidr: Some("fd00::/64".into()), ..Default::default() });
        assert!(refusal(&n).contains("1280"));
    }

    #[test]
    fn an_address_to_probe_from_is_one_that_nobody_has() {
        let with = |probe: &str, kind| NetworkSpec {
            r#type: kind,
            ipv4: Some(IpFamilySpec {
                probe_address: Some(probe.into()),
                ..management("10.0.0.0/24", "10.0.0.1").ipv4.unwrap_or_default()
            }),
            ..Default::default()
        };
        let lan = check_network("n", &with("10.0.0.9", NetworkType::Untagged)).unwrap().ipv4.unwrap();
        assert_eq!(lan.probe, "10.0.0.9".parse().ok());
        assert!(lan.refuse("10.0.0.9".parse().unwrap()).is_some(), "no NIC gets it");
        for (probe, says) in [
            ("10.0.0.1", "probe address 10.0.0.1 is the gateway's: use an address of that subnet that nobody has"),
            ("10.0.0.255", "is the broadcast address of 10.0.0.0/24"),
            ("10.0.1.9", "is outside 10.0.0.0/24"),
            ("nine", "probe address \"nine\" is no address: use one of 10.0.0.0/24"),
        ] {
            let text = refusal(&with(probe, NetworkType::Untagged));
            assert!(text.contains(says), "{text}");
        }
        let text = refusal(&with("10.0.0.9", NetworkType::Management));
        assert!(text.contains("the gateway is Multihome's own and is not asked from 10.0.0.9: leave it out"), "{text}");
        let mut six = with("10.0.0.9", NetworkType::Untagged);
        six.ipv6 = Some(IpFamilySpec {
            cidr: Some("fd00::/64".into()),
            probe_address: Some("fd00::9".into()),
            ..Default::default()
        });
        assert!(refusal(&six).contains("IPv6 gateways are pinged from link-local addresses: leave it out"));
    }

    #[test]
    fn default_routes_are_not_routes_of_a_network() {
        let mut n = management("10.0.0.0/24", "10.0.0.1");
        if let Some(f) = &mut n.ipv4 {
            f.routes = vec![NetworkRoute { to: "0.0.0.0/0".into(), via: None }];
        }
        assert!(refusal(&n).contains("default route"));
    }

    #[test]
    fn a_route_may_go_by_a_gateway_that_is_known_by_its_link_local_address_only() {
        let route = |via: Option<&str>| NetworkSpec {
            r#type: NetworkType::Untagged,
            ipv6: Some(IpFamilySpec {
                cidr: Some("fd00::/64".into()),
                gateway: Some("fe80::1".into()),
                dhcp: Some(DhcpMode::Server),
                routes: vec![NetworkRoute { to: "fd50::/32".into(), via: via.map(str::to_owned) }],
                ..Default::default()
            }),
            ..Default::default()
        };
        for via in [None, Some("fe80::1"), Some("fd00::2")] {
            assert!(check_network("n", &route(via)).is_ok(), "{via:?}");
        }
        assert!(refusal(&route(Some("fe80::2"))).contains("outside fd00::/64"));
    }

    #[test]
    fn addresses_are_judged() {
        let mut n = management("10.0.0.0/24", "10.0.0.1");
        if let Some(f) = &mut n.ipv4 {
            f.pools = vec!["10.0.0.10-10.0.0.20".into()];
            f.exclude = vec!["10.0.0.15".into()];
        }
        let s = check_network("n", &n).unwrap().ipv4.unwrap();
        for (a, word) in [
            ("10.0.1.5", "outside 10.0.0.0/24"),
            ("10.0.0.1", "gateway"),
            ("10.0.0.0", "network address"),
            ("10.0.0.255", "broadcast"),
            ("10.0.0.15", "excluded"),
            ("10.0.0.30", "outside the pools"),
        ] {
            let why = s.refuse(a.parse().unwrap()).unwrap();
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(s.refuse("10.0.0.12".parse().unwrap()), None);
    }
}
