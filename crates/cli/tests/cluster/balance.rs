//! A floating address that leads to NICs of several nodes, and what becomes of it when they fail.

use std::collections::BTreeMap;

use multihome_testkit::{Cluster, Lan, Node, eventually};
use serde_json::Value;

use super::outside::{held, street_network};
use super::{cluster, overlay, vm_on, vpc};

/// Port 80 leads to the VMs with the label app=web and port 81 to web-3 alone.
const WEB: &str = "apiVersion: multihome.io/v1alpha1
kind: FloatingIP
metadata: {name: web}
spec:
  network: street
  forwards:
    - {port: 80, targetPort: 8080, nicSelector: {app: web}}
    - {port: 81, targetPort: 8080, nics: [web-3-front]}
  healthCheck: {interval: 1, timeout: 1, failures: 2}
---
";

/// The same by IPv6, to two of them.
const WEB6: &str = "apiVersion: multihome.io/v1alpha1
kind: FloatingIP
metadata: {name: web6}
spec:
  network: street
  address: \"2001:db8:18::80\"
  forwards: [{port: 80, targetPort: 8080, nics: [web-1-front, web-3-front]}]
  healthCheck: {interval: 1}
---
";

/// A VM of those that serve.
fn web(node: usize, name: &str) -> String {
    let labelled = format!("metadata: {{name: {name}, labels: {{app: web}}}}");
    vm_on(&format!("node{node}"), name, &["front"]).replacen(&format!("metadata: {{name: {name}}}"), &labelled, 1)
}

/// Starts its web server, which says who it is and whom it sees; one page takes its time.
fn serves(node: &Node, name: &str) {
    let script = format!(
        "mkdir -p /tmp/www/cgi-bin; cd /tmp/www/cgi-bin
for page in who slow; do printf '#!/bin/sh\\nprintf \"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\"\\n' >$page; chmod +x $page; done
printf 'echo {name} $REMOTE_ADDR\\n' >>who
printf 'sleep 8; echo {name} after a while\\n' >>slow
httpd -p [::]:8080 -h /tmp/www"
    );
    let (done, text) = node.guest_sh(name, &script);
    assert!(done, "{text}");
}

/// What an outside host is answered when it asks so often, one connection each.
fn asks(street: &Lan, address: &str, port: u16, page: &str, times: usize) -> Vec<String> {
    let script = format!(
        "for i in $(seq {times}); do
            exec 3<>/dev/tcp/{address}/{port} || {{ echo failed; continue; }}
            printf 'GET /cgi-bin/{page} HTTP/1.0\\r\\n\\r\\n' >&3
            answer=$(timeout 20 cat <&3 | tail -n 1); echo \"${{answer:-nothing}}\"
            exec 3>&-
        done"
    );
    let out = street.command("bash", &["-c", &script]).output().expect("bash runs");
    String::from_utf8_lossy(&out.stdout).lines().map(ToOwned::to_owned).collect()
}

/// How often each VM answers twelve new connections, none of which fails; each sees the client's own address.
fn answers(street: &Lan, address: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for line in asks(street, address, 80, "who", 12) {
        assert!(line.contains("198.18.0.1"), "the client's own address is seen: {line}");
        *all.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    all
}

fn by_turns(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|n| ((*n).to_owned(), 12 / names.len())).collect()
}

/// Waits until the address says that so many NICs are ready, and returns what it says.
fn ready(cluster: &Cluster, name: &str, count: &str) -> Value {
    eventually(&format!("{count} NICs are ready"), 90, || {
        let v = cluster.api().get("fip", name);
        (v.pointer("/status/backendsReady")? == count).then_some(v)
    })
}

/// Waits until new connections are answered by these alone.
fn settles(street: &Lan, address: &str, names: &[&str]) {
    eventually(&format!("{names:?} answer"), 30, || {
        let lines = asks(street, address, 80, "who", names.len() * 2);
        let who = |n: &&&str| lines.iter().any(|l| l.starts_with(**n));
        let others = lines.iter().any(|l| !names.iter().any(|n| l.starts_with(n)));
        (!others && names.iter().filter(who).count() == names.len()).then_some(())
    });
    assert_eq!(answers(street, address), by_turns(names));
}

