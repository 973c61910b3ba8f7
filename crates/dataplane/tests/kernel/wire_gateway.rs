//! A gateway of ours on a network with a wire: nodes have its addresses together, and each a MAC of its own.

use std::net::Ipv6Addr;
use std::process::Command;

use multihome_model::checked::check_network;
use multihome_model::{NetworkSpec, NetworkType, PortSecurity, TrunkRange, VlanSpec};
use multihome_netlink::packet::PacketSocket;
use multihome_plan::node::{Fabric, NodeFacts, NodeInput, NodeNetwork, NodeNic, build, gateway_mac};

use super::floating::{Street, family};
use super::*;

/// A node with one NIC, 10.1.0.M, on an untagged network of a Vpc.
fn node(name: &str, m: u8) -> NodeState {
    build(&input(name, m))
}

fn input(name: &str, m: u8) -> NodeInput {
    let spec = NetworkSpec {
        r#type: NetworkType::Untagged,
        cluster_network: Some("street".into()),
        vpc: Some("red".into()),
        ipv4: family("10.1.0.0/24", "10.1.0.1"),
        ipv6: family("fd00:1::/64", "fd00:1::1"),
        ..Default::default()
    };
    let network = NodeNetwork {
        uid: "net1".into(),
        key: "default/net1".into(),
        spec: check_network("net", &spec).unwrap(),
        mtu: Mtu::ETHERNET,
        vni: None,
        vpc_uid: Some("red".into()),
    };
    let nic = NodeNic {
        uid: format!("nic1.{m}"),
        key: format!("default/nic{m}"),
        network: "default/net1".into(),
        mac: mac(m),
        addresses: vec![format!("10.1.0.{m}").parse().unwrap(), format!("fd00:1::{m}").parse().unwrap()],
        security: PortSecurity::Strict,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    };
    let fabrics = [("street".to_owned(), Fabric { device: IfName::new("eth1").ok(), bond: None })].into();
    let node = NodeFacts { name: name.into(), fabrics, ..NodeFacts::default() };
    NodeInput { node, networks: vec![network], nics: vec![nic], ..NodeInput::default() }
}

