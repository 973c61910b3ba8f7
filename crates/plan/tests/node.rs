//! The node plan and its diff, for random nodes: what the engines rely on.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::RuleAction;
use multihome_model::checked::check_network;
use multihome_model::{
    Algorithm, Bandwidth, BondMode, IfName, IpFamilySpec, MacAddr, MirrorDirection, Mtu, NetworkSpec, NetworkType,
    PortSecurity, TrunkRange, VlanId, VlanSpec, Vni,
};
use multihome_plan::node::{
    Bond, Fabric, Forward, NodeFacts, NodeFloating, NodeInput, NodeMirror, NodeNetwork, NodeNic, NodePolicyRoute,
    NodeState, NodeVpc, RETURN_TABLES, RemoteNic, Security, Steer, Step, TRANSIT, Target, Transport, Uplink,
    UplinkKind, Via, VpcPeer, build, diff, fabric_name, gateway_mac, router_mac, simulate, vpc_domain,
};
use multihome_plan::policy::{Peers, Policy, Rule, Rules};
use proptest::prelude::*;

fn network(i: usize, kind: NetworkType, vpc: Option<u8>, mtu: u32) -> NodeNetwork {
    let id = 100 + i as u32;
    let trunk = kind == NetworkType::VlanTrunk;
    let vlan = match kind {
        NetworkType::Vlan => Some(VlanSpec { id: Some(id), ..Default::default() }),
        NetworkType::VlanTrunk => {
            let ranges = vec![TrunkRange { first: 100, last: Some(id) }, TrunkRange { first: 4090, last: Some(4094) }];
            Some(VlanSpec { id: Some(200 + i as u32), trunk: ranges, shared: false })
        }
        _ => None,
    };
    let vpc = vpc.filter(|_| !trunk);
    let spec = NetworkSpec {
        r#type: kind,
        vlan,
        vpc: vpc.map(|v| format!("vpc{v}")),
        ipv4: (!trunk).then(|| IpFamilySpec {
            cidr: Some(format!("10.{i}.0.0/24")),
            gateway: Some(format!("10.{i}.0.1")),
            ..Default::default()
        }),
        ..Default::default()
    };
    NodeNetwork {
        uid: format!("network-{i}"),
        key: format!("default/net{i}"),
        spec: check_network("net", &spec).unwrap(),
        mtu: Mtu::new(mtu).unwrap(),
        vni: (kind == NetworkType::Overlay).then(|| Vni::new(1000 + i as u32).unwrap()),
        vpc_uid: vpc.map(|v| format!("vpc-uid-{v}")),
    }
}

/// Two domains that peer, with the subnets of their networks and a route by a NIC's address.
fn vpcs(nets: &[(NetworkType, Option<u8>, u32)]) -> Vec<NodeVpc> {
    let subnets = |vpc: u8| -> std::collections::BTreeSet<IpNet> {
        let of = nets.iter().enumerate().filter(|(_, (_, v, _))| *v == Some(vpc));
        of.map(|(i, _)| format!("10.{i}.0.0/24").parse().unwrap()).collect()
    };
    let vpc = |v: u8| NodeVpc {
        uid: format!("vpc-uid-{v}"),
        key: format!("default/vpc{v}"),
        vni: Vni::new(5000 + u32::from(v)).ok(),
        mtu: Mtu::new(1450).unwrap(),
        fabric: "mgmt".into(),
        subnets: subnets(v),
        static_routes: [("172.16.0.0/12".parse().unwrap(), IpAddr::from([10, v, 0, 101]))].into(),
        policy_routes: vec![
            NodePolicyRoute {
                from: "10.0.0.0/8".parse().unwrap(),
                to: "0.0.0.0/0".parse().unwrap(),
                action: Steer::Hop([10, v, 0, 101].into()),
            },
            NodePolicyRoute { from: "::/0".parse().unwrap(), to: "fd00::/8".parse().unwrap(), action: Steer::Drop },
        ],
        peers: vec![VpcPeer { uid: format!("vpc-uid-{}", 1 - v), subnets: subnets(1 - v) }],
    };
    vec![vpc(0), vpc(1)]
}

