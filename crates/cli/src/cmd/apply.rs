//! `apply`: documents one after the other, as far as admission allows, and a line for each.

use std::path::Path;

use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::Context;
use crate::args::Apply;
use crate::kinds::{Kind, by_type};
use crate::{CliError, CliResult, Output};

/// The last applied manifest, by kubectl's own name, so that both can be used on one object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads the documents of manifests.
pub(crate) fn read_documents(files: &[impl AsRef<Path>]) -> Result<Vec<Value>, CliError> {
    let mut out = vec![];
    for file in files {
        let file = file.as_ref();
        let text = if file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())?
        } else {
            std::fs::read_to_string(file).map_err(|e| CliError::new(format!("{}: {e}", file.display())))?
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|e| CliError::new(format!("{} is not a manifest: {e}", file.display())))?;
        for d in documents {
            match d.get("items").and_then(Value::as_array) {
                Some(items) if d.get("kind").and_then(Value::as_str) == Some("List") => {
                    out.extend(items.iter().cloned())
                }
                _ if d.is_null() => {}
                _ => out.push(d),
            }
        }
    }
    Ok(out)
}

/// A document's kind and name.
pub(crate) fn identify(d: &Value) -> Result<(Kind, String, Option<String>), CliError> {
    let text = |p: &str| d.pointer(p).and_then(Value::as_str);
    let missing = |what: &str| CliError::new(format!("a document has no {what}"));
    let kind = by_type(
        text("/apiVersion").ok_or_else(|| missing("apiVersion"))?,
        text("/kind").ok_or_else(|| missing("kind"))?,
    )?;
    let name = text("/metadata/name").ok_or_else(|| missing("metadata.name"))?.to_owned();
    Ok((kind, name, text("/metadata/namespace").map(str::to_owned)))
}

pub(super) async fn run(ctx: &Context, args: &Apply, out: &mut Output) -> CliResult {
    let documents = read_documents(&args.filename)?;
    let total = documents.len();
    let mut failed = 0;
    for d in documents {
        match one(ctx, d, args.dry_run).await {
            Ok(line) => out.line(line),
            Err(e) if total == 1 => return Err(e),
            Err(e) => {
                failed += 1;
                out.note(&e);
            }
        }
    }
    if failed == 0 {
        return Ok(0);
    }
    Err(CliError::new(format!("{failed} of {total} documents were not applied, {} were", total - failed)))
}

async fn one(ctx: &Context, d: Value, dry_run: bool) -> Result<String, CliError> {
    let done = put(ctx, d, dry_run).await?;
    let word = match done.before {
        None => "created",
        Some(version) if Some(&version) == done.object.resource_version().as_ref() => "unchanged",
        Some(_) => "configured",
    };
    let suffix = if dry_run { " (dry run)" } else { "" };
    Ok(format!("{} {word}{suffix}", done.label))
}

/// A document that was taken.
pub(super) struct Taken {
    /// Kind and name, for messages.
    pub label: String,
    /// The resource version before, if it was there.
    pub before: Option<String>,
    /// What it is now, or would be.
    pub object: DynamicObject,
}

/// Creates or changes what a document describes; or asks what that would lead to.
pub(super) async fn put(ctx: &Context, d: Value, dry_run: bool) -> Result<Taken, CliError> {
    let (kind, name, namespace) = identify(&d)?;
    let label = format!("{}/{name}", kind.label());
    let refused = |e: kube::Error| match CliError::from(e).to_string() {
        text if text.contains(&name) => CliError::new(text.trim_start_matches("error: ")),
        text => CliError::new(format!("{label}: {}", text.trim_start_matches("error: "))),
    };
    let api = kind.api(&ctx.client, namespace.as_deref().unwrap_or(&ctx.namespace));
    let mut wish = d.clone();
    wish["metadata"]["annotations"][LAST_APPLIED] = json!(format!("{d}\n"));
    let Some(there) = api.get_opt(&name).await.map_err(refused)? else {
        let object: DynamicObject = serde_json::from_value(wish)?;
        let params = PostParams { dry_run, field_manager: None };
        let object = api.create(&params, &object).await.map_err(refused)?;
        return Ok(Taken { label, before: None, object });
    };
    let last: Value =
        there.annotations().get(LAST_APPLIED).and_then(|t| serde_json::from_str(t).ok()).unwrap_or_else(|| json!({}));
    let mut patch = wish;
    // What was applied before and is not any more is removed; what others set stays.
    nulls_for_removed(&last, &d, &mut patch);
    let params =
        PatchParams { dry_run, field_validation: Some(kube::api::ValidationDirective::Strict), ..Default::default() };
    let object = api.patch(&name, &params, &Patch::Merge(patch)).await.map_err(refused)?;
    Ok(Taken { label, before: Some(there.resource_version().unwrap_or_default()), object })
}

/// Adds `null` to a merge patch (RFC 7396) for every field of `last` that `wish` does not have.
fn nulls_for_removed(last: &Value, wish: &Value, patch: &mut Value) {
    let (Some(last), Some(wish), Some(patch)) = (last.as_object(), wish.as_object(), patch.as_object_mut()) else {
        return;
    };
    for (key, value) in last {
        match wish.get(key) {
            None => {
                patch.insert(key.clone(), Value::Null);
            }
            Some(w) => {
                if let Some(p) = patch.get_mut(key) {
                    nulls_for_removed(value, w, p);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_left_the_manifest_are_removed() {
        let last = json!({"spec": {"a": 1, "b": {"c": 2, "d": 3}}});
        let wish = json!({"spec": {"b": {"c": 2}}});
        let mut patch = wish.clone();
        nulls_for_removed(&last, &wish, &mut patch);
        assert_eq!(patch, json!({"spec": {"a": null, "b": {"c": 2, "d": null}}}));
    }
}