#[test]
fn an_address_leads_to_nics_of_several_nodes_and_survives_each_of_them() {
    let Some(mut cluster) = cluster("an_address_leads_to_nics_of_several_nodes_and_survives_each_of_them", 3) else {
        return;
    };
    let api = cluster.api();
    let street = Lan::between(&[&cluster.nodes[1], &cluster.nodes[2]], "eth1", &["198.18.0.1/24", "2001:db8:18::1/64"]);
    api.apply(&street_network(
        "",
        &[
            "ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1, pools: [198.18.0.50-198.18.0.60]}",
            "ipv6: {cidr: \"2001:db8:18::/64\", gateway: \"2001:db8:18::1\"}",
        ],
    ));
    // A private network: nobody but the address lets anybody in.
    let six = "ipv6: {cidr: \"fd90:1::/64\", gateway: \"fd90:1::1\", addressing: Slaac}";
    let front = overlay("front", "red", "10.1.0.0/24");
    let front = front.replacen("  vpc: red\n", &format!("  vpc: red\n  private: true\n  {six}\n"), 1);
    api.apply(&(vpc("red", &[]) + &front + WEB + WEB6));
    eventually("nobody is there yet", 20, || {
        let text = api.cli(&["get", "fip", "web", "-o", "wide"]);
        (text.contains("0/1") && text.contains("NIC \"web-3-front\" does not exist")).then_some(())
    });
    api.apply(&(web(2, "web-1") + &web(3, "web-2") + &web(3, "web-3")));
    for (node, name) in [(2, "web-1"), (3, "web-2"), (3, "web-3")] {
        api.ready(&format!("{name}-front"));
        serves(&cluster.nodes[node - 1], name);
    }
    let address = held(&cluster, "web");
    ready(&cluster, "web", "3/3");
    settles(&street, &address, &["web-1", "web-2", "web-3"]);
    // By IPv6: as many from each, and from the client's own address.
    ready(&cluster, "web6", "2/2");
    eventually("the street reaches it by IPv6", 20, || {
        let lines = asks(&street, "2001:db8:18::80", 80, "who", 8);
        let of = |name: &str| lines.iter().filter(|l| **l == format!("{name} [2001:db8:18::1]")).count();
        (of("web-1") == 4 && of("web-3") == 4).then_some(())
    });
    let place = |cluster: &Cluster| {
        let v = cluster.api().get("fip", "web");
        v.pointer("/status/node").and_then(|n| n.as_str()).unwrap_or_default().to_owned()
    };

    // A program dies: the check takes it out, and whoever talks to another one goes on.
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| asks(&street, &address, 81, "slow", 1));
        assert!(cluster.nodes[2].guest_sh("web-2", "killall httpd").0);
        let v = ready(&cluster, "web", "2/3");
        let message = v.pointer("/status/backends/web-2-front/message").and_then(|m| m.as_str()).unwrap_or_default();
        assert!(message.contains("NIC web-2-front does not answer at 10.1.0."), "{message}");
        assert!(message.ends_with(":8080: the port is closed"), "{message}");
        settles(&street, &address, &["web-1", "web-3"]);
        assert_eq!(slow.join().expect("it is answered"), ["web-3 after a while"]);
    });
    let wide = api.cli(&["get", "fip", "web", "-o", "wide"]);
    assert!(
        wide.contains(&format!("{address} leads to 2 of 3 NICs by node {}; web-2-front: ", place(&cluster))),
        "{wide}"
    );
    serves(&cluster.nodes[2], "web-2");
    ready(&cluster, "web", "3/3");
    settles(&street, &address, &["web-1", "web-2", "web-3"]);

    // The VM stops whose node has the address: the address goes where others run, and the switch is told.
    let first = place(&cluster);
    let (gone, left): (&[&str], &[&str]) = match first.as_str() {
        "node2" => (&["web-1"], &["web-2", "web-3"]),
        _ => (&["web-2", "web-3"], &["web-1"]),
    };
    let told = street.capture("arp", || {
        gone.iter().for_each(|vm| drop(api.cli(&["vm", "stop", vm])));
        eventually("the address is elsewhere", 60, || (place(&cluster) != first).then_some(()));
        settles(&street, &address, left);
    });
    assert!(
        told.contains(&format!("who-has {address} tell {address}"))
            || told.contains(&format!("Announcement {address}")),
        "{told}"
    );
    let second = place(&cluster);
    for vm in gone {
        api.cli(&["vm", "start", vm]);
    }
    for vm in gone {
        api.ready(&format!("{vm}-front"));
        serves(&cluster.nodes[if *vm == "web-1" { 1 } else { 2 }], vm);
    }
    ready(&cluster, "web", "3/3");
    settles(&street, &address, &["web-1", "web-2", "web-3"]);
    assert_eq!(place(&cluster), second, "it stays where it is");

    // The node that has it dies: off the street, off the underlay, and its agent is gone.
    let dead = if second == "node2" { 2 } else { 3 };
    let off = ["link", "set", &format!("port{}", dead - 1), "down"];
    assert!(street.command("ip", &off).status().is_ok_and(|s| s.success()));
    cluster.cable(dead, false);
    cluster.nodes[dead - 1].kill_server();
    let left: &[&str] = if dead == 2 { &["web-2", "web-3"] } else { &["web-1"] };
    eventually("the address is on a node that lives", 90, || (place(&cluster) != second).then_some(()));
    settles(&street, &address, left);
    let v = cluster.api().get("fip", "web");
    let reasons = v.pointer("/status/backends").map(ToString::to_string).unwrap_or_default();
    assert!(reasons.contains("NodeSilent"), "{reasons}");
}
