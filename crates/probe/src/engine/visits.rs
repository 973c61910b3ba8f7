//! A gateway is pinged from an address that is borrowed, and what is borrowed is given back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use multihome_dhcp::frame::{self, End, answer_arp, build_udp, parse_udp};
use multihome_model::names::{probe_mac, wire_hash};

use super::*;
use crate::icmp;

const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xbb]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xcc]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

/// A prober, and a gateway and a DHCP server that answer it.
struct World {
    prober: Prober,
    now: Time,
    gateway: bool,
    pings: bool,
    /// What the server answers a REQUEST with, if anything: 5 is ACK, 6 is NAK.
    grants: Option<u8>,
    /// Whether somebody else has the address that it gives.
    taken: bool,
    /// DHCP messages by their type.
    said: Vec<u8>,
    leased: bool,
    /// Where echo requests came from.
    sources: BTreeSet<Ipv4Addr>,
    echoes: usize,
}

impl World {
    fn new(ipv4: Want, address4: Option<Ipv4Addr>) -> Self {
        let subject = Subject {
            device: "eth1".into(),
            network: wire_hash("uid"),
            node: wire_hash("a"),
            mac: probe_mac("a", "uid"),
            mtu: 1500,
            peers: BTreeMap::new(),
            ipv4,
            ipv6: Want::Nothing,
            gateway4: Some(GATEWAY),
            gateway6: None,
            address4,
            routed: [false; 2],
        };
        Self {
            prober: Prober::new(subject, Time::ZERO),
            now: Time::ZERO,
            gateway: true,
            pings: true,
            grants: Some(5),
            taken: false,
            said: vec![],
            leased: false,
            sources: BTreeSet::new(),
            echoes: 0,
        }
    }

    fn answer(&mut self, f: &[u8]) -> Option<Vec<u8>> {
        if let Some(answer) = answer_arp(f, GATEWAY, ROUTER).filter(|_| self.gateway) {
            return Some(answer);
        }
        if let Some(answer) = answer_arp(f, GIVEN, OTHER) {
            return self.taken.then_some(answer);
        }
        if f[12..14] == [8, 0] && f[23] == icmp::ICMP {
            assert_eq!(f[..6], ROUTER.0);
            assert_eq!((frame::checksum(&f[14..34], 0), frame::checksum(&f[34..], 0)), (0, 0));
            self.sources.insert(<[u8; 4]>::try_from(&f[26..30]).unwrap().into());
            self.echoes += 1;
            let mut back = f.to_vec();
            back[..6].copy_from_slice(&f[6..12]);
            back[6..12].copy_from_slice(&ROUTER.0);
            back[26..30].copy_from_slice(&f[30..34]);
            back[30..34].copy_from_slice(&f[26..30]);
            (back[34], back[36], back[37]) = (0, 0, 0);
            let sum = frame::checksum(&back[34..], 0);
            back[36..38].copy_from_slice(&sum.to_be_bytes());
            return (self.pings && self.gateway).then_some(back);
        }
        let d = parse_udp(f, false).filter(|d| d.destination_port == 67)?;
        let kind = d.payload[242];
        self.said.push(kind);
        let reply = match kind {
            1 => 2,
            3 => self.grants?,
            7 => {
                assert_eq!((d.source, d.destination, f[..6].to_vec()), (GIVEN, [10, 0, 0, 2].into(), SERVER.0.into()));
                self.leased = false;
                return None;
            }
            _ => return None,
        };
        self.leased |= reply == 5;
        let mut p = d.payload[..240].to_vec();
        p[0] = 2;
        p[16..20].copy_from_slice(&GIVEN.octets());
        p.extend([53, 1, reply, 54, 4, 10, 0, 0, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1, 255]);
        let end = |mac, address, port| End { mac, address, port };
        build_udp(end(SERVER, [10, 0, 0, 2].into(), 67), end(d.source_mac, GIVEN, 68), &p)
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            if self.prober.next().is_some_and(|t| t <= self.now) {
                for f in self.prober.poll(self.now) {
                    if let Some(back) = self.answer(&f) {
                        assert_eq!(self.prober.frame(&back, false, self.now), None);
                    }
                }
            }
            self.now += Duration::from_millis(20);
        }
    }

    fn says(&self) -> String {
        self.prober.verdict().ipv4.unwrap().gateway.unwrap().message
    }

    fn count(&self, kind: u8) -> usize {
        self.said.iter().filter(|k| **k == kind).count()
    }
}

