//! Floating addresses that lead to several NICs, of one node and of two.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;

use multihome_model::Algorithm;
use multihome_plan::node::{Fabric, Forward, NodeFloating, NodeInput, Transport, build};

use super::floating::{Street, both_families, family, floating, outside};
use super::router::{Place, connect, input};
use super::*;

/// UDP port 53 of an address of the street leads to port 5353 of these NICs.
fn balanced(address: &str, backends: &[&str], algorithm: Algorithm) -> NodeFloating {
    let backends = backends.iter().map(|b| b.parse().unwrap()).collect();
    let forward = Forward { transport: Transport::Udp, port: 53, target: 5353, backends };
    NodeFloating { target: None, forwards: [forward].into(), algorithm, ..floating(address, &[]) }
}

/// A client on the street, at one of its addresses.
fn client(street: &Street, from: &str, to: &str) -> UdpSocket {
    let from = SocketAddr::new(from.parse().unwrap(), 0);
    let socket = street.netns.run(|| UdpSocket::bind(from).unwrap()).unwrap();
    socket.connect(SocketAddr::new(to.parse().unwrap(), 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Where UDP is in a frame, if it is there.
fn udp_at(f: &[u8]) -> Option<usize> {
    match (f.get(12..14)?, f.get(23)?, f.get(20)?) {
        ([8, 0], 17, _) => Some(34),
        ([0x86, 0xdd], _, 17) => Some(54),
        _ => None,
    }
}

/// A question of this client that a guest is shown: the frame, and the address that it is from.
fn asked(guest: &Guest, client: &UdpSocket, patience: std::time::Duration) -> Option<(Vec<u8>, IpAddr)> {
    let from = client.local_addr().unwrap().port().to_be_bytes();
    let f = guest.sees(patience, |f| {
        udp_at(f).is_some_and(|at| f[at..at + 2] == from && f[at + 2..at + 4] == 5353u16.to_be_bytes())
    })?;
    let source = match udp_at(&f)? {
        34 => IpAddr::from(<[u8; 4]>::try_from(&f[26..30]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&f[22..38]).unwrap()),
    };
    Some((f, source))
}

/// What a server answers to a question, with its own name.
fn answer(f: &[u8], name: &[u8; 2]) -> Vec<u8> {
    let at = udp_at(f).unwrap();
    let mut datagram = [&f[at + 2..at + 4], &f[at..at + 2], &[0, 10, 0, 0], name].concat();
    let packet = if at == 34 {
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&f[at..at + 4]).unwrap());
        ipv4(address(30), address(26), 17, &datagram)
    } else {
        let (source, destination) = (&f[38..54], &f[22..38]);
        let pseudo = [source, destination, &[0, 0, 0, 10, 0, 0, 0, 17], &datagram].concat();
        datagram[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        [&[0x60, 0, 0, 0, 0, 10, 17, 64][..], source, destination, &datagram].concat()
    };
    let kind = u16::from_be_bytes([f[12], f[13]]);
    ethernet(f[6..12].try_into().unwrap(), f[..6].try_into().unwrap(), kind, &packet)
}

/// Which of some guests gets what a client asks; the client hears its answer.
fn served(guests: &mut [&mut Guest], client: &UdpSocket) -> usize {
    client.send(b"?").unwrap();
    let started = Instant::now();
    while started.elapsed() < PATIENCE * 2 {
        for (i, guest) in guests.iter_mut().enumerate() {
            let Some((frame, from)) = asked(guest, client, SILENCE / 10) else { continue };
            assert_eq!(from, client.local_addr().unwrap().ip(), "the client's own address");
            guest.send(&answer(&frame, &[b'0', b'0' + i as u8]));
            let mut heard = [0; 8];
            let n = client.recv(&mut heard).unwrap();
            assert_eq!(&heard[..n], [b'0', b'0' + i as u8], "the answer of the one that was asked");
            return i;
        }
    }
    panic!("nobody was asked")
}

fn several(street: &Street, from: &str, to: &str, n: usize) -> Vec<UdpSocket> {
    (0..n).map(|_| client(street, from, to)).collect()
}

fn shares(all: &[usize]) -> [usize; 2] {
    [0, 1].map(|i| all.iter().filter(|s| **s == i).count())
}

fn takes_turns(address: &str, from: [&str; 2], backends: [&str; 2], test: &str) {
    let Some(host) = host(test) else { return };
    let street = Street::new(&host);
    let planned = |backends: &[&str], algorithm| {
        build(&NodeInput { floating: vec![balanced(address, backends, algorithm)], ..both_families() })
    };
    let both = planned(&backends, Algorithm::RoundRobin);
    let mut engine = host.engine();
    reach(&mut engine, &both);
    let (mut ten, mut eleven) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let mut guests = [&mut ten, &mut eleven];
    let clients = several(&street, from[0], address, 6);
    let first: Vec<usize> = clients.iter().map(|c| served(&mut guests, c)).collect();
    assert_eq!(shares(&first), [3, 3], "by turns");
    let again: Vec<usize> = clients.iter().map(|c| served(&mut guests, c)).collect();
    assert_eq!(first, again, "whoever was asked is asked on");
    // Another engine reads back what this one made, and finds what somebody did to it.
    let mut other = host.engine();
    assert_eq!(other.observe().unwrap(), both);
    let (ns, domain) = both.domains.iter().find(|(_, d)| !d.floating.is_empty()).unwrap();
    let table = domain.floating.keys().next().unwrap().to_string();
    let netns = Netns::open(&format!("{}{ns}", host.prefix)).unwrap();
    let flush = netns.run(|| Command::new("nft").args(["flush", "set", "inet", &table, "forwards"]).status());
    assert!(flush.unwrap().unwrap().success());
    assert_ne!(other.observe().unwrap(), both);
    reach(&mut other, &both);
    // One leaves: what it had goes to the other one, and what that had goes on.
    reach(&mut engine, &planned(&backends[1..], Algorithm::RoundRobin));
    for (client, before) in clients.iter().zip(&first) {
        assert_eq!(served(&mut guests, client), 1, "it was {before}");
    }
    // It comes back: conversations stay where they are, and new ones take turns again.
    reach(&mut engine, &both);
    assert!(clients.iter().all(|c| served(&mut guests, c) == 1));
    let fresh = several(&street, from[0], address, 4);
    assert_eq!(shares(&fresh.iter().map(|c| served(&mut guests, c)).collect::<Vec<_>>()), [2, 2]);
    // By source: all of a client's conversations are with the same one, and it does not change with the table.
    let by_source = planned(&backends, Algorithm::Source);
    let mut all = Vec::new();
    for from in from {
        reach(&mut engine, &by_source);
        let chosen: Vec<usize> = several(&street, from, address, 4).iter().map(|c| served(&mut guests, c)).collect();
        assert!(chosen.iter().all(|c| *c == chosen[0]), "{from}: {chosen:?}");
        // The other one goes and comes back.
        let stays = [backends[chosen[0]]];
        reach(&mut engine, &planned(&stays, Algorithm::Source));
        reach(&mut engine, &by_source);
        assert!(several(&street, from, address, 4).iter().all(|c| served(&mut guests, c) == chosen[0]));
        all.push(chosen[0]);
    }
    reach(&mut engine, &NodeState::default());
    assert_eq!(host.namespaces(), [""; 0]);
}

#[test]
fn nics_behind_an_address_take_turns() {
    takes_turns(
        "198.18.0.77",
        ["198.18.0.1", "192.88.99.1"],
        ["10.1.0.10", "10.1.0.11"],
        "nics_behind_an_address_take_turns",
    );
}

#[test]
fn nics_behind_an_ipv6_address_take_turns() {
    takes_turns(
        "2001:db8:18::77",
        ["2001:db8:18::1", "2001:db8:99::1"],
        ["fd00:1::10", "fd00:1::11"],
        "nics_behind_an_ipv6_address_take_turns",
    );
}

/// NIC 10 on the first node, which has the street, and NIC 11 on the second, on the same network; NIC 20 of another network of the
/// Vpc and NIC 70 of a peer on the first.
const NICS: [Place; 4] = [(1, 10, 0), (1, 11, 1), (2, 20, 0), (7, 70, 0)];

fn two_nodes(node: usize, floating: &[NodeFloating], private: bool) -> NodeState {
    let mut input = input(node, &NICS);
    let mut spec = multihome_model::NetworkSpec {
        r#type: multihome_model::NetworkType::Overlay,
        vpc: Some("red".into()),
        nat_outgoing: Some(true),
        ipv4: family("10.1.0.0/24", "10.1.0.1"),
        ipv6: family("fd00:1::/64", "fd00:1::1"),
        ..Default::default()
    };
    spec.private = private;
    let there = input.networks.iter_mut().find(|n| n.uid == "net1").unwrap();
    there.spec = multihome_model::checked::check_network("net", &spec).unwrap();
    let six = |addresses: &mut Vec<IpAddr>| {
        let [IpAddr::V4(four)] = addresses[..] else { panic!("one address each") };
        let [_, n, _, m] = four.octets();
        addresses.extend((n == 1).then(|| IpAddr::from(format!("fd00:{n}::{m}").parse::<Ipv6Addr>().unwrap())));
    };
    input.nics.iter_mut().for_each(|n| six(&mut n.addresses));
    input.remote.iter_mut().for_each(|n| six(&mut n.addresses));
    for vpc in &mut input.vpcs {
        if vpc.uid == "red" {
            vpc.subnets.insert("fd00:1::/64".parse().unwrap());
        }
    }
    input.networks.push(outside());
    input.node.fabrics.insert("street".into(), Fabric { device: IfName::new("eth1").ok(), bond: None });
    input.floating = floating.to_vec();
    // NIC 11 has all of an address of its own, by which it is not to answer others.
    let own = NodeFloating {
        node: "node1".into(),
        target: "10.1.0.11".parse().ok(),
        ..super::floating::floating("198.18.0.99", &[])
    };
    input.floating.push(own);
    build(&input)
}

#[test]
fn an_address_leads_to_nics_of_other_nodes_from_the_clients_own_address() {
    let test = "an_address_leads_to_nics_of_other_nodes_from_the_clients_own_address";
    let (Some(a), Some(b)) = (host(test), host(test)) else { return };
    connect(&a, &b);
    // Each node has a street of its own, so that what leaves by the wrong one is not heard.
    let (street, _other) = (Street::new(&a), Street::new(&b));
    let led = [
        balanced("198.18.0.77", &["10.1.0.10", "10.1.0.11"], Algorithm::RoundRobin),
        balanced("2001:db8:18::77", &["fd00:1::10", "fd00:1::11"], Algorithm::RoundRobin),
    ];
    let mut engines = [a.engine(), b.engine()];
    let mut reach_both = |floating: &[NodeFloating], private: bool| {
        for (node, engine) in engines.iter_mut().enumerate() {
            reach(engine, &two_nodes(node, floating, private));
        }
    };
    reach_both(&led, false);
    let mut ten = guest(&a, &a.engine(), 1, 10);
    let mut eleven = guest(&b, &b.engine(), 1, 11);
    let mut twenty = guest(&a, &a.engine(), 2, 20);
    let mut seventy = guest(&a, &a.engine(), 7, 70);
    let pairs = [("198.18.0.1", "198.18.0.77"), ("192.88.99.1", "198.18.0.77")];
    let pairs6 = [("2001:db8:18::1", "2001:db8:18::77"), ("2001:db8:99::1", "2001:db8:18::77")];
    let mut old = Vec::new();
    for (from, to) in pairs.into_iter().chain(pairs6) {
        let clients = several(&street, from, to, 4);
        let chosen: Vec<usize> = clients.iter().map(|c| served(&mut [&mut ten, &mut eleven], c)).collect();
        assert_eq!(shares(&chosen), [2, 2], "{from} to {to}");
        old.extend(clients.into_iter().zip(chosen));
    }
    // A private network lets in what the address leads there, and nobody else of its Vpc and its peers.
    reach_both(&led, true);
    for (client, before) in &old {
        assert_eq!(served(&mut [&mut ten, &mut eleven], client), *before, "what was led there goes on");
    }
    let new = several(&street, "198.18.0.1", "198.18.0.77", 2);
    let chosen: Vec<usize> = new.iter().map(|c| served(&mut [&mut ten, &mut eleven], c)).collect();
    assert_eq!(shares(&chosen), [1, 1]);
    for (other, gateway) in [(&mut twenty, "10.2.0.1"), (&mut seventy, "10.7.0.1")] {
        let hop = other.resolve(ip(gateway), PATIENCE).unwrap();
        let question = ipv4(other.ip, ip("10.1.0.11"), 17, &udp(4000, 5353));
        other.send(&ethernet(hop, other.mac, 0x0800, &question));
    }
    let others = |f: &[u8]| udp_at(f) == Some(34) && f[34..36] == 4000u16.to_be_bytes();
    assert!(eleven.sees(SILENCE, others).is_none(), "it is private");
    // Somebody takes the way back away: it is found, and made again.
    let netns = Netns::open(&format!("{}{}", b.prefix, domain_name("red"))).unwrap();
    let whole = two_nodes(1, &led, true);
    let ways = whole.domains[&domain_name("red")].returns.clone();
    assert_eq!(ways.routers.len(), 1, "one node has both addresses: {ways:?}");
    let table = ways.routers.values().next().unwrap().table.to_string();
    for harm in [
        vec!["ip", "route", "flush", "table", &table],
        vec!["ip", "-6", "rule", "del", "table", &table],
        vec!["nft", "delete", "table", "inet", "multihome-returns"],
    ] {
        let done = netns.run(|| Command::new(harm[0]).args(&harm[1..]).status()).unwrap().unwrap();
        assert!(done.success(), "{harm:?}");
        assert_ne!(b.engine().observe().unwrap(), whole, "{harm:?}");
        reach(&mut b.engine(), &whole);
    }
    // The tunnel is made anew, and what leads back by it, too.
    let mut renumbered = whole.clone();
    let router = renumbered.domains.get_mut(&domain_name("red")).unwrap().router.as_mut().unwrap();
    router.vni = Vni::new(9999).unwrap();
    reach(&mut b.engine(), &renumbered);
    // Without an address there is no way back, and nobody gets in.
    reach_both(&[], true);
    // Killed half way there, and half way back.
    let without = two_nodes(1, &[], true);
    for (from, to) in [(&without, &whole), (&whole, &without)] {
        let steps = diff(from, to);
        for cut in 0..=steps.len() {
            reach(&mut b.engine(), from);
            assert!(b.engine().apply(&steps[..cut]).is_empty());
            reach(&mut b.engine(), to);
        }
    }
    let gone = netns.run(|| Command::new("nft").args(["list", "tables"]).output()).unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&gone.stdout).contains("multihome-returns"));
    reach_both(&led, false);
    let fresh = several(&street, "198.18.0.1", "198.18.0.77", 2);
    let chosen: Vec<usize> = fresh.iter().map(|c| served(&mut [&mut ten, &mut eleven], c)).collect();
    assert_eq!(shares(&chosen), [1, 1]);
    // A domain goes and comes back while somebody is in its namespace.
    for state in [&NodeState::default(), &whole] {
        reach(&mut engines[1], state);
    }
    drop(netns);
    for engine in &mut engines {
        reach(engine, &NodeState::default());
    }
}
