//! Several nodes, driven by the command line as their operators do: one serves the API, the others join it.

mod balance;
mod outside;
mod underlay;

use std::process::Command;
use std::time::Duration;

use multihome_testkit::{Cluster, FAR, Lan, eventually, network, skipped, vm};

/// Nodes on a switch of their own, by cables that take time.
fn far_cluster(test: &str, count: usize) -> Option<Cluster> {
    (!skipped(test)).then(|| {
        let cluster = Cluster::start_far(env!("CARGO_BIN_EXE_multihome"), count);
        cluster.wait_for_nodes(count);
        cluster
    })
}

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
    // The nodes ask each other inside the overlay, and say so.
    let answers = |of: &str, text: &str| {
        eventually("the nodes find each other in the overlay", 60, || {
            let v = api.get("net", "blue");
            let found = v.pointer(&format!("/status/connectivity/{of}"))?;
            (found.pointer("/layer2/message")? == text && found.pointer("/pathMtu/reason")? == "Answers").then_some(())
        });
    };
    answers("node1", "node node2 answers by the overlay");
    answers("node2", "node node1 answers by the overlay");
    let pieces = cluster.capture(1, "ip[6:2] & 0x3fff != 0", || {
        assert!(cluster.nodes[1].guest_sh("b", &format!("ping -c 2 -W 1 -s 1422 {a}")).0);
    });
    assert_eq!(pieces, "", "packets of 1450 bytes, the overlay's MTU, cross the underlay whole");
    // Who asks for a neighbour on another node is answered on its own node.
    let seen = cluster.capture(1, "udp port 4789", || {
        api.guest_sh("a", &format!("ip neigh flush dev eth0; ping -c 2 -W 1 {b}; ping -c 1 -W 1 10.90.1.1"));
    });
    assert!(seen.contains(&format!("{a} > {b}: ICMP")), "{seen}");
    // A neighbour that was known may be asked itself whether it still is there (RFC 4861 section 7.3.1 in the kernel's ARP, too).
    assert!(!seen.contains("ff:ff:ff:ff:ff:ff, ethertype ARP"), "nobody on the underlay is asked: {seen}");
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
    // Another machine of the same name would undo this one's work.
    let elsewhere = cluster.nodes[1].data_dir().join("elsewhere");
    let twin = ["--data-dir", &elsewhere.to_string_lossy(), "agent", "--node-name", "node1"];
    let refused = String::from_utf8_lossy(&cluster.nodes[1].try_cli(&twin).stderr).into_owned();
    assert!(refused.contains("another agent speaks for node \"node1\""), "{refused}");
    api.apply(&network("blue", "Overlay", 1, 600));
    api.apply(&(vm_on("node1", "a", &["blue"]) + &vm_on("node2", "b", &["blue"])));
    api.ready("a-blue");
    api.ready("b-blue");
    let b = address(&cluster, "b-blue");
    assert!(api.guest_sh("a", &format!("ping -c 2 -W 1 {b}")).0);
    // A mirror needs both on one node, and says so until they are.
    api.cli(&["nic", "mirror", "a-blue", "--to", "b-blue", "--direction", "egress"]);
    let mirrored = |status: &str, message: &str| {
        eventually(message, 60, || {
            let v = api.get("nic", "a-blue");
            let all = v.pointer("/status/conditions")?.as_array()?.clone();
            all.iter()
                .any(|c| c["type"] == "Mirrored" && c["status"] == status && c["message"] == message)
                .then_some(())
        });
    };
    mirrored("False", "NIC a-blue is on node node1 and NIC b-blue on node node2: run both VMs on one node");
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
    mirrored("True", "NIC b-blue of VM b gets a copy of what the guest of VM a says by NIC a-blue");
    // a still has the neighbour that it had: the same MAC.
    assert!(api.guest_sh("a", &format!("ping -c 3 -W 1 {b}")).0);
    eventually("the other node holds nothing of it", 20, || cluster.nodes[1].devices().is_empty().then_some(()));
}

/// A Vpc that peers with others; each with the networks that it offers, all of them if none is named.
fn vpc(name: &str, peers: &[(&str, &str)]) -> String {
    let peers: Vec<String> = peers.iter().map(|(vpc, nets)| format!("{{vpc: {vpc}, networks: [{nets}]}}")).collect();
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: Vpc\nmetadata: {{name: {name}}}\nspec: {{peers: [{}]}}\n---\n",
        peers.join(", ")
    )
}

/// An overlay of a Vpc.
fn overlay(name: &str, vpc: &str, cidr: &str) -> String {
    let gateway = cidr.replace(".0/24", ".1");
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\nspec:\n  type: Overlay\n  vpc: {vpc}\n  \
         ipv4: {{cidr: {cidr}, gateway: {gateway}, leaseSeconds: 600}}\n---\n"
    )
}

