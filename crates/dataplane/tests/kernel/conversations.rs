//! What is taken back ends what runs: whoever talks stops when what allowed it goes, and nobody else does.

use std::net::UdpSocket;

use multihome_plan::node::{Forward, NodeFloating, Transport, build};

use super::floating::{Street, floating, planned};
use super::router::input;
use super::*;

#[test]
fn a_network_that_becomes_private_ends_what_others_opened() {
    let Some(host) = host("a_network_that_becomes_private_ends_what_others_opened") else { return };
    let state = |admits: Option<&str>| {
        let mut input = input(0, &[(1, 10, 0), (3, 30, 0)]);
        let there = input.networks.iter_mut().find(|n| n.uid == "net3").unwrap();
        there.spec.admits = admits.map(|a| a.split_whitespace().map(|c| c.parse().unwrap()).collect());
        build(&input)
    };
    let mut engine = host.engine();
    reach(&mut engine, &state(None));
    let mut ten = guest(&host, &engine, 1, 10);
    let mut thirty = guest(&host, &engine, 3, 30);
    let asks = |ten: &mut Guest, patience| ten.ping_as(5, ip("10.3.0.30"), ip("10.1.0.1"), patience);
    let answered = |thirty: &mut Guest| thirty.ping_as(6, ip("10.1.0.10"), ip("10.3.0.1"), PATIENCE);
    assert!(asks(&mut ten, PATIENCE) && answered(&mut thirty));
    reach(&mut engine, &state(Some("")));
    assert!(!asks(&mut ten, SILENCE), "what ten opened has ended");
    assert!(answered(&mut thirty), "what thirty opened goes on");
    reach(&mut engine, &state(Some("10.1.0.10/32")));
    assert!(asks(&mut ten, PATIENCE), "an exception");
    reach(&mut engine, &state(Some("10.1.0.11/32")));
    assert!(!asks(&mut ten, SILENCE), "that is gone");
    assert!(answered(&mut thirty));
    reach(&mut engine, &NodeState::default());
}

/// Whether a guest is shown a UDP datagram over IPv4 to this port.
fn shown(guest: &Guest, port: u16, patience: std::time::Duration) -> bool {
    let wanted = |f: &[u8]| f.len() > 42 && f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == port.to_be_bytes();
    guest.sees(patience, wanted).is_some()
}

#[test]
fn a_floating_address_that_leads_elsewhere_ends_what_it_led() {
    let Some(host) = host("a_floating_address_that_leads_elsewhere_ends_what_it_led") else { return };
    let street = Street::new(&host);
    let forward = |port, target| Forward { transport: Transport::Udp, port, target, backends: BTreeSet::new() };
    let to_ten = |forwards: &[Forward]| planned(&[floating("198.18.0.77", forwards)]);
    let mut engine = host.engine();
    reach(&mut engine, &to_ten(&[forward(53, 5353), forward(99, 9999)]));
    let (mut ten, eleven) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let client = |port: u16| {
        let socket = street.netns.run(|| UdpSocket::bind("198.18.0.1:0").unwrap()).unwrap();
        socket.connect(("198.18.0.77", port)).unwrap();
        socket
    };
    let (dns, other) = (client(53), client(99));
    let says = |socket: &UdpSocket| drop(socket.send(b"?"));
    says(&dns);
    says(&other);
    assert!(shown(&ten, 5353, PATIENCE) && shown(&ten, 9999, PATIENCE));
    // One port goes; the other leads where it did.
    reach(&mut engine, &to_ten(&[forward(99, 9999)]));
    says(&dns);
    assert!(!shown(&ten, 5353, SILENCE), "its port is not forwarded any more");
    says(&other);
    assert!(shown(&ten, 9999, PATIENCE), "this one is");
    // The address leads to another NIC.
    let eleventh = NodeFloating { target: "10.1.0.11".parse().ok(), ..floating("198.18.0.77", &[]) };
    reach(&mut engine, &planned(&[eleventh]));
    ten.forget();
    // A port that was closed told the socket so, and the next one is sent.
    says(&other);
    says(&other);
    assert!(shown(&eleven, 99, PATIENCE), "the other NIC is asked");
    assert!(!shown(&ten, 9999, SILENCE), "and the first one not any more");
    // Out by the whole address, until it is gone.
    reach(&mut engine, &to_ten(&[]));
    let server = street.netns.run(|| UdpSocket::bind("198.18.0.1:7777").unwrap()).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let gateway = ten.resolve(ip("10.1.0.1"), PATIENCE).unwrap();
    ten.send(&ethernet(gateway, ten.mac, 0x0800, &ipv4(ten.ip, ip("198.18.0.1"), 17, &udp(4000, 7777))));
    let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(from.ip(), std::net::IpAddr::from([198, 18, 0, 77]));
    server.send_to(b"!", from).unwrap();
    assert!(shown(&ten, 4000, PATIENCE));
    reach(&mut engine, &planned(&[]));
    reach(&mut engine, &to_ten(&[forward(1, 1)]));
    let _ = server.send_to(b"!", from);
    assert!(!shown(&ten, 4000, SILENCE), "it did not survive the address");
    reach(&mut engine, &NodeState::default());
}

#[test]
fn a_network_without_a_way_out_is_not_answered_any_more() {
    let Some(host) = host("a_network_without_a_way_out_is_not_answered_any_more") else { return };
    let mut engine = host.engine();
    let with = plan();
    let mut without = with.clone();
    let ns = domain_name("a");
    without.domains.get_mut(&ns).unwrap().egress.as_mut().unwrap().nat.retain(|n| *n != "10.1.0.0/24".parse().unwrap());
    reach(&mut engine, &with);
    let (mut ten, mut thirty) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 3, 30));
    let server = host.outside.run(|| UdpSocket::bind("198.51.100.1:7777").unwrap()).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let asks = |guest: &mut Guest, gateway: &str| {
        let hop = guest.resolve(ip(gateway), PATIENCE).unwrap();
        let question = ipv4(guest.ip, ip("198.51.100.1"), 17, &udp(4000, 7777));
        guest.send(&ethernet(hop, guest.mac, 0x0800, &question));
        server.recv_from(&mut [0; 64]).unwrap().1
    };
    let (first, second) = (asks(&mut ten, "10.1.0.1"), asks(&mut thirty, "10.3.0.1"));
    let answers = |to: std::net::SocketAddr| assert!(server.send_to(b"!", to).is_ok());
    answers(first);
    answers(second);
    assert!(shown(&ten, 4000, PATIENCE) && shown(&thirty, 4000, PATIENCE));
    reach(&mut engine, &without);
    answers(first);
    assert!(!shown(&ten, 4000, SILENCE), "its network may not go out");
    answers(second);
    assert!(shown(&thirty, 4000, PATIENCE), "the other one of the domain may");
    let mut none = without.clone();
    none.domains.get_mut(&ns).unwrap().egress = None;
    reach(&mut engine, &none);
    reach(&mut engine, &with);
    answers(second);
    assert!(!shown(&thirty, 4000, SILENCE), "it ended with the way out");
    reach(&mut engine, &NodeState::default());
}
