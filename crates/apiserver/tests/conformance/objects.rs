//! Single objects: created, read, replaced, patched, deleted, and everything that is refused on the way.

use crate::target::{Target, Transcript, WIDGETS};
use serde_json::{Value, json};

pub fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "conformance.multihome.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

pub async fn create_and_get(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("create-and-get").await;
    let mut full = widget(
        "full",
        json!({"color": "red", "parts": [{"name": "a"}], "limits": {"x": 1}, "extra": {"any": [1, {"b": null}]}}),
    );
    full["metadata"]["labels"] = json!({"a": "b"});
    full["metadata"]["annotations"] = json!({"note": "x"});
    full["status"] = json!({"phase": "ignored"});
    t.note("create", &target.post(&widgets, full.clone()).await);
    t.note("again", &target.post(&widgets, full).await);
    t.note("get", &target.get(&format!("{widgets}/full")).await);
    t.note("get what is not there", &target.get(&format!("{widgets}/nothing")).await);
    t.note(
        "create in a namespace that is not there",
        &target.post(&format!("{WIDGETS}/namespaces/nowhere/widgets"), widget("x", json!({"color": "red"}))).await,
    );
    t.note("list a namespace that is not there", &target.get(&format!("{WIDGETS}/namespaces/nowhere/widgets")).await);
    t.note(
        "defaults",
        &target
            .post(
                &widgets,
                widget("defaults", json!({"color": "blue", "parts": [{"name": "a"}, {"name": "b", "count": 3}]})),
            )
            .await,
    );
    t.note(
        "unknown fields are dropped",
        &target
            .post(
                &widgets,
                widget("pruned", json!({"color": "blue", "bogus": 1, "parts": [{"name": "a", "bogus": 2}]})),
            )
            .await,
    );
    t.note(
        "null where it may be",
        &target.post(&widgets, widget("null", json!({"color": "blue", "note": null}))).await,
    );
    t
}

pub async fn refused_bodies(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("refused-bodies").await;
    let post = |body: Value| target.post(&widgets, body);
    t.say("no kind", post(json!({"apiVersion": "conformance.multihome.io/v1", "metadata": {"name": "x"}})).await.code);
    t.say(
        "another kind",
        post(json!({"apiVersion": "conformance.multihome.io/v1", "kind": "Gadget", "metadata": {"name": "x"}}))
            .await
            .code,
    );
    let mut other = widget("x", json!({"color": "red"}));
    other["apiVersion"] = "conformance.multihome.io/v9".into();
    t.note("another version", &post(other).await);
    let mut elsewhere = widget("x", json!({"color": "red"}));
    elsewhere["metadata"]["namespace"] = "default".into();
    t.note("another namespace", &post(elsewhere).await);
    let mut versioned = widget("x", json!({"color": "red"}));
    versioned["metadata"]["resourceVersion"] = "1".into();
    t.note("a resource version", &post(versioned).await);
    let mut labelled = widget("x", json!({"color": "red"}));
    labelled["metadata"]["labels"] = json!({"a": 1});
    t.say("a number as a label", post(labelled).await.code);
    for (what, content_type, body) in [
        ("not JSON", "application/json", "{"),
        ("a list", "application/json", "[]"),
        ("a format nobody knows", "application/cbor", "x"),
    ] {
        let answer = target.call("POST", &widgets, content_type, "application/json", body).await;
        t.say(what, json!([answer.code, answer.body["reason"]]));
    }
    let yaml = "apiVersion: conformance.multihome.io/v1\nkind: Widget\nmetadata: {name: yaml}\nspec: {color: green}\n";
    t.note("YAML", &target.call("POST", &widgets, "application/yaml", "application/json", yaml).await);
    let answer = target.call("GET", &widgets, "", "application/cbor", "").await;
    t.say("an answer that cannot be given", json!([answer.code, answer.body["reason"]]));
    t
}

