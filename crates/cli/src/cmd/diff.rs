//! `diff`: what manifests would change on the nodes, asked of the API as a dry run and planned here.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::ListParams;
use multihome_agent::node_input;
use multihome_control::Key;
use multihome_control::world::Tables;
use multihome_plan::node::{NodeState, Step, Touched, build, diff, touched};
use serde_json::{Value, json};

use super::Context;
use super::apply::{identify, put, read_documents};
use super::plan::{KINDS, describe, put_object};
use crate::args::{Diff, Format};
use crate::output::{cells, table};
use crate::{CliError, CliResult, Output, kinds};

/// What is stored, by kind, namespace and name.
type Stored = BTreeMap<(String, String, String), Value>;

pub(super) async fn run(ctx: &Context, args: &Diff, out: &mut Output) -> CliResult {
    let documents = read_documents(&args.filename)?;
    let before = stored(ctx).await?;
    let mut after = before.clone();
    for d in documents {
        let (kind, name, _) = identify(&d)?;
        let taken = put(ctx, d, true).await?;
        let namespace = taken.object.namespace().unwrap_or_default();
        after.insert((kind.resource.kind.clone(), namespace, name), serde_json::to_value(&taken.object)?);
    }
    let (before, after) = (tables(&before)?, tables(&after)?);
    let mut nodes: Vec<String> = after.nodes.keys().map(|k| k.name.clone()).collect();
    if let Some(only) = &args.node {
        if !nodes.contains(only) {
            return Err(CliError::new(format!("there is no node {only:?}: use one of {}", nodes.join(", "))));
        }
        nodes.retain(|n| n == only);
    }
    let changes: Vec<Changes> = nodes.iter().map(|n| Changes::of(n, &before, &after)).collect();
    if args.output == Format::Json {
        out.json(&json!({"nodes": changes.iter().map(|c| c.json(&after)).collect::<Vec<_>>()}))?;
        return Ok(0);
    }
    let mut quiet = true;
    for change in changes.iter().filter(|c| !c.steps.is_empty()) {
        quiet = false;
        change.text(&after).into_iter().for_each(|l| out.line(l));
    }
    if quiet {
        out.line("nothing changes on any node");
    }
    Ok(0)
}

async fn stored(ctx: &Context) -> Result<Stored, CliError> {
    let mut all = Stored::new();
    for kind in kinds::all().into_iter().filter(|k| KINDS.contains(&k.resource.kind.as_str())) {
        let api: kube::Api<kube::api::DynamicObject> = kube::Api::all_with(ctx.client.clone(), &kind.resource);
        for object in api.list(&ListParams::default()).await?.items {
            let key = (kind.resource.kind.clone(), object.namespace().unwrap_or_default(), object.name_any());
            all.insert(key, serde_json::to_value(&object)?);
        }
    }
    Ok(all)
}

fn tables(stored: &Stored) -> Result<Tables, CliError> {
    let mut tables = Tables::default();
    for ((kind, ..), object) in stored {
        put_object(&mut tables, kind, object.clone())?;
    }
    Ok(tables)
}

/// What changes on one node.
struct Changes {
    node: String,
    steps: Vec<Step>,
    /// By the NIC's `NAMESPACE/NAME`.
    nics: BTreeMap<String, Touched>,
}

impl Changes {
    fn of(node: &str, before: &Tables, after: &Tables) -> Self {
        let state = |t: &Tables| -> NodeState { build(&node_input(t, node)) };
        let (old, new) = (state(before), state(after));
        let name = |alias: String| alias.strip_prefix("nic ").map_or(alias.clone(), str::to_owned);
        let nics = touched(&old, &new).into_iter().map(|(alias, t)| (name(alias), t)).collect();
        Self { node: node.to_owned(), steps: diff(&old, &new), nics }
    }

    fn vm_of(tables: &Tables, nic: &str) -> Option<String> {
        let (namespace, name) = nic.split_once('/')?;
        tables.nics.get(&Key::new(namespace, name))?.spec.vm().map(str::to_owned)
    }

    fn json(&self, tables: &Tables) -> Value {
        let nic = |(key, t): (&String, &Touched)| json!({"nic": key, "vm": Self::vm_of(tables, key), "change": t});
        json!({"node": self.node, "steps": self.steps, "nics": self.nics.iter().map(nic).collect::<Vec<_>>()})
    }

    fn text(&self, tables: &Tables) -> Vec<String> {
        let mut lines = vec![format!("node {}", self.node)];
        lines.extend(self.steps.iter().map(|s| format!("  {}", describe(s))));
        if self.nics.is_empty() {
            lines.push("  no NIC that is there is touched".into());
            return lines;
        }
        let arrow = |a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| format!("{a} -> {b}");
        let same = || "-".to_owned();
        let rows: Vec<Vec<String>> = self
            .nics
            .iter()
            .map(|(key, t)| {
                vec![
                    key.clone(),
                    Self::vm_of(tables, key).unwrap_or_else(same),
                    t.mtu.map_or_else(same, |(a, b)| arrow(&a, &b)),
                    t.way_out.as_ref().map_or_else(same, |(a, b)| arrow(a, b)),
                    t.bandwidth.as_ref().map_or_else(same, |(a, b)| arrow(a, b)),
                    if t.port { "changes" } else { "-" }.into(),
                ]
            })
            .collect();
        let header = cells(["NIC", "VM", "MTU", "WAY OUT", "BANDWIDTH", "PORT"]);
        lines.extend(table(&header, &rows).into_iter().map(|l| format!("  {l}")));
        lines
    }
}
