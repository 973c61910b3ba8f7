//! Applying a patch to an object: JSON Patch, JSON Merge Patch and strategic merge patch. Pure: no store, no rules of metadata.

pub(crate) mod strategic;

use crate::error::{About, ApiError};
use serde_json::Value;

/// Kubernetes' limit on the operations of one JSON patch.
const MAX_OPERATIONS: usize = 10_000;

/// The kinds of patch, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    /// The content types that a kind accepts, as listed in the refusal of another one.
    pub fn accepted(strategic: bool) -> &'static str {
        if strategic {
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
        } else {
            "application/json-patch+json, application/merge-patch+json"
        }
    }

    pub fn parse(content_type: &str, strategic: bool) -> Result<Self, ApiError> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if strategic => Ok(Self::Strategic),
            _ => Err(ApiError::unsupported_media_type(Self::accepted(strategic))),
        }
    }
}

/// The patched object.
pub(crate) fn apply(kind: PatchKind, patch: &Value, object: &Value) -> Result<Value, ApiError> {
    let mut result = object.clone();
    match kind {
        PatchKind::Merge => {
            if !patch.is_object() {
                return Err(ApiError::bad_request("error decoding patch: the patch must be an object"));
            }
            merge(&mut result, patch);
        }
        PatchKind::Json => {
            let patch: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            if patch.0.len() > MAX_OPERATIONS {
                let why = format!(
                    "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                    patch.0.len()
                );
                return Err(ApiError::new(413, "RequestEntityTooLarge", why));
            }
            // Kubernetes' own sentence; what exactly failed is a cause of it
            json_patch::patch(&mut result, &patch).map_err(|e| {
                ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
                    .with_causes(vec![crate::error::Cause::new("", "UnexpectedServerResponse", e.to_string())])
            })?;
        }
        PatchKind::Strategic => strategic::apply(&mut result, patch).map_err(ApiError::bad_request)?,
    }
    if result.is_object() { Ok(result) } else { Err(ApiError::invalid(About::default(), Vec::new())) }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn rfc_7396_examples() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": [1]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (target, patch, wanted) in cases {
            assert_eq!(apply(PatchKind::Merge, &patch, &target).unwrap(), wanted);
        }
    }

    #[test]
    fn json_patch_errors_are_kubernetes_own() {
        let target = json!({"a": 1});
        let failed = apply(PatchKind::Json, &json!([{"op": "test", "path": "/a", "value": 2}]), &target).unwrap_err();
        assert_eq!((failed.code, failed.reason.as_str()), (422, "Invalid"));
        let garbled = apply(PatchKind::Json, &json!([{"op": "nonsense"}]), &target).unwrap_err();
        assert_eq!((garbled.code, garbled.reason.as_str()), (400, "BadRequest"));
        assert_eq!(
            apply(PatchKind::Json, &json!([{"op": "add", "path": "/b", "value": 2}]), &target).unwrap(),
            json!({"a": 1, "b": 2})
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(target in value(), patch in value()) {
            let mut once = target;
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            prop_assert_eq!(once, twice);
        }
    }
}
