//! Fabrics that cannot be what they are to be, and cables that are pulled.

use multihome_testkit::{Lan, Node, eventually, network, vm};

use super::node;

#[test]
fn an_uplink_that_cannot_be_is_told_on_the_network() {
    let Some(node) = node("an_uplink_that_cannot_be_is_told_on_the_network") else { return };
    let fabric = |nics: &str| {
        format!(
            "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: data}}\nspec: {{uplinks: [{nics}]}}\n---\n"
        )
    };
    let net = network("a", "Vlan", 61, 600).replace("  vlan:", "  clusterNetwork: data\n  vlan:");
    node.apply(&(fabric("{nics: [nosuch0]}") + &net + &vm("web", &["a"])));
    let layer2 = |node: &Node| node.get("net", "a").pointer("/status/connectivity/node1/layer2").cloned();
    let told =
        eventually("the network says what its node has against it", 30, || layer2(&node).filter(|l| l["ok"] == false));
    let reason = told["message"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("cannot set up uplink") && reason.contains("nosuch0"), "{reason}");
    assert_eq!(told["reason"], "Layer2Failed");
    let message = eventually("the network is not ready", 10, || {
        let v = node.get("net", "a");
        let list = v.pointer("/status/conditions")?.as_array()?.clone();
        list.iter().find(|c| c["type"] == "Ready" && c["status"] == "False").map(|c| c["message"].to_string())
    });
    assert!(message.contains("on node node1: cannot set up uplink"), "{message}");
    // The VM itself comes up, and the doctor names the network.
    node.ready("web-a");
    let out = node.try_cli(&["doctor", "vm/web"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.code() == Some(1) && text.contains("(network-broken)"), "{text}");
    // Mended where the sentence points: all is well again.
    node.apply(&fabric(""));
    eventually("the network is whole again", 30, || layer2(&node).filter(|l| l["ok"] == true));
    eventually("the doctor finds nothing", 20, || node.try_cli(&["doctor", "vm/web"]).status.success().then_some(()));
}

#[test]
fn a_trunk_that_cannot_be_is_told_on_the_network() {
    let Some(node) = node("a_trunk_that_cannot_be_is_told_on_the_network") else { return };
    // Whatever the kernel can do: a device with an address of the node's own is not given away.
    let _lan = Lan::new(&node, "data0", &["10.99.0.2/24"]);
    assert!(
        std::process::Command::new("ip")
            .args(["-n", node.netns(), "addr", "add", "10.99.0.1/24", "dev", "data0"])
            .status()
            .unwrap()
            .success()
    );
    node.apply(
        "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: data}\nspec: {uplinks: [{nics: [data0]}]}\n",
    );
    node.cli(&[
        "network",
        "create",
        "carries",
        "--type",
        "vlantrunk",
        "--cluster-network",
        "data",
        "--trunk",
        "100-199",
    ]);
    node.apply(&(network("a", "Management", 62, 600) + &vm("fw", &["a", "carries"])));
    let told = eventually("the network says what its node has against it", 60, || {
        let layer2 = node.get("net", "carries").pointer("/status/connectivity/node1/layer2").cloned()?;
        (layer2["ok"] == false).then(|| layer2["message"].to_string())
    });
    assert!(told.contains(r#"this node cannot do trunks on ClusterNetwork \"data\": "#), "{told}");
    let ready = eventually("tools are told, too", 10, || {
        let nad = node.get("net-attach-def", "carries");
        let label = nad.pointer("/metadata/labels/network.harvesterhci.io~1ready")?.as_str()?.to_owned();
        (label == "false").then_some(label)
    });
    assert_eq!(ready, "false");
    // The VM runs, and its other NIC works.
    node.ready("fw-a");
}

#[test]
fn a_fabric_says_when_its_cable_is_pulled() {
    let Some(node) = node("a_fabric_says_when_its_cable_is_pulled") else { return };
    let lan = Lan::new(&node, "lan0", &[]);
    let fabric = "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: lan}\nspec: {uplinks: [{nics: [lan0]}]}\n";
    node.apply(fabric);
    let ready = |status: &str, words: &str| {
        eventually(&format!("the fabric says {status}, {words:?}"), 20, || {
            let v = node.get("clusternetwork", "lan");
            let list = v.pointer("/status/conditions")?.as_array()?.clone();
            let c = list.into_iter().find(|c| c["type"] == "Ready" && c["status"] == status)?;
            c["message"].as_str()?.contains(words).then_some(v)
        })
    };
    let seen = eventually("what the node sees of it", 20, || {
        node.get("clusternetwork", "lan").pointer("/status/nodes/node1").filter(|n| n["carrier"] == true).cloned()
    });
    assert_eq!((&seen["device"], &seen["speed"]), (&"lan0".into(), &10_000.into()), "a veth says 10 Gbit/s: {seen}");
    ready("True", "");
    let wire = |state: &str| assert!(lan.command("ip", &["link", "set", "wire", state]).status().unwrap().success());
    wire("down");
    ready("False", "node node1: lan0 has no carrier: look at its cable and at the switch");
    let wide = node.cli(&["get", "cn", "-o", "wide"]);
    assert!(wide.contains("lan0 has no carrier"), "{wide}");
    let events = node.cli(&["get", "events", "--namespace", "default", "-o", "json"]);
    assert!(events.contains("UplinkFault"), "{events}");
    wire("up");
    ready("True", "");
    // One that is not there is told, too; the node keeps its own device as it was.
    node.apply(&fabric.replace("lan0", "nosuch0"));
    ready("False", "there is no device nosuch0");
    node.apply(&fabric.replace("{nics: [lan0]}", ""));
    ready("True", "");
    let there = std::process::Command::new("ip").args(["-n", node.netns(), "link", "show", "lan0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&there.stdout).contains(",UP"), "{there:?}");
}
