//! The served kinds as OpenAPI documents: version 3 group by group, version 2 in one piece. Made once, when first asked for.
//!
//! kubectl reads the schemas for `explain`, and the `fieldValidation` parameter of PATCH to learn that the server validates.

use super::reply::Reply;
use crate::builtin::{self, EVENTS_GROUP};
use crate::error::ApiError;
use crate::patch::strategic;
use crate::registry::{Registry, Served, api_version};
use crate::server::Server;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The finished documents.
pub(crate) struct Documents {
    /// By path under `/openapi/v3/`: the document and its hash.
    v3: BTreeMap<String, (Bytes, String)>,
    v2: (Bytes, String),
}

fn documents(server: &Server) -> &Documents {
    server.openapi.get_or_init(|| Documents::new(&server.registry))
}

pub(crate) fn index(server: &Server) -> Reply {
    let paths: Map<String, Value> = documents(server)
        .v3
        .iter()
        .map(|(path, (_, hash))| {
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
        })
        .collect();
    Reply::value(200, &json!({"paths": paths}))
}

pub(crate) fn v3(server: &Server, path: &str, accept: &str) -> Result<Reply, ApiError> {
    takes_json(accept)?;
    let (document, hash) = documents(server).v3.get(path).ok_or_else(ApiError::no_such_path)?;
    Ok(Reply::json(200, document.clone()).etag(hash))
}

pub(crate) fn v2(server: &Server, accept: &str) -> Result<Reply, ApiError> {
    takes_json(accept)?;
    let (document, hash) = &documents(server).v2;
    Ok(Reply::json(200, document.clone()).etag(hash))
}

/// Clients that take nothing but protobuf must be told so, or they misread JSON.
fn takes_json(accept: &str) -> Result<(), ApiError> {
    let fine = |part: &str| {
        ["application/json", "application/*", "*/*", "text/plain"]
            .contains(&part.split(';').next().unwrap_or_default().trim())
    };
    if accept.trim().is_empty() || accept.split(',').any(fine) { Ok(()) } else { Err(ApiError::not_acceptable()) }
}

impl Documents {
    fn new(registry: &Registry) -> Self {
        let mut v3 = BTreeMap::new();
        let mut v2 = Parts::default();
        for (group, version, types) in group_versions(registry) {
            let mut parts = Parts::default();
            for served in types {
                parts.add(served, &group, &version, "#/components/schemas/");
                v2.add(served, &group, &version, "#/definitions/");
            }
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            v3.insert(
                path,
                finish(&json!({
                    "openapi": "3.0.0", "info": info(), "paths": parts.paths, "components": {"schemas": parts.schemas},
                })),
            );
        }
        v2.schemas.values_mut().for_each(simplify);
        let paths: Map<String, Value> = v2.paths.into_iter().map(|(path, item)| (path, swagger_path(item))).collect();
        let v2 = finish(&json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": v2.schemas}));
        Self { v3, v2 }
    }
}

fn info() -> Value {
    json!({"title": "Multihome", "version": super::discovery::version()["gitVersion"]})
}

fn finish(document: &Value) -> (Bytes, String) {
    let text = document.to_string();
    let hash = hex::encode_upper(Sha256::digest(&text));
    (text.into(), hash)
}

fn group_versions(registry: &Registry) -> Vec<(String, String, Vec<&Served>)> {
    let mut all = vec![(String::new(), "v1".to_owned(), registry.core())];
    for (group, versions) in registry.groups() {
        all.extend(versions.into_iter().map(|(version, types)| (group.clone(), version, types)));
    }
    all
}

#[derive(Default)]
struct Parts {
    paths: BTreeMap<String, Value>,
    schemas: BTreeMap<String, Value>,
}

impl Parts {
    fn add(&mut self, served: &Served, group: &str, version: &str, refs: &str) {
        let spec = &served.spec;
        let kind = json!({"group": group, "version": version, "kind": spec.kind});
        let name = component(group, version, &spec.kind);
        let mut schema = if group == EVENTS_GROUP { builtin::events_schema() } else { spec.schema.clone() };
        schema["x-kubernetes-group-version-kind"] = json!([kind]);
        complete(&mut schema, refs);
        if served.built_in {
            mark_merged_lists(&mut schema);
        }
        let list = json!({
            "description": format!("{}List is a list of {}", spec.kind, spec.kind),
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                "metadata": {"$ref": format!("{refs}{LIST_META}")},
                "items": {"type": "array", "items": {"$ref": format!("{refs}{name}")}},
            },
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": format!("{}List", spec.kind)}],
        });
        self.schemas.entry(META.into()).or_insert_with(|| {
            let mut meta = builtin::metadata_schema();
            mark_merged_lists(&mut meta);
            meta
        });
        self.schemas.entry(LIST_META.into()).or_insert_with(list_meta);
        self.schemas.insert(format!("{name}List"), list);
        self.schemas.insert(name.clone(), schema);
        self.add_paths(served, group, version, &kind, &format!("{refs}{name}"));
    }

