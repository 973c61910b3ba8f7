//! Whatever a client sends is answered, and never with a failure of the server's own.
//!
//! Requests are made of the parts that real ones have, put together wrongly: any method on any path with any query, bodies with values
//! of any type anywhere. A panic anywhere in the server would be a 500.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use multihome_apiserver::{AdmitAll, ApiServer, ResourceType};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const NAMES: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "generation",
    "deletionTimestamp",
    "color",
    "size",
    "parts",
    "limits",
    "extra",
    "conditions",
    "type",
    "data",
    "stringData",
    "immutable",
    "involvedObject",
    "regarding",
    "phase",
    "$patch",
    "kind",
    "apiVersion",
    "preconditions",
    "propagationPolicy",
    "dryRun",
    "op",
    "path",
    "value",
    "from",
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "red",
    "x.io/f",
    "default",
    "1",
    "All",
    "Foreground",
    "add",
    "replace",
    "/metadata/labels",
    "/spec",
    "delete",
    "2020-01-01T00:00:00Z",
    "ä\u{0}",
];
const PATHS: &[&str] = &[
    "/api/v1/namespaces",
    "/api/v1/namespaces/a",
    "/api/v1/namespaces/a/finalize",
    "/api/v1/namespaces/a/status",
    "/api/v1/nodes/a/status",
    "/api/v1/nodes",
    "/api/v1/namespaces/default/secrets",
    "/api/v1/namespaces/default/secrets/a",
    "/api/v1/namespaces/default/configmaps/a",
    "/api/v1/namespaces/default/events",
    "/apis/events.k8s.io/v1/namespaces/default/events",
    "/apis/events.k8s.io/v1/namespaces/default/events/a",
    "/apis/coordination.k8s.io/v1/namespaces/default/leases/a",
    "/apis/conformance.multihome.io/v1/namespaces/default/widgets",
    "/apis/conformance.multihome.io/v1/namespaces/default/widgets/a",
    "/apis/conformance.multihome.io/v1/namespaces/default/widgets/a/status",
    "/apis/conformance.multihome.io/v1/widgets",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/openapi/v3/api/v1",
    "/apis",
    "/%zz",
    "/api/v1/namespaces//x",
];
/// Where a kind is, and an object of it that is right.
const KINDS: &[(&str, &str)] = &[
    ("/api/v1/namespaces", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#),
    (
        "/api/v1/nodes",
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"},"spec":{},"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
    ),
    (
        "/api/v1/namespaces/default/secrets",
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"data":{"k":"YQ=="}}"#,
    ),
    (
        "/api/v1/namespaces/default/configmaps",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#,
    ),
    (
        "/api/v1/namespaces/default/events",
        r#"{"apiVersion":"v1","kind":"Event","metadata":{"name":"a"},"involvedObject":{"kind":"X","namespace":"default"}}"#,
    ),
    (
        "/apis/events.k8s.io/v1/namespaces/default/events",
        r#"{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"},"regarding":{"kind":"X","namespace":"default"},"note":"n"}"#,
    ),
    (
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"a"},"spec":{"holderIdentity":"me"}}"#,
    ),
    (
        "/apis/conformance.multihome.io/v1/namespaces/default/widgets",
        r#"{"apiVersion":"conformance.multihome.io/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"color":"red","parts":[{"name":"p"}]}}"#,
    ),
];
const QUERIES: &[&str] = &[
    "",
    "watch=true&timeoutSeconds=1",
    "limit=1",
    "labelSelector=a%3Db",
    "labelSelector=,",
    "fieldSelector=metadata.name%3Da",
    "fieldSelector=x",
    "dryRun=All",
    "dryRun=x",
    "fieldValidation=Strict",
    "continue=eyJydiI6MSwibnMiOiIiLCJuYW1lIjoiIn0",
    "resourceVersion=0",
    "resourceVersion=-1",
    "resourceVersionMatch=Exact&resourceVersion=1",
    "propagationPolicy=Orphan",
    "limit=-1",
    "%ff",
];
const TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/vnd.kubernetes.protobuf",
    "x",
];
const ACCEPTS: &[&str] = &[
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/yaml",
    "x",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(NAMES), inner), 0..5).prop_map(|entries| Value::Object(
                entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>()
            )),
        ]
    })
}

/// Puts any value at any place of an object: below what is there, or in its stead.
fn put(object: &mut Value, path: &[&str], value: Value) {
    match path {
        [] => *object = value,
        [first, rest @ ..] => {
            if !object.is_object() {
                *object = json!({});
            }
            put(&mut object[*first], rest, value);
        }
    }
}

