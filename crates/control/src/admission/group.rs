//! Security groups: what they say alone, and who uses them.

use multihome_model::checked::check_group;
use multihome_model::{Network, NetworkInterface, NetworkType, SecurityGroup, Violations};

use super::fabric::refuse_users;
use super::{Lookup, Request, Verb, Verdict, get, list, parse};
use crate::Key;
use crate::policy::{network_groups, own_groups};

pub(super) fn validate(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    if req.verb == Verb::Delete {
        return refuse_users(
            &users(look, &Key::new(req.namespace, req.name)),
            &format!("SecurityGroup {:?}", req.name),
            "",
        );
    }
    let Some(new) = req.new else { return Ok(()) };
    let group: SecurityGroup = parse(new)?;
    Ok(check_group(req.name, &group.spec).map(drop)?)
}

/// Who is in a group, or names it as a peer: kind and name.
fn users(look: &dyn Lookup, key: &Key) -> Vec<String> {
    let shown = |kind: &str, of: &Key| match of.namespace == key.namespace {
        true => format!("{kind} {}", of.name),
        false => format!("{kind} {of}"),
    };
    let mut all = vec![];
    let networks = list::<Network>(look, None).into_iter().filter(|n| n.metadata.deletion_timestamp.is_none());
    all.extend(networks.filter(|n| network_groups(n).contains(key)).map(|n| shown("Network", &Key::of(&n))));
    let nics = list::<NetworkInterface>(look, None).into_iter().filter(|n| n.metadata.deletion_timestamp.is_none());
    all.extend(nics.filter(|n| own_groups(n).contains(key)).map(|n| shown("NIC", &Key::of(&n))));
    for other in list::<SecurityGroup>(look, None) {
        let of = Key::of(&other);
        let rules = other.spec.ingress.iter().chain(&other.spec.egress);
        let named = rules.flat_map(|r| &r.peers).filter_map(|p| p.group.as_deref());
        let names = named.map(|g| Key::reference(g, &of.namespace)).any(|k| k == *key);
        if names && of != *key {
            all.push(shown("SecurityGroup", &of));
        }
    }
    all
}

/// Names of groups that do not exist, by their place, with a sentence; those that were named before may be missing.
pub(super) fn missing<'a>(
    look: &'a dyn Lookup,
    names: &'a [String],
    before: &'a [String],
    namespace: &'a str,
) -> impl Iterator<Item = (usize, String)> + 'a {
    names.iter().enumerate().filter(|(_, n)| !before.contains(n)).filter_map(move |(i, name)| {
        let key = Key::reference(name, namespace);
        let is_missing = get::<SecurityGroup>(look, &key).is_none();
        is_missing.then(|| (i, format!("SecurityGroup {key} does not exist: create it first, or name another")))
    })
}

/// Refuses to name groups that do not exist.
pub(super) fn exist(look: &dyn Lookup, names: &[String], before: &[String], namespace: &str, v: &mut Violations) {
    missing(look, names, before, namespace).for_each(|(i, why)| v.add(format!("spec.policies[{i}]"), why));
}

/// Why groups cannot be enforced on NICs of a network, if so.
pub(super) fn unenforceable(kind: NetworkType, network: &Key, names: &[String]) -> Option<String> {
    (kind == NetworkType::VlanTrunk && !names.is_empty()).then(|| {
        format!(
            "policies cannot be enforced on Network {network}, a trunk whose frames carry tags: leave them out, and use them on NICs of its VLANs"
        )
    })
}

