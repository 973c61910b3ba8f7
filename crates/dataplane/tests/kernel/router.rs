//! Routing domains on two nodes, from the plan: between subnets, to a domain that peers, and by routes that the user wrote.

use std::net::IpAddr;

use multihome_model::checked::check_network;
use multihome_model::{IpFamilySpec, NetworkSpec, NetworkType, PortSecurity};
use multihome_plan::node::{NodeFacts, NodeInput, NodeNetwork, NodeNic, NodeVpc, RemoteNic, Via, VpcPeer, build};

use super::*;

const NODES: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

/// Lays a cable between two hosts.
pub(super) fn connect(a: &Host, b: &Host) {
    let up = || LinkChange { up: Some(true), ..LinkChange::default() };
    let peer = VethPeer { name: "wire", netns: Some(b.netns.as_fd()), mac: None, mtu: None };
    let kind = LinkKind::Veth { peer };
    Rtnl::open_in(&a.netns).unwrap().create(&NewLink { name: "wire", kind, change: up() }).unwrap();
    for (host, address) in [a, b].into_iter().zip(NODES) {
        let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
        let index = rtnl.index("wire").unwrap();
        rtnl.change(index, &up()).unwrap();
        rtnl.address_set(&Address { index, ip: address.parse().unwrap(), prefix: 24 }, true).unwrap();
    }
}

/// Network 10.N.0.0/24 of a domain.
fn overlay(n: u8, vpc: &str) -> NodeNetwork {
    let spec = NetworkSpec {
        r#type: NetworkType::Overlay,
        vpc: Some(vpc.into()),
        ipv4: Some(IpFamilySpec {
            cidr: Some(format!("10.{n}.0.0/24")),
            gateway: Some(format!("10.{n}.0.1")),
            ..Default::default()
        }),
        ..Default::default()
    };
    NodeNetwork {
        uid: format!("net{n}"),
        key: format!("default/net{n}"),
        spec: check_network("net", &spec).unwrap(),
        mtu: Mtu::new(1450).unwrap(),
        vni: Vni::new(100 + u32::from(n)).ok(),
        vpc_uid: Some(vpc.into()),
    }
}

/// A NIC: network, last byte of address and MAC, and the node that has it.
pub(super) type Place = (u8, u8, usize);

/// What a node is told where these NICs are where they are: domain red has networks 1 to 5, blue 6 and up.
pub(super) fn input(node: usize, nics: &[Place]) -> NodeInput {
    let vpc_of = |n: u8| if n < 6 { "red" } else { "blue" };
    let address = |(n, m, _): &Place| IpAddr::from([10, *n, 0, *m]);
    let here = nics.iter().filter(|p| p.2 == node);
    let networks: BTreeSet<u8> = here.clone().map(|p| p.0).collect();
    let subnets = |vpc: &str| -> BTreeSet<IpNet> {
        let of = nics.iter().filter(|p| vpc_of(p.0) == vpc);
        of.map(|p| format!("10.{}.0.0/24", p.0).parse().unwrap()).collect()
    };
    let vpc = |uid: &str, other: &str, vni: u32| NodeVpc {
        uid: uid.into(),
        key: format!("default/{uid}"),
        vni: Vni::new(vni).ok(),
        mtu: Mtu::new(1450).unwrap(),
        fabric: "mgmt".into(),
        subnets: subnets(uid),
        static_routes: [("172.16.5.0/24".parse().unwrap(), "10.2.0.20".parse().unwrap())].into(),
        policy_routes: vec![],
        peers: vec![VpcPeer { uid: other.into(), subnets: subnets(other) }],
    };
    let ends = NODES.iter().enumerate().map(|(n, a)| (format!("node{n}"), a.parse().unwrap())).collect();
    NodeInput {
        tunnels: [("mgmt".to_owned(), ends)].into(),
        node: NodeFacts {
            name: format!("node{node}"),
            tunnel_address: NODES[node].parse().ok(),
            ..NodeFacts::default()
        },
        networks: networks.iter().map(|n| overlay(*n, vpc_of(*n))).collect(),
        nics: here
            .map(|p| NodeNic {
                uid: format!("nic{}.{}", p.0, p.1),
                key: format!("default/nic{}-{}", p.0, p.1),
                network: format!("default/net{}", p.0),
                mac: mac(p.1),
                addresses: vec![address(p)],
                security: PortSecurity::Strict,
                queues: 1,
                tx_queue_length: None,
                bandwidth: Bandwidth::default(),
            })
            .collect(),
        remote: nics
            .iter()
            .filter(|p| p.2 != node)
            .map(|p| RemoteNic {
                network: format!("default/net{}", p.0),
                vpc: Some(vpc_of(p.0).into()),
                mac: mac(p.1),
                addresses: vec![address(p)],
                security: PortSecurity::Strict,
                node: format!("node{}", p.2),
                via: NODES[p.2].parse().ok(),
            })
            .collect(),
        vpcs: vec![vpc("red", "blue", 9001), vpc("blue", "red", 9002)],
        floating: vec![],
        ..NodeInput::default()
    }
}