/// Who reaches whom, by VM: asked of every guest, all at the same time.
fn matrix(cluster: &Cluster, places: &[(&str, usize, String)]) -> Vec<(String, String)> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = places
            .iter()
            .map(|(from, node, own)| {
                let others: Vec<_> = places.iter().filter(|(to, _, _)| to != from).collect();
                scope.spawn(move || {
                    let reaches = |to: &str| {
                        cluster.nodes[node - 1].guest_sh(from, &format!("ping -c 1 -W 1 {to} || ping -c 2 -W 1 {to}")).0
                    };
                    // Of two VMs with one address, the answer says nothing of which it was; a guest hears itself.
                    let asked = others.iter().filter(|(_, _, a)| a != own && reaches(a));
                    asked.map(|(to, _, _)| ((*from).to_owned(), (*to).to_owned())).collect::<Vec<_>>()
                })
            })
            .collect();
        asking.into_iter().flat_map(|a| a.join().expect("asked")).collect()
    })
}

/// How long a ping takes from the first node.
fn round_trip(cluster: &Cluster, to: &str) -> Duration {
    let netns = format!("--net=/run/netns/{}", cluster.nodes[0].netns());
    let out =
        Command::new("nsenter").args([&netns, "--", "ping", "-c", "1", "-W", "5", to]).output().expect("ping runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let millis = text.split("time=").nth(1).and_then(|t| t.split_whitespace().next()?.parse::<f64>().ok());
    Duration::from_secs_f64(millis.expect("the other node answers") / 1000.0)
}

#[test]
fn vpcs_are_worlds_of_their_own_and_peer_where_both_say_so() {
    let Some(mut cluster) = far_cluster("vpcs_are_worlds_of_their_own_and_peer_where_both_say_so", 3) else { return };
    let api = cluster.api();
    // Two with the same CIDR, of which each offers the third what does not overlap.
    api.apply(&(vpc("red", &[("shared", "")]) + &vpc("blue", &[("shared", "blue-front")])));
    api.apply(&vpc("shared", &[("red", ""), ("blue", "")]));
    let nets = [
        overlay("red-lan", "red", "10.1.0.0/24"),
        overlay("blue-front", "blue", "10.2.0.0/24"),
        overlay("blue-lan", "blue", "10.1.0.0/24"),
        overlay("services", "shared", "10.9.0.0/24"),
    ];
    api.apply(&nets.concat());
    let refused = api.try_apply(&vpc("blue", &[("shared", "")]));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("overlaps 10.1.0.0/24") && text.contains("spec.peers[].networks"), "{text}");

    let vms = [
        ("r1", 1, "red-lan"),
        ("r2", 2, "red-lan"),
        ("b1", 1, "blue-lan"),
        ("b3", 3, "blue-front"),
        ("s2", 2, "services"),
    ];
    for (name, node, network) in vms {
        api.apply(&vm_on(&format!("node{node}"), name, &[network]));
    }
    let places: Vec<_> = vms
        .iter()
        .map(|(name, node, network)| {
            let nic = format!("{name}-{network}");
            api.ready(&nic);
            (*name, *node, address(&cluster, &nic))
        })
        .collect();
    // r1 and b1 hold the first address of the same CIDR.
    assert_eq!(places[0].2, places[2].2);
    let both = |a: &str, b: &str| [(a.to_owned(), b.to_owned()), (b.to_owned(), a.to_owned())];
    let mut wanted: Vec<_> = [("r1", "r2"), ("b1", "b3"), ("r1", "s2"), ("r2", "s2"), ("b3", "s2")]
        .iter()
        .flat_map(|(a, b)| both(a, b))
        .collect();
    wanted.sort();
    let reached = |cluster: &Cluster| {
        let mut all = matrix(cluster, &places);
        // What b3 and s2 call by r1's address is b1 to the one and r1 to the other, and each is right in its own world.
        all.retain(|(from, to)| !matches!((from.as_str(), to.as_str()), ("b3", "r1") | ("s2", "b1") | ("r2", "b1")));
        all.sort();
        all
    };
    assert_eq!(reached(&cluster), wanted);
    // Frames are on the way for as long as they are to be, or longer: four cables, there and back.
    let took = round_trip(&cluster, "192.0.2.2");
    let least = (FAR.mean - FAR.jitter) * 4;
    assert!(took >= least, "{took:?} between nodes that are {least:?} apart");

    // Agents are killed, and the API is: what was told stands, and nobody loses a packet.
    let long = |to: &str| format!("ping -c 12 {to} >/tmp/long 2>&1 &");
    for (from, node, to) in [("r1", 1, &places[4].2), ("b1", 1, &places[3].2), ("r2", 2, &places[0].2)] {
        assert!(cluster.nodes[node - 1].guest_sh(from, &long(to)).0);
    }
    for node in &mut cluster.nodes {
        node.kill_server();
    }
    std::thread::sleep(Duration::from_secs(5));
    for node in &mut cluster.nodes {
        node.serve();
    }
    cluster.wait_for_nodes(3);
    for (from, node) in [("r1", 1), ("b1", 1), ("r2", 2)] {
        let said = eventually("the long ping ended", 30, || {
            let (_, text) = cluster.nodes[node - 1].guest_sh(from, "cat /tmp/long");
            text.contains("packet loss").then_some(text)
        });
        assert!(said.contains("12 packets transmitted, 12 packets received"), "{from}: {said}");
    }
    cluster.lossy();
    // A node loses its cable, and has it again.
    cluster.cable(2, false);
    assert!(!cluster.nodes[0].guest_sh("r1", &format!("ping -c 2 -W 1 {}", places[1].2)).0);
    cluster.cable(2, true);
    eventually("everybody reaches whom they should again", 20, || (reached(&cluster) == wanted).then_some(()));
    // One of two who peer takes it back.
    cluster.api().apply(&vpc("shared", &[("blue", "")]));
    let left: Vec<_> = wanted
        .iter()
        .filter(|(a, b)| !(a.starts_with('r') && b == "s2" || a == "s2" && b.starts_with('r')))
        .cloned()
        .collect();
    eventually("red and shared are apart", 20, || (reached(&cluster) == left).then_some(()));
    let why = cluster.api().cli(&["get", "vpc", "-o", "wide"]);
    assert!(why.contains("Vpc default/shared does not name default/red among its peers"), "{why}");
}

