//! The suite of the kernel's engine on Open vSwitch: its own ovsdb-server and ovs-vswitchd in every test's host, userspace data
//! path (the kernel's where the environment says `MULTIHOME_TEST_DATAPATH=system`); and what only this engine has to do. Needs
//! root and openvswitch-switch; without them every test says that it was skipped.
#![allow(clippy::unwrap_used)]

#[path = "kernel/main.rs"]
mod suite;

use std::time::Instant;

use multihome_dataplane::Engine;
use multihome_dataplane::ovs::{Config, Ovs};
use multihome_plan::node::{NodeState, Step, diff};
use suite::guest::{PATIENCE, SILENCE};
use suite::{Host, guest, host, ip, network, nic, plan, reach};

/// The engine itself, where a test asks it what others have not.
fn engine(host: &Host) -> Ovs {
    let database = host.vswitch.as_ref().unwrap().lock().unwrap().database();
    Ovs::open(Config { kernel: host.kernel_config(), database, datapath: suite::datapath() }).unwrap()
}

fn vsctl(host: &Host, args: &[&str]) -> String {
    host.vswitch.as_ref().unwrap().lock().unwrap().vsctl(args).unwrap()
}

fn apply(engine: &mut Ovs, desired: &NodeState) {
    let observed = engine.observe().unwrap();
    let failed = engine.apply(&diff(&observed, desired));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(&engine.observe().unwrap(), desired);
}

#[test]
fn a_batch_is_one_transaction() {
    let Some(host) = host("a_batch_is_one_transaction") else { return };
    let mut engine = engine(&host);
    let desired = plan();
    let observed = engine.observe().unwrap();
    let steps = diff(&observed, &desired);
    let before = engine.transactions();
    assert_eq!(engine.apply(&steps).len(), 0);
    assert_eq!(engine.transactions() - before, 1, "{} steps", steps.len());
    assert_eq!(engine.observe().unwrap(), desired);
    let steps = diff(&desired, &NodeState::default());
    let before = engine.transactions();
    assert_eq!(engine.apply(&steps).len(), 0);
    assert_eq!(engine.transactions() - before, 1, "{} steps", steps.len());
    assert_eq!(engine.observe().unwrap(), NodeState::default());
}

#[test]
fn what_is_not_ours_is_not_touched_and_nothing_of_ours_stays() {
    let Some(host) = host("what_is_not_ours_is_not_touched_and_nothing_of_ours_stays") else { return };
    let datapath_type = format!("datapath_type={}", suite::datapath().name());
    let db = |table: &str| vsctl(&host, &["--columns=name,external_ids,other_config", "--format=csv", "list", table]);
    vsctl(&host, &["add-br", "br-other", "--", "set", "bridge", "br-other", &datapath_type]);
    // Somebody else's, by a name like ours.
    vsctl(&host, &["add-br", "mhb00000000000", "--", "set", "bridge", "mhb00000000000", &datapath_type]);
    vsctl(&host, &["add-port", "br-other", "their0", "--", "set", "interface", "their0", "type=internal"]);
    let before = (db("Bridge"), db("Port"), db("Interface"), host.links());
    let mut engine = engine(&host);
    apply(&mut engine, &plan());
    assert_ne!(db("Bridge"), before.0);
    let failed = engine.teardown();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!((db("Bridge"), db("Port"), db("Interface"), host.links()), before);
    assert_eq!(host.ruleset(), "");
}

#[test]
fn a_step_that_the_database_refuses_hinders_no_other() {
    let Some(host) = host("a_step_that_the_database_refuses_hinders_no_other") else { return };
    let desired = plan();
    let datapath_type = format!("datapath_type={}", suite::datapath().name());
    // The name of one of our ports is taken: a port's name is unique in the database.
    let tap = suite::name(multihome_model::names::TAP, "nic1.11");
    vsctl(&host, &["add-br", "br-other", "--", "set", "bridge", "br-other", &datapath_type]);
    vsctl(&host, &["add-port", "br-other", tap.as_str()]);
    let mut engine = engine(&host);
    let observed = engine.observe().unwrap();
    let failed = engine.apply(&diff(&observed, &desired));
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert!(matches!(&failed[0].step, Step::PutTap(name, _) if *name == tap), "{:?}", failed[0].step);
    assert!(failed[0].error.to_string().contains("constraint violation"), "{}", failed[0].error);
    let seen = engine.observe().unwrap();
    assert_eq!((&seen.bridges, &seen.domains), (&desired.bridges, &desired.domains));
    assert!(desired.taps.iter().filter(|(name, _)| **name != tap).all(|(name, t)| seen.taps.get(name) == Some(t)));
    // And when it is free again, the rest follows.
    vsctl(&host, &["del-port", "br-other", tap.as_str()]);
    apply(&mut engine, &desired);
}

