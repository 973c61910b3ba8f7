//! What a schema and the rules of metadata refuse, and in which words.

use crate::objects::widget;
use crate::target::{Target, Transcript};
use serde_json::{Value, json};

pub async fn schema(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("schema").await;
    let cases: &[(&str, Value)] = &[
        ("nothing", json!({})),
        ("a wrong type", json!({"color": "red", "size": "big"})),
        ("a float for an integer", json!({"color": "red", "size": 1.5})),
        ("a string for a boolean", json!({"color": "red", "enabled": "yes"})),
        ("a number for a string", json!({"color": 5})),
        ("an object for a list", json!({"color": "red", "parts": {}})),
        ("a string for an object", json!({"color": "red", "limits": "x"})),
        ("too small", json!({"color": "red", "size": 0})),
        ("too big", json!({"color": "red", "size": 101})),
        ("not more than the bound", json!({"color": "red", "ratio": 0})),
        ("not in the list", json!({"color": "pink"})),
        ("does not match", json!({"color": "red", "code": "x1"})),
        ("missing in a list", json!({"color": "red", "parts": [{"count": 1}]})),
        ("wrong in a map", json!({"color": "red", "limits": {"a": "b"}})),
        ("a boolean for a number or string", json!({"color": "red", "port": true})),
        ("two things wrong", json!({"color": "pink", "size": 0})),
    ];
    for (what, spec) in cases {
        let answer = target.post(&widgets, widget("x", spec.clone())).await;
        let causes = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
        let mut fields: Vec<String> = causes.iter().map(|c| c["field"].to_string()).collect();
        fields.sort();
        t.say(what, json!([answer.code, answer.body["reason"], fields, answer.body["details"]["kind"]]));
        // with several causes their order is not the same everywhere
        if causes.len() == 1 {
            t.say(&format!("{what}: message"), answer.body["message"].clone());
        }
    }
    for (what, spec) in [
        ("too long", json!({"color": "red", "code": "AB12345678"})),
        ("too many", json!({"color": "red", "tags": ["a", "b", "c", "d"]})),
        ("doubled in a set", json!({"color": "red", "tags": ["a", "a"]})),
        ("doubled in a map", json!({"color": "red", "parts": [{"name": "a"}, {"name": "a"}]})),
    ] {
        let answer = target.post(&widgets, widget("x", spec)).await;
        t.say(what, json!([answer.code, answer.body["reason"], answer.body["details"]["causes"][0]["field"]]));
    }
    for (what, spec) in
        [("a number", json!({"color": "red", "port": 80})), ("a string", json!({"color": "red", "port": "http"}))]
    {
        t.say(
            &format!("{what} for a number or string"),
            target.post(&widgets, widget(&format!("port-{}", what.replace(' ', "-")), spec)).await.code,
        );
    }
    let mut bare = widget("x", json!(null));
    bare.as_object_mut().unwrap().remove("spec");
    t.note("no spec at all", &target.post(&widgets, bare).await);
    t
}

pub async fn metadata(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("metadata").await;
    let cases: &[(&str, Value)] = &[
        ("a label's name", json!({"labels": {"not a name": "x"}})),
        ("a label's value", json!({"labels": {"a": "not a value"}})),
        ("a label's prefix", json!({"labels": {"Bad_Prefix/a": "x"}})),
        ("an annotation's name", json!({"annotations": {"a/b/c": "anything goes here"}})),
        ("a finalizer", json!({"finalizers": ["not a name"]})),
        (
            "an owner without a uid",
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "c"}]}),
        ),
        (
            "two controllers",
            json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1", "controller": true},
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "d", "uid": "2", "controller": true}]}),
        ),
    ];
    for (what, meta) in cases {
        let mut body = widget("x", json!({"color": "red"}));
        for (key, value) in meta.as_object().unwrap() {
            body["metadata"][key] = value.clone();
        }
        let answer = target.post(&widgets, body).await;
        t.say(
            what,
            json!([
                answer.code,
                answer.body["reason"],
                answer.body["details"]["causes"][0]["field"],
                answer.body["details"]["causes"][0]["reason"]
            ]),
        );
    }
    let mut heavy = widget("x", json!({"color": "red"}));
    heavy["metadata"]["annotations"] = json!({"a": "x".repeat(300_000)});
    let answer = target.post(&widgets, heavy).await;
    t.say("heavy annotations", json!([answer.code, answer.body["details"]["causes"][0]["field"]]));
    let mut odd = widget("odd", json!({"color": "red"}));
    odd["metadata"]["bogus"] = json!(1);
    odd["metadata"]["uid"] = json!("mine");
    odd["metadata"]["generation"] = json!(7);
    odd["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    let odd = target.post(&widgets, odd).await;
    t.say(
        "what is the server's is not taken from the client",
        json!([
            odd.code,
            odd.body["metadata"]["generation"],
            odd.uid() == "mine",
            odd.body["metadata"]["bogus"],
            odd.body["metadata"]["deletionTimestamp"]
        ]),
    );
    t
}
