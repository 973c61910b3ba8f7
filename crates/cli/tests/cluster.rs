//! Several nodes, driven by the command line as their operators do: one serves the API, the others join it.

use multihome_testkit::{Cluster, eventually, network, skipped, vm};

/// Nodes on a switch of their own.
fn cluster(test: &str, count: usize) -> Option<Cluster> {
    (!skipped(test)).then(|| {
        let cluster = Cluster::start(env!("CARGO_BIN_EXE_multihome"), count);
        cluster.wait_for_nodes(count);
        cluster
    })
}

/// The same VM, bound to a node.
fn vm_on(node: &str, name: &str, networks: &[&str]) -> String {
    let selector = format!("    spec:\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n");
    vm(name, networks).replacen("    spec:\n", &selector, 1)
}

fn address(cluster: &Cluster, nic: &str) -> String {
    let v = cluster.api().get("nic", nic);
    let text = v.pointer("/status/ipv4/address").and_then(|x| x.as_str()).unwrap_or_default();
    text.split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn an_overlay_spans_nodes_without_learning_or_flooding() {
    let Some(cluster) = cluster("an_overlay_spans_nodes_without_learning_or_flooding", 3) else { return };
    let api = cluster.api();
    api.apply(&(network("blue", "Overlay", 1, 600) + &network("red", "Overlay", 2, 600)));
    api.apply(&(vm_on("node1", "a", &["blue"]) + &vm_on("node2", "b", &["blue"]) + &vm_on("node3", "c", &["red"])));
    for nic in ["a-blue", "b-blue", "c-red"] {
        api.ready(nic);
    }
    let [a, b, c] = ["a-blue", "b-blue", "c-red"].map(|n| address(&cluster, n));
    let from_a = |to: &str| api.guest_sh("a", &format!("ping -c 3 -W 1 {to}")).0;
    assert!(from_a(&b), "two nodes, one overlay");
    assert!(!from_a(&c), "another overlay is another world");
    let pieces = cluster.capture(1, "ip[6:2] & 0x3fff != 0", || {
        assert!(cluster.nodes[1].guest_sh("b", &format!("ping -c 2 -W 1 -s 1422 {a}")).0);
    });
    assert_eq!(pieces, "", "packets of 1450 bytes, the overlay's MTU, cross the underlay whole");
    // Who asks for a neighbour on another node is answered on its own node.
    let seen = cluster.capture(1, "udp port 4789", || {
        api.guest_sh("a", &format!("ip neigh flush dev eth0; ping -c 2 -W 1 {b}; ping -c 1 -W 1 10.90.1.1"));
    });
    assert!(seen.contains(&format!("{a} > {b}: ICMP")), "{seen}");
    assert!(!seen.contains("ARP"), "nobody on the underlay is asked: {seen}");
    // The third node carries another network, and gets nothing of this one.
    let seen = cluster.capture(3, "udp port 4789", || {
        api.guest_sh("a", "ping -c 2 -W 1 -b 10.90.1.255; true");
    });
    assert!(!seen.contains("10.90.1."), "{seen}");
}

#[test]
fn an_address_stays_on_another_node_and_nobody_notices() {
    let Some(cluster) = cluster("an_address_stays_on_another_node_and_nobody_notices", 2) else { return };
    let api = cluster.api();
    api.apply(&network("blue", "Overlay", 1, 600));
    api.apply(&(vm_on("node1", "a", &["blue"]) + &vm_on("node2", "b", &["blue"])));
    api.ready("a-blue");
    api.ready("b-blue");
    let b = address(&cluster, "b-blue");
    assert!(api.guest_sh("a", &format!("ping -c 2 -W 1 {b}")).0);
    // The same VM on the first node, by what its manifest says.
    api.cli(&["vm", "stop", "b"]);
    eventually("b stopped", 60, || api.get("vmi", "b").is_null().then_some(()));
    api.apply(&vm_on("node1", "b", &["blue"]));
    eventually("b runs on node1", 60, || {
        let vmi = api.get("vmi", "b");
        (vmi.pointer("/status/nodeName")? == "node1" && vmi.pointer("/status/phase")? == "Running").then_some(())
    });
    api.ready("b-blue");
    assert_eq!(address(&cluster, "b-blue"), b);
    // a still has the neighbour that it had: the same MAC.
    assert!(api.guest_sh("a", &format!("ping -c 3 -W 1 {b}")).0);
    eventually("the other node holds nothing of it", 20, || cluster.nodes[1].devices().is_empty().then_some(()));
}
