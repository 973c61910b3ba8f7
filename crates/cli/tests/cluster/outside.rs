//! Networks outside of several nodes, on a wire of their own beside the underlay.

use multihome_testkit::{Cluster, Lan, dual_stack, eventually, network};

use super::{address, cluster, overlay, vm_on, vpc};

/// The untagged network street, by the device eth1 of the nodes that are selected; `lines` are more of what it is to be.
pub(super) fn street_network(nodes: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|l| format!("  {l}\n")).collect();
    format!(
        "apiVersion: multihome.io/v1alpha1
kind: ClusterNetwork
metadata: {{name: street}}
spec: {{uplinks: [{{{nodes}nics: [eth1]}}]}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {{name: street}}
spec:
  type: Untagged
  clusterNetwork: street
{lines}---
"
    )
}

/// An address of network street that leads to a NIC.
fn floating(name: &str, nic: &str, rest: &str) -> String {
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: FloatingIP\nmetadata: {{name: {name}}}\nspec: {{network: street, nic: {nic}{rest}}}\n---\n"
    )
}

/// The floating address, once it leads somewhere.
pub(super) fn held(cluster: &Cluster, name: &str) -> String {
    eventually("the floating address leads somewhere", 20, || {
        let v = cluster.api().get("fip", name);
        let conditions = v.pointer("/status/conditions")?.as_array()?;
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ready.then(|| v.pointer("/status/address").and_then(|a| a.as_str()).unwrap_or_default().to_owned())
    })
}

#[test]
fn outside_hosts_reach_overlay_vms_by_floating_addresses() {
    let Some(cluster) = cluster("outside_hosts_reach_overlay_vms_by_floating_addresses", 2) else { return };
    let api = cluster.api();
    let street = Lan::new(&cluster.nodes[1], "eth1", &["198.18.0.1/24"]);
    api.apply(&street_network(
        "nodeSelector: {kubernetes.io/hostname: node2}, ",
        &["ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1, pools: [198.18.0.50-198.18.0.60]}"],
    ));
    api.apply(&network("blue", "Overlay", 1, 600));
    api.apply(&(vm_on("node2", "web", &["blue"]) + &vm_on("node2", "mail", &["blue"])));
    api.apply(
        &(floating("web", "web-blue", "")
            + &floating("mail", "mail-blue", ", forwards: [{port: 8025, targetPort: 25}]")),
    );
    for nic in ["web-blue", "mail-blue"] {
        api.ready(nic);
    }
    let (web, mail) = (held(&cluster, "web"), held(&cluster, "mail"));
    assert_ne!(web, mail);
    let from_street =
        |program: &str, args: &[&str]| street.command(program, args).output().is_ok_and(|o| o.status.success());
    eventually("the street reaches web", 20, || from_street("ping", &["-c", "1", "-W", "1", &web]).then_some(()));
    assert!(cluster.nodes[1].guest_sh("web", "ping -c 2 -W 1 198.18.0.1").0, "and web the street");
    assert!(
        !cluster.nodes[1].guest_sh("mail", "ping -c 2 -W 1 198.18.0.1").0,
        "whoever has ports alone does not go out by it"
    );
    let served = "mkdir -p /tmp/www; echo letters >/tmp/www/index.html; httpd -p 25 -h /tmp/www";
    assert!(cluster.nodes[1].guest_sh("mail", served).0);
    let script = format!(
        "exec 3<>/dev/tcp/{mail}/8025; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3 | grep letters"
    );
    assert!(from_street("bash", &["-c", &script]), "the forwarded port");
    assert!(!from_street("timeout", &["2", "bash", "-c", &format!("exec 3<>/dev/tcp/{mail}/25")]), "and no other");
    // What cannot work says so: a second whole address, a network that has none, an address that is taken, a node without uplink.
    let refused = |manifest: &str| String::from_utf8_lossy(&api.try_apply(manifest).stderr).into_owned();
    assert!(refused(&floating("web2", "web-blue", "")).contains("has all of FloatingIP \"web\" already"));
    assert!(refused(&floating("x", "mail-blue", "").replace("street", "blue")).contains("is of type Overlay"));
    api.apply(&floating("taken", "mail-blue", &format!(", address: {web}")));
    eventually("a taken address is told", 20, || {
        api.cli(&["get", "fip", "taken", "-o", "wide"])
            .contains(&format!("address {web} is taken by default/web"))
            .then_some(())
    });
    api.cli(&["vm", "stop", "web"]);
    eventually("web stopped", 60, || api.get("vmi", "web").is_null().then_some(()));
    api.apply(&vm_on("node1", "web", &["blue"]));
    eventually("the address has no way to the street there", 60, || {
        api.cli(&["get", "fip", "web", "-o", "wide"])
            .contains("node node1, where NIC web-blue is, has no uplink")
            .then_some(())
    });
    // Given back, the address is free.
    api.cli(&["delete", "fip", "web", "mail", "taken"]);
    eventually("no claim is left on the street", 20, || {
        (!api.cli(&["get", "claim"]).contains("198.18.0.")).then_some(())
    });
}

