//! Streams of changes.

use crate::objects::widget;
use crate::target::{Target, Transcript, normalized};
use serde_json::{Value, json};

fn short(events: &[Value]) -> Vec<Value> {
    events
        .iter()
        .map(|e| json!([e["type"], e["object"]["kind"], e["object"]["metadata"]["name"], e["object"]["spec"]["size"]]))
        .collect()
}

async fn churn(target: &Target, namespace: &str) -> (String, String) {
    let widgets = target.namespace(namespace).await;
    let start = target.get(&widgets).await.version();
    let mut a = widget("a", json!({"color": "red", "size": 1}));
    a["metadata"]["labels"] = json!({"side": "left"});
    target.post(&widgets, a).await;
    target.post(&widgets, widget("b", json!({"color": "red", "size": 2}))).await;
    target.patch(&format!("{widgets}/a"), "merge", json!({"spec": {"size": 10}})).await;
    target.patch(&format!("{widgets}/a"), "merge", json!({"metadata": {"labels": {"side": "right"}}})).await;
    target.delete(&format!("{widgets}/b"), Value::Null).await;
    target.patch(&format!("{widgets}/a"), "merge", json!({"metadata": {"labels": {"side": "left"}}})).await;
    target.delete(&format!("{widgets}/a"), Value::Null).await;
    (widgets, start)
}

pub async fn from_a_version(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let (widgets, start) = churn(target, "from-a-version").await;
    let events = target.watch(&format!("{widgets}?watch=true&timeoutSeconds=5&resourceVersion={start}"), 7).await;
    t.say("everything since", short(&events));
    t.say("in full", normalized(events[0].clone()));
    t.say("a deletion in full", normalized(events[6].clone()));
    let versions: Vec<u64> =
        events.iter().map(|e| e["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()).collect();
    t.say("versions grow, deletions included", versions.windows(2).all(|w| w[0] < w[1]));
    let later = target.watch(&format!("{widgets}?watch=1&timeoutSeconds=5&resourceVersion={}", versions[4]), 2).await;
    t.say("from the middle", short(&later));
    let nothing =
        target.watch(&format!("{widgets}?watch=true&timeoutSeconds=1&resourceVersion={}", versions[6]), 1).await;
    t.say("nothing new, and it ends", nothing);
    let wrong = target.get(&format!("{widgets}?watch=true&resourceVersion=x")).await;
    t.say("a version that is none", json!([wrong.code >= 400]));
    t
}

pub async fn selection(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let (widgets, start) = churn(target, "selection").await;
    let left = target
        .watch(&format!("{widgets}?watch=true&timeoutSeconds=5&resourceVersion={start}&labelSelector=side%3Dleft"), 5)
        .await;
    t.say("entering and leaving a selection", short(&left));
    let named = target
        .watch(
            &format!("{widgets}?watch=true&timeoutSeconds=5&resourceVersion={start}&fieldSelector=metadata.name%3Db"),
            2,
        )
        .await;
    t.say("by name", short(&named));
    let metadata = http_accept(
        target,
        &format!("{widgets}?watch=true&timeoutSeconds=1&resourceVersion={start}&limit=1"),
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    )
    .await;
    t.say("metadata alone", metadata);
    t
}

/// The kinds of the objects in a watch that ends by itself.
async fn http_accept(target: &Target, path: &str, accept: &str) -> Vec<Value> {
    let answer = target.call("GET", path, "", accept, "").await;
    let text = match answer.body {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines
        .map(|e| json!([e["type"], e["object"]["kind"], e["object"]["metadata"]["name"], e["object"]["spec"]]))
        .collect()
}

pub async fn present_objects(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("present-objects").await;
    target.post(&widgets, widget("a", json!({"color": "red", "size": 1}))).await;
    target.post(&widgets, widget("b", json!({"color": "red", "size": 2}))).await;
    for query in ["watch=true&timeoutSeconds=2", "watch=true&timeoutSeconds=2&resourceVersion=0"] {
        let mut events = short(&target.watch(&format!("{widgets}?{query}"), 2).await);
        events.sort_by_key(Value::to_string);
        t.say(query, events);
    }
    t
}
