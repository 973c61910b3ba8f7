//! What the embedded server does and a kube-apiserver of 1.20 does not, or not in that way. These scenarios assert for themselves.

use crate::kubectl;
use crate::objects::widget;
use crate::target::{Target, Transcript, WIDGETS};
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Event, ObjectReference};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::events::{Event as NewEvent, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Discovery};
use multihome_apiserver::{
    Admission, AdmissionRequest, AdmitAll, ApiServer, Cause, Denied, Operation, ResourceType, View,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// fieldValidation came with 1.25.
pub async fn field_validation(target: &Target) -> Transcript {
    let widgets = target.namespace("field-validation").await;
    let bogus = widget("a", json!({"color": "red", "bogus": 1, "parts": [{"name": "p", "bogus": 2}]}));
    let strict = target.post(&format!("{widgets}?fieldValidation=Strict"), bogus.clone()).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.body["message"],
        r#"Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "spec.bogus", unknown field "spec.parts[0].bogus""#
    );
    let doubled = r#"{"apiVersion":"conformance.multihome.io/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"color":"red","color":"blue"}}"#;
    let strict = target
        .call("POST", &format!("{widgets}?fieldValidation=Strict"), "application/json", "application/json", doubled)
        .await;
    assert_eq!(
        strict.body["message"],
        r#"Widget in version "v1" cannot be handled as a Widget: strict decoding error: duplicate field "spec.color""#
    );
    let warned = target.post(&widgets, bogus.clone()).await;
    assert_eq!(
        (warned.code, warned.warnings),
        (
            201,
            vec![
                r#"299 - "unknown field \"spec.bogus\"""#.into(),
                r#"299 - "unknown field \"spec.parts[0].bogus\"""#.into()
            ]
        )
    );
    assert!(warned.body["spec"]["bogus"].is_null());
    let patched =
        target.patch(&format!("{widgets}/a?fieldValidation=Strict"), "merge", json!({"spec": {"bogus": 1}})).await;
    assert_eq!((patched.code, patched.body["reason"].as_str()), (422, Some("Invalid")));
    let silent = target.put(&format!("{widgets}/b?fieldValidation=Ignore"), bogus).await;
    assert_eq!(silent.code, 400, "the names differ");
    assert_eq!(
        target.get(&format!("{widgets}?fieldSelector=spec.color%3Dred")).await.names(),
        ["a"],
        "any field of the schema selects"
    );
    Transcript::default()
}

/// Aggregated discovery came with 1.26.
pub async fn modern_discovery(target: &Target) -> Transcript {
    for version in ["v2", "v2beta1"] {
        for path in ["/api", "/apis"] {
            let accept =
                format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json");
            let answer = target.call("GET", path, "", &accept, "").await;
            assert_eq!(
                (answer.body["kind"].as_str(), answer.body["apiVersion"].as_str()),
                (Some("APIGroupDiscoveryList"), Some(format!("apidiscovery.k8s.io/{version}").as_str()))
            );
        }
    }
    for discovery in [
        Discovery::new(target.client.clone()).run_aggregated().await,
        Discovery::new(target.client.clone()).run().await,
    ] {
        let discovery = discovery.expect("discovery");
        let (resource, capabilities) = discovery
            .resolve_gvk(&GroupVersionKind::gvk("conformance.multihome.io", "v1", "Widget"))
            .expect("widgets are found");
        assert_eq!((resource.plural.as_str(), capabilities.subresources.len()), ("widgets", 1));
        assert!(discovery.resolve_gvk(&GroupVersionKind::gvk("events.k8s.io", "v1", "Event")).is_some());
    }
    Transcript::default()
}