/// Refuses groups where they cannot be enforced.
pub(super) fn enforceable(kind: NetworkType, network: &Key, names: &[String], v: &mut Violations) {
    if let Some(why) = unenforceable(kind, network, names) {
        v.add("spec.policies", why);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Refusal, Rules};
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[derive(Default)]
    struct Shelf(BTreeMap<(String, String), Arc<Value>>);

    impl Lookup for Shelf {
        fn get(&self, _: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
            self.0.get(&(plural.into(), format!("{}/{name}", namespace.unwrap_or_default()))).cloned()
        }
        fn list(&self, _: &str, plural: &str, _: Option<&str>) -> Vec<Arc<Value>> {
            self.0.iter().filter(|((p, _), _)| p == plural).map(|(_, v)| v.clone()).collect()
        }
    }

    impl Shelf {
        fn judge(&self, verb: Verb, plural: &str, name: &str, spec: &Value) -> Result<Value, String> {
            self.judge_annotated(verb, ("multihome.io", plural), name, spec, &json!({}))
        }

        fn judge_annotated(
            &self,
            verb: Verb,
            (group, plural): (&str, &str),
            name: &str,
            spec: &Value,
            annotations: &Value,
        ) -> Result<Value, String> {
            let metadata = json!({"name": name, "namespace": "ns", "annotations": annotations});
            let object = json!({"apiVersion": format!("{group}/v1"), "kind": "K", "metadata": metadata, "spec": spec});
            let old = self.0.get(&(plural.to_owned(), format!("ns/{name}"))).cloned();
            let new = (verb != Verb::Delete).then_some(&object);
            let req = Request { verb, group, plural, namespace: "ns", name, old: old.as_deref(), new };
            match Rules::default().validate(&req, self) {
                Ok(()) => Ok(object),
                Err(Refusal::Forbidden(text)) => Err(text),
                Err(Refusal::Invalid(list)) => {
                    Err(list.iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; "))
                }
            }
        }

        fn put(&mut self, plural: &str, name: &str, spec: &Value) -> Result<(), String> {
            let object = self.judge(Verb::Create, plural, name, spec)?;
            self.0.insert((plural.into(), format!("ns/{name}")), Arc::new(object));
            Ok(())
        }
    }

    #[test]
    fn what_is_used_stays_and_what_is_missing_is_not_named() {
        let mut shelf = Shelf::default();
        let lan = json!({"type": "Overlay", "ipv4": {"cidr": "10.1.0.0/24"}, "policies": ["web"]});
        let missing = "spec.policies[0]: SecurityGroup ns/web does not exist: create it first, or name another";
        assert_eq!(shelf.put("networks", "lan", &lan).unwrap_err(), missing);
        let peers = json!({"ingress": [{"peers": [{"group": "later"}]}]});
        shelf.put("securitygroups", "web", &peers).unwrap();
        shelf.put("securitygroups", "later", &json!({"ingress": [{"peers": [{"group": "later"}]}]})).unwrap();
        shelf.put("networks", "lan", &lan).unwrap();
        shelf.put("networkinterfaces", "a", &json!({"network": "lan", "policies": ["ns/web"]})).unwrap();
        let nic = json!({"network": "lan", "policies": ["other/web"]});
        assert!(
            shelf.put("networkinterfaces", "b", &nic).unwrap_err().contains("SecurityGroup other/web does not exist")
        );
        let refused = |name: &str| shelf.judge(Verb::Delete, "securitygroups", name, &Value::Null).unwrap_err();
        assert_eq!(refused("web"), "SecurityGroup \"web\" is used by Network lan, NIC a: delete or change them first");
        assert_eq!(
            refused("later"),
            "SecurityGroup \"later\" is used by SecurityGroup web: delete or change them first"
        );
        // What was named when it was there may be kept.
        shelf.0.remove(&("securitygroups".into(), "ns/web".into()));
        let again = json!({"network": "lan", "policies": ["ns/web"], "linkState": "Down"});
        assert!(shelf.judge(Verb::Update, "networkinterfaces", "a", &again).is_ok());
    }

    #[test]
    fn a_trunk_has_no_policies() {
        let mut shelf = Shelf::default();
        shelf.put("securitygroups", "web", &json!({})).unwrap();
        let trunk = |more: Value| {
            let mut spec = json!({"type": "VlanTrunk", "vlan": {"trunk": [{"first": 100}]}});
            more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
            spec
        };
        for more in [json!({"policies": ["web"]}), json!({"defaultPolicy": {"egress": "Deny"}})] {
            let said = shelf.put("networks", "trunk", &trunk(more)).unwrap_err();
            assert!(said.contains("policies cannot be enforced on a VlanTrunk network"), "{said}");
        }
        shelf.put("networks", "trunk", &trunk(json!({}))).unwrap();
        let said = shelf.put("networkinterfaces", "a", &json!({"network": "trunk", "policies": ["web"]})).unwrap_err();
        assert!(said.starts_with("spec.policies: policies cannot be enforced on Network ns/trunk"), "{said}");
    }

    #[test]
    fn a_vm_names_groups_that_are_there_for_interfaces_that_it_has() {
        let mut shelf = Shelf::default();
        shelf.put("networks", "lan", &json!({"type": "Overlay", "ipv4": {"cidr": "10.1.0.0/24"}})).unwrap();
        shelf.put("networks", "trunk", &json!({"type": "VlanTrunk", "vlan": {"trunk": [{"first": 100}]}})).unwrap();
        shelf.put("securitygroups", "web", &json!({})).unwrap();
        let interfaces = json!([{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}]);
        let networks = |b: &str| json!([{"name": "a", "multus": {"networkName": "lan"}}, {"name": "b", "multus": {"networkName": b}}]);
        let memory = json!({"requests": {"memory": "128Mi"}});
        let spec = |b: &str| {
            json!({"running": true, "template": {"spec": {
            "domain": {"devices": {"interfaces": interfaces}, "resources": memory}, "networks": networks(b)}}})
        };
        let judge = |shelf: &Shelf, verb, b: &str, annotations: Value| {
            shelf.judge_annotated(verb, ("kubevirt.io", "virtualmachines"), "vm", &spec(b), &annotations)
        };
        let said = |b: &str, annotations| judge(&shelf, Verb::Create, b, annotations).unwrap_err();
        let missing = said("trunk", json!({"multihome.io/policies": "web, no"}));
        assert!(missing.contains("SecurityGroup ns/no does not exist: create it first"), "{missing}");
        let stranger = said("trunk", json!({"policies.multihome.io/c": "web"}));
        let text = "metadata.annotations[policies.multihome.io/c]: the VM has no interface \"c\": name one of its own";
        assert!(stranger.starts_with(text), "{stranger}");
        let trunk = said("trunk", json!({"multihome.io/policies": "web"}));
        assert!(trunk.contains("policies cannot be enforced on Network ns/trunk"), "{trunk}");
        // Of the trunk's interface none, and the other has them.
        let both = json!({"multihome.io/policies": "web", "policies.multihome.io/b": ""});
        let vm = judge(&shelf, Verb::Create, "trunk", both).unwrap();
        shelf.0.insert(("virtualmachines".into(), "ns/vm".into()), Arc::new(vm));
        // A change of the annotations alone is judged, too; what was named when it was there may be kept.
        let changed = judge(&shelf, Verb::Update, "trunk", json!({"policies.multihome.io/a": "no"})).unwrap_err();
        assert!(changed.contains("SecurityGroup ns/no does not exist"), "{changed}");
        shelf.0.remove(&("securitygroups".into(), "ns/web".into()));
        assert!(judge(&shelf, Verb::Update, "trunk", json!({"policies.multihome.io/a": "web"})).is_ok());
    }
}
