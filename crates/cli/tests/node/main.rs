//! A whole node with real guests, driven by the command line as its users do.

mod bandwidth;
mod fabrics;
mod foreign;
mod mirror;

use std::time::Duration;

use multihome_testkit::{Lan, Node, dual_stack, eventually, network, skipped, vm};

/// A node of its own. As many scenarios run at once as there are processors: most of each is waiting.
fn node(test: &str) -> Option<Node> {
    (!skipped(test)).then(|| Node::start(env!("CARGO_BIN_EXE_multihome")))
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn address(node: &Node, nic: &str) -> (String, String) {
    let v = node.get("nic", nic);
    let text = |p: &str| v.pointer(p).and_then(|x| x.as_str()).unwrap_or_default().to_owned();
    (text("/status/mac"), text("/status/ipv4/address"))
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

#[test]
fn every_boot_ends_with_the_right_default_route() {
    let Some(node) = node("every_boot_ends_with_the_right_default_route") else { return };
    let nets = network("a", "Management", 1, 600) + &network("b", "Vlan", 2, 600) + &network("c", "Overlay", 3, 600);
    node.apply(&(nets + &vm("web", &["a", "b", "c"])));
    ["web-a", "web-b", "web-c"].iter().for_each(|n| drop(node.ready(n)));
    // make test reboots a few times; scripts/reboots does it as often as it is told.
    let boots = number("MULTIHOME_REBOOTS", 3);
    for boot in 0..=boots {
        if boot > 0 {
            let before = node.guest_sh("web", "cat /proc/sys/kernel/random/boot_id").1;
            node.cli(&["vm", "reboot", "web"]);
            eventually("the guest rebooted", 60, || {
                let (ok, now) = node.guest_sh("web", "cat /proc/sys/kernel/random/boot_id");
                (ok && !now.is_empty() && now != before).then_some(())
            });
        }
        eventually("all three NICs have addresses", 60, || {
            let (_, text) = node.guest_sh("web", "ip -4 addr");
            (text.matches("inet 10.90.").count() == 3).then_some(())
        });
        // A client that comes late could still add a second one.
        std::thread::sleep(Duration::from_millis(500));
        let routes = node.default_routes("web");
        assert!(routes.len() == 1 && routes[0].contains("via 10.90.1.1"), "boot {boot}: {routes:?}");
    }
    println!("{boots} reboots, the right default route every time");
    let doctor = eventually("the doctor finds nothing", 20, || {
        let out = node.try_cli(&["doctor", "vm/web"]);
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    });
    assert!(doctor.contains("healthy: 3 NICs, one default route, by web-a"), "{doctor}");
}

#[test]
fn neighbours_reach_each_other_and_nobody_pretends() {
    let Some(node) = node("neighbours_reach_each_other_and_nobody_pretends") else { return };
    let nets = network("one", "Vlan", 11, 600) + &network("two", "Vlan", 12, 600);
    node.apply(&(nets + &vm("a", &["one"]) + &vm("b", &["one"]) + &vm("c", &["two"])));
    for nic in ["a-one", "b-one", "c-two"] {
        node.ready(nic);
    }
    let (_, b) = address(&node, "b-one");
    let (_, c) = address(&node, "c-two");
    let ping = |to: &str| node.guest_sh("a", &format!("ping -c 3 -W 1 {to}")).0;
    assert!(ping(bare(&b)), "two VMs on one network reach each other");
    assert!(!ping(bare(&c)), "VMs on different networks do not");
    // A borrowed address: nobody hears it, and the own one works on.
    let borrowed = format!("ip addr add 10.90.11.77/24 dev eth0; ping -c 3 -W 1 -I 10.90.11.77 {}", bare(&b));
    assert!(!node.guest_sh("a", &borrowed).0, "a borrowed address is silent");
    assert!(ping(bare(&b)));
    // Another MAC: silent, and heard again with its own.
    let (mac, _) = address(&node, "a-one");
    let changed =
        format!("ip link set eth0 address 02:00:00:00:00:77; ip neigh flush dev eth0; ping -c 3 -W 1 {}", bare(&b));
    assert!(!node.guest_sh("a", &changed).0, "a changed MAC is silent");
    let back = format!("ip link set eth0 address {mac}; ping -c 5 -W 1 {}", bare(&b));
    assert!(node.guest_sh("a", &back).0, "with its own MAC it is heard again");
    // Spoofed neighbour announcements do not move b's address.
    let poison = format!("arping -U -c 2 -I eth0 {} >/dev/null 2>&1; true", bare(&b));
    node.guest_sh("a", &poison);
    assert!(ping(bare(&b)));
}

#[test]
fn a_nic_keeps_mac_and_address_wherever_it_goes() {
    let Some(node) = node("a_nic_keeps_mac_and_address_wherever_it_goes") else { return };
    let nets = network("net", "Management", 21, 600) + &network("extra", "Management", 22, 600);
    node.apply(&(nets + &vm("a", &["net"])));
    node.ready("a-net");
    let before = address(&node, "a-net");
    node.cli(&["vm", "stop", "a"]);
    eventually("the VM stopped", 60, || node.get("vmi", "a").is_null().then_some(()));
    eventually("its devices are gone", 20, || node.devices().is_empty().then_some(()));
    node.cli(&["vm", "start", "a"]);
    node.ready("a-net");
    assert_eq!(address(&node, "a-net"), before, "stopped and started");

    // A fourth NIC into the running VM, out again, and into another one.
    node.cli(&["nic", "create", "roaming", "--network", "extra", "--vm", "a", "--wait", "60"]);
    let roaming = address(&node, "roaming");
    assert_eq!(node.default_routes("a").len(), 1, "hot-plug adds no default route");
    node.apply(&vm("b", &["net"]));
    node.ready("b-net");
    let out = node.try_cli(&["nic", "attach", "roaming", "--vm", "b"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("detach it first"), "an attached NIC is not taken away");
    node.cli(&["nic", "detach", "roaming"]);
    eventually("the guest has let go of it", 30, || {
        let (ok, text) = node.guest_sh("a", "ip -4 addr");
        (ok && !text.contains("10.90.22.")).then_some(())
    });
    eventually("no node has it", 20, || node.get("nic", "roaming").pointer("/status/node").is_none().then_some(()));
    node.cli(&["nic", "attach", "roaming", "--vm", "b"]);
    node.ready("roaming");
    assert_eq!(address(&node, "roaming"), roaming, "moved to another VM");
    assert_eq!(node.default_routes("b").len(), 1);

    // Deleting a VM keeps the NIC that was created on its own, and removes the one that came with it.
    node.cli(&["vm", "delete", "b"]);
    eventually("b's own NIC is gone", 60, || node.get("nic", "b-net").is_null().then_some(()));
    assert_eq!(address(&node, "roaming"), roaming, "it outlives its VM");
}

#[test]
fn the_default_route_moves_without_a_reboot() {
    let Some(node) = node("the_default_route_moves_without_a_reboot") else { return };
    node.apply(&(network("a", "Management", 31, 60) + &network("b", "Management", 32, 120) + &vm("web", &["a", "b"])));
    node.ready("web-a");
    node.ready("web-b");
    let lease = || node.get("nic", "web-b").pointer("/status/lease/seconds").and_then(|s| s.as_u64());
    assert_eq!(lease(), Some(120));
    node.cli(&["nic", "set-primary", "web-b"]);
    let mut most = 0;
    // The NIC that gains the route asks late: it is made to ask soon before the other one loses it.
    eventually("the NIC that gains the default route has a short lease", 90, || {
        let routes = node.default_routes("web");
        if lease()? == 60 {
            return Some(());
        }
        assert!(routes.len() == 1 && routes[0].contains("via 10.90.31.1"), "{routes:?}");
        None
    });
    eventually("the default route moved", 90, || {
        let routes = node.default_routes("web");
        most = most.max(routes.len());
        (routes.len() == 1 && routes[0].contains("via 10.90.32.1")).then_some(())
    });
    eventually("it has its whole lease again", 10, || (lease()? == 120).then_some(()));
    assert!(most <= 1, "there were never two default routes");
    eventually("the status says so", 20, || {
        let v = node.get("nic", "web-b");
        (v.pointer("/status/guest/defaultRoutes/0")? == "10.90.32.1").then_some(())
    });
}

#[test]
fn ipv6_follows_the_plan_without_a_client() {
    let Some(node) = node("ipv6_follows_the_plan_without_a_client") else { return };
    let nets = dual_stack("a", "Management", 81, 600) + &dual_stack("b", "Overlay", 82, 600);
    node.apply(&(nets + &vm("web", &["a", "b"]) + &vm("peer", &["b"])));
    ["web-a", "web-b", "peer-b"].iter().for_each(|n| drop(node.ready(n)));
    let address6 = |nic: &str| {
        let v = node.get("nic", nic);
        let text = v.pointer("/status/ipv6/address").and_then(|x| x.as_str()).unwrap_or_default().to_owned();
        bare(&text).to_owned()
    };
    let (a, b, peer) = (address6("web-a"), address6("web-b"), address6("peer-b"));
    let shown = eventually("the guest formed the addresses that its NICs hold", 30, || {
        let (_, text) = node.guest_sh("web", "ip -6 addr");
        (text.contains(&a) && text.contains(&b) && !text.contains("tentative")).then_some(text)
    });
    assert!(!a.is_empty() && !b.is_empty(), "{shown}");
    let gateway = |n: &str| {
        let uid = node.get("net", n)["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        multihome_model::names::derived_mac(&format!("gateway {uid}"), 0).link_local().to_string()
    };
    eventually("one IPv6 default route, by the primary", 20, || {
        let routes = node.default_routes6("web");
        (routes.len() == 1 && routes[0].contains(&format!("via {} ", gateway("a")))).then_some(())
    });
    let ping = |to: &str| node.guest_sh("web", &format!("ping -6 -c 3 -W 1 {to}")).0;
    assert!(ping("fd90:81::1") && ping("fd90:82::1"), "both gateways answer");
    assert!(ping(&peer), "a neighbour answers");
    // Somebody else's address is not heard; one that the guest formed properly, first, is.
    node.guest_sh("web", &format!("ip -6 addr add {peer}/64 dev eth1 nodad; ip -6 addr add fd90:82::beef/64 dev eth1"));
    assert!(
        !node.guest_sh("web", &format!("ping -6 -c 3 -W 1 -I {peer} fd90:82::1")).0,
        "a borrowed address is silent"
    );
    eventually("the address that the guest formed is its own", 20, || {
        let learnt = node.get("nic", "web-b").pointer("/status/addresses")?.to_string();
        (learnt.contains("fd90:82::beef") && !learnt.contains(&peer)).then_some(())
    });
    eventually("and is heard", 20, || {
        node.guest_sh("web", "ping -6 -c 1 -W 1 -I fd90:82::beef fd90:82::1").0.then_some(())
    });
    // The default route moves at once, because routers speak without being asked.
    node.cli(&["nic", "set-primary", "web-b"]);
    let mut most = 0;
    eventually("the IPv6 default route moved", 15, || {
        let routes = node.default_routes6("web");
        most = most.max(routes.len());
        (routes.len() == 1 && routes[0].contains(&format!("via {} ", gateway("b")))).then_some(())
    });
    assert!(most <= 1, "there were never two default routes");
}

/// Whether an off-link client reaches a server of the guest's by one of its addresses.
fn reached(node: &Node, address: &str) -> bool {
    let (_, said) = node.guest_sh("client", &format!("busybox nc -w 2 {} 8080 </dev/null", bare(address)));
    said.contains("hello")
}

fn rp_filter(node: &Node, mode: u8) {
    let set = format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {mode} >$f; done");
    assert!(node.guest_sh("web", &set).0);
}

#[test]
fn replies_leave_by_the_nic_that_they_are_due_on() {
    let Some(node) = node("replies_leave_by_the_nic_that_they_are_due_on") else { return };
    let vpc = "apiVersion: multihome.io/v1alpha1\nkind: Vpc\nmetadata: {name: dc}\nspec: {}\n---\n";
    let in_vpc = |name: &str, octet: u8| network(name, "Overlay", octet, 600).replace("  ipv4:", "  vpc: dc\n  ipv4:");
    let back = in_vpc("back", 82);
    let front = network("front", "Management", 81, 600);
    node.apply(&(vpc.to_owned() + &front + &back + &in_vpc("office", 83)));
    node.apply(&(vm("web", &["front", "back"]) + &vm("client", &["office"])));
    for nic in ["web-front", "web-back", "client-office"] {
        node.ready(nic);
    }
    assert!(node.guest_sh("web", "busybox nc -ll -p 8080 -e echo hello >/dev/null 2>&1 & true").0);
    let (_, back_address) = address(&node, "web-back");
    // An unmodified guest answers by its default route, and the platform lets nobody speak for another NIC.
    for mode in [0, 1, 2] {
        rp_filter(&node, mode);
        assert!(!reached(&node, &back_address), "rp_filter {mode}, nothing done");
    }
    // The gateway in front of the network keeps it symmetric, without the guest's help.
    node.apply(&back.replace("  ipv4:", "  symmetric: Gateway\n  ipv4:"));
    for mode in [0, 1, 2] {
        rp_filter(&node, mode);
        eventually("the client reaches the guest through the gateway", 10, || {
            reached(&node, &back_address).then_some(())
        });
    }
    node.apply(&back.replace("  ipv4:", "  symmetric: None\n  ipv4:"));
    eventually("it is as before", 10, || (!reached(&node, &back_address)).then_some(()));
    // The guest itself keeps it symmetric, with what it is told to do.
    let commands = node.cli(&["guest", "config", "vm/web", "--dialect", "ip"]);
    let (done, said) = node.guest_sh("web", &commands);
    assert!(done, "{said}\n{commands}");
    for mode in [0, 1, 2] {
        rp_filter(&node, mode);
        assert!(reached(&node, &back_address), "rp_filter {mode}, by a table of its own");
    }
    // Two NICs in one subnet, if the user says so.
    let twin = "apiVersion: multihome.io/v1alpha1\nkind: NetworkInterface\nmetadata: {name: twin}\nspec: {network: back, vm: web, allowSameNetwork: true}\n";
    node.apply(twin);
    node.ready("twin");
    let (_, twin_address) = address(&node, "twin");
    for mode in [0, 1, 2] {
        rp_filter(&node, mode);
        assert!(!reached(&node, &twin_address), "rp_filter {mode}, nothing done for the twin");
    }
    let (done, said) = node.guest_sh("web", &node.cli(&["guest", "config", "vm/web", "--dialect", "ip"]));
    assert!(done, "{said}");
    for mode in [0, 1, 2] {
        rp_filter(&node, mode);
        for address in [&back_address, &twin_address] {
            assert!(reached(&node, address), "rp_filter {mode}: {address}, each by a table of its own");
        }
    }
}

/// What a command wrote, data first, with everything that differs from run to run replaced.
fn said(node: &Node, args: &[&str]) -> String {
    let out = node.try_cli(args);
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        text += &format!("(exit code {})\n", out.status.code().unwrap_or(-1));
    }
    text.replace(&node.data_dir().display().to_string(), "DATA")
}

macro_rules! snapshot {
    ($name:expr, $text:expr) => {{
        let text: String = $text;
        insta::with_settings!({filters => vec![
            (r"02(:[0-9a-f]{2}){5}", "<MAC>"),
            (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z", "<TIME>"),
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<UID>"),
            (r"\bmh[a-z][0-9a-z]{6,}\b", "<DEVICE>"),
            // Addresses that the guest forms from its MAC, and that a foreign server chose.
            (r"\bfd00:[0-9]+::[0-9a-f:]+/64", "<FORMED>/64"),
            (r"\b10\.99\.0\.[5-9][0-9]\b", "10.99.0.<GIVEN>"),
            // Columns are as wide as what stands in them.
            (r"\b[0-9]+(\.[0-9]+)? ?(s|ms|m)\b  +", "<DURATION> "),
            (r"\b[0-9]+(\.[0-9]+)? ?(s|ms|m)\b", "<DURATION>"),
        ], prepend_module_to_snapshot => false}, { insta::assert_snapshot!($name, text) });
    }};
}

#[test]
fn a_guest_is_told_by_its_seed_and_by_metadata() {
    let Some(node) = node("a_guest_is_told_by_its_seed_and_by_metadata") else { return };
    let nets = network("one", "Management", 81, 600) + &network("two", "Overlay", 82, 600);
    let volume = "      volumes: [{name: seed, cloudInitNoCloud: {secretRef: {name: boot}}}]\n---\n";
    let seeded = vm("web", &["one"]).replace("---\n", volume);
    node.apply(&(nets + &seeded + &vm("other", &["one"])));
    // The Secret may come after the VM.
    eventually("the VM waits for its Secret", 30, || {
        let reason = node.get("vmi", "web").pointer("/status/reason")?.as_str()?.to_owned();
        (reason == "Secret boot does not exist in namespace default: create it").then_some(())
    });
    let data = "I2Nsb3VkLWNvbmZpZwojIHRoZSB1c2VyJ3MK";
    node.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: boot}}\ndata: {{userdata: {data}}}\n---\n"));
    ["web-one", "other-one"].iter().for_each(|n| drop(node.ready(n)));
    let read = |file: &str| {
        let script = format!("mkdir -p /mnt; mount -t iso9660 -o ro /dev/sr0 /mnt && cat /mnt/{file}; umount /mnt");
        node.guest_sh("web", &script).1
    };
    assert_eq!(read("user-data"), "#cloud-config\n# the user's\n");
    assert!(read("network-config").contains(&address(&node, "web-one").0));
    assert!(!node.guest_sh("other", "test -e /dev/sr0").0, "a VM that asks for no seed has no drive");

    // Each guest hears of itself, by the same address on the same network.
    let ask = |vm: &str, path: &str| {
        node.guest_sh(vm, &format!("wget -q -O - http://169.254.169.254{path}")).1.trim_end().to_owned()
    };
    for (vm, nic) in [("web", "web-one"), ("other", "other-one")] {
        assert_eq!(ask(vm, "/latest/meta-data/hostname"), vm);
        assert_eq!(ask(vm, "/latest/meta-data/mac"), address(&node, nic).0);
    }
    assert_eq!(ask("web", "/openstack/latest/user_data"), "#cloud-config\n# the user's");

    // Both follow a NIC that comes and goes.
    node.cli(&["nic", "create", "--network", "two", "--vm", "web", "--wait", "60"]);
    let (mac, _) = address(&node, "web-two");
    let told = || {
        let metadata = ask("web", "/openstack/latest/network_data.json");
        (read("network-config").contains(&mac), metadata.contains(&mac))
    };
    eventually("both tell of the NIC", 20, || (told() == (true, true)).then_some(()));
    node.cli(&["nic", "detach", "web-two"]);
    eventually("neither tells of it any more", 30, || (told() == (false, false)).then_some(()));
    assert_eq!(ask("web", "/latest/meta-data/hostname"), "web", "it is still answered");
}

#[test]
fn what_commands_say_with_a_running_guest() {
    let Some(mut node) = node("what_commands_say_with_a_running_guest") else { return };
    node.apply(&(network("a", "Management", 71, 600) + &network("b", "Overlay", 72, 600) + &vm("web", &["a"])));
    node.ready("web-a");
    snapshot!("node-vm-exec", said(&node, &["vm", "exec", "web", "--", "cat", "/proc/sys/kernel/ostype"]));
    snapshot!("node-vm-exec-fails", said(&node, &["vm", "exec", "web", "--", "/bin/sh", "-c", "echo no >&2; exit 3"]));
    snapshot!("node-vm-exec-missing", said(&node, &["vm", "exec", "web", "--", "/no/such/program"]));
    snapshot!("node-nic-create-wait", said(&node, &["nic", "create", "--network", "b", "--vm", "web", "--wait", "60"]));
    eventually("the doctor finds nothing", 30, || node.try_cli(&["doctor", "vm/web"]).status.success().then_some(()));
    snapshot!("node-doctor", said(&node, &["doctor", "vm"]));
    snapshot!("node-vm-list", said(&node, &["vm", "list"]));
    snapshot!("node-nic-list", said(&node, &["nic", "list"]));
    snapshot!("node-nic-detach", said(&node, &["nic", "detach", "web-b"]));
    eventually("the NIC is gone from the VM", 20, || {
        node.get("nic", "web-b").pointer("/status/node").is_none().then_some(())
    });
    snapshot!("node-nic-attach", said(&node, &["nic", "attach", "web-b", "--vm", "web"]));
    snapshot!("node-vm-reboot", said(&node, &["vm", "reboot", "web"]));
    snapshot!("node-vm-reset", said(&node, &["vm", "reset", "web"]));
    node.kill_server();
    snapshot!("node-serve-gone", said(&node, &["get", "nic"]));
    let log = node.log();
    let start: Vec<&str> = log.lines().take(2).collect();
    snapshot!("node-serve", start.join("\n").replace(&node.data_dir().display().to_string(), "DATA"));
    snapshot!("node-teardown", said(&node, &["teardown", "--purge"]));
    assert!(node.devices().is_empty(), "teardown left {:?}", node.devices());
}

#[test]
fn the_demo_tells_its_story() {
    let Some(node) = node("the_demo_tells_its_story") else { return };
    let (kernel, initramfs) = multihome_testkit::guest();
    let text = |p: &std::path::PathBuf| p.to_string_lossy().into_owned();
    let image = ["image", "import", "multihome/demo-guest", "--kernel", &text(kernel), "--initramfs", &text(initramfs)];
    node.cli(&image);
    let examples = multihome_testkit::repository().join("examples").display().to_string();
    let (manifest, foreign) = (format!("{examples}/three-networks.yaml"), format!("{examples}/foreign-network.yaml"));
    // As every node, this one has a way out that is not the device that it lends.
    for command in [
        "link add out0 type veth peer name out1",
        "addr add 192.0.2.1/24 dev out0",
        "link set out0 up",
        "link set out1 up",
        "route add default via 192.0.2.2",
    ] {
        let words = command.split(' ');
        assert!(std::process::Command::new("ip").args(["-n", node.netns()]).args(words).status().unwrap().success());
    }
    let mut lan = Lan::new(&node, "demo-office", &["10.99.0.1/24", "fd00:99::1/64"]);
    let office = multihome_testkit::repository().join("scripts/demo.d/office.conf").display().to_string();
    lan.serve("dnsmasq", &["--keep-in-foreground", &format!("--conf-file={office}"), "--log-facility=-"]);
    let text = said(&node, &["demo", "--manifest", &manifest, "--foreign", &foreign]);
    let mut text = text.replace(&examples, "examples");
    while text.contains("    ") {
        text = text.replace("    ", "   ");
    }
    snapshot!("node-demo", text);
}

#[test]
fn a_killed_server_leaks_nothing_and_hurts_nobody() {
    let Some(mut node) = node("a_killed_server_leaks_nothing_and_hurts_nobody") else { return };
    let kills = number("MULTIHOME_KILLS", 8);
    let nets = network("quiet", "Management", 41, 3600) + &network("busy", "Management", 42, 3600);
    node.apply(&(nets + &vm("a", &["quiet"]) + &vm("b", &["quiet"]) + &vm("c", &["quiet"])));
    for nic in ["a-quiet", "b-quiet", "c-quiet"] {
        node.ready(nic);
    }
    let (_, b) = address(&node, "b-quiet");
    let count = kills * 60;
    let (ok, _) = node.guest_sh("a", &format!("ping -i 0.2 -c {count} {} >/tmp/ping.log 2>&1 & true", bare(&b)));
    assert!(ok);
    let calm = node.devices().len();
    // Moments that differ from run to run and are told, so that a failure can be looked at.
    let mut seed = u64::from(std::process::id());
    for round in 0..kills {
        let name = format!("hot{round}");
        node.cli(&["nic", "create", &name, "--network", "busy", "--vm", "c"]);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_micros((seed >> 33) % 120_000);
        if round % 2 == 1 {
            // In every second round the moment is in the removal.
            node.ready(&name);
            let out = node.try_cli(&["delete", "nic", &name, "--no-wait"]);
            assert!(out.status.success());
        }
        std::thread::sleep(pause);
        node.kill_server();
        node.serve();
        println!("round {round}: killed {pause:?} after the request");
        if round % 2 == 0 {
            node.ready(&name);
            node.cli(&["delete", "nic", &name]);
        }
        eventually("the NIC is gone", 60, || node.get("nic", &name).is_null().then_some(()));
        eventually("its devices are gone", 30, || (node.devices().len() == calm).then_some(()));
    }
    let claims = node.cli(&["get", "claims", "-o", "name"]);
    assert_eq!(claims.lines().count(), 6, "two claims for each of three NICs are left:\n{claims}");
    node.guest_sh("a", "killall -INT ping; sleep 1");
    let (_, log) = node.guest_sh("a", "tail -n 3 /tmp/ping.log");
    assert!(log.contains(" 0% packet loss"), "a ping between two others lost packets: {log}");
}

#[test]
fn what_may_be_opened_is_what_groups_say() {
    let Some(mut node) = node("what_may_be_opened_is_what_groups_say") else { return };
    node.apply(&(network("pol", "Management", 91, 600) + &vm("a", &["pol"]) + &vm("b", &["pol"])));
    node.ready("a-pol");
    node.ready("b-pol");
    let (_, b) = address(&node, "b-pol");
    let served = node.guest_sh("b", "mkdir -p /www; echo here > /www/x; httpd -p 80 -h /www; httpd -p 81 -h /www").0;
    assert!(served, "the guest serves HTTP");
    let fetch = |node: &Node, port: u16| {
        let (ok, text) = node.guest_sh("a", &format!("timeout 3 wget -q -O - http://{}:{port}/x", bare(&b)));
        ok && text.contains("here")
    };
    assert!(fetch(&node, 80) && fetch(&node, 81), "without policies everything passes");
    node.cli(&["group", "create", "clients"]);
    node.cli(&["group", "create", "web", "--ingress", "tcp 80 from group:clients"]);
    node.cli(&["nic", "policies", "b-pol", "web"]);
    eventually("who is in no group is refused", 30, || (!fetch(&node, 80)).then_some(()));
    node.cli(&["nic", "policies", "a-pol", "clients"]);
    eventually("a member is let in", 30, || fetch(&node, 80).then_some(()));
    assert!(!fetch(&node, 81), "by the port that the rule names, and by no other");
    let shown = eventually("the NIC says what was counted", 90, || {
        let v = node.get("nic", "b-pol");
        let at = |p: &str| v.pointer(p).and_then(|x| x.as_u64()).unwrap_or_default();
        (at("/status/policies/rules/0/packets") > 0 && at("/status/policies/defaults/0/packets") > 0).then_some(v)
    });
    let status = &shown["status"]["policies"];
    assert_eq!(status["groups"], serde_json::json!(["default/web"]));
    assert_eq!(status["rules"][0]["rule"], "Allow tcp 80 from group clients");
    assert_eq!(status["defaults"][0]["action"], "Deny");
    assert_eq!(status["defaults"][1]["action"], "Allow");
    let trace = node.cli(&["trace", "nic/b-pol"]);
    assert!(trace.contains("Allow tcp 80 from group clients") && trace.contains("Deny the rest"), "{trace}");
    let refused = node.try_cli(&["group", "delete", "web"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is used by NIC b-pol"), "{refused:?}");
    // Without the agent, and with a new one, it goes on.
    node.kill_server();
    node.serve();
    eventually("a member is let in, after a kill", 60, || fetch(&node, 80).then_some(()));
    assert!(!fetch(&node, 81));
    node.cli(&["nic", "policies", "b-pol"]);
    eventually("without groups everything passes again", 30, || fetch(&node, 81).then_some(()));
    eventually("and the NIC says nothing of policies", 60, || {
        node.get("nic", "b-pol").pointer("/status/policies").is_none().then_some(())
    });
    node.cli(&["nic", "create", "loud", "--network", "pol", "--promiscuous"]);
    let said = eventually("what a promiscuous NIC opens is said", 20, || {
        let text = node.cli(&["describe", "nic", "loud"]);
        text.contains("PortOpened").then_some(text)
    });
    assert!(said.contains("may send from any MAC address and any IP address on Network default/pol"), "{said}");
}