/// No device, one of the node's own, or a bond of one or two.
fn fabric(nics: usize) -> Fabric {
    let device = |n: &str| Some(IfName::new(n).unwrap());
    match nics {
        0 => Fabric::default(),
        1 => Fabric { device: device("eth9"), bond: None },
        n => Fabric {
            device: device("mhu00000000001"),
            bond: Some(Bond {
                alias: "fabric mgmt".into(),
                mode: BondMode::ActiveBackup,
                miimon: 100,
                nics: ["eth1", "eth2"][..n - 1].iter().map(|n| IfName::new(*n).unwrap()).collect(),
                mtu: Mtu::ETHERNET,
            }),
        },
    }
}

fn policy(group: usize, strict: bool) -> Policy {
    let peers = Peers { nets: Default::default(), groups: [format!("g{group}")].into() };
    let rule = Rule {
        id: "r".into(),
        action: RuleAction::Allow,
        protocol: None,
        ports: vec![],
        icmp: None,
        peers: Some(peers),
    };
    let otherwise = if strict { RuleAction::Deny } else { RuleAction::Allow };
    let open = Rules { rules: vec![], otherwise: RuleAction::Allow };
    Policy { ingress: Rules { rules: vec![rule], otherwise }, egress: open }
}

fn mirror(to: usize, both: bool) -> NodeMirror {
    let direction = if both { MirrorDirection::Both } else { MirrorDirection::Egress };
    NodeMirror { to: format!("nic-{to}"), direction }
}

type Net = (NetworkType, Option<u8>, u32);

/// For every other NIC an address of network 4: all of it here, or a port that leads to all NICs of its network everywhere and is
/// here or on another node.
fn floating(nets: &[Net], nics: &[(usize, bool, u32)], remote: &[(usize, bool, u8)]) -> Vec<NodeFloating> {
    let here = |net: usize| {
        let own = nics.iter().enumerate().filter(move |(_, n)| n.0 == net);
        own.map(move |(i, _)| IpAddr::from([10, net as u8, 0, 10 + i as u8]))
    };
    let there = |net: usize| {
        let others = remote.iter().enumerate().filter(move |(_, n)| n.0 == net);
        others.map(move |(i, _)| IpAddr::from([10, net as u8, 0, 100 + i as u8]))
    };
    let led = nics.iter().enumerate().filter(|(i, (net, ..))| i % 2 == 0 && *net != 4);
    led.map(|(i, (net, strict, queues))| NodeFloating {
        uid: format!("floating-{i}"),
        key: format!("default/floating{i}"),
        network: "default/net4".into(),
        address: [10, 4, 0, 200 + i as u8].into(),
        node: if *strict { "node0".into() } else { format!("node{}", queues - 1) },
        domain: match nets.get(*net).and_then(|n| n.1) {
            Some(v) => format!("vpc-uid-{v}"),
            None => format!("network-{net}"),
        },
        target: strict.then_some([10, *net as u8, 0, 10 + i as u8].into()),
        forwards: (!strict)
            .then(|| Forward {
                transport: Transport::Tcp,
                port: 80,
                target: 8080,
                backends: here(*net).chain(there(*net)).collect(),
            })
            .into_iter()
            .collect(),
        algorithm: if i % 4 == 0 { Algorithm::RoundRobin } else { Algorithm::Source },
    })
    .collect()
}

