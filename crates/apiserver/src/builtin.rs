//! The kinds that are always served, with their schemas, columns and the ways in which they differ from custom ones.
//!
//! Their schemas come from the Kubernetes API's own definitions, so that `kubectl explain` tells the whole story.

use crate::meta;
use crate::registry::{Rules, Served};
use crate::resource::{Column, ResourceType};
use crate::schema::Schema;
use k8s_openapi::api::{coordination::v1::Lease, core::v1 as core};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The group whose events are the core group's under another shape.
pub(crate) const EVENTS_GROUP: &str = "events.k8s.io";

/// Namespaces that exist from the beginning and stay.
pub(crate) const OWN_NAMESPACES: &[&str] = &["default", "kube-system"];

/// Every built-in kind. Namespaces come first.
pub(crate) fn types() -> Vec<Served> {
    let core_rules = Rules {
        generation: false,
        unconditional_update: true,
        strategic_patch: true,
        status_keeps_metadata: false,
        ..Rules::default()
    };
    vec![
        built_in::<core::Namespace>(
            kind("", "v1", "Namespace", "namespaces", &["ns"], false, true),
            vec![Column::new("Status", "string", ".status.phase"), age()],
            Rules { name: meta::dns_label, ..core_rules },
        ),
        built_in::<core::Node>(
            kind("", "v1", "Node", "nodes", &["no"], false, true),
            vec![
                Column::new("Status", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
                Column::new("Roles", "string", ".metadata.labels"),
                age(),
                Column::new("Version", "string", ".status.nodeInfo.kubeletVersion"),
                Column::new("Internal-IP", "string", ".status.addresses[?(@.type==\"InternalIP\")].address").wide(),
                Column::new("OS-Image", "string", ".status.nodeInfo.osImage").wide(),
                Column::new("Kernel-Version", "string", ".status.nodeInfo.kernelVersion").wide(),
            ],
            Rules { status_on_create: true, ..core_rules },
        ),
        built_in::<core::Event>(
            kind("", "v1", "Event", "events", &["ev"], true, false),
            vec![
                Column::new("Last Seen", "string", ".lastTimestamp"),
                Column::new("Type", "string", ".type"),
                Column::new("Reason", "string", ".reason"),
                Column::new("Object", "string", ".involvedObject"),
                Column::new("Subobject", "string", ".involvedObject.fieldPath").wide(),
                Column::new("Source", "string", ".source").wide(),
                Column::new("Message", "string", ".message"),
                Column::new("First Seen", "string", ".firstTimestamp").wide(),
                Column::new("Count", "string", ".count").wide(),
                Column::new("Name", "string", ".metadata.name").wide(),
            ],
            Rules { create_on_update: true, ..core_rules },
        ),
        built_in::<core::Secret>(
            kind("", "v1", "Secret", "secrets", &[], true, false),
            vec![Column::new("Type", "string", ".type"), Column::new("Data", "string", ".data"), age()],
            core_rules,
        ),
        built_in::<core::ConfigMap>(
            kind("", "v1", "ConfigMap", "configmaps", &["cm"], true, false),
            vec![Column::new("Data", "string", ".data"), age()],
            core_rules,
        ),
        built_in::<core::ServiceAccount>(
            kind("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], true, false),
            vec![Column::new("Secrets", "string", ".secrets"), age()],
            core_rules,
        ),
        built_in::<Pod>(
            kind("", "v1", "Pod", "pods", &["po"], true, true),
            vec![Column::new("Status", "string", ".status.phase"), age()],
            Rules { read_only: true, ..core_rules },
        ),
        built_in::<Lease>(
            kind("coordination.k8s.io", "v1", "Lease", "leases", &[], true, false),
            vec![Column::new("Holder", "string", ".spec.holderIdentity"), age()],
            Rules { create_on_update: true, unconditional_update: false, ..core_rules },
        ),
        built_in::<CustomResourceDefinition>(
            ResourceType {
                categories: vec!["api-extensions".into()],
                ..kind(
                    "apiextensions.k8s.io",
                    "v1",
                    "CustomResourceDefinition",
                    "customresourcedefinitions",
                    &["crd", "crds"],
                    false,
                    true,
                )
            },
            vec![Column::new("Created At", "date", ".metadata.creationTimestamp")],
            Rules { read_only: true, ..core_rules },
        ),
    ]
}

/// Built-in kinds call their ages text.
fn age() -> Column {
    Column::new("Age", "string", ".metadata.creationTimestamp")
}

fn kind(
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    short_names: &[&str],
    namespaced: bool,
    status: bool,
) -> ResourceType {
    ResourceType {
        group: group.into(),
        versions: vec![version.into()],
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: short_names.iter().map(|s| (*s).into()).collect(),
        categories: Vec::new(),
        namespaced,
        status_subresource: status,
        schema: Value::Null,
        columns: Vec::new(),
        strict: false,
    }
}

/// A pod, as far as clients that look for pods need one: there are none, and none can be made, but
/// `kubectl describe node` lists those of the node.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Pod {
    /// Who it is.
    metadata: Option<ObjectMeta>,
    /// What was wished.
    spec: Option<PodSpec>,
    /// What was observed.
    status: Option<PodStatus>,
}

/// What a pod wishes.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct PodSpec {
    /// The node that runs it.
    node_name: Option<String>,
}

