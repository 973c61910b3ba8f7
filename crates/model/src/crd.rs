//! The CustomResourceDefinitions of every kind, from the same types that the program works with.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::kubevirt::{VERSIONS, VirtualMachine, VirtualMachineInstance};
use crate::{
    AddressClaim, ClusterNetwork, FloatingIP, Network, NetworkAttachmentDefinition, NetworkInterface, SecurityGroup,
    Vpc,
};

/// The CustomResourceDefinitions as they are installed into Kubernetes, in the order of installation.
pub fn crds() -> Vec<Value> {
    let own = [
        Network::crd(),
        NetworkInterface::crd(),
        FloatingIP::crd(),
        SecurityGroup::crd(),
        AddressClaim::crd(),
        ClusterNetwork::crd(),
        Vpc::crd(),
        NetworkAttachmentDefinition::crd(),
    ];
    let mut out: Vec<Value> = own.iter().map(to_structural).collect();
    for crd in [VirtualMachine::crd(), VirtualMachineInstance::crd()] {
        let mut crd = to_structural(&crd);
        if let Some(versions) = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut)
            && let Some(first) = versions.first().cloned()
        {
            for name in &VERSIONS[1..] {
                let mut other = first.clone();
                other["name"] = json!(name);
                other["storage"] = json!(false);
                versions.push(other);
            }
        }
        out.push(crd);
    }
    out
}

/// Plural names with their group of everything that this crate defines.
pub fn served_types() -> Vec<(String, String)> {
    crds()
        .iter()
        .map(|c| {
            let at = |p| c.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
            (at("/spec/group"), at("/spec/names/plural"))
        })
        .collect()
}

fn to_structural(crd: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(crd).expect("a CustomResourceDefinition is plain data");
    structural(&mut value);
    value
}

/// Kubernetes wants either `properties` or `additionalProperties`: open objects say so with an extension of its own,
/// and closed ones are what every structural schema is anyway.
fn structural(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("properties")
                && let Some(open) = map.get("additionalProperties").and_then(Value::as_bool)
            {
                map.remove("additionalProperties");
                if open {
                    map.insert("x-kubernetes-preserve-unknown-fields".into(), Value::Bool(true));
                }
            }
            // It says nothing, and older Kubernetes (1.20) takes it for null and refuses the definition.
            if map.get("default").is_some_and(|d| d == "") {
                map.remove("default");
            }
            map.values_mut().for_each(structural);
        }
        Value::Array(list) => list.iter_mut().for_each(structural),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(value: &Value, path: &str, f: &mut dyn FnMut(&str, &serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                f(path, map);
                map.iter().for_each(|(k, v)| each(v, &format!("{path}/{k}"), f));
            }
            Value::Array(list) => list.iter().for_each(|v| each(v, path, f)),
            _ => {}
        }
    }

    #[test]
    fn schemas_are_structural_and_described() {
        for crd in crds() {
            let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            each(schema, "", &mut |path, map| {
                assert!(!(map.contains_key("properties") && map.contains_key("additionalProperties")), "{name} {path}");
                if let Some(Value::Object(props)) = map.get("properties") {
                    for (field, schema) in props {
                        let top = path.is_empty();
                        assert!(top || schema.get("description").is_some(), "{name} {path} {field} has no description");
                    }
                }
            });
        }
    }

    #[test]
    fn short_names_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for crd in crds() {
            for short in crd["spec"]["names"]["shortNames"].as_array().into_iter().flatten() {
                assert!(seen.insert(short.as_str().unwrap().to_owned()), "{short}");
            }
        }
    }
}