fn inputs() -> impl Strategy<Value = NodeInput> {
    let kind = proptest::sample::select(vec![
        NetworkType::Management,
        NetworkType::Vlan,
        NetworkType::VlanTrunk,
        NetworkType::Untagged,
        NetworkType::Overlay,
    ]);
    let nets = proptest::collection::vec((kind, proptest::option::of(0u8..2), 1280u32..9000), 1..5);
    let nics = proptest::collection::vec((0usize..5, any::<bool>(), 1u32..3), 0..8);
    let remote = proptest::collection::vec((0usize..5, any::<bool>(), 1u8..3), 0..8);
    (nets, nics, 0usize..4, remote).prop_map(|(nets, nics, uplink, remote)| NodeInput {
        remote: remote
            .iter()
            .enumerate()
            .map(|(i, (net, strict, node))| RemoteNic {
                network: format!("default/net{net}"),
                vpc: nets.get(*net).and_then(|(_, v, _)| v.map(|v| format!("vpc-uid-{v}"))),
                mac: MacAddr([2, 0, 0, 0, 1, i as u8]),
                addresses: vec![IpAddr::from([10, *net as u8, 0, 100 + i as u8])],
                security: if *strict { PortSecurity::Strict } else { PortSecurity::Promiscuous },
                node: format!("node{node}"),
                via: Some(IpAddr::from([192, 0, 2, *node])),
            })
            .collect(),
        tunnels: [("mgmt".to_owned(), (0..3).map(|n: u8| (format!("node{n}"), [192, 0, 2, n].into())).collect())]
            .into(),
        node: NodeFacts {
            name: "node0".into(),
            fabrics: [("mgmt".to_owned(), fabric(uplink))].into(),
            ..NodeFacts::default()
        },
        floating: floating(&nets, &nics, &remote),
        vpcs: vpcs(&nets),
        policies: nics
            .iter()
            .enumerate()
            .filter(|(_, (net, ..))| net % 2 == 0)
            .map(|(i, (net, strict, _))| (format!("nic-{i}"), policy(*net, *strict)))
            .collect(),
        // Some lead to NICs that are mirrored themselves, some to one that is not here.
        mirrors: nics
            .iter()
            .enumerate()
            .filter(|(i, (net, ..))| (i + net) % 3 == 0)
            .map(|(i, (net, strict, _))| (format!("nic-{i}"), mirror((i + 1 + net) % (nics.len() + 1), *strict)))
            .collect(),
        members: (0..3usize)
            .map(|g| (format!("g{g}"), [IpAddr::from([10, g as u8, 0, nics.len() as u8])].into()))
            .collect(),
        networks: nets.iter().enumerate().map(|(i, (k, v, m))| network(i, *k, *v, *m)).collect(),
        nics: nics
            .iter()
            .enumerate()
            .map(|(i, (net, strict, queues))| NodeNic {
                uid: format!("nic-{i}"),
                key: format!("default/nic{i}"),
                network: format!("default/net{net}"),
                mac: MacAddr([2, 0, 0, 0, 0, i as u8]),
                addresses: vec![IpAddr::from([10, *net as u8, 0, 10 + i as u8])],
                security: if *strict { PortSecurity::Strict } else { PortSecurity::Promiscuous },
                queues: *queues,
                tx_queue_length: None,
                bandwidth: Bandwidth::default(),
            })
            .collect(),
    })
}

fn applied(mut state: NodeState, steps: &[Step]) -> NodeState {
    steps.iter().for_each(|s| simulate(&mut state, s));
    state
}

