//! Many objects at once: selected, in pages, in other shapes; and what there is to list at all.

use crate::objects::widget;
use crate::target::{Target, Transcript, WIDGETS};
use serde_json::{Value, json};

async fn some(target: &Target, namespace: &str) -> String {
    let widgets = target.namespace(namespace).await;
    for (name, size, labels) in [
        ("a", 1, json!({"tier": "x", "n": "1"})),
        ("b", 2, json!({"tier": "y", "n": "2"})),
        ("c", 3, json!({"tier": "x"})),
        ("d", 4, json!({})),
        ("e", 5, json!({"n": "5"})),
    ] {
        let mut body = widget(name, json!({"color": "red", "size": size}));
        body["metadata"]["labels"] = labels;
        assert_eq!(target.post(&widgets, body).await.code, 201);
    }
    widgets
}

pub async fn selectors(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = some(target, "selectors").await;
    for selector in [
        "tier=x",
        "tier==x",
        "tier!=x",
        "tier",
        "!tier",
        "tier in (x,y)",
        "tier notin (x)",
        "n>1",
        "n<5",
        "tier=x,n=1",
        "tier in (y),n",
        "none=1",
        "",
    ] {
        let encoded = selector
            .replace(' ', "%20")
            .replace('=', "%3D")
            .replace('>', "%3E")
            .replace('<', "%3C")
            .replace('!', "%21");
        t.say(&format!("labels {selector}"), target.get(&format!("{widgets}?labelSelector={encoded}")).await.names());
    }
    for selector in [
        "metadata.name=a",
        "metadata.name!=a",
        "metadata.namespace=selectors",
        "metadata.namespace=other",
        "metadata.name=a,metadata.namespace=selectors",
    ] {
        t.say(
            &format!("fields {selector}"),
            target.get(&format!("{widgets}?fieldSelector={}", selector.replace('=', "%3D"))).await.names(),
        );
    }
    let unknown = target.get(&format!("{widgets}?fieldSelector=metadata.bogus%3Dx")).await;
    t.say("a field that cannot be selected by", json!([unknown.code, unknown.body["reason"]]));
    for broken in ["a%3Db%3Dc", "tier%20in%20x", "%3Dx"] {
        let answer = target.get(&format!("{widgets}?labelSelector={broken}")).await;
        t.say(&format!("a broken selector {broken}"), json!([answer.code, answer.body["reason"]]));
    }
    t.say(
        "across namespaces",
        target.get(&format!("{WIDGETS}/widgets?fieldSelector=metadata.namespace%3Dselectors")).await.names(),
    );
    let list = target.get(&format!("{widgets}?labelSelector=n%3D1")).await;
    t.note("a list", &list);
    t
}

pub async fn pages(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = some(target, "pages").await;
    let first = target.get(&format!("{widgets}?limit=2")).await;
    let token = |a: &crate::target::Answer| a.body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    t.say("first page", json!([first.names(), first.body["metadata"]["remainingItemCount"], token(&first).is_empty()]));
    // what changes now must not be seen in the pages that follow
    target.post(&widgets, widget("bb", json!({"color": "red"}))).await;
    target.delete(&format!("{widgets}/c"), Value::Null).await;
    target.patch(&format!("{widgets}/d"), "merge", json!({"spec": {"size": 99}})).await;
    let second = target.get(&format!("{widgets}?limit=2&continue={}", token(&first))).await;
    t.say(
        "second page",
        json!([
            second.names(),
            second.body["metadata"]["remainingItemCount"],
            second.body["items"][1]["spec"]["size"],
            second.version() == first.version()
        ]),
    );
    let third = target.get(&format!("{widgets}?limit=2&continue={}", token(&second))).await;
    t.say("last page", json!([third.names(), third.body["metadata"]["remainingItemCount"], token(&third).is_empty()]));
    t.say("everything now", target.get(&widgets).await.names());
    let selected = target.get(&format!("{widgets}?limit=1&labelSelector=n")).await;
    t.say("a selected page is not counted", json!([selected.names(), selected.body["metadata"]["remainingItemCount"]]));
    let broken = target.get(&format!("{widgets}?limit=1&continue=nonsense")).await;
    t.say("a token that is none", json!([broken.code, broken.body["reason"]]));
    t.say("a limit that is none", target.get(&format!("{widgets}?limit=x")).await.code);
    let recent = target.get(&format!("{widgets}?resourceVersion={}", first.version())).await;
    // such lists come from a cache, and in no order
    let sorted = |a: &crate::target::Answer| {
        let mut names = a.names();
        names.sort();
        names
    };
    t.say("not older than", sorted(&recent));
    t.say("anything", sorted(&target.get(&format!("{widgets}?resourceVersion=0")).await));
    let exact = target.get(&format!("{widgets}?resourceVersionMatch=Exact&resourceVersion={}", first.version())).await;
    t.say("exactly", json!([exact.code, exact.names()]));
    let alone = target.get(&format!("{widgets}?resourceVersionMatch=Exact")).await;
    t.say("exactly nothing", json!([alone.code, alone.body["reason"]]));
    t
}

