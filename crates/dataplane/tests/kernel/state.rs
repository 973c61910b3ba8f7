//! What there is becomes what there is to be, whatever was there before, and nothing else is touched.

use super::*;

#[test]
fn a_kill_at_any_step_leaks_nothing_and_ends_where_it_should() {
    let test = "a_kill_at_any_step_leaks_nothing_and_ends_where_it_should";
    let Some(host) = host(test) else { return };
    let desired = mirror::plan_with_mirror();
    let steps = diff(&NodeState::default(), &desired);
    let before = (host.links(), host.forwards());
    assert_eq!(before.1, "0");
    for killed_after in (0..=steps.len()).step_by(3) {
        let failed = host.engine().apply(&steps[..killed_after]);
        assert!(failed.is_empty(), "{failed:#?}");
        let mut engine = host.engine();
        reach(&mut engine, &desired);
        assert_eq!(host.forwards(), "1");
        // Down again, killed half way, and taken up by another.
        let down = diff(&desired, &NodeState::default());
        let half = killed_after.min(down.len());
        assert!(engine.apply(&down[..half]).is_empty());
        let failed = host.engine().teardown();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!((host.links(), host.forwards()), before, "after {killed_after} steps");
        assert_eq!(host.namespaces(), [""; 0]);
        assert_eq!(host.ruleset(), "");
        assert!(!host.state.path().join("state/forwarding").exists());
    }
}

#[test]
fn what_does_not_change_is_not_touched() {
    let Some(host) = host("what_does_not_change_is_not_touched") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    assert!(a.ping(b.ip, b.ip));
    let hop = a.resolve(b.ip, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            let mut lost = 0;
            for _ in 0..200 {
                let packet = ipv4(a.ip, b.ip, 1, &echo(8, 9));
                a.send(&ethernet(hop, a.mac, 0x0800, &packet));
                let back = a.sees(PATIENCE, |f| f[12..14] == [8, 0] && f[34] == 0);
                lost += u32::from(back.is_none());
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            lost
        });
        // Meanwhile agents come and go, NICs, networks and mistakes come and go.
        while !pinging.is_finished() {
            let mut engine = host.engine();
            reach(&mut engine, &desired);
            nic(&mut desired, 1, 12, true);
            network(&mut desired, 4, "cccc");
            reach(&mut engine, &desired);
            desired = plan();
            reach(&mut host.engine(), &desired);
        }
        assert_eq!(pinging.join().unwrap(), 0, "packets lost");
    });
    // What somebody else spoilt is seen, and mended.
    let tap = name(names::TAP, "nic1.10");
    let bridge = name(names::BRIDGE, "net1");
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let spoil = LinkChange { up: Some(false), master: Some(0), mtu: Some(1400), ..LinkChange::default() };
    rtnl.change_named(tap.as_str(), &spoil).unwrap();
    rtnl.change_named(bridge.as_str(), &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    host.netns.run(|| sysctl::set("net/ipv4/conf/out0/forwarding", "0").unwrap()).unwrap();
    match &host.vswitch {
        None => {
            let index = rtnl.index(name(names::TAP, "nic1.11").as_str()).unwrap();
            let planted = FdbEntry { index, mac: mac(10).0, remote: None, own: false, permanent: true };
            assert!(rtnl.fdb_set(&[planted]).into_iter().all(|r| r.is_ok()));
        }
        Some(vswitch) => {
            let vswitch = vswitch.lock().unwrap();
            vswitch.ofctl("del-flows", bridge.as_str(), &["dl_dst=52:54:00:00:00:0b"]).unwrap();
            vswitch.ofctl("add-flow", bridge.as_str(), &["table=0,priority=99,actions=drop"]).unwrap();
            vswitch.vsctl(&["set", "Port", tap.as_str(), "tag=7"]).unwrap();
            vswitch.vsctl(&["set", "Bridge", bridge.as_str(), "fail_mode=standalone"]).unwrap();
        }
    }
    reach(&mut host.engine(), &desired);
    assert!(a.ping(b.ip, b.ip));
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")));
    // A domain that somebody deleted is made again.
    let full = format!("{}{}", host.prefix, domain_name("a"));
    Netns::delete(&full).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    reach(&mut host.engine(), &desired);
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")));
}

#[test]
fn what_cannot_be_done_says_why_and_hinders_nothing_else() {
    let Some(host) = host("what_cannot_be_done_says_why_and_hinders_nothing_else") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let vlan = name(names::VLAN, "net2");
    let kind = UplinkKind::Vlan { parent: IfName::new("out0").unwrap(), id: VlanId::new(100).unwrap() };
    let uplink = Uplink {
        alias: "uplink default/net2".into(),
        bridge: name(names::BRIDGE, "net2"),
        mtu: Mtu::new(1450).unwrap(),
        kind,
        own: [].into(),
    };
    desired.uplinks.insert(vlan.clone(), uplink);
    if OVS {
        // A whole device is what Open vSwitch takes, and the node needs this one.
        let failed = engine.apply(&diff(&NodeState::default(), &desired));
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert!(failed[0].error.is_permanent());
        let text = failed[0].error.to_string();
        assert!(
            text.starts_with("this node cannot do VLAN 100 on out0: out0: it carries the node's own address"),
            "{text}"
        );
        desired.uplinks.remove(&vlan);
        assert_eq!(engine.observe().unwrap(), desired);
    } else if capabilities().check(multihome_netlink::Capability::Vlan).is_ok() {
        reach(&mut engine, &desired);
    } else {
        let failed = engine.apply(&diff(&NodeState::default(), &desired));
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert!(failed[0].error.is_permanent());
        let text = failed[0].error.to_string();
        assert!(text.starts_with("this node cannot do VLAN 100 on out0: "), "{text}");
        assert!(text.contains("Operation not supported"), "{text}");
        desired.uplinks.remove(&vlan);
        assert_eq!(engine.observe().unwrap(), desired);
    }
    // A device of ours by name that is something else is not touched.
    let foreign = name(names::BRIDGE, "foreign");
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let peer = VethPeer { name: "x", netns: None, mac: None, mtu: None };
    rtnl.create(&NewLink { name: foreign.as_str(), kind: LinkKind::Veth { peer }, change: LinkChange::default() })
        .unwrap();
    assert_eq!(engine.observe().unwrap(), desired);
    let bridge = Bridge { alias: "net x".into(), mtu: Mtu::ETHERNET };
    let failed = engine.apply(&[Step::PutBridge(foreign, bridge)]);
    assert!(failed[0].error.to_string().contains("it is a veth and not ours"), "{failed:?}");
}