/// OpenAPI 3 came with 1.24.
pub async fn open_api(target: &Target) -> Transcript {
    let index = target.get("/openapi/v3").await;
    for path in ["api/v1", "apis/conformance.multihome.io/v1", "apis/events.k8s.io/v1"] {
        let url =
            index.body["paths"][path]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{path} is in the index"));
        let document = target.get(url).await;
        assert_eq!((document.code, document.body["openapi"].as_str()), (200, Some("3.0.0")), "{path}");
    }
    let ours = target.get("/openapi/v3/apis/conformance.multihome.io/v1").await.body;
    let schema = &ours["components"]["schemas"]["io.multihome.conformance.v1.Widget"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "conformance.multihome.io", "version": "v1", "kind": "Widget"}])
    );
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["enum"], json!(["red", "green", "blue"]));
    let patch = &ours["paths"]["/apis/conformance.multihome.io/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    let old = target.get("/openapi/v2").await.body;
    assert_eq!(old["swagger"], "2.0");
    assert!(old["definitions"]["io.multihome.conformance.v1.Widget"].is_object());
    let protobuf =
        target.call("GET", "/openapi/v2", "", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "").await;
    assert_eq!(protobuf.code, 406);
    // every reference in every document leads somewhere
    for path in index.body["paths"].as_object().unwrap().keys() {
        let document = target.get(&format!("/openapi/v3/{path}")).await.body;
        let mut dangling = Vec::new();
        references(&document, &document, &mut dangling);
        assert!(dangling.is_empty(), "{path}: {dangling:?}");
    }
    Transcript::default()
}

fn references(root: &Value, node: &Value, dangling: &mut Vec<String>) {
    match node {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref")
                && root.pointer(reference.trim_start_matches('#')).is_none()
            {
                dangling.push(reference.clone());
            }
            map.values().for_each(|v| references(root, v, dangling));
        }
        Value::Array(items) => items.iter().for_each(|v| references(root, v, dangling)),
        _ => {}
    }
}

