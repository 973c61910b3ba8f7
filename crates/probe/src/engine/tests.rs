//! Two nodes, a switch, a gateway and a DHCP server, all of them simulated; what breaks gets its word in time.
#![allow(clippy::unwrap_used)]

use super::*;
use multihome_dhcp::frame::{End, answer_arp, build_udp, parse_udp};
use multihome_model::connectivity::{
    ANSWERS, DHCP_SILENT, GATEWAY_SILENT, IN_PLACE, LAYER2_UNREACHABLE, MTU_HOLE, NO_CARRIER, NOT_ROUTED,
};
use multihome_model::names::{probe_mac, wire_hash};
use multihome_model::{Connectivity, FamilyConnectivity};
use proptest::prelude::*;

const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);

fn subject(name: &str, peers: &[&str]) -> Subject {
    Subject {
        device: "eth1".into(),
        network: wire_hash("uid"),
        node: wire_hash(name),
        mac: probe_mac(name, "uid"),
        mtu: 1500,
        peers: peers.iter().map(|p| (wire_hash(p), (*p).to_owned())).collect(),
        ipv4: Want::Nothing,
        ipv6: Want::Nothing,
        gateway4: None,
        gateway6: None,
        address4: None,
        routed: [false; 2],
    }
}

/// The world between the nodes.
struct World {
    nodes: Vec<Prober>,
    now: Time,
    /// Whether frames pass between nodes, and how large they may be.
    joined: bool,
    largest: usize,
    gateway: bool,
    server: bool,
    /// Frames that nodes sent of themselves.
    sent: usize,
}

impl World {
    fn new(subjects: Vec<Subject>) -> Self {
        let nodes = subjects.into_iter().map(|s| Prober::new(s, Time::ZERO)).collect();
        Self { nodes, now: Time::ZERO, joined: true, largest: 1500, gateway: true, server: true, sent: 0 }
    }

    /// What the gateway and the server answer.
    fn answer(&self, f: &[u8]) -> Option<Vec<u8>> {
        if let Some(answer) = answer_arp(f, [10, 0, 0, 1].into(), ROUTER) {
            return self.gateway.then_some(answer);
        }
        let d = parse_udp(f, false).filter(|d| d.destination_port == 67 && self.server)?;
        let mut p = d.payload[..240].to_vec();
        p[0] = 2;
        p[16..20].copy_from_slice(&[10, 0, 0, 77]);
        p.extend([53, 1, 2, 54, 4, 10, 0, 0, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1, 255]);
        let end = |mac, address: [u8; 4], port| End { mac, address: address.into(), port };
        build_udp(end(ROUTER, [10, 0, 0, 2], 67), end(d.source_mac, [10, 0, 0, 77], 68), &p)
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            for i in 0..self.nodes.len() {
                let due = self.nodes[i].next().is_some_and(|t| t <= self.now);
                let mut frames: Vec<Vec<u8>> = if due { self.nodes[i].poll(self.now) } else { vec![] };
                self.sent += frames.len();
                while let Some(f) = frames.pop() {
                    if let Some(back) = self.answer(&f) {
                        assert_eq!(self.nodes[i].frame(&back, false, self.now), None);
                    }
                    for j in (0..self.nodes.len()).filter(|j| *j != i) {
                        let mac = self.nodes[j].subject().mac;
                        let passes = self.joined && f.len() <= self.largest + 14;
                        let mine = f[..6] == mac.0 || f[0] & 1 == 1;
                        if !passes || !mine {
                            continue;
                        }
                        if let Some(back) = self.nodes[j].frame(&f, false, self.now) {
                            assert_eq!(back.len(), f.len(), "answered equally large");
                            assert_eq!(self.nodes[i].frame(&back, false, self.now), None);
                        }
                    }
                }
            }
            self.now += Duration::from_millis(20);
        }
    }

    fn layer2(&self, node: usize) -> (String, String) {
        let r = self.nodes[node].verdict().layer2.unwrap();
        (r.reason, r.message)
    }
}

fn pair() -> World {
    World::new(vec![subject("a", &["b"]), subject("b", &["a"])])
}