#[test]
fn daemons_that_crash_are_told_again_and_nothing_passes_unguarded_meanwhile() {
    let test = "daemons_that_crash_are_told_again_and_nothing_passes_unguarded_meanwhile";
    let Some(host) = host(test) else { return };
    let desired = plan();
    let mut engine = host.engine();
    reach(&mut engine, &desired);
    let (mut a, mut b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let pings = |from: &mut suite::guest::Guest, to| from.ping(to, to);
    assert!(pings(&mut a, b.ip));
    assert!(engine.is_current());

    // ovsdb-server alone. Without it ovs-vswitchd does nothing by itself, and so moves no frame in user space.
    host.vswitch.as_ref().unwrap().lock().unwrap().kill_server();
    assert!(!engine.is_current());
    let mut more = desired.clone();
    nic(&mut more, 1, 12, true);
    let failed = engine.apply(&diff(&desired, &more));
    assert!(!failed.is_empty() && failed.iter().all(|f| !f.error.is_permanent()), "{failed:?}");
    host.vswitch.as_ref().unwrap().lock().unwrap().start_server().unwrap();
    reach(&mut engine, &more);
    assert!(engine.is_current());
    let started = Instant::now();
    while !pings(&mut b, a.ip) {
        assert!(started.elapsed() < PATIENCE * 10, "with it again");
    }

    // ovs-vswitchd forgets all flows. Until it is told again nothing passes, a lie least of all.
    host.vswitch.as_ref().unwrap().lock().unwrap().kill_switch();
    assert!(!engine.is_current());
    host.vswitch.as_ref().unwrap().lock().unwrap().start_switch().unwrap();
    let stranger = [0x52, 0x54, 0, 0xbb, 0, 1];
    let lie = suite::guest::ethernet(b.mac, stranger, 0x88cc, &[1; 46]);
    b.forget();
    a.send(&lie);
    assert!(!a.ping_for(b.ip, b.ip, SILENCE), "passes without flows");
    assert!(b.sees(SILENCE, |f| suite::guest::same(f, &lie)).is_none());
    assert_ne!(engine.observe().unwrap(), more, "what is missing is seen");
    reach(&mut engine, &more);
    assert!(engine.is_current());
    let started = Instant::now();
    while !pings(&mut a, b.ip) {
        assert!(started.elapsed() < PATIENCE * 10, "told again");
    }
    assert!(pings(&mut a, ip("198.51.100.1")) || a.ping(ip("198.51.100.1"), ip("10.1.0.1")), "and the way out");
    a.send(&lie);
    assert!(b.sees(SILENCE, |f| suite::guest::same(f, &lie)).is_none());

    // Both at once, and another engine finds what is left.
    {
        let mut vswitch = host.vswitch.as_ref().unwrap().lock().unwrap();
        vswitch.kill_switch();
        vswitch.kill_server();
        vswitch.start_server().unwrap();
        vswitch.start_switch().unwrap();
    }
    network(&mut more, 4, "cccc");
    reach(&mut host.engine(), &more);
    assert!(host.engine().teardown().is_empty());
    assert!(!host.links().iter().any(|l| l.starts_with("mh")), "{:?}", host.links());
}

#[test]
fn the_node_hears_its_vlans_by_the_bridges_own_port_and_says_there_what_it_must() {
    use multihome_model::{IfName, VlanId, names};
    use multihome_netlink::packet::{FrameBatch, filter};
    use multihome_plan::node::{Service, Uplink, UplinkKind};
    use suite::guest::{BROADCAST, Guest, arp, ethernet, ipv4, same, udp};
    let test = "the_node_hears_its_vlans_by_the_bridges_own_port_and_says_there_what_it_must";
    let Some(host) = host(test) else { return };
    let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
    let mut far = suite::trunks::wired(&host);
    let mut desired = NodeState::default();
    network(&mut desired, 1, "a");
    let tap = nic(&mut desired, 1, 10, false);
    desired.ports.get_mut(&tap).unwrap().dhcp4 = Service::Guarded;
    let bridge = suite::name(names::BRIDGE, "net1");
    let mtu = desired.bridges[&bridge].mtu;
    let kind = UplinkKind::Vlan { parent: IfName::new("lan0").unwrap(), id: VlanId::new(100).unwrap() };
    let uplink = Uplink { alias: "uplink default/net1".into(), bridge: bridge.clone(), mtu, kind, own: [].into() };
    let device = suite::name(names::VLAN, "net1");
    desired.uplinks.insert(device.clone(), uplink);
    let mut engine = host.engine();
    reach(&mut engine, &desired);
    let a = guest(&host, &engine, 1, 10);
    let ear = engine.ear()(&device, &bridge);
    assert_eq!(ear, bridge);
    let socket = engine.packet_socket(&ear, &filter::all()).unwrap();
    let heard = |wanted: &[u8]| {
        let mut batch = FrameBatch::new(64, 2048);
        let started = Instant::now();
        while started.elapsed() < SILENCE {
            if socket.receive(&mut batch).is_ok() && batch.iter().any(|f| same(f.data, wanted)) {
                return true;
            }
            std::thread::sleep(SILENCE / 50);
        }
        false
    };
    let server = [0x52, 0x54, 0, 0, 9, 9];
    let prober = names::probe_mac("node", "uid").0;
    let all = std::net::Ipv4Addr::BROADCAST;
    // From the wire: what servers say, and what probes are answered; no guest hears either, and the node nothing else.
    let offer = ethernet(BROADCAST, server, 0x0800, &ipv4(ip("10.1.0.9"), all, 17, &udp(67, 68)));
    let answer = ethernet(prober, server, 0x0806, &arp(2, server, ip("10.1.0.9"), prober, ip("0.0.0.0")));
    let probe = ethernet(BROADCAST, server, 0x88b5, &[7; 46]);
    for (what, frame) in [("an offer", &offer), ("an answer", &answer), ("a probe", &probe)] {
        a.forget();
        far.send(&tagged(frame));
        assert!(heard(frame), "{what}");
        assert!(a.sees(SILENCE, |f| same(f, frame)).is_none(), "{what} at a guest");
        far.send(frame);
        assert!(!heard(frame), "{what} without a tag");
    }
    let other = ethernet(BROADCAST, server, 0x0800, &ipv4(ip("10.1.0.9"), all, 17, &udp(5000, 5001)));
    far.send(&tagged(&other));
    assert!(a.sees(PATIENCE, |f| same(f, &other)).is_some(), "a guest hears the rest");
    assert!(!heard(&other), "and the node does not");
    // To the wire: probes, and nothing else.
    let ask = ethernet(BROADCAST, prober, 0x0806, &arp(1, prober, ip("0.0.0.0"), BROADCAST, ip("10.1.0.1")));
    let ours = ethernet(BROADCAST, [2, 0, 0, 0, 0, 7], 0x88b5, &[8; 46]);
    let lie = ethernet(BROADCAST, [2, 0, 0, 0, 0, 7], 0x0800, &ipv4(ip("10.1.0.9"), all, 17, &udp(67, 68)));
    let here = ethernet(BROADCAST, a.mac, 0x8035, &[9; 46]);
    for (frame, passes) in [(&ask, true), (&ours, true), (&here, true), (&lie, false)] {
        a.forget();
        far.forget();
        socket.send(frame).unwrap();
        let wire = tagged(frame);
        let patience = if passes { PATIENCE } else { SILENCE };
        assert_eq!(far.sees(patience, |f| same(f, &wire)).is_some(), passes, "{frame:?}");
        assert!(a.sees(SILENCE, |f| same(f, frame)).is_none(), "at a guest");
    }
    let _: &Guest = &a;
}
