//! Giving an object the shape of its schema: unknown fields dropped (and named), defaults filled in.

use super::{Additional, Schema, within};
use serde_json::{Map, Value};

/// Drops fields that the schema does not know and returns their paths. `metadata`, `apiVersion` and `kind` of the root
/// and of embedded resources are left alone.
pub(crate) fn prune(schema: &Schema, object: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    node(schema, object, true, &mut String::new(), &mut dropped);
    dropped
}

fn node(s: &Schema, value: &mut Value, resource: bool, path: &mut String, dropped: &mut Vec<String>) {
    match value {
        Value::Object(map) => object(s, map, resource || s.embedded_resource, path, dropped),
        Value::Array(items) => {
            if let Some(child) = &s.items {
                for (at, item) in items.iter_mut().enumerate() {
                    within(path, &format!("[{at}]"), |path| node(child, item, false, path, dropped));
                }
            }
        }
        _ => {}
    }
}

fn object(s: &Schema, map: &mut Map<String, Value>, resource: bool, path: &mut String, dropped: &mut Vec<String>) {
    let keep = |name: &str| {
        (resource && matches!(name, "apiVersion" | "kind" | "metadata"))
            || s.property(name).is_some()
            || s.preserve_unknown
            || !matches!(s.additional, Additional::Unspecified)
    };
    let unknown: Vec<String> = map.keys().filter(|k| !keep(k)).cloned().collect();
    for name in unknown {
        map.shift_remove(&name);
        dropped.push(within(path, &name, |p| p.clone()));
    }
    for (name, value) in map.iter_mut() {
        if resource && name == "metadata" {
            continue;
        }
        match (s.property(name), &s.additional) {
            (Some(child), _) => within(path, name, |path| node(child, value, false, path, dropped)),
            (None, Additional::Schema(child)) => within(path, name, |path| node(child, value, false, path, dropped)),
            (None, _) => {}
        }
    }
}

/// Fills in defaults where a property is absent, or null where null is not allowed.
pub(crate) fn default(s: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, child) in &s.properties {
                let absent = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !child.nullable && child.default.is_some(),
                    Some(_) => false,
                };
                if let (true, Some(value)) = (absent, &child.default) {
                    map.insert(name.clone(), value.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    default(child, value);
                }
            }
            if let Additional::Schema(child) = &s.additional {
                for (_, value) in map.iter_mut().filter(|(name, _)| s.property(name).is_none()) {
                    default(child, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &s.items {
                items.iter_mut().for_each(|item| default(child, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::compile(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "integer", "default": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"k": {"type": "object", "properties": {}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"b": {"type": "string", "default": "B"}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string"}}}},
                "inner": {"type": "object", "default": {}, "properties": {"d": {"type": "string", "default": "D"}}},
            }},
        }})).unwrap()
    }

    #[test]
    fn prunes_and_names() {
        let mut v = json!({"apiVersion": "x", "metadata": {"any": 1}, "top": 1, "spec": {
            "no": 1, "free": {"yes": 1, "k": {"no": 1}}, "map": {"m": {"b": "b", "no": 2}}, "list": [{"c": ""}, {"no": 3}]}});
        let dropped = prune(&schema(), &mut v);
        assert_eq!(dropped, ["top", "spec.no", "spec.free.k.no", "spec.map.m.no", "spec.list[1].no"]);
        assert_eq!(v["spec"], json!({"free": {"yes": 1, "k": {}}, "map": {"m": {"b": "b"}}, "list": [{"c": ""}, {}]}));
    }

    #[test]
    fn defaults() {
        let mut v = json!({"spec": {"map": {"m": {}}, "a": null}});
        default(&schema(), &mut v);
        assert_eq!(v["spec"], json!({"map": {"m": {"b": "B"}}, "a": 3, "inner": {"d": "D"}}));
        let mut absent = json!({});
        default(&schema(), &mut absent);
        assert_eq!(absent, json!({}));
    }

    proptest! {
        #[test]
        fn pruning_twice_is_pruning_once(keys in proptest::collection::vec("[a-d]|spec|list|map", 1..6)) {
            let s = schema();
            let mut v = json!(1);
            for key in keys.iter().rev() {
                v = json!({ key.as_str(): v.clone(), "list": [v] });
            }
            prune(&s, &mut v);
            let once = v.clone();
            prop_assert!(prune(&s, &mut v).is_empty());
            prop_assert_eq!(once, v);
        }
    }
}
