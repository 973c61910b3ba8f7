//! The reference pages: commands from clap, resources from their schemas. Checked for freshness in CI.

use std::fmt::Write;
use std::path::Path;

use clap::CommandFactory;
use serde_json::Value;

use crate::args::Cli;
use crate::{CliError, CliResult};

pub(super) fn run(dir: &Path) -> CliResult {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("cli.md"), cli_page())?;
    std::fs::write(dir.join("resources.md"), resources_page())?;
    Ok(0)
}

fn cli_page() -> String {
    let mut text = String::from("# Commands\n\nThis page is generated from the program; `make docs` writes it anew.\n");
    let mut root = Cli::command();
    root.build();
    command(&root, "multihome", &mut text);
    text
}

fn command(c: &clap::Command, path: &str, text: &mut String) {
    let _ = write!(text, "\n## {path}\n");
    if let Some(about) = c.get_long_about().or(c.get_about()) {
        let _ = write!(text, "\n{about}\n");
    }
    let shown: Vec<&clap::Arg> = c
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !["help", "version"].contains(&a.get_id().as_str()))
        .filter(|a| path == "multihome" || !a.is_global_set())
        .collect();
    if !shown.is_empty() {
        text.push_str("\n| argument | meaning |\n| --- | --- |\n");
        for a in shown {
            let default: Vec<String> =
                a.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
            let mut help = a.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
            if !default.is_empty() && !a.is_hide_default_value_set() && a.get_action().takes_values() {
                let _ = write!(help, " (default: `{}`)", default.join(", "));
            }
            let _ = writeln!(text, "| `{}` | {help} |", name(a));
        }
    }
    for sub in c.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        command(sub, &format!("{path} {}", sub.get_name()), text);
    }
}

fn name(a: &clap::Arg) -> String {
    let value = a.get_value_names().and_then(|v| v.first()).map(|v| format!(" {v}")).unwrap_or_default();
    let value = if a.get_action().takes_values() { value } else { String::new() };
    match (a.get_short(), a.get_long()) {
        (Some(s), Some(l)) => format!("-{s}, --{l}{value}"),
        (None, Some(l)) => format!("--{l}{value}"),
        (Some(s), None) => format!("-{s}{value}"),
        (None, None) => value.trim().to_owned(),
    }
}

fn resources_page() -> String {
    let mut text = String::from(
        "# Resources\n\nThis page is generated from the types; `make docs` writes it anew. `kubectl explain KIND.FIELD` says the same.\n",
    );
    for crd in multihome_model::crds() {
        let at = |p: &str| crd.pointer(p).and_then(Value::as_str).unwrap_or_default();
        let short = crd.pointer("/spec/names/shortNames").and_then(Value::as_array).cloned().unwrap_or_default();
        let short: Vec<&str> = short.iter().filter_map(Value::as_str).collect();
        let _ = write!(
            text,
            "\n## {} (`{}`)\n\n`apiVersion: {}/{}`, {}.\n",
            at("/spec/names/kind"),
            short.join("`, `"),
            at("/spec/group"),
            at("/spec/versions/0/name"),
            at("/spec/scope").to_lowercase(),
        );
        if let Some(schema) = crd.pointer("/spec/versions/0/schema/openAPIV3Schema") {
            let _ = write!(text, "\n{}\n", schema.get("description").and_then(Value::as_str).unwrap_or_default());
            text.push_str("\n| field | type | meaning |\n| --- | --- | --- |\n");
            for part in ["spec", "status"] {
                if let Some(p) = schema.pointer(&format!("/properties/{part}")) {
                    fields(p, part, &mut text);
                }
            }
        }
    }
    text
}

fn fields(schema: &Value, path: &str, text: &mut String) {
    for (name, s) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        let kind = s.get("type").and_then(Value::as_str).unwrap_or("any");
        let help =
            s.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let list = s.get("items").filter(|_| kind == "array");
        let suffix = if list.is_some() { "[]" } else { "" };
        let _ = writeln!(text, "| `{path}{suffix}` | {kind} | {help} |");
        fields(list.unwrap_or(s), &format!("{path}{suffix}"), text);
    }
}

/// A page that cannot be written is no page.
impl From<std::fmt::Error> for CliError {
    fn from(e: std::fmt::Error) -> Self {
        Self::new(e.to_string())
    }
}