pub async fn replace(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("replace").await;
    let path = format!("{widgets}/a");
    let made = target.post(&widgets, widget("a", json!({"color": "red"}))).await;
    let mut next = made.body.clone();
    next["spec"]["color"] = "blue".into();
    next["status"] = json!({"phase": "ignored"});
    let changed = target.put(&path, next.clone()).await;
    t.note("change", &changed);
    t.note("change again from the old state", &target.put(&path, next).await);
    let same = target.put(&path, changed.body.clone()).await;
    t.say("no change, no new version", same.version() == changed.version());
    let mut labelled = changed.body.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let labelled = target.put(&path, labelled).await;
    t.note("a label is no new generation", &labelled);
    let mut unversioned = labelled.body.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    t.note("without a version", &target.put(&path, unversioned).await);
    let with = |field: &str, value: Value| {
        let mut body = labelled.body.clone();
        body["metadata"][field] = value;
        body
    };
    t.note("another uid", &target.put(&path, with("uid", json!("00000000-0000-0000-0000-000000000000"))).await);
    t.note("another name", &target.put(&path, with("name", json!("b"))).await);
    t.note("another namespace", &target.put(&path, with("namespace", json!("default"))).await);
    t.note(
        "another creation time is ignored or refused",
        &target.put(&path, with("creationTimestamp", json!("2020-01-01T00:00:00Z"))).await,
    );
    t.note("another generation is ignored", &target.put(&path, with("generation", json!(99))).await);
    t.note("a deletion time", &target.put(&path, with("deletionTimestamp", json!("2020-01-01T00:00:00Z"))).await);
    let mut lean = widget("a", json!({"color": "green"}));
    lean["metadata"]["resourceVersion"] = target.get(&path).await.version().into();
    t.note("what is left out is kept or gone", &target.put(&path, lean).await);
    t.note("what is not there", &target.put(&format!("{widgets}/none"), widget("none", json!({"color": "red"}))).await);
    t
}

pub async fn patches(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("patches").await;
    let path = format!("{widgets}/a");
    target.post(&widgets, widget("a", json!({"color": "red", "size": 5, "tags": ["x"], "extra": {"k": "v"}}))).await;
    t.note(
        "merge",
        &target
            .patch(
                &path,
                "merge",
                json!({"spec": {"size": null, "tags": ["y"], "extra": {"l": 1}}, "metadata": {"labels": {"a": "b"}}}),
            )
            .await,
    );
    t.note("JSON", &target.patch(&path, "json", json!([{"op": "test", "path": "/spec/color", "value": "red"}, {"op": "replace", "path": "/spec/color", "value": "blue"}, {"op": "add", "path": "/spec/tags/-", "value": "z"}])).await);
    let failed = target.patch(&path, "json", json!([{"op": "test", "path": "/spec/color", "value": "red"}])).await;
    t.say("a test that fails", json!([failed.code, failed.body["reason"], failed.body["message"]]));
    let missing = target.patch(&path, "json", json!([{"op": "remove", "path": "/spec/none"}])).await;
    t.say("removing what is not there", json!([missing.code, missing.body["reason"], missing.body["message"]]));
    let garbled = target.patch(&path, "json", json!({"op": "remove"})).await;
    t.say("no list of operations", json!([garbled.code, garbled.body["reason"]]));
    t.note("strategic merge is not for custom kinds", &target.patch(&path, "strategic-merge", json!({})).await);
    t.note("a wrong value", &target.patch(&path, "merge", json!({"spec": {"color": "pink"}})).await);
    t.note(
        "a stale version",
        &target.patch(&path, "merge", json!({"metadata": {"resourceVersion": "1"}, "spec": {"size": 7}})).await,
    );
    t.note("a status is ignored", &target.patch(&path, "merge", json!({"status": {"phase": "x"}})).await);
    let before = target.get(&path).await;
    let after = target.patch(&path, "merge", json!({"spec": {"color": "blue"}})).await;
    t.say("no change, no new version", before.version() == after.version());
    t.note("another name", &target.patch(&path, "merge", json!({"metadata": {"name": "b"}})).await);
    t.note(
        "another uid",
        &target.patch(&path, "merge", json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}})).await,
    );
    t.note("what is not there", &target.patch(&format!("{widgets}/none"), "merge", json!({})).await);
    t
}

pub async fn status(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("status").await;
    let (path, status) = (format!("{widgets}/a"), format!("{widgets}/a/status"));
    let made = target.post(&widgets, widget("a", json!({"color": "red"}))).await;
    let mut next = made.body.clone();
    next["status"] = json!({"phase": "Good", "bogus": 1});
    next["spec"]["color"] = "blue".into();
    next["metadata"]["labels"] = json!({"a": "b"});
    t.note("replace the status: nothing else changes", &target.put(&status, next.clone()).await);
    t.note("from the old state", &target.put(&status, next).await);
    t.note(
        "patch the status",
        &target.patch(&status, "merge", json!({"status": {"observedGeneration": 1}, "spec": {"color": "blue"}})).await,
    );
    t.note("a wrong status", &target.patch(&status, "merge", json!({"status": {"phase": 1}})).await);
    t.note("get the status", &target.get(&status).await);
    t.note(
        "replacing the object keeps the status",
        &target.patch(&path, "merge", json!({"spec": {"color": "green"}, "status": null})).await,
    );
    t.note(
        "of what is not there",
        &target.patch(&format!("{widgets}/none/status"), "merge", json!({"status": {}})).await,
    );
    t.say("a subresource that is not there", target.get(&format!("{path}/scale")).await.code);
    t
}

