//! The collector: deletes what has lost its last owner, holds owners back for their dependents or lets these go, empties
//! namespaces that are going away, and forgets events that are older than an hour.
//!
//! A thread of its own that is told of every committed change. It writes through the same rules as clients do, so admission
//! is asked about its deletions too; what is refused is tried again later.

use crate::builtin::EVENTS_GROUP;
use crate::error::ApiError;
use crate::meta::{self, FOREGROUND, ORPHAN};
use crate::registry::Registry;
use crate::rules::delete::{Options, Propagation, delete};
use crate::rules::special::NAMESPACE_FINALIZER;
use crate::rules::update::{Part, update};
use crate::rules::{Context, now};
use crate::server::Server;
use crate::store::object::{Key, Object};
use crate::store::state::{Change, TypeId};
use crate::store::{Outcome, Txn};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long an event is kept.
const EVENTS_LAST: chrono::TimeDelta = chrono::TimeDelta::hours(1);
/// How often old events are looked for.
const EVENTS_EVERY: Duration = Duration::from_secs(60);
/// What was refused is tried again after this, doubling up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// How many objects of a namespace are deleted in one write.
const CHUNK: usize = 256;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    /// An object that is owned, or marked for deletion.
    Object(TypeId, Key),
    /// What was owned by an object that is gone.
    OrphansOf(Box<str>),
    /// A namespace that is going away.
    Namespace(Key),
}

/// The collector before it is started: it already listens.
pub(crate) struct Collector {
    sender: Sender<Item>,
    receiver: Receiver<Item>,
}

impl Collector {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    /// What the store is to call after every commit.
    pub fn listener(&self, registry: Arc<Registry>) -> impl Fn(&[Change]) + Send + Sync + 'static {
        let sender = Mutex::new(self.sender.clone());
        move |changes| {
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                for item in of_interest(&registry, change) {
                    // without a collector there is nobody to tell
                    let _ = sender.send(item);
                }
            }
        }
    }

    /// Looks at everything once, then at what changes, until the server is dropped.
    pub fn start(self, server: &Arc<Server>) -> std::io::Result<()> {
        {
            let state = server.store.read();
            for (ty, object) in state.everything() {
                if object.terminating || !object.owners.is_empty() {
                    let _ = self.sender.send(Item::Object(ty, object.key.clone()));
                }
                if object.terminating && server.registry.get(ty).is_core("Namespace") {
                    let _ = self.sender.send(Item::Namespace(object.key.clone()));
                }
            }
        }
        let server = Arc::downgrade(server);
        let receiver = self.receiver;
        std::thread::Builder::new().name("store-collector".into()).spawn(move || run(&server, &receiver)).map(drop)
    }
}

fn of_interest(registry: &Registry, change: &Change) -> Vec<Item> {
    let mut items = Vec::new();
    let object = &change.new;
    if change.deleted {
        items.push(Item::OrphansOf(object.uid.clone()));
        // an owner in foreground deletion may have waited for this one, a namespace for its last object
        if !object.key.namespace.is_empty() {
            items.push(Item::Namespace(Key::new("", &object.key.namespace)));
        }
        items.extend(object.owners.iter().map(|uid| Item::OrphansOf(uid.clone())));
        return items;
    }
    let same_owners = change.old.as_ref().is_some_and(|old| old.owners == object.owners);
    if object.terminating || !(object.owners.is_empty() || same_owners) {
        items.push(Item::Object(change.ty, object.key.clone()));
    }
    if object.terminating && registry.get(change.ty).is_core("Namespace") {
        items.push(Item::Namespace(object.key.clone()));
    }
    // an owner in foreground deletion waits only for dependents that still name it
    if let Some(old) = &change.old {
        items.extend(
            old.owners.iter().filter(|uid| !object.owners.contains(uid)).map(|uid| Item::OrphansOf(uid.clone())),
        );
    }
    items
}

