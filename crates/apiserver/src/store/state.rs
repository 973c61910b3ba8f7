//! The read side of the store: every object in memory, in list order, with the recent history that watches and
//! consistent pages are answered from. Changed only by the writer, after its transaction is on disk.

use super::object::{Key, Object};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Index of a resource type in the registry.
pub(crate) type TypeId = usize;

/// How much history one resource type keeps.
const HISTORY_EVENTS: usize = 16_384;
const HISTORY_BYTES: usize = 32 << 20;

/// One write. `new` is the state after it; for a deletion the last state, with the resource version of the deletion.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub ty: TypeId,
    pub version: u64,
    pub deleted: bool,
    pub new: Arc<Object>,
    pub old: Option<Arc<Object>>,
}

/// All objects of one resource type.
#[derive(Debug, Default)]
pub(crate) struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    history: VecDeque<Change>,
    history_bytes: usize,
    /// Changes up to this version are no longer in `history`.
    floor: u64,
}

/// Everything that can be read.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub version: u64,
    tables: Vec<Table>,
    /// From an owner's uid to what it owns.
    dependents: HashMap<Box<str>, BTreeSet<(TypeId, Key)>>,
    /// From the uid of an object that is marked for deletion to the object.
    terminating: HashMap<Box<str>, (TypeId, Key)>,
}

/// The history does not reach back to the version that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld;

impl State {
    pub fn new(types: usize, version: u64) -> Self {
        let tables = (0..types).map(|_| Table { floor: version, ..Table::default() }).collect();
        Self { version, tables, ..Self::default() }
    }

    /// Puts an object in place without history: at start.
    pub fn load(&mut self, ty: TypeId, object: Arc<Object>) {
        self.link(ty, &object);
        self.tables[ty].objects.insert(object.key.clone(), object);
    }

    pub fn get(&self, ty: TypeId, key: &Key) -> Option<&Arc<Object>> {
        self.tables[ty].objects.get(key)
    }

