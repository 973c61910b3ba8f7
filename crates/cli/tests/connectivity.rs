//! What a node finds out about a network by probing it, as its users see it.

use std::process::Command;

use multihome_testkit::{Lan, Node, eventually, network, skipped, vm};

/// The condition `Connected` of a network, where it has this reason.
fn says(node: &Node, name: &str, word: &str) -> String {
    eventually(&format!("network {name} says {word}"), 40, || {
        let v = node.get("net", name);
        let list = v.pointer("/status/conditions")?.as_array()?.clone();
        let c = list.into_iter().find(|c| c["type"] == "Connected" && c["reason"] == word)?;
        Some(c["message"].as_str()?.to_owned())
    })
}

/// The row of a network as the table shows it.
fn row(node: &Node, name: &str) -> Vec<String> {
    let table = node.cli(&["network", "list", "-o", "wide"]);
    let row =
        table.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{table}")).to_owned();
    row.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_network_says_in_one_word_what_is_wrong_with_it() {
    if skipped("a_network_says_in_one_word_what_is_wrong_with_it") {
        return;
    }
    let mut node = Node::start(env!("CARGO_BIN_EXE_multihome"));
    let mut lan = Lan::new(&node, "lan0", &["10.78.0.1/24"]);
    lan.serve_dhcp(&["--dhcp-range=10.78.0.50,10.78.0.99,255.255.255.0,1h"]);
    // The router is a neighbour of the node's own network, too, which has no route to what is behind it yet.
    lan.manage(&node, "mgmt0", "10.79.0.2/24", "10.79.0.1/24");
    let lan_and_net = "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: lan}\nspec: {uplinks: [{nics: [lan0]}]}\n---\napiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: office}\nspec: {type: Untagged, clusterNetwork: lan, route: Auto}\n---\n";
    node.apply(&(lan_and_net.to_owned() + &network("ours", "Management", 71, 600)));
    assert_eq!(says(&node, "office", "NotCarried"), "no node carries it: no NIC of it is with a running VM");
    node.apply(&vm("web", &["ours", "office"]));
    node.ready("web-office");

    assert_eq!(says(&node, "ours", "Connected"), "nothing wrong on node node1");
    assert_eq!(says(&node, "office", "Connected"), "nothing wrong on node node1");
    let v = node.get("net", "office");
    let four = |v: &serde_json::Value, p: &str| {
        v.pointer(&format!("/status/connectivity/node1/ipv4/{p}"))
            .and_then(|x| x.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(four(&v, "dhcp/message"), "10.78.0.1 offers 10.78.0.0/24 by 10.78.0.1");
    eventually("the gateway answers", 20, || {
        let v = node.get("net", "office");
        (four(&v, "gateway/message") == "10.78.0.1 answers ARP and ping").then_some(())
    });
    let cells = row(&node, "office");
    for cell in ["10.78.0.0/24", "10.78.0.1", "Connected", "nothing wrong on node node1"] {
        assert!(cells.iter().any(|c| c == cell), "{cell} in {cells:?}");
    }
    assert_eq!(v.pointer("/status/route/mode").and_then(|m| m.as_str()), Some("Auto"));
    // The one lease that stays is the guest's: what was taken for the ping is given back.
    let log = eventually("the probe's lease is given back", 10, || {
        let taken = std::fs::read_to_string(lan.dir().join("leases")).unwrap_or_default();
        (taken.lines().count() == 1 && !taken.contains(" 0e:6d:")).then(|| lan.log())
    });
    assert!(log.contains("DHCPRELEASE"), "{log}");
    let ours = node.get("net", "ours");
    assert_eq!((four(&ours, "gateway/reason"), four(&ours, "routed/reason")), ("Ours".into(), String::new()));

    // Management is not routed to it, which is nothing wrong.
    let routed = |node: &Node, word: &str| {
        eventually(&format!("routed: {word}"), 20, || {
            let v = node.get("net", "office");
            (four(&v, "routed/reason") == word).then(|| four(&v, "routed/message"))
        })
    };
    assert_eq!(
        routed(&node, "NotRouted"),
        "10.78.0.1 does not answer from the node's own network: no route leads from management to it, or it does not answer ping there"
    );
    assert_eq!(says(&node, "office", "Connected"), "nothing wrong on node node1");
    assert!(node.cli(&["doctor", "net/office"]).contains("net/office: healthy: node node1 finds nothing wrong"));

    // The router loses its address: the cable is in, and nobody answers.
    let at = |words: &str| {
        assert!(lan.command("ip", &words.split(' ').collect::<Vec<_>>()).status().is_ok_and(|s| s.success()))
    };
    at("link set wire arp off");
    let text = says(&node, "office", "GatewaySilent");
    assert!(text.contains("on node node1: 10.78.0.1 does not answer ARP"), "{text}");
    // The doctor says what follows from it, asked for the network or for a VM on it.
    for target in ["net/office", "vm/web"] {
        let out = node.try_cli(&["doctor", target]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let told = text.contains("network office on node node1: 10.78.0.1 does not answer ARP");
        assert!(out.status.code() == Some(1) && told && text.contains("(gateway-silent)"), "{target}: {text}");
    }
    at("link set wire arp on");
    says(&node, "office", "Connected");

    at("link set wire down");
    let text = says(&node, "office", "NoCarrier");
    assert_eq!(text, "on node node1: lan0 has no carrier: look at its cable and at the switch");
    let cells = row(&node, "office");
    assert!(["NoCarrier", "10.78.0.0/24"].iter().all(|c| cells.iter().any(|d| d == c)), "{cells:?}");
    at("link set wire up");
    says(&node, "office", "Connected");
    let events = node.cli(&["get", "events", "--namespace", "default", "-o", "json"]);
    for reason in ["GatewaySilent", "NoCarrier", "Connected"] {
        assert!(events.contains(&format!("\"reason\": \"{reason}\"")), "{reason} in {events}");
    }

    assert!(!events.contains("NotRouted"), "{events}");

    // A server that is started anew has nothing to ask before it says what it knew.
    let since = |node: &Node| ["dhcp/time", "routed/time"].map(|p| four(&node.get("net", "office"), p));
    let before = since(&node);
    node.kill_server();
    node.serve();
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(5) {
        let v = node.get("net", "office");
        let word = v.pointer("/status/conditions").map(ToString::to_string).unwrap_or_default();
        assert!(word.contains("\"reason\":\"Connected\""), "{v}");
        let now = ["dhcp/time", "routed/time"].map(|p| four(&v, p));
        assert!(before.iter().all(|t| !t.is_empty()) && now == before, "{v}");
    }

    // One that is started anew once there is a route finds it.
    node.kill_server();
    let route = ["-n", node.netns(), "route", "add", "10.78.0.0/24", "via", "10.79.0.1"];
    assert!(Command::new("ip").args(route).status().is_ok_and(|s| s.success()));
    node.serve();
    let text = routed(&node, "Answers");
    assert_eq!(text, "10.78.0.1 answers from the node's own network: management is routed to it");
    assert_eq!(says(&node, "office", "Connected"), "nothing wrong on node node1");

    // Nobody has a NIC of it any more: the node says nothing of it.
    node.cli(&["vm", "stop", "web"]);
    says(&node, "office", "NotCarried");
    let left = Command::new("ip").args(["-n", node.netns(), "link", "show", "lan0"]).output();
    assert!(
        left.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(",UP")),
        "the node's own device is as it was"
    );
}
