//! Mirrors of NICs: to which NIC what one says and hears is copied, and why it is not.

use std::sync::Arc;

use kube::ResourceExt;
use multihome_model::{MirrorDirection, NetworkInterface};
use multihome_plan::node::NodeMirror;

use crate::Key;
use crate::world::{Tables, vm_key};

/// The NIC that is to get the copies.
pub fn target(nic: &NetworkInterface) -> Option<Key> {
    let mirror = nic.spec.mirror.as_ref()?;
    Some(Key::new(nic.namespace().unwrap_or_default(), mirror.to.clone()))
}

/// A mirror as the planner takes it; none where the NIC that is to get the copies is not there, or this one gets copies itself.
pub fn planned(t: &Tables, nic: &NetworkInterface) -> Option<NodeMirror> {
    let direction = nic.spec.mirror.as_ref()?.direction();
    let to = t.nics.get(&target(nic)?)?.uid()?;
    t.mirrored_to(&Key::of(nic)).next().is_none().then_some(NodeMirror { to, direction })
}

/// What of a guest's words is copied.
fn words(direction: MirrorDirection) -> &'static str {
    match direction {
        MirrorDirection::Both => "says and hears",
        MirrorDirection::Ingress => "hears",
        MirrorDirection::Egress => "says",
    }
}

/// A NIC with its VM.
fn shown(nic: &NetworkInterface) -> String {
    match nic.spec.vm() {
        Some(vm) => format!("NIC {} of VM {vm}", nic.name_any()),
        None => format!("NIC {}", nic.name_any()),
    }
}

/// What is so while a mirror stands, in one sentence: who hears what of whom.
pub fn sentence(nic: &NetworkInterface, to: &NetworkInterface) -> String {
    let direction = nic.spec.mirror.as_ref().map(|m| m.direction()).unwrap_or_default();
    let whose = vm_key(nic).map(|vm| format!("the guest of VM {}", vm.name)).unwrap_or_else(|| "its guest".into());
    format!("{} gets a copy of what {whose} {} by NIC {}", shown(to), words(direction), nic.name_any())
}

/// The NIC that gets the copies of one that a node carries, if it can: it is on the same node.
///
/// # Errors
/// The reason as a word, and a sentence.
pub fn reachable(t: &Tables, nic: &NetworkInterface) -> Result<Arc<NetworkInterface>, (&'static str, String)> {
    let own = nic.name_any();
    let Some(key) = target(nic) else { return Err(("NotMirrored", "it names no NIC for copies".into())) };
    let to = &key.name;
    if let Some(other) = t.mirrored_to(&Key::of(nic)).next() {
        let text = format!(
            "NIC {own} gets copies of NIC {}, and those are not copied again: end one of both mirrors",
            other.name
        );
        return Err(("IsTarget", text));
    }
    let Some(there) = t.nics.get(&key).cloned() else {
        let text = format!("NIC {to} does not exist in namespace {}: create it, or mirror to another", key.namespace);
        return Err(("TargetMissing", text));
    };
    let node = |n: &NetworkInterface| n.status.as_ref().and_then(|s| s.node.clone());
    match (node(nic), node(&there), there.spec.vm()) {
        (Some(here), Some(elsewhere), _) if here != elsewhere => {
            let text =
                format!("NIC {own} is on node {here} and NIC {to} on node {elsewhere}: run both VMs on one node");
            Err(("OnAnotherNode", text))
        }
        (_, Some(_), _) => Ok(there),
        (_, None, Some(vm)) => {
            Err(("TargetNotRunning", format!("NIC {to} of VM {vm} is on no node: start VM {vm}, and copies begin")))
        }
        (_, None, None) => {
            Err(("TargetNotRunning", format!("NIC {to} belongs to no VM: attach it to one, and copies begin")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tables(nics: &[(&str, Value, Option<&str>)]) -> Tables {
        let mut t = Tables::default();
        for (name, spec, node) in nics {
            let mut spec = spec.clone();
            spec["network"] = json!("lan");
            let nic = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "NetworkInterface",
                "metadata": {"name": name, "namespace": "lab", "uid": format!("uid-{name}")},
                "spec": spec, "status": {"node": node}});
            t.put_nic(serde_json::from_value(nic).unwrap());
        }
        t
    }

    fn why(t: &Tables, name: &str) -> (&'static str, String) {
        reachable(t, &t.nics[&Key::new("lab", name)]).unwrap_err()
    }

    #[test]
    fn a_mirror_says_why_it_does_not_stand() {
        let web = || ("web", json!({"vm": "web", "mirror": {"to": "cap"}}), Some("node1"));
        let cap = |vm: Value, node| ("cap", json!({"vm": vm}), node);
        let t = tables(&[web()]);
        assert_eq!(why(&t, "web").0, "TargetMissing");
        assert_eq!(planned(&t, &t.nics[&Key::new("lab", "web")]), None);
        assert!(why(&tables(&[web(), cap(json!("cap"), None)]), "web").1.contains("start VM cap"));
        assert!(why(&tables(&[web(), cap(Value::Null, None)]), "web").1.contains("belongs to no VM"));
        let (reason, text) = why(&tables(&[web(), cap(json!("cap"), Some("node2"))]), "web");
        assert_eq!(reason, "OnAnotherNode");
        assert_eq!(text, "NIC web is on node node1 and NIC cap on node node2: run both VMs on one node");
        let t = tables(&[web(), cap(json!("cap"), Some("node1"))]);
        let web_nic = &t.nics[&Key::new("lab", "web")];
        let to = reachable(&t, web_nic).unwrap();
        assert_eq!(
            sentence(web_nic, &to),
            "NIC cap of VM cap gets a copy of what the guest of VM web says and hears by NIC web"
        );
        assert_eq!(planned(&t, web_nic).unwrap().to, "uid-cap");
        // What admission refuses, and may come about at the same moment.
        let t = tables(&[web(), ("cap", json!({"vm": "cap", "mirror": {"to": "web"}}), Some("node1"))]);
        assert_eq!((why(&t, "web").0, why(&t, "cap").0), ("IsTarget", "IsTarget"));
        assert_eq!(planned(&t, &t.nics[&Key::new("lab", "web")]), None);
    }

    #[test]
    fn who_is_mirrored_to_a_nic_is_known_as_it_changes() {
        let mut t =
            tables(&[("web", json!({"mirror": {"to": "cap"}}), None), ("db", json!({"mirror": {"to": "cap"}}), None)]);
        let to = |t: &Tables| t.mirrored_to(&Key::new("lab", "cap")).map(|k| k.name.clone()).collect::<Vec<_>>();
        assert_eq!((to(&t), t.has_mirrors()), (vec!["db".into(), "web".into()], true));
        let other = tables(&[("web", json!({}), None)]);
        assert!(!other.has_mirrors() && to(&other).is_empty());
        t.put_nic(tables(&[("cap", json!({}), None)]).nics[&Key::new("lab", "cap")].as_ref().clone());
        assert_eq!(to(&t), ["db", "web"]);
    }
}
