//! Who gets the conversations of an address, and which node has it.

use serde_json::{Value, json};

use super::*;

/// Three nodes with an uplink to network street, a Vpc with a network, a network that names none, and NICs web-N of VMs web-N.
fn world(nics: &[(&str, &str, &str)]) -> Tables {
    let mut t = Tables::default();
    let kind = |kind: &str, name: &str, rest: Value| {
        let mut o = json!({"apiVersion": "multihome.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "lab",
            "uid": format!("uid-{name}")}});
        o.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        o
    };
    let read = |v| serde_json::from_value(v).unwrap();
    for n in 1..4 {
        t.put_node(node(n, "True"));
    }
    let uplinks = json!([{"nics": ["eth1"], "nodeSelector": {"street": "yes"}}]);
    let fabric = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "street"},
        "spec": {"uplinks": uplinks}});
    t.put_fabric(serde_json::from_value(fabric).unwrap());
    let street = json!({"spec": {"type": "Untagged", "clusterNetwork": "street",
        "ipv4": {"cidr": "198.18.0.0/24", "gateway": "198.18.0.1"}}});
    t.put_network(read(kind("Network", "street", street)));
    t.put_vpc(serde_json::from_value(kind("Vpc", "shop", json!({"spec": {}, "status": {"vni": 900}}))).unwrap());
    for (name, third, vpc) in [("front", 1, Some("shop")), ("back", 2, Some("shop")), ("alone", 3, None)] {
        let ipv4 = json!({"cidr": format!("10.0.{third}.0/24"), "gateway": format!("10.0.{third}.1")});
        t.put_network(read(kind("Network", name, json!({"spec": {"type": "Overlay", "vpc": vpc, "ipv4": ipv4}}))));
    }
    for (i, (name, network, node)) in nics.iter().enumerate() {
        put(&mut t, i, name, network, node);
    }
    t
}

fn node(n: usize, ready: &str) -> k8s_openapi::api::core::v1::Node {
    let own = json!({"multihome.io/tunnel-address": format!("192.0.2.{n}")});
    let conditions = json!([{"type": "Ready", "status": ready}]);
    serde_json::from_value(
        json!({"metadata": {"name": format!("node{n}"), "annotations": own, "labels": {"street": "yes"}},
        "status": {"conditions": conditions}}),
    )
    .unwrap()
}

/// A NIC of a network, on a node if that is named, whose VM has the label app=web.
fn put(t: &mut Tables, i: usize, name: &str, network: &str, node: &str) {
    let mut status = json!({"mac": format!("02:00:00:00:00:{i:02x}"), "primaryFor": ["IPv4"], "ipv4": {"address": format!("10.0.1.{}/24", 10 + i)}});
    if !node.is_empty() {
        status["node"] = json!(node);
    }
    let nic = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "NetworkInterface",
        "metadata": {"name": name, "namespace": "lab", "uid": format!("nic-{name}")},
        "spec": {"network": network, "vm": name}, "status": status});
    t.put_nic(serde_json::from_value(nic).unwrap());
    let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "lab", "labels": {"app": "web"}},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}}});
    t.put_vm(serde_json::from_value(vm).unwrap());
}

/// An address that leads to NICs, as its status stands after it was decided.
fn decided(t: &Tables, spec: Value) -> FloatingIP {
    let meta = json!({"name": "web", "namespace": "lab", "uid": "fip"});
    let mut spec = spec;
    spec["network"] = json!("street");
    let floating = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "FloatingIP", "metadata": meta, "spec": spec});
    let mut floating: FloatingIP = serde_json::from_value(floating).unwrap();
    again(t, &mut floating);
    floating
}

/// Decides once more.
fn again(t: &Tables, floating: &mut FloatingIP) -> Option<String> {
    let decision = decide(t, floating);
    let ready = condition(t, floating, "198.18.0.7".parse().unwrap(), &decision);
    let Decision { node, backends } = decision;
    let status = floating.status.get_or_insert_default();
    status.address = Some("198.18.0.7".into());
    (status.node, status.backends, status.conditions) = (node.clone(), backends, vec![ready]);
    node
}

fn named(nics: &[&str]) -> Value {
    json!({"forwards": [{"port": 80, "targetPort": 8080, "nics": nics}]})
}

