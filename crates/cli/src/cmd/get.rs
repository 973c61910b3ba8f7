//! `get`: lists as the server's own tables, as JSON, as YAML, or as names.

use kube::ResourceExt;
use kube::api::{ListParams, ObjectList};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{Context, kind_and_name};
use crate::args::{Format, Get, ListArgs};
use crate::kinds::{Kind, by_name};
use crate::{CliError, CliResult, Output};

pub(super) async fn run(ctx: &Context, args: &Get, out: &mut Output) -> CliResult {
    let (words, name) = match kind_and_name(&args.kind, args.name.as_deref()) {
        Ok((k, n)) => (k, Some(n)),
        Err(_) => (args.kind.clone(), None),
    };
    let several = words.contains(',');
    for (i, word) in words.split(',').enumerate() {
        let kind = by_name(word)?;
        if i > 0 && several {
            out.line("");
        }
        let list = Listing {
            kind: &kind,
            name: name.as_deref(),
            all: args.all_namespaces,
            selector: args.selector.as_deref(),
            prefix: several,
        };
        list.show(ctx, args.output, out).await?;
    }
    Ok(0)
}

/// `network list` and its like.
pub(super) async fn list(ctx: &Context, word: &str, args: &ListArgs, out: &mut Output) -> CliResult {
    let kind = by_name(word)?;
    let list = Listing { kind: &kind, name: None, all: args.all_namespaces, selector: None, prefix: false };
    list.show(ctx, args.output, out).await?;
    Ok(0)
}

struct Listing<'a> {
    kind: &'a Kind,
    name: Option<&'a str>,
    all: bool,
    selector: Option<&'a str>,
    /// Names carry their kind, because several kinds are listed.
    prefix: bool,
}

impl Listing<'_> {
    async fn show(&self, ctx: &Context, format: Format, out: &mut Output) -> Result<(), CliError> {
        match format {
            Format::Table | Format::Wide => self.table(ctx, format == Format::Wide, out).await,
            Format::Json | Format::Yaml => {
                let value = self.objects(ctx).await?;
                if format == Format::Json { out.json(&value) } else { out.yaml(&value) }
            }
            Format::Name => {
                let value = self.objects(ctx).await?;
                let items =
                    value.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![value.clone()]);
                for o in items {
                    let name = o.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                    out.line(format!("{}/{name}", self.kind.label()));
                }
                Ok(())
            }
        }
    }

    async fn objects(&self, ctx: &Context) -> Result<Value, CliError> {
        let api = if self.all && self.kind.namespaced {
            kube::Api::all_with(ctx.client.clone(), &self.kind.resource)
        } else {
            self.kind.api(&ctx.client, &ctx.namespace)
        };
        if let Some(name) = self.name {
            return Ok(serde_json::to_value(api.get(name).await?)?);
        }
        let params = ListParams { label_selector: self.selector.map(str::to_owned), ..Default::default() };
        let list: ObjectList<DynamicObject> = api.list(&params).await?;
        let (api_version, kind) = (&self.kind.resource.api_version, &self.kind.resource.kind);
        let items: Vec<Value> = list
            .items
            .into_iter()
            .map(|mut o| {
                o.managed_fields_mut().clear();
                let mut v = serde_json::to_value(o).unwrap_or_default();
                v["apiVersion"] = json!(api_version);
                v["kind"] = json!(kind);
                v
            })
            .collect();
        Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
    }

    async fn table(&self, ctx: &Context, wide: bool, out: &mut Output) -> Result<(), CliError> {
        let mut path = self.kind.path(Some(&ctx.namespace).filter(|_| !self.all).map(String::as_str));
        if let Some(name) = self.name {
            path = format!("{path}/{name}");
        } else if let Some(selector) = self.selector {
            let encoded: String = selector
                .bytes()
                .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect();
            path = format!("{path}?labelSelector={encoded}");
        }
        let request = http::Request::get(path)
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
            .body(vec![])
            .map_err(|e| CliError::new(e.to_string()))?;
        let answer: Value = ctx.client.request(request).await?;
        let columns = answer.get("columnDefinitions").and_then(Value::as_array).cloned().unwrap_or_default();
        let shown: Vec<usize> = (0..columns.len())
            .filter(|i| wide || columns[*i].get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
            .collect();
        let with_namespace = self.all && self.kind.namespaced;
        let mut header: Vec<String> = if with_namespace { vec!["NAMESPACE".into()] } else { vec![] };
        header.extend(shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase()));
        let rows: Vec<Vec<String>> = answer
            .get("rows")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|r| {
                let mut row = vec![];
                if with_namespace {
                    row.push(
                        r.pointer("/object/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    );
                }
                for (n, i) in shown.iter().enumerate() {
                    let text = cell(&r["cells"][*i]);
                    row.push(if n == 0 && self.prefix { format!("{}/{text}", self.kind.label()) } else { text });
                }
                row
            })
            .collect();
        if rows.is_empty() {
            let place = if with_namespace || !self.kind.namespaced {
                String::new()
            } else {
                format!(" in namespace {}", ctx.namespace)
            };
            out.note(format!("no {} found{place}", self.kind.resource.plural));
        } else {
            out.table(&header, &rows);
        }
        Ok(())
    }
}

fn cell(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