#[test]
fn nodes_that_hear_each_other_say_so_and_a_split_is_told_within_ten_seconds() {
    let mut w = pair();
    assert!(w.nodes[0].verdict().probing);
    w.run(4);
    assert!(!w.nodes[0].verdict().probing);
    assert_eq!(w.layer2(0), (ANSWERS.into(), "node b answers by eth1".into()));
    let before = w.sent;
    w.run(30);
    assert!(w.sent - before <= 22, "{} frames in 30 s", w.sent - before);
    w.joined = false;
    w.run(8);
    for (node, other) in [(0, "b"), (1, "a")] {
        let (word, text) = w.layer2(node);
        assert_eq!(word, LAYER2_UNREACHABLE);
        assert!(text.starts_with(&format!("no other node answers by eth1, not node {other}: ")), "{text}");
        assert_eq!(w.nodes[node].verdict().path_mtu, None, "what explains itself is not told twice");
    }
    w.joined = true;
    w.run(4);
    assert_eq!(w.layer2(1).0, ANSWERS);
}

#[test]
fn a_hole_for_large_packets_is_told_with_its_size() {
    let mut w = pair();
    w.run(4);
    assert_eq!(w.nodes[0].verdict().path_mtu.unwrap().message, "packets of 1500 bytes pass");
    w.largest = 1400;
    w.run(10);
    let v = w.nodes[0].verdict();
    assert_eq!(v.layer2.unwrap().reason, ANSWERS);
    let hole = v.path_mtu.unwrap();
    assert_eq!((hole.ok, hole.reason.as_str()), (false, MTU_HOLE));
    w.run(5);
    let text = w.nodes[0].verdict().path_mtu.unwrap().message;
    assert!(text.starts_with("packets of more than 1400 bytes do not reach node b"), "{text}");
}

#[test]
fn a_gateway_is_learnt_by_dhcp_and_its_silence_told() {
    let mut w = World::new(vec![Subject { ipv4: Want::Expect, ..subject("a", &[]) }]);
    w.run(4);
    let v = w.nodes[0].verdict();
    assert_eq!(v.layer2.unwrap().reason, IN_PLACE);
    let four = v.ipv4.unwrap();
    assert_eq!(four.dhcp.unwrap().message, "10.0.0.2 offers 10.0.0.0/24 by 10.0.0.1");
    let learnt = four.learnt.unwrap();
    assert_eq!((learnt.cidr.as_deref(), learnt.gateway.as_deref()), (Some("10.0.0.0/24"), Some("10.0.0.1")));
    // It is asked from one second after it was learnt on.
    w.run(2);
    let gateway = |w: &World| w.nodes[0].verdict().ipv4.and_then(|f| f.gateway).unwrap();
    assert_eq!(gateway(&w).message, "10.0.0.1 answers ARP");
    w.gateway = false;
    w.run(8);
    assert_eq!((gateway(&w).ok, gateway(&w).reason.as_str()), (false, GATEWAY_SILENT));
    w.gateway = true;
    w.run(4);
    assert!(gateway(&w).ok);
    // The server's silence is noticed with its next round, and what it said before is kept.
    w.server = false;
    w.run(80);
    let four = w.nodes[0].verdict().ipv4.unwrap();
    assert_eq!((four.dhcp.unwrap().reason.as_str(), four.learnt.is_some()), (DHCP_SILENT, true));
}