#[test]
fn a_gateway_is_changed_in_place() {
    let Some(host) = host("a_gateway_is_changed_in_place") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    reach(&mut engine, &desired);
    let mut a = guest(&host, &engine, 1, 10);
    assert!(a.ping(ip("10.1.0.1"), ip("10.1.0.1")));
    let domain = desired.domains.get_mut(&domain_name("a")).unwrap();
    let leg = domain.legs.get_mut(&name(names::LEG, "net1")).unwrap();
    leg.mac = MacAddr([2, 0, 0, 0, 9, 9]);
    leg.mtu = Mtu::new(1400).unwrap();
    leg.addresses = BTreeSet::from(["10.1.0.254/24".parse().unwrap()]);
    domain.egress.as_mut().unwrap().nat.remove(&"10.1.0.0/24".parse::<IpNet>().unwrap());
    reach(&mut engine, &desired);
    assert_eq!(a.resolve(ip("10.1.0.254"), PATIENCE), Some([2, 0, 0, 0, 9, 9]));
    assert!(a.resolve(ip("10.1.0.1"), SILENCE).is_none());
    assert!(!a.ping_for(ip("198.51.100.1"), ip("10.1.0.254"), SILENCE), "no way out any more");
    // Without a way out at all, and back.
    let egress = desired.domains.get_mut(&domain_name("bb")).unwrap().egress.take();
    reach(&mut engine, &desired);
    assert_eq!(host.forwards(), "1", "the other domain still has its way out");
    desired.domains.get_mut(&domain_name("bb")).unwrap().egress = egress;
    reach(&mut engine, &desired);
}

#[test]
fn queues_and_lengths_are_remembered() {
    let Some(host) = host("queues_and_lengths_are_remembered") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    let wanted = desired.taps.get_mut(&tap).unwrap();
    wanted.queues = 4;
    wanted.tx_queue_length = Some(500);
    reach(&mut engine, &desired);
    assert_eq!(engine.open_tap(&tap, 4).unwrap().len(), 4);
    let wanted = desired.taps.get_mut(&tap).unwrap();
    wanted.queues = 1;
    wanted.tx_queue_length = Some(1000);
    reach(&mut engine, &desired);
    assert_eq!(engine.open_tap(&tap, 1).unwrap().len(), 1);
}

#[test]
fn the_thousandth_nic_costs_what_the_tenth_did() {
    let Some(host) = host("the_thousandth_nic_costs_what_the_tenth_did") else { return };
    let mut engine = host.engine();
    let mut desired = NodeState::default();
    // A bridge has at most 1,023 ports, and walks them when one more joins: ten networks.
    (0..10).for_each(|n| network(&mut desired, n, "a"));
    reach(&mut engine, &desired);
    let mut attach = |n: u32| {
        let tap = name(names::TAP, &format!("many{n}"));
        let b = n.to_be_bytes();
        let mac = MacAddr([0x52, 0x54, 1, b[1], b[2], b[3]]);
        let security = Security::Strict {
            mac,
            ipv4: BTreeSet::from([Ipv4Addr::new(10, b[1], b[2], b[3])]),
            ipv6: BTreeSet::from([mac.link_local()]),
        };
        let wanted = Tap {
            alias: format!("nic default/many{n}"),
            bridge: name(names::BRIDGE, &format!("net{}", n % 10)),
            mtu: Mtu::new(1450).unwrap(),
            queues: 1,
            tx_queue_length: None,
            vlans: None,
            bandwidth: Bandwidth::default(),
        };
        let port = Port { dhcp4: Service::Served, dhcp6: Service::Open, security };
        let started = Instant::now();
        let failed = engine.apply(&[Step::PutPort(tap.clone(), port), Step::PutTap(tap, wanted)]);
        assert!(failed.is_empty(), "{failed:#?}");
        started.elapsed()
    };
    let mut times = Vec::new();
    for n in 0..1000 {
        times.push(attach(n));
    }
    let median = |range: std::ops::Range<usize>| {
        let mut part = times[range].to_vec();
        part.sort();
        part[part.len() / 2]
    };
    println!("attach a NIC: {:?} at 10, {:?} at 1,000", median(5..25), median(980..1000));
    let started = Instant::now();
    let seen = engine.observe().unwrap();
    println!("observe {} NICs: {:?}", seen.taps.len(), started.elapsed());
    assert_eq!(seen.taps.len(), 1000);
}