#[test]
fn a_lease_is_taken_for_a_ping_and_given_back() {
    let mut w = World::new(Want::Expect, None);
    w.run(10);
    assert_eq!((w.says().as_str(), w.leased), ("10.0.0.1 answers ARP and ping", false));
    assert_eq!((w.sources.clone(), w.echoes, w.count(3)), ([GIVEN].into(), 1, 1));
    assert!(w.count(7) > 0, "{:?}", w.said);
    w.run(590);
    assert_eq!(w.count(3), 1, "and not again for ten minutes");
    w.pings = false;
    w.run(90);
    assert_eq!((w.says().as_str(), w.leased), ("10.0.0.1 answers ARP, and no ping", false));
    assert_eq!((w.count(3), w.count(4)), (2, 0));
    // Who was silent is asked anew.
    w.gateway = false;
    w.run(30);
    w.gateway = true;
    w.pings = true;
    w.run(70);
    assert_eq!((w.says().as_str(), w.leased, w.count(3)), ("10.0.0.1 answers ARP and ping", false, 3));
    for _ in 0..20 {
        w.gateway = !w.gateway;
        w.run(15);
    }
    w.run(5);
    assert!(w.count(3) <= 3 + 6 && !w.leased, "one that comes and goes takes few leases: {}", w.count(3));
}

#[test]
fn an_address_that_somebody_has_is_not_used() {
    let mut w = World::new(Want::Expect, None);
    w.taken = true;
    w.run(20);
    assert_eq!((w.says().as_str(), w.echoes, w.count(4), w.count(7)), ("10.0.0.1 answers ARP", 0, 1, 0));
}

#[test]
fn a_server_may_refuse_and_one_that_says_nothing_may_have_given() {
    let mut w = World::new(Want::Listen, None);
    w.grants = Some(6);
    w.run(20);
    assert_eq!((w.says().as_str(), w.echoes, w.count(3), w.count(7)), ("10.0.0.1 answers ARP", 0, 1, 0));
    let mut w = World::new(Want::Listen, None);
    w.grants = None;
    w.run(20);
    assert_eq!((w.echoes, w.count(3), w.count(7)), (0, 3, 2), "what was perhaps given is given back");
}

#[test]
fn where_the_network_has_an_address_for_it_no_server_is_asked() {
    let own = Ipv4Addr::new(10, 0, 0, 9);
    let mut w = World::new(Want::Nothing, Some(own));
    w.run(10);
    assert_eq!((w.says().as_str(), w.sources.clone()), ("10.0.0.1 answers ARP and ping", [own].into()));
    w.run(110);
    assert_eq!((w.echoes, w.said.len()), (2, 0), "once a minute");
    w.pings = false;
    w.run(60);
    assert_eq!(w.says(), "10.0.0.1 answers ARP, and no ping");
    assert_eq!(w.prober.end(), None);
    // Without a server and without an address nothing is tried.
    let mut w = World::new(Want::Nothing, None);
    w.run(100);
    assert_eq!((w.says().as_str(), w.echoes), ("10.0.0.1 answers ARP", 0));
}

#[test]
fn whoever_asks_no_more_gives_back_first() {
    let mut w = World::new(Want::Expect, None);
    while !w.leased {
        w.run(1);
        assert!(w.now < Duration::from_secs(20));
    }
    let release = w.prober.end().unwrap();
    assert_eq!(w.answer(&release), None);
    assert!(!w.leased);
    assert_eq!(w.prober.end(), None);
}
