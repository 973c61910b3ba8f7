//! The store: one writer thread that owns the database, and a state in memory that everybody reads.
//!
//! A write is a closure that runs on the writer thread against a [`Txn`]. Writes that wait at the same time share one
//! transaction, and so one fsync; each is still all or nothing. Readers see a write, and its caller gets the answer,
//! only after it is on disk. Knows nothing of HTTP, schemas or kinds.

pub(crate) mod db;
pub(crate) mod index;
pub(crate) mod object;
pub(crate) mod state;
pub(crate) mod txn;

use crate::error::ApiError;
use db::{Database, OpenError, RowWrite};
use index::Indexes;
use object::Object;
use state::{Change, State, TypeId};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};
pub(crate) use txn::Txn;

/// How many writes share one transaction at most.
const BATCH: usize = 512;

/// How a stored type is named in the database.
#[derive(Clone, Debug)]
pub(crate) struct StoredType {
    pub group: String,
    pub plural: String,
    pub api_version: String,
    /// Kept in memory only.
    pub volatile: bool,
}

/// The outcome of a write that did not fail.
pub(crate) enum Outcome<T> {
    Keep(T),
    /// Answer as if it had been kept, but keep nothing: a dry run.
    Discard(T),
}

/// The store. Dropping it waits until what was accepted is on disk.
pub(crate) struct Store {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: RwLock<State>,
    types: Vec<StoredType>,
    /// Tells watchers of each type that there is something new.
    bells: Vec<watch::Sender<u64>>,
    /// Told of every committed change, in order.
    listener: Box<Listener>,
}

type Listener = dyn Fn(&[Change]) + Send + Sync;

trait Job: Send {
    /// Whether the writes are to be kept.
    fn run(&mut self, txn: &mut Txn) -> bool;
    fn answer(self: Box<Self>, failed: Option<&ApiError>);
}

struct Typed<T, F> {
    work: Option<F>,
    result: Option<Result<T, ApiError>>,
    reply: oneshot::Sender<Result<T, ApiError>>,
}

impl<T: Send, F: FnOnce(&mut Txn) -> Result<Outcome<T>, ApiError> + Send> Job for Typed<T, F> {
    fn run(&mut self, txn: &mut Txn) -> bool {
        let Some(work) = self.work.take() else { return false };
        // admission is handed in from outside; should it panic, one request fails, not the server
        let outcome = catch_unwind(AssertUnwindSafe(|| work(txn)))
            .unwrap_or_else(|_| Err(ApiError::internal("a request could not be processed")));
        let (keep, result) = match outcome {
            Ok(Outcome::Keep(value)) => (true, Ok(value)),
            Ok(Outcome::Discard(value)) => (false, Ok(value)),
            Err(error) => (false, Err(error)),
        };
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>, failed: Option<&ApiError>) {
        let result = match failed {
            Some(error) => Err(error.clone()),
            None => self.result.unwrap_or_else(|| Err(ApiError::internal("a request was not processed"))),
        };
        // a client that has gone away no longer wants to know
        let _ = self.reply.send(result);
    }
}

