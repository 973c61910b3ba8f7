//! Values of the database as JSON (RFC 7047 section 5.1).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

/// The identity of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub(crate) String);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Uuid {
    /// Reads `["uuid", "…"]`.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        match value.as_array()?.as_slice() {
            [kind, text] if kind == "uuid" => Some(Self(text.as_str()?.to_owned())),
            _ => None,
        }
    }

    /// As a value of the database.
    pub fn json(&self) -> Value {
        json!(["uuid", self.0])
    }
}

/// A set.
pub fn set<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    let items: Vec<Value> = items.into_iter().map(Into::into).collect();
    json!(["set", items])
}

/// A map from text to text.
pub fn map<K: Into<String>, V: Into<String>>(items: impl IntoIterator<Item = (K, V)>) -> Value {
    let items: Vec<[String; 2]> = items.into_iter().map(|(k, v)| [k.into(), v.into()]).collect();
    json!(["map", items])
}

/// A row that was read: its columns. A column that is not there, or is of another type, reads as empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row(pub(crate) Map<String, Value>);

impl Row {
    /// The values of a column: those of a set, or the one there is.
    fn values(&self, column: &str) -> Vec<&Value> {
        match self.0.get(column) {
            None => vec![],
            Some(Value::Array(pair)) => match pair.as_slice() {
                [kind, Value::Array(items)] if kind == "set" => items.iter().collect(),
                [kind, _] if kind == "uuid" => self.0.get(column).into_iter().collect(),
                _ => vec![],
            },
            Some(one) => vec![one],
        }
    }

    /// The row's own identity.
    pub fn uuid(&self) -> Option<Uuid> {
        self.0.get("_uuid").and_then(Uuid::read)
    }

    /// The rows that a column refers to.
    pub fn uuids(&self, column: &str) -> Vec<Uuid> {
        self.values(column).into_iter().filter_map(Uuid::read).collect()
    }

    /// A text, or the first one of a set.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.values(column).first().and_then(|v| v.as_str())
    }

    /// A number, or the first one of a set.
    pub fn int(&self, column: &str) -> Option<i64> {
        self.ints(column).first().copied()
    }

    /// The numbers of a set.
    pub fn ints(&self, column: &str) -> Vec<i64> {
        self.values(column).into_iter().filter_map(Value::as_i64).collect()
    }

    /// A map from text to text.
    pub fn map(&self, column: &str) -> BTreeMap<String, String> {
        let pairs = match self.0.get(column).and_then(Value::as_array).map(Vec::as_slice) {
            Some([kind, Value::Array(pairs)]) if kind == "map" => pairs.as_slice(),
            _ => &[],
        };
        let read = |pair: &Value| match pair.as_array()?.as_slice() {
            [key, value] => Some((key.as_str()?.to_owned(), value.as_str()?.to_owned())),
            _ => None,
        };
        pairs.iter().filter_map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        match value {
            Value::Object(columns) => Row(columns),
            _ => unreachable!("tests give objects"),
        }
    }

    #[test]
    fn one_value_and_a_set_of_it_read_the_same() {
        for ports in [json!(["uuid", "a"]), json!(["set", [["uuid", "a"]]])] {
            assert_eq!(row(json!({ "ports": ports })).uuids("ports"), [Uuid("a".into())]);
        }
        for tag in [json!(5), json!(["set", [5]])] {
            assert_eq!(row(json!({ "tag": tag })).int("tag"), Some(5));
        }
        assert_eq!(row(json!({ "tag": ["set", []] })).int("tag"), None);
        let written = json!({ "ids": map([("a", "b"), ("c", "d")]), "set": set([1, 2]) });
        assert_eq!(row(written.clone()).map("ids"), [("a".into(), "b".into()), ("c".into(), "d".into())].into());
        assert_eq!(row(written).ints("set"), [1, 2]);
    }

    #[test]
    fn what_is_of_another_type_reads_as_empty() {
        let odd = row(json!({ "a": {}, "b": ["map", [["k"]]], "c": ["uuid"], "d": null, "e": ["set", 5] }));
        for column in ["a", "b", "c", "d", "e", "f"] {
            assert!(odd.map(column).is_empty() && odd.uuids(column).is_empty(), "{column}");
            assert_eq!((odd.int(column), odd.text(column)), (None, None), "{column}");
        }
    }
}