#[test]
fn an_ipv6_gateway_is_pinged_once_it_is_found() {
    use multihome_dhcp::frame6::{self, End as End6, build_icmp};
    let gateway: Ipv6Addr = "fd00::1".parse().unwrap();
    let mut p = Prober::new(Subject { gateway6: Some(gateway), ..subject("a", &[]) }, Time::ZERO);
    let (me, mut now) = (p.subject().mac, Time::ZERO);
    // What was asked: neighbour solicitations and echo requests. The gateway answers the first, and the second if it may.
    let mut run = |p: &mut Prober, seconds: u64, pings: bool| {
        let mut asked = (0, 0);
        for _ in 0..seconds * 10 {
            for f in p.poll(now) {
                let q = frame6::parse(&f, false).unwrap();
                let from = End6 { mac: ROUTER, address: gateway };
                let to = End6 { mac: me, address: q.source };
                let answer = match q.payload[0] {
                    135 => [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &gateway.octets(), &[2, 1], &ROUTER.0].concat(),
                    128 => [&[129, 0, 0, 0], &q.payload[4..]].concat(),
                    other => panic!("{other}"),
                };
                asked = if q.payload[0] == 135 { (asked.0 + 1, asked.1) } else { (asked.0, asked.1 + 1) };
                if q.payload[0] == 135 || pings {
                    p.frame(&build_icmp(from, to, &answer).unwrap(), false, now);
                }
            }
            now += Duration::from_millis(100);
        }
        let said = p.verdict().ipv6.unwrap().gateway.unwrap();
        (asked, said.ok, said.message)
    };
    let (asked, ok, said) = run(&mut p, 3, true);
    assert!(asked.1 < asked.0, "nobody is pinged before it is known where he is: {asked:?}");
    assert!(ok, "{said}");
    assert_eq!(run(&mut p, 4, true).2, "fd00::1 answers neighbour discovery and ping");
    let (_, ok, said) = run(&mut p, 10, false);
    assert_eq!((ok, said.as_str()), (true, "fd00::1 answers neighbour discovery, and no ping"));
    assert_eq!(run(&mut p, 4, true).2, "fd00::1 answers neighbour discovery and ping");
}

#[test]
fn whether_management_is_routed_is_found_out_apart() {
    let (gateway4, gateway6) = (Some([10, 0, 0, 1].into()), Some("fd00::1".parse().unwrap()));
    let asked = Subject { gateway4, gateway6, routed: [true; 2], ..subject("a", &[]) };
    let mut p = Prober::new(asked.clone(), Time::ZERO);
    // Lets it ask for some seconds, and says how much. One family is answered.
    let (now, mut sequence) = (std::cell::Cell::new(Time::ZERO), 0);
    let mut run = |p: &mut Prober, seconds: u64, answered: &str| {
        let end = now.get() + Duration::from_secs(seconds);
        let mut sent = 0;
        while now.get() < end {
            p.poll(now.get());
            for echo in p.poll_routed(now.get(), &mut sequence) {
                sent += 1;
                if echo.to.to_string() == answered {
                    assert!(p.echo_heard(echo.to, echo.sequence, now.get() + Duration::from_millis(30)));
                }
            }
            now.set(now.get() + Duration::from_millis(50));
        }
        sent
    };
    assert_eq!(p.routed_unknown(), [true, true]);
    assert_eq!(run(&mut p, 7, "10.0.0.1"), 4, "one question, and three");
    let words = |v: &Connectivity| {
        let of = |f: &Option<FamilyConnectivity>| f.as_ref().and_then(|f| f.routed.as_ref()).map(|r| r.reason.clone());
        [of(&v.ipv4).unwrap_or_default(), of(&v.ipv6).unwrap_or_default()]
    };
    let v = p.verdict();
    assert_eq!((words(&v), p.routed_unknown()), ([ANSWERS.to_owned(), NOT_ROUTED.to_owned()], [false; 2]));
    // The gateway itself is judged by what is seen inside.
    assert!(v.results().all(|r| r.reason == GATEWAY_SILENT || r.reason == IN_PLACE), "{v:?}");
    // The network's cable is none of management's.
    p.set_carrier(false, now.get());
    assert!(p.next().is_some() && words(&p.verdict()) == words(&v));
    assert_eq!(run(&mut p, 65, "fd00::1"), 4);
    assert_eq!(words(&p.verdict()), [NOT_ROUTED, ANSWERS]);
    p.set_carrier(true, now.get());
    // Another gateway is asked anew; one of this link alone, or of ours, never.
    let other = Subject { gateway6: Some("fe80::1".parse().unwrap()), ..asked.clone() };
    p.update(Subject { gateway4: Some([10, 0, 0, 2].into()), ..other }, now.get());
    assert_eq!((p.routed_unknown(), words(&p.verdict())), ([true, false], [String::new(), String::new()]));
    p.update(Subject { routed: [false; 2], ..asked }, now.get());
    assert_eq!((run(&mut p, 70, ""), words(&p.verdict())), (0, [String::new(), String::new()]));
}

