//! A whole node with real guests on Open vSwitch, driven by the command line as its users do.

use multihome_testkit::vswitch::Vswitch;
use multihome_testkit::{Node, eventually, network, skipped, vm};

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
    let nets = network("one", "Vlan", 11, 600) + &network("two", "Management", 12, 600);
    node.apply(&(nets + &vm("a", &["two", "one"]) + &vm("b", &["one"])));
    for nic in ["a-one", "a-two", "b-one"] {
        node.ready(nic);
    }
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

    // Both daemons crash, and are started again by whoever watches them; nobody tells the agent.
    vswitch.kill_switch();
    vswitch.kill_server();
    vswitch.start_server().and_then(|()| vswitch.start_switch()).unwrap();
    eventually("the VMs reach each other again", 40, || pings(&node, &b));
    // A server that is killed finds everything as it was.
    node.kill_server();
    node.serve();
    eventually("and after the agent was killed, too", 20, || pings(&node, &b));
    assert_eq!(vswitch.vsctl(&["list-br"]).unwrap().lines().count(), 2, "a bridge for each network");

    // Another engine beside what this one holds is refused; and nothing stays of it.
    node.kill_server();
    let out = node.try_cli(&["serve", "--node-name", "node1", "--dataplane", "kernel"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("held by Open vSwitch"), "{said}");
    node.cli(&["teardown"]);
    assert_eq!(vswitch.vsctl(&["list-br"]).unwrap(), "");
    assert_eq!(node.devices(), Vec::<String>::new());
}
