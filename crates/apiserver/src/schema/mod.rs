//! Structural schemas, compiled once: validating ([`validate`]), pruning and defaulting ([`shape`]) objects by them.
//!
//! Covers what a CustomResourceDefinition's OpenAPI v3 schema may say, except CEL rules (`x-kubernetes-validations`),
//! which admission stands in for. Knows nothing of metadata: that is `meta`'s.

pub(crate) mod shape;
pub(crate) mod validate;

use regex_lite::Regex;
use serde_json::Value;

/// A schema that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("schema at {path}: {why}")]
pub struct SchemaError {
    /// Where in the schema.
    pub path: String,
    /// What is wrong there.
    pub why: String,
}

/// One node of a compiled structural schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub ty: Option<Type>,
    pub int_or_string: bool,
    pub nullable: bool,
    /// Sorted by name.
    pub properties: Vec<(String, Schema)>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub pattern: Option<Box<Regex>>,
    pub format: Option<Format>,
    pub minimum: Option<Bound>,
    pub maximum: Option<Bound>,
    pub multiple_of: Option<f64>,
    pub length: Range,
    pub items_count: Range,
    pub properties_count: Range,
    pub unique_items: bool,
    pub default: Option<Value>,
    pub preserve_unknown: bool,
    pub embedded_resource: bool,
    pub list: List,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What happens to properties that the schema does not name.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    Unspecified,
    Any,
    Schema(Box<Schema>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub value: f64,
    pub exclusive: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Range {
    pub min: Option<u64>,
    pub max: Option<u64>,
}

/// The formats that Kubernetes checks in custom resources and that this server checks as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    DateTime,
    Date,
    Byte,
    Ipv4,
    Ipv6,
    Uuid,
    Int32,
    Int64,
}

/// `x-kubernetes-list-type` with its keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Schema {
    /// Compiles an OpenAPI v3 structural schema.
    pub fn compile(source: &Value) -> Result<Self, SchemaError> {
        Self::node(source, &mut String::new(), 0)
    }

    pub fn property(&self, name: &str) -> Option<&Schema> {
        self.properties.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|at| &self.properties[at].1)
    }

    /// Whether a dotted path of properties exists in the schema.
    pub fn has_path(&self, path: &str) -> bool {
        path.split('.').try_fold(self, |node, key| node.property(key)).is_some()
    }

    /// Drops `required` everywhere: built-in kinds are decoded into structs, where an absent field is an empty one.
    pub fn relax_required(&mut self) {
        self.required.clear();
        for (_, child) in &mut self.properties {
            child.relax_required();
        }
        if let Some(items) = &mut self.items {
            items.relax_required();
        }
        if let Additional::Schema(child) = &mut self.additional {
            child.relax_required();
        }
    }

    fn node(source: &Value, path: &mut String, depth: usize) -> Result<Self, SchemaError> {
        let fail = |path: &str, why: &str| Err(SchemaError { path: path.to_owned(), why: why.to_owned() });
        if depth > 64 {
            return fail(path, "nested too deeply");
        }
        let Value::Object(map) = source else { return fail(path, "is not an object") };
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        let count = |key: &str| map.get(key).and_then(Value::as_u64);
        let mut s = Self {
            nullable: flag("nullable"),
            unique_items: flag("uniqueItems"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            length: Range { min: count("minLength"), max: count("maxLength") },
            items_count: Range { min: count("minItems"), max: count("maxItems") },
            properties_count: Range { min: count("minProperties"), max: count("maxProperties") },
            multiple_of: map.get("multipleOf").and_then(Value::as_f64),
            default: map.get("default").cloned(),
            enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: strings(map.get("required")),
            ..Self::default()
        };
        s.ty = match map.get("type").and_then(Value::as_str) {
            None | Some("") => None,
            Some("object") => Some(Type::Object),
            Some("array") => Some(Type::Array),
            Some("string") => Some(Type::String),
            Some("integer") => Some(Type::Integer),
            Some("number") => Some(Type::Number),
            Some("boolean") => Some(Type::Boolean),
            Some(other) => return fail(path, &format!("unknown type {other:?}")),
        };
        s.format = map.get("format").and_then(Value::as_str).and_then(Format::parse);
        s.minimum = bound(map.get("minimum"), map.get("exclusiveMinimum"));
        s.maximum = bound(map.get("maximum"), map.get("exclusiveMaximum"));
        if let Some(pattern) = map.get("pattern").and_then(Value::as_str).filter(|p| !p.is_empty()) {
            match Regex::new(pattern) {
                Ok(regex) => s.pattern = Some(Box::new(regex)),
                Err(e) => return fail(path, &format!("pattern {pattern:?}: {e}")),
            }
        }
        s.list = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => List::Set,
            Some("map") => List::Map(strings(map.get("x-kubernetes-list-map-keys"))),
            _ => List::Atomic,
        };
        if let Some(Value::Object(properties)) = map.get("properties") {
            for (name, child) in properties {
                let child = within(path, name, |path| Self::node(child, path, depth + 1))?;
                s.properties.push((name.clone(), child));
            }
            s.properties.sort_by(|a, b| a.0.cmp(&b.0));
        }
        s.additional = match map.get("additionalProperties") {
            None | Some(Value::Bool(false)) => Additional::Unspecified,
            Some(Value::Bool(true)) => Additional::Any,
            Some(child) => Additional::Schema(Box::new(within(path, "*", |path| Self::node(child, path, depth + 1))?)),
        };
        if let Some(items) = map.get("items") {
            s.items = Some(Box::new(within(path, "[]", |path| Self::node(items, path, depth + 1))?));
        }
        if let Some(not) = map.get("not") {
            s.not = Some(Box::new(within(path, "not", |path| Self::node(not, path, depth + 1))?));
        }
        for (key, into) in [("allOf", &mut s.all_of), ("anyOf", &mut s.any_of), ("oneOf", &mut s.one_of)] {
            for branch in map.get(key).and_then(Value::as_array).into_iter().flatten() {
                into.push(within(path, key, |path| Self::node(branch, path, depth + 1))?);
            }
        }
        Ok(s)
    }
}

impl Format {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "date-time" | "datetime" => Self::DateTime,
            "date" => Self::Date,
            "byte" => Self::Byte,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "uuid" => Self::Uuid,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Byte => "byte",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Uuid => "uuid",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
        }
    }
}

fn bound(value: Option<&Value>, exclusive: Option<&Value>) -> Option<Bound> {
    match (value.and_then(Value::as_f64), exclusive) {
        // JSON Schema's later drafts give the exclusive bound as a number
        (None, Some(n)) => n.as_f64().map(|value| Bound { value, exclusive: true }),
        (Some(value), e) => Some(Bound { value, exclusive: e.and_then(Value::as_bool).unwrap_or(false) }),
        (None, None) => None,
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Runs `f` with `.name` (or `[0]`) appended to the path, and takes it off again.
pub(crate) fn within<T>(path: &mut String, name: &str, f: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    if length > 0 && !name.starts_with('[') {
        path.push('.');
    }
    path.push_str(name);
    let result = f(path);
    path.truncate(length);
    result
}
