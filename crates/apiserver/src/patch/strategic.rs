//! Strategic merge patch for the built-in kinds: a faithful subset, driven by a table of merge keys instead of Go struct tags.
//!
//! Lists in [`MERGE`] are merged by key or as sets, all others are replaced. `$patch: replace|delete|merge`, `$retainKeys`,
//! `$deleteFromPrimitiveList/…` and `$setElementOrder/…` are understood.

use serde_json::{Map, Value};

/// Lists that merge: the field's name, and the key of its items (`None`: a list of scalars, merged as a set).
const MERGE: &[(&str, Option<&str>)] = &[
    ("finalizers", None),
    ("ownerReferences", Some("uid")),
    ("conditions", Some("type")),
    ("addresses", Some("type")),
    ("secrets", Some("name")),
    ("podCIDRs", None),
];

/// Whether a list merges, and by which key.
pub(crate) fn strategy(field: &str) -> Option<Option<&'static str>> {
    MERGE.iter().find(|(name, _)| *name == field).map(|(_, key)| *key)
}

/// Applies `patch` to `target`.
pub(crate) fn apply(target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        return Err("cannot restore struct from: a patch that is not an object".into());
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return Ok(()) };
    map(target, patch)
}

fn map(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    match patch.get("$patch").map(|v| v.as_str().unwrap_or("?")) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(_) => return Err("unknown patch type found in the $patch directive".into()),
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| keep.iter().any(|k| k == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().ok_or("$deleteFromPrimitiveList must be a list")?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !name.starts_with('$') {
            field(target, name, value)?;
        }
    }
    for (name, order) in patch {
        if let (Some(list), Some(order)) = (name.strip_prefix("$setElementOrder/"), order.as_array())
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            sort(items, order, strategy(list).flatten());
        }
    }
    Ok(())
}

fn field(target: &mut Map<String, Value>, name: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Null => {
            target.shift_remove(name);
        }
        Value::Object(patch) => {
            if patch.get("$patch").and_then(Value::as_str) == Some("delete") {
                target.shift_remove(name);
                return Ok(());
            }
            let entry = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(inner) = entry {
                map(inner, patch)?;
            }
        }
        Value::Array(patch) => match strategy(name) {
            None => {
                target.insert(name.into(), value.clone());
            }
            Some(key) => {
                let entry = target.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if !entry.is_array() {
                    *entry = Value::Array(Vec::new());
                }
                if let Value::Array(items) = entry {
                    list(items, patch, key)?;
                }
            }
        },
        other => {
            target.insert(name.into(), other.clone());
        }
    }
    Ok(())
}

fn list(items: &mut Vec<Value>, patch: &[Value], key: Option<&str>) -> Result<(), String> {
    let Some(key) = key else {
        for value in patch {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        return Ok(());
    };
    let directive = |v: &Value| v.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|v| directive(v).as_deref() == Some("replace") && v.get(key).is_none()) {
        *items = patch.iter().filter(|v| directive(v).is_none()).cloned().collect();
        return Ok(());
    }
    for value in patch {
        let Value::Object(change) = value else {
            return Err(format!("an item of a list that merges by {key} is not an object"));
        };
        let id = change.get(key).ok_or_else(|| format!("map: {value} does not contain declared merge key: {key}"))?;
        let at = items.iter().position(|item| item.get(key) == Some(id));
        match (directive(value).as_deref(), at) {
            (Some("delete"), at) => {
                if let Some(at) = at {
                    items.remove(at);
                }
            }
            (_, Some(at)) => apply(&mut items[at], value)?,
            (_, None) => {
                let mut fresh = Map::new();
                map(&mut fresh, change)?;
                items.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Items named in `order` come in that order, the others keep their place behind the ones they followed.
fn sort(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|o| match key {
            Some(key) => o.get(key).is_some() && o.get(key) == item.get(key),
            None => o == item,
        })
    };
    let mut last = 0;
    let mut ranks: Vec<(usize, usize)> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        if let Some(rank) = rank(item) {
            last = rank + 1;
        }
        ranks.push((rank(item).map_or(last, |r| r + 1), at));
    }
    ranks.sort_unstable();
    let sorted: Vec<Value> = ranks.iter().map(|(_, at)| items[*at].clone()).collect();
    items.clone_from_slice(&sorted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(mut target: Value, patch: Value) -> Value {
        apply(&mut target, &patch).unwrap();
        target
    }

    #[test]
    fn lists_with_keys_merge() {
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Disk", "status": "True"}]}});
        let got = patched(
            node,
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}, {"$patch": "delete", "type": "Disk"}]}}),
        );
        assert_eq!(
            got["status"]["conditions"],
            json!([{"type": "Ready", "status": "True", "reason": "x"}, {"type": "New", "status": "True"}])
        );
    }

    #[test]
    fn finalizers_are_a_set() {
        let got = patched(json!({"metadata": {"finalizers": ["a"]}}), json!({"metadata": {"finalizers": ["a", "b"]}}));
        assert_eq!(got["metadata"]["finalizers"], json!(["a", "b"]));
        let got = patched(
            got,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}}),
        );
        assert_eq!(got["metadata"]["finalizers"], json!(["b"]));
    }

    #[test]
    fn directives() {
        assert_eq!(
            patched(json!({"a": {"x": 1}}), json!({"a": {"$patch": "replace", "y": 2}})),
            json!({"a": {"y": 2}})
        );
        assert_eq!(patched(json!({"a": {"x": 1}}), json!({"a": {"$patch": "delete"}})), json!({}));
        assert_eq!(
            patched(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"$retainKeys": ["y"], "y": 3}})),
            json!({"a": {"y": 3}})
        );
        assert_eq!(patched(json!({"a": [1, 2]}), json!({"a": [3]})), json!({"a": [3]}));
        assert_eq!(patched(json!({"a": 1}), json!({"a": null, "b": {"c": 1}})), json!({"b": {"c": 1}}));
        let ordered = json!({"conditions": [{"type": "a"}, {"type": "b"}, {"type": "c"}]});
        let order = json!({"$setElementOrder/conditions": [{"type": "c"}, {"type": "a"}], "conditions": []});
        assert_eq!(patched(ordered, order)["conditions"], json!([{"type": "c"}, {"type": "a"}, {"type": "b"}]));
    }
}
