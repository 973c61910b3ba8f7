//! Mirrors of NICs in the node plan: where they are, and in which order they come and go.
#![allow(clippy::unwrap_used)]

use multihome_model::checked::check_network;
use multihome_model::{Bandwidth, MacAddr, MirrorDirection, Mtu, NetworkSpec, NetworkType, PortSecurity, VlanSpec};
use multihome_plan::node::{
    Mirror, NodeInput, NodeMirror, NodeNetwork, NodeNic, NodeState, Step, build, diff, simulate, tap_name, touched,
};

fn nic(uid: &str) -> NodeNic {
    NodeNic {
        uid: uid.into(),
        key: format!("default/{uid}"),
        network: "default/lan".into(),
        mac: MacAddr([2, 0, 0, 0, 0, uid.len() as u8]),
        addresses: vec![],
        security: PortSecurity::Strict,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    }
}

/// A node with these NICs and these mirrors.
fn node(nics: &[&str], mirrors: &[(&str, &str)]) -> NodeInput {
    let vlan = Some(VlanSpec { id: Some(7), ..Default::default() });
    let spec = NetworkSpec { r#type: NetworkType::Vlan, vlan, ..Default::default() };
    let network = NodeNetwork {
        uid: "lan".into(),
        key: "default/lan".into(),
        spec: check_network("lan", &spec).unwrap(),
        mtu: Mtu::ETHERNET,
        vni: None,
        vpc_uid: None,
    };
    let mirror = |to: &str| NodeMirror { to: to.into(), direction: MirrorDirection::Both };
    NodeInput {
        networks: vec![network],
        nics: nics.iter().map(|n| nic(n)).collect(),
        mirrors: mirrors.iter().map(|(name, to)| ((*name).into(), mirror(to))).collect(),
        ..NodeInput::default()
    }
}

fn mirrors(nics: &[&str], mirrors: &[(&str, &str)]) -> Vec<String> {
    build(&node(nics, mirrors)).mirrors.keys().map(ToString::to_string).collect()
}

#[test]
fn a_mirror_is_where_both_nics_are() {
    let web = tap_name("web").to_string();
    assert_eq!(mirrors(&["web", "cap"], &[("web", "cap")]), [web.as_str()]);
    assert_eq!(mirrors(&["web"], &[("web", "cap")]), [""; 0]);
    assert_eq!(mirrors(&["cap"], &[("web", "cap")]), [""; 0]);
    // A copy is not copied again, and nothing runs in a circle.
    assert_eq!(mirrors(&["web", "cap", "far"], &[("web", "cap"), ("cap", "far")]), [web.as_str()]);
    assert_eq!(mirrors(&["web", "cap"], &[("web", "cap"), ("cap", "web")]), [""; 0]);
}

fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|s| format!("{s:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_mirror_changes_without_its_taps_and_is_made_anew_with_them() {
    let with = build(&node(&["web", "cap"], &[("web", "cap")]));
    let without = build(&node(&["web", "cap"], &[]));
    assert_eq!(names(&diff(&without, &with)), ["PutMirror"]);
    assert_eq!(names(&diff(&with, &without)), ["DeleteMirror"]);
    assert!(touched(&without, &with).values().all(|t| t.port) && touched(&without, &with).len() == 1);
    // Without its target it ends first, and begins with it again.
    let alone = build(&node(&["web"], &[("web", "cap")]));
    assert_eq!(names(&diff(&with, &alone)), ["DeleteMirror", "DeleteTap", "DeletePort"]);
    assert_eq!(names(&diff(&alone, &with)), ["PutPort", "PutTap", "PutMirror"]);
    // A target that must be made anew is another device.
    let mut queues = node(&["web", "cap"], &[("web", "cap")]);
    queues.nics[1].queues = 4;
    assert_eq!(names(&diff(&with, &build(&queues))), ["DeleteMirror", "DeleteTap", "PutTap", "PutMirror"]);
    // What was observed of it may be anything.
    let (web, nowhere) = (tap_name("web"), multihome_model::IfName::new("-").unwrap());
    let mut stale = with.clone();
    stale.mirrors.insert(web.clone(), Mirror { to: nowhere, direction: MirrorDirection::Both });
    let mut repaired = stale.clone();
    diff(&stale, &with).iter().for_each(|s| simulate(&mut repaired, s));
    assert_eq!(repaired, with);
    // Of a tap that somebody removed, too.
    let mut lost = with.clone();
    lost.taps.remove(&web);
    assert_eq!(names(&diff(&lost, &with)), ["DeleteMirror", "PutTap", "PutMirror"]);
    assert_eq!(names(&diff(&with, &NodeState::default()))[0], "DeleteMirror");
}
