//! A Debian guest with its own cloud-init, netplan and networkd, on three networks: told by a seed, and by metadata. What its
//! kernel holds in the end is what the plan says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use multihome_guest::state::{KernelState, expected};
use multihome_model::checked::check_network;
use multihome_model::{Family, Mtu, Network};
use multihome_plan::route::{RoutePlan, VmNic, plan};
use multihome_testkit::{Node, debian, eventually, skipped};

#[path = "../../guest/tests/support/kernel.rs"]
mod kernel;

/// How long a guest may take to boot and to configure itself, in emulation, in seconds.
const BOOT: u64 = 400;

/// The primary asks by DHCP; one secondary is static, one asks by DHCP, and both have a gateway, so a table of their own.
const NETWORKS: &str = "
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: mgmt}
spec: {type: Management, ipv4: {cidr: 10.90.1.0/24, gateway: 10.90.1.1}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: storage}
spec:
  type: Overlay
  ipv4: {cidr: 10.90.2.0/24, gateway: 10.90.2.1, dhcp: None, routes: [{to: 10.77.0.0/16}]}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: backup}
spec: {type: Overlay, ipv4: {cidr: 10.90.3.0/24, gateway: 10.90.3.1, routes: [{to: 10.78.0.0/16}]}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: late}
spec: {type: Overlay, ipv4: {cidr: 10.90.4.0/24, gateway: 10.90.4.1}}
---
";

const ARGUMENTS: &str = "root=/dev/vda rw console=ttyS0 fsck.mode=skip mitigations=off";

fn machine(volumes: &str) -> String {
    machine_with(ARGUMENTS, &["mgmt", "storage", "backup"], volumes)
}

fn machine_with(arguments: &str, nics: &[&str], volumes: &str) -> String {
    let interfaces: Vec<_> = nics.iter().map(|n| format!("{{name: {n}, bridge: {{}}}}")).collect();
    let networks: Vec<_> =
        nics.iter().map(|n| format!("        - {{name: {n}, multus: {{networkName: {n}}}}}\n")).collect();
    let (interfaces, networks) = (interfaces.join(", "), networks.concat());
    format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: web}}
