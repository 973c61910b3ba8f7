//! The node plan and its diff, for random nodes: what the engines rely on.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::checked::check_network;
use multihome_model::{
    BondMode, IfName, IpFamilySpec, MacAddr, Mtu, NetworkSpec, NetworkType, PortSecurity, VlanSpec, Vni,
};
use multihome_plan::node::{
    Bond, Fabric, Forward, NodeFacts, NodeFloating, NodeInput, NodeNetwork, NodeNic, NodeState, NodeVpc, RemoteNic,
    Security, Step, TRANSIT, Transport, Via, VpcPeer, build, diff, simulate,
};
use proptest::prelude::*;

fn network(i: usize, kind: NetworkType, vpc: Option<u8>, mtu: u32) -> NodeNetwork {
    let spec = NetworkSpec {
        r#type: kind,
        vlan: (kind == NetworkType::Vlan).then(|| VlanSpec { id: Some(100 + i as u32), trunk: vec![] }),
        vpc: vpc.map(|v| format!("vpc{v}")),
        ipv4: Some(IpFamilySpec {
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
        subnets: subnets(v),
        static_routes: [("172.16.0.0/12".parse().unwrap(), IpAddr::from([10, v, 0, 101]))].into(),
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

fn inputs() -> impl Strategy<Value = NodeInput> {
    let kind = prop_oneof![Just(NetworkType::Management), Just(NetworkType::Vlan), Just(NetworkType::Overlay)];
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
                via: IpAddr::from([192, 0, 2, *node]),
            })
            .collect(),
        node: NodeFacts {
            name: "node0".into(),
            fabrics: [("mgmt".to_owned(), fabric(uplink))].into(),
            tunnel_address: None,
        },
        floating: nics
            .iter()
            .enumerate()
            .filter(|(i, (net, ..))| i % 2 == 0 && *net != 4)
            .map(|(i, (net, strict, _))| NodeFloating {
                uid: format!("floating-{i}"),
                key: format!("default/floating{i}"),
                network: "default/net4".into(),
                address: [10, 4, 0, 200 + i as u8].into(),
                nic: format!("nic-{i}"),
                target: [10, *net as u8, 0, 10 + i as u8].into(),
                forwards: (!strict)
                    .then_some(Forward { transport: Transport::Tcp, port: 80, target: 8080 })
                    .into_iter()
                    .collect(),
            })
            .collect(),
        vpcs: vpcs(&nets),
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
    fn a_bond_is_there_before_what_rides_on_it_and_goes_after_it(a in inputs(), b in inputs()) {
        let steps = diff(&build(&a), &build(&b));
        let at = |f: fn(&Step) -> bool| steps.iter().position(f);
        let last = |f: fn(&Step) -> bool| steps.iter().rposition(f);
        if let (Some(bond), Some(uplink)) = (at(|s| matches!(s, Step::PutBond(..))), at(|s| matches!(s, Step::PutUplink(..)))) {
            prop_assert!(bond < uplink);
        }
        if let (Some(bond), Some(uplink)) = (at(|s| matches!(s, Step::DeleteBond(_))), last(|s| matches!(s, Step::DeleteUplink(_)))) {
            prop_assert!(uplink < bond);
        }
    }

    #[test]
    fn every_overlay_here_knows_the_nics_elsewhere_and_no_others(a in inputs()) {
        let state = build(&a);
        for network in a.networks.iter().filter(|n| n.vni.is_some()) {
            let device = multihome_model::names::device("mhx", &network.uid);
            let carried = a.nics.iter().any(|n| n.network == network.key);
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