#[test]
fn a_floating_ipv6_address_goes_where_its_vm_goes() {
    let Some(cluster) = cluster("a_floating_ipv6_address_goes_where_its_vm_goes", 2) else { return };
    let api = cluster.api();
    let street = Lan::between(&[&cluster.nodes[0], &cluster.nodes[1]], "eth1", &["198.18.0.1/24", "2001:db8:18::1/64"]);
    api.apply(&street_network(
        "",
        &[
            "ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1}",
            "ipv6: {cidr: \"2001:db8:18::/64\", gateway: \"2001:db8:18::1\", pools: [\"2001:db8:18::50-2001:db8:18::60\"]}",
        ],
    ));
    api.apply(&dual_stack("blue", "Overlay", 1, 600));
    api.apply(&(vm_on("node1", "web", &["blue"]) + &vm_on("node1", "mail", &["blue"])));
    let refused = api.try_apply(&floating("x", "web-blue", ", family: IPv4, address: \"2001:db8:18::77\""));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("address 2001:db8:18::77 is not of family IPv4"), "{text}");
    api.apply(
        &(floating("web", "web-blue", ", family: IPv6")
            + &floating(
                "mail",
                "mail-blue",
                ", address: \"2001:db8:18::55\", forwards: [{port: 8025, targetPort: 25}]",
            )),
    );
    for nic in ["web-blue", "mail-blue"] {
        api.ready(nic);
    }
    let (web, mail) = (held(&cluster, "web"), held(&cluster, "mail"));
    assert_eq!(mail, "2001:db8:18::55");
    let from_street =
        |program: &str, args: &[&str]| street.command(program, args).output().is_ok_and(|o| o.status.success());
    let reaches = || from_street("ping", &["-c", "1", "-W", "1", &web]).then_some(());
    eventually("the street reaches web", 20, reaches);
    let on_web = |script: &str| api.guest_sh("web", script).0;
    assert!(on_web("ping -6 -c 2 -W 1 2001:db8:18::1"), "and web the street");
    assert!(!on_web("ping -c 2 -W 1 198.18.0.1"), "by IPv6 alone");
    assert!(
        !api.guest_sh("mail", "ping -6 -c 2 -W 1 2001:db8:18::1").0,
        "whoever has ports alone does not go out by it"
    );
    let served = "mkdir -p /tmp/www; echo letters >/tmp/www/index.html; httpd -p [::]:25 -h /tmp/www";
    assert!(api.guest_sh("mail", served).0);
    let fetch = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3 | grep letters";
    let fetch = format!("exec 3<>/dev/tcp/{mail}/8025; {fetch}");
    assert!(from_street("bash", &["-c", &fetch]), "the forwarded port");
    assert!(!from_street("timeout", &["2", "bash", "-c", &format!("exec 3<>/dev/tcp/{mail}/25")]), "and no other");
    // On the other node: neighbours are told, and need not ask.
    let told = street.capture("icmp6 and ip6[40] = 136 and ip6[44] & 0x20 != 0 and ip6 dst ff02::1", || {
        api.cli(&["vm", "stop", "web"]);
        eventually("web stopped", 60, || api.get("vmi", "web").is_null().then_some(()));
        api.apply(&vm_on("node2", "web", &["blue"]));
        eventually("web is on node2", 60, || (api.get("fip", "web").pointer("/status/node")? == "node2").then_some(()));
        eventually("the street reaches web there", 60, reaches);
    });
    assert_eq!(held(&cluster, "web"), web, "the same address");
    assert!(told.contains(&format!("neighbor advertisement, tgt is {web}")), "{told}");
    assert!(cluster.nodes[1].guest_sh("web", "ping -6 -c 2 -W 1 2001:db8:18::1").0, "and web the street");
}