pub async fn names(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("names").await;
    for name in ["Upper", "under_score", "-dash", "dot.", "a..b", &"x".repeat(254)] {
        let answer = target.post(&widgets, widget(name, json!({"color": "red"}))).await;
        t.note(&format!("name {name:.12}"), &answer);
    }
    for name in ["a.b-c.d", "0"] {
        t.say(&format!("name {name}"), target.post(&widgets, widget(name, json!({"color": "red"}))).await.code);
    }
    let mut nameless = widget("", json!({"color": "red"}));
    nameless["metadata"] = json!({});
    t.note("no name", &target.post(&widgets, nameless.clone()).await);
    nameless["metadata"] = json!({"generateName": "gen-"});
    let generated = target.post(&widgets, nameless).await;
    let name = generated.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    t.say(
        "a generated name",
        json!([generated.code, name.starts_with("gen-"), name.len(), generated.body["metadata"]["generateName"]]),
    );
    for name in ["a.b", "Upper"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        t.note(&format!("namespace {name}"), &target.post("/api/v1/namespaces", body).await);
    }
    t
}

pub async fn dry_run(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("dry-run").await;
    let made = target.post(&format!("{widgets}?dryRun=All"), widget("a", json!({"color": "red"}))).await;
    t.say("create", json!([made.code, made.body["spec"], made.uid().len(), made.version()]));
    t.say("was not created", target.get(&format!("{widgets}/a")).await.code);
    t.say(
        "a wrong value",
        target.post(&format!("{widgets}?dryRun=All"), widget("a", json!({"color": "pink"}))).await.code,
    );
    target.post(&widgets, widget("a", json!({"color": "red"}))).await;
    let patched = target.patch(&format!("{widgets}/a?dryRun=All"), "merge", json!({"spec": {"color": "blue"}})).await;
    t.say("patch", json!([patched.code, patched.body["spec"]["color"]]));
    t.say("was not patched", target.get(&format!("{widgets}/a")).await.body["spec"]["color"].clone());
    t.say(
        "delete",
        target
            .delete(&format!("{widgets}/a"), json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}))
            .await
            .code,
    );
    t.say("was not deleted", target.get(&format!("{widgets}/a")).await.code);
    let wrong = target.post(&format!("{widgets}?dryRun=Some"), widget("b", json!({"color": "red"}))).await;
    t.say("a dry run that is none", json!([wrong.code, wrong.body["reason"]]));
    t
}

pub async fn deletion(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("deletion").await;
    let path = format!("{widgets}/a");
    let made = target.post(&widgets, widget("a", json!({"color": "red"}))).await;
    let options =
        |preconditions: Value| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions});
    t.note("another uid", &target.delete(&path, options(json!({"uid": "00000000-0000-0000-0000-000000000000"}))).await);
    let stale = target.delete(&path, options(json!({"resourceVersion": "1"}))).await;
    t.say("another version", json!([stale.code, stale.body["reason"], stale.body["details"]]));
    let wrong = target
        .delete(&path, json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Sideways"}))
        .await;
    t.say("a policy that is none", json!([wrong.code, wrong.body["reason"]]));
    t.note(
        "delete",
        &target.delete(&path, options(json!({"uid": made.uid(), "resourceVersion": made.version()}))).await,
    );
    t.note("delete again", &target.delete(&path, Value::Null).await);
    for (name, label) in [("x", "1"), ("y", "1"), ("z", "2")] {
        let mut body = widget(name, json!({"color": "red"}));
        body["metadata"]["labels"] = json!({"n": label});
        target.post(&widgets, body).await;
    }
    let deleted = target.delete(&format!("{widgets}?labelSelector=n%3D1"), Value::Null).await;
    t.say("a selection", json!([deleted.code, deleted.body["kind"], deleted.names()]));
    t.say("the rest", target.get(&widgets).await.names());
    t.say("all", target.delete(&widgets, Value::Null).await.names());
    t.say("nothing", target.get(&widgets).await.names());
    t
}

