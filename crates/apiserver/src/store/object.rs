//! An object as it is held in memory: its JSON without `apiVersion` and `kind`, and what is needed often enough to be kept parsed.

use crate::meta;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace (empty for cluster-wide kinds) and name: the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// A stored object. Immutable; an update makes a new one.
#[derive(Debug)]
pub(crate) struct Object {
    pub key: Key,
    /// The resource version of the write that made this state.
    pub version: u64,
    pub uid: Box<str>,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The uids of its owners.
    pub owners: Box<[Box<str>]>,
    pub terminating: bool,
    /// The whole object as a JSON object, except `apiVersion` and `kind`, which depend on what a client asks for.
    pub body: Bytes,
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    metadata: StoredMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMeta<'a> {
    #[serde(borrow, default)]
    uid: std::borrow::Cow<'a, str>,
    #[serde(default)]
    resource_version: std::borrow::Cow<'a, str>,
    #[serde(default)]
    labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(default)]
    owner_references: Vec<StoredOwner>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct StoredOwner {
    uid: Box<str>,
}

impl Object {
    /// Takes a value as it is to be stored; its resource version is set to `version`.
    pub fn new(key: Key, version: u64, value: &mut Value) -> Self {
        let version_text = version.to_string();
        let fresh = meta::of_mut(value).insert("resourceVersion".into(), version_text.into()).is_none();
        if fresh {
            meta::reorder(value);
        }
        let mut labels: Vec<(Box<str>, Box<str>)> = Vec::new();
        if let Some(Value::Object(map)) = meta::of(value).get("labels") {
            labels.extend(map.iter().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))));
            labels.sort_unstable();
        }
        let owners = meta::of(value).get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
        Self {
            key,
            version,
            uid: meta::text(value, "uid").into(),
            labels: labels.into(),
            owners: owners.filter_map(|o| o["uid"].as_str().map(Into::into)).collect(),
            terminating: meta::is_terminating(value),
            body: body_of(value),
        }
    }

    /// Reads an object back from what was stored.
    pub fn load(key: Key, body: Vec<u8>) -> Result<Self, serde_json::Error> {
        let stored: Stored = serde_json::from_slice(&body)?;
        let meta = stored.metadata;
        Ok(Self {
            key,
            version: meta.resource_version.parse().unwrap_or(0),
            uid: meta.uid.into(),
            labels: meta.labels.into_iter().collect(),
            owners: meta.owner_references.into_iter().map(|o| o.uid).collect(),
            terminating: meta.deletion_timestamp.is_some(),
            body: body.into(),
        })
    }

    /// The object as a value, without `apiVersion` and `kind`.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body)
            .expect("stored objects are JSON: they were serialized here or parsed when loaded")
    }

    /// The object as a value, with `apiVersion` and `kind` in front.
    pub fn typed_value(&self, api_version: &str, kind: &str) -> Value {
        let mut map = Map::new();
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
        if let Value::Object(rest) = self.value() {
            map.extend(rest);
        }
        Value::Object(map)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(name)).ok().map(|at| &*self.labels[at].1)
    }

    /// A rough weight in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.body.len() + 200
    }
}

/// The JSON of an object without `apiVersion` and `kind`.
fn body_of(value: &Value) -> Bytes {
    struct Rest<'a>(&'a Map<String, Value>);
    impl serde::Serialize for Rest<'_> {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_map(self.0.iter().filter(|(k, _)| *k != "apiVersion" && *k != "kind"))
        }
    }
    let empty = Map::new();
    let rest = Rest(value.as_object().unwrap_or(&empty));
    serde_json::to_vec(&rest).expect("a JSON value always serializes").into()
}

/// What stands before [`Object::body`]'s first member in an answer: `{"apiVersion":…,"kind":…,`.
pub(crate) fn prefix(api_version: &str, kind: &str) -> Vec<u8> {
    format!("{{\"apiVersion\":{},\"kind\":{},", Value::from(api_version), Value::from(kind)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn loading_gives_back_what_was_made() {
        let mut value = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n", "uid": "u", "labels": {"b": "2", "a": "1"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "ou"}], "deletionTimestamp": "2020-01-01T00:00:00Z"}, "spec": {}});
        let made = Object::new(Key::new("ns", "n"), 7, &mut value);
        let read = Object::load(made.key.clone(), made.body.to_vec()).unwrap();
        assert_eq!(
            (read.version, &read.uid, &read.labels, &read.owners, read.terminating),
            (7, &made.uid, &made.labels, &made.owners, true)
        );
        assert_eq!(made.typed_value("v2", "X")["apiVersion"], "v2");
        assert_eq!(made.label("b"), Some("2"));
        assert!(made.body.starts_with(br#"{"metadata":{"name":"n""#));
    }
}
