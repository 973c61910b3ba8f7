//! The rules of `metadata`: what it may hold, what a name, a label or a finalizer may be, what may change in an update.
//!
//! Works on JSON; knows neither the store nor any kind.

use crate::error::{ApiError, Cause};
use serde_json::{Map, Value, json};

/// What Kubernetes allows all annotations of one object to weigh together, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// The finalizer that keeps an object until what it owns is gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an object until what it owns has been let go.
pub(crate) const ORPHAN: &str = "orphan";

type Object = Map<String, Value>;

/// The `metadata` of an object that has been through [`normalize`].
pub(crate) fn of(object: &Value) -> &Object {
    static EMPTY: std::sync::LazyLock<Object> = std::sync::LazyLock::new(Object::new);
    object.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// The `metadata` of an object, made if it is absent.
pub(crate) fn of_mut(object: &mut Value) -> &mut Object {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Object::new());
    }
    object["metadata"].as_object_mut().expect("metadata was just made an object")
}

/// A string field of `metadata`, empty where absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    of(object).get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    of(object).get("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

pub(crate) fn has_finalizer(object: &Value, name: &str) -> bool {
    finalizers(object).any(|f| f == name)
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    of(object).contains_key("deletionTimestamp")
}

pub(crate) fn set_finalizers(object: &mut Value, list: Vec<String>) {
    let meta = of_mut(object);
    if list.is_empty() {
        meta.shift_remove("finalizers");
    } else {
        meta.insert("finalizers".into(), list.into());
    }
}

/// The fields of ObjectMeta in the order they are answered in, with what they hold.
const FIELDS: &[(&str, Holds)] = &[
    ("name", Holds::Text),
    ("generateName", Holds::Text),
    ("namespace", Holds::Text),
    ("uid", Holds::Text),
    ("resourceVersion", Holds::Text),
    ("generation", Holds::Integer),
    ("creationTimestamp", Holds::Time),
    ("deletionTimestamp", Holds::Time),
    ("deletionGracePeriodSeconds", Holds::Integer),
    ("labels", Holds::TextMap),
    ("annotations", Holds::TextMap),
    ("ownerReferences", Holds::Owners),
    ("finalizers", Holds::TextList),
];

/// Known to clients, not kept by this server.
const IGNORED: &[&str] = &["managedFields", "selfLink", "clusterName"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    Integer,
    Time,
    TextMap,
    TextList,
    Owners,
}

/// Puts `metadata` into order: known fields only, empty ones left out, types checked.
/// Returns the paths of fields that nobody knows.
pub(crate) fn normalize(object: &mut Value) -> Result<Vec<String>, String> {
    let mut given = match object.get_mut("metadata").map(Value::take) {
        None | Some(Value::Null) => Object::new(),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(mismatch("metadata", &other, "v1.ObjectMeta")),
    };
    let mut meta = Object::new();
    let mut unknown = Vec::new();
    for (name, holds) in FIELDS {
        let value = given.shift_remove(*name).unwrap_or_default();
        if let Some(value) = checked(name, *holds, value, &mut unknown)? {
            meta.insert((*name).into(), value);
        }
    }
    unknown.extend(given.keys().filter(|k| !IGNORED.contains(&k.as_str())).map(|k| format!("metadata.{k}")));
    object["metadata"] = Value::Object(meta);
    Ok(unknown)
}