fn run(server: &Weak<Server>, receiver: &Receiver<Item>) {
    let mut retries: BTreeMap<Item, (Instant, Duration)> = BTreeMap::new();
    let mut next_sweep = Instant::now();
    loop {
        let due = retries.values().map(|(at, _)| *at).min().unwrap_or(next_sweep).min(next_sweep);
        let mut items = BTreeSet::new();
        match receiver.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(item) => {
                items.insert(item);
                items.extend(receiver.try_iter().take(4096));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(server) = server.upgrade() else { return };
        let moment = Instant::now();
        items.extend(retries.iter().filter(|(_, (at, _))| *at <= moment).map(|(item, _)| item.clone()));
        let look = Look { server: &server };
        let begun: Vec<(Item, Vec<Answer>)> = items
            .into_iter()
            .map(|item| {
                let answers = look.begin(&item);
                (item, answers)
            })
            .collect();
        for (item, answers) in begun {
            let done = answers.into_iter().map(wait).fold(Ok(()), Result::and);
            let done = if let Item::Namespace(key) = &item { look.namespace(key) } else { done };
            match done {
                Ok(()) => {
                    retries.remove(&item);
                }
                Err(error) => {
                    let wait = retries.get(&item).map_or(RETRY_FIRST, |(_, wait)| (*wait * 2).min(RETRY_LONGEST));
                    tracing::debug!(?item, %error, ?wait, "collection is refused for now");
                    retries.insert(item, (Instant::now() + wait, wait));
                }
            }
        }
        if moment >= next_sweep {
            sweep_events(&server);
            next_sweep = Instant::now() + EVENTS_EVERY;
        }
    }
}

/// How an owner reference stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The owner is there.
    Solid,
    /// The owner is there, and waits for its dependents to go.
    Waiting,
    /// There is no such owner.
    Gone,
}

type Answer = oneshot::Receiver<Result<(), ApiError>>;

struct Look<'a> {
    server: &'a Arc<Server>,
}

impl Look<'_> {
    /// Queues a write without waiting for it: writes that wait together share one fsync.
    fn submit(&self, work: impl FnOnce(&Arc<Server>, &mut Txn) -> Result<(), ApiError> + Send + 'static) -> Answer {
        let server = self.server.clone();
        self.server.store.write(move |txn| work(&server, txn).map(Outcome::Keep))
    }

    /// Begins to look at an item. Namespaces are looked at as a whole, by [`Look::namespace`].
    fn begin(&self, item: &Item) -> Vec<Answer> {
        match item {
            Item::OrphansOf(uid) => {
                let (dependents, owner) = {
                    let state = self.server.store.read();
                    (state.dependents(uid), state.terminating(uid))
                };
                dependents.into_iter().chain(owner).map(|(ty, key)| self.object(ty, key)).collect()
            }
            Item::Object(ty, key) => vec![self.object(*ty, key.clone())],
            Item::Namespace(_) => Vec::new(),
        }
    }

    fn object(&self, ty: TypeId, key: Key) -> Answer {
        self.submit(move |server, txn| {
            let Some(object) = txn.get(ty, &key) else { return Ok(()) };
            if object.terminating {
                let value = object.value();
                if meta::has_finalizer(&value, ORPHAN) {
                    return let_go(server, txn, ty, &object);
                }
                return if meta::has_finalizer(&value, FOREGROUND) {
                    foreground(server, txn, ty, &object)
                } else {
                    Ok(())
                };
            }
            if object.owners.is_empty() { Ok(()) } else { owned(server, txn, ty, &object) }
        })
    }

    /// Deletes what is in a namespace that is going away; when nothing is left, lets the namespace go.
    /// Objects that finalizers hold bring the namespace up again when they are gone.
    fn namespace(&self, key: &Key) -> Result<(), ApiError> {
        let namespaces = self.server.registry.find("", "namespaces").expect("namespaces are built in");
        let going = self.server.store.read().get(namespaces, key).is_some_and(|n| n.terminating);
        if !going {
            return Ok(());
        }
        let all: Vec<(TypeId, Key)> = {
            let state = self.server.store.read();
            let types = self.server.registry.all().filter(|(_, t)| t.spec.namespaced);
            let objects = types.flat_map(|(ty, _)| state.range(ty, Some(&key.name), None).map(move |o| (ty, o)));
            objects.filter(|(_, o)| !o.terminating).map(|(ty, o)| (ty, o.key.clone())).collect()
        };
        let mut refused = None;
        for chunk in all.chunks(CHUNK) {
            let deletions: Vec<Answer> = chunk.iter().cloned().map(|(ty, key)| self.empty_out(ty, key)).collect();
            for deletion in deletions {
                refused = refused.or(wait(deletion).err());
            }
        }
        let (key, error) = (key.clone(), refused.clone());
        wait(self.submit(move |server, txn| release(server, txn, namespaces, &key, error.as_ref())))?;
        refused.map_or(Ok(()), Err)
    }

    fn empty_out(&self, ty: TypeId, key: Key) -> Answer {
        self.submit(move |server, txn| match txn.get(ty, &key) {
            Some(object) if !object.terminating => {
                let options = Options { propagation: Some(Propagation::Background), ..Options::default() };
                delete(context(server, ty, &key), txn, &object, &options).map(drop)
            }
            _ => Ok(()),
        })
    }
}

fn wait(answer: Answer) -> Result<(), ApiError> {
    answer.blocking_recv().unwrap_or_else(|_| Err(ApiError::internal("the store is closed")))
}

