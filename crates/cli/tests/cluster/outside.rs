//! Networks outside of several nodes, on a wire of their own beside the underlay.

use multihome_testkit::{Cluster, Lan, dual_stack, eventually, network};

use super::{cluster, vm_on};

/// An address of network street that leads to a NIC.
fn floating(name: &str, nic: &str, rest: &str) -> String {
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: FloatingIP\nmetadata: {{name: {name}}}\nspec: {{network: street, nic: {nic}{rest}}}\n---\n"
    )
}

/// The floating address, once it leads somewhere.
fn held(cluster: &Cluster, name: &str) -> String {
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
    api.apply(
        "apiVersion: multihome.io/v1alpha1
kind: ClusterNetwork
metadata: {name: street}
spec: {uplinks: [{nodeSelector: {kubernetes.io/hostname: node2}, nics: [eth1]}]}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: street}
spec:
  type: Untagged
  clusterNetwork: street
  ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1, pools: [198.18.0.50-198.18.0.60]}
---
",
    );
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
    api.apply(
        "apiVersion: multihome.io/v1alpha1
kind: ClusterNetwork
metadata: {name: street}
spec: {uplinks: [{nics: [eth1]}]}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: street}
spec:
  type: Untagged
  clusterNetwork: street
  ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1}
  ipv6: {cidr: \"2001:db8:18::/64\", gateway: \"2001:db8:18::1\", pools: [\"2001:db8:18::50-2001:db8:18::60\"]}
---
",
    );
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
