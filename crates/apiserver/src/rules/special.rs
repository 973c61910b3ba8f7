//! Where built-in kinds differ from custom ones in what a write means: namespaces, secrets, config maps, events.

use super::Context;
use super::update::Part;
use crate::builtin::OWN_NAMESPACES;
use crate::error::{ApiError, Cause};
use crate::meta;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What keeps a namespace until it is empty.
pub(crate) const NAMESPACE_FINALIZER: &str = "kubernetes";
/// The label that repeats a namespace's name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Fills in what the server decides about a new object.
pub(crate) fn before_create(ctx: Context, object: &mut Value) {
    if !ctx.served().built_in {
        return;
    }
    match ctx.served().spec.kind.as_str() {
        "Namespace" => {
            object["spec"] = json!({"finalizers": [NAMESPACE_FINALIZER]});
            object["status"] = json!({"phase": "Active"});
            label_namespace(object);
        }
        "Secret" => {
            merge_string_data(object);
            if object.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
                object["type"] = "Opaque".into();
            }
        }
        _ => {}
    }
}

/// Keeps or derives what a client may not change.
pub(crate) fn before_update(ctx: Context, before: &Value, new: &mut Value, part: Part) {
    if !ctx.served().built_in {
        return;
    }
    match ctx.served().spec.kind.as_str() {
        "Namespace" if part == Part::Finalize => {
            let finalizers = new.pointer_mut("/spec/finalizers").map(Value::take).unwrap_or_default();
            *new = before.clone();
            match finalizers {
                Value::Array(list) if !list.is_empty() => new["spec"]["finalizers"] = Value::Array(list),
                _ => {
                    new["spec"].as_object_mut().map(|spec| spec.shift_remove("finalizers"));
                }
            }
        }
        "Namespace" => {
            new["spec"] = before["spec"].clone();
            label_namespace(new);
        }
        "Secret" => {
            merge_string_data(new);
            if new.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
                new["type"] = before["type"].clone();
            }
        }
        _ => {}
    }
}

fn label_namespace(object: &mut Value) {
    let name = meta::text(object, "name").to_owned();
    let labels = meta::of_mut(object).entry("labels").or_insert_with(|| Value::Object(Map::new()));
    labels[NAMESPACE_LABEL] = name.into();
    meta::reorder(object);
}

/// `stringData` is written into `data` and not kept.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|map| map.shift_remove("stringData")) else {
        return;
    };
    if !object["data"].is_object() {
        object["data"] = json!({});
    }
    for (key, value) in plain {
        object["data"][key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
}

/// What is wrong with an object beyond metadata and schema.
pub(crate) fn validate(ctx: Context, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut out = Vec::new();
    if !ctx.served().built_in {
        return out;
    }
    match ctx.served().spec.kind.as_str() {
        kind @ ("Secret" | "ConfigMap") => {
            data(kind, new, &mut out);
            if let Some(old) = old {
                kept(kind, old, new, &mut out);
            }
        }
        "Event" => {
            let wanted = meta::text(new, "namespace");
            let given = new["involvedObject"]["namespace"].as_str().unwrap_or_default();
            // events about cluster-wide objects live in a namespace of the system
            if given != wanted && !(given.is_empty() && OWN_NAMESPACES.contains(&wanted)) {
                out.push(Cause::invalid("involvedObject.namespace", &json!(given), "does not match event.namespace"));
            }
        }
        _ => {}
    }
    out
}

fn data(kind: &str, object: &Value, out: &mut Vec<Cause>) {
    for field in ["data", "binaryData"] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let path = format!("{field}[{key}]");
            let fine = !key.is_empty()
                && key.len() <= 253
                && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !matches!(key.as_str(), "." | "..")
                && !key.starts_with("..");
            if !fine {
                let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                out.push(Cause::invalid(&path, &json!(key), why));
            }
            if (kind == "Secret" || field == "binaryData") && value.as_str().is_none_or(|v| STANDARD.decode(v).is_err())
            {
                out.push(Cause::invalid(path, &json!("<redacted>"), "illegal base64 data"));
            }
        }
    }
}

/// What an immutable object or a secret's type must keep.
fn kept(kind: &str, old: &Value, new: &Value, out: &mut Vec<Cause>) {
    if kind == "Secret" && old["type"] != new["type"] {
        out.push(Cause::invalid("type", &new["type"], "field is immutable"));
    }
    if old["immutable"] == true {
        if new["immutable"] != true {
            out.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
        }
        for field in ["data", "binaryData"] {
            if old[field] != new[field] {
                out.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
}

/// Whether something besides metadata's finalizers keeps a marked object.
pub(crate) fn holds(ctx: Context, object: &Value) -> bool {
    ctx.served().is_core("Namespace") && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// Some objects are not to be deleted.
pub(crate) fn may_delete(ctx: Context, object: &Value) -> Result<(), ApiError> {
    if !ctx.served().is_core("Namespace") {
        return Ok(());
    }
    let name = meta::text(object, "name");
    if OWN_NAMESPACES.contains(&name) {
        return Err(ApiError::forbidden(ctx.about(name), "this namespace may not be deleted"));
    }
    Ok(())
}

/// What else changes when an object is marked for deletion.
pub(crate) fn on_mark(ctx: Context, object: &mut Value) {
    if ctx.served().is_core("Namespace") {
        object["status"]["phase"] = "Terminating".into();
        let map = meta::of_mut(object);
        map.shift_remove("deletionGracePeriodSeconds");
    }
}
