//! Validation of a value against a structural schema, with Kubernetes' causes and wording.

use super::{Additional, Bound, Format, List, Schema, Type, within};
use crate::error::Cause;
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

/// No answer lists more causes than this: a list of a million wrong items must not become a message of gigabytes.
const MAX_CAUSES: usize = 64;

/// All that is wrong with `value`, whose path is `path` (empty for the whole object).
pub(crate) fn validate(schema: &Schema, value: &Value, path: &str) -> Vec<Cause> {
    let mut found = Vec::new();
    node(schema, value, &mut path.to_owned(), &mut found);
    found.truncate(MAX_CAUSES);
    found
}

fn node(s: &Schema, value: &Value, path: &mut String, out: &mut Vec<Cause>) {
    if out.len() >= MAX_CAUSES || (value.is_null() && s.nullable) {
        return;
    }
    if !has_type(s, value) {
        let wanted = if s.int_or_string { "integer,string" } else { s.ty.map_or("", Type::name) };
        let got = type_name(value);
        out.push(Cause::new(
            path.as_str(),
            "FieldValueTypeInvalid",
            format!("Invalid value: {got:?}: {path} in body must be of type {wanted}: {got:?}"),
        ));
    }
    if !s.enumeration.is_empty() && !s.enumeration.contains(value) {
        out.push(Cause::not_supported(path.as_str(), value, &s.enumeration));
    }
    if !has_type(s, value) {
        return;
    }
    match value {
        Value::Object(map) => object(s, map, path, out),
        Value::Array(items) => array(s, items, path, out),
        Value::String(text) => string(s, text, path, out),
        Value::Number(number) => {
            if let Some(n) = number.as_f64() {
                numeric(s, n, value, path, out);
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
    combined(s, value, path, out);
}

fn combined(s: &Schema, value: &Value, path: &mut String, out: &mut Vec<Cause>) {
    for branch in &s.all_of {
        node(branch, value, path, out);
    }
    let holds = |branch: &Schema, path: &mut String| {
        let mut errors = Vec::new();
        node(branch, value, path, &mut errors);
        errors.is_empty()
    };
    let mut fail = |path: &str, why: &str| {
        let shown = if value.is_object() || value.is_array() { json!("") } else { value.clone() };
        out.push(Cause::invalid(path, &shown, format!("{:?} {why}", if path.is_empty() { "<nil>" } else { path })));
    };
    if !s.any_of.is_empty() && !s.any_of.iter().any(|b| holds(b, path)) {
        fail(path, "must validate at least one schema (anyOf)");
    }
    if !s.one_of.is_empty() {
        match s.one_of.iter().filter(|b| holds(b, path)).count() {
            1 => {}
            0 => fail(path, "must validate one and only one schema (oneOf). Found none valid"),
            n => fail(path, &format!("must validate one and only one schema (oneOf). Found {n} valid alternatives")),
        }
    }
    if s.not.as_ref().is_some_and(|b| holds(b, path)) {
        fail(path, "must not validate the schema (not)");
    }
}

fn object(s: &Schema, map: &Map<String, Value>, path: &mut String, out: &mut Vec<Cause>) {
    for name in &s.required {
        if !map.contains_key(name) {
            out.push(Cause::required(within(path, name, |p| p.clone()), ""));
        }
    }
    let count = map.len() as u64;
    if let Some(max) = s.properties_count.max.filter(|max| count > *max) {
        let why = format!("must have at most {max} {}", plural(max, "property", "properties"));
        out.push(Cause::new(path.as_str(), "FieldValueTooMany", format!("Too many: {count}: {why}")));
    }
    if let Some(min) = s.properties_count.min.filter(|min| count < *min) {
        out.push(Cause::invalid(
            path.as_str(),
            &json!(count),
            format!("{path} in body should have at least {min} properties"),
        ));
    }
    for (name, value) in map {
        if let Some(child) = s.property(name) {
            within(path, name, |path| node(child, value, path, out));
        } else if let Additional::Schema(child) = &s.additional {
            within(path, name, |path| node(child, value, path, out));
        }
    }
    if s.embedded_resource {
        for name in ["apiVersion", "kind"] {
            if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                out.push(Cause::required(within(path, name, |p| p.clone()), "must not be empty"));
            }
        }
    }
}

fn array(s: &Schema, items: &[Value], path: &mut String, out: &mut Vec<Cause>) {
    let count = items.len() as u64;
    if let Some(max) = s.items_count.max.filter(|max| count > *max) {
        let why = format!("must have at most {max} {}", plural(max, "item", "items"));
        out.push(Cause::new(path.as_str(), "FieldValueTooMany", format!("Too many: {count}: {why}")));
        return;
    }
    if let Some(min) = s.items_count.min.filter(|min| count < *min) {
        out.push(Cause::invalid(
            path.as_str(),
            &json!(count),
            format!("{path} in body should have at least {min} items"),
        ));
    }
    if let Some(child) = &s.items {
        for (at, item) in items.iter().enumerate() {
            within(path, &format!("[{at}]"), |path| node(child, item, path, out));
        }
    }
    match &s.list {
        List::Set => duplicates(items.iter().map(Value::to_string), |at| items[at].clone(), path, out),
        List::Map(keys) => {
            let key_of = |item: &Value| -> Value {
                keys.iter()
                    .map(|k| (k.clone(), item.get(k).cloned().unwrap_or(Value::Null)))
                    .collect::<Map<_, _>>()
                    .into()
            };
            duplicates(items.iter().map(|i| key_of(i).to_string()), |at| key_of(&items[at]), path, out);
        }
        List::Atomic if s.unique_items => {
            let mut seen = std::collections::HashSet::new();
            if !items.iter().all(|i| seen.insert(i.to_string())) {
                out.push(Cause::invalid(
                    path.as_str(),
                    &json!(""),
                    format!("{path} in body shouldn't contain duplicates"),
                ));
            }
        }
        List::Atomic => {}
    }
}

fn duplicates(
    keys: impl Iterator<Item = String>,
    shown: impl Fn(usize) -> Value,
    path: &mut String,
    out: &mut Vec<Cause>,
) {
    let mut seen = std::collections::HashSet::new();
    for (at, key) in keys.enumerate() {
        if !seen.insert(key) {
            out.push(Cause::duplicate(within(path, &format!("[{at}]"), |p| p.clone()), &shown(at)));
        }
    }
}

fn string(s: &Schema, text: &str, path: &str, out: &mut Vec<Cause>) {
    let count = text.chars().count() as u64;
    let shown = Value::String(text.to_owned());
    if let Some(max) = s.length.max.filter(|max| count > *max) {
        out.push(Cause::new(path, "FieldValueTooLong", format!("Too long: may not be longer than {max}")));
    }
    if let Some(min) = s.length.min.filter(|min| count < *min) {
        out.push(Cause::invalid(path, &shown, format!("{path} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = s.pattern.as_ref().filter(|p| !p.is_match(text)) {
        out.push(Cause::invalid(path, &shown, format!("{path} in body should match '{}'", pattern.as_str())));
    }
    if let Some(format) = s.format.filter(|f| !well_formed(*f, text)) {
        let name = format.name();
        out.push(Cause::invalid(path, &shown, format!("{path} in body must be of type {name}: {text:?}")));
    }
}

fn numeric(s: &Schema, n: f64, shown: &Value, path: &str, out: &mut Vec<Cause>) {
    if let Some(Bound { value, exclusive }) = s.maximum
        && (n > value || (exclusive && n >= value))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        out.push(Cause::invalid(path, shown, format!("{path} in body should be less than{or_equal} {value}")));
    }
    if let Some(Bound { value, exclusive }) = s.minimum
        && (n < value || (exclusive && n <= value))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        out.push(Cause::invalid(path, shown, format!("{path} in body should be greater than{or_equal} {value}")));
    }
    if let Some(factor) = s.multiple_of.filter(|f| *f > 0.0)
        && (n / factor).fract().abs() > 1e-9
    {
        out.push(Cause::invalid(path, shown, format!("{path} in body should be a multiple of {factor}")));
    }
    let fits = match s.format {
        Some(Format::Int32) => shown.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Some(Format::Int64) => shown.as_i64().is_some(),
        _ => true,
    };
    if let (false, Some(format)) = (fits, s.format) {
        let name = format.name();
        out.push(Cause::invalid(
            path,
            shown,
            format!("{path} in body must be of type {name}: {:?}", shown.to_string()),
        ));
    }
}

fn has_type(s: &Schema, value: &Value) -> bool {
    if s.int_or_string {
        return value.is_string() || is_integer(value);
    }
    match s.ty {
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Integer) => is_integer(value),
        Some(Type::Number) => value.is_number(),
        Some(Type::Boolean) => value.is_boolean(),
    }
}

/// 1.0 is an integer in JSON Schema and to Kubernetes.
fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9.0e15)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn well_formed(format: Format, text: &str) -> bool {
    match format {
        Format::DateTime => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        Format::Date => chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(),
        Format::Byte => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
        Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
        Format::Uuid => uuid::Uuid::parse_str(text).is_ok(),
        Format::Int32 | Format::Int64 => true,
    }
}

fn plural(n: u64, one: &'static str, many: &'static str) -> &'static str {
    if n == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(schema: Value, value: Value) -> Vec<String> {
        let schema = Schema::compile(&schema).unwrap();
        validate(&schema, &value, "").into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn prop(schema: Value, value: Value) -> Vec<String> {
        check(json!({"type": "object", "properties": {"x": schema}}), json!({"x": value}))
    }

    #[test]
    fn wording() {
        assert_eq!(
            prop(json!({"type": "integer"}), json!("a")),
            [r#"x: Invalid value: "string": x in body must be of type integer: "string""#]
        );
        assert_eq!(
            prop(json!({"type": "integer", "minimum": 1}), json!(0)),
            ["x: Invalid value: 0: x in body should be greater than or equal to 1"]
        );
        assert_eq!(
            prop(json!({"type": "integer", "maximum": 10}), json!(11)),
            ["x: Invalid value: 11: x in body should be less than or equal to 10"]
        );
        assert_eq!(
            prop(json!({"type": "string", "enum": ["a", "b"]}), json!("c")),
            [r#"x: Unsupported value: "c": supported values: "a", "b""#]
        );
        assert_eq!(
            prop(json!({"type": "string", "pattern": "^[a-z]+$"}), json!("C")),
            [r#"x: Invalid value: "C": x in body should match '^[a-z]+$'"#]
        );
        assert_eq!(
            prop(json!({"type": "string", "maxLength": 1}), json!("äö")),
            ["x: Too long: may not be longer than 1"]
        );
        assert_eq!(
            prop(json!({"type": "array", "maxItems": 1}), json!([1, 2])),
            ["x: Too many: 2: must have at most 1 item"]
        );
        assert_eq!(check(json!({"type": "object", "required": ["y"]}), json!({})), ["y: Required value"]);
    }

    #[test]
    fn lists_know_sets_and_maps() {
        assert_eq!(
            prop(json!({"type": "array", "x-kubernetes-list-type": "set"}), json!(["a", "b", "a"])),
            [r#"x[2]: Duplicate value: "a""#]
        );
        let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]});
        assert_eq!(
            prop(map, json!([{"name": "a"}, {"name": "a", "b": 1}])),
            [r#"x[1]: Duplicate value: {"name":"a"}"#]
        );
    }

    #[test]
    fn combinations() {
        let one_of = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        assert!(prop(one_of.clone(), json!({"a": 1})).is_empty());
        assert_eq!(prop(one_of.clone(), json!({"a": 1, "b": 1})).len(), 1);
        assert_eq!(prop(one_of, json!({})).len(), 1);
        assert!(prop(json!({"x-kubernetes-int-or-string": true}), json!("a")).is_empty());
        assert!(prop(json!({"x-kubernetes-int-or-string": true}), json!(1)).is_empty());
        assert_eq!(prop(json!({"x-kubernetes-int-or-string": true}), json!(true)).len(), 1);
        assert!(prop(json!({"type": "string", "nullable": true}), Value::Null).is_empty());
        assert_eq!(prop(json!({"not": {"type": "string"}}), json!("a")).len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(items in proptest::collection::vec("[A-Z]", 0..300)) {
            let n = items.len();
            let found = prop(json!({"type": "array", "items": {"type": "integer"}}), json!(items));
            prop_assert_eq!(found.len(), n.min(MAX_CAUSES));
        }
    }
}