spec:
  running: true
  template:
    spec:
      terminationGracePeriodSeconds: 5
      domain:
        cpu: {{cores: 2}}
        memory: {{guest: 640Mi}}
        firmware: {{kernelBoot: {{kernelArgs: \"{arguments}\", container: {{image: debian-kernel}}}}}}
        devices:
          disks: [{{name: root, disk: {{bus: virtio}}}}]
          interfaces: [{interfaces}]
      networks:
{networks}      volumes:
        - {{name: root, containerDisk: {{image: debian}}}}
{volumes}"
    )
}

fn node(test: &str) -> Option<Node> {
    if skipped(test) {
        return None;
    }
    let files = match debian() {
        Ok(dir) => dir,
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            return None;
        }
    };
    let node = Node::start(env!("CARGO_BIN_EXE_multihome"));
    let file = |name: &str| files.join(name).to_string_lossy().into_owned();
    node.cli(&["image", "import", "debian", "--disk", &file("disk.qcow2")]);
    node.cli(&["image", "import", "debian-kernel", "--kernel", &file("vmlinuz"), "--initramfs", &file("initrd")]);
    Some(node)
}

/// The plan of the VM's NICs, from what the API says of networks and claims.
fn planned(node: &Node, nics: &[&str]) -> RoutePlan {
    let networks: Vec<_> = nics
        .iter()
        .map(|n| {
            let network: Network = serde_json::from_value(node.get("network", n)).unwrap();
            let mtu = network.status.as_ref().and_then(|s| s.mtu).and_then(|m| Mtu::new(m).ok()).unwrap();
            (check_network(n, &network.spec).unwrap(), mtu)
        })
        .collect();
    let names: Vec<String> = nics.iter().map(|n| format!("web-{n}")).collect();
    let views: Vec<VmNic<'_>> = names
        .iter()
        .zip(&networks)
        .enumerate()
        .map(|(i, (name, (network, mtu)))| {
            let nic = node.get("nic", name);
            let text = |p: &str| nic.pointer(p).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let address = text("/status/ipv4/address");
            VmNic {
                name,
                order: i as i32,
                wants_primary: false,
                mac: text("/status/mac").parse().unwrap(),
                network,
                mtu: *mtu,
                ipv4: address.split('/').next().unwrap().parse().ok(),
                ipv6: None,
            }
        })
        .collect();
    plan(&views)
}

fn observed(node: &Node, plan: &RoutePlan) -> KernelState {
    let mut seen = kernel::observed_by(plan, |args| node.guest_sh("web", &format!("ip -json {}", args.join(" "))).1);
    // A guest that follows no router has the kernel's own link routes, and nothing else of IPv6.
    seen.routes.retain(|r| r.to.addr().is_ipv4());
    seen
}

/// Waits until the guest is what the plan says, and cloud-init done; then looks once more.
fn settled(node: &Node, plan: &RoutePlan) {
    eventually("the guest's agent answers", BOOT, || node.guest_sh("web", "true").0.then_some(()));
    let want = expected(plan);
    let mut last = vec![];
    let end = std::time::Instant::now() + std::time::Duration::from_secs(BOOT);
    loop {
        let done = node.guest_sh("web", "test -e /run/cloud-init/result.json").0;
        if done {
            last = want.differences(&observed(node, plan));
        }
        if done && last.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < end, "{last:#?}\n{}", story(node));
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let seen = observed(node, plan);
    assert_eq!(seen.default_routes(Family::IPv4).count(), 1, "{:?}", seen.routes);
}

/// What the guest says of itself when it is not what it should be.
fn story(node: &Node) -> String {
    let script = "cat /run/cloud-init/ds-identify.log | tail -n 40; tail -n 60 /var/log/cloud-init.log; \
                  cat /etc/netplan/*.yaml; cat /etc/multihome/routes.conf; ip address; ip route; ip rule; journalctl -b --no-pager | tail -n 60";
    node.guest_sh("web", script).1
}

/// Which of its sources cloud-init took.
fn source(node: &Node) -> String {
    let text = node.guest_sh("web", "cat /run/cloud-init/result.json").1;
    let v: serde_json::Value = serde_json::from_str(&text).unwrap();
    v["v1"]["datasource"].as_str().unwrap().to_owned()
}

#[test]
fn a_seed_configures_an_unmodified_guest() {
    let Some(node) = node("a_seed_configures_an_unmodified_guest") else { return };
    let seed = "        - name: seed
          cloudInitNoCloud:
            userData: |
              #cloud-config
              write_files: [{path: /root/proof, content: by user-data}]
";
    node.apply(&(NETWORKS.to_owned() + &machine(seed)));
    ["web-mgmt", "web-backup"].iter().for_each(|n| ready(&node, n));
    let plan = planned(&node, &["mgmt", "storage", "backup"]);
    settled(&node, &plan);
    assert!(source(&node).starts_with("DataSourceNoCloud [seed=/dev/sr0]"), "{}", source(&node));
    let proof = node.guest_sh("web", "echo $(cat /root/proof) on $(hostname)").1;
    assert_eq!(proof, "by user-data on web\n");

    // A NIC more: the disk in the running guest's drive tells of it, and after a reboot all four are as planned.
    node.cli(&["nic", "create", "--network", "late", "--vm", "web"]);
    let mac = eventually("the NIC has a MAC", 20, || {
        node.get("nic", "web-late").pointer("/status/mac").and_then(|v| v.as_str()).map(str::to_owned)
    });
    // Whoever mounts the disk keeps it from being changed, so that the platform's word is waited for first.
    eventually("the seed was changed", 60, || {
        let events = node.cli(&["get", "events", "-o", "json"]);
        events.contains("\"Reseeded\"").then_some(())
    });
    let read = format!("mount -o ro /dev/sr0 /mnt && grep -c {mac} /mnt/network-config; umount /mnt");
    assert_eq!(node.guest_sh("web", &read).1.trim(), "1");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(BOOT);
    while !node.guest_sh("web", "ip -o -4 address").1.contains("inet 10.90.4.") {
        assert!(std::time::Instant::now() < end, "cloud-init has not set the plugged NIC up\n{}", story(&node));
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let boot = |node: &Node| node.guest_sh("web", "cat /proc/sys/kernel/random/boot_id").1;
    let before = boot(&node);
    node.cli(&["vm", "reboot", "web"]);
    eventually("the guest rebooted", BOOT, || {
        let now = boot(&node);
        (!now.is_empty() && now != before).then_some(())
    });
    settled(&node, &planned(&node, &["mgmt", "storage", "backup", "late"]));
}

#[test]
fn metadata_configures_an_unmodified_guest() {
    let Some(node) = node("metadata_configures_an_unmodified_guest") else { return };
    node.apply(&(NETWORKS.to_owned() + &machine("")));
    ["web-mgmt", "web-backup"].iter().for_each(|n| ready(&node, n));
    let plan = planned(&node, &["mgmt", "storage", "backup"]);
    settled(&node, &plan);
    assert!(source(&node).starts_with("DataSourceOpenStackLocal"), "{}", source(&node));
}

/// systemd-networkd as a user would set it up: DHCP on every NIC. Leases last an hour, so that nothing is learnt by renewing.
#[test]
fn a_default_route_moves_by_its_link() {
    let Some(node) = node("a_default_route_moves_by_its_link") else { return };
    let arguments = format!("{ARGUMENTS} cloud-init=disabled");
    node.apply(&(NETWORKS.to_owned() + &machine_with(&arguments, &["mgmt", "backup"], "")));
    eventually("the guest's agent answers", BOOT, || node.guest_sh("web", "true").0.then_some(()));
    let configure = "printf '[Match]\\nType=ether\\n[Network]\\nDHCP=ipv4\\n' >/etc/systemd/network/80-dhcp.network && networkctl reload";
    assert!(node.guest_sh("web", configure).0);
    ["web-mgmt", "web-backup"].iter().for_each(|n| ready(&node, n));
    let routers = || {
        let text = node.guest_sh("web", "ip -4 route show default").1;
        text.lines().filter_map(|l| l.split_whitespace().nth(2).map(str::to_owned)).collect::<Vec<_>>()
    };
    eventually("one default route", BOOT, || (routers() == ["10.90.1.1"]).then_some(()));

    // Waiting for the renewal is said, with the time.
    node.cli(&["nic", "set-primary", "web-backup"]);
    let condition = |nic: &str, kind: &str| {
        let v = node.get("nic", nic);
        let all = v.pointer("/status/conditions").and_then(|c| c.as_array()).cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
    };
    eventually("it is said to wait", 60, || {
        (condition("web-mgmt", "DefaultRouteCorrect")["reason"] == "WaitingForRenewal").then_some(())
    });
    assert_eq!(routers(), ["10.90.1.1"]);

    ["web-mgmt", "web-backup"].iter().for_each(|n| drop(node.cli(&["nic", "on-change", n, "bounce-link"])));
    eventually("the default route moved", 120, || (routers() == ["10.90.3.1"]).then_some(()));
    eventually("it is said to be right", 60, || {
        let right = |n: &str| condition(n, "DefaultRouteCorrect")["status"] == "True";
        (right("web-mgmt") && right("web-backup")).then_some(())
    });
    assert_eq!(condition("web-mgmt", "Leased")["reason"], "Acknowledged");
    let events = node.cli(&["get", "events", "-o", "json"]);
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let bounced = |e: &&serde_json::Value| e["reason"] == "LinkBounced";
    let all: Vec<_> = events["items"].as_array().unwrap().iter().filter(bounced).collect();
    assert!(all.iter().all(|e| e["count"].as_u64().unwrap_or(1) == 1), "{all:#?}");
    assert_eq!(all.len(), 2, "each link once: {all:#?}");

    // A route that is added is learnt as well.
    node.apply(&NETWORKS.replace("10.78.0.0/16}", "10.78.0.0/16}, {to: 10.79.0.0/16}"));
    eventually("the route is there", 120, || {
        node.guest_sh("web", "ip -4 route show").1.contains("10.79.0.0/16 via 10.90.3.1").then_some(())
    });
    assert_eq!(routers(), ["10.90.3.1"]);
}

/// Waits for a NIC as long as emulation takes.
fn ready(node: &Node, nic: &str) {
    eventually(&format!("NIC {nic} has its address"), BOOT, || {
        let v = node.get("nic", nic);
        let all: BTreeSet<String> = v
            .pointer("/status/conditions")?
            .as_array()?
            .iter()
            .filter(|c| c["status"] == "True")
            .filter_map(|c| c["type"].as_str().map(str::to_owned))
            .collect();
        all.contains("Leased").then_some(())
    });
}