    fn add_paths(&mut self, served: &Served, group: &str, version: &str, kind: &Value, schema: &str) {
        let spec = &served.spec;
        let gv = api_version(group, version);
        let root = if group.is_empty() { format!("/api/{gv}") } else { format!("/apis/{gv}") };
        let base = if spec.namespaced {
            format!("{root}/namespaces/{{namespace}}/{}", spec.plural)
        } else {
            format!("{root}/{}", spec.plural)
        };
        let mut path_parameters = Vec::new();
        if spec.namespaced {
            path_parameters.push(parameter(
                "namespace",
                "path",
                "object name and auth scope, such as for teams and projects",
            ));
            self.paths.insert(
                format!("{root}/{}", spec.plural),
                json!({"get": operation("list", kind, schema, LIST_PARAMETERS)}),
            );
        }
        let writable = !served.rules.read_only;
        let mut collection = json!({"get": operation("list", kind, schema, LIST_PARAMETERS)});
        let mut item = json!({"get": operation("get", kind, schema, &[])});
        if writable {
            collection["post"] = operation("post", kind, schema, WRITE_PARAMETERS);
            collection["delete"] = operation("deletecollection", kind, schema, LIST_PARAMETERS);
            for (method, action) in [("put", "put"), ("patch", "patch")] {
                item[method] = operation(action, kind, schema, WRITE_PARAMETERS);
            }
            item["delete"] = operation("delete", kind, schema, DELETE_PARAMETERS);
        }
        if !path_parameters.is_empty() {
            collection["parameters"] = json!(path_parameters);
        }
        path_parameters.push(parameter("name", "path", &format!("name of the {}", spec.kind)));
        item["parameters"] = json!(path_parameters);
        if writable && served.has_status() {
            let mut status = json!({"get": operation("get", kind, schema, &[]), "parameters": path_parameters});
            for method in ["put", "patch"] {
                status[method] = operation(method, kind, schema, WRITE_PARAMETERS);
            }
            self.paths.insert(format!("{base}/{{name}}/status"), status);
        }
        self.paths.insert(base.clone(), collection);
        self.paths.insert(format!("{base}/{{name}}"), item);
    }
}

type Parameters = &'static [(&'static str, &'static str)];

const WRITE_PARAMETERS: Parameters = &[
    ("dryRun", "When present, indicates that modifications should not be persisted. Valid values are: All."),
    ("fieldManager", "fieldManager is a name associated with the actor or entity that is making these changes."),
    (
        "fieldValidation",
        "fieldValidation instructs the server on how to handle objects in the request containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
    ),
];
const DELETE_PARAMETERS: Parameters = &[
    ("dryRun", "When present, indicates that modifications should not be persisted. Valid values are: All."),
    ("propagationPolicy", "Whether and how garbage collection will be performed: Orphan, Background or Foreground."),
];
const LIST_PARAMETERS: Parameters = &[
    ("labelSelector", "A selector to restrict the list of returned objects by their labels."),
    ("fieldSelector", "A selector to restrict the list of returned objects by their fields."),
    ("limit", "The maximum number of objects in one answer."),
    ("continue", "Where the previous answer ended."),
    ("resourceVersion", "The resource version that the answer may not be older than."),
    ("resourceVersionMatch", "How resourceVersion is applied: NotOlderThan or Exact."),
    ("watch", "Watch for changes to the described resources and return them as a stream."),
    ("allowWatchBookmarks", "Ask for events of type BOOKMARK."),
    ("sendInitialEvents", "Begin a watch with the present objects."),
    ("timeoutSeconds", "How long a watch lasts."),
];

