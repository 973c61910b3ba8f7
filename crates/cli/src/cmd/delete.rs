//! `delete`: says what it removes, and waits until it is gone.

use std::time::Duration;

use kube::Api;
use kube::api::{DeleteParams, DynamicObject};

use super::Context;
use super::apply::{identify, read_documents};
use crate::args::Delete;
use crate::kinds::{Kind, by_name};
use crate::{CliError, CliResult, Output};

/// How long something may take to go before the user is told why it has not.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn run(ctx: &Context, args: &Delete, out: &mut Output) -> CliResult {
    let mut targets: Vec<(Kind, String, Option<String>)> = vec![];
    if args.filename.is_empty() {
        let word = args.kind.clone().unwrap_or_default();
        match word.split_once('/') {
            Some((kind, name)) => targets.push((by_name(kind)?, name.to_owned(), None)),
            None => {
                let kind = by_name(&word)?;
                if args.names.is_empty() {
                    return Err(CliError::new(format!("name what to remove: multihome delete {word} NAME")));
                }
                targets.extend(args.names.iter().map(|n| (kind.clone(), n.clone(), None)));
            }
        }
    } else {
        for d in read_documents(&args.filename)?.iter().rev() {
            targets.push(identify(d)?);
        }
    }
    let mut failed = 0;
    for (kind, name, namespace) in &targets {
        let ns = namespace.as_deref().unwrap_or(&ctx.namespace);
        match remove(ctx, kind, name, ns, !args.no_wait).await {
            Ok(line) => out.line(line),
            Err(e) if targets.len() == 1 => return Err(e),
            Err(e) => {
                failed += 1;
                out.note(&e);
            }
        }
    }
    if failed == 0 {
        Ok(0)
    } else {
        Err(CliError::new(format!("{failed} of {} objects were not removed", targets.len())))
    }
}

/// Removes one object; the line says so.
pub(super) async fn remove(ctx: &Context, kind: &Kind, name: &str, ns: &str, wait: bool) -> Result<String, CliError> {
    let api = kind.api(&ctx.client, ns);
    let label = format!("{}/{name}", kind.label());
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(e)) if e.code == 404 => {
            return Err(CliError::new(format!("{label} does not exist in namespace {ns}")));
        }
        Err(e) => return Err(e.into()),
    }
    if wait {
        gone(&api, name, &label).await?;
    }
    Ok(format!("{label} removed"))
}

async fn gone(api: &Api<DynamicObject>, name: &str, label: &str) -> Result<(), CliError> {
    let end = tokio::time::Instant::now() + PATIENCE;
    while let Some(o) = api.get_opt(name).await? {
        if tokio::time::Instant::now() > end {
            let holders = o.metadata.finalizers.unwrap_or_default().join(", ");
            return Err(CliError::new(format!(
                "{label} is still there after {} s, held by {holders}",
                PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