pub async fn core_kinds(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    target.namespace("core-kinds").await;
    let base = "/api/v1/namespaces/core-kinds";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "YQ=="}, "stringData": {"b": "text"}});
    t.note("a secret", &target.post(&format!("{base}/secrets"), secret).await);
    t.note("its type stays", &target.patch(&format!("{base}/secrets/s"), "merge", json!({"type": "other"})).await);
    let key = target.patch(&format!("{base}/secrets/s"), "merge", json!({"data": {"not a key": "YQ=="}})).await;
    t.say("a key that is none", json!([key.code, key.body["reason"], key.body["details"]["causes"][0]["field"]]));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}, "immutable": true});
    t.note("an immutable config map", &target.post(&format!("{base}/configmaps"), config).await);
    t.note(
        "stays as it is",
        &target.patch(&format!("{base}/configmaps/c"), "merge", json!({"data": {"a": "c"}})).await,
    );
    let mut unversioned = target.get(&format!("{base}/secrets/s")).await.body;
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    unversioned["data"]["c"] = "Yw==".into();
    t.note("a secret may be replaced unconditionally", &target.put(&format!("{base}/secrets/s"), unversioned).await);

    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/core-kinds/leases";
    t.note("a lease", &target.post(leases, lease).await);
    t.note(
        "a lease that ends",
        &target.patch(&format!("{leases}/l"), "strategic-merge", json!({"spec": {"holderIdentity": null}})).await,
    );

    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "core-kinds"}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "2"}}});
    let node = target.post("/api/v1/nodes", node).await;
    t.say(
        "a node comes with its status",
        json!([node.code, node.body["status"]["conditions"][0]["status"], node.body["status"]["capacity"]]),
    );
    let status = "/api/v1/nodes/core-kinds/status";
    let patched = target.patch(status, "strategic-merge", json!({"status": {"conditions": [{"type": "Disk", "status": "False"}]}, "metadata": {"annotations": {"a": "b"}}})).await;
    t.say(
        "conditions merge by type, metadata too",
        json!([
            patched.code,
            patched.body["status"]["conditions"].as_array().map(Vec::len),
            patched.body["metadata"]["annotations"]["a"]
        ]),
    );
    t.say("the node is gone", target.delete("/api/v1/nodes/core-kinds", Value::Null).await.code);

    let ns = target.get(base).await;
    t.note("a namespace", &ns);
    let finalizers =
        target.patch(base, "strategic-merge", json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}})).await;
    t.say("finalizers merge", finalizers.body["metadata"]["finalizers"].clone());
    let fewer = target
        .patch(
            base,
            "strategic-merge",
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a", "x.io/b"]}}),
        )
        .await;
    t.say("and go", fewer.body["metadata"]["finalizers"].clone());
    t.note(
        "a phase is not written that way",
        &target.patch(base, "merge", json!({"status": {"phase": "Terminating"}, "spec": {"finalizers": []}})).await,
    );
    t.note("default stays", &target.delete("/api/v1/namespaces/default", Value::Null).await);
    t
}

pub async fn events(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    target.namespace("events").await;
    let (old, new) = ("/api/v1/namespaces/events/events", "/apis/events.k8s.io/v1/namespaces/events/events");
    let about =
        json!({"apiVersion": "conformance.multihome.io/v1", "kind": "Widget", "namespace": "events", "name": "w"});
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": about, "note": "it happened", "reason": "Happened",
        "type": "Normal", "action": "Happening", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "suite", "reportingInstance": "suite-1"});
    let made = target.post(new, event).await;
    t.say("create", json!([made.code, made.body["note"], made.body["regarding"]["name"]]));
    let seen = target.get(&format!("{old}/e")).await;
    t.say(
        "the same event in the core group",
        json!([
            seen.code,
            seen.body["apiVersion"],
            seen.body["message"],
            seen.body["involvedObject"]["name"],
            seen.body["reportingComponent"],
            seen.body["reportingInstance"]
        ]),
    );
    let series = target
        .patch(
            &format!("{new}/e"),
            "merge",
            json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}}),
        )
        .await;
    t.say("a series", json!([series.code, series.body["series"]]));
    let legacy = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "f"}, "involvedObject": {"kind": "Widget", "namespace": "events", "name": "v"}, "message": "old way",
        "reason": "Other", "type": "Warning", "source": {"component": "suite"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1});
    t.say("create in the core group", target.post(old, legacy).await.code);
    let new_list = target.get(new).await;
    t.say(
        "both in one list",
        json!([
            new_list.names(),
            new_list.body["items"][1]["note"],
            new_list.body["items"][1]["deprecatedSource"]["component"]
        ]),
    );
    for selector in [
        "involvedObject.name%3Dw",
        "reason%3DOther",
        "type!%3DNormal",
        "involvedObject.kind%3DWidget,involvedObject.namespace%3Devents",
    ] {
        t.say(&format!("select {selector}"), target.get(&format!("{old}?fieldSelector={selector}")).await.names());
    }
    let elsewhere = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "g"}, "involvedObject": {"kind": "Widget", "namespace": "default", "name": "v"}});
    let elsewhere = target.post(old, elsewhere).await;
    t.say("about an object elsewhere", json!([elsewhere.code, elsewhere.body["details"]["causes"]]));
    t
}