proptest! {
    #[test]
    fn applying_and_observing_again_leaves_nothing_to_do(a in inputs()) {
        let want = build(&a);
        let have = applied(NodeState::default(), &diff(&NodeState::default(), &want));
        prop_assert_eq!(&have, &want);
        prop_assert!(diff(&have, &want).is_empty());
    }

    #[test]
    fn two_plans_in_a_row_end_where_the_last_alone_would(a in inputs(), b in inputs()) {
        let (first, second) = (build(&a), build(&b));
        let have = applied(NodeState::default(), &diff(&NodeState::default(), &first));
        let have = applied(have.clone(), &diff(&have, &second));
        prop_assert_eq!(have, second);
    }

    #[test]
    fn an_interrupted_plan_converges(a in inputs(), b in inputs(), cut in 0usize..60) {
        let (first, second) = (build(&a), build(&b));
        let steps = diff(&first, &second);
        let have = applied(first, &steps[..cut.min(steps.len())]);
        let have = applied(have.clone(), &diff(&have, &second));
        prop_assert_eq!(have, second);
    }

    #[test]
    fn the_order_of_resources_does_not_matter(mut a in inputs()) {
        let before = build(&a);
        a.networks.reverse();
        a.nics.reverse();
        a.remote.reverse();
        a.vpcs.reverse();
        prop_assert_eq!(build(&a), before);
    }

    #[test]
    fn no_tap_joins_a_bridge_before_its_facts(a in inputs()) {
        let steps = diff(&NodeState::default(), &build(&a));
        for (i, step) in steps.iter().enumerate() {
            if let Step::PutTap(name, _) = step {
                let fact = steps.iter().position(|s| matches!(s, Step::PutPort(n, _) if n == name));
                prop_assert!(fact.is_some_and(|f| f < i));
            }
        }
    }

    #[test]
    fn policies_are_there_before_their_ports_and_name_groups_that_are_there(a in inputs(), b in inputs()) {
        let (before, after) = (build(&a), build(&b));
        for state in [&before, &after] {
            prop_assert!(state.policies.values().all(|p| !p.is_open()));
            let named: std::collections::BTreeSet<&String> = state.policies.values().flat_map(|p| p.groups()).collect();
            prop_assert_eq!(named, state.members.keys().collect());
            prop_assert!(state.policies.keys().all(|n| state.ports.contains_key(n)));
        }
        let mut state = before.clone();
        for step in diff(&before, &after) {
            simulate(&mut state, &step);
            // At every moment rules name groups that are there, and a port that is to have rules has some.
            prop_assert!(state.policies.values().flat_map(|p| p.groups()).all(|g| state.members.contains_key(g)));
            if let Step::PutPort(name, _) = &step {
                prop_assert!(!after.policies.contains_key(name) || state.policies.contains_key(name));
            }
        }
    }

    #[test]
    fn mirrors_lead_from_taps_to_taps_at_every_moment(a in inputs(), b in inputs()) {
        let (before, after) = (build(&a), build(&b));
        for state in [&before, &after] {
            // A copy is never copied again.
            prop_assert!(state.mirrors.values().all(|m| !state.mirrors.contains_key(&m.to)));
        }
        let kept = |tap: &IfName| match (before.taps.get(tap), after.taps.get(tap)) {
            (Some(old), Some(new)) => (old.queues > 1) == (new.queues > 1),
            _ => false,
        };
        let steps = diff(&before, &after);
        let mut state = before.clone();
        for step in &steps {
            simulate(&mut state, step);
            prop_assert!(state.mirrors.iter().all(|(n, m)| state.taps.contains_key(n) && state.taps.contains_key(&m.to)));
        }
        // One that leads to a device that is made anew is made anew, and no other.
        for (name, mirror) in &after.mirrors {
            let same = before.mirrors.get(name) == Some(mirror) && kept(name) && kept(&mirror.to);
            prop_assert_eq!(!same, steps.iter().any(|s| matches!(s, Step::PutMirror(n, _) if n == name)));
        }
    }

    #[test]
    fn a_bond_is_there_before_what_rides_on_it_and_goes_after_it(a in inputs(), b in inputs()) {
        let before = build(&a);
        let steps = diff(&before, &build(&b));
        let at = |f: fn(&Step) -> bool| steps.iter().position(f);
        if let (Some(bond), Some(uplink)) = (at(|s| matches!(s, Step::PutBond(..))), at(|s| matches!(s, Step::PutUplink(..) | Step::PutFabric(..)))) {
            prop_assert!(bond < uplink || matches!(&steps[uplink], Step::PutFabric(_, f) if f.uplink.is_none()));
        }
        for (i, step) in steps.iter().enumerate() {
            let Step::DeleteBond(bond) = step else { continue };
            let rides = |name: &IfName| match &before.uplinks[name].kind {
                UplinkKind::Vlan { parent, .. } => parent == bond,
                _ => name == bond,
            };
            prop_assert!(!steps[i..].iter().any(|s| matches!(s, Step::DeleteUplink(name) if rides(name))));
        }
    }

    #[test]
    fn every_overlay_here_knows_the_nics_elsewhere_and_no_others(a in inputs()) {
        let state = build(&a);
        for network in a.networks.iter().filter(|n| n.vni.is_some()) {
            let device = multihome_model::names::device("mhx", &network.uid);
            let own = a.nics.iter().any(|n| n.network == network.key);
            let with = |vpc: &str| a.networks.iter().filter(move |n| n.vpc_uid.as_deref() == Some(vpc)).any(|n| a.nics.iter().any(|nic| nic.network == n.key));
            let led = |v: &NodeVpc| with(&v.uid) && network.vpc_uid.as_ref() == Some(&v.uid) && v.policy_routes.iter().filter_map(|r| r.action.hop()).any(|hop| network.spec.ipv4.as_ref().is_some_and(|s| s.cidr.contains(&hop)));
            let carried = own || a.vpcs.iter().any(led);
            let known = state.remotes.get(&device).map(|r| r.hosts.keys().copied().collect::<Vec<_>>());
            let mut wanted: Vec<MacAddr> = a.remote.iter().filter(|n| n.network == network.key).map(|n| n.mac).collect();
            wanted.sort();
            prop_assert_eq!(known, carried.then_some(wanted));
            if let Some(known) = state.remotes.get(&device) {
                let nodes: std::collections::BTreeSet<_> = known.hosts.values().map(|h| h.via).collect();
                prop_assert_eq!(&known.flood.nodes, &nodes);
            }
        }
    }

    #[test]
    fn routes_of_a_domain_lead_where_there_is_something(a in inputs()) {
        for domain in build(&a).domains.values() {
            for (to, via) in &domain.routes {
                match via {
                    Via::Router(mac) => prop_assert!(domain.router.as_ref().is_some_and(|r| r.nodes.contains_key(mac))),
                    Via::Peer(device) => prop_assert!(domain.peers.contains_key(device)),
                    Via::Hop(hop) => prop_assert!(domain.legs.values().flat_map(|l| &l.addresses).any(|n| n.contains(hop))),
                    Via::Unreachable => {}
                }
                prop_assert!(domain.legs.values().flat_map(|l| &l.addresses).all(|n| n.trunc() != *to), "{to} is on a leg");
            }
            for route in &domain.policy_routes {
                prop_assert_eq!(route.from.addr().is_ipv4(), route.to.addr().is_ipv4());
                let leg = domain.legs.values().find(|l| l.peer == route.leg);
                let Some(hop) = route.action.hop() else { continue };
                prop_assert!(leg.is_some_and(|l| !l.addresses.iter().any(|n| n.contains(&hop))), "not what the hop itself sends");
                prop_assert!(domain.legs.values().flat_map(|l| &l.addresses).any(|n| n.contains(&hop)), "{hop} is on no leg");
            }
        }
    }

    #[test]
    fn conversations_go_back_to_the_node_that_has_the_address(a in inputs()) {
        let state = build(&a);
        let mine: Vec<IpAddr> = a.nics.iter().flat_map(|n| n.addresses.clone()).collect();
        for domain in state.domains.values() {
            // What is here is translated here.
            for f in domain.floating.values() {
                prop_assert!(a.floating.iter().any(|o| o.address == f.address && o.node == "node0"));
                prop_assert_eq!(f.target.is_some(), f.forwards.is_empty());
                prop_assert!(f.forwards.iter().all(|w| !w.backends.is_empty()));
            }
            let mut tables = std::collections::BTreeSet::new();
            for (router, back) in &domain.returns.routers {
                prop_assert!(domain.router.as_ref().is_some_and(|r| r.nodes.contains_key(router)), "the tunnel leads there");
                prop_assert!(tables.insert(back.table) && RETURN_TABLES.contains(&back.table));
                prop_assert!(!back.targets.is_empty() && back.targets.iter().all(|t| mine.contains(&t.address)));
            }
            prop_assert_eq!(domain.returns.inside.is_empty(), domain.returns.routers.is_empty());
        }
        for f in a.floating.iter().filter(|f| f.node != "node0") {
            let in_it = |n: &NodeNic| a.networks.iter().any(|o| o.key == n.network && o.vpc_uid.as_ref() == Some(&f.domain));
            let mine: Vec<IpAddr> = a.nics.iter().filter(|n| in_it(n)).flat_map(|n| n.addresses.clone()).collect();
            let here = f.forwards.iter().flat_map(|w| &w.backends).filter(|b| mine.contains(b));
            let Some(domain) = state.domains.get(&vpc_domain(&f.domain)) else { continue };
            let router = router_mac(&f.domain, &f.node);
            if !domain.router.as_ref().is_some_and(|r| r.nodes.contains_key(&router)) {
                continue;
            }
            for address in here {
                let target = Target { address: *address, transport: Transport::Tcp, port: 8080 };
                prop_assert!(domain.returns.routers.get(&router).is_some_and(|r| r.targets.contains(&target)), "{address}");
            }
        }
    }

    #[test]
    fn both_ends_of_a_peering_are_there_or_none(a in inputs()) {
        let state = build(&a);
        for (ns, domain) in &state.domains {
            for peer in domain.peers.values() {
                let other = state.domains.get(&peer.domain);
                prop_assert!(other.is_some_and(|o| o.peers.values().any(|p| p.domain == *ns)));
            }
        }
    }

    #[test]
    fn transit_addresses_never_collide(a in inputs()) {
        let state = build(&a);
        let mut seen = std::collections::BTreeSet::new();
        for egress in state.domains.values().filter_map(|d| d.egress.as_ref()) {
            prop_assert!(TRANSIT.contains(&egress.host_address) && TRANSIT.contains(&egress.peer_address));
            prop_assert!(seen.insert(egress.host_address) && seen.insert(egress.peer_address));
        }
    }

    #[test]
    fn strict_ports_name_their_own_addresses_only(a in inputs()) {
        let state = build(&a);
        for nic in &a.nics {
            let tap = multihome_plan::node::tap_name(&nic.uid);
            if let Some(Security::Strict { mac, ipv4, .. }) = state.ports.get(&tap).map(|p| &p.security) {
                prop_assert_eq!(*mac, nic.mac);
                prop_assert!(ipv4.iter().all(|x| nic.addresses.contains(&IpAddr::V4(*x))));
            }
        }
    }
}

