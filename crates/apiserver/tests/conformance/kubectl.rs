//! What a person sees: kubectl's own words on either server.

use crate::target::{Target, Transcript, normalized};
use regex_lite::Regex;
use serde_json::json;
use std::sync::LazyLock;

pub const WIDGET: &str = r#"
apiVersion: conformance.multihome.io/v1
kind: Widget
metadata:
  name: shown
  labels: {side: left}
spec:
  color: red
  parts: [{name: wheel}]
"#;

static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b\d+(ms|s|m|h|d)\b").expect("a pattern"));
static UID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b").expect("a pattern"));
static VERSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?i)(resource ?version: *)"?\d+"?"#).expect("a pattern"));

/// kubectl's output without what differs from run to run.
fn told(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| {
        // First, because a part of one may look like an age: 445d.
        let line = UID.replace_all(line, "<uid>");
        let line = AGE.replace_all(&line, "<age>");
        let line = VERSION.replace_all(&line, "$1<version>");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    // the server's version is not what is compared
    let lines = lines.filter(|l| !l.starts_with("WARNING: version difference"));
    // kubectl since 1.35 says where something was deleted.
    lines
        .map(|l| match l.split_once("\" deleted from ") {
            Some((what, _)) => format!("{what}\" deleted"),
            None => l,
        })
        .collect()
}

struct Shell<'a> {
    target: &'a Target,
    transcript: Transcript,
}

impl Shell<'_> {
    fn run(&mut self, args: &[&str], stdin: &str) {
        let (ok, out, err) = self.target.kubectl(args, stdin);
        self.transcript.say(&args.join(" "), normalized(json!({"ok": ok, "out": told(&out), "err": told(&err)})));
    }
}

pub async fn get_and_describe(target: &Target) -> Transcript {
    let mut s = Shell { target, transcript: Transcript::default() };
    target.namespace("kubectl-get").await;
    s.run(&["-n", "kubectl-get", "create", "-f", "-"], WIDGET);
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    s.run(&["-n", "kubectl-get", "patch", "widget", "shown", "--subresource=status", "--type=merge", "-p", ready], "");
    for args in [
        &["get", "widgets"][..],
        &["get", "wd"],
        &["get", "widget", "shown", "-o", "wide"],
        &["get", "wd", "shown", "-o", "yaml"],
        &["get", "wd", "shown", "-o", "jsonpath={.spec.parts[0].count}"],
        &["get", "wd", "-o", "name"],
        &["get", "gadgets", "-o", "name"],
        &["get", "wd", "--show-labels"],
        &["get", "wd", "-l", "side=left", "--no-headers"],
        &["get", "wd", "-l", "side=right"],
        &["get", "wd", "--sort-by=.metadata.name"],
        &["get", "wd", "-o", "custom-columns=NAME:.metadata.name,COLOR:.spec.color"],
        &["get", "wd", "nothing"],
        &["get", "nonsense"],
        &["describe", "wd", "shown"],
        &["wait", "--for=condition=Ready", "wd/shown", "--timeout=5s"],
        &["wait", "--for=condition=Nonsense", "wd/shown", "--timeout=1s"],
        &["wait", "--for=jsonpath={.spec.color}=red", "wd/shown", "--timeout=5s"],
        &["get", "wd", "--watch", "--request-timeout=2s"],
        &["delete", "wd", "shown"],
        &["delete", "wd", "shown", "--ignore-not-found"],
        &["get", "wd"],
    ] {
        s.run(&[&["-n", "kubectl-get"], args].concat(), "");
    }
    s.run(&["wait", "--for=condition=Established", "crd/widgets.conformance.multihome.io", "--timeout=5s"], "");
    s.run(&["api-resources", "--api-group=conformance.multihome.io"], "");
    s.run(&["get", "--raw", "/readyz"], "");
    s.transcript
}

