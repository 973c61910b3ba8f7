//! Two nodes, a switch and a gateway with its DHCP server, each a namespace, on real cables. What breaks gets its word.
//! Needs root and dnsmasq.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use multihome_model::names::{probe_mac, wire_hash};
use multihome_model::{Connectivity, ProbeResult};
use multihome_netlink::{Netns, Rtnl};
use multihome_probe::{Service, Subject, Want};

static NEXT: AtomicU32 = AtomicU32::new(0);
const UID: &str = "network uid";

fn ip(arguments: &str) {
    let o = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(o.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&o.stderr));
}

/// Nodes `a` and `b` and the gateway `gw` on the switch `sw`: ports pa, pb and pg of its bridge `vlan1`. Its bridge `vlan2`
/// is another VLAN; `trunk1`, a port of the first, and `trunk2`, of none yet, are two ends of one cable.
struct Lab {
    id: String,
    services: [Arc<Service>; 2],
    running: Vec<tokio::task::JoinHandle<()>>,
    dnsmasq: Option<Child>,
    leases: tempfile::NamedTempFile,
}

fn subject(node: &str, other: &str) -> Subject {
    Subject {
        device: "eth0".into(),
        network: wire_hash(UID),
        node: wire_hash(node),
        mac: probe_mac(node, UID),
        mtu: 1500,
        peers: BTreeMap::from([(wire_hash(other), other.to_owned())]),
        ipv4: Want::Expect,
        ipv6: Want::Expect,
        gateway4: None,
        gateway6: None,
        address4: None,
        routed: [false; 2],
    }
}

impl Lab {
    fn new(test: &str) -> Option<Self> {
        let here = |program: &str| {
            let o = Command::new("unshare").args(["--net", program, "--version"]).output();
            o.is_ok_and(|o| o.status.success())
        };
        if !here("dnsmasq") {
            println!("SKIPPED {test}: needs root, namespaces and dnsmasq");
            return None;
        }
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let services = [Arc::new(Service::default()), Arc::new(Service::default())];
        let mut lab =
            Lab { id, services, running: vec![], dnsmasq: None, leases: tempfile::NamedTempFile::new().unwrap() };
        for host in ["sw", "a", "b", "gw"] {
            ip(&format!("netns add {}", lab.ns(host)));
        }
        for bridge in ["vlan1", "vlan2"] {
            lab.at("sw", &format!("link add {bridge} up type bridge forward_delay 0"));
        }
        for (port, host) in [("pa", "a"), ("pb", "b"), ("pg", "gw")] {
            let far = lab.ns(host);
            lab.at("sw", &format!("link add {port} master vlan1 up type veth peer name eth0 netns {far}"));
            // Nodes have nothing of their own on a network.
            lab.at(host, &format!("link set eth0 addrgenmode {}", if host == "gw" { "eui64" } else { "none" }));
            lab.at(host, "link set eth0 up");
        }
        lab.at("sw", "link add trunk1 master vlan1 up type veth peer name trunk2");
        lab.at("sw", "link set trunk2 up");
        lab.at("gw", "address add 10.7.0.1/24 dev eth0");
        lab.at("gw", "address add fd07::1/64 dev eth0 nodad");
        for (i, (node, other)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
            lab.put(i, node, other);
            let service = lab.services[i].clone();
            lab.running.push(tokio::spawn(async move { service.run().await }));
        }
        Some(lab)
    }

    fn ns(&self, host: &str) -> String {
        format!("mhp{}-{host}", self.id)
    }

