//! Objects by the value of a field: made when first asked for, kept up to date by the writer, which alone uses it.
//!
//! Admission asks things like "which NICs name this VM" on every write; without an index each answer costs a walk over all.

use super::object::{Key, Object};
use super::state::{Change, State, TypeId};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// The indexes that have been asked for.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    by_field: HashMap<(TypeId, String), Index>,
}

/// From a field's value to the keys of the objects that have it.
type Index = HashMap<String, BTreeSet<Key>>;

/// The value at a dotted path, where it is a string, a number or a boolean.
pub(crate) fn field(value: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(value, |v, key| v.get(key))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn field_of(object: &Object, path: &str) -> Option<String> {
    field(&object.value(), path)
}

impl Indexes {
    /// The keys of the committed objects whose field has this value, of one namespace or of all, in order.
    pub fn find(&mut self, state: &State, ty: TypeId, namespace: Option<&str>, path: &str, value: &str) -> Vec<Key> {
        let index = self.by_field.entry((ty, path.to_owned())).or_insert_with(|| {
            let mut index = Index::new();
            for object in state.range(ty, None, None) {
                if let Some(value) = field_of(object, path) {
                    index.entry(value).or_default().insert(object.key.clone());
                }
            }
            index
        });
        let keys = index.get(value).into_iter().flatten();
        keys.filter(|key| namespace.is_none_or(|n| *key.namespace == *n)).cloned().collect()
    }

    /// Takes over what has been committed.
    pub fn follow(&mut self, changes: &[Change]) {
        for ((ty, path), index) in &mut self.by_field {
            for change in changes.iter().filter(|c| c.ty == *ty) {
                let before = change.old.as_ref().and_then(|old| field_of(old, path));
                let after = if change.deleted { None } else { field_of(&change.new, path) };
                if before == after {
                    continue;
                }
                if let Some(before) = before
                    && let Some(keys) = index.get_mut(&before)
                {
                    keys.remove(&change.new.key);
                    if keys.is_empty() {
                        index.remove(&before);
                    }
                }
                if let Some(after) = after {
                    index.entry(after).or_default().insert(change.new.key.clone());
                }
            }
        }
    }
}