fn parameter(name: &str, place: &str, description: &str) -> Value {
    json!({"name": name, "in": place, "description": description, "required": place == "path", "schema": {"type": "string", "uniqueItems": true}})
}

fn operation(action: &str, kind: &Value, schema: &str, parameters: Parameters) -> Value {
    let parameters: Vec<Value> = parameters.iter().map(|(name, text)| parameter(name, "query", text)).collect();
    let content = json!({"application/json": {"schema": {"$ref": schema}}});
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    });
    match action {
        "post" | "put" => operation["requestBody"] = json!({"content": content, "required": true}),
        "patch" => {
            operation["requestBody"] = json!({"content": {
            "application/json-patch+json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "application/merge-patch+json": {"schema": {"type": "object"}},
        }, "required": true})
        }
        _ => {}
    }
    operation
}

/// `io.k8s.api.core.v1.Namespace`, `io.multihome.v1alpha1.Network`.
fn component(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        group if group.ends_with(".k8s.io") && group.matches('.').count() == 2 => {
            format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or_default())
        }
        group => {
            let reversed: Vec<&str> = group.split('.').rev().collect();
            format!("{}.{version}.{kind}", reversed.join("."))
        }
    }
}

/// Adds what every object has: apiVersion, kind, metadata.
fn complete(schema: &mut Value, refs: &str) {
    if schema["type"].is_null() {
        schema["type"] = "object".into();
    }
    let mut properties = Map::new();
    for (name, text) in [
        (
            "apiVersion",
            "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        ),
        (
            "kind",
            "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        ),
    ] {
        properties.insert(name.into(), json!({"description": text, "type": "string"}));
    }
    let text = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    properties.insert("metadata".into(), json!({"description": text, "allOf": [{"$ref": format!("{refs}{META}")}]}));
    if let Some(Value::Object(given)) = schema.get_mut("properties").map(Value::take) {
        for (name, value) in given {
            properties.entry(name).or_insert(value);
        }
    }
    schema["properties"] = Value::Object(properties);
}

/// Tells kubectl which lists of built-in kinds a strategic merge patch merges.
fn mark_merged_lists(schema: &mut Value) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, child) in properties.iter_mut() {
            if let (Some(key), true) = (strategic::strategy(name), child["type"] == "array") {
                child["x-kubernetes-patch-strategy"] = "merge".into();
                if let Some(key) = key {
                    child["x-kubernetes-patch-merge-key"] = key.into();
                }
            }
            mark_merged_lists(child);
        }
    }
    if let Some(items) = schema.get_mut("items") {
        mark_merged_lists(items);
    }
}

fn list_meta() -> Value {
    let text = json!({"type": "string"});
    json!({
        "description": "ListMeta describes metadata that synthetic resources must have, including lists and various status objects.",
        "type": "object",
        "properties": {"continue": text, "remainingItemCount": {"type": "integer", "format": "int64"}, "resourceVersion": text, "selfLink": text},
    })
}

/// Takes out what OpenAPI 2 does not know.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for keyword in ["oneOf", "anyOf", "not", "nullable"] {
                // a property may bear such a name; it then has a type
                if map.get(keyword).is_none_or(|v| v.get("type").is_none()) {
                    map.shift_remove(keyword);
                }
            }
            map.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// An OpenAPI 3 path as an OpenAPI 2 one.
fn swagger_path(mut item: Value) -> Value {
    let flatten = |parameters: &mut Value| {
        for parameter in parameters.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(Value::Object(schema)) = parameter.shift_remove("schema") {
                parameter.extend(schema);
            }
        }
    };
    for (name, part) in item.as_object_mut().into_iter().flatten() {
        if name == "parameters" {
            flatten(part);
            continue;
        }
        let schema = part.pointer("/responses/200/content/application~1json/schema").cloned().unwrap_or_default();
        if let Some(map) = part.as_object_mut() {
            map.shift_remove("requestBody");
        }
        part["responses"] =
            json!({"200": {"description": "OK", "schema": schema}, "401": {"description": "Unauthorized"}});
        flatten(&mut part["parameters"]);
        if matches!(name.as_str(), "post" | "put" | "patch") {
            let body = json!({"name": "body", "in": "body", "required": true, "schema": if name == "patch" { json!({"type": "object"}) } else { schema }});
            if let Some(parameters) = part["parameters"].as_array_mut() {
                parameters.push(body);
            }
        }
    }
    item
}
