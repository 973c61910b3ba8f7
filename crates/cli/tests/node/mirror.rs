//! What a NIC says and hears, copied to the VM of another, as an operator asks for it.

use multihome_testkit::{Node, eventually, network, vm};

use super::{address, bare, node};

/// The condition of a NIC's mirror: status, reason and message; nothing where there is none.
fn mirrored(node: &Node, nic: &str) -> Option<(String, String, String)> {
    let v = node.get("nic", nic);
    let all = v.pointer("/status/conditions")?.as_array()?.clone();
    let c = all.into_iter().find(|c| c["type"] == "Mirrored")?;
    let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until a NIC's mirror is said to be so.
fn says(node: &Node, nic: &str, reason: &str) -> String {
    eventually(&format!("{nic} is said to be {reason}"), 60, || {
        mirrored(node, nic).filter(|(_, r, _)| r == reason).map(|(_, _, text)| text)
    })
}

/// How many packets and bytes the capture VM got while something was done. It listens to whatever reaches its NIC.
fn heard(node: &Node, work: impl FnOnce()) -> (u64, u64) {
    let count = || {
        let read = "cd /sys/class/net/eth0/statistics; cat rx_packets rx_bytes";
        let said = node.guest_sh("cap", read).1;
        let numbers: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        (numbers[0], numbers[1])
    };
    let before = count();
    work();
    let after = count();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn an_operator_sees_what_a_vm_says_and_hears() {
    let Some(node) = node("an_operator_sees_what_a_vm_says_and_hears") else { return };
    node.apply(&(network("ours", "Management", 43, 600) + &network("far", "Overlay", 44, 600)));
    node.apply(&(vm("web", &["ours"]) + &vm("db", &["ours"]) + &vm("cap", &["far"])));
    ["web-ours", "db-ours", "cap-far"].iter().for_each(|n| drop(node.ready(n)));
    let refused = |args: &[&str], sentence: &str| {
        let out = node.try_cli(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(sentence), "{text}");
    };
    refused(&["nic", "mirror", "web-ours", "--to", "web-ours"], "NIC \"web-ours\" cannot be mirrored to itself");
    // What is not there may come.
    node.cli(&["nic", "mirror", "web-ours", "--to", "later"]);
    assert!(says(&node, "web-ours", "TargetMissing").contains("NIC later does not exist in namespace default"));
    let db = address(&node, "db-ours").1;
    let pings = |n: u32| assert!(node.guest_sh("web", &format!("ping -i 0.1 -c {n} {}", bare(&db))).0);
    let promiscuous = || assert!(node.guest_sh("cap", "ip link set eth0 promisc on").0);
    promiscuous();
    let (packets, _) = heard(&node, || pings(20));
    assert!(packets < 20, "{packets} of nobody");

    // What a dry run says, before anything is changed.
    let manifest = node.get("nic", "web-ours");
    let (network, vm) = (&manifest["spec"]["network"], &manifest["spec"]["vm"]);
    let wish = format!(
        "apiVersion: multihome.io/v1alpha1\nkind: NetworkInterface\nmetadata: {{name: web-ours}}\nspec: {{network: {network}, vm: {vm}, mirror: {{to: cap-far}}}}\n"
    );
    let path = node.data_dir().join("wish.yaml");
    std::fs::write(&path, wish).unwrap();
    let told = node.cli(&["diff", "-f", path.to_str().unwrap()]);
    let device = |nic: &str| node.get("nic", nic)["status"]["device"].as_str().unwrap_or_default().to_owned();
    let step = format!("{}: copied to {}, both ways", device("web-ours"), device("cap-far"));
    assert!(told.contains(&step) && told.contains("default/web-ours") && told.contains("changes"), "{told}");

    let said = node.cli(&["nic", "mirror", "web-ours", "--to", "cap-far"]);
    assert_eq!(said.trim(), "networkinterface.multihome.io/web-ours mirrored to cap-far, both ways");
    let text = says(&node, "web-ours", "Copied");
    assert_eq!(text, "NIC cap-far of VM cap gets a copy of what the guest of VM web says and hears by NIC web-ours");
    let (packets, _) = heard(&node, || pings(20));
    assert!(packets >= 40, "{packets} of 20 requests and 20 answers");
    eventually("it is said in an Event", 20, || {
        let events = node.cli(&["get", "events", "-o", "json"]);
        (events.contains("\"MirrorBegun\"") && events.contains(&format!("{text} from now on"))).then_some(())
    });
    // No copy of a copy, whoever asks for it.
    refused(
        &["nic", "mirror", "cap-far", "--to", "db-ours"],
        "NIC \"cap-far\" gets copies of NIC \"web-ours\" and is not mirrored itself: end that with «multihome nic mirror web-ours --off» first",
    );
    refused(
        &["nic", "mirror", "db-ours", "--to", "web-ours"],
        "NIC \"web-ours\" is mirrored itself, to NIC \"cap-far\": mirror to a NIC that is not mirrored",
    );
    // Large segments arrive as they would, and so do their copies.
    assert!(node.guest_sh("db", "busybox nc -ll -p 9000 -e sh -c 'cat >/tmp/got' >/dev/null 2>&1 & true").0);
    let size = 4 << 20;
    let (_, bytes) = heard(&node, || {
        let send = format!("head -c {size} /dev/zero | busybox nc {} 9000", bare(&db));
        assert!(node.guest_sh("web", &send).0);
        eventually("all of it arrives", 60, || {
            (node.guest_sh("db", "wc -c </tmp/got").1.trim() == size.to_string()).then_some(())
        });
    });
    println!("{bytes} bytes of copies of {size}");
    // A guest that is slow to take them may lose some.
    assert!(bytes > size / 2, "{bytes} bytes of copies of {size}");

    node.cli(&["nic", "mirror", "web-ours", "--to", "cap-far", "--direction", "egress"]);
    eventually("what it says alone is copied", 30, || {
        mirrored(&node, "web-ours").filter(|(_, _, text)| text.contains("VM web says by")).map(drop)
    });
    let (packets, _) = heard(&node, || pings(20));
    assert!((20..40).contains(&packets), "{packets} of 20 requests");
    // The capture VM goes and comes back.
    node.cli(&["vm", "stop", "cap"]);
    assert!(says(&node, "web-ours", "TargetNotRunning").contains("start VM cap, and copies begin"));
    pings(3);
    node.cli(&["vm", "start", "cap"]);
    says(&node, "web-ours", "Copied");
    node.ready("cap-far");
    promiscuous();
    let (packets, _) = heard(&node, || pings(20));
    assert!((20..40).contains(&packets), "{packets} of 20 requests");
    // So does the one that is mirrored.
    node.cli(&["vm", "stop", "web"]);
    eventually("nothing is said of a mirror", 60, || mirrored(&node, "web-ours").is_none().then_some(()));
    node.cli(&["vm", "start", "web"]);
    node.ready("web-ours");
    says(&node, "web-ours", "Copied");
    let (packets, _) = heard(&node, || pings(20));
    assert!((20..40).contains(&packets), "{packets} of 20 requests");

    let said = node.cli(&["nic", "mirror", "web-ours", "--off"]);
    assert_eq!(said.trim(), "networkinterface.multihome.io/web-ours not mirrored");
    eventually("nothing is said of a mirror", 30, || mirrored(&node, "web-ours").is_none().then_some(()));
    let (packets, _) = heard(&node, || pings(20));
    assert!(packets < 20, "{packets} of nobody");
}