fn checked(name: &str, holds: Holds, value: Value, unknown: &mut Vec<String>) -> Result<Option<Value>, String> {
    let path = || format!("metadata.{name}");
    Ok(match (holds, value) {
        (_, Value::Null) => None,
        (Holds::Text, Value::String(text)) => (!text.is_empty()).then_some(Value::String(text)),
        (Holds::Time, Value::String(text)) => Some(
            time(&text)
                .ok_or_else(|| format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it"))?,
        ),
        (Holds::Integer, Value::Number(n)) if n.is_i64() || n.is_u64() => Some(Value::Number(n)),
        (Holds::TextMap, Value::Object(mut map)) => {
            for value in map.values_mut() {
                match value {
                    Value::String(_) => {}
                    Value::Null => *value = json!(""),
                    other => return Err(mismatch(&path(), other, "string")),
                }
            }
            (!map.is_empty()).then_some(Value::Object(map))
        }
        (Holds::TextList, Value::Array(items)) => {
            if let Some(other) = items.iter().find(|i| !i.is_string()) {
                return Err(mismatch(&path(), other, "string"));
            }
            (!items.is_empty()).then_some(Value::Array(items))
        }
        (Holds::Owners, Value::Array(items)) => {
            let mut owners = Vec::with_capacity(items.len());
            for (at, item) in items.into_iter().enumerate() {
                owners.push(owner(item, at, unknown)?);
            }
            (!owners.is_empty()).then_some(Value::Array(owners))
        }
        (holds, other) => {
            let wanted = match holds {
                Holds::Text => "string",
                Holds::Integer => "int64",
                Holds::Time => "v1.Time",
                Holds::TextMap => "map[string]string",
                Holds::TextList => "[]string",
                Holds::Owners => "[]v1.OwnerReference",
            };
            return Err(mismatch(&path(), &other, wanted));
        }
    })
}

fn owner(item: Value, at: usize, unknown: &mut Vec<String>) -> Result<Value, String> {
    let Value::Object(mut given) = item else {
        return Err(mismatch("metadata.ownerReferences", &item, "v1.OwnerReference"));
    };
    let mut owner = Object::new();
    for name in ["apiVersion", "kind", "name", "uid"] {
        match given.shift_remove(name) {
            None | Some(Value::Null) => owner.insert(name.into(), json!("")),
            Some(Value::String(text)) => owner.insert(name.into(), text.into()),
            Some(other) => return Err(mismatch(&format!("metadata.ownerReferences.{name}"), &other, "string")),
        };
    }
    for name in ["controller", "blockOwnerDeletion"] {
        match given.shift_remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(flag)) => owner.insert(name.into(), flag.into()),
            Some(other) => return Err(mismatch(&format!("metadata.ownerReferences.{name}"), &other, "bool")),
        };
    }
    unknown.extend(given.keys().map(|k| format!("metadata.ownerReferences[{at}].{k}")));
    Ok(Value::Object(owner))
}

fn mismatch(path: &str, value: &Value, wanted: &str) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {got} into Go struct field ObjectMeta.{path} of type {wanted}")
}

/// A time in the one form that Kubernetes writes: UTC, whole seconds.
fn time(text: &str) -> Option<Value> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(timestamp(time.with_timezone(&chrono::Utc)).into())
}

/// `2006-01-02T15:04:05Z`.
pub(crate) fn timestamp(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn alphanumeric(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn inside(text: &str, edge: impl Fn(char) -> bool, middle: &str) -> bool {
    text.starts_with(&edge) && text.ends_with(&edge) && text.chars().all(|c| edge(c) || middle.contains(c))
}

fn lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// RFC 1123 label: the name of a namespace.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    if inside(text, lower, "-") {
        return Ok(());
    }
    Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character \
         (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        .into())
}

/// RFC 1123 subdomain: the name of everything else.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    if !text.is_empty() && text.split('.').all(|part| inside(part, lower, "-")) {
        return Ok(());
    }
    Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
         (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        .into())
}

/// A qualified name: `name` or `prefix.example/name`.
pub(crate) fn label_key(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some(("", _)) => return Err("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|why| format!("prefix part {why}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 characters".into());
    }
    if inside(name, alphanumeric, "-_.") {
        return Ok(());
    }
    Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
         (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        .into())
}

pub(crate) fn label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    if text.is_empty() || inside(text, alphanumeric, "-_.") {
        return Ok(());
    }
    Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
         (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        .into())
}