#[test]
fn domains_route_between_nodes_and_to_their_peers() {
    let test = "domains_route_between_nodes_and_to_their_peers";
    let (Some(a), Some(b)) = (host(test), host(test)) else { return };
    connect(&a, &b);
    let nics: [Place; 4] = [(1, 10, 0), (2, 20, 1), (1, 11, 1), (7, 70, 1)];
    let mut engines = [a.engine(), b.engine()];
    for (node, engine) in engines.iter_mut().enumerate() {
        reach(engine, &build(&input(node, &nics)));
    }
    let mut ten = guest(&a, &engines[0], 1, 10);
    let _twenty = guest(&b, &engines[1], 2, 20);
    let mut eleven = guest(&b, &engines[1], 1, 11);
    let mut seventy = guest(&b, &engines[1], 7, 70);
    assert!(ten.ping(eleven.ip, eleven.ip), "the same subnet");
    assert!(ten.ping(ip("10.2.0.20"), ip("10.1.0.1")), "another subnet, on the other node");
    assert!(ten.ping(ip("10.7.0.70"), ip("10.1.0.1")), "a peer's subnet, on the other node");
    assert!(seventy.ping(ip("10.1.0.10"), ip("10.7.0.1")), "and back");
    assert!(eleven.ping(ip("10.7.0.70"), ip("10.1.0.1")), "a peer's subnet on the same node");
    // A private network: nobody else opens connections into it, but for those that it admits; what it opens is answered.
    let private = |admits: Option<&str>| {
        let mut input = input(1, &nics);
        let there = input.networks.iter_mut().find(|n| n.uid == "net7").unwrap();
        there.spec.admits = admits.map(|a| a.split_whitespace().map(|c| c.parse().unwrap()).collect());
        build(&input)
    };
    reach(&mut engines[1], &private(Some("")));
    assert!(!ten.ping_for(ip("10.7.0.70"), ip("10.1.0.1"), SILENCE), "nobody is admitted");
    assert!(seventy.ping(ip("10.1.0.10"), ip("10.7.0.1")), "what it asks is answered");
    reach(&mut engines[1], &private(Some("10.1.0.10/32 fd00:1::/64")));
    assert!(ten.ping(ip("10.7.0.70"), ip("10.1.0.1")), "it is admitted");
    assert!(!eleven.ping_for(ip("10.7.0.70"), ip("10.1.0.1"), SILENCE), "and nobody else");
    reach(&mut engines[1], &private(None));
    assert!(eleven.ping(ip("10.7.0.70"), ip("10.1.0.1")), "open again");
    // The peering goes, and what runs ends with it, whoever began it; it comes back.
    let asks = |ten: &mut Guest, patience| ten.ping_as(5, ip("10.7.0.70"), ip("10.1.0.1"), patience);
    let asked = |seventy: &mut Guest, patience| seventy.ping_as(6, ip("10.1.0.10"), ip("10.7.0.1"), patience);
    assert!(asks(&mut ten, PATIENCE) && asked(&mut seventy, PATIENCE));
    for (node, engine) in engines.iter_mut().enumerate() {
        let mut alone = input(node, &nics);
        alone.vpcs.iter_mut().for_each(|v| v.peers.clear());
        reach(engine, &build(&alone));
    }
    assert!(!asks(&mut ten, SILENCE) && !asked(&mut seventy, SILENCE), "they are no peers any more");
    assert!(ten.ping(ip("10.2.0.20"), ip("10.1.0.1")), "its own domain is as it was");
    for (node, engine) in engines.iter_mut().enumerate() {
        reach(engine, &build(&input(node, &nics)));
    }
    assert!(asks(&mut ten, PATIENCE) && asked(&mut seventy, PATIENCE));
    // What somebody spoilt is mended: a tunnel, a link, a route.
    let inside = |host: &Host, domain: &str| {
        let netns = Netns::open(&format!("{}{}", host.prefix, domain_name(domain))).unwrap();
        Rtnl::open_in(&netns).unwrap()
    };
    let state = build(&input(0, &nics));
    let red = &state.domains[&domain_name("red")];
    assert_eq!(
        red.routes.values().filter(|v| matches!(v, Via::Router(_))).count(),
        3,
        "two NICs and the user's: {:?}",
        red.routes
    );
    let mut rtnl = inside(&a, "red");
    rtnl.delete(red.router.as_ref().unwrap().device.as_str()).unwrap();
    rtnl.delete(red.peers.keys().next().unwrap().as_str()).unwrap();
    reach(&mut a.engine(), &state);
    rtnl.route_delete(&Route::to("10.2.0.20".parse().unwrap(), 32)).unwrap();
    reach(&mut a.engine(), &state);
    assert!(ten.ping(ip("10.2.0.20"), ip("10.1.0.1")));
    assert!(ten.ping(ip("10.7.0.70"), ip("10.1.0.1")));
    // The peer's NIC goes: its subnet cannot be reached any more, and says so; then nothing is left of it.
    let fewer = &nics[..3];
    for (node, engine) in engines.iter_mut().enumerate() {
        reach(engine, &build(&input(node, fewer)));
    }
    assert!(!ten.ping_for(ip("10.7.0.70"), ip("10.1.0.1"), SILENCE));
    // Killed between making a tunnel and moving it into its domain, and not wanted any more.
    let name = name(names::ROUTER, "gone");
    let kind = LinkKind::Vxlan { vni: 77, port: 4789, local: None, ttl: 64, learning: false, underlay: None };
    let tunnel = NewLink { name: name.as_str(), kind, change: LinkChange::default() };
    Rtnl::open_in(&a.netns).unwrap().create(&tunnel).unwrap();
    for engine in &mut engines {
        reach(engine, &NodeState::default());
    }
    assert_eq!((a.namespaces(), b.namespaces()), (vec![], vec![]));
    assert!(!a.links().contains(&name.to_string()), "{:?}", a.links());
}