#[test]
fn a_learnt_gateway_is_asked_from_management_and_nothing_waits_for_its_answer() {
    let listen = Subject { ipv4: Want::Expect, routed: [true; 2], ..subject("a", &[]) };
    let mut w = World::new(vec![listen]);
    w.run(3);
    assert_eq!(w.nodes[0].routed_unknown(), [true, false]);
    assert!(!w.nodes[0].verdict().probing, "all that the network is judged by is known");
    let asked = w.nodes[0].poll_routed(w.now, &mut 7);
    assert_eq!(asked, [EchoRequest { to: Ipv4Addr::new(10, 0, 0, 1).into(), sequence: 8 }]);
}

#[test]
fn nobody_who_was_never_asked_for_is_missed() {
    let mut w = World::new(vec![Subject { ipv4: Want::Listen, ipv6: Want::Listen, ..subject("a", &[]) }]);
    (w.server, w.gateway) = (false, false);
    w.run(30);
    let v = w.nodes[0].verdict();
    assert_eq!((v.ipv4, v.ipv6), (None, None));
}

#[test]
fn with_the_cable_out_only_that_is_told_and_nothing_is_sent() {
    let mut w = pair();
    w.run(5);
    assert!(w.nodes[0].set_carrier(false, w.now));
    assert!(!w.nodes[0].set_carrier(false, w.now), "that is no news");
    assert_eq!(w.layer2(0), (NO_CARRIER.into(), "eth1 has no carrier: look at its cable and at the switch".into()));
    assert_eq!(w.nodes[0].next(), None);
    assert!(w.nodes[0].poll(w.now + Duration::from_secs(60)).is_empty());
    w.nodes[0].set_carrier(true, w.now);
    w.run(4);
    assert_eq!(w.layer2(0).0, ANSWERS);
}

#[test]
fn a_hundred_nodes_ask_three_each() {
    let names: Vec<String> = (0..100).map(|i| format!("node{i}")).collect();
    let peers = |me: &str| names.iter().map(String::as_str).filter(|n| *n != me).collect::<Vec<_>>();
    let mut asked: BTreeMap<u64, usize> = BTreeMap::new();
    for name in &names {
        let p = Prober::new(subject(name, &peers(name)), Time::ZERO);
        assert_eq!(p.peers.len(), 3);
        p.peers.keys().for_each(|id| *asked.entry(*id).or_default() += 1);
    }
    assert!(asked.len() == 100 && asked.values().all(|n| *n == 3), "each is asked by three");
}

#[test]
fn answers_are_few() {
    let mut a = Prober::new(subject("a", &["b"]), Time::ZERO);
    let ask = Probe { kind: Kind::Ask, network: wire_hash("uid"), from: 1, to: wire_hash("a"), sequence: 1, size: 46 };
    let frame = ask.encode(ROUTER, a.subject().mac);
    let answers = (0..1000).filter(|_| a.frame(&frame, false, Time::ZERO).is_some()).count();
    assert_eq!(answers, 64);
    let other = Probe { network: 1, ..ask }.encode(ROUTER, a.subject().mac);
    assert_eq!(a.frame(&other, false, Duration::from_secs(5)), None, "of another network");
}

#[test]
fn what_stays_the_same_keeps_what_was_found() {
    let mut w = pair();
    w.run(5);
    let s = Subject { gateway4: Some([10, 0, 0, 1].into()), ..w.nodes[0].subject().clone() };
    let now = w.now;
    w.nodes[0].update(s.clone(), now);
    assert!(w.layer2(0).1.starts_with("node b answers"), "{:?}", w.layer2(0));
    w.nodes[0].update(Subject { peers: BTreeMap::new(), ..s }, now);
    w.run(3);
    let v = w.nodes[0].verdict();
    assert_eq!((v.layer2.unwrap().reason.as_str(), v.path_mtu), (IN_PLACE, None));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_speak_to_all(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0usize..5) {
        let mut bytes = bytes;
        let kinds = [[0x88, 0xb5], [8, 6], [8, 0], [0x86, 0xdd], [0, 0]];
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&kinds[kind]);
        }
        let mut p = Prober::new(Subject { ipv4: Want::Expect, ipv6: Want::Expect, ..subject("a", &["b"]) }, Time::ZERO);
        if let Some(answer) = p.frame(&bytes, true, Time::ZERO) {
            prop_assert!(answer[0] & 1 == 0, "answers are for one");
        }
    }
}