/// The real server keeps history for minutes, so that this cannot be seen there quickly.
pub async fn old_versions(target: &Target) -> Transcript {
    let widgets = target.namespace("old-versions").await;
    let events = target.watch(&format!("{widgets}?watch=true&resourceVersion=1&timeoutSeconds=2"), 5).await;
    // whatever version the store began with, nothing before it can be watched
    if let Some(error) = events.first().filter(|e| e["type"] == "ERROR") {
        assert_eq!(
            (error["object"]["code"].as_i64(), error["object"]["reason"].as_str()),
            (Some(410), Some("Expired"))
        );
    }
    for n in 0..3 {
        target.post(&widgets, widget(&format!("w{n}"), json!({"color": "red"}))).await;
    }
    let page = target.get(&format!("{widgets}?limit=1")).await;
    let token = page.body["metadata"]["continue"].as_str().unwrap().to_owned();
    // more writes than the history keeps, in one go
    let bulk =
        (0..17_000_u32).map(|n| {
            let path = format!("{widgets}/w{}", n % 3);
            async move {
                target.patch(&path, "merge", json!({"metadata": {"annotations": {"n": n.to_string()}}})).await.code
            }
        });
    let codes = futures::stream::iter(bulk).buffer_unordered(128).collect::<Vec<_>>().await;
    assert!(codes.iter().all(|c| *c == 200));
    let late = target.get(&format!("{widgets}?limit=1&continue={token}")).await;
    assert_eq!((late.code, late.body["reason"].as_str()), (410, Some("Expired")));
    let events =
        target.watch(&format!("{widgets}?watch=true&resourceVersion={}&timeoutSeconds=2", page.version()), 5).await;
    assert_eq!(
        (events.len(), events[0]["type"].as_str(), events[0]["object"]["code"].as_i64()),
        (1, Some("ERROR"), Some(410))
    );
    // kube's client tries again on 504, so the server is asked directly
    let request = http::Request::get(format!("{widgets}?resourceVersion=999999999"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let future = tower::ServiceExt::oneshot(target.api.clone().unwrap(), request).await.unwrap();
    assert_eq!(future.status(), 504);
    Transcript::default()
}

/// Lists as streams came with 1.27.
pub async fn streamed_lists(target: &Target) -> Transcript {
    let widgets = target.namespace("streamed-lists").await;
    target.post(&widgets, widget("a", json!({"color": "red"}))).await;
    let query =
        "watch=true&timeoutSeconds=2&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events = target.watch(&format!("{widgets}?{query}"), 2).await;
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let alone = target.get(&format!("{widgets}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(alone.code, 422);
    let none = target
        .watch(
            &format!("{widgets}?watch=true&timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"),
            1,
        )
        .await;
    assert!(none.is_empty());
    let bookmark = target
        .watch(
            &format!(
                "{widgets}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={}",
                target.get(&widgets).await.version()
            ),
            1,
        )
        .await;
    assert_eq!(bookmark[0]["type"], "BOOKMARK", "a watch ends with one");
    let one = target.watch(&format!("{widgets}/a?watch=true&timeoutSeconds=1"), 2).await;
    assert_eq!((one.len(), one[0]["type"].as_str()), (1, Some("ADDED")), "one object is watched by its own path, too");
    Transcript::default()
}

/// The ways in which controllers use the server, in process and over the network.
pub async fn kube_runtime(target: &Target) -> Transcript {
    target.namespace("runtime").await;
    let inside = Client::new(target.api.clone().expect("the embedded server"), "runtime");
    for client in [inside, target.client.clone()] {
        runtime_round(client).await;
    }
    Transcript::default()
}

async fn runtime_round(client: Client) {
    let resource = ApiResource {
        group: "conformance.multihome.io".into(),
        version: "v1".into(),
        api_version: "conformance.multihome.io/v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
    };
    let widgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "runtime", &resource);
    let named = |name: &str| serde_json::from_value::<DynamicObject>(widget(name, json!({"color": "red"}))).unwrap();
    widgets.create(&PostParams::default(), &named("one")).await.unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().page_size(1),
    ] {
        let mut seen = watcher(widgets.clone(), config).default_backoff().applied_objects().boxed();
        let first = seen.try_next().await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("one"));
        widgets.create(&PostParams::default(), &named("two")).await.unwrap();
        let second = tokio::time::timeout(std::time::Duration::from_secs(5), seen.try_next())
            .await
            .expect("in time")
            .unwrap()
            .unwrap();
        assert_eq!(second.metadata.name.as_deref(), Some("two"));
        widgets.delete("two", &Default::default()).await.unwrap();
    }
    let status = json!({"status": {"phase": "Good"}});
    let patched = widgets.patch_status("one", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(patched.data["status"]["phase"], "Good");
    let metadata = widgets.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 1);

    let about = ObjectReference {
        kind: Some("Widget".into()),
        name: Some("one".into()),
        namespace: Some("runtime".into()),
        api_version: Some("conformance.multihome.io/v1".into()),
        uid: patched.metadata.uid.clone(),
        ..Default::default()
    };
    let recorder =
        Recorder::new(client.clone(), Reporter { controller: "suite".into(), instance: Some("suite-1".into()) });
    let event = NewEvent {
        type_: EventType::Normal,
        reason: "Tested".into(),
        note: Some("it works".into()),
        action: "Testing".into(),
        secondary: None,
    };
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let events: Api<Event> = Api::namespaced(client.clone(), "runtime");
    let uid = format!("involvedObject.uid={}", patched.metadata.uid.clone().unwrap());
    let seen = events.list(&ListParams::default().fields(&uid)).await.unwrap();
    assert_eq!((seen.items.len(), seen.items[0].message.as_deref()), (1, Some("it works")));
    assert_eq!(seen.items[0].series.as_ref().and_then(|s| s.count), Some(2));
    let configs: Api<ConfigMap> = Api::namespaced(client, "runtime");
    let config = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("c".into()), ..Default::default() },
        data: Some([("a".into(), "b".into())].into()),
        ..Default::default()
    };
    configs.create(&PostParams::default(), &config).await.unwrap();
    assert_eq!(configs.list(&ListParams::default()).await.unwrap().items.len(), 1);
    configs.delete("c", &Default::default()).await.unwrap();
    widgets.delete("one", &Default::default()).await.unwrap();
}