/// What is wrong with the metadata of an object that is about to be stored. `name_rule` judges the name.
pub(crate) fn validate(object: &Value, name_rule: fn(&str) -> Result<(), String>) -> Vec<Cause> {
    let mut out = Vec::new();
    let meta = of(object);
    let name = text(object, "name");
    if name.is_empty() {
        out.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = name_rule(name) {
        out.push(Cause::invalid("metadata.name", &json!(name), why));
    }
    if let Some(Value::Object(labels)) = meta.get("labels") {
        for (key, value) in labels {
            if let Err(why) = label_key(key) {
                out.push(Cause::invalid("metadata.labels", &json!(key), why));
            }
            if let Err(why) = label_value(value.as_str().unwrap_or_default()) {
                out.push(Cause::invalid("metadata.labels", value, why));
            }
        }
    }
    if let Some(Value::Object(annotations)) = meta.get("annotations") {
        let mut weight = 0;
        for (key, value) in annotations {
            if let Err(why) = label_key(&key.to_lowercase()) {
                out.push(Cause::invalid("metadata.annotations", &json!(key), why));
            }
            weight += key.len() + value.as_str().map_or(0, str::len);
        }
        if weight > ANNOTATIONS_LIMIT {
            let message = format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes");
            out.push(Cause::new("metadata.annotations", "FieldValueTooLong", message));
        }
    }
    for finalizer in finalizers(object) {
        if let Err(why) = label_key(finalizer) {
            out.push(Cause::invalid("metadata.finalizers", &json!(finalizer), why));
        }
    }
    if has_finalizer(object, FOREGROUND) && has_finalizer(object, ORPHAN) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        out.push(Cause::invalid("metadata.finalizers", &meta["finalizers"], why));
    }
    owners(meta, &mut out);
    out
}

fn owners(meta: &Object, out: &mut Vec<Cause>) {
    let mut controller: Option<&Value> = None;
    for owner in meta.get("ownerReferences").and_then(Value::as_array).into_iter().flatten() {
        for (field, why) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                out.push(Cause::invalid(
                    format!("metadata.ownerReferences.{field}"),
                    &json!(""),
                    format!("{why} must not be empty"),
                ));
            }
        }
        if owner["controller"] == true {
            if let Some(first) = controller {
                let (first, second) =
                    (first["name"].as_str().unwrap_or_default(), owner["name"].as_str().unwrap_or_default());
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
                );
                out.push(Cause::invalid("metadata.ownerReferences", &meta["ownerReferences"], why));
            }
            controller = Some(owner);
        }
    }
}