/// A few changes, each a path and a value.
fn any_changes() -> impl Strategy<Value = Vec<(Vec<&'static str>, Value)>> {
    let top = prop::sample::select(
        &["metadata", "spec", "status", "data", "stringData", "regarding", "involvedObject", "series"][..],
    );
    let path = (top, prop::collection::vec(prop::sample::select(NAMES), 0..3))
        .prop_map(|(first, rest)| [vec![first], rest].concat());
    prop::collection::vec((path, any_value()), 0..4)
}

struct Server {
    api: ApiServer,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let widget = ResourceType::from_crd(&serde_json::from_str(include_str!("widget.json")).expect("JSON"))
            .expect("a definition");
        let api =
            ApiServer::open(&dir.path().join("store.db"), vec![widget], Arc::new(AdmitAll)).expect("the store opens");
        Self { api, runtime, _dir: dir }
    }

    fn ask(&self, method: &str, uri: &str, content_type: &str, accept: &str, body: &str) -> Result<u16, TestCaseError> {
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", content_type)
            .header("accept", accept);
        let Ok(request) = request.body(Full::new(Bytes::from(body.to_owned()))) else { return Ok(0) };
        let (status, text) = self.runtime.block_on(async {
            let Ok(response) = self.api.clone().oneshot(request).await;
            let status = response.status().as_u16();
            // a watch is read for a moment
            let read = tokio::time::timeout(Duration::from_millis(5), response.into_body().collect()).await;
            let Ok(Ok(body)) = read else { return (status, String::new()) };
            (status, String::from_utf8_lossy(&body.to_bytes()).into_owned())
        });
        // the one 500 that Kubernetes has, too
        let fine = status != 500 || text.contains("resourceVersion should not be set");
        prop_assert!(fine, "{method} {uri} {content_type} {body}: {text}");
        Ok(status)
    }
}

/// Any parts of requests, put together anyhow: mostly refused early.
#[test]
fn anything_is_answered() {
    let server = Server::new();
    let request = (
        prop::sample::select(&["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"][..]),
        prop::sample::select(PATHS),
        prop::sample::select(QUERIES),
        prop::sample::select(TYPES),
        prop::sample::select(ACCEPTS),
        any_value(),
    );
    proptest!(ProptestConfig::with_cases(2000), |((method, path, query, content_type, accept, body) in request)| {
        server.ask(method, &format!("{path}?{query}"), content_type, accept, &body.to_string())?;
    });
}

/// Requests that are right but for some fields of their objects: these reach every rule.
#[test]
fn nearly_right_objects_are_answered() {
    let server = Server::new();
    let accepted = std::cell::Cell::new(0_u32);
    let request = (
        prop::sample::select(KINDS),
        prop::sample::select(&["POST", "PUT", "merge", "strategic-merge", "json", "DELETE"][..]),
        prop::sample::select(&["", "/status", "/finalize"][..]),
        prop::sample::select(&["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"][..]),
        any_changes(),
    );
    proptest!(ProptestConfig::with_cases(3000), |((kind, method, sub, accept, changes) in request)| {
        let (path, right) = kind;
        // so that there is something to change
        server.ask("POST", path, "application/json", "application/json", right)?;
        let base = if method.ends_with("merge") { json!({}) } else { serde_json::from_str(right).unwrap() };
        let mut body = base;
        let mut operations = Vec::new();
        for (at, value) in changes {
            operations.push(json!({"op": "add", "path": format!("/{}", at.join("/")), "value": value}));
            put(&mut body, &at, value);
        }
        let one = format!("{path}/a{sub}");
        let status = match method {
            "POST" => server.ask("POST", path, "application/json", accept, &body.to_string())?,
            "PUT" => server.ask("PUT", &one, "application/json", accept, &body.to_string())?,
            "DELETE" => server.ask("DELETE", &format!("{path}/a"), "application/json", accept, &body["metadata"].to_string())?,
            "json" => server.ask("PATCH", &one, "application/json-patch+json", accept, &Value::from(operations).to_string())?,
            merge => server.ask("PATCH", &one, &format!("application/{merge}-patch+json"), accept, &body.to_string())?,
        };
        accepted.set(accepted.get() + u32::from(status < 300));
        prop_assert!(server.ask("GET", path, "", accept, "")? == 200);
    });
    assert!(accepted.get() > 300, "many of them are right: {}", accepted.get());
}
