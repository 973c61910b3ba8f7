//! One suite of API scenarios for two servers: the embedded one, and a real kube-apiserver.
//!
//! Every scenario writes down the answers it gets. What the real server answered is kept in `golden/`; both servers must
//! answer that, except for what `differences` lists. Scenarios of what the old real server lacks run on the embedded one alone.
//!
//! `conformance [FILTER]` runs scenarios whose name contains FILTER. `UPDATE_GOLDEN=1` records the real server's answers anew.
//! Where the real server cannot be had, that is said, and counted as skipped.

// a scenario that cannot go on has failed, and says where
#![allow(clippy::unwrap_used)]

mod differences;
mod embedded_only;
mod kubectl;
mod lifecycle;
mod lists;
mod objects;
mod target;
mod validation;
mod watches;

use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use target::{Embedded, Real, Target, Transcript};

type Answering<'a> = Pin<Box<dyn Future<Output = Transcript> + 'a>>;

/// A scenario that both servers must answer alike.
struct Scenario {
    name: &'static str,
    run: for<'a> fn(&'a Target) -> Answering<'a>,
}

macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Scenario { name: concat!(stringify!($module), "::", stringify!($name)), run: |t| Box::pin($module::$name(t)) }),*]
    };
}

const SHARED: &[Scenario] = scenarios![
    objects::create_and_get,
    objects::refused_bodies,
    objects::replace,
    objects::patches,
    objects::status,
    objects::names,
    objects::dry_run,
    objects::deletion,
    objects::core_kinds,
    objects::events,
    validation::schema,
    validation::metadata,
    lists::selectors,
    lists::pages,
    lists::shapes,
    lists::discovery,
    watches::from_a_version,
    watches::selection,
    watches::present_objects,
    lifecycle::finalizers,
    lifecycle::background,
    lifecycle::foreground,
    lifecycle::orphan,
    lifecycle::namespaces,
    kubectl::get_and_describe,
    kubectl::apply_and_patch,
    kubectl::core_kinds,
    kubectl::refusals,
];

const EMBEDDED: &[Scenario] = scenarios![
    embedded_only::field_validation,
    embedded_only::modern_discovery,
    embedded_only::open_api,
    embedded_only::old_versions,
    embedded_only::streamed_lists,
    embedded_only::kube_runtime,
    embedded_only::access,
    embedded_only::limits,
    embedded_only::kubectl_modern,
    embedded_only::restart,
];

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

fn main() -> std::process::ExitCode {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    if std::env::args().any(|a| a == "--list") {
        SHARED.iter().chain(EMBEDDED).for_each(|s| println!("{}: test", s.name));
        return std::process::ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let tally = runtime.block_on(run(&filter));
    for skipped in &tally.skipped {
        println!("SKIPPED {skipped}");
    }
    for failed in &tally.failed {
        println!("FAILED {failed}");
    }
    let verdict = if tally.failed.is_empty() && tally.passed > 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored",
        tally.passed,
        tally.failed.len(),
        tally.skipped.len()
    );
    if verdict == "ok" { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

async fn run(filter: &str) -> Tally {
    let mut tally = Tally::default();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let shared: Vec<&Scenario> = SHARED.iter().filter(|s| s.name.contains(filter)).collect();
    let alone: Vec<&Scenario> = EMBEDDED.iter().filter(|s| s.name.contains(filter)).collect();
    let mut recorded: BTreeMap<&str, Transcript> = BTreeMap::new();

    if !shared.is_empty() {
        match Real::start().await {
            Ok(real) => {
                for scenario in &shared {
                    let Some(got) = guarded(scenario, &real.target, &mut tally).await else { continue };
                    let got = differences::adapt(got);
                    if update {
                        write_golden(scenario.name, &got);
                    }
                    judge(scenario.name, "real", &got, read_golden(scenario.name), &mut tally);
                    recorded.insert(scenario.name, got);
                }
            }
            Err(why) => tally.skipped.extend(shared.iter().map(|s| format!("{} (real): {why}", s.name))),
        }
    }
    let embedded = Embedded::start().await;
    for scenario in &shared {
        let Some(got) = guarded(scenario, &embedded.target, &mut tally).await else { continue };
        let wanted = read_golden(scenario.name).or_else(|| recorded.remove(scenario.name));
        judge(scenario.name, "embedded", &got, wanted, &mut tally);
    }
    for scenario in &alone {
        if guarded(scenario, &embedded.target, &mut tally).await.is_some() {
            println!("test {} (embedded) ... ok", scenario.name);
            tally.passed += 1;
        }
    }
    tally
}

/// Runs a scenario; a panic in it is its failure, not the suite's end.
async fn guarded(scenario: &Scenario, target: &Target, tally: &mut Tally) -> Option<Transcript> {
    use futures::FutureExt;
    match std::panic::AssertUnwindSafe((scenario.run)(target)).catch_unwind().await {
        Ok(transcript) => Some(transcript),
        Err(_) => {
            tally.failed.push(format!("{} ({}): panicked, see above", scenario.name, target.name));
            None
        }
    }
}

fn judge(name: &str, target: &str, got: &Transcript, wanted: Option<Transcript>, tally: &mut Tally) {
    let Some(wanted) = wanted else {
        tally.failed.push(format!(
            "{name} ({target}): there is no record of the real server's answers; run with UPDATE_GOLDEN=1"
        ));
        return;
    };
    let mut differing = Vec::new();
    for at in 0..got.0.len().max(wanted.0.len()) {
        let (wanted, got) = (wanted.0.get(at).unwrap_or(&Value::Null), got.0.get(at).unwrap_or(&Value::Null));
        let mut places = Vec::new();
        compare(wanted, got, "", &mut places);
        if !places.is_empty() {
            let step = [wanted, got].into_iter().find_map(|v| v["step"].as_str()).unwrap_or("?");
            differing.push(format!("  step {step:?}:\n{}", places.join("\n")));
        }
    }
    if differing.is_empty() {
        println!("test {name} ({target}) ... ok");
        tally.passed += 1;
    } else {
        println!("test {name} ({target}) ... FAILED\n{}", differing.join("\n"));
        tally.failed.push(format!("{name} ({target}): {} answers differ", differing.len()));
    }
}

/// Where two values differ.
fn compare(wanted: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                compare(
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    &format!("{path}/{key}"),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(a, b, &format!("{path}/{at}"), out);
            }
        }
        _ if wanted != got => out.push(format!("    {path}: recorded {wanted}\n    {path}: answered {got}")),
        _ => {}
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/conformance/golden")
        .join(format!("{}.json", name.replace("::", "-")))
}

fn read_golden(name: &str) -> Option<Transcript> {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).ok()?).ok().map(Transcript)
}

fn write_golden(name: &str, transcript: &Transcript) {
    let text = serde_json::to_string_pretty(&transcript.0).expect("values serialize") + "\n";
    std::fs::write(golden(name), text).expect("the golden directory is writable");
}