pub async fn apply_and_patch(target: &Target) -> Transcript {
    let mut s = Shell { target, transcript: Transcript::default() };
    target.namespace("kubectl-apply").await;
    s.run(&["-n", "kubectl-apply", "apply", "-f", "-"], WIDGET);
    s.run(&["-n", "kubectl-apply", "apply", "-f", "-"], WIDGET);
    s.run(
        &["-n", "kubectl-apply", "apply", "-f", "-"],
        &WIDGET.replace("color: red", "color: blue").replace("  parts: [{name: wheel}]\n", ""),
    );
    s.run(&["-n", "kubectl-apply", "get", "wd", "shown", "-o", "jsonpath={.spec}"], "");
    for args in [
        &["patch", "wd", "shown", "--type=merge", "-p", r#"{"spec":{"size":20}}"#][..],
        &["patch", "wd", "shown", "--type=merge", "-p", r#"{"spec":{"size":20}}"#],
        &["patch", "wd", "shown", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/size","value":21}]"#],
        &["patch", "wd", "shown", "--type=merge", "-p", r#"{"spec":{"size":0}}"#],
        &["label", "wd", "shown", "a=b"],
        &["label", "wd", "shown", "a=c"],
        &["label", "wd", "shown", "a=c", "--overwrite"],
        &["label", "wd", "shown", "a-"],
        &["annotate", "wd", "shown", "note=text"],
        &["apply", "view-last-applied", "wd", "shown"],
        &["delete", "wd", "--all"],
    ] {
        s.run(&[&["-n", "kubectl-apply"], args].concat(), "");
    }
    s.run(&["-n", "kubectl-apply", "apply", "-f", "-", "--dry-run=server"], WIDGET);
    s.run(&["-n", "kubectl-apply", "get", "wd"], "");
    s.run(&["-n", "kubectl-apply", "create", "-f", "-"], WIDGET);
    s.run(&["-n", "kubectl-apply", "replace", "-f", "-"], &WIDGET.replace("red", "green"));
    let editor = [("EDITOR", "sed -i s/green/blue/")];
    let (ok, out, err) = target.kubectl_with(&["-n", "kubectl-apply", "edit", "wd", "shown"], "", &editor);
    s.transcript.say("edit", json!([ok, told(&out), told(&err)]));
    s.run(&["-n", "kubectl-apply", "delete", "-f", "-"], WIDGET);
    s.transcript
}

pub async fn core_kinds(target: &Target) -> Transcript {
    let mut s = Shell { target, transcript: Transcript::default() };
    let file = target.dir.path().join("secret.txt");
    std::fs::write(&file, "hidden").expect("a file");
    s.run(&["create", "namespace", "kubectl-core"], "");
    s.run(&["create", "namespace", "kubectl-core"], "");
    for args in [
        &["create", "configmap", "c", "--from-literal=a=b"][..],
        &["create", "secret", "generic", "s", "--from-literal=a=b"],
        &["create", "serviceaccount", "robot"],
        &["get", "configmap", "c", "-o", "jsonpath={.data}"],
        &["get", "secret", "s"],
        &["describe", "secret", "s"],
        &["get", "events"],
        &["delete", "secret", "s"],
    ] {
        s.run(&[&["-n", "kubectl-core"], args].concat(), "");
    }
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: b}\n";
    s.run(&["-n", "kubectl-core", "apply", "-f", "-"], config);
    s.run(&["-n", "kubectl-core", "apply", "-f", "-"], &config.replace("a: b", "a: c, d: e"));
    s.run(&["-n", "kubectl-core", "apply", "-f", "-"], &config.replace("a: b", "d: e"));
    s.run(&["-n", "kubectl-core", "get", "cm", "applied", "-o", "jsonpath={.data}"], "");
    s.run(&["-n", "kubectl-core", "patch", "cm", "applied", "-p", r#"{"data":{"x":"y"}}"#], "");
    s.run(&["get", "ns", "kubectl-core"], "");
    s.run(&["auth", "can-i", "create", "widgets.conformance.multihome.io"], "");
    s.run(&["delete", "namespace", "kubectl-core", "--timeout=30s"], "");
    s.run(&["get", "ns", "kubectl-core"], "");
    s.transcript
}

pub async fn refusals(target: &Target) -> Transcript {
    let mut s = Shell { target, transcript: Transcript::default() };
    target.namespace("kubectl-no").await;
    for (from, to) in [
        ("color: red", "color: pink"),
        ("color: red", "color: red\n  size: 0"),
        ("name: shown", "name: Shown"),
        ("side: left", "side: 'to the left'"),
    ] {
        s.run(&["-n", "kubectl-no", "create", "--validate=false", "-f", "-"], &WIDGET.replace(from, to));
    }
    s.run(&["-n", "nowhere", "create", "-f", "-"], WIDGET);
    s.run(&["-n", "kubectl-no", "create", "-f", "-"], WIDGET);
    s.run(&["-n", "kubectl-no", "create", "-f", "-"], WIDGET);
    s.run(&["-n", "kubectl-no", "delete", "wd", "nothing"], "");
    s.run(&["-n", "kubectl-no", "patch", "wd", "shown", "-p", "{}"], "");
    s.run(&["delete", "ns", "default"], "");
    s.transcript
}