#[test]
fn a_switch_sees_each_mac_at_one_port_where_nodes_share_a_gateway() {
    let Some(cluster) = cluster("a_switch_sees_each_mac_at_one_port_where_nodes_share_a_gateway", 2) else { return };
    let api = cluster.api();
    let street =
        Lan::between(&[&cluster.nodes[0], &cluster.nodes[1]], "eth1", &["198.18.0.99/24", "2001:db8:18::99/64"]);
    let route = ["route", "add", "10.2.0.0/24", "via", "198.18.0.1"];
    assert!(street.command("ip", &route).status().is_ok_and(|s| s.success()));
    let lan = street_network(
        "",
        &[
            "vpc: red",
            "ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1}",
            "ipv6: {cidr: \"2001:db8:18::/64\", gateway: \"2001:db8:18::1\", addressing: Slaac}",
        ],
    );
    api.apply(&(vpc("red", &[]) + &lan + &overlay("inner", "red", "10.2.0.0/24")));
    let vms = [("a", 1, "street"), ("b", 2, "street"), ("c", 1, "inner"), ("d", 2, "inner")];
    for (name, node, network) in vms {
        api.apply(&vm_on(&format!("node{node}"), name, &[network]));
    }
    let [a, b, c, d] = vms.map(|(name, _, network)| {
        let nic = format!("{name}-{network}");
        api.ready(&nic);
        address(&cluster, &nic)
    });
    let guest = |vm: &str, node: usize, script: &str| {
        assert!(cluster.nodes[node - 1].guest_sh(vm, script).0, "{vm}: {script}");
    };
    let ping =
        |vm: &str, node: usize, to: &str| guest(vm, node, &format!("ping -c 2 -W 1 {to} || ping -c 3 -W 1 {to}"));
    let work = || {
        for (vm, node, others) in [("a", 1, [&b, &c, &d]), ("b", 2, [&a, &c, &d]), ("c", 1, [&a, &b, &d])] {
            others.iter().for_each(|to| ping(vm, node, to));
        }
        // Each node's NICs use its own gateway, and hosts on the wire any of them.
        for (vm, node) in [("a", 1), ("b", 2)] {
            guest(vm, node, "ip neigh flush dev eth0; ping -c 2 -W 1 198.18.0.1 && ping -6 -c 2 -W 1 2001:db8:18::1");
        }
        for to in [&a, &b, &c, &d, "198.18.0.1", "2001:db8:18::1"] {
            let answered =
                || street.command("ping", &["-c", "1", "-W", "2", to]).output().is_ok_and(|o| o.status.success());
            eventually(&format!("the street reaches {to}"), 20, || answered().then_some(()));
        }
        for (vm, node) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
            ping(vm, node, "198.18.0.99");
        }
    };
    let mut second = std::collections::BTreeSet::new();
    let first = street.sources(1, || second = street.sources(2, work));
    assert!(first.len() > 1 && second.len() > 1, "NICs and gateways are heard: {first:?} {second:?}");
    assert_eq!(first.intersection(&second).collect::<Vec<_>>(), Vec::<&String>::new());
}
