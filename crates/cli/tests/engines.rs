//! A whole node with real guests on Open vSwitch, driven by the command line as its users do.

use multihome_testkit::vswitch::Vswitch;
use multihome_testkit::{Lan, Node, eventually, network, skipped, vm};

fn node(test: &str) -> Option<(Node, Vswitch)> {
    if skipped(test) {
        return None;
    }
    match Node::on_open_vswitch(env!("CARGO_BIN_EXE_multihome")) {
        Ok(both) => Some(both),
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            None
        }
    }
}

#[test]
fn vms_live_on_open_vswitch_and_go_on_after_it_crashed() {
    let Some((mut node, mut vswitch)) = node("vms_live_on_open_vswitch_and_go_on_after_it_crashed") else { return };
    let mut lan = Lan::new(&node, "lan0", &[]);
    lan.serve("tcpdump", &["-l", "-n", "-e", "-i", "wire", "--immediate-mode", "vlan and rarp"]);
    let fabric = "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: lan}\nspec: {uplinks: [{nics: [lan0]}]}\n---\n";
    let wired = network("wired", "Vlan", 13, 600).replace("  type: Vlan\n", "  type: Vlan\n  clusterNetwork: lan\n");
    let nets = fabric.to_owned() + &wired + &network("one", "Vlan", 11, 600) + &network("two", "Management", 12, 600);
    node.apply(&(nets + &vm("a", &["two", "one"]) + &vm("b", &["one", "wired"])));
    for nic in ["a-one", "a-two", "b-one"] {
        node.ready(nic);
    }
    let mac =
        node.ready("b-wired").pointer("/status/mac").and_then(|m| m.as_str().map(str::to_owned)).unwrap_or_default();
    let announced = format!(
        "{mac} > ff:ff:ff:ff:ff:ff, ethertype 802.1Q (0x8100), length 60: vlan 113, p 0, ethertype Reverse ARP"
    );
    eventually("switches are told where a NIC of a VLAN is", 10, || {
        lan.log().lines().any(|l| l.replace("length 64", "length 60").contains(&announced)).then_some(())
    });
    let shown = node.get("node", "node1");
    let conditions = shown.pointer("/status/conditions").and_then(|c| c.as_array().cloned()).unwrap_or_default();
    let engine = conditions.iter().find(|c| c["type"] == "Dataplane").cloned().unwrap_or_default();
    assert_eq!(engine["reason"], "OpenVSwitch", "{conditions:?}");
    assert!(engine["message"].as_str().unwrap_or_default().contains("asked for"), "{engine}");
    let b = node.get("nic", "b-one").pointer("/status/ipv4/address").and_then(|a| a.as_str()).map(str::to_owned);
    let b = b.unwrap_or_default();
    let b = b.split('/').next().unwrap_or_default().to_owned();
    let pings = |node: &Node, to: &str| node.guest_sh("a", &format!("ping -c 1 -W 1 {to}")).0.then_some(());
    eventually("the VMs reach each other", 20, || pings(&node, &b));
    eventually("and their gateway", 20, || pings(&node, "10.90.12.1"));
    // The metadata service hears and answers at the port itself, whatever carries frames behind it.
    let ask = "wget -q -O - http://169.254.169.254/latest/meta-data/hostname";
    eventually("the metadata service answers at the port", 20, || {
        let (ok, text) = node.guest_sh("a", ask);
        (ok && text.trim_end() == "a").then_some(())
    });

    // What one says and hears is copied to a NIC of another network, below the switch.
    node.cli(&["nic", "mirror", "a-two", "--to", "b-wired"]);
    assert!(node.guest_sh("b", "ip link set eth1 promisc on").0);
    let overhears = |node: &Node| {
        let count = || node.guest_sh("b", "cat /sys/class/net/eth1/statistics/rx_packets").1.trim().parse::<u64>().ok();
        let before = count()?;
        node.guest_sh("a", "ping -i 0.1 -c 20 10.90.12.1");
        (count()? >= before + 40).then_some(())
    };
    eventually("another VM overhears it", 40, || overhears(&node));

    // Both daemons crash, and are started again by whoever watches them; nobody tells the agent.
    vswitch.kill_switch();
    vswitch.kill_server();
    vswitch.start_server().and_then(|()| vswitch.start_switch()).unwrap();
    eventually("the VMs reach each other again", 40, || pings(&node, &b));
    // A server that is killed finds everything as it was.
    node.kill_server();
    node.serve();
    eventually("and after the agent was killed, too", 20, || pings(&node, &b));
    eventually("another VM overhears it as before", 40, || overhears(&node));
    assert_eq!(
        vswitch.vsctl(&["list-br"]).unwrap().lines().count(),
        4,
        "a bridge for each network, and one for the cable"
    );

    // Another engine beside what this one holds is refused; and nothing stays of it.
    node.kill_server();
    let out = node.try_cli(&["serve", "--node-name", "node1", "--dataplane", "kernel"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("held by Open vSwitch"), "{said}");
    node.cli(&["teardown"]);
    assert_eq!(vswitch.vsctl(&["list-br"]).unwrap(), "");
    assert_eq!(node.devices(), Vec::<String>::new());
}

#[test]
fn a_guest_speaks_the_vlans_of_its_trunk_and_no_others() {
    let test = "a_guest_speaks_the_vlans_of_its_trunk_and_no_others";
    let Some((node, _vswitch)) = node(test) else { return };
    let lan = Lan::new(&node, "trunk0", &[]);
    let own = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: multihome.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let fabric = own("ClusterNetwork", "data", "{uplinks: [{nics: [trunk0]}]}");
    // VLAN 111 is a network of its own as well, with a gateway and DHCP.
    let office = network("office", "Vlan", 11, 600).replace("  vlan:", "  clusterNetwork: data\n  vlan:");
    let all =
        own("Network", "all", "{type: VlanTrunk, clusterNetwork: data, vlan: {trunk: [{first: 111, last: 112}]}}");
    node.apply(&(fabric + &office + &all + &vm("router", &["all"]) + &vm("desk", &["office"])));
    node.ready("desk-office");
    eventually("the trunk's NIC is plugged in", 60, || {
        let v = node.get("nic", "router-all");
        let list = v.pointer("/status/conditions")?.as_array()?.clone();
        list.iter().any(|c| c["type"] == "Attached" && c["status"] == "True").then_some(())
    });
    let vlan = |id: u32| {
        format!(
            "ip link add link eth0 name v{id} type vlan id {id} && ip addr add 10.90.{}.200/24 dev v{id} && ip link set v{id} up",
            id - 100
        )
    };
    eventually("the guest's agent answers", 60, || node.guest_sh("router", "ip link set eth0 up").0.then_some(()));
    for id in [111, 112, 113] {
        let (ok, text) = node.guest_sh("router", &vlan(id));
        assert!(ok, "{text}");
    }
    let desk =
        node.get("nic", "desk-office").pointer("/status/ipv4/address").map(ToString::to_string).unwrap_or_default();
    let desk = desk.trim_matches('"').split('/').next().unwrap_or_default().to_owned();
    let pings = |from: &str, to: &str| node.guest_sh(from, &format!("ping -c 1 -W 1 {to}")).0;
    eventually("the guest reaches a NIC of the VLAN", 30, || pings("router", &desk).then_some(()));
    assert!(pings("desk", "10.90.11.200"), "and is reached");
    // On the wire each has its tag, and what the trunk does not carry is not there.
    let seen = lan.capture("vlan", || {
        for id in [11, 12, 13] {
            node.guest_sh("router", &format!("ping -c 2 -W 1 10.90.{id}.77"));
        }
        node.guest_sh("desk", "ping -c 2 -W 1 10.90.11.78");
    });
    let asked = |vlan: u32, address: &str| {
        seen.lines().any(|l| l.contains(&format!("vlan {vlan},")) && l.contains(&format!("who-has {address} ")))
    };
    assert!(asked(111, "10.90.11.77") && asked(112, "10.90.12.77") && asked(111, "10.90.11.78"), "{seen}");
    assert!(!seen.contains("10.90.13."), "{seen}");
}