/// Nothing is open without credentials.
pub async fn access(target: &Target) -> Transcript {
    let data = target.kubeconfig.parent().expect("the data directory").to_owned();
    let text = std::fs::read_to_string(&target.kubeconfig).unwrap();
    let token = std::fs::read_to_string(data.join("token")).unwrap();
    for wrong in
        [text.replace(token.trim(), "wrong"), text.replace(&format!("token: {}", token.trim()), "username: nobody")]
    {
        let config = kube::config::Kubeconfig::from_yaml(&wrong).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        for path in ["/", "/api", "/version", "/readyz", "/openapi/v2", "/api/v1/secrets", WIDGETS, "/nothing"] {
            let response =
                client.send(http::Request::get(path).body(kube::client::Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 401, "{path}");
            let body: Value =
                serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
            assert_eq!((body["kind"].as_str(), body["reason"].as_str()), (Some("Status"), Some("Unauthorized")));
        }
    }
    use std::os::unix::fs::PermissionsExt;
    for file in ["token", "server.key", "server.crt", "ca.crt", "kubeconfig", "api.sock"] {
        assert_eq!(std::fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);

    let stream = tokio::net::UnixStream::connect(data.join("api.sock")).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/readyz")
        .header("host", "localhost")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    Transcript::default()
}

pub async fn limits(target: &Target) -> Transcript {
    let widgets = target.namespace("limits").await;
    let mut heavy = widget("a", json!({"color": "red"}));
    heavy["spec"]["extra"] = json!({"x": "y".repeat(4 << 20)});
    let refused = target.post(&widgets, heavy).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let mut large = widget("a", json!({"color": "red"}));
    large["spec"]["extra"] = json!({"x": "y".repeat(1 << 20)});
    assert_eq!(target.post(&widgets, large).await.code, 201);
    let apply =
        target.call("PATCH", &format!("{widgets}/a"), "application/apply-patch+yaml", "application/json", "{}").await;
    assert_eq!((apply.code, apply.body["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let yaml = target
        .call("GET", &format!("{WIDGETS}/namespaces/limits/widgets?labelSelector=none"), "", "application/yaml", "")
        .await;
    assert!(yaml.body.as_str().unwrap().starts_with("apiVersion: conformance.multihome.io/v1\n"), "{}", yaml.body);
    Transcript::default()
}

/// kubectl against what an old server does not offer.
pub async fn kubectl_modern(target: &Target) -> Transcript {
    target.namespace("kubectl-modern").await;
    let run = |args: &[&str], stdin: &str| target.kubectl(&[&["-n", "kubectl-modern"], args].concat(), stdin);
    let bogus = kubectl::WIDGET.replace("color: red", "color: red\n  bogus: 1");
    let (ok, _, err) = run(&["create", "-f", "-"], &bogus);
    assert!(!ok && err.contains(r#"strict decoding error: unknown field "spec.bogus""#), "{err}");
    let (ok, _, err) = run(&["apply", "-f", "-"], &bogus);
    assert!(!ok && err.contains(r#"unknown field "spec.bogus""#), "{err}");
    let (ok, out, err) = run(&["create", "--validate=warn", "-f", "-"], &bogus);
    assert!(ok && out.contains("created") && err.contains(r#"Warning: unknown field "spec.bogus""#), "{out}{err}");
    let (ok, out, _) = run(&["explain", "node.status.nodeInfo"], "");
    assert!(ok && out.contains("kubeletVersion"), "{out}");
    let (ok, out, _) = run(&["explain", "widget.spec", "--recursive"], "");
    assert!(ok && out.contains("count\t<integer>"), "{out}");
    let (ok, out, _) = run(&["auth", "whoami"], "");
    assert!(ok && out.contains("multihome:admin"), "{out}");
    let (ok, _, err) = run(&["apply", "--server-side", "-f", "-"], kubectl::WIDGET);
    assert!(!ok && err.contains("Server-side apply not available"), "{err}");
    let (ok, out, err) = run(&["get", "wd,cm,ns,no,ev,lease,sa,secret,crd", "-A"], "");
    assert!(ok && out.contains("customresourcedefinition"), "{out}{err}");
    let (ok, out, err) = run(&["describe", "wd", "shown"], "");
    assert!(ok && out.contains("Color:"), "{out}{err}");
    let (ok, out, err) = run(&["diff", "-f", "-"], &kubectl::WIDGET.replace("red", "blue"));
    assert!(!ok && out.contains("+  color: blue"), "diff shows the change and says so: {out}{err}");
    let (ok, out, err) = run(&["get", "gadgets"], "");
    assert!(ok && out.contains("shown"), "categories: {out}{err}");
    Transcript::default()
}

/// Refuses what is blue, fills in what is sized 77, and looks around before it lets a widget go.
struct Rules;

impl Admission for Rules {
    fn default(&self, req: &AdmissionRequest, object: &mut Value, _: &dyn View) -> Result<(), Denied> {
        if req.resource.kind == "Widget" && object["spec"]["size"] == 77 {
            object["spec"]["code"] = "AB77".into();
        }
        Ok(())
    }

    fn validate(&self, req: &AdmissionRequest, view: &dyn View) -> Result<(), Denied> {
        if req.resource.kind != "Widget" {
            return Ok(());
        }
        if req.operation == Operation::Delete {
            let others = view.find("conformance.multihome.io", "widgets", req.namespace, "spec.note", req.name);
            let users: Vec<&str> = others.iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
            return if users.is_empty() {
                Ok(())
            } else {
                Err(Denied::forbidden(format!("it is used by {}", users.join(", "))))
            };
        }
        match req.new.map(|n| &n["spec"]["color"]) {
            Some(color) if *color == "blue" => {
                Err(Denied::invalid(vec![Cause::invalid("spec.color", color, "blue is out of stock")]))
            }
            _ => Ok(()),
        }
    }
}

/// What was stored is there after a restart, with its versions; admission is asked, for the collector's deletions too.
pub async fn restart(_: &Target) -> Transcript {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let types = || vec![ResourceType::from_crd(&serde_json::from_str(crate::target::WIDGET).unwrap()).unwrap()];
    let resource = ApiResource {
        group: "conformance.multihome.io".into(),
        version: "v1".into(),
        api_version: "conformance.multihome.io/v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
    };
    let open = |admission: Arc<dyn Admission>| {
        let api = ApiServer::open(&path, types(), admission).unwrap();
        let client = Client::new(api.clone(), "default");
        (api, Api::<DynamicObject>::namespaced_with(client.clone(), "default", &resource), client)
    };
    let named = |name: &str, spec: Value| serde_json::from_value::<DynamicObject>(widget(name, spec)).unwrap();
    let (api, widgets, client) = open(Arc::new(Rules));
    let kept =
        widgets.create(&PostParams::default(), &named("kept", json!({"color": "red", "size": 77}))).await.unwrap();
    assert_eq!(kept.data["spec"]["code"], "AB77");
    let Err(kube::Error::Api(refused)) =
        widgets.create(&PostParams::default(), &named("b", json!({"color": "blue"}))).await
    else {
        panic!("blue is refused")
    };
    assert_eq!(
        refused.message,
        r#"Widget.conformance.multihome.io "b" is invalid: spec.color: Invalid value: "blue": blue is out of stock"#
    );
    widgets.create(&PostParams::default(), &named("user", json!({"color": "red", "note": "kept"}))).await.unwrap();
    let Err(kube::Error::Api(refused)) = widgets.delete("kept", &Default::default()).await else {
        panic!("what is used stays")
    };
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (403, r#"widgets.conformance.multihome.io "kept" is forbidden: it is used by user"#)
    );
    let version = widgets.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();

    // a namespace whose objects admission holds back for a while goes when they may go
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "used"}})).unwrap())
        .await
        .unwrap();
    let inside: Api<DynamicObject> = Api::namespaced_with(client.clone(), "used", &resource);
    inside.create(&PostParams::default(), &named("base", json!({"color": "red"}))).await.unwrap();
    inside.create(&PostParams::default(), &named("user", json!({"color": "red", "note": "base"}))).await.unwrap();
    namespaces.delete("used", &Default::default()).await.unwrap();
    for _ in 0..200 {
        if namespaces.get_opt("used").await.unwrap().is_none() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(namespaces.get_opt("used").await.unwrap().is_none());

    drop((api, widgets, inside, namespaces, client));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (_api, widgets, _client) = open(Arc::new(AdmitAll));
    let again = widgets.get("kept").await.unwrap();
    assert_eq!(again, kept);
    let now = widgets.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    assert!(now.parse::<u64>().unwrap() >= version.parse::<u64>().unwrap());
    let late = widgets.watch(&Default::default(), "1").await.unwrap().boxed().try_next().await.unwrap().unwrap();
    assert!(matches!(late, kube::api::WatchEvent::Error(status) if status.code == 410), "history ends at a restart");
    let on = widgets
        .watch(&kube::api::WatchParams::default().timeout(1), &now)
        .await
        .unwrap()
        .boxed()
        .try_next()
        .await
        .unwrap();
    assert!(matches!(on, None | Some(kube::api::WatchEvent::Bookmark(_))), "a watch from the last version goes on");
    Transcript::default()
}
