//! A hostile guest harms itself and nobody else: it uses up no DHCP server, no bridge, no neighbour, and no state but its own.

use std::net::Ipv6Addr;

use multihome_model::{Direction, RuleAction};
use multihome_plan::policy::{Policy, Rules};

use super::*;

/// A request to a DHCP server, broadcast from a NIC for a client.
fn asks(from: [u8; 6], client: [u8; 6]) -> Vec<u8> {
    let packet = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &discover(client));
    ethernet(BROADCAST, from, 0x0800, &packet)
}

fn is_request(f: &[u8]) -> bool {
    f.len() > 76 && f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == [0, 67]
}

/// What passes always, sent after something that may not: when it is seen, the other has been judged.
fn last_word(guest: &Guest, ask: Ipv4Addr) -> Vec<u8> {
    ethernet(BROADCAST, guest.mac, 0x0806, &arp(1, guest.mac, guest.ip, BROADCAST, ask))
}

/// The frames that a guest sees before the last word of another.
fn seen_before(hearer: &Guest, last: &[u8], wanted: impl Fn(&[u8]) -> bool) -> usize {
    let count = std::cell::Cell::new(0);
    let end = hearer.sees(PATIENCE * 4, |f| {
        count.set(count.get() + usize::from(wanted(f)));
        same(f, last)
    });
    assert!(end.is_some(), "what passes always is seen");
    count.get()
}

/// Sends much, in bursts that every switch has room for: the hearer has seen the end of one before the next begins. Returns how many
/// frames it saw that are wanted; a switch that has to ask somebody about them is given time for it at the end.
fn flood(
    hostile: &mut Guest,
    hearer: &Guest,
    frames: impl Iterator<Item = Vec<u8>>,
    wanted: impl Fn(&[u8]) -> bool,
) -> usize {
    let (mut ask, mut heard) = (0u32, 0);
    let mut end = |hostile: &mut Guest| {
        ask += 1;
        let last = last_word(hostile, Ipv4Addr::from(0x0a01_0000 | ask));
        hostile.send(&last);
        heard += seen_before(hearer, &last, &wanted);
    };
    for (n, frame) in frames.enumerate() {
        hostile.send(&frame);
        if n % 64 == 63 {
            end(hostile);
        }
    }
    std::thread::sleep(SILENCE);
    end(hostile);
    heard
}

#[test]
fn nobody_uses_up_the_addresses_of_a_dhcp_server() {
    let Some(host) = host("nobody_uses_up_the_addresses_of_a_dhcp_server") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    for m in [12, 13, 14] {
        nic(&mut desired, 1, m, false);
    }
    // 11 is where the server is; the others are its clients.
    for (service, m, n) in [(Service::Guarded, 10, 12), (Service::Open, 13, 14)] {
        for m in [m, n] {
            desired.ports.get_mut(&name(names::TAP, &format!("nic1.{m}"))).unwrap().dhcp4 = service;
        }
        desired.ports.get_mut(&name(names::TAP, "nic1.11")).unwrap().dhcp4 = Service::Open;
        reach(&mut engine, &desired);
        let (mut hostile, mut honest) = (guest(&host, &engine, 1, m), guest(&host, &engine, 1, n));
        let server = guest(&host, &engine, 1, 11);
        server.forget();
        let own = hostile.mac;
        let heard = flood(&mut hostile, &server, [asks(own, own)].into_iter(), is_request);
        assert_eq!(heard, 1, "{service:?}: for itself");
        // In the name of clients that do not exist; in the neighbour's name; in the own one, but too short to say whom it is for;
        // to the server itself: none arrives.
        let mut short = asks(own, own);
        short.truncate(14 + 20 + 8 + 20);
        let unicast = ipv4(hostile.ip, server.ip, 17, &discover([2, 9, 9, 9, 9, 9]));
        let others = [asks(own, honest.mac), short, ethernet(server.mac, own, 0x0800, &unicast)];
        let nobody = (0..200).map(|n| asks(own, [2, 9, 9, 9, 9, n]));
        let heard = flood(&mut hostile, &server, nobody.chain(others), is_request);
        assert_eq!(heard, 0, "{service:?}: for somebody else");
        // For itself, but without end.
        let heard = flood(&mut hostile, &server, (0..500).map(|_| asks(own, own)), is_request);
        assert!(heard <= 70, "{service:?}: {heard} of 500 for itself");
        // Meanwhile the neighbour asks as ever.
        let own = honest.mac;
        let heard = flood(&mut honest, &server, [asks(own, own)].into_iter(), is_request);
        assert_eq!(heard, 1, "{service:?}: the neighbour");
        // The server's tap is free again.
        let taps = std::mem::take(&mut desired.taps);
        reach(&mut engine, &desired);
        desired.taps = taps;
    }
}

