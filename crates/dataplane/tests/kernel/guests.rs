//! What guests reach, and what is heard of those that pretend to be what they are not.

use super::*;

#[test]
fn guests_reach_what_they_should_and_nothing_else() {
    let Some(host) = host("guests_reach_what_they_should_and_nothing_else") else { return };
    let mut engine = host.engine();
    let started = Instant::now();
    reach(&mut engine, &plan());
    println!("three networks, two domains, four NICs: {:?}", started.elapsed());
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let (mut other, mut sibling) = (guest(&host, &engine, 2, 20), guest(&host, &engine, 3, 30));
    assert!(a.ping(b.ip, b.ip), "same network");
    assert!(a.ping(ip("10.1.0.1"), ip("10.1.0.1")), "gateway");
    assert_eq!(a.resolve(ip("10.1.0.1"), PATIENCE), Some([2, 0, 0, 0, 1, 1]));
    assert!(a.ping(sibling.ip, ip("10.1.0.1")), "another subnet of the same VPC");
    assert!(sibling.ping(b.ip, ip("10.3.0.1")), "and back");
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")), "the world outside");
    assert!(other.ping(ip("198.51.100.1"), ip("10.2.0.1")), "from the other VPC too");

    assert!(!a.ping_for(other.ip, ip("10.1.0.1"), SILENCE), "another VPC");
    assert!(a.resolve(other.ip, SILENCE).is_none(), "another network's ARP");
    assert!(a.resolve(ip("10.3.0.1"), SILENCE).is_none(), "another subnet's gateway answers here");
    assert!(a.resolve(ip("192.0.2.1"), SILENCE).is_none(), "the host answers in a network");
    assert!(!a.ping_for(ip("169.254.64.5"), ip("10.1.0.1"), SILENCE), "another domain's way out");

    // Nobody outside comes in by the host, even if he knows the way.
    let mut out = Rtnl::open_in(&host.outside).unwrap();
    let via = Some("192.0.2.1".parse().unwrap());
    out.route_set(&Route { gateway: via, ..Route::to(ip("169.254.64.0").into(), 18) }).unwrap();
    let ping = || std::process::Command::new("ping").args(["-c1", "-W1", "169.254.64.3"]).output();
    if let Ok(output) = host.outside.run(ping).unwrap() {
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    // What is of no network of the domain's does not leave it.
    assert_eq!(engine.drops().unwrap().len(), 4);
}

#[test]
fn a_symmetric_network_hears_strangers_from_its_gateway() {
    let Some(host) = host("a_symmetric_network_hears_strangers_from_its_gateway") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    // Three strangers, because of a flow that is known the translation is remembered.
    for m in [31, 32] {
        nic(&mut desired, 3, m, false);
    }
    reach(&mut engine, &desired);
    let a = guest(&host, &engine, 1, 10);
    let gateway = ip("10.3.0.1");
    let from = |ip: Ipv4Addr| move |f: &[u8]| f[12..14] == [8, 0] && f[26..30] == ip.octets();
    let heard_from = |stranger: &mut Guest, source: Ipv4Addr| {
        a.forget();
        stranger.ping(a.ip, gateway) && a.sees(PATIENCE, from(source)).is_some()
    };
    let mut first = guest(&host, &engine, 3, 30);
    let own = first.ip;
    assert!(heard_from(&mut first, own), "as who it is");
    let plain = desired.clone();
    for leg in desired.domains.values_mut().flat_map(|d| d.legs.values_mut()).filter(|l| l.alias.ends_with("net1")) {
        leg.symmetric = true;
    }
    reach(&mut engine, &desired);
    let mut second = guest(&host, &engine, 3, 31);
    assert!(heard_from(&mut second, ip("10.1.0.1")), "as the gateway");
    // A restart finds it as it is, and it can be taken back.
    let mut again = host.engine();
    assert_eq!(diff(&again.observe().unwrap(), &desired), vec![]);
    reach(&mut again, &plain);
    let mut third = guest(&host, &again, 3, 32);
    let own = third.ip;
    assert!(heard_from(&mut third, own), "as who it is, again");
}

#[test]
fn a_guest_that_lies_is_silent() {
    let Some(host) = host("a_guest_that_lies_is_silent") else { return };
    let mut engine = host.engine();
    let desired = plan();
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let stranger = [0x52, 0x54, 0, 0xbb, 0, 1];
    let own6 = mac(10).link_local().octets();
    let b6 = mac(11).link_local().octets();
    let all6: [u8; 16] = "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let any6 = [0; 16];
    let multi = [0x33, 0x33, 0, 0, 0, 1];
    let (ip_a, ip_b, zero) = (a.ip, b.ip, Ipv4Addr::UNSPECIFIED);
    let all = Ipv4Addr::BROADCAST;
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("another MAC", ethernet(b.mac, stranger, 0x0800, &ipv4(ip_a, ip_b, 1, &echo(8, 1)))),
        ("another IPv4 source", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip("10.1.0.1"), ip_b, 1, &echo(8, 1)))),
        ("ARP for another's address", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, a.mac, ip("10.1.0.1"), b.mac, ip_b))),
        ("ARP with another's MAC", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, stranger, ip_a, b.mac, ip_b))),
        ("ARP answer from nobody", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, a.mac, zero, b.mac, ip_b))),
        ("a DHCP server", ethernet(BROADCAST, a.mac, 0x0800, &ipv4(ip_a, all, 17, &udp(67, 68)))),
        ("a DHCP server on another port", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip_a, ip_b, 17, &udp(1067, 68)))),
        ("a router", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 134, any6))),
        ("a redirect", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, b6, 137, b6))),
        ("another IPv6 source", ethernet(multi, a.mac, 0x86dd, &icmp6(b6, all6, 128, any6))),
        ("another's neighbour advertisement", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 136, b6))),
        ("claiming another's address", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 135, b6))),
        ("a VLAN tag", ethernet(b.mac, a.mac, 0x8100, &[0, 5, 8, 0, 0x45, 0])),
        ("some other protocol", ethernet(b.mac, a.mac, 0x88cc, &[1; 46])),
        (
            "a request to our own DHCP server",
            ethernet(BROADCAST, a.mac, 0x0800, &ipv4(zero, all, 17, &discover(a.mac))),
        ),
    ];
    let tap = name(names::TAP, "nic1.10");
    let spy = engine.packet_socket(&tap, &filter::dhcp4_requests()).unwrap();
    let before = engine.drops().unwrap()[&tap];
    b.forget();
    for (_, frame) in &lies {
        a.send(frame);
    }
    let heard = b.sees(SILENCE, |f| f[6..12] == a.mac || f[6..12] == stranger);
    let what = heard.and_then(|f| Some(lies.iter().find(|(_, lie)| same(&f, lie))?.0));
    assert_eq!(what, None);
    // All but the DHCP request, which is not a lie, count as such; a data path tells of it now and then.
    let wanted = lies.len() as u64 - 1;
    eventually(|| engine.drops().unwrap()[&tap] - before >= wanted);
    assert_eq!(engine.drops().unwrap()[&tap] - before, wanted);
    // Who pretended to be what is known.
    let known: Vec<_> = engine.rogues().unwrap().into_iter().collect();
    assert_eq!(known, [(tap.clone(), Rogue::Dhcp4), (tap.clone(), Rogue::Router)]);
    // We ourselves heard the request, before the bridge did.
    let mut batch = FrameBatch::new(8, 2048);
    assert_eq!(spy.receive(&mut batch).unwrap(), 1);
    assert_eq!(batch.iter().next().unwrap().data, lies.last().unwrap().1);

    let truths: Vec<(&str, Vec<u8>)> = vec![
        ("ARP probe", ethernet(BROADCAST, a.mac, 0x0806, &arp(1, a.mac, zero, BROADCAST, ip_a))),
        ("own IPv6", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 128, any6))),
        ("duplicate address detection", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 135, own6))),
        ("own neighbour advertisement", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 136, own6))),
        ("router solicitation", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 133, any6))),
        ("UDP", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip_a, ip_b, 17, &udp(5000, 5001)))),
    ];
    for (what, frame) in &truths {
        a.send(frame);
        assert!(b.sees(PATIENCE, |f| same(f, frame)).is_some(), "{what}");
    }
    // Where somebody else serves DHCP the request goes out to him.
    let mut open = desired.clone();
    open.ports.get_mut(&tap).unwrap().dhcp4 = Service::Open;
    reach(&mut engine, &open);
    let request = &lies.last().unwrap().1;
    a.send(request);
    assert!(b.sees(PATIENCE, |f| same(f, request)).is_some());
    // A promiscuous NIC may say anything, but is no DHCP server or router to whom Multihome or the guard speaks.
    open.ports.get_mut(&tap).unwrap().security = Security::Promiscuous;
    let other = name(names::TAP, "nic1.11");
    assert!(open.ports.contains_key(&other));
    for service in [Service::Served, Service::Guarded] {
        open.ports.get_mut(&other).unwrap().dhcp4 = service;
        open.ports.get_mut(&other).unwrap().dhcp6 = service;
        reach(&mut engine, &open);
        let mut silenced = 0;
        for (what, frame) in lies.iter().filter(|(what, _)| what.starts_with("a DHCP server") || *what == "a router") {
            a.send(frame);
            assert!(b.sees(SILENCE, |f| same(f, frame)).is_none(), "{what} to a port that is {service:?}");
            silenced += 1;
        }
        assert!(silenced == 3, "{silenced}");
    }
    open.ports.get_mut(&other).unwrap().dhcp4 = Service::Open;
    open.ports.get_mut(&other).unwrap().dhcp6 = Service::Open;
    reach(&mut engine, &open);
    for (what, frame) in &lies {
        a.send(frame);
        // But of VLANs a network that is no trunk knows nothing.
        let (patience, passes) = if *what == "a VLAN tag" { (SILENCE, false) } else { (PATIENCE, true) };
        assert_eq!(b.sees(patience, |f| same(f, frame)).is_some(), passes, "{what}");
    }
    // And back: what it was taught is not kept, and the lies end.
    reach(&mut engine, &desired);
    a.send(&lies[0].1);
    assert!(b.sees(SILENCE, |f| same(f, &lies[0].1)).is_none());
    assert!(a.ping(b.ip, b.ip));
    // A tap whose facts are gone may say nothing at all.
    assert!(engine.apply(&[Step::DeletePort(tap)]).is_empty());
    assert!(!a.ping_for(b.ip, b.ip, SILENCE));
}