    /// Objects in order, of one namespace or of all, after `after` where given.
    pub fn range<'a>(
        &'a self,
        ty: TypeId,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let from = match (after, namespace) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(namespace)) => Bound::Included(Key::new(namespace, "")),
            (None, None) => Bound::Unbounded,
        };
        let objects = self.tables[ty].objects.range((from, Bound::Unbounded)).map(|(_, o)| o);
        objects.take_while(move |o| namespace.is_none_or(|n| *o.key.namespace == *n))
    }

    /// What is owned by the object with this uid.
    pub fn dependents(&self, uid: &str) -> Vec<(TypeId, Key)> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The object with this uid, if it is marked for deletion.
    pub fn terminating(&self, uid: &str) -> Option<(TypeId, Key)> {
        self.terminating.get(uid).cloned()
    }

    /// Every object of every type.
    pub fn everything(&self) -> impl Iterator<Item = (TypeId, &Arc<Object>)> {
        self.tables.iter().enumerate().flat_map(|(ty, t)| t.objects.values().map(move |o| (ty, o)))
    }

    /// The oldest version that a watch of this type may start from.
    pub fn floor(&self, ty: TypeId) -> u64 {
        self.tables[ty].floor
    }

    /// Changes of one type after `version`, oldest first.
    pub fn since(&self, ty: TypeId, version: u64) -> Result<impl DoubleEndedIterator<Item = &Change>, TooOld> {
        let table = &self.tables[ty];
        if version < table.floor {
            return Err(TooOld);
        }
        let from = table.history.partition_point(|c| c.version <= version);
        Ok(table.history.range(from..))
    }

    /// What differs between now and an earlier version: for each key that changed since, its state then.
    pub fn undo(&self, ty: TypeId, version: u64) -> Result<BTreeMap<Key, Option<Arc<Object>>>, TooOld> {
        let mut then = BTreeMap::new();
        for change in self.since(ty, version)?.rev() {
            then.insert(change.new.key.clone(), change.old.clone());
        }
        Ok(then)
    }

    /// Objects in order as they were at an earlier version, which `undo` leads back to.
    pub fn range_at<'a>(
        &'a self,
        ty: TypeId,
        namespace: Option<&'a str>,
        after: Option<&Key>,
        undo: &'a BTreeMap<Key, Option<Arc<Object>>>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let from = after.map_or_else(
            || Bound::Included(Key::new(namespace.unwrap_or_default(), "")),
            |key| Bound::Excluded(key.clone()),
        );
        let within = move |key: &Key| namespace.is_none_or(|n| *key.namespace == *n);
        let mut then = undo.range((from, Bound::Unbounded)).filter(move |(key, _)| within(key)).peekable();
        let mut now = self.range(ty, namespace, after).peekable();
        std::iter::from_fn(move || {
            loop {
                let take_then = match (then.peek(), now.peek()) {
                    (Some((key, _)), Some(object)) => **key <= object.key,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (None, None) => return None,
                };
                if !take_then {
                    return now.next();
                }
                let (key, object) = then.next()?;
                now.next_if(|o| o.key == *key);
                if let Some(object) = object {
                    return Some(object);
                }
            }
        })
    }

    /// Takes over what the writer has committed.
    pub fn publish(&mut self, changes: &[Change]) {
        for change in changes {
            self.version = self.version.max(change.version);
            if let Some(old) = &change.old {
                self.unlink(change.ty, old);
            }
            let table = &mut self.tables[change.ty];
            if change.deleted {
                table.objects.remove(&change.new.key);
            } else {
                table.objects.insert(change.new.key.clone(), change.new.clone());
            }
            table.remember(change.clone());
            if !change.deleted {
                self.link(change.ty, &change.new);
            }
        }
    }

    fn link(&mut self, ty: TypeId, object: &Object) {
        for owner in &object.owners {
            self.dependents.entry(owner.clone()).or_default().insert((ty, object.key.clone()));
        }
        if object.terminating {
            self.terminating.insert(object.uid.clone(), (ty, object.key.clone()));
        }
    }

    fn unlink(&mut self, ty: TypeId, object: &Object) {
        if object.terminating {
            self.terminating.remove(&object.uid);
        }
        for owner in &object.owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(&(ty, object.key.clone()));
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

impl Table {
    fn remember(&mut self, change: Change) {
        self.history_bytes += change.new.weight();
        self.history.push_back(change);
        while self.history.len() > HISTORY_EVENTS || self.history_bytes > HISTORY_BYTES {
            let Some(gone) = self.history.pop_front() else { break };
            self.history_bytes -= gone.new.weight();
            self.floor = gone.version;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(name: &str, version: u64, owner: Option<&str>) -> Arc<Object> {
        let owners: Vec<_> =
            owner.into_iter().map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": "o", "uid": uid})).collect();
        Arc::new(Object::new(
            Key::new("", name),
            version,
            &mut json!({"metadata": {"name": name, "uid": name, "ownerReferences": owners}}),
        ))
    }

    fn names(state: &State) -> Vec<(String, u64)> {
        state.range(0, None, None).map(|o| (o.key.name.to_string(), o.version)).collect()
    }

    proptest! {
        /// Undoing the history from any point gives exactly the state that was there, and the owner index never drifts.
        #[test]
        fn history_leads_back(ops in proptest::collection::vec((0..4u8, any::<bool>(), any::<bool>()), 1..40)) {
            let mut state = State::new(1, 100);
            let mut past = vec![(100, names(&state))];
            for (version, (which, delete, owned)) in (101..).zip(ops) {
                let name = format!("o{which}");
                let old = state.get(0, &Key::new("", &name)).cloned();
                if delete && old.is_none() {
                    continue;
                }
                let new = object(&name, version, owned.then_some("x"));
                state.publish(&[Change { ty: 0, version, deleted: delete, new, old }]);
                past.push((version, names(&state)));
                let owned: Vec<_> = state.range(0, None, None).filter(|o| !o.owners.is_empty()).map(|o| (0, o.key.clone())).collect();
                prop_assert_eq!(state.dependents("x"), owned);
            }
            for (version, then) in past {
                let undo = state.undo(0, version).unwrap();
                let back: Vec<_> = state.range_at(0, None, None, &undo).map(|o| (o.key.name.to_string(), o.version)).collect();
                prop_assert_eq!(back, then);
            }
        }
    }

    #[test]
    fn history_is_bounded() {
        let mut state = State::new(1, 0);
        for version in 1..=(HISTORY_EVENTS as u64 + 10) {
            state.publish(&[Change { ty: 0, version, deleted: false, new: object("o", version, None), old: None }]);
        }
        assert_eq!(state.floor(0), 10);
        assert!(state.since(0, 9).is_err());
        assert_eq!(state.since(0, 10).unwrap().count(), HISTORY_EVENTS);
    }
}
