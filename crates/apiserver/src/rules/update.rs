//! Replacing an object's wish or its status.

use super::{Context, causes, same_wish, special};
use crate::admission::Operation;
use crate::error::{ApiError, Cause};
use crate::meta;
use crate::store::Txn;
use crate::store::object::Object;
use serde_json::Value;
use std::sync::Arc;

/// What part of an object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
}

/// Stores a new state of `old`. `new` has been reshaped and identified.
pub(crate) fn update(
    ctx: Context,
    txn: &mut Txn,
    old: &Arc<Object>,
    mut new: Value,
    part: Part,
) -> Result<Arc<Object>, ApiError> {
    let served = ctx.served();
    let name = &*old.key.name;
    let before = old.typed_value(&served.api_version(), &served.spec.kind);
    new["apiVersion"] = before["apiVersion"].clone();
    new["kind"] = before["kind"].clone();
    check_version(ctx, name, &before, &mut new)?;
    select(ctx, &before, &mut new, part);
    let mut wrong: Vec<Cause> = meta::update(&before, &mut new);
    if part != Part::Status {
        special::before_update(ctx, &before, &mut new, part);
    }
    let operation = if part == Part::Status { Operation::UpdateStatus } else { Operation::Update };
    if wrong.is_empty() {
        ctx.admit_defaults(txn, operation, name, Some(&before), &mut new)?;
        meta::reorder(&mut new);
    }
    if served.rules.generation && !same_wish(served, &before, &new) {
        let generation = meta::of(&before).get("generation").and_then(Value::as_i64).unwrap_or(0);
        meta::of_mut(&mut new).insert("generation".into(), (generation + 1).into());
        meta::reorder(&mut new);
    }
    wrong.extend(causes(served, &new));
    wrong.extend(special::validate(ctx, &new, Some(&before)));
    if !wrong.is_empty() {
        return Err(ApiError::invalid(ctx.about_kind(name), wrong));
    }
    ctx.admit(txn, operation, name, Some(&before), Some(&new))?;
    if new == before {
        return Ok(old.clone());
    }
    if meta::is_terminating(&new) && meta::finalizers(&new).next().is_none() && !special::holds(ctx, &new) {
        txn.delete(ctx.id, old.key.clone(), new.clone());
        // the last state is answered as it was written, not as it was removed
        return Ok(Arc::new(Object::new(old.key.clone(), old.version, &mut new)));
    }
    Ok(txn.put(ctx.id, old.key.clone(), new))
}

/// A `metadata.uid` in a replacement says which object is meant.
pub(crate) fn same_uid(ctx: Context, old: &Object, new: &Value) -> Result<(), ApiError> {
    let (wanted, found) = (meta::text(new, "uid"), &*old.uid);
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(ApiError::conflict(ctx.about(&old.key.name), why))
}

/// An update must be based on the newest state, or say that it does not care.
fn check_version(ctx: Context, name: &str, before: &Value, new: &mut Value) -> Result<(), ApiError> {
    let current = meta::text(before, "resourceVersion");
    match meta::text(new, "resourceVersion") {
        "" | "0" if ctx.served().rules.unconditional_update => {
            meta::of_mut(new).insert("resourceVersion".into(), current.into());
            meta::reorder(new);
            Ok(())
        }
        "" | "0" => {
            let cause = Cause::new(
                "metadata.resourceVersion",
                "FieldValueInvalid",
                "Invalid value: 0x0: must be specified for an update",
            );
            // the plural, here alone, as Kubernetes has it
            Err(ApiError::invalid(ctx.about(name), vec![cause]))
        }
        given if given == current => Ok(()),
        _ => Err(ApiError::stale(ctx.about(name))),
    }
}

/// Takes from the old state what this write may not touch.
fn select(ctx: Context, before: &Value, new: &mut Value, part: Part) {
    let served = ctx.served();
    let carry = |new: &mut Value, field: &str| {
        let Value::Object(map) = new else { return };
        match before.get(field) {
            Some(value) => map.insert(field.into(), value.clone()),
            None => map.shift_remove(field),
        };
    };
    match part {
        Part::Status => {
            let status = new.get("status").cloned();
            let metadata = new["metadata"].clone();
            *new = before.clone();
            let Value::Object(map) = new else { return };
            match status {
                Some(status) => map.insert("status".into(), status),
                None => map.shift_remove("status"),
            };
            if !served.rules.status_keeps_metadata {
                map.insert("metadata".into(), metadata);
            }
        }
        Part::Main | Part::Finalize => {
            if served.has_status() {
                carry(new, "status");
            }
        }
    }
}
