//! `doctor` on this machine: looks, judges, and applies cures with a way back.

mod fix;

use std::path::Path;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use multihome_doctor::collect::{Look, collect};
use multihome_doctor::machine::layout::{self, Style};
use multihome_doctor::machine::{Diagnosis, Family, MachineObservation, Options, dialect, examine_machine};
use multihome_doctor::{Finding, Severity};
use serde_json::json;

use super::{Context, doctor};
use crate::args::{Doctor, DoctorMachine, Format, LayoutStyle};
use crate::{CliError, CliResult, Output};

/// Examines the machine that this program runs on, or an observation that was saved.
pub(super) async fn run(args: &Doctor, out: &mut Output) -> CliResult {
    let m = &args.machine;
    if m.undo {
        return fix::undo(m, out);
    }
    let seen = observe(m)?;
    let options = options(m, &seen)?;
    if let Some(path) = &m.save {
        save(&seen, path)?;
        out.note(format!("saved what was observed to {}; look it over before you send it", path.display()));
    }
    if let Some(roles) = &m.layout {
        return print_layout(args, &seen, roles, out);
    }
    let found = examine_machine(&seen, &options);
    if m.fix {
        return fix::run(m, &options, &seen, &found, out).await;
    }
    report(args, &seen, &found, &[], out)
}

/// Examines a node: this machine with what its Node object says, or what the Node object of another says.
pub(super) async fn node(ctx: &Context, name: &str, args: &Doctor, out: &mut Output) -> CliResult {
    let api: Api<Node> = Api::all(ctx.client.clone());
    let node = api.get_opt(name).await.map_err(|e| CliError::from(e).exit(2))?;
    let Some(node) = node else { return Err(CliError::new(format!("node {name:?} does not exist")).exit(2)) };
    let status = node.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let lacks: Vec<String> = conditions
        .iter()
        .filter(|c| c.status != "True")
        .map(|c| format!("{}: {}", c.type_, c.message.clone().unwrap_or_default()))
        .collect();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let here = status.node_info.is_some_and(|i| !i.boot_id.is_empty() && i.boot_id == boot.trim());
    if !here {
        for c in &conditions {
            out.line(format!("{}={} {}", c.type_, c.status, c.message.as_deref().unwrap_or_default()));
        }
        return Err(CliError::new(format!(
            "node {name} is another machine, whose interfaces cannot be seen from here"
        ))
        .hint(format!("run «multihome doctor» on {name}; above is what its Node object says"))
        .exit(2));
    }
    let seen = observe(&args.machine)?;
    let options = options(&args.machine, &seen)?;
    let found = examine_machine(&seen, &options);
    report(args, &seen, &found, &lacks, out)
}

fn observe(m: &DoctorMachine) -> Result<MachineObservation, CliError> {
    if let Some(path) = &m.from {
        let text = std::fs::read_to_string(path)
            .map_err(|e| CliError::new(format!("{} cannot be read: {e}", path.display())).exit(2))?;
        return serde_json::from_str(&text)
            .map_err(|e| CliError::new(format!("{} is no observation: {e}", path.display())).exit(2));
    }
    if !m.root.is_dir() {
        return Err(CliError::new(format!("{} is no directory", m.root.display())).exit(2));
    }
    let look = Look { root: m.root.clone(), probe: !m.no_probe };
    collect(&look).map_err(|e| CliError::new(format!("{e}: {}", cause(&e))).exit(2))
}

fn cause(e: &dyn std::error::Error) -> String {
    e.source().map(ToString::to_string).unwrap_or_default()
}

fn options(m: &DoctorMachine, seen: &MachineObservation) -> Result<Options, CliError> {
    let bound: Vec<Vec<String>> = m.bound.iter().map(|b| b.split(',').map(|n| n.trim().to_owned()).collect()).collect();
    let named = m.primary.iter().chain(bound.iter().flatten());
    if let Some(missing) = named.into_iter().find(|n| seen.link(n).is_none()) {
        let names: Vec<&str> = seen.links.iter().map(|l| l.name.as_str()).collect();
        return Err(CliError::new(format!("there is no interface {missing:?}"))
            .hint(format!("there are: {}", names.join(", ")))
            .exit(2));
    }
    Ok(Options { primary: m.primary.clone(), bound })
}

