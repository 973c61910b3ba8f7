//! Creating an object.

use super::{Context, causes, now, special};
use crate::admission::Operation;
use crate::error::{ApiError, Cause};
use crate::meta;
use crate::store::Txn;
use crate::store::object::{Key, Object};
use serde_json::Value;
use std::sync::Arc;

/// How often a generated name may turn out to be taken.
const ATTEMPTS: usize = 8;

/// Stores a new object. `object` has been reshaped and identified.
pub(crate) fn create(ctx: Context, txn: &mut Txn, mut object: Value) -> Result<Arc<Object>, ApiError> {
    let served = ctx.served();
    namespace_takes(ctx, txn, meta::text(&object, "name"))?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let api_version = served.api_version();
    object["apiVersion"] = api_version.into();
    object["kind"] = served.spec.kind.as_str().into();
    if served.has_status() && !served.rules.status_on_create {
        object.as_object_mut().map(|map| map.shift_remove("status"));
    }
    let meta_map = meta::of_mut(&mut object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        meta_map.shift_remove(field);
    }
    meta_map.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta_map.insert("creationTimestamp".into(), now().into());
    match served.rules.generation {
        true => meta_map.insert("generation".into(), 1.into()),
        false => meta_map.shift_remove("generation"),
    };
    name(ctx, txn, &mut object);
    let name = meta::text(&object, "name").to_owned();
    special::before_create(ctx, &mut object);
    ctx.admit_defaults(txn, Operation::Create, &name, None, &mut object)?;
    meta::reorder(&mut object);
    let mut wrong: Vec<Cause> = causes(served, &object);
    wrong.extend(special::validate(ctx, &object, None));
    if !wrong.is_empty() {
        return Err(ApiError::invalid(ctx.about_kind(&name), wrong));
    }
    ctx.admit(txn, Operation::Create, &name, None, Some(&object))?;
    let key = ctx.key(&name);
    if txn.get(ctx.id, &key).is_some() {
        return Err(ApiError::already_exists(ctx.about(&name)));
    }
    Ok(txn.put(ctx.id, key, object))
}

/// Generates the name where the client wants that.
fn name(ctx: Context, txn: &Txn, object: &mut Value) {
    let base = meta::text(object, "generateName").to_owned();
    if base.is_empty() || !meta::text(object, "name").is_empty() {
        return;
    }
    let mut name = meta::generate_name(&base);
    for _ in 1..ATTEMPTS {
        if txn.get(ctx.id, &ctx.key(&name)).is_none() {
            break;
        }
        name = meta::generate_name(&base);
    }
    meta::of_mut(object).insert("name".into(), name.into());
    meta::reorder(object);
}

/// Nothing is created in a namespace that is absent or going away.
fn namespace_takes(ctx: Context, txn: &Txn, name: &str) -> Result<(), ApiError> {
    let Some(namespace) = ctx.namespace else { return Ok(()) };
    let namespaces = ctx.registry.find("", "namespaces").expect("namespaces are built in");
    let about = super::about(ctx.registry.get(namespaces), namespace);
    let Some(found) = txn.get(namespaces, &Key::new("", namespace)) else { return Err(ApiError::not_found(about)) };
    if found.terminating {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = Cause::new(
            "metadata.namespace",
            "NamespaceTerminating",
            format!("namespace {namespace} is being terminated"),
        );
        return Err(ApiError::forbidden(ctx.about(name), why).with_causes(vec![cause]));
    }
    Ok(())
}
