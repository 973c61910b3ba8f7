//! `describe`: one object as YAML without noise, and what happened to it.

use kube::ResourceExt;
use serde_json::Value;

use super::{Context, kind_and_name};
use crate::args::Named;
use crate::kinds::by_name;
use crate::{CliResult, Output};

pub(super) async fn run(ctx: &Context, args: &Named, out: &mut Output) -> CliResult {
    let (kind, name) = kind_and_name(&args.kind, args.name.as_deref())?;
    let kind = by_name(&kind)?;
    let mut object = kind.api(&ctx.client, &ctx.namespace).get(&name).await?;
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    let uid = object.uid().unwrap_or_default();
    let mut value = serde_json::to_value(&object)?;
    if let Some(meta) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.retain(|_, v| {
            !v.as_object().is_some_and(serde_json::Map::is_empty) && v.as_array().is_none_or(|a| !a.is_empty())
        });
    }
    out.yaml(&value)?;
    let events = super::trace::events_of(ctx, &uid).await?;
    out.line("");
    if events.is_empty() {
        out.line("Events: none");
        return Ok(0);
    }
    out.line("Events:");
    let rows: Vec<Vec<String>> = events.into_iter().map(|e| vec![e.time, e.kind, e.reason, e.from, e.note]).collect();
    out.table(&crate::output::cells(["TIME", "TYPE", "REASON", "FROM", "MESSAGE"]), &rows);
    Ok(0)
}

/// A field's text.
pub(super) fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
