//! Tunnels of a fabric with an underlay of its own.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use multihome_model::checked::check_network;
use multihome_model::{Bandwidth, IpFamilySpec, MacAddr, Mtu, NetworkSpec, NetworkType, PortSecurity, Vni, names};
use multihome_plan::node::{
    NodeFacts, NodeInput, NodeNetwork, NodeNic, NodeState, NodeVpc, RemoteNic, UplinkKind, Via, build, vpc_domain,
};

const NETWORKS: [&str; 2] = ["mgmt", "storage"];

fn network(n: usize, fabric: &str) -> NodeNetwork {
    let spec = NetworkSpec {
        r#type: NetworkType::Overlay,
        vpc: Some("shop".into()),
        cluster_network: Some(fabric.into()),
        ipv4: Some(IpFamilySpec {
            cidr: Some(format!("10.{n}.0.0/24")),
            gateway: Some(format!("10.{n}.0.1")),
            ..Default::default()
        }),
        ..Default::default()
    };
    NodeNetwork {
        uid: format!("net-{n}"),
        key: format!("default/net{n}"),
        spec: check_network("net", &spec).unwrap(),
        mtu: Mtu::new(1450).unwrap(),
        vni: Vni::new(100 + n as u32).ok(),
        vpc_uid: Some("vpc-uid".into()),
    }
}

fn nic(n: usize) -> NodeNic {
    NodeNic {
        uid: format!("nic-{n}"),
        key: format!("default/nic{n}"),
        network: format!("default/net{n}"),
        mac: MacAddr([2, 0, 0, 0, 0, n as u8]),
        addresses: vec![IpAddr::from([10, n as u8, 0, 10])],
        security: PortSecurity::Strict,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with a network on each fabric, both in one Vpc whose tunnels go by `fabric`, and a node beside it with a NIC on each.
fn input(own: Option<&str>, other: Option<&str>, fabric: &str) -> NodeInput {
    let there = |n: usize| RemoteNic {
        network: format!("default/net{n}"),
        vpc: Some("vpc-uid".into()),
        mac: MacAddr([2, 0, 0, 0, 1, n as u8]),
        addresses: vec![IpAddr::from([10, n as u8, 0, 20])],
        security: PortSecurity::Strict,
        node: "node2".into(),
        via: if n == 0 { Some(address("192.0.2.2")) } else { other.map(address) },
    };
    let ends = |first: Option<&str>, second: Option<&str>| {
        let all = [("node1", first), ("node2", second)].into_iter();
        all.filter_map(|(n, a)| Some((n.to_owned(), address(a?)))).collect()
    };
    NodeInput {
        node: NodeFacts {
            name: "node1".into(),
            tunnel_address: Some(address("192.0.2.1")),
            underlays: [("storage".to_owned(), own.map(address))].into(),
            ..NodeFacts::default()
        },
        networks: NETWORKS.iter().enumerate().map(|(n, f)| network(n, f)).collect(),
        nics: (0..2).map(nic).collect(),
        remote: (0..2).map(there).collect(),
        tunnels: [
            ("mgmt".to_owned(), ends(Some("192.0.2.1"), Some("192.0.2.2"))),
            ("storage".to_owned(), ends(own, other)),
        ]
        .into(),
        vpcs: vec![NodeVpc {
            uid: "vpc-uid".into(),
            key: "default/shop".into(),
            vni: Vni::new(5000).ok(),
            mtu: Mtu::new(1450).unwrap(),
            fabric: fabric.into(),
            subnets: (0..2).map(|n| format!("10.{n}.0.0/24").parse().unwrap()).collect(),
            static_routes: Default::default(),
            policy_routes: vec![],
            peers: vec![],
        }],
        ..NodeInput::default()
    }
}

/// From where to where the tunnel of each network goes.
fn tunnels(state: &NodeState) -> Vec<(Option<IpAddr>, Vec<IpAddr>)> {
    let of = |n: usize| {
        let device = names::device(names::VXLAN, &format!("net-{n}"));
        let UplinkKind::Vxlan { local, .. } = state.uplinks[&device].kind else { panic!("{device}") };
        let remotes = &state.remotes[&device];
        assert!(remotes.hosts.values().all(|h| remotes.flood.nodes.contains(&h.via)));
        (local, remotes.flood.nodes.iter().copied().collect())
    };
    (0..2).map(of).collect()
}

#[test]
fn each_network_goes_by_the_underlay_of_its_fabric_and_a_vpc_by_that_of_its_own() {
    let state = build(&input(Some("10.20.0.1"), Some("10.20.0.2"), "mgmt"));
    let [mgmt, storage] = [("192.0.2.1", "192.0.2.2"), ("10.20.0.1", "10.20.0.2")];
    let ends = |(local, remote)| (Some(address(local)), vec![address(remote)]);
    assert_eq!(tunnels(&state), [ends(mgmt), ends(storage)]);
    let router = |state: &NodeState| {
        let router = state.domains[&vpc_domain("vpc-uid")].router.clone().unwrap();
        (router.local, router.nodes.into_values().collect())
    };
    assert_eq!(router(&state), ends(mgmt));
    let state = build(&input(Some("10.20.0.1"), Some("10.20.0.2"), "storage"));
    assert_eq!(router(&state), ends(storage));
}

#[test]
fn a_node_without_an_address_in_the_underlay_is_not_reached_by_it_and_by_others_it_is() {
    let state = build(&input(Some("10.20.0.1"), None, "storage"));
    assert_eq!(tunnels(&state)[0].1, [address("192.0.2.2")]);
    assert_eq!(tunnels(&state)[1], (Some(address("10.20.0.1")), vec![]));
    let domain = &state.domains[&vpc_domain("vpc-uid")];
    assert_eq!(domain.router, None);
    assert!(!domain.routes.values().any(|v| matches!(v, Via::Router(_))), "{:?}", domain.routes);
    // Nor does it fall back to another way.
    assert_eq!(tunnels(&build(&input(None, Some("10.20.0.2"), "mgmt")))[1].0, None);
}