fn reasons(floating: &FloatingIP) -> Vec<(&str, bool, &str)> {
    let all = floating.status.as_ref().unwrap().backends.iter();
    all.map(|(n, b)| (n.as_str(), b.ready, b.reason.as_str())).collect()
}

fn said(t: &Tables, floating: &FloatingIP) -> (String, String) {
    let address = "198.18.0.7".parse().unwrap();
    let c = condition(t, floating, address, &decide(t, floating));
    (c.status.clone(), c.message)
}

const THREE: [(&str, &str, &str); 3] =
    [("web-1", "front", "node1"), ("web-2", "front", "node2"), ("web-3", "back", "node2")];

#[test]
fn a_node_keeps_the_address_as_long_as_a_nic_there_is_ready() {
    let mut t = world(&THREE);
    let mut floating = decided(&t, named(&["web-1", "web-2", "web-3"]));
    let status = |f: &FloatingIP| f.status.as_ref().unwrap().node.clone();
    assert_eq!(status(&floating).as_deref(), Some("node1"));
    assert!(said(&t, &floating).1.ends_with("198.18.0.7 leads to 3 NICs by node node1"));
    // Its VM stops: the next one's node has it, and keeps it.
    put(&mut t, 0, "web-1", "front", "");
    assert!(is_stale(&t, &floating));
    assert_eq!(again(&t, &mut floating).as_deref(), Some("node2"));
    let (ready, text) = said(&t, &floating);
    assert_eq!(ready, "True");
    assert_eq!(
        text,
        "198.18.0.7 leads to 2 of 3 NICs by node node2; web-1: NIC web-1 is on no node: its VM does not run"
    );
    put(&mut t, 0, "web-1", "front", "node1");
    assert_eq!(again(&t, &mut floating).as_deref(), Some("node2"));
    assert!(!is_stale(&t, &floating));
    // The node says nothing any more.
    t.put_node(node(2, "Unknown"));
    assert_eq!(again(&t, &mut floating).as_deref(), Some("node1"));
    assert_eq!(reasons(&floating)[1], ("web-2", false, "NodeSilent"));
    t.nodes.remove(&Key::new("", "node2"));
    again(&t, &mut floating);
    assert_eq!(reasons(&floating)[1], ("web-2", false, "NodeSilent"), "nor does one that was removed");
    t.put_node(node(2, "Unknown"));
    // So do all: what runs, runs.
    t.put_node(node(1, "Unknown"));
    assert_eq!(again(&t, &mut floating).as_deref(), Some("node1"));
    for (i, (name, network, _)) in THREE.iter().enumerate() {
        put(&mut t, i, name, network, "");
    }
    assert_eq!(again(&t, &mut floating), None);
    let (ready, text) = said(&t, &floating);
    assert!(
        ready == "False" && text.starts_with("none of its 3 NICs can be led to: web-1: NIC web-1 is on no node"),
        "{text}"
    );
}

#[test]
fn a_node_without_an_uplink_does_not_get_the_address() {
    let mut t = world(&THREE);
    let mut bare = node(1, "True");
    bare.metadata.labels = None;
    t.put_node(bare);
    let floating = decided(&t, named(&["web-1", "web-2"]));
    assert_eq!(floating.status.as_ref().unwrap().node.as_deref(), Some("node2"));
    assert_eq!(reasons(&floating), [("web-1", true, "Ready"), ("web-2", true, "Ready")]);
    // A NIC alone is where it is.
    let alone = decided(&t, json!({"nic": "web-1"}));
    assert_eq!(alone.status.as_ref().unwrap().node.as_deref(), Some("node1"));
    let (ready, text) = said(&t, &alone);
    assert!(ready == "False" && text.contains("node node1, where NIC web-1 is, has no uplink"), "{text}");
    let alone = decided(&t, json!({"nic": "web-2"}));
    assert_eq!(said(&t, &alone).1, "198.18.0.7 leads to 10.0.1.11 of NIC web-2 on node node2");
}