fn context<'a>(server: &'a Server, ty: TypeId, key: &'a Key) -> Context<'a> {
    let namespace = Some(&*key.namespace).filter(|n| !n.is_empty());
    Context { registry: &server.registry, admission: &*server.admission, id: ty, namespace, dry_run: false }
}

fn typed(server: &Server, ty: TypeId, object: &Object) -> Value {
    let served = server.registry.get(ty);
    object.typed_value(&served.api_version(), &served.spec.kind)
}

fn references(value: &Value) -> Vec<Value> {
    meta::of(value).get("ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn standing(server: &Server, txn: &Txn, dependent: &Object, reference: &Value) -> Owner {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    // an owner of a kind that is not served cannot be judged
    let Some(ty) = server.registry.by_kind(text("apiVersion"), text("kind")) else { return Owner::Solid };
    let namespaced = server.registry.get(ty).spec.namespaced;
    let key = Key::new(if namespaced { &dependent.key.namespace } else { "" }, text("name"));
    match txn.get(ty, &key).filter(|owner| *owner.uid == *text("uid")) {
        None => Owner::Gone,
        Some(owner) if owner.terminating && meta::has_finalizer(&owner.value(), FOREGROUND) => Owner::Waiting,
        Some(_) => Owner::Solid,
    }
}

/// Looks at an owned object: deletes it when no owner is left, else drops references to owners that are gone.
fn owned(server: &Server, txn: &mut Txn, ty: TypeId, object: &Arc<Object>) -> Result<(), ApiError> {
    let mut value = typed(server, ty, object);
    let references = references(&value);
    let standings: Vec<Owner> = references.iter().map(|r| standing(server, txn, object, r)).collect();
    if standings.contains(&Owner::Solid) {
        if standings.iter().all(|s| *s == Owner::Solid) {
            return Ok(());
        }
        let kept =
            references.into_iter().zip(&standings).filter(|(_, s)| **s == Owner::Solid).map(|(r, _)| r).collect();
        set_references(&mut value, kept);
        return update(context(server, ty, &object.key), txn, object, value, Part::Main).map(drop);
    }
    let has_dependents = !txn.dependents(&object.uid).is_empty();
    let propagation = match () {
        () if standings.contains(&Owner::Waiting) && has_dependents => Propagation::Foreground,
        () if meta::has_finalizer(&value, ORPHAN) => Propagation::Orphan,
        () if meta::has_finalizer(&value, FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    };
    let options = Options { propagation: Some(propagation), uid: Some(object.uid.to_string()), resource_version: None };
    delete(context(server, ty, &object.key), txn, object, &options).map(drop)
}

fn set_references(value: &mut Value, references: Vec<Value>) {
    let map = meta::of_mut(value);
    if references.is_empty() {
        map.shift_remove("ownerReferences");
    } else {
        map.insert("ownerReferences".into(), references.into());
    }
}

/// Takes one of the collector's own finalizers off an object that is marked for deletion.
fn take_off(server: &Server, txn: &mut Txn, ty: TypeId, object: &Arc<Object>, finalizer: &str) -> Result<(), ApiError> {
    let mut value = typed(server, ty, object);
    let left = meta::finalizers(&value).filter(|f| *f != finalizer).map(str::to_owned).collect();
    meta::set_finalizers(&mut value, left);
    update(context(server, ty, &object.key), txn, object, value, Part::Main).map(drop)
}

/// Orphan deletion: dependents lose their reference, then the owner goes.
fn let_go(server: &Server, txn: &mut Txn, ty: TypeId, owner: &Arc<Object>) -> Result<(), ApiError> {
    for (dependent_ty, key) in txn.dependents(&owner.uid) {
        let Some(dependent) = txn.get(dependent_ty, &key) else { continue };
        let mut value = typed(server, dependent_ty, &dependent);
        let kept = references(&value).into_iter().filter(|r| r["uid"] != *owner.uid).collect();
        set_references(&mut value, kept);
        update(context(server, dependent_ty, &key), txn, &dependent, value, Part::Main)?;
    }
    take_off(server, txn, ty, owner, ORPHAN)
}

/// Foreground deletion: the owner goes when no dependent that blocks it is left; until then they are deleted.
fn foreground(server: &Server, txn: &mut Txn, ty: TypeId, owner: &Arc<Object>) -> Result<(), ApiError> {
    let mut blocked = false;
    for (dependent_ty, key) in txn.dependents(&owner.uid) {
        let Some(dependent) = txn.get(dependent_ty, &key) else { continue };
        if dependent.terminating {
            blocked |= blocks(&dependent, owner) && !waits_for_itself(&dependent, owner, txn);
            continue;
        }
        owned(server, txn, dependent_ty, &dependent)?;
        blocked |= txn.get(dependent_ty, &key).is_some_and(|d| blocks(&d, owner));
    }
    if blocked { Ok(()) } else { take_off(server, txn, ty, owner, FOREGROUND) }
}

fn blocks(dependent: &Object, owner: &Object) -> bool {
    references(&dependent.value()).iter().any(|r| r["uid"] == *owner.uid && r["blockOwnerDeletion"] == true)
}

/// Two objects that own one another would wait for ever: the one that waits for its own owner does not block it.
fn waits_for_itself(dependent: &Object, owner: &Object, txn: &Txn) -> bool {
    meta::has_finalizer(&dependent.value(), FOREGROUND)
        && txn.dependents(&dependent.uid).iter().any(|(ty, key)| txn.get(*ty, key).is_some_and(|o| o.uid == owner.uid))
}

/// Lets a namespace go that nothing is left in; else writes on it what it waits for.
fn release(server: &Server, txn: &mut Txn, ty: TypeId, key: &Key, refused: Option<&ApiError>) -> Result<(), ApiError> {
    let Some(object) = txn.get(ty, key).filter(|n| n.terminating) else { return Ok(()) };
    let mut remaining: Vec<(String, usize)> = Vec::new();
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for (other, served) in server.registry.all().filter(|(_, t)| t.spec.namespaced) {
        let objects = txn.list(other, Some(&key.name));
        if objects.is_empty() {
            continue;
        }
        let group = if served.spec.group.is_empty() { String::new() } else { format!(".{}", served.spec.group) };
        remaining.push((format!("{}{group}", served.spec.plural), objects.len()));
        for value in objects.iter().map(|o| o.value()) {
            for finalizer in meta::finalizers(&value) {
                *finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }
    let ctx = context(server, ty, key);
    let mut value = typed(server, ty, &object);
    if remaining.is_empty() {
        let left: Vec<Value> = value["spec"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|f| **f != NAMESPACE_FINALIZER)
            .cloned()
            .collect();
        value["spec"]["finalizers"] = left.into();
        return update(ctx, txn, &object, value, Part::Finalize).map(drop);
    }
    value["status"]["conditions"] = conditions(&value, &remaining, &finalizers, refused);
    update(ctx, txn, &object, value, Part::Status).map(drop)
}

/// The conditions that Kubernetes sets on a namespace that is not empty yet.
fn conditions(
    namespace: &Value,
    remaining: &[(String, usize)],
    finalizers: &BTreeMap<String, usize>,
    refused: Option<&ApiError>,
) -> Value {
    let old = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str, (status, reason, message): (bool, &str, String)| {
        let status = if status { "True" } else { "False" };
        let same = old.iter().find(|c| c["type"] == kind && c["status"] == status);
        let since = same.and_then(|c| c["lastTransitionTime"].as_str().map(str::to_owned)).unwrap_or_else(now);
        json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
    };
    let content: Vec<String> = remaining.iter().map(|(kind, n)| format!("{kind} has {n} resource instances")).collect();
    let held: Vec<String> = finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect();
    let failure = match refused {
        Some(error) => {
            (true, "ContentDeletionFailed", format!("Failed to delete all resource types: {}", error.message))
        }
        None => (false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization".into()),
    };
    let left = if held.is_empty() {
        (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".into())
    } else {
        (
            true,
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", held.join(", ")),
        )
    };
    json!([
        condition("NamespaceDeletionContentFailure", failure),
        condition(
            "NamespaceContentRemaining",
            (true, "SomeResourcesRemain", format!("Some resources are remaining: {}", content.join(", ")))
        ),
        condition("NamespaceFinalizersRemaining", left),
    ])
}

/// Forgets events that nobody has repeated for an hour.
fn sweep_events(server: &Arc<Server>) {
    let Some(ty) = server.registry.find(EVENTS_GROUP, "events") else { return };
    let limit = meta::timestamp(chrono::Utc::now() - EVENTS_LAST);
    let old: Vec<Key> = {
        let state = server.store.read();
        let last_seen = |value: &Value| {
            let times = [
                &value["series"]["lastObservedTime"],
                &value["lastTimestamp"],
                &value["eventTime"],
                &value["metadata"]["creationTimestamp"],
            ];
            times.into_iter().filter_map(Value::as_str).max().unwrap_or_default().to_owned()
        };
        state.range(ty, None, None).filter(|o| last_seen(&o.value()) < limit).map(|o| o.key.clone()).collect()
    };
    let look = Look { server };
    for chunk in old.chunks(CHUNK) {
        let chunk = chunk.to_vec();
        let swept = wait(look.submit(move |server, txn| {
            for key in &chunk {
                if let Some(object) = txn.get(ty, key) {
                    delete(context(server, ty, key), txn, &object, &Options::default())?;
                }
            }
            Ok(())
        }));
        if let Err(error) = swept {
            tracing::warn!(%error, "old events could not be removed");
        }
    }
}