/// Carries over what a client may leave out of an update, and says what it must not change.
/// The resource version is the caller's business.
pub(crate) fn update(old: &Value, new: &mut Value) -> Vec<Cause> {
    let mut out = Vec::new();
    let old_meta = of(old);
    let meta = of_mut(new);
    for field in ["uid", "creationTimestamp", "generateName", "generation"] {
        // generation and the time of creation are the server's alone
        if matches!(field, "generation" | "creationTimestamp") || !meta.contains_key(field) {
            match old_meta.get(field) {
                Some(value) => meta.insert(field.into(), value.clone()),
                None => meta.shift_remove(field),
            };
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let (false, Some(value)) = (meta.contains_key(field), old_meta.get(field)) {
            meta.insert(field.into(), value.clone());
        }
    }
    for field in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if meta.get(field) != old_meta.get(field) {
            out.push(Cause::invalid(
                format!("metadata.{field}"),
                meta.get(field).unwrap_or(&Value::Null),
                "field is immutable",
            ));
        }
    }
    if is_terminating(old) {
        let added: Vec<&str> = finalizers(new).filter(|f| !has_finalizer(old, f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            out.push(Cause::forbidden("metadata.finalizers", why));
        }
    }
    reorder(new);
    out
}

/// Restores the order of fields after an insertion.
pub(crate) fn reorder(object: &mut Value) {
    let meta = of_mut(object);
    let mut rest = std::mem::take(meta);
    for (name, _) in FIELDS {
        if let Some(value) = rest.shift_remove(*name) {
            meta.insert((*name).into(), value);
        }
    }
}

/// The identity that a request's path gives an object: fills name and namespace in, or says that they differ.
pub(crate) fn identify(object: &mut Value, namespace: Option<&str>, name: Option<&str>) -> Result<(), ApiError> {
    let meta = of_mut(object);
    match namespace {
        Some(namespace) => match meta.get("namespace").and_then(Value::as_str) {
            None => {
                meta.insert("namespace".into(), namespace.into());
            }
            Some(given) if given == namespace => {}
            Some(given) if name.is_some() => {
                let why = format!(
                    "the namespace of the object ({given}) does not match the namespace on the request ({namespace})"
                );
                return Err(ApiError::bad_request(why));
            }
            Some(_) => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        },
        None => {
            if meta.shift_remove("namespace").is_some() {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    if let Some(name) = name {
        match meta.get("name").and_then(Value::as_str) {
            None => {
                meta.insert("name".into(), name.into());
            }
            Some(given) if given == name => {}
            Some(given) => {
                let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(ApiError::bad_request(why));
            }
        }
    }
    reorder(object);
    Ok(())
}

/// `base` with five random characters, as Kubernetes generates names.
pub(crate) fn generate_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name: String = base.chars().take(58).collect();
    name.extend(
        uuid::Uuid::new_v4()
            .as_bytes()
            .iter()
            .rev()
            .take(5)
            .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])),
    );
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normalizing_orders_prunes_and_checks() {
        let mut o = json!({"metadata": {"labels": {"a": "b"}, "name": "n", "bogus": 1, "managedFields": [], "finalizers": [],
            "creationTimestamp": "2020-01-01T01:00:00+01:00", "ownerReferences": [{"name": "o", "x": 1}]}});
        assert_eq!(normalize(&mut o).unwrap(), ["metadata.ownerReferences[0].x", "metadata.bogus"]);
        assert_eq!(
            o["metadata"].to_string(),
            r#"{"name":"n","creationTimestamp":"2020-01-01T00:00:00Z","labels":{"a":"b"},"ownerReferences":[{"apiVersion":"","kind":"","name":"o","uid":""}]}"#
        );
        let mut wrong = json!({"metadata": {"labels": {"a": 1}}});
        assert_eq!(
            normalize(&mut wrong).unwrap_err(),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
    }

    #[test]
    fn names() {
        for good in ["a", "a-b", "a.b", "0"] {
            assert!(dns_subdomain(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", ".a", "a_b", "ä"] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
        assert!(dns_label("a.b").is_err());
        assert!(
            label_key("x.io/A_b").is_ok()
                && label_key("/a").is_err()
                && label_key("a/b/c").is_err()
                && label_key("x.io/").is_err()
        );
        assert!(label_value("").is_ok() && label_value("a b").is_err());
    }

    #[test]
    fn updates_keep_identity() {
        let old = json!({"metadata": {"name": "n", "uid": "u", "generation": 3, "creationTimestamp": "t", "deletionTimestamp": "d", "finalizers": ["a/b"]}});
        let mut new = json!({"metadata": {"name": "n", "generation": 9, "finalizers": ["a/b", "c/d"]}});
        let causes = update(&old, &mut new);
        assert_eq!(
            causes[0].message,
            r#"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"c/d"}"#
        );
        assert_eq!((new["metadata"]["uid"].as_str(), new["metadata"]["generation"].as_i64()), (Some("u"), Some(3)));
    }

    proptest! {
        #[test]
        fn generated_names_are_names(base in "[a-z][a-z0-9-]{0,80}") {
            let name = generate_name(&base);
            prop_assert!(dns_label(&name).is_ok());
        }

        #[test]
        fn any_metadata_is_answered(text in ".*", n in any::<i64>()) {
            for field in FIELDS.iter().map(|f| f.0) {
                for value in [json!(text), json!(n), json!([text]), json!({"k": text}), json!([{"name": n}]), Value::Null] {
                    let mut o = json!({"metadata": {field: value}});
                    if normalize(&mut o).is_ok() {
                        let _ = validate(&o, dns_subdomain);
                    }
                }
            }
        }
    }
}
