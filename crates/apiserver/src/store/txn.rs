//! What a write sees and does inside the writer: the committed state with the writes of its own batch laid over it.

use super::index::{Indexes, field};
use super::object::{Key, Object};
use super::state::{Change, State, TypeId};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where an object lies.
type Slot = (TypeId, Key);
/// What a write put there; `None` is a deletion.
type Laid = Option<Arc<Object>>;

/// The writes of a batch so far.
#[derive(Default)]
pub(crate) struct Batch {
    overlay: BTreeMap<Slot, Laid>,
    pub changes: Vec<Change>,
    pub version: u64,
}

/// One write operation within a batch: all of its changes are kept, or none.
pub(crate) struct Txn<'a> {
    state: &'a State,
    batch: &'a mut Batch,
    /// Of the committed state.
    indexes: &'a RefCell<Indexes>,
    undo: Vec<(Slot, Option<Laid>)>,
    first_change: usize,
    first_version: u64,
}

impl Batch {
    pub fn new(version: u64) -> Self {
        Self { version, ..Self::default() }
    }

    /// The final state of everything that the batch touched.
    pub fn writes(&self) -> impl Iterator<Item = (TypeId, &Key, Option<&Arc<Object>>)> {
        self.overlay.iter().map(|((ty, key), object)| (*ty, key, object.as_ref()))
    }
}

impl<'a> Txn<'a> {
    pub fn new(state: &'a State, batch: &'a mut Batch, indexes: &'a RefCell<Indexes>) -> Self {
        let (first_change, first_version) = (batch.changes.len(), batch.version);
        Self { state, batch, indexes, undo: Vec::new(), first_change, first_version }
    }

    pub fn get(&self, ty: TypeId, key: &Key) -> Option<Arc<Object>> {
        match self.batch.overlay.get(&(ty, key.clone())) {
            Some(laid) => laid.clone(),
            None => self.state.get(ty, key).cloned(),
        }
    }

    /// Objects in order, of one namespace or of all.
    pub fn list(&self, ty: TypeId, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let from = (ty, Key::new(namespace.unwrap_or_default(), ""));
        let laid = self.batch.overlay.range(from..).map(|((t, key), o)| (t, key, o));
        let mut laid =
            laid.take_while(|(t, key, _)| **t == ty && namespace.is_none_or(|n| *key.namespace == *n)).peekable();
        let mut out = Vec::new();
        for object in self.state.range(ty, namespace, None) {
            let mut replaced = false;
            while let Some((_, key, o)) = laid.next_if(|(_, key, _)| **key <= object.key) {
                replaced |= *key == object.key;
                out.extend(o.clone());
            }
            if !replaced {
                out.push(object.clone());
            }
        }
        out.extend(laid.filter_map(|(_, _, o)| o.clone()));
        out
    }

    /// Objects in order whose field at a dotted path has this value, of one namespace or of all.
    pub fn find(&self, ty: TypeId, namespace: Option<&str>, path: &str, value: &str) -> Vec<Arc<Object>> {
        let mut keys: BTreeSet<Key> =
            self.indexes.borrow_mut().find(self.state, ty, namespace, path, value).into_iter().collect();
        let from = (ty, Key::new(namespace.unwrap_or_default(), ""));
        let laid = self.batch.overlay.range(from..).take_while(|((t, _), _)| *t == ty);
        for ((_, key), object) in laid.filter(|((_, key), _)| namespace.is_none_or(|n| *key.namespace == *n)) {
            let has = object.as_ref().is_some_and(|o| field(&o.value(), path).as_deref() == Some(value));
            if has {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        keys.iter().filter_map(|key| self.get(ty, key)).collect()
    }

    /// What is owned by the object with this uid, as committed: a collector looks again after every commit.
    pub fn dependents(&self, uid: &str) -> Vec<(TypeId, Key)> {
        self.state.dependents(uid)
    }

    /// Stores an object under the next resource version.
    pub fn put(&mut self, ty: TypeId, key: Key, mut value: Value) -> Arc<Object> {
        self.batch.version += 1;
        let version = self.batch.version;
        let object = Arc::new(Object::new(key, version, &mut value));
        self.change(ty, version, false, object.clone());
        object
    }

    /// Removes an object; its last state carries the resource version of the deletion.
    pub fn delete(&mut self, ty: TypeId, key: Key, mut last: Value) -> Arc<Object> {
        self.batch.version += 1;
        let version = self.batch.version;
        let object = Arc::new(Object::new(key, version, &mut last));
        self.change(ty, version, true, object.clone());
        object
    }

    fn change(&mut self, ty: TypeId, version: u64, deleted: bool, new: Arc<Object>) {
        let old = self.get(ty, &new.key);
        let slot = (ty, new.key.clone());
        let before = self.batch.overlay.insert(slot.clone(), (!deleted).then(|| new.clone()));
        self.undo.push((slot, before));
        self.batch.changes.push(Change { ty, version, deleted, new, old });
    }

    /// Takes back everything that this operation did.
    pub fn roll_back(self) {
        for (slot, before) in self.undo.into_iter().rev() {
            match before {
                Some(laid) => self.batch.overlay.insert(slot, laid),
                None => self.batch.overlay.remove(&slot),
            };
        }
        self.batch.changes.truncate(self.first_change);
        self.batch.version = self.first_version;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        /// Inside a batch, lists agree with a plain map, and a rolled back operation leaves no trace.
        #[test]
        fn overlay_is_a_map(ops in proptest::collection::vec((0..3u8, 0..4u8, any::<bool>(), any::<bool>()), 1..40)) {
            let mut state = State::new(2, 0);
            for name in ["o0", "o2"] {
                let key = Key::new("n1", name);
                state.load(1, Arc::new(Object::new(key, 1, &mut json!({"metadata": {"name": name}}))));
            }
            let mut model: BTreeMap<Key, ()> = [(Key::new("n1", "o0"), ()), (Key::new("n1", "o2"), ())].into();
            let mut batch = Batch::new(1);
            let indexes = RefCell::default();
            for (namespace, name, delete, keep) in ops {
                let key = Key::new(&format!("n{namespace}"), &format!("o{name}"));
                let mut txn = Txn::new(&state, &mut batch, &indexes);
                let value = json!({"metadata": {"name": &*key.name}, "spec": {"n": name}});
                let existed = txn.get(1, &key).is_some();
                prop_assert_eq!(existed, model.contains_key(&key));
                match delete {
                    true if existed => { txn.delete(1, key.clone(), value); }
                    true => {}
                    false => { txn.put(1, key.clone(), value); }
                }
                if keep {
                    if delete { model.remove(&key); } else { model.insert(key, ()); }
                } else {
                    txn.roll_back();
                }
                let txn = Txn::new(&state, &mut batch, &indexes);
                let keys = |ns: Option<&str>| txn.list(1, ns).iter().map(|o| o.key.clone()).collect::<Vec<_>>();
                prop_assert_eq!(keys(None), model.keys().cloned().collect::<Vec<_>>());
                prop_assert_eq!(keys(Some("n1")), model.keys().filter(|k| &*k.namespace == "n1").cloned().collect::<Vec<_>>());
                prop_assert!(txn.list(0, None).is_empty());
                // what was there from the beginning has no spec
                let found: Vec<_> = txn.find(1, None, "spec.n", "1").iter().map(|o| o.key.clone()).collect();
                let named: Vec<_> = model.keys().filter(|k| &*k.name == "o1").cloned().collect();
                prop_assert_eq!(found, named);
            }
        }
    }
}