pub async fn shapes(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let widgets = target.namespace("shapes").await;
    let mut body = widget("a", json!({"color": "red", "parts": [{"name": "p"}]}));
    body["metadata"]["labels"] = json!({"l": "v"});
    target.post(&widgets, body).await;
    target.patch(&format!("{widgets}/a/status"), "merge", json!({"status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}})).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for (what, path) in [("a list", widgets.clone()), ("one", format!("{widgets}/a"))] {
        let answer = target.call("GET", &path, "", table, "").await;
        let columns: Vec<Value> = answer.body["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| json!([c["name"], c["type"], c["priority"]]))
            .collect();
        let row = &answer.body["rows"][0];
        t.say(
            &format!("{what} as a table"),
            json!([
                answer.code,
                answer.body["kind"],
                columns,
                row["cells"].as_array().map(|c| c[..5].to_vec()),
                row["object"]["kind"],
                row["object"]["metadata"]["name"]
            ]),
        );
    }
    for include in ["None", "Object", "Metadata"] {
        let answer = target.call("GET", &format!("{widgets}?includeObject={include}"), "", table, "").await;
        t.say(&format!("with {include}"), answer.body["rows"][0]["object"]["kind"].clone());
    }
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
    let one = target.call("GET", &format!("{widgets}/a"), "", metadata, "").await;
    t.say(
        "metadata alone",
        json!([one.body["kind"], one.body["apiVersion"], one.body["metadata"]["labels"], one.body["spec"]]),
    );
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let many = target.call("GET", &widgets, "", list, "").await;
    t.say("metadata of a list", json!([many.body["kind"], many.body["apiVersion"], many.names()]));
    for kind in ["namespaces", "namespaces/shapes/secrets", "namespaces/shapes/configmaps", "nodes"] {
        let answer = target.call("GET", &format!("/api/v1/{kind}"), "", table, "").await;
        let columns: Vec<Value> = answer.body["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["priority"] == 0)
            .map(|c| json!([c["name"], c["type"]]))
            .collect();
        t.say(&format!("columns of {kind}"), columns);
    }
    let events = target.call("GET", "/api/v1/events", "", table, "").await;
    let columns: Vec<Value> = events.body["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| json!([c["name"], c["type"], c["priority"]]))
        .collect();
    t.say("columns of events", columns);
    t
}

pub async fn discovery(target: &Target) -> Transcript {
    let mut t = Transcript::default();
    let mut resources = target.get(WIDGETS).await;
    for resource in resources.body["resources"].as_array_mut().unwrap() {
        resource.as_object_mut().unwrap().remove("storageVersionHash");
        let mut verbs: Vec<String> =
            resource["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
        verbs.sort();
        resource["verbs"] = json!(verbs);
    }
    t.note("resources", &resources);
    t.note("group", &target.get("/apis/conformance.multihome.io").await);
    t.say("a group that is not there", target.get("/apis/nothing.example").await.code);
    t.say("a version that is not there", target.get("/apis/conformance.multihome.io/v9").await.code);
    t.say("a kind that is not there", target.get(&format!("{WIDGETS}/gadgets")).await.code);
    let versions = target.get("/api").await;
    t.say("core", json!([versions.body["kind"], versions.body["versions"]]));
    let groups = target.get("/apis").await;
    let ours =
        groups.body["groups"].as_array().unwrap().iter().find(|g| g["name"] == "conformance.multihome.io").cloned();
    t.say("our group among all", ours.unwrap_or_default());
    let core = target.get("/api/v1").await;
    for name in ["namespaces", "nodes", "events", "secrets", "configmaps", "serviceaccounts"] {
        let r =
            core.body["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap_or_default();
        t.say(name, json!([r["kind"], r["namespaced"], r["shortNames"]]));
    }
    let crd =
        target.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.conformance.multihome.io").await;
    let mut conditions: Vec<Value> = crd.body["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| json!([c["type"], c["status"], c["reason"]]))
        .collect();
    conditions.sort_by_key(Value::to_string);
    t.say(
        "definition",
        json!([
            crd.code,
            crd.body["spec"]["names"],
            crd.body["spec"]["scope"],
            conditions,
            crd.body["status"]["storedVersions"]
        ]),
    );
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = target.get(path).await;
        t.say(path, json!([answer.code, answer.body]));
    }
    t
}