#[test]
fn what_is_meant_for_the_metadata_service_goes_no_further() {
    let Some(host) = host("what_is_meant_for_the_metadata_service_goes_no_further") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    let service = ip("169.254.169.254");
    let six = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let own6 = mac(10).link_local().octets();
    let multi = [0x33, 0x33, 0, 0, 0, 1];
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    for security in [desired.ports[&tap].security.clone(), Security::Promiscuous] {
        desired.ports.get_mut(&tap).unwrap().security = security;
        reach(&mut engine, &desired);
        let spy = engine.packet_socket(&tap, &filter::metadata()).unwrap();
        // To its neighbour's MAC, as to its gateway's.
        let questions = [
            ethernet(BROADCAST, a.mac, 0x0806, &arp(1, a.mac, a.ip, BROADCAST, service)),
            ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, service, 6, &[0; 20])),
            ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, service, 17, &udp(5000, 53))),
            ethernet(multi, a.mac, 0x86dd, &icmp6(own6, six("ff02::1"), 135, six("fe80::a9fe:a9fe"))),
            ethernet(multi, a.mac, 0x86dd, &icmp6(own6, six("ff02::1"), 135, six("fd00:ec2::254"))),
            ethernet(b.mac, a.mac, 0x86dd, &icmp6(own6, six("fd00:ec2::254"), 128, [0; 16])),
            ethernet(b.mac, a.mac, 0x86dd, &icmp6(own6, six("fe80::a9fe:a9fe"), 128, [0; 16])),
        ];
        b.forget();
        for q in &questions {
            a.send(q);
        }
        let heard = b.sees(SILENCE, |f| questions.iter().any(|q| same(f, q)));
        assert_eq!(heard, None);
        // The service hears all of it but ICMPv6 that asks about nobody.
        let mut batch = FrameBatch::new(16, 2048);
        assert_eq!(spy.receive(&mut batch).unwrap(), questions.len() - 2);
        // What only resembles it passes.
        let near = ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, ip("169.254.169.253"), 17, &udp(5000, 53)));
        a.send(&near);
        assert!(b.sees(PATIENCE, |f| same(f, &near)).is_some());
    }
}

#[test]
fn no_guest_hears_or_forges_what_nodes_probe_with() {
    let Some(host) = host("no_guest_hears_or_forges_what_nodes_probe_with") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    // Whoever may say anything else may not say this.
    desired.ports.get_mut(&tap).unwrap().security = Security::Promiscuous;
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let prober = names::probe_mac("node", "uid").0;
    let answer = arp(2, a.mac, a.ip, prober, std::net::Ipv4Addr::UNSPECIFIED);
    let hidden = [ethernet(BROADCAST, a.mac, 0x88b5, &[0; 46]), ethernet(prober, a.mac, 0x0806, &answer)];
    let near = ethernet(BROADCAST, a.mac, 0x88b6, &[0; 46]);
    b.forget();
    for f in hidden.iter().chain([&near]) {
        a.send(f);
    }
    assert!(b.sees(PATIENCE, |f| same(f, &near)).is_some(), "another EtherType passes, sent last");
    b.forget();
    for f in &hidden {
        a.send(f);
    }
    assert_eq!(b.sees(SILENCE, |f| hidden.iter().any(|h| same(f, h))), None);
}