#[test]
fn a_gateway_on_a_wire_is_each_nodes_own() {
    let Some(host) = host("a_gateway_on_a_wire_is_each_nodes_own") else { return };
    let mut street = Street::new(&host);
    let wire = street.index();
    for (address, prefix) in [("10.1.0.99", 24), ("fd00:1::99", 64)] {
        street.rtnl.address_set(&Address { index: wire, ip: address.parse().unwrap(), prefix }, true).unwrap();
    }
    let mut engine = host.engine();
    reach(&mut engine, &node("node1", 10));
    let mut ten = guest(&host, &engine, 1, 10);
    let mac_of = |node: &str| gateway_mac("net1", NetworkType::Untagged, node).0;
    let (own, other) = (mac_of("node1"), mac_of("node2"));
    assert_ne!(own, other);
    let (gateway, gateway6) = (ip("10.1.0.1"), "fd00:1::1".parse::<Ipv6Addr>().unwrap());
    let heard = street.netns.run(|| PacketSocket::open(wire, &filter::all()).unwrap()).unwrap();
    assert_eq!(ten.resolve(gateway, PATIENCE), Some(own));
    assert_eq!(ten.resolve6(gateway6, PATIENCE), Some(own));
    // Hosts on the wire reach it, and see that MAC.
    assert!(street.reaches("10.1.0.1") && street.reaches("fd00:1::1"));
    assert_eq!((street.knows("10.1.0.1"), street.knows("fd00:1::1")), (Some(own), Some(own)));
    assert!(street.reaches("10.1.0.10") && street.reaches("fd00:1::10"), "and the NIC");
    let mut batch = FrameBatch::new(256, 2048);
    let _ = heard.receive(&mut batch);
    let frames: Vec<&[u8]> = batch.iter().map(|f| f.data).collect();
    assert!(frames.iter().any(|f| f[6..12] == own), "the gateway is heard on the wire");
    let asked = |f: &&&[u8]| f[12..14] == [8, 6] && f[21] == 1 && f[38..42] == gateway.octets();
    let solicited = |f: &&&[u8]| f.len() >= 78 && f[20] == 58 && f[54] == 135 && f[62..78] == gateway6.octets();
    assert!(!frames.iter().any(|f| asked(&f) || solicited(&f)), "the NIC asks nobody there for it");
    // Another node's gateway, or somebody who pretends to be one, is not heard by the NIC.
    ten.forget();
    let tell = |frame: Vec<u8>| heard.send(&frame).unwrap();
    tell(ethernet(BROADCAST, other, 0x0806, &arp(1, other, gateway, BROADCAST, ip("10.1.0.10"))));
    tell(ethernet(mac(10).0, other, 0x0806, &arp(2, other, gateway, mac(10).0, ip("10.1.0.10"))));
    let told = neighbour(136, gateway6, other);
    tell(ethernet(mac(10).0, other, 0x86dd, &icmp6_packet(gateway6, ten.six, told)));
    assert!(ten.sees(SILENCE, |f| f[6..12] == other).is_none());
    // Whatever else is said there, it hears.
    let stranger = arp(1, other, ip("10.1.0.98"), BROADCAST, ip("10.1.0.10"));
    tell(ethernet(BROADCAST, other, 0x0806, &stranger));
    assert!(ten.sees(PATIENCE, |f| f[6..12] == other).is_some());
    // The gateway goes, and with it what was kept about it.
    reach(&mut engine, &NodeState::default());
    reach(&mut host.engine(), &node("node2", 11));
    reach(&mut host.engine(), &NodeState::default());
}

/// The addresses that the rules keep apart from an uplink.
fn kept(host: &Host, uplink: &str) -> bool {
    let list = || Command::new("nft").args(["list", "set", "bridge", "multihome", "uplink_own4"]).output().unwrap();
    let text = String::from_utf8_lossy(&host.netns.run(list).unwrap().stdout).into_owned();
    assert!(text.contains("uplink_own4"), "{text}");
    text.contains(uplink)
}

#[test]
fn a_device_that_comes_to_carry_trunks_is_asked_for_everything() {
    let Some(host) = super::trunks::vlans("a_device_that_comes_to_carry_trunks_is_asked_for_everything") else {
        return;
    };
    if OVS {
        // Flows of a network's own bridge say it there, and stay with that.
        return;
    }
    let _street = Street::new(&host);
    let mut engine = host.engine();
    reach(&mut engine, &node("node1", 10));
    assert!(kept(&host, "\"eth1\""));
    let mut with = input("node1", 10);
    let range = TrunkRange { first: 300, last: None };
    let spec = NetworkSpec {
        r#type: NetworkType::VlanTrunk,
        cluster_network: Some("street".into()),
        vlan: Some(VlanSpec { trunk: vec![range], ..Default::default() }),
        ..Default::default()
    };
    let spec = check_network("trunk", &spec).unwrap();
    let key = "default/trunk".to_owned();
    with.nics.push(NodeNic {
        uid: "nic2.20".into(),
        network: key.clone(),
        mac: mac(20),
        addresses: vec![],
        ..with.nics[0].clone()
    });
    with.networks.push(NodeNetwork { uid: "trunk".into(), key, spec, vpc_uid: None, ..with.networks[0].clone() });
    reach(&mut engine, &build(&with));
    assert!(!kept(&host, "\"eth1\""), "it carries other networks, too");
    assert!(kept(&host, "\"mhv"), "the VLAN that stands for the network is asked for as little as ever");
    reach(&mut engine, &node("node1", 10));
    assert!(kept(&host, "\"eth1\""));
    reach(&mut engine, &NodeState::default());
}