#[test]
fn a_removed_node_gives_its_vms_up_and_ends_them_when_it_comes_back() {
    let Some(mut cluster) = cluster("a_removed_node_gives_its_vms_up_and_ends_them_when_it_comes_back", 2) else {
        return;
    };
    // The node that serves is needed for the API: the other one fails.
    cluster.api().apply(&(network("blue", "Overlay", 1, 600) + &vm_on("node2", "b", &["blue"])));
    cluster.api().ready("b-blue");
    let before = address(&cluster, "b-blue");
    cluster.nodes[1].kill_server();
    eventually("a silent node is not ready", 70, || {
        let table = cluster.api().cli(&["get", "nodes"]);
        table.lines().any(|l| l.starts_with("node2") && !l.contains(" Ready ")).then_some(())
    });
    // Its VM may still run: it is not started elsewhere.
    assert_eq!(cluster.api().get("vmi", "b").pointer("/status/phase").and_then(|p| p.as_str()), Some("Running"));
    // The operator knows that the machine is off.
    cluster.api().apply(&vm_on("node1", "b", &["blue"]));
    cluster.api().cli(&["delete", "node", "node2"]);
    eventually("it runs on the other node", 120, || {
        let vmi = cluster.api().get("vmi", "b");
        (vmi.pointer("/status/nodeName")? == "node1" && vmi.pointer("/status/phase")? == "Running").then_some(())
    });
    cluster.api().ready("b-blue");
    assert_eq!(address(&cluster, "b-blue"), before, "with the address that it had");
    // The machine was not off after all.
    assert!(!cluster.nodes[1].devices().is_empty());
    cluster.nodes[1].serve();
    eventually("what was left of it there is gone", 60, || cluster.nodes[1].devices().is_empty().then_some(()));
    assert!(cluster.api().guest_sh("b", "ping -c 2 -W 1 10.90.1.1").0, "and the VM runs on where it is");
}