#[test]
fn nics_that_cannot_be_led_to_say_why() {
    let mut t = world(&THREE);
    put(&mut t, 7, "other", "alone", "node1");
    put(&mut t, 8, "other-2", "alone", "node2");
    let floating = decided(&t, named(&["web-1", "other", "nobody"]));
    assert_eq!(
        reasons(&floating),
        [("nobody", false, "NICMissing"), ("other", false, "OtherDomain"), ("web-1", true, "Ready")]
    );
    let text = &floating.status.as_ref().unwrap().backends["other"].message;
    assert_eq!(
        text,
        "NIC other is in Network lab/alone, and others are in Vpc lab/shop: one address leads to NICs of one routing domain"
    );
    // Without a Vpc nothing leads from node to node.
    let floating = decided(&t, named(&["other", "other-2"]));
    assert_eq!(reasons(&floating), [("other", true, "Ready"), ("other-2", false, "OtherNode")]);
    let text = &floating.status.as_ref().unwrap().backends["other-2"].message;
    assert!(
        text.contains("Network lab/alone has no gateway that leads from one to the other: put the network in a Vpc")
    );
    let led = crate::floating::planned(&t, &floating).unwrap().1;
    assert_eq!(led.forwards.first().unwrap().backends, [IpAddr::from([10, 0, 1, 17])].into());
    assert_eq!((led.node.as_str(), led.domain.as_str()), ("node1", "uid-alone"));
}

#[test]
fn who_is_there_is_not_turned_out_by_who_joins() {
    let mut t = world(&[("b", "front", "node1")]);
    let mut floating = decided(&t, json!({"forwards": [{"port": 80, "nicSelector": {"app": "web"}}]}));
    assert_eq!(reasons(&floating), [("b", true, "Ready")]);
    put(&mut t, 1, "a", "alone", "node2");
    assert!(concerns(&t, &floating, &Key::new("lab", "a")), "its VM has the label");
    again(&t, &mut floating);
    assert_eq!(reasons(&floating), [("a", false, "OtherDomain"), ("b", true, "Ready")]);
    // A label says which of a VM's networks is meant.
    let floating = decided(
        &t,
        json!({"forwards": [{"port": 80, "nicSelector": {"app": "web", "multihome.io/network": "alone"}}]}),
    );
    assert_eq!(reasons(&floating), [("a", true, "Ready")]);
    let mail = json!({"port": 25, "nicSelector": {"app": "mail"}});
    let half = decided(&t, json!({"nic": "b", "forwards": [{"port": 80}, mail.clone()]}));
    assert_eq!(said(&t, &half).1, "198.18.0.7 leads to NIC b on node node1; port 25 leads nowhere");
    let nobody = decided(&t, json!({"forwards": [mail]}));
    let (ready, text) = said(&t, &nobody);
    assert!(ready == "False" && text.starts_with("no NIC has the labels"), "{text}");
    assert!(crate::floating::planned(&t, &nobody).is_none());
}

#[test]
fn a_selector_finds_as_many_nics_as_there_may_be() {
    let names: Vec<String> = (0..40).map(|i| format!("web-{i:02}")).collect();
    let nics: Vec<(&str, &str, &str)> = names.iter().map(|n| (n.as_str(), "front", "node1")).collect();
    let t = world(&nics);
    let select = json!({"app": "web"});
    let spec = json!({"nic": "web-39", "forwards": [{"port": 25}, {"port": 80, "nicSelector": select}]});
    let floating = decided(&t, spec);
    let there: Vec<&str> = reasons(&floating).into_iter().map(|r| r.0).collect();
    assert_eq!(there.len(), 32);
    assert!(there.contains(&"web-39") && there.contains(&"web-30") && !there.contains(&"web-31"), "{there:?}");
}