/// The addresses that a bridge learned by itself at a port.
fn learned(host: &Host, tap: &IfName) -> usize {
    if let Some(vswitch) = &host.vswitch {
        let vswitch = vswitch.lock().unwrap();
        let bridge = vswitch.vsctl(&["port-to-br", tap.as_str()]).unwrap();
        let flows = vswitch.ofctl("dump-flows", bridge.trim(), &[]).unwrap();
        return flows.lines().filter(|f| f.contains("idle_timeout=300")).count();
    }
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let index = rtnl.index(tap.as_str()).unwrap();
    rtnl.fdb_of(index).unwrap().iter().filter(|e| !e.own && !e.permanent).count()
}

#[test]
fn a_flood_of_mac_addresses_fills_no_table() {
    let test = "a_flood_of_mac_addresses_fills_no_table";
    let Some(host) = host(test) else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    reach(&mut engine, &desired);
    let mut hostile = guest(&host, &engine, 1, 10);
    let (mut b, c) = (guest(&host, &engine, 1, 11), guest(&host, &engine, 3, 30));
    for open in [false, true] {
        if open {
            desired.ports.get_mut(&tap).unwrap().security = Security::Promiscuous;
        }
        reach(&mut engine, &desired);
        let packet = ipv4(hostile.ip, b.ip, 17, &udp(1, 1));
        let (own, from) = (hostile.mac, |n: u16| [2, 7, 7, 7, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        flood(&mut hostile, &b, (0..20_000).map(|n| ethernet(own, from(n), 0x0800, &packet)), |_| false);
        let count = learned(&host, &tap);
        match open {
            false => assert_eq!(count, 0, "a strict port teaches its bridge nothing"),
            true if OVS || kernel_bounds_tables() => assert!((1..=16_384).contains(&count), "{count} learned"),
            true => println!("SKIPPED {test}, of a promiscuous port: this kernel knows no limit (Linux 6.7 does)"),
        }
        // Whom the bridge was told of is found as ever.
        assert!(b.ping(c.ip, ip("10.1.0.1")), "a neighbour");
    }
}

/// Whether bridges have a limit for what they learn: Linux from 6.7 on.
fn kernel_bounds_tables() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 7)
}

