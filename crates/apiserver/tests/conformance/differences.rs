//! Where the embedded server answers as today's Kubernetes does, and the real server of the suite, 1.20, as it did then.
//! Everything else must be the same. The real server's answers are brought up to date here before they are compared.

use super::target::Transcript;
use regex_lite::Regex;
use serde_json::Value;
use std::sync::LazyLock;

/// Sentences that later releases changed: then, now.
const WORDING: &[(&str, &str)] = &[
    // the place in a list is named since 1.22
    ("spec.parts.name", "spec.parts[0].name"),
    // the embedded server does not know server-side apply
    (", application/apply-patch+yaml", ""),
    // Go's way of printing a time
    ("2020-01-01 00:00:00 +0000 UTC", "\"<time>\""),
    ("a DNS-1123 subdomain must", "a lowercase RFC 1123 subdomain must"),
    ("a DNS-1123 label must", "a lowercase RFC 1123 label must"),
];

/// Where etcd keeps an object is nobody's business.
static STORAGE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"StorageError: invalid object, Code: \d+, Key: \S+, ResourceVersion: \d+, AdditionalErrorMsg: ")
        .expect("a pattern")
});

/// Applies the list.
pub fn adapt(transcript: Transcript) -> Transcript {
    Transcript(transcript.0.into_iter().map(step).collect())
}

fn step(mut step: Value) -> Value {
    walk(&mut step);
    step
}

fn walk(value: &mut Value) {
    match value {
        Value::String(text) => {
            *text = STORAGE.replace_all(text, "").into_owned();
            for (then, now) in WORDING {
                *text = text.replace(then, now);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Object(map) => {
            if let Some(Value::Array(causes)) = map.get_mut("causes") {
                // some rules were checked twice
                causes.dedup();
                for cause in
                    causes.iter_mut().filter(|c| c["message"].as_str().is_some_and(|m| m.contains("must be of type")))
                {
                    // since 1.22 a wrong type has a reason of its own
                    cause["reason"] = "FieldValueTypeInvalid".into();
                }
            }
            // since 1.21 every namespace carries its name as a label
            let is_namespace = map.get("kind").is_some_and(|k| k == "Namespace") && map.contains_key("spec");
            if let (true, Some(Value::Object(meta))) = (is_namespace, map.get_mut("metadata")) {
                let name = meta.get("name").cloned().unwrap_or_default();
                let labels = meta.entry("labels").or_insert_with(|| Value::Object(serde_json::Map::new()));
                labels["kubernetes.io/metadata.name"] = name;
            }
            map.values_mut().for_each(walk);
        }
        _ => {}
    }
}
