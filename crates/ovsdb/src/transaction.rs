//! A transaction: operations that are all done, or none (RFC 7047 section 5.2).

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::value::{Row, Uuid};

/// A row that another operation refers to: one that is there, or one that the same transaction makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ref {
    /// One that is there.
    Row(Uuid),
    /// One that the same transaction makes.
    New(String),
}

impl From<Uuid> for Ref {
    fn from(uuid: Uuid) -> Self {
        Self::Row(uuid)
    }
}

impl From<Ref> for Value {
    fn from(r: Ref) -> Self {
        match r {
            Ref::Row(uuid) => uuid.json(),
            Ref::New(name) => json!(["named-uuid", name]),
        }
    }
}

/// Which rows an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// All of the table.
    All,
    /// The row with this identity.
    Is(Uuid),
    /// The rows whose column is this text.
    Text(&'static str, String),
}

impl Where {
    fn json(&self) -> Value {
        match self {
            Self::All => json!([]),
            Self::Is(uuid) => json!([["_uuid", "==", uuid.json()]]),
            Self::Text(column, text) => json!([[column, "==", text]]),
        }
    }
}

/// What an operation did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// The row that was inserted.
    pub uuid: Option<Uuid>,
    /// The rows that were selected.
    pub rows: Vec<Row>,
    /// How many rows were changed or removed.
    pub count: u64,
}

/// Operations in order. They are done together: no reader sees some of them without the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transaction {
    operations: Vec<Value>,
}

type Columns = Vec<(&'static str, Value)>;

fn object(columns: Columns) -> Map<String, Value> {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Transaction {
    /// One that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// How many operations there are: the number of the next one.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Makes a row; others of this transaction may refer to it.
    pub fn insert(&mut self, table: &str, columns: Columns) -> Ref {
        // It need only be unlike the others of the transaction (section 3.1: <id>).
        let name = format!("row{}", self.operations.len());
        self.operations.push(json!({ "op": "insert", "table": table, "row": object(columns), "uuid-name": name }));
        Ref::New(name)
    }

    /// Gives rows these columns.
    pub fn update(&mut self, table: &str, which: &Where, columns: Columns) {
        self.operations.push(json!({ "op": "update", "table": table, "where": which.json(), "row": object(columns) }));
    }

    /// Changes a column by what is there: `+=` of a number, `insert` into a set or map, `delete` from one.
    pub fn mutate(&mut self, table: &str, which: &Where, changes: Vec<(&'static str, &'static str, Value)>) {
        let changes: Vec<Value> = changes.into_iter().map(|(column, how, value)| json!([column, how, value])).collect();
        self.operations.push(json!({ "op": "mutate", "table": table, "where": which.json(), "mutations": changes }));
    }

    /// Removes rows.
    pub fn delete(&mut self, table: &str, which: &Where) {
        self.operations.push(json!({ "op": "delete", "table": table, "where": which.json() }));
    }

    /// Reads rows as they are after what was done before. Returns the number of the operation.
    pub fn select(&mut self, table: &str, which: &Where, columns: &[&str]) -> usize {
        self.operations.push(json!({ "op": "select", "table": table, "where": which.json(), "columns": columns }));
        self.operations.len() - 1
    }

    /// Does the rest only if there is (or is not) exactly one row with these columns among those, and refuses at once otherwise.
    pub fn expect(&mut self, table: &str, which: &Where, there: bool, columns: Columns) {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let until = if there { "==" } else { "!=" };
        self.operations.push(json!({
            "op": "wait", "timeout": 0, "table": table, "where": which.json(), "columns": names, "until": until,
            "rows": [object(columns.clone())],
        }));
    }

    /// Leaves a word about it in the database's log.
    pub fn comment(&mut self, text: &str) {
        self.operations.push(json!({ "op": "comment", "comment": text }));
    }

    /// The parameters of the request.
    pub(crate) fn params(&self, database: &str) -> Value {
        let mut all = vec![json!(database)];
        all.extend(self.operations.iter().cloned());
        Value::Array(all)
    }
}

/// Reads the answer: what each operation did.
pub(crate) fn read(answer: &Value, path: &std::path::Path) -> Result<Vec<Done>> {
    let results = answer.as_array().ok_or_else(|| Error::nonsense(path, format!("the answer {answer}")))?;
    for (i, result) in results.iter().enumerate() {
        if let Some(error) = result.get("error").and_then(Value::as_str) {
            let details = result.get("details").and_then(Value::as_str).unwrap_or_default().to_owned();
            // What is said after the last operation is said of the whole.
            let all_done = results[..i].iter().all(|r| !r.is_null()) && i + 1 == results.len();
            let of_whole = all_done && matches!(error, "referential integrity violation" | "constraint violation");
            return Err(Error::Refused { error: error.to_owned(), details, operation: (!of_whole).then_some(i) });
        }
    }
    let one = |result: &Value| Done {
        uuid: result.get("uuid").and_then(Uuid::read),
        rows: result
            .get("rows")
            .and_then(Value::as_array)
            .map(|rows| rows.iter().filter_map(|r| r.as_object().cloned().map(Row)).collect())
            .unwrap_or_default(),
        count: result.get("count").and_then(Value::as_u64).unwrap_or(0),
    };
    Ok(results.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_answer_says_what_each_operation_did() {
        let answer = json!([{"uuid": ["uuid", "u"]}, {"count": 3}, {"rows": [{"name": "a"}]}, {}]);
        let done = read(&answer, Path::new("/x")).unwrap();
        assert_eq!(done[0].uuid, Some(Uuid("u".into())));
        assert_eq!(done[1].count, 3);
        assert_eq!(done[2].rows[0].text("name"), Some("a"));
        assert_eq!(done[3], Done::default());
    }

    #[test]
    fn a_refusal_says_which_operation_it_was() {
        let answer = json!([{}, {"error": "constraint violation", "details": "why"}, null]);
        let refused = read(&answer, Path::new("/x")).unwrap_err();
        assert!(matches!(refused, Error::Refused { operation: Some(1), .. }), "{refused:?}");
        assert_eq!(refused.to_string(), "Open vSwitch's database refused: constraint violation: why");
        let answer = json!([{}, {}, {"error": "referential integrity violation"}]);
        assert!(matches!(read(&answer, Path::new("/x")).unwrap_err(), Error::Refused { operation: None, .. }));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in "[\\[\\]{}\",:a-z0-9]{0,60}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = read(&value, Path::new("/x"));
            }
        }
    }
}