/// Networks of these kinds, one NIC on each of those that are said to have one, on a fabric with eth9.
fn riders(kinds: &[(NetworkType, bool)]) -> NodeInput {
    let networks: Vec<NodeNetwork> =
        kinds.iter().enumerate().map(|(i, (k, _))| network(i, *k, None, 1500 + i as u32)).collect();
    let with_nic = kinds.iter().enumerate().filter(|(_, (_, nic))| *nic);
    let nics = with_nic.map(|(i, _)| NodeNic {
        uid: format!("nic-{i}"),
        key: format!("default/nic{i}"),
        network: format!("default/net{i}"),
        mac: MacAddr([2, 0, 0, 0, 0, i as u8]),
        addresses: vec![],
        security: PortSecurity::Strict,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    });
    let node = NodeFacts { fabrics: [("mgmt".to_owned(), fabric(1))].into(), ..NodeFacts::default() };
    NodeInput { node, nics: nics.collect(), networks, ..NodeInput::default() }
}

fn vlan_id(id: u32) -> VlanId {
    VlanId::new(id).unwrap()
}

/// The kind of a network's uplink.
fn uplink_of<'a>(state: &'a NodeState, input: &NodeInput, i: usize) -> Option<&'a Uplink> {
    let bridge = multihome_plan::node::bridge_name(&input.networks[i]);
    state.uplinks.values().find(|u| u.bridge == bridge)
}

