//! A data centre's worth of resources, planned for every node of it. Prints one JSON object with times and memory.
//!
//! `plan_scale [NICS [NETWORKS [NODES]]]`: every second network is an overlay of its own, the others are in Vpcs of ten networks
//! each. Each network's NICs are spread over nodes as a tenant's VMs are: over a few.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use k8s_openapi::api::core::v1::Node;
use multihome_agent::{local_change, node_input, remote_change};
use multihome_control::Key;
use multihome_control::world::Tables;
use multihome_model::{Network, NetworkInterface, Vpc};
use multihome_plan::node::build;
use serde_json::{Value, json};

/// How many nodes a network's NICs are spread over.
const SPREAD: usize = 8;

fn number(n: usize, default: usize) -> usize {
    std::env::args().nth(n).and_then(|a| a.parse().ok()).unwrap_or(default)
}

fn node_of(nic: usize, networks: usize, nodes: usize) -> usize {
    let (network, place) = (nic % networks, nic / networks);
    (network * 7 + place % SPREAD) % nodes
}

fn node(i: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{i}"), "uid": format!("node-{i}"),
        "annotations": {"multihome.io/tunnel-address": format!("192.0.{}.{}", 2 + i / 250, 1 + i % 250)}}})
}

fn vpc_of(network: usize) -> Option<usize> {
    (network % 2 == 1).then_some(network / 20)
}

fn network(i: usize) -> Value {
    let cidr = (10, i / 250, i % 250);
    let mut v = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "Network",
        "metadata": {"name": format!("net{i}"), "namespace": "lab", "uid": format!("net-{i}")},
        "spec": {"type": "Overlay", "ipv4": {"cidr": format!("{}.{}.{}.0/24", cidr.0, cidr.1, cidr.2),
            "gateway": format!("{}.{}.{}.1", cidr.0, cidr.1, cidr.2)}},
        "status": {"vni": 1000 + i, "mtu": 1450}});
    if let Some(vpc) = vpc_of(i) {
        v["spec"]["vpc"] = json!(format!("vpc{vpc}"));
    }
    v
}

fn vpc(i: usize) -> Value {
    json!({"apiVersion": "multihome.io/v1alpha1", "kind": "Vpc",
        "metadata": {"name": format!("vpc{i}"), "namespace": "lab", "uid": format!("vpc-{i}")},
        "spec": {}, "status": {"vni": 500_000 + i}})
}

fn nic(i: usize, networks: usize, nodes: usize) -> Value {
    let (network, place) = (i % networks, i / networks);
    let mac = format!("02:00:{:02x}:{:02x}:{:02x}:{:02x}", i >> 24, i >> 16 & 255, i >> 8 & 255, i & 255);
    json!({"apiVersion": "multihome.io/v1alpha1", "kind": "NetworkInterface",
        "metadata": {"name": format!("nic{i}"), "namespace": "lab", "uid": format!("nic-{i}"), "resourceVersion": "1",
            "finalizers": ["multihome.io/claims"]},
        "spec": {"network": format!("net{network}"), "vm": format!("vm{}", i / 2)},
        "status": {"node": format!("node{}", node_of(i, networks, nodes)), "mac": mac,
            "ipv4": {"address": format!("10.{}.{}.{}/24", network / 250, network % 250, 2 + place % 250)},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "its guest has its address"}]}})
}

fn text<T: serde::de::DeserializeOwned>(v: &Value) -> T {
    serde_json::from_str(&v.to_string()).expect("what was written can be read")
}

fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The median of some runs, in milliseconds.
fn median(mut run: impl FnMut(usize)) -> f64 {
    let mut all: Vec<f64> = (0..21)
        .map(|i| {
            let began = Instant::now();
            run(i);
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let (nics, networks, nodes) = (number(1, 100_000), number(2, 1000), number(3, 200));
    let began = Instant::now();
    let mut tables = Tables::default();
    (0..nodes).for_each(|i| tables.put_node(text::<Node>(&node(i))));
    (0..networks).for_each(|i| tables.put_network(text::<Network>(&network(i))));
    (0..networks.div_ceil(20)).for_each(|i| tables.put_vpc(text::<Vpc>(&vpc(i))));
    (0..nics).for_each(|i| tables.put_nic(text::<NetworkInterface>(&nic(i, networks, nodes))));
    let read = began.elapsed().as_secs_f64();
    let began = Instant::now();
    // Each node plans for itself; here all processors share the work.
    let (next, devices) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= nodes {
                        return;
                    }
                    let state = build(&node_input(&tables, &format!("node{i}")));
                    devices.fetch_add(state.taps.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let planned = began.elapsed().as_secs_f64();
    assert_eq!(devices.into_inner(), nics, "every NIC is in one plan");

    // A NIC changes: on its own node, and on the nodes that have NICs of its network or Vpc.
    let own = median(|i| {
        let (key, place) = (Key::new("lab", format!("nic{i}")), node_of(i, networks, nodes));
        assert!(local_change(&tables, &format!("node{place}"), &key).is_some());
    });
    let elsewhere = |first: usize| {
        median(|i| {
            let n = first + 2 * i;
            let node = format!("node{}", node_of(n + networks, networks, nodes));
            assert!(remote_change(&tables, &node, &Key::new("lab", format!("net{n}"))) > 0);
        })
    };
    let (alone, in_vpc) = (elsewhere(0), elsewhere(1));
    let whole = median(|i| drop(build(&node_input(&tables, &format!("node{i}")))));
    let out = json!({"nics": nics, "networks": networks, "nodes": nodes, "read_s": read, "planned_s": planned,
        "own_ms": own, "elsewhere_ms": alone, "elsewhere_vpc_ms": in_vpc, "whole_plan_ms": whole, "memory_mib": memory_mib()});
    println!("{out}");
}