#[test]
fn policy_routes_lead_by_a_next_hop_on_another_node() {
    use multihome_plan::node::{NodePolicyRoute, Steer};
    let test = "policy_routes_lead_by_a_next_hop_on_another_node";
    let (Some(a), Some(b)) = (host(test), host(test)) else { return };
    connect(&a, &b);
    // 20 is a firewall in network 2 on the second node, between 10 in network 1 and 30 in network 3.
    let nics: [Place; 4] = [(1, 10, 0), (2, 20, 1), (3, 30, 1), (1, 11, 1)];
    let mut engines = [a.engine(), b.engine()];
    let route = |from: &str, to: &str, action: Steer| NodePolicyRoute {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        action,
    };
    let apply = |engines: &mut [AnyEngine; 2], routes: &[NodePolicyRoute]| {
        for (node, engine) in engines.iter_mut().enumerate() {
            let mut input = input(node, &nics);
            input.vpcs[0].policy_routes = routes.to_vec();
            if node == 0 {
                input.networks.push(overlay(2, "red"));
            }
            input.nics.iter_mut().filter(|n| n.uid == "nic2.20").for_each(|n| n.security = PortSecurity::Promiscuous);
            reach(engine, &build(&input));
        }
    };
    let firewall = route("10.1.0.0/24", "10.3.0.0/24", Steer::Hop("10.2.0.20".parse().unwrap()));
    apply(&mut engines, std::slice::from_ref(&firewall));
    let mut ten = guest(&a, &engines[0], 1, 10);
    let mut twenty = guest(&b, &engines[1], 2, 20);
    let thirty = guest(&b, &engines[1], 3, 30);
    let _eleven = guest(&b, &engines[1], 1, 11);
    let gateway = ten.resolve(ip("10.1.0.1"), PATIENCE).unwrap();
    let question = ethernet(gateway, ten.mac, 0x0800, &ipv4(ten.ip, thirty.ip, 1, &echo(8, 5)));
    let through = |f: &[u8]| f[12..14] == [8, 0] && f[26..30] == [10, 1, 0, 10] && f[30..34] == [10, 3, 0, 30];
    ten.send(&question);
    let seen = twenty.sees(PATIENCE, through).expect("the firewall is asked first");
    assert!(thirty.sees(SILENCE, through).is_none(), "and nobody else");
    // What it lets pass goes on to where it was meant for, and not back to it.
    let onwards = twenty.resolve(ip("10.2.0.1"), PATIENCE).unwrap();
    twenty.forget();
    twenty.send(&[&onwards[..], &twenty.mac, &seen[12..]].concat());
    assert!(thirty.sees(PATIENCE, through).is_some(), "it arrives");
    assert!(twenty.sees(SILENCE, through).is_none(), "it does not come back to the firewall");
    assert!(ten.ping(ip("10.2.0.20"), ip("10.1.0.1")), "other destinations go as ever");
    // The first that matches counts: what is allowed before is not rerouted, and what is dropped goes nowhere.
    apply(&mut engines, &[route("10.1.0.10/32", "0.0.0.0/0", Steer::Allow), firewall.clone()]);
    assert!(ten.ping(ip("10.3.0.30"), ip("10.1.0.1")));
    apply(&mut engines, &[route("0.0.0.0/0", "10.3.0.0/24", Steer::Drop), firewall]);
    assert!(!ten.ping_for(ip("10.3.0.30"), ip("10.1.0.1"), SILENCE));
    assert!(ten.ping(ip("10.1.0.11"), ip("10.1.0.11")), "its own subnet is none of a gateway's business");
    apply(&mut engines, &[]);
    assert!(ten.ping(ip("10.3.0.30"), ip("10.1.0.1")), "nothing is left of them");
    for engine in &mut engines {
        reach(engine, &NodeState::default());
    }
}