#[test]
fn a_nic_that_does_not_answer_gets_nothing_unless_none_does() {
    let mut t = world(&THREE);
    let mut spec = named(&["web-1", "web-2"]);
    spec["forwards"].as_array_mut().unwrap().push(json!({"port": 443, "nics": ["web-1"]}));
    spec["healthCheck"] = json!({});
    let mut floating = decided(&t, spec);
    assert_eq!(reasons(&floating), [("web-1", false, "NotChecked"), ("web-2", false, "NotChecked")]);
    let (ready, text) = said(&t, &floating);
    assert!(
        ready == "True" && text.starts_with("198.18.0.7 leads to 2 of 2 NICs by node node1, because none is ready"),
        "{text}"
    );
    t.put_floating(floating.clone());
    let asked = questions(&t, "node1");
    assert_eq!(asked.len(), 1, "those of its own node");
    assert_eq!((asked[0].nic.as_str(), asked[0].asked.as_str()), ("web-1", "10.0.1.10:443,8080"));
    assert_eq!((asked[0].domain.as_str(), asked[0].at.len()), ("uid-shop", 2));
    let found = |floating: &mut FloatingIP, nic: &str, asked: &str, passes: bool| {
        let n = if nic == "web-1" { "node1" } else { "node2" };
        let message = format!("NIC {nic} does not answer");
        let health = multihome_model::Health { node: n.into(), asked: asked.into(), passes, message };
        floating.status.as_mut().unwrap().backends.get_mut(nic).unwrap().health = Some(health);
        again(&t, floating)
    };
    let led = |floating: &FloatingIP, t: &Tables| {
        let forwards = crate::floating::planned(t, floating).unwrap().1.forwards;
        forwards.into_iter().map(|f| (f.port, f.backends.len())).collect::<Vec<_>>()
    };
    let node = found(&mut floating, "web-2", "10.0.1.11:8080", true);
    assert_eq!(node.as_deref(), Some("node2"), "the address goes to who is ready");
    assert_eq!(reasons(&floating), [("web-1", false, "NotChecked"), ("web-2", true, "Ready")]);
    found(&mut floating, "web-1", "10.0.1.10:443,8080", true);
    assert_eq!(floating.status.as_ref().unwrap().node.as_deref(), Some("node2"), "and stays");
    found(&mut floating, "web-2", "10.0.1.11:8080", false);
    assert_eq!(reasons(&floating), [("web-1", true, "Ready"), ("web-2", false, "CheckFailed")]);
    // What was asked of something else says nothing.
    found(&mut floating, "web-1", "10.0.1.10:8080", true);
    assert_eq!(reasons(&floating)[0], ("web-1", false, "NotChecked"));
    assert_eq!(led(&floating, &t), [(80, 2), (443, 1)], "none is ready, so all that run");
    t.put_floating(floating);
    assert_eq!(questions(&t, "node2")[0].passed, Some(false));
}

#[test]
fn nics_beyond_the_most_are_told_of() {
    let mut t = world(&[]);
    for i in 0..34 {
        put(&mut t, i, &format!("web-{i:02}"), "front", "node1");
    }
    let spec = json!({"forwards": [{"port": 80, "nicSelector": {"app": "web"}}]});
    let floating = decided(&t, spec);
    assert_eq!(
        said(&t, &floating).1,
        "198.18.0.7 leads to 32 NICs by node node1; 2 more NICs have its labels, and 32 is the most"
    );
    assert!(!floating.status.unwrap().backends.contains_key("web-32"), "the first ones by name are taken");
}

#[test]
fn a_nic_that_answers_by_another_is_told_of() {
    let mut t = world(&[("web-1", "front", "node1")]);
    let mut floating = decided(&t, named(&["web-1"]));
    assert_eq!(said(&t, &floating).1, "198.18.0.7 leads to NIC web-1 on node node1");
    assert!(!is_stale(&t, &floating));
    let key = Key::new("lab", "web-1");
    let mut nic = t.nics[&key].as_ref().clone();
    nic.status.as_mut().unwrap().primary_for.clear();
    t.put_nic(nic);
    let text = said(&t, &floating).1;
    let says = "NIC web-1 holds no default route, so that clients in other networks are answered by another NIC, unless the guest \
                has a routing table for it: say symmetric: Gateway on Network lab/front, or make it primary";
    assert!(text.contains(says), "{text}");
    assert!(is_stale(&t, &floating), "it is told as soon as it is so");
    again(&t, &mut floating);
    assert!(!is_stale(&t, &floating));
    let mut front = t.networks[&Key::new("lab", "front")].as_ref().clone();
    front.spec.symmetric = Some(multihome_model::Symmetric::Gateway);
    t.put_network(front);
    assert_eq!(said(&t, &floating).1, "198.18.0.7 leads to NIC web-1 on node node1");
    assert!(is_stale(&t, &floating), "and that it is mended, too");
}
