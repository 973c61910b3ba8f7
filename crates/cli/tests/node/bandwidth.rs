//! How much a NIC carries, as a user says it and a guest feels it.

use multihome_testkit::{eventually, network, vm};

use super::node;

#[test]
fn a_running_vms_nic_carries_what_it_may() {
    let Some(node) = node("a_running_vms_nic_carries_what_it_may") else { return };
    node.apply(&(network("ours", "Management", 41, 600) + &vm("web", &["ours"]) + &vm("db", &["ours"])));
    node.ready("web-ours");
    node.ready("db-ours");
    let refused = node.try_cli(&["nic", "bandwidth", "web-ours", "--egress", "fast"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    let sentence =
        "bandwidth \"fast\" is not a number of bits per second: use 64k to 100G bits per second, such as 100M";
    assert!(!refused.status.success() && text.contains(sentence), "{text}");
    // What a dry run says, before anything is changed.
    let manifest = node.get("nic", "web-ours");
    let (network, vm) = (&manifest["spec"]["network"], &manifest["spec"]["vm"]);
    let wish = format!(
        "apiVersion: multihome.io/v1alpha1\nkind: NetworkInterface\nmetadata: {{name: web-ours}}\nspec: {{network: {network}, vm: {vm}, bandwidth: {{egress: 64k}}}}\n"
    );
    let path = node.data_dir().join("wish.yaml");
    std::fs::write(&path, wish).unwrap();
    let told = node.cli(&["diff", "-f", path.to_str().unwrap()]);
    assert!(told.contains("unlimited -> egress 64k"), "{told}");

    let to = node.get("nic", "db-ours").pointer("/status/ipv4/address").unwrap().as_str().unwrap().to_owned();
    let to = to.split('/').next().unwrap();
    // As fast as they are answered; what the lowest rate carries at once is a hundred, and in ten seconds sixty more.
    let carried = || {
        let said = node.guest_sh("web", &format!("ping -A -q -c 400 -s 1400 -w 10 {to}")).1;
        let received = said.lines().find_map(|l| l.split(", ").find_map(|p| p.strip_suffix(" packets received")));
        received.and_then(|n| n.parse::<u32>().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let free = carried();
    assert!(free > 300, "{free}");
    let said = node.cli(&["nic", "bandwidth", "web-ours", "--egress", "64k"]);
    assert_eq!(said.trim(), "networkinterface.multihome.io/web-ours egress 64k");
    eventually("the guest is held back", 30, || (50..250).contains(&carried()).then_some(()));
    // Back to what its network says: nothing.
    node.cli(&["nic", "bandwidth", "web-ours", "--egress", "default"]);
    eventually("the guest is not held back", 30, || (carried() > 300).then_some(()));
}