fn report(
    args: &Doctor,
    seen: &MachineObservation,
    found: &[Diagnosis],
    lacks: &[String],
    out: &mut Output,
) -> CliResult {
    if args.output == Format::Json {
        out.json(&json!({
            "format": 1,
            "machine": {
                "host": seen.host,
                "dialect": dialect(seen),
                "uplinks": seen.uplinks().iter().map(|l| &l.name).collect::<Vec<_>>(),
                "defaultRoutes": json!({
                    "ipv4": seen.default_in_force(Family::V4).and_then(|r| r.dev.clone()),
                    "ipv6": seen.default_in_force(Family::V6).and_then(|r| r.dev.clone()),
                }),
                "kernelLacks": lacks,
            },
            "notes": seen.notes,
            "findings": found,
        }))?;
    } else {
        headline(seen, found, out);
        doctor::print_findings(found.iter().map(|d| &d.finding), out);
        if found.iter().any(|d| !d.actions.is_empty() && d.finding.severity != Severity::Info) {
            out.note("\nhint: «multihome doctor --fix» shows each cure and applies it");
        }
        lacks.iter().for_each(|l| out.line(format!("this node's kernel: {l}")));
        seen.notes.iter().for_each(|n| out.note(format!("note: {n}")));
    }
    Ok(code(found.iter().map(|d| &d.finding)))
}

fn print_layout(args: &Doctor, seen: &MachineObservation, roles: &str, out: &mut Output) -> CliResult {
    let wish = args.machine.style.map(|s| match s {
        LayoutStyle::Vrf => Style::Vrf,
        LayoutStyle::Rules => Style::Rules,
    });
    let plan = layout::parse(roles).and_then(|r| layout::layout(seen, &r, wish));
    let plan = plan.map_err(|e| CliError::new(e).exit(2))?;
    if args.output == Format::Json {
        out.json(&serde_json::to_value(&plan)?)?;
        return Ok(0);
    }
    let style = if plan.style == Style::Vrf { "a VRF per role" } else { "rules on source addresses" };
    out.line(format!("# {style} ({}), for {}", plan.why, plan.dialect.name()));
    for r in &plan.roles {
        out.line(format!("\n# {}: {}", r.role.name, r.summary));
        if !r.text.is_empty() {
            out.line(&r.text);
        }
    }
    Ok(0)
}

fn code<'a>(found: impl IntoIterator<Item = &'a Finding>) -> u8 {
    u8::from(found.into_iter().any(|f| f.severity != Severity::Info))
}

fn headline(seen: &MachineObservation, found: &[Diagnosis], out: &mut Output) {
    let host = if seen.host.is_empty() { "this machine" } else { &seen.host };
    let by = dialect(seen).name();
    let bad = found.iter().filter(|d| d.finding.severity != Severity::Info).count();
    if bad > 0 {
        let word = if bad == 1 { "finding" } else { "findings" };
        return out.line(format!("{host}: {bad} {word} (network managed by {by})"));
    }
    let ways: Vec<String> = Family::ALL
        .iter()
        .filter_map(|f| {
            let r = seen.default_in_force(*f)?;
            let dev = r.dev.as_deref().unwrap_or("several");
            Some(format!("{} by {dev}{}", f.name(), r.via.map(|v| format!(" via {v}")).unwrap_or_default()))
        })
        .collect();
    let ways = if ways.is_empty() { "none".to_owned() } else { ways.join(", ") };
    let count = seen.uplinks().len();
    let nics = if count == 1 { "1 NIC".to_owned() } else { format!("{count} NICs") };
    out.line(format!("{host}: healthy: {nics}, default route: {ways} (network managed by {by})"));
}

fn save(seen: &MachineObservation, path: &Path) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(&seen.without_secrets())?;
    std::fs::write(path, text + "\n")
        .map_err(|e| CliError::new(format!("{} cannot be written: {e}", path.display())).exit(2))
}