#[test]
fn a_trunk_brings_the_fabrics_bridge_and_takes_it_along() {
    use NetworkType::{Untagged, Vlan, VlanTrunk};
    let kinds = |trunk| [(Vlan, true), (VlanTrunk, trunk), (Untagged, true), (Vlan, false)];
    let (with, without) = (riders(&kinds(true)), riders(&kinds(false)));
    let (after, before) = (build(&with), build(&without));
    let eth9 = IfName::new("eth9").unwrap();
    assert!(before.fabrics.is_empty());
    let direct = UplinkKind::Vlan { parent: eth9.clone(), id: vlan_id(100) };
    assert_eq!(uplink_of(&before, &without, 0).unwrap().kind, direct);
    assert_eq!(uplink_of(&before, &without, 2).unwrap().kind, UplinkKind::Device);

    let bridge = &after.fabrics[&fabric_name("mgmt")];
    let uplink = bridge.uplink.as_ref().unwrap();
    // What nobody has a NIC on is not asked for; 4089 is the highest id that is not.
    assert_eq!((&uplink.device, uplink.tagged.to_string()), (&eth9, "100-101,201,4090-4094".into()));
    assert_eq!((uplink.untagged, bridge.inside.to_string()), (Some(vlan_id(4089)), "100,4089".into()));
    assert_eq!(bridge.mtu.get(), 1502);
    let inside = |id| UplinkKind::Vlan { parent: fabric_name("mgmt"), id: vlan_id(id) };
    assert_eq!(uplink_of(&after, &with, 0).unwrap().kind, inside(100));
    assert_eq!(uplink_of(&after, &with, 2).unwrap().kind, inside(4089));
    let tap = &after.taps[&multihome_plan::node::tap_name("nic-1")];
    let vlans = tap.vlans.as_ref().unwrap();
    assert_eq!((vlans.tagged.to_string(), vlans.native), ("100-101,4090-4094".into(), Some(vlan_id(201))));
    assert_eq!(after.ports[&multihome_plan::node::tap_name("nic-1")].security, Security::Trunk(Some(with.nics[1].mac)));

    // In both directions what was goes only when there is something in its place, and nothing else is touched.
    let names: fn(&Step) -> String = |s| format!("{s:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
    let steps = |a, b| diff(a, b).iter().map(names).collect::<Vec<_>>();
    assert_eq!(
        steps(&before, &after),
        ["PutFabric", "PutUplink", "PutUplink", "PutPort", "PutTap", "DeleteUplink"],
        "eth9 itself is taken over"
    );
    let back = ["DeleteTap", "DeletePort", "PutUplink", "PutUplink", "DeleteUplink", "DeleteUplink", "DeleteFabric"];
    assert_eq!(steps(&after, &before), back);
}

#[test]
fn a_fabric_that_cannot_be_a_trunk_here_carries_the_rest_as_ever() {
    use NetworkType::{Vlan, VlanTrunk};
    let mut input = riders(&[(Vlan, true), (VlanTrunk, true)]);
    input.node.no_trunks.insert("mgmt".into(), "its kernel cannot".into());
    let alone = build(&riders(&[(Vlan, true), (VlanTrunk, false)]));
    let mut state = build(&input);
    // The VM with the trunk NIC runs, and reaches nobody.
    let tap = state.taps.remove(&multihome_plan::node::tap_name("nic-1")).unwrap();
    let port = state.ports.remove(&multihome_plan::node::tap_name("nic-1")).unwrap();
    assert!(tap.vlans.is_none() && matches!(port.security, Security::Strict { ref ipv4, .. } if ipv4.is_empty()));
    assert!(state.uplinks.values().all(|u| u.bridge != tap.bridge));
    state.bridges.remove(&tap.bridge).unwrap();
    assert_eq!(state, alone);
}

#[test]
fn another_vlan_is_another_uplink_and_nothing_else() {
    let input = riders(&[(NetworkType::Vlan, true)]);
    let mut changed = input.clone();
    changed.networks[0].spec.vlan = Some(vlan_id(300));
    let steps = diff(&build(&input), &build(&changed));
    assert!(matches!(&steps[..], [Step::PutUplink(new, _), Step::DeleteUplink(old)] if new != old), "{steps:?}");
}

#[test]
fn networks_that_share_a_vlan_share_a_bridge_and_its_uplink() {
    use NetworkType::Vlan;
    let mut input = riders(&[(Vlan, true), (Vlan, true), (Vlan, true)]);
    for n in &mut input.networks[..2] {
        (n.spec.vlan, n.spec.shares_vlan) = (Some(vlan_id(100)), true);
    }
    let state = build(&input);
    assert_eq!((state.bridges.len(), state.uplinks.len(), state.taps.len()), (2, 2, 3));
    let bridge = |i: usize| &state.taps[&multihome_plan::node::tap_name(&format!("nic-{i}"))].bridge;
    assert!(bridge(0) == bridge(1) && bridge(1) != bridge(2));
    assert_eq!((state.bridges[bridge(0)].mtu.get(), uplink_of(&state, &input, 0).unwrap().mtu.get()), (1501, 1501));
    assert_eq!(state.bridges[bridge(0)].alias, "net VLAN 100 of mgmt");
}

#[test]
fn a_trunk_of_every_vlan_leaves_none_for_what_has_no_tag() {
    use NetworkType::{Untagged, VlanTrunk};
    let mut input = riders(&[(VlanTrunk, true), (Untagged, true)]);
    input.networks[0].spec.trunk = multihome_model::VlanSet::all();
    let state = build(&input);
    assert_eq!(state.fabrics[&fabric_name("mgmt")].uplink.as_ref().unwrap().untagged, None);
    assert_eq!(uplink_of(&state, &input, 1), None);
}

#[test]
fn a_gateway_on_a_wire_is_the_nodes_own_and_asked_of_nobody_there() {
    use NetworkType::{Overlay, Untagged, Vlan};
    let on = |node: &str| {
        let mut input = riders(&[(Untagged, true), (Overlay, true), (Vlan, true)]);
        input.node.name = node.into();
        for i in [0, 1] {
            input.networks[i] = network(i, input.networks[i].spec.kind, Some(0), 1500);
        }
        (build(&input), input)
    };
    let ((first, input), (second, _)) = (on("node1"), on("node2"));
    let mac = |state: &NodeState, i: usize| {
        let legs = state.domains.values().flat_map(|d| d.legs.values());
        legs.filter(|l| l.alias == format!("gateway default/net{i}")).map(|l| l.mac).collect::<Vec<_>>()
    };
    assert_ne!(mac(&first, 0), mac(&second, 0), "a switch sees both");
    assert_eq!(mac(&first, 0), [gateway_mac("network-0", Untagged, "node1")]);
    assert_eq!(mac(&first, 1), mac(&second, 1), "a tunnel carries neither");
    let own = |i: usize| uplink_of(&first, &input, i).unwrap().own.iter().copied().collect::<Vec<_>>();
    assert_eq!(own(0), [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(own(1), [] as [IpAddr; 0], "what a tunnel is not asked for stands with what it knows");
    assert_eq!(own(2), [] as [IpAddr; 0], "somebody else's gateway is asked for");
}