impl Store {
    /// Opens the database and loads it. `listener` is told of every committed change, on the writer thread.
    pub fn open(
        path: &Path,
        types: Vec<StoredType>,
        listener: impl Fn(&[Change]) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let database = Database::open(path)?;
        let fail = |source| OpenError::Database { path: path.to_owned(), source };
        let version = database.version().map_err(fail)?;
        let mut state = State::new(types.len(), version);
        let mut damaged = None;
        let index: std::collections::HashMap<(&str, &str), TypeId> = types
            .iter()
            .enumerate()
            .filter(|(_, t)| !t.volatile)
            .map(|(id, t)| ((t.group.as_str(), t.plural.as_str()), id))
            .collect();
        database
            .load(|row| {
                // rows of types that are not served stay in the database untouched
                let Some(ty) = index.get(&(row.group.as_str(), row.plural.as_str())) else { return };
                match Object::load(row.key.clone(), row.body) {
                    Ok(object) => state.load(*ty, Arc::new(object)),
                    Err(source) => {
                        damaged = Some((
                            format!("{}/{}/{}/{}", row.group, row.plural, row.key.namespace, row.key.name),
                            source,
                        ))
                    }
                }
            })
            .map_err(fail)?;
        if let Some((object, source)) = damaged {
            return Err(OpenError::Damaged { path: path.to_owned(), object, source });
        }
        let bells = types.iter().map(|_| watch::Sender::new(version)).collect();
        let shared = Arc::new(Shared { state: RwLock::new(state), types, bells, listener: Box::new(listener) });
        let (jobs, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = shared.clone();
                move || write_loop(&shared, database, &queue)
            })
            .map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
        Ok(Self { shared, jobs: Some(jobs), writer: Some(writer) })
    }

    /// The committed state. Hold it briefly: the writer publishes behind it.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings when something of this type has changed.
    pub fn bell(&self, ty: TypeId) -> watch::Receiver<u64> {
        self.shared.bells[ty].subscribe()
    }

    /// Puts a volatile object in place at start, before anybody reads.
    pub fn seed(&self, ty: TypeId, object: Object) {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner).load(ty, Arc::new(object));
    }

    /// Queues a write; the answer comes when it is on disk.
    pub fn write<T, F>(&self, work: F) -> oneshot::Receiver<Result<T, ApiError>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn) -> Result<Outcome<T>, ApiError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Typed { work: Some(work), result: None, reply });
        if let Some(jobs) = &self.jobs {
            // where the writer is gone, the receiver learns it from the dropped sender
            let _ = jobs.send(job);
        }
        answer
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_loop(shared: &Shared, mut database: Database, queue: &mpsc::Receiver<Box<dyn Job>>) {
    let indexes = RefCell::new(Indexes::default());
    while let Ok(first) = queue.recv() {
        let mut done: Vec<Box<dyn Job>> = Vec::new();
        let batch = {
            let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
            let mut batch = txn::Batch::new(state.version);
            let mut next = Some(first);
            while let Some(mut job) = next {
                let mut txn = Txn::new(&state, &mut batch, &indexes);
                if !job.run(&mut txn) {
                    txn.roll_back();
                }
                done.push(job);
                next = if done.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            batch
        };
        let failed = commit(shared, &mut database, batch, &indexes).err();
        for job in done {
            job.answer(failed.as_ref());
        }
    }
}

fn commit(
    shared: &Shared,
    database: &mut Database,
    batch: txn::Batch,
    indexes: &RefCell<Indexes>,
) -> Result<(), ApiError> {
    if batch.changes.is_empty() {
        return Ok(());
    }
    let rows = batch.writes().filter(|(ty, _, _)| !shared.types[*ty].volatile).map(|(ty, key, object)| {
        let StoredType { group, plural, api_version, .. } = &shared.types[ty];
        RowWrite { group, plural, key, api_version, body: object.map(|o| &o.body[..]) }
    });
    if let Err(error) = database.write(batch.version, rows) {
        tracing::error!(%error, "the database refuses a write");
        return Err(ApiError::internal("the write could not be stored"));
    }
    let changes = batch.changes;
    let mut touched: Vec<TypeId> = changes.iter().map(|c| c.ty).collect();
    touched.sort_unstable();
    touched.dedup();
    let version = {
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        state.publish(&changes);
        state.version
    };
    indexes.borrow_mut().follow(&changes);
    (shared.listener)(&changes);
    for ty in touched {
        shared.bells[ty].send_replace(version);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::object::Key;
    use super::*;
    use serde_json::json;

    fn types() -> Vec<StoredType> {
        vec![StoredType { group: "g".into(), plural: "things".into(), api_version: "g/v1".into(), volatile: false }]
    }

    fn put(store: &Store, name: &'static str) -> oneshot::Receiver<Result<u64, ApiError>> {
        store.write(move |txn| {
            Ok(Outcome::Keep(txn.put(0, Key::new("", name), json!({"metadata": {"name": name}})).version))
        })
    }

    /// What an index finds after any number of commits is what a walk over everything finds.
    #[test]
    fn indexes_follow_commits() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), types(), |_| {}).unwrap();
        for step in 0..60_u64 {
            let name = format!("o{}", step % 7);
            let answer = store.write(move |txn| {
                let key = Key::new("", &name);
                let value = json!({"metadata": {"name": name}, "spec": {"vm": format!("vm{}", step % 3)}});
                match txn.get(0, &key) {
                    Some(old) if step % 5 == 0 => txn.delete(0, key, old.value()),
                    _ => txn.put(0, key, value),
                };
                let found: Vec<_> = txn.find(0, None, "spec.vm", "vm1").iter().map(|o| o.key.clone()).collect();
                let walked = txn.list(0, None).into_iter().filter(|o| o.value()["spec"]["vm"] == "vm1");
                assert_eq!(found, walked.map(|o| o.key.clone()).collect::<Vec<_>>());
                Ok(Outcome::Keep(()))
            });
            answer.blocking_recv().unwrap().unwrap();
        }
    }

    #[test]
    fn answered_writes_are_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path, types(), |_| {}).unwrap();
        let answers: Vec<_> = ["a", "b", "c"].into_iter().map(|n| put(&store, n)).collect();
        let failing = store.write(|txn| {
            txn.put(0, Key::new("", "never"), json!({"metadata": {"name": "never"}}));
            Err::<Outcome<()>, _>(ApiError::bad_request("no"))
        });
        let dry = store.write(|txn| Ok(Outcome::Discard(txn.put(0, Key::new("", "dry"), json!({})).version)));
        let panicking = store.write(|_| -> Result<Outcome<()>, ApiError> { panic!("admission gone wrong") });
        let versions: Vec<u64> = answers.into_iter().map(|a| a.blocking_recv().unwrap().unwrap()).collect();
        assert_eq!(versions, [2, 3, 4]);
        assert_eq!(failing.blocking_recv().unwrap().unwrap_err().code, 400);
        assert_eq!(dry.blocking_recv().unwrap().unwrap(), 5);
        assert_eq!(panicking.blocking_recv().unwrap().unwrap_err().code, 500);
        drop(store);
        let store = Store::open(&path, types(), |_| {}).unwrap();
        let names: Vec<_> = store.read().range(0, None, None).map(|o| o.key.name.to_string()).collect();
        assert_eq!((names, store.read().version), (vec!["a".into(), "b".into(), "c".into()], 4));
        assert!(store.read().since(0, 3).is_err());
        assert!(store.read().since(0, 4).is_ok());
    }
}