/// Runs `ip` on a node.
fn ip(node: &multihome_testkit::Node, line: &str) -> String {
    let out = std::process::Command::new("ip").args(["-n", node.netns()]).args(line.split_whitespace()).output();
    let out = out.expect("ip runs");
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_change_that_cuts_a_node_off_is_taken_back() {
    let Some(mut cluster) = cluster("a_change_that_cuts_a_node_off_is_taken_back", 3) else { return };
    // Two nodes whose own address is on the loopback device, as where each routes for itself: no address says what eth0 is for.
    for (i, node) in cluster.nodes.iter().enumerate().skip(1) {
        let own = format!("192.0.2.{}", i + 1);
        for line in [
            "addr flush dev eth0".to_owned(),
            format!("addr add {own}/32 dev lo"),
            format!("route add 192.0.2.0/24 dev eth0 src {own}"),
        ] {
            ip(node, &line);
        }
    }
    let _lans = [Lan::new(&cluster.nodes[1], "lan0", &[]), Lan::new(&cluster.nodes[2], "lan0", &[])];
    let fabric = |device: &str| {
        format!(
            "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: data}}\nspec: {{uplinks: [{{nics: [{device}]}}]}}\n---\n"
        )
    };
    let net = "apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: data}\nspec: {type: Untagged, clusterNetwork: data, ipv4: {cidr: 10.77.0.0/24, dhcp: Server}}\n---\n";
    cluster.api().apply(&(fabric("lan0") + net + &vm_on("node2", "a", &["data"]) + &vm_on("node3", "b", &["data"])));
    cluster.api().ready("a-data");
    cluster.api().ready("b-data");
    let is_port =
        |node: &multihome_testkit::Node, device: &str| ip(node, &format!("link show {device}")).contains(" master mhb");
    assert!(is_port(&cluster.nodes[1], "lan0") && is_port(&cluster.nodes[2], "lan0"));
    // They are seen to be manageable with it, which takes some seconds.
    let confirmed = |node: &multihome_testkit::Node| {
        let text = std::fs::read_to_string(node.data_dir().join("dataplane/trials.json")).unwrap_or_default();
        text.contains("\"running\":null").then_some(())
    };
    cluster.nodes[1..].iter().for_each(|n| eventually("the first uplink is confirmed", 30, || confirmed(n)));
    // The device that the nodes are managed by, into a bridge.
    cluster.api().apply(&fabric("eth0"));
    for node in &cluster.nodes[1..] {
        eventually("the device is in the bridge", 30, || is_port(node, "eth0").then_some(()));
    }
    assert!(!cluster.nodes[1].try_cli(&["get", "ns"]).status.success(), "the node is cut off");
    // One of the agents is killed meanwhile: the next one goes on with the trial, without the API.
    std::thread::sleep(Duration::from_secs(15));
    cluster.nodes[2].kill_server();
    cluster.nodes[2].serve();
    for (node, name) in cluster.nodes[1..].iter().zip(["node2", "node3"]) {
        eventually("the device is given back", 90, || (!is_port(node, "eth0")).then_some(()));
        eventually("what was there before is in place", 30, || is_port(node, "lan0").then_some(()));
        let message = eventually("the fabric says so", 60, || {
            let v = cluster.api().get("clusternetwork", "data");
            let text = v.pointer(&format!("/status/nodes/{name}/message"))?.as_str()?.to_owned();
            text.contains("was taken back").then_some(text)
        });
        assert!(message.starts_with("its change (to eth0) kept this node from being managed for 60 s"), "{message}");
    }
    cluster.wait_for_nodes(3);
    // Another change is taken as ever.
    cluster.api().apply(&fabric("lan0"));
    eventually("the fabric is right again", 60, || {
        let v = cluster.api().get("clusternetwork", "data");
        let nodes = v.pointer("/status/nodes")?.as_object()?.clone();
        ["node2", "node3"].iter().all(|n| nodes.get(*n).is_some_and(|n| n["message"].is_null())).then_some(())
    });
}

#[test]
fn members_of_a_group_are_known_on_every_node() {
    let Some(cluster) = cluster("members_of_a_group_are_known_on_every_node", 2) else { return };
    let api = cluster.api();
    api.apply(&(vpc("red", &[("blue", "")]) + &vpc("blue", &[("red", "")])));
    let nets = [("near", "red", "10.1.0.0/24"), ("far", "red", "10.2.0.0/24"), ("other", "blue", "10.3.0.0/24")];
    api.apply(&nets.map(|(name, vpc, cidr)| overlay(name, vpc, cidr)).concat());
    api.apply(&(vm_on("node1", "db", &["near"]) + &vm_on("node2", "b", &["far"]) + &vm_on("node2", "c", &["other"])));
    ["db-near", "b-far", "c-other"].iter().for_each(|n| drop(api.ready(n)));
    let db = address(&cluster, "db-near");
    let reaches = |vm: &str| cluster.nodes[1].guest_sh(vm, &format!("ping -c 1 -W 2 {db} || ping -c 2 -W 1 {db}")).0;
    let settles =
        |what: &str, vm: &str, expected: bool| eventually(what, 60, || (reaches(vm) == expected).then_some(()));
    settles("b reaches the database", "b", true);
    settles("and so does c, of a Vpc that peers", "c", true);
    api.cli(&["group", "create", "app"]);
    api.cli(&["group", "create", "db", "--ingress", "icmp from group:app"]);
    api.cli(&["nic", "policies", "db-near", "db"]);
    settles("nobody is in the group", "b", false);
    settles("c neither", "c", false);
    api.cli(&["nic", "policies", "b-far", "app"]);
    api.cli(&["nic", "policies", "c-other", "app"]);
    settles("a member on another node", "b", true);
    settles("a member in another Vpc", "c", true);
    api.cli(&["nic", "policies", "b-far"]);
    settles("no member any more", "b", false);
    assert!(reaches("c"), "the other one still is");
}