#[test]
fn nobody_speaks_for_a_neighbour_or_the_gateway() {
    let Some(host) = host("nobody_speaks_for_a_neighbour_or_the_gateway") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    nic(&mut desired, 1, 12, false);
    let six = |m: u8| mac(m).link_local().octets();
    let all6: [u8; 16] = "ff02::1".parse::<Ipv6Addr>().unwrap().octets();
    reach(&mut engine, &desired);
    let (mut hostile, b, mut c) =
        (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11), guest(&host, &engine, 1, 12));
    let gateway = ip("10.1.0.1");
    let multi = [0x33, 0x33, 0, 0, 0, 1];
    let mut lies = vec![];
    for victim in [b.ip, gateway] {
        for op in [1, 2] {
            lies.push(ethernet(BROADCAST, hostile.mac, 0x0806, &arp(op, hostile.mac, victim, BROADCAST, victim)));
            lies.push(ethernet(c.mac, hostile.mac, 0x0806, &arp(op, hostile.mac, victim, c.mac, c.ip)));
        }
    }
    for target in [six(11), MacAddr([2, 0, 0, 0, 1, 1]).link_local().octets()] {
        lies.push(ethernet(multi, hostile.mac, 0x86dd, &icmp6(target, all6, 136, target)));
        lies.push(ethernet(multi, hostile.mac, 0x86dd, &icmp6(six(10), all6, 136, target)));
        lies.push(ethernet(multi, hostile.mac, 0x86dd, &icmp6(target, all6, 135, six(12))));
    }
    c.forget();
    lies.iter().for_each(|lie| hostile.send(lie));
    let last = last_word(&hostile, c.ip);
    hostile.send(&last);
    assert_eq!(seen_before(&c, &last, |f| lies.iter().any(|l| same(f, l))), 0);
    assert_eq!((c.resolve(b.ip, PATIENCE), c.resolve(gateway, PATIENCE)), (Some(b.mac), Some([2, 0, 0, 0, 1, 1])));
    // One that may lie is believed by those who listen, which its Event says; but what is meant for a NIC's MAC reaches the NIC.
    desired.ports.get_mut(&name(names::TAP, "nic1.10")).unwrap().security = Security::Promiscuous;
    reach(&mut engine, &desired);
    for _ in 0..20 {
        hostile.send(&ethernet(BROADCAST, b.mac, 0x0800, &ipv4(b.ip, c.ip, 17, &udp(1, 1))));
    }
    hostile.forget();
    let secret = ethernet(b.mac, c.mac, 0x0800, &ipv4(c.ip, b.ip, 17, &udp(7, 7)));
    c.send(&secret);
    assert!(b.sees(PATIENCE, |f| same(f, &secret)).is_some(), "its owner hears it");
    assert!(hostile.sees(SILENCE, |f| same(f, &secret)).is_none(), "and nobody else");
}

#[test]
fn a_flood_of_conversations_crowds_out_its_own_nic_alone() {
    let Some(host) = host("a_flood_of_conversations_crowds_out_its_own_nic_alone") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let (hostile_tap, honest_tap) = (name(names::TAP, "nic1.10"), name(names::TAP, "nic1.11"));
    let door = Policy {
        ingress: Rules { rules: vec![], otherwise: RuleAction::Deny },
        egress: Rules { rules: vec![], otherwise: RuleAction::Allow },
    };
    for tap in [&hostile_tap, &honest_tap] {
        desired.policies.insert(tap.clone(), door.clone());
    }
    reach(&mut engine, &desired);
    let (mut hostile, mut honest) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let far = guest(&host, &engine, 3, 30);
    let gateway = ip("10.1.0.1");
    let hop = hostile.resolve(gateway, PATIENCE).unwrap();
    assert!(hostile.ping(far.ip, gateway) && honest.ping(far.ip, gateway));
    let (own, ip) = (hostile.mac, hostile.ip);
    let to = |n: u32| Ipv4Addr::from(0xc000_0000 | n);
    let opens = |n| ethernet(hop, own, 0x0800, &ipv4(ip, to(n), 17, &udp(1000, 53)));
    flood(&mut hostile, &honest, (0..70_000).map(opens), |_| false);
    let counted = engine.policy_counters().unwrap();
    assert!(counted[&hostile_tap].crowded >= 70_000 - 65_536, "{counted:?}");
    assert_eq!(counted[&honest_tap].crowded, 0);
    assert!(counted[&hostile_tap].otherwise[&Direction::Egress] >= 65_536);
    let opens = |from: &mut Guest, port| {
        let packet = ethernet(hop, from.mac, 0x0800, &ipv4(from.ip, far.ip, 17, &udp(port, 53)));
        from.send(&packet);
        let arrives = |f: &[u8]| f.len() > 38 && f[12..14] == [8, 0] && f[26..30] == from.ip.octets() && f[23] == 17;
        far.sees(SILENCE, arrives).is_some()
    };
    assert!(!opens(&mut hostile, 2000), "it has no room left for what it opens");
    assert!(opens(&mut honest, 2000) && honest.ping(far.ip, gateway), "its neighbour opens what it likes");
}
