//! Devices of the node's own that networks ride on: taken, bundled, and given back.

use multihome_model::BondMode;
use multihome_netlink::Capability;
use multihome_plan::node::Bond;

use super::*;

/// Runs a command in a namespace.
pub fn sh(netns: &Netns, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let out = netns.run(|| std::process::Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_device_of_the_nodes_own_is_an_uplink_and_is_given_back() {
    let Some(host) = host("a_device_of_the_nodes_own_is_an_uplink_and_is_given_back") else { return };
    let run = |command: &str| sh(&host.netns, command);
    let off = || host.netns.run(|| sysctl::read("net/ipv6/conf/lan0/disable_ipv6")).unwrap().unwrap();
    run("ip link add lan0 type veth peer name lan1");
    run("ip link set lan0 up");
    run("ip link set lan1 up");
    let mut desired = NodeState::default();
    network(&mut desired, 1, "a");
    let bridge = name(names::BRIDGE, "net1");
    let mtu = Mtu::new(1450).unwrap();
    let uplink = Uplink { alias: "uplink default/net1".into(), bridge, mtu, kind: UplinkKind::Device, own: [].into() };
    desired.uplinks.insert(IfName::new("lan0").unwrap(), uplink);
    let mut engine = host.engine();
    let refused = |engine: &mut AnyEngine| {
        let observed = engine.observe().unwrap();
        let failed = engine.apply(&diff(&observed, &desired));
        assert_eq!(failed.len(), 1, "{failed:?}");
        failed[0].error.to_string()
    };
    // An address that somebody configured is the node's.
    run("ip addr add fd00:5::1/64 dev lan0 nodad");
    let said = refused(&mut engine);
    assert!(said.contains("carries the node's own address fd00:5::1/64"), "{said}");
    run("ip addr del fd00:5::1/64 dev lan0");
    // One that a router told it for a time is not, unless it is the only way out.
    run("ip addr add fd00:5::1/64 dev lan0 nodad valid_lft 600 preferred_lft 600");
    run("ip route del default");
    run("ip -6 route add default via fd00:5::2 dev lan0");
    let said = refused(&mut engine);
    assert!(said.contains("the node's only default route leaves by it"), "{said}");
    run("ip route add default via 192.0.2.2");
    reach(&mut engine, &desired);
    assert_eq!(off(), "1", "the node does not speak where its guests are");
    let mut without = desired.clone();
    without.uplinks.clear();
    reach(&mut engine, &without);
    assert_eq!(off(), "0", "and has its device back as it was");
    assert!(host.links().contains(&"lan0".to_owned()));
    // What was off stays off.
    host.netns.run(|| sysctl::set("net/ipv6/conf/lan0/disable_ipv6", "1")).unwrap().unwrap();
    reach(&mut engine, &desired);
    reach(&mut engine, &without);
    assert_eq!(off(), "1");
}

/// A machine with two cables to a switch, on which VLAN 100 has 10.9.0.1; none where this kernel has no bonds.
pub fn cabled(test: &str) -> Option<Host> {
    for capability in [Capability::Bond, Capability::Vlan] {
        if let Err(why) = capabilities().check(capability) {
            println!("SKIPPED {test}: this kernel has no {} devices: {why}", capability.name());
            return None;
        }
    }
    let host = host(test)?;
    let mut holder = host.outside.run(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
    sh(&host.outside, "ip link add switch type bridge");
    sh(&host.outside, "ip link set switch mtu 9000 up");
    for i in 0..2 {
        sh(&host.netns, &format!("ip link add nic{i} type veth peer name port{i}"));
        sh(&host.netns, &format!("ip link set port{i} netns {}", holder.id()));
        sh(&host.netns, &format!("ip link set nic{i} up"));
        sh(&host.outside, &format!("ip link set port{i} mtu 9000 master switch up"));
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    sh(&host.outside, "ip link add link switch name tagged type vlan id 100");
    sh(&host.outside, "ip addr add 10.9.0.1/24 dev tagged");
    sh(&host.outside, "ip link set tagged up");
    Some(host)
}

/// A NIC 10.9.0.10 on a network that is VLAN 100 of a bond.
fn on_a_bond(mode: BondMode, nics: &[&str], mtu: u32) -> NodeState {
    let mut state = NodeState::default();
    let mtu = Mtu::new(mtu).unwrap();
    let (bond, bridge) = (name(names::BOND, "fabric"), name(names::BRIDGE, "net9"));
    state.bonds.insert(
        bond.clone(),
        Bond {
            alias: "fabric lan".into(),
            mode,
            miimon: 50,
            nics: nics.iter().map(|n| IfName::new(*n).unwrap()).collect(),
            mtu,
        },
    );
    state.bridges.insert(bridge.clone(), Bridge { alias: "net default/net9".into(), mtu });
    let kind = UplinkKind::Vlan { parent: bond, id: VlanId::new(100).unwrap() };
    let uplink = Uplink { alias: "uplink default/net9".into(), bridge, mtu, kind, own: [].into() };
    state.uplinks.insert(name(names::VLAN, "net9"), uplink);
    let tap = nic(&mut state, 9, 10, false);
    state.taps.get_mut(&tap).unwrap().mtu = mtu;
    state
}

fn answers(guest: &mut Guest) -> bool {
    // A cable that was pulled is noticed at the next look, and the switch learns where we are by what we say.
    (0..10).any(|_| guest.ping(ip("10.9.0.1"), ip("10.9.0.1")))
}

#[test]
fn a_bond_carries_on_when_a_cable_is_pulled() {
    let Some(host) = cabled("a_bond_carries_on_when_a_cable_is_pulled") else { return };
    let mut engine = host.engine();
    let desired = on_a_bond(BondMode::ActiveBackup, &["nic0", "nic1"], 9000);
    reach(&mut engine, &desired);
    let mut a = guest(&host, &engine, 9, 10);
    assert!(answers(&mut a), "both cables");
    let bond = name(names::BOND, "fabric");
    let active = || sh(&host.netns, &format!("ip -d link show {bond}"));
    for pulled in [0, 1] {
        sh(&host.outside, &format!("ip link set port{pulled} down"));
        assert!(answers(&mut a), "cable {pulled} pulled: {}", active());
        sh(&host.outside, &format!("ip link set port{pulled} up"));
        assert!(answers(&mut a), "cable {pulled} plugged in again: {}", active());
    }
}

#[test]
fn a_bond_changes_while_a_network_rides_on_it_and_is_given_back() {
    let Some(host) = cabled("a_bond_changes_while_a_network_rides_on_it_and_is_given_back") else { return };
    let link = |name: &str| Rtnl::open_in(&host.netns).unwrap().link(name).unwrap().unwrap();
    let shown = || ["nic0", "nic1"].map(&link).map(|l| (l.up, l.mtu, l.mac, l.master));
    let ipv6 =
        |nic: &str| host.netns.run(|| sysctl::read(&format!("net/ipv6/conf/{nic}/disable_ipv6"))).unwrap().unwrap();
    let before = shown();
    let mut engine = host.engine();
    reach(&mut engine, &on_a_bond(BondMode::ActiveBackup, &["nic0"], 1500));
    assert_eq!((ipv6("nic0"), ipv6("nic1")), ("1".into(), "0".into()));
    let mut a = guest(&host, &engine, 9, 10);
    assert!(answers(&mut a), "one NIC");
    // Another NIC, another mode, another MTU, and the first NIC taken out: what rides on it stays where it is.
    let vlan = || link(name(names::VLAN, "net9").as_str()).index;
    let same = vlan();
    for (mode, nics, mtu) in [
        (BondMode::ActiveBackup, &["nic0", "nic1"][..], 1500),
        (BondMode::BalanceXor, &["nic0"][..], 1500),
        (BondMode::ActiveBackup, &["nic0", "nic1"][..], 9000),
        (BondMode::ActiveBackup, &["nic1"][..], 9000),
    ] {
        reach(&mut engine, &on_a_bond(mode, nics, mtu));
        assert!(answers(&mut a), "{mode:?} of {nics:?}");
    }
    assert_eq!(vlan(), same);
    // What somebody set down is brought up again.
    sh(&host.netns, "ip link set nic1 down");
    reach(&mut engine, &on_a_bond(BondMode::ActiveBackup, &["nic1"], 9000));
    assert!(answers(&mut a), "up again");
    // Every mode can be had.
    for mode in BondMode::ALL {
        reach(&mut engine, &on_a_bond(mode, &["nic0", "nic1"], 9000));
    }
    // A NIC that the node needs is not taken, and nothing else is changed.
    let held = engine.observe().unwrap();
    sh(&host.netns, "ip link add nic2 type veth peer name port2");
    sh(&host.netns, "ip addr add 192.168.7.7/24 dev nic2");
    let failed = engine.apply(&diff(&held, &on_a_bond(BondMode::ActiveBackup, &["nic1", "nic2"], 9000)));
    let said: Vec<String> = failed.iter().map(|f| f.error.to_string()).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("nic2: it carries the node's own address 192.168.7.7/24"), "{said:?}");
    assert_eq!(engine.observe().unwrap(), held);
    // Another process gives them back as they were.
    assert!(host.engine().teardown().is_empty());
    assert_eq!(shown(), before);
    assert_eq!((ipv6("nic0"), ipv6("nic1")), ("0".into(), "0".into()));
    assert_eq!(std::fs::read_dir(host.state.path().join("state")).unwrap().count(), 0, "no note stays");
}