/// What is observed of a pod.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct PodStatus {
    /// What it is doing.
    phase: Option<String>,
}

fn built_in<T: JsonSchema>(mut spec: ResourceType, columns: Vec<Column>, rules: Rules) -> Served {
    spec.schema = schema_of::<T>();
    spec.columns = columns;
    let mut schema =
        Schema::compile(&spec.schema).expect("the schemas of built-in kinds compile: a test compiles them");
    schema.relax_required();
    Served::new(spec, schema, rules)
}

/// The schema of events under [`EVENTS_GROUP`].
pub(crate) fn events_schema() -> Value {
    schema_of::<k8s_openapi::api::events::v1::Event>()
}

/// The schema of every object's metadata.
pub(crate) fn metadata_schema() -> Value {
    schema_of::<ObjectMeta>()
}

/// The structural schema of a Kubernetes type, without references.
fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema: Value = settings.into_generator().into_root_schema_for::<T>().into();
    structural(&mut schema);
    schema
}

/// What is left of references belongs to recursive definitions, which a structural schema cannot express: anything goes there.
fn structural(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for annotation in ["definitions", "$defs", "title", "$schema"] {
        map.shift_remove(annotation);
    }
    if map.shift_remove("$ref").is_some() {
        map.insert("type".into(), "object".into());
        map.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    for (keyword, child) in map.iter_mut() {
        match (keyword.as_str(), child) {
            // what is below `properties` are names, not keywords
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(structural),
            ("items" | "additionalProperties" | "not", child) => structural(child),
            ("allOf" | "anyOf" | "oneOf", Value::Array(branches)) => branches.iter_mut().for_each(structural),
            _ => {}
        }
    }
}

/// The CustomResourceDefinition that stands for a handed-in type: clients find it, wait for it, read its schema.
/// Its uid follows from its name, so that it is the same after a restart.
pub(crate) fn definition_of(t: &ResourceType, created: &str) -> Value {
    let digest: [u8; 32] = Sha256::digest(format!("{}.{}", t.plural, t.group)).into();
    let uid = uuid::Uuid::from_slice(&digest[..16]).expect("sixteen bytes are a uuid").to_string();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": created, "reason": reason, "message": message});
    let mut names =
        json!({"plural": t.plural, "singular": t.singular, "kind": t.kind, "listKind": format!("{}List", t.kind)});
    if !t.short_names.is_empty() {
        names["shortNames"] = json!(t.short_names);
    }
    if !t.categories.is_empty() {
        names["categories"] = json!(t.categories);
    }
    let versions: Vec<Value> = t.versions.iter().enumerate().map(|(at, version)| {
        let columns: Vec<Value> = t.columns.iter().map(|c| {
            let mut column = json!({"name": c.name, "type": c.r#type, "jsonPath": c.json_path});
            if !c.description.is_empty() {
                column["description"] = c.description.as_str().into();
            }
            if c.priority != 0 {
                column["priority"] = c.priority.into();
            }
            column
        }).collect();
        let mut entry = json!({"name": version, "served": true, "storage": at == 0, "schema": {"openAPIV3Schema": t.schema}, "additionalPrinterColumns": columns});
        if t.status_subresource {
            entry["subresources"] = json!({"status": {}});
        }
        entry
    }).collect();
    json!({
        "metadata": {"name": format!("{}.{}", t.plural, t.group), "uid": uid, "generation": 1, "creationTimestamp": created},
        "spec": {
            "group": t.group, "names": names, "scope": if t.namespaced { "Namespaced" } else { "Cluster" },
            "versions": versions, "conversion": {"strategy": "None"},
        },
        "status": {
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "acceptedNames": names,
            "storedVersions": [t.versions.first()],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_structural_and_complete() {
        for served in types() {
            assert!(!served.spec.schema.to_string().contains("\"$ref\":\""), "{}", served.spec.kind);
            assert!(served.schema.property("metadata").is_some(), "{}", served.spec.kind);
        }
        let all = types();
        assert_eq!(all[0].spec.kind, "Namespace");
        let node = all.iter().find(|t| t.spec.kind == "Node").unwrap();
        assert!(node.schema.has_path("status.nodeInfo.kubeletVersion"));
        assert!(node.spec.schema["properties"]["spec"]["properties"]["taints"]["description"].is_string());
        let crd = all.iter().find(|t| t.spec.kind == "CustomResourceDefinition").unwrap();
        assert!(crd.schema.has_path("spec.names.shortNames"));
    }
}
