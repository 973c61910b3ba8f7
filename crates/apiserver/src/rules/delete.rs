//! Deleting an object: at once, or marked and held by finalizers.

use super::{Context, now, special};
use crate::admission::Operation;
use crate::error::{About, ApiError, Cause};
use crate::meta::{self, FOREGROUND, ORPHAN};
use crate::store::Txn;
use crate::store::object::Object;
use serde_json::{Value, json};
use std::sync::Arc;

/// What happens to what an object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What a client may say with a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// The outcome of a deletion.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Object>),
    /// It is marked, and gone when its finalizers are.
    Marked(Arc<Object>),
}

impl Options {
    /// Reads a `DeleteOptions` body. Fields of the query are the caller's to lay over it.
    pub fn parse(body: &Value) -> Result<Self, ApiError> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let propagation = match (&body["propagationPolicy"], &body["orphanDependents"]) {
            (Value::Null, Value::Null) => None,
            (Value::String(policy), Value::Null) => Some(Propagation::parse(policy)?),
            (Value::Null, orphan) => Some(if orphan == true { Propagation::Orphan } else { Propagation::Background }),
            _ => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                return Err(invalid(Cause::invalid("propagationPolicy", &body["propagationPolicy"], why)));
            }
        };
        Ok(Self {
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
        })
    }
}

impl Propagation {
    pub fn parse(policy: &str) -> Result<Self, ApiError> {
        match policy {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => {
                let allowed = [json!("Background"), json!("Foreground"), json!("Orphan")];
                Err(invalid(Cause::not_supported("propagationPolicy", &json!(other), &allowed)))
            }
        }
    }
}

fn invalid(cause: Cause) -> ApiError {
    ApiError::invalid(About::new("meta.k8s.io", "DeleteOptions", ""), vec![cause])
}

/// Deletes an object, or marks it where finalizers hold it.
pub(crate) fn delete(ctx: Context, txn: &mut Txn, old: &Arc<Object>, options: &Options) -> Result<Deleted, ApiError> {
    let served = ctx.served();
    let name = &*old.key.name;
    let before = old.typed_value(&served.api_version(), &served.spec.kind);
    preconditions(ctx, old, options)?;
    special::may_delete(ctx, &before)?;
    ctx.admit(txn, Operation::Delete, name, Some(&before), None)?;

    let mut after = before.clone();
    let mut finalizers: Vec<String> = meta::finalizers(&before).map(str::to_owned).collect();
    if let Some(propagation) = options.propagation {
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(FOREGROUND.into()),
            Propagation::Orphan => finalizers.push(ORPHAN.into()),
        }
        // an object that is already on its way takes no new finalizers from a later deletion, only fewer
        if meta::is_terminating(&before) {
            finalizers.retain(|f| meta::has_finalizer(&before, f) || f == ORPHAN || f == FOREGROUND);
        }
    }
    meta::set_finalizers(&mut after, finalizers);
    if meta::finalizers(&after).next().is_none() && !special::holds(ctx, &after) {
        return Ok(Deleted::Gone(txn.delete(ctx.id, old.key.clone(), after)));
    }
    if !meta::is_terminating(&before) {
        let map = meta::of_mut(&mut after);
        map.insert("deletionTimestamp".into(), now().into());
        map.insert("deletionGracePeriodSeconds".into(), 0.into());
        if let Some(generation) = map.get("generation").and_then(Value::as_i64) {
            map.insert("generation".into(), (generation + 1).into());
        }
        special::on_mark(ctx, &mut after);
    }
    meta::reorder(&mut after);
    if after == before {
        return Ok(Deleted::Marked(old.clone()));
    }
    Ok(Deleted::Marked(txn.put(ctx.id, old.key.clone(), after)))
}

fn preconditions(ctx: Context, old: &Object, options: &Options) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict(ctx.about_kind(&old.key.name), why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != &*old.uid) {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid
        ));
    }
    let current = old.version.to_string();
    if let Some(version) = options.resource_version.as_ref().filter(|v| **v != current) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({current}). The object might have been modified"
        ));
    }
    Ok(())
}
