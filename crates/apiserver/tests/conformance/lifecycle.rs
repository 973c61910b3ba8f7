//! How objects end: finalizers, owners, namespaces. The real server needs its controllers for this.

use crate::objects::widget;
use crate::target::{Answer, Target, Transcript, WIDGETS};
use serde_json::{Value, json};

pub async fn finalizers(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("finalizers").await;
    let path = format!("{widgets}/a");
    let mut body = widget("a", json!({"color": "red"}));
    body["metadata"]["finalizers"] = json!(["x.io/one", "x.io/two"]);
    target.post(&widgets, body).await;
    t.note("delete", &target.delete(&path, Value::Null).await);
    let marked = target.get(&path).await;
    t.note("delete again", &target.delete(&path, Value::Null).await);
    t.note(
        "a new finalizer",
        &target
            .patch(&path, "merge", json!({"metadata": {"finalizers": ["x.io/one", "x.io/two", "x.io/three"]}}))
            .await,
    );
    t.note("it can still change", &target.patch(&path, "merge", json!({"spec": {"size": 3}})).await);
    let mut undead = target.get(&path).await.body;
    undead["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
    let undead = target.put(&path, undead).await;
    t.say(
        "it cannot come back",
        json!([
            undead.code,
            undead.body["metadata"]["deletionTimestamp"] == marked.body["metadata"]["deletionTimestamp"]
        ]),
    );
    t.note(
        "one finalizer less",
        &target.patch(&path, "merge", json!({"metadata": {"finalizers": ["x.io/two"]}})).await,
    );
    t.note("the last one", &target.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await);
    t.say("it is gone", target.get(&path).await.code);
    t
}

/// Makes an owner with two dependents, one of which holds its owner back, and a dependent of a dependent.
async fn family(target: &Target, namespace: &str) -> String {
    let widgets = target.namespace(namespace).await;
    let owner = target.post(&widgets, widget("owner", json!({"color": "red"}))).await;
    let reference = |of: &Answer, block: bool| json!([{"apiVersion": "conformance.multihome.io/v1", "kind": "Widget", "name": of.body["metadata"]["name"], "uid": of.uid(), "blockOwnerDeletion": block}]);
    for (name, block) in [("child-1", true), ("child-2", false)] {
        let mut child = widget(name, json!({"color": "red"}));
        child["metadata"]["ownerReferences"] = reference(&owner, block);
        let child = target.post(&widgets, child).await;
        if name == "child-1" {
            let mut grandchild = widget("grandchild", json!({"color": "red"}));
            grandchild["metadata"]["ownerReferences"] = reference(&child, true);
            target.post(&widgets, grandchild).await;
        }
    }
    target.post(&widgets, widget("stranger", json!({"color": "red"}))).await;
    // the real collector learns of objects with a delay, and the kinds it collects even later
    tokio::time::sleep(std::time::Duration::from_millis(if target.name == "real" { 1500 } else { 0 })).await;
    widgets
}

fn options(policy: &str) -> Value {
    json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy})
}

pub async fn background(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = family(target, "background").await;
    t.note("delete", &target.delete(&format!("{widgets}/owner"), options("Background")).await);
    t.say("the owner is gone at once", target.get(&format!("{widgets}/owner")).await.code);
    t.say("the rest follows", target.until(&widgets, |a| a.names().len() == 1).await.names());
    let mut lost = widget("lost", json!({"color": "red"}));
    lost["metadata"]["ownerReferences"] = json!([{"apiVersion": "conformance.multihome.io/v1", "kind": "Widget", "name": "never", "uid": "00000000-0000-0000-0000-000000000001"}]);
    target.post(&widgets, lost).await;
    t.say("an owner that never was", target.until(&format!("{widgets}/lost"), |a| a.code == 404).await.code);
    t
}

pub async fn foreground(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = family(target, "foreground").await;
    // something holds a child back, so that the waiting owner can be seen
    target.patch(&format!("{widgets}/child-1"), "merge", json!({"metadata": {"finalizers": ["x.io/hold"]}})).await;
    let deleted = target.delete(&format!("{widgets}/owner"), options("Foreground")).await;
    t.say("delete", json!([deleted.code, deleted.body["metadata"]["finalizers"]]));
    let waiting = target.until(&widgets, |a| a.names().len() == 3).await;
    t.say("the owner waits", waiting.names());
    let child =
        target.until(&format!("{widgets}/child-1"), |a| !a.body["metadata"]["deletionTimestamp"].is_null()).await;
    t.say("the child is marked", child.code);
    target.patch(&format!("{widgets}/child-1"), "json", json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "x.io/hold"}, {"op": "remove", "path": "/metadata/finalizers/0"}])).await;
    t.say("all gone", target.until(&widgets, |a| a.names().len() == 1).await.names());
    t
}

pub async fn orphan(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = family(target, "orphan").await;
    let deleted = target.delete(&format!("{widgets}/owner"), options("Orphan")).await;
    t.say("delete", json!([deleted.code, deleted.body["metadata"]["finalizers"]]));
    t.say("the rest stays", target.until(&widgets, |a| !a.names().contains(&"owner".to_owned())).await.names());
    t.say(
        "without an owner",
        target.get(&format!("{widgets}/child-1")).await.body["metadata"]["ownerReferences"].clone(),
    );
    t.say(
        "a grandchild keeps its own",
        target.get(&format!("{widgets}/grandchild")).await.body["metadata"]["ownerReferences"][0]["name"].clone(),
    );
    t
}

pub async fn namespaces(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("ends").await;
    let mut held = widget("held", json!({"color": "red"}));
    held["metadata"]["finalizers"] = json!(["x.io/hold"]);
    target.post(&widgets, held).await;
    target.post(&widgets, widget("free", json!({"color": "red"}))).await;
    target
        .post(
            "/api/v1/namespaces/ends/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
        )
        .await;
    let deleted = target.delete("/api/v1/namespaces/ends", Value::Null).await;
    t.say("delete", json!([deleted.code, deleted.body["kind"], deleted.body["status"]["phase"]]));
    t.say("what can go is gone", target.until(&widgets, |a| a.names().len() == 1).await.names());
    t.note("nothing new comes", &target.post(&widgets, widget("late", json!({"color": "red"}))).await);
    let again = target.delete("/api/v1/namespaces/ends", Value::Null).await;
    t.say("delete again", json!([again.code, again.body["status"]["phase"]]));
    let waiting = target
        .until("/api/v1/namespaces/ends", |a| {
            a.body["status"]["conditions"]
                .as_array()
                .is_some_and(|c| c.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True"))
        })
        .await;
    let mut conditions: Vec<Value> = waiting.body["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["type"].as_str().unwrap().ends_with("Remaining"))
        .map(|c| json!([c["type"], c["status"], c["reason"], c["message"]]))
        .collect();
    conditions.sort_by_key(Value::to_string);
    t.say("it says what it waits for", conditions);
    target.patch(&format!("{widgets}/held"), "merge", json!({"metadata": {"finalizers": null}})).await;
    t.say("it is gone", target.until("/api/v1/namespaces/ends", |a| a.code == 404).await.code);
    t.say("and what was in it", target.get(&format!("{WIDGETS}/namespaces/ends/widgets")).await.names());
    t
}