    fn at(&self, host: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.ns(host)));
    }

    fn put(&self, i: usize, node: &str, other: &str) {
        self.put_with(i, node, ("eth0", &[]), subject(node, other));
    }

    /// Probes by an uplink of a node, and by ports of its guests.
    fn put_with(&self, i: usize, node: &str, (uplink, guests): (&str, &[&str]), subject: Subject) {
        let runtime = tokio::runtime::Handle::current();
        let put = || {
            let _inside = runtime.enter();
            let mut rtnl = Rtnl::open().unwrap();
            let guests: Vec<u32> = guests.iter().map(|g| rtnl.index(g).unwrap()).collect();
            self.services[i].put("net", rtnl.index(uplink).unwrap(), &guests, subject).unwrap();
        };
        Netns::open(&self.ns(node)).unwrap().run(put).unwrap();
    }

    fn serve(&mut self) {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.ns("gw"))).args([
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth0",
            "--bind-interfaces",
            "--pid-file=",
            "--no-ping",
            "--dhcp-authoritative",
            "--dhcp-range=10.7.0.50,10.7.0.99,255.255.255.0,1h",
            "--enable-ra",
            "--dhcp-range=fd07::100,fd07::1ff,64,1h",
        ]);
        c.arg(format!("--dhcp-leasefile={}", self.leases.path().display()));
        self.dnsmasq = Some(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Waits until a node says this; what it then says.
    async fn until(&self, node: usize, what: &str, holds: impl Fn(&Connectivity) -> bool) -> Connectivity {
        let start = Instant::now();
        loop {
            let v = self.services[node].verdict("net").unwrap();
            if holds(&v) {
                println!("{what}: after {:?}", start.elapsed());
                return v;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come: {v:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.running.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(mut child) = self.dnsmasq.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in ["a", "b", "gw", "sw"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(host)]).output();
        }
    }
}

fn word(r: &Option<ProbeResult>) -> &str {
    r.as_ref().map_or("", |r| r.reason.as_str())
}

fn gateway4(v: &Connectivity) -> &str {
    v.ipv4.as_ref().map_or("", |f| word(&f.gateway))
}

fn gateway4_and_6(v: &Connectivity) -> [&str; 2] {
    [gateway4(v), v.ipv6.as_ref().map_or("", |f| word(&f.gateway))]
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_learnt_no_lease_is_kept_and_a_dead_gateway_is_told() {
    let Some(mut lab) = Lab::new("both_families_are_learnt_no_lease_is_kept_and_a_dead_gateway_is_told") else {
        return;
    };
    lab.serve();
    for node in [0, 1] {
        let v = lab
            .until(node, "everything answers", |v| {
                let all =
                    v.ipv4.iter().chain(&v.ipv6).all(|f| word(&f.gateway) == "Answers" && word(&f.dhcp) == "Answers");
                all && v.ipv4.is_some() && v.ipv6.is_some() && word(&v.layer2) == "Answers"
            })
            .await;
        let learnt = |f: &Option<multihome_model::FamilyConnectivity>| {
            let l = f.as_ref().unwrap().learnt.clone().unwrap();
            (l.cidr.unwrap(), l.gateway.unwrap(), l.server.unwrap())
        };
        let ours = |a: &str| a.to_owned();
        assert_eq!(learnt(&v.ipv4), (ours("10.7.0.0/24"), ours("10.7.0.1"), ours("10.7.0.1")));
        let (cidr, gateway, server) = learnt(&v.ipv6);
        assert!(cidr == "fd07::/64" && gateway.starts_with("fe80::") && server == gateway, "{cidr} {gateway} {server}");
        assert_eq!(v.path_mtu.unwrap().message, "packets of 1500 bytes pass");
    }
    // A lease each, for a moment.
    let text = |v: &Connectivity| v.ipv4.clone().unwrap().gateway.unwrap().message;
    let held = || std::fs::read_to_string(lab.leases.path()).unwrap().lines().filter(|l| l.contains("0e:6d:")).count();
    for node in [0, 1] {
        lab.until(node, "the gateway is pinged", |v| text(v) == "10.7.0.1 answers ARP and ping").await;
    }
    lab.until(0, "what was borrowed is given back", |_| held() == 0).await;
    // The gateway dies, and its switch port stays up.
    lab.at("sw", "link set pg nomaster");
    let dead =
        |v: &Connectivity| gateway4(v) == "GatewaySilent" && word(&v.ipv6.clone().unwrap().gateway) == "GatewaySilent";
    let v = lab.until(0, "the dead gateway is told", dead).await;
    assert_eq!(word(&v.layer2), "Answers", "the other node is there");
    assert!(v.ipv4.unwrap().learnt.is_some(), "what was learnt is kept");
    lab.at("sw", "link set pg master vlan1");
    lab.until(0, "the gateway is back", |v| gateway4(v) == "Answers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_another_vlan_is_told_on_both_sides() {
    let Some(lab) = Lab::new("a_port_in_another_vlan_is_told_on_both_sides") else { return };
    lab.until(0, "the other node answers", |v| word(&v.layer2) == "Answers").await;
    lab.at("sw", "link set pb master vlan2");
    for (node, other) in [(0, "b"), (1, "a")] {
        let v = lab.until(node, "the wrong VLAN is told", |v| word(&v.layer2) == "Layer2Unreachable").await;
        let text = v.layer2.unwrap().message;
        assert!(text.contains(&format!("no other node answers by eth0, not node {other}")), "{text}");
    }
    lab.at("sw", "link set pb master vlan1");
    for node in [0, 1] {
        lab.until(node, "the right VLAN is told", |v| word(&v.layer2) == "Answers").await;
    }
    // No server, no router: each family says so, and that is all that is wrong.
    let silent = |v: &Connectivity| v.ipv4.is_some() && v.ipv6.is_some();
    let v = lab.until(0, "nobody serves", silent).await;
    assert_eq!((word(&v.ipv4.unwrap().dhcp), word(&v.ipv6.unwrap().gateway)), ("DHCPSilent", "GatewaySilent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_cable_in_the_middle_is_told_with_its_width() {
    let Some(lab) = Lab::new("a_narrow_cable_in_the_middle_is_told_with_its_width") else { return };
    lab.until(1, "whole packets pass", |v| word(&v.path_mtu) == "Answers").await;
    for end in ["trunk1", "trunk2"] {
        lab.at("sw", &format!("link set {end} mtu 1333"));
    }
    lab.at("sw", "link set trunk2 master vlan2");
    lab.at("sw", "link set pb master vlan2");
    // A bridge leaves room for a VLAN tag (net/core/dev.c, __is_skb_forwardable).
    let found = |v: &Connectivity| v.path_mtu.as_ref().is_some_and(|r| r.message.contains("more than 1337 bytes"));
    let v = lab.until(0, "the hole is told", |v| word(&v.path_mtu) == "MTUHole").await;
    assert_eq!(word(&v.layer2), "Answers");
    for node in [0, 1] {
        lab.until(node, "its size is told", found).await;
    }
    for end in ["trunk1", "trunk2"] {
        lab.at("sw", &format!("link set {end} mtu 1500"));
    }
    lab.until(0, "whole packets pass again", |v| word(&v.path_mtu) == "Answers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_goes_down_and_comes_back_is_probed_on() {
    let Some(lab) = Lab::new("a_device_that_goes_down_and_comes_back_is_probed_on") else { return };
    lab.until(0, "the other node answers", |v| word(&v.layer2) == "Answers").await;
    lab.at("a", "link set eth0 down");
    lab.services[0].set_carrier("net", false);
    lab.until(0, "the cable is told", |v| word(&v.layer2) == "NoCarrier").await;
    lab.until(1, "the other side finds out", |v| word(&v.layer2) == "Layer2Unreachable").await;
    lab.at("a", "link set eth0 up");
    lab.services[0].set_carrier("net", true);
    for node in [0, 1] {
        lab.until(node, "both are there again", |v| word(&v.layer2) == "Answers").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_in_a_guest_of_the_node_is_asked_at_its_port() {
    let Some(lab) = Lab::new("a_router_in_a_guest_of_the_node_is_asked_at_its_port") else { return };
    // The gateway's cable ends at a port of the node, instead of the switch.
    lab.at("gw", "link delete eth0");
    let far = lab.ns("gw");
    lab.at("a", &format!("link add guest up type veth peer name eth0 netns {far}"));
    lab.at("gw", "address add 10.7.0.1/24 dev eth0");
    lab.at("gw", "link set eth0 up");
    let asked =
        Subject { gateway4: Some([10, 7, 0, 1].into()), address4: Some([10, 7, 0, 9].into()), ..subject("a", "b") };
    lab.put_with(0, "a", ("eth0", &[]), asked.clone());
    lab.until(0, "it is not found by the uplink", |v| gateway4(v) == "GatewaySilent").await;
    lab.put_with(0, "a", ("eth0", &["guest"]), asked);
    let v = lab.until(0, "it is found at its port", |v| gateway4(v) == "Answers" && word(&v.layer2) == "Answers").await;
    assert_eq!(v.layer2.unwrap().message, "node b answers by eth0", "other nodes are asked by the uplink as before");
    // From the address that the network has for it.
    let text = |v: &Connectivity| v.ipv4.clone().unwrap().gateway.unwrap().message;
    lab.until(0, "it is pinged", |v| text(v) == "10.7.0.1 answers ARP and ping").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_network_is_routed_to_a_gateway_or_not() {
    let Some(lab) = Lab::new("the_nodes_own_network_is_routed_to_a_gateway_or_not") else { return };
    // Another cable, which is none of the network's.
    let far = lab.ns("gw");
    lab.at("a", &format!("link add mgmt0 up type veth peer name mgmt0 netns {far}"));
    lab.at("gw", "link set mgmt0 up");
    for (host, n) in [("a", 2), ("gw", 1)] {
        lab.at(host, &format!("address add 10.9.0.{n}/24 dev mgmt0"));
        lab.at(host, &format!("address add fd09::{n}/64 dev mgmt0 nodad"));
    }
    let (gateway4, gateway6) = (Some([10, 7, 0, 1].into()), Some("fd07::1".parse().unwrap()));
    let asked =
        Subject { gateway4, gateway6, ipv4: Want::Listen, ipv6: Want::Listen, routed: [true; 2], ..subject("a", "b") };
    let routed = |v: &Connectivity| {
        let of =
            |f: &Option<multihome_model::FamilyConnectivity>| f.as_ref().map_or("", |f| word(&f.routed)).to_owned();
        [of(&v.ipv4), of(&v.ipv6)]
    };
    lab.put_with(0, "a", ("eth0", &[]), asked.clone());
    let v = lab.until(0, "no route is told", |v| routed(v) == ["NotRouted", "NotRouted"]).await;
    assert!(gateway4_and_6(&v) == ["Answers", "Answers"] && v.faults().is_empty(), "{v:#?}");
    lab.at("a", "route add 10.7.0.0/24 via 10.9.0.1");
    lab.at("a", "route add fd07::/64 via fd09::1");
    // Asked anew, so that nobody waits for a minute.
    lab.services[0].retain(|_| false);
    lab.put_with(0, "a", ("eth0", &[]), asked);
    let v = lab.until(0, "the routes are told", |v| routed(v) == ["Answers", "Answers"]).await;
    let text = |f: Option<multihome_model::FamilyConnectivity>| f.unwrap().routed.unwrap().message;
    assert_eq!(text(v.ipv4), "10.7.0.1 answers from the node's own network: management is routed to it");
    assert_eq!(text(v.ipv6), "fd07::1 answers from the node's own network: management is routed to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vlan_is_probed_inside_it() {
    let Some(lab) = Lab::new("a_vlan_is_probed_inside_it") else { return };
    for (host, id) in [("a", 20), ("b", 20), ("b", 30)] {
        let add = format!("-n {} link add link eth0 name vlan{id} up type vlan id {id}", lab.ns(host));
        let o = Command::new("ip").args(add.split(' ')).output().unwrap();
        if !o.status.success() {
            println!("SKIPPED a_vlan_is_probed_inside_it: {}", String::from_utf8_lossy(&o.stderr).trim());
            return;
        }
    }
    lab.put_with(0, "a", ("vlan20", &[]), subject("a", "b"));
    lab.put_with(1, "b", ("vlan30", &[]), subject("b", "a"));
    for node in [0, 1] {
        lab.until(node, "another VLAN is told", |v| word(&v.layer2) == "Layer2Unreachable").await;
    }
    lab.put_with(1, "b", ("vlan20", &[]), subject("b", "a"));
    for node in [0, 1] {
        let v = lab.until(node, "the right VLAN is told", |v| word(&v.layer2) == "Answers").await;
        assert_eq!(v.path_mtu.unwrap().message, "packets of 1500 bytes pass", "the tag takes none of them");
    }
}
