//! `trace`: how one NIC came to be what it is, with times.

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use multihome_model::{NetworkInterface, PolicyStatus};
use serde_json::Value;

use super::describe::text;
use super::{Context, kind_and_name};
use crate::args::Trace;
use crate::kinds::by_name;
use crate::{CliError, CliResult, Output};

/// An Event as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown {
    /// When, RFC 3339.
    pub time: String,
    /// Normal or Warning.
    pub kind: String,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub from: String,
    /// What.
    pub note: String,
}

/// The Events about an object, oldest first.
pub(super) async fn events_of(ctx: &Context, uid: &str) -> Result<Vec<Shown>, CliError> {
    let api = by_name("events")?.api(&ctx.client, &ctx.namespace);
    let list = api.list(&ListParams::default().fields(&format!("involvedObject.uid={uid}"))).await?;
    let mut out: Vec<Shown> = list
        .items
        .iter()
        .map(|e| {
            let v = &e.data;
            let first =
                |all: &[&str]| all.iter().map(|p| text(v, p)).find(|t| !t.is_empty()).unwrap_or_default().to_owned();
            let mut time = first(&["/eventTime", "/firstTimestamp", "/lastTimestamp"]);
            if time.is_empty() {
                time = e.creation_timestamp().map(|t| t.0.to_string()).unwrap_or_default();
            }
            Shown {
                time: time.trim_end_matches('Z').chars().take(23).collect::<String>() + "Z",
                kind: first(&["/type"]),
                reason: first(&["/reason"]),
                from: first(&["/reportingComponent", "/source/component"]),
                note: first(&["/message"]),
            }
        })
        .collect();
    out.sort();
    Ok(out)
}

pub(super) async fn run(ctx: &Context, args: &Trace, out: &mut Output) -> CliResult {
    let (kind, name) = match args.target.split_once('/') {
        Some(_) => kind_and_name(&args.target, None)?,
        None => ("nic".into(), args.target.clone()),
    };
    if by_name(&kind)?.resource.kind != "NetworkInterface" {
        return Err(CliError::new(format!("{kind:?} cannot be traced: use nic/NAME")));
    }
    let api: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let nic = api.get(&name).await?;
    let status = nic.status.clone().unwrap_or_default();
    let vm = nic.spec.vm().unwrap_or("no VM");
    out.line(format!("NIC {name}: {vm} on network {}", nic.spec.network));
    let mut steps: Vec<(String, String, String)> = vec![];
    if let Some(t) = nic.creation_timestamp() {
        let t = serde_json::to_value(&t).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        steps.push((t, "created".into(), format!("by {}", owner(&nic))));
    }
    for e in events_of(ctx, &nic.uid().unwrap_or_default()).await? {
        steps.push((e.time, e.reason.clone(), e.note));
    }
    if let Some(l) = &status.lease {
        let route = if l.default_route { "with a default route" } else { "without a default route" };
        let text = format!("{} for {} s, {route}", l.address, l.seconds);
        steps.push((l.acknowledged.clone().unwrap_or_default(), "last acknowledgement".into(), text));
    }
    if let Some(g) = &status.guest {
        let routes = if g.default_routes.is_empty() {
            "no default route".into()
        } else {
            format!("default via {}", g.default_routes.join(", "))
        };
        let text = format!("{}: {}; {routes}", status.guest_name.clone().unwrap_or_default(), g.addresses.join(", "));
        steps.push((g.observed.clone().unwrap_or_default(), "the guest shows".into(), text));
    }
    // «44Z» is before «44.374Z».
    steps.sort_by(|a, b| a.0.trim_end_matches('Z').cmp(b.0.trim_end_matches('Z')));
    let rows: Vec<Vec<String>> = steps.into_iter().map(|(t, what, text)| vec![t, what, text]).collect();
    out.table(&crate::output::cells(["TIME", "WHAT", "HOW"]), &rows);
    out.line("");
    let rows: Vec<Vec<String>> = status
        .conditions
        .iter()
        .map(|c| {
            vec![
                c.r#type.clone(),
                c.status.clone(),
                c.last_transition_time.clone().unwrap_or_default(),
                c.reason.clone(),
                c.message.clone(),
            ]
        })
        .collect();
    if let Some(p) = &status.policies {
        policies(p, out);
        out.line("");
    }
    out.table(&crate::output::cells(["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"]), &rows);
    Ok(0)
}

/// What is enforced at the NIC, in the order in which it is asked.
fn policies(p: &PolicyStatus, out: &mut Output) {
    let mut rows = vec![];
    for d in &p.defaults {
        let of = p.rules.iter().filter(|r| r.direction == d.direction);
        let row = |rule: String, from: String, packets: u64| {
            vec![d.direction.as_str().to_owned(), rule, from, packets.to_string()]
        };
        rows.extend(of.map(|r| row(r.rule.clone(), r.group.clone(), r.packets)));
        rows.push(row(format!("{:?} the rest", d.action), d.because.clone(), d.packets));
    }
    out.table(&crate::output::cells(["DIRECTION", "RULE", "FROM", "PACKETS"]), &rows);
}

fn owner(nic: &NetworkInterface) -> String {
    let v = serde_json::to_value(nic.owner_references()).unwrap_or(Value::Null);
    match v.get(0) {
        Some(o) => format!("{} {}", text(o, "/kind"), text(o, "/name")),
        None => "a user".into(),
    }
}
