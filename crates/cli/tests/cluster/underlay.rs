//! Overlays whose tunnels go by a wire of their own.

use std::process::Command;

use multihome_testkit::{Cluster, Lan, eventually, network};

use super::{address, cluster, overlay, vm_on};

/// The fabric storage, whose tunnels go from addresses in 10.20.0.0/24.
fn storage(mtu: u32) -> String {
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: storage}}\n\
         spec: {{underlay: [10.20.0.0/24], mtu: {mtu}}}\n---\n"
    )
}

/// Runs `ip` in a node's own network.
fn ip(cluster: &Cluster, node: usize, args: &[&str]) {
    let done = Command::new("ip").args(["-n", cluster.nodes[node - 1].netns()]).args(args).status();
    assert!(done.is_ok_and(|s| s.success()), "ip {args:?} on node{node}");
}

/// Waits until the fabric says this, and nothing else.
fn says(cluster: &Cluster, text: &str) {
    eventually(&format!("the fabric says {text:?}"), 20, || {
        let v = cluster.api().get("cn", "storage");
        let conditions = v.pointer("/status/conditions")?.as_array()?;
        conditions.iter().any(|c| c["type"] == "Ready" && c["message"] == text).then_some(())
    });
}

#[test]
fn tunnels_go_by_the_underlay_of_their_fabric() {
    let Some(cluster) = cluster("tunnels_go_by_the_underlay_of_their_fabric", 2) else { return };
    let api = cluster.api();
    let wire = Lan::between(&[&cluster.nodes[0], &cluster.nodes[1]], "eth1", &[]);
    // A node that has no address there says so, and what it has later counts at once.
    api.apply(&storage(1500));
    let none = "it has no address in 10.20.0.0/24, so that its overlays reach no other node: give it one";
    says(&cluster, &format!("node node1: {none}; node node2: {none}"));
    ip(&cluster, 1, &["addr", "add", "10.20.0.1/24", "dev", "eth1"]);
    says(&cluster, &format!("node node2: {none}"));
    let mut data = network("data", "Overlay", 2, 600);
    data = data.replace("  type: Overlay\n", "  type: Overlay\n  clusterNetwork: storage\n");
    let shop =
        "apiVersion: multihome.io/v1alpha1\nkind: Vpc\nmetadata: {name: shop}\nspec: {clusterNetwork: storage}\n---\n";
    let in_shop = overlay("front", "shop", "10.91.1.0/24") + &overlay("back", "shop", "10.91.2.0/24");
    api.apply(&(network("blue", "Overlay", 1, 600) + &data + shop + &in_shop));
    // No VM comes to be where its network reaches nobody.
    api.apply(&vm_on("node2", "b", &["back", "blue", "data"]));
    eventually("b waits", 20, || {
        let why = api.get("vmi", "b").pointer("/status/reason")?.as_str()?.to_owned();
        why.contains("node2 has no address in the underlay of storage").then_some(())
    });
    ip(&cluster, 2, &["addr", "add", "10.20.0.2/24", "dev", "eth1"]);
    says(&cluster, "networks can ride on it");
    api.apply(&vm_on("node1", "a", &["front", "blue", "data"]));
    for nic in ["a-blue", "a-data", "a-front", "b-blue", "b-data", "b-back"] {
        api.ready(nic);
    }
    let [blue, data, back] = ["b-blue", "b-data", "b-back"].map(|n| address(&cluster, n));
    let reaches = |to: &str| api.guest_sh("a", &format!("ping -c 2 -W 1 {to}")).0;
    eventually("everything is reached", 20, || [&blue, &data, &back].iter().all(|to| reaches(to)).then_some(()));
    let tunnels = "udp port 4789 and not arp";
    for (to, by_storage) in [(&blue, false), (&data, true), (&back, true)] {
        let mut on_storage = String::new();
        let on_eth0 = cluster.capture(1, tunnels, || on_storage = wire.capture(tunnels, || assert!(reaches(to))));
        let echo = format!("> {to}: ICMP echo request");
        assert_eq!(on_storage.contains(&echo), by_storage, "{to}: {on_storage}");
        assert_eq!(on_eth0.contains(&echo), !by_storage, "{to}: {on_eth0}");
        let ends = if by_storage { "10.20.0.1." } else { "192.0.2.1." };
        assert!((on_storage + &on_eth0).contains(ends), "{to}");
    }
    // Another address takes the first one's place, and tunnels follow it.
    ip(&cluster, 2, &["addr", "del", "10.20.0.2/24", "dev", "eth1"]);
    ip(&cluster, 2, &["addr", "add", "10.20.0.3/24", "dev", "eth1"]);
    eventually("the tunnels follow", 20, || (reaches(&data) && reaches(&back)).then_some(()));
    assert_eq!(api.get("cn", "storage").pointer("/status/nodes/node2/tunnelAddress").unwrap(), "10.20.0.3");
    // What is wrong with the wire is said of the fabric, and concerns nobody else.
    api.apply(&storage(9000));
    let small = "eth1, where its tunnels go, carries packets of 1500 bytes, and 9000 are wanted";
    says(&cluster, &format!("node node1: {small}; node node2: {small}"));
    api.apply(&storage(1500));
    wire.command("ip", &["link", "set", "port2", "down"]).status().unwrap();
    says(&cluster, "node node2: eth1, where its tunnels go, has no carrier: look at its cable and at the switch");
    assert!(reaches(&blue) && !reaches(&data) && !reaches(&back));
    wire.command("ip", &["link", "set", "port2", "up"]).status().unwrap();
    says(&cluster, "networks can ride on it");
    eventually("everything is reached again", 20, || (reaches(&data) && reaches(&back)).then_some(()));
    // Who uses it keeps it; without an underlay tunnels go as all others do.
    let refused = api.try_cli(&["delete", "cn", "storage"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is used by networks default/data"), "{refused:?}");
    api.apply(&storage(1500).replace("underlay: [10.20.0.0/24], ", "underlay: [], "));
    eventually("the tunnels go by eth0", 20, || {
        let mut reached = false;
        let seen = cluster.capture(1, tunnels, || reached = reaches(&data) && reaches(&back));
        (reached && [&data, &back].iter().all(|to| seen.contains(&format!("> {to}: ICMP")))).then_some(())
    });
}
