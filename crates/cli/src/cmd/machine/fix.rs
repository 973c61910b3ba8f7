//! `doctor --fix` and `--undo`: shows cures, applies them, watches the gateway, and takes all back if
//! it is lost.

use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use multihome_doctor::Severity;
use multihome_doctor::apply::{Place, apply, undo as take_back};
use multihome_doctor::collect::{Look, answers, collect};
use multihome_doctor::machine::fix::Action;
use multihome_doctor::machine::{Diagnosis, MachineObservation, Options, examine_machine};
use tokio::signal::unix::{SignalKind, signal};

use super::{cause, code};
use crate::args::DoctorMachine;
use crate::cmd::doctor;
use crate::{CliError, CliResult, Output};

/// A gateway is lost when it did not answer so many rounds of questions in a row, a second each.
const LOST: u32 = 3;

fn place(m: &DoctorMachine) -> Place {
    Place { root: m.root.clone() }
}

fn failed(what: &str, e: &multihome_doctor::apply::Error) -> CliError {
    let cause = cause(e);
    let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
    CliError::new(format!("{what}: {e}{cause}")).exit(2)
}

/// Takes back everything that was applied.
pub(super) fn undo(m: &DoctorMachine, out: &mut Output) -> CliResult {
    match take_back(&place(m)).map_err(|e| failed("not everything could be taken back", &e))? {
        Some(said) => said.iter().for_each(|s| out.line(s)),
        None => out.line("there is nothing to take back"),
    }
    Ok(0)
}

/// Shows, asks, applies, watches, and examines again.
pub(super) async fn run(
    m: &DoctorMachine,
    options: &Options,
    seen: &MachineObservation,
    found: &[Diagnosis],
    out: &mut Output,
) -> CliResult {
    let bad: Vec<&Diagnosis> = found.iter().filter(|d| d.finding.severity != Severity::Info).collect();
    if bad.is_empty() {
        super::headline(seen, found, out);
        return Ok(0);
    }
    let chosen = choose(m, &bad, out)?;
    if chosen.is_empty() {
        out.note("nothing was changed");
        return Ok(1);
    }
    let before = tokio::task::block_in_place(|| answers(seen));
    // A session over the network that the cure cuts off must not take the way back with it.
    let _hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let notes = apply(&place(m), &chosen).map_err(|e| failed("nothing was changed", &e))?;
    notes.iter().for_each(|n| out.note(format!("note: {n}")));
    out.note("applied; «multihome doctor --undo» takes it back");
    if before == Some(true) {
        out.note(format!("watching the gateway for {} s", m.watch));
        let kept = tokio::select! {
            kept = watch(m) => kept?,
            _ = interrupt.recv() => false,
        };
        if !kept {
            take_back(&place(m))
                .map_err(|e| failed("the gateway is lost, and not everything could be taken back", &e))?;
            return Err(CliError::new("the gateway did not answer any more, so everything was taken back"));
        }
    } else {
        out.note("the gateway did not answer before either, or none could be asked: nothing to watch");
    }
    let again = look(m, !m.no_probe)?;
    let left = examine_machine(&again, options);
    super::headline(&again, &left, out);
    doctor::print_findings(left.iter().map(|d| &d.finding), out);
    Ok(code(left.iter().map(|d| &d.finding)))
}

fn look(m: &DoctorMachine, probe: bool) -> Result<MachineObservation, CliError> {
    collect(&Look { root: m.root.clone(), probe }).map_err(|e| CliError::new(format!("{e}: {}", cause(&e))).exit(2))
}

/// The steps of the findings that the user agrees to mend.
fn choose(m: &DoctorMachine, bad: &[&Diagnosis], out: &mut Output) -> Result<Vec<Action>, CliError> {
    let stdin = std::io::stdin();
    if !m.yes && !stdin.is_terminal() {
        return Err(CliError::new("nobody is there to say yes").hint("use --yes in scripts").exit(2));
    }
    let mut actions: Vec<Action> = vec![];
    for d in bad {
        doctor::print_findings([&d.finding], out);
        if d.actions.is_empty() {
            out.note("  only you can decide this one");
            continue;
        }
        let agreed = m.yes || {
            eprint!("apply this cure? [y/N] ");
            std::io::stderr().flush()?;
            let mut line = String::new();
            stdin.lock().read_line(&mut line)?;
            ["y", "yes"].contains(&line.trim().to_lowercase().as_str())
        };
        if agreed {
            actions.extend(d.actions.iter().filter(|a| !actions.contains(a)).cloned().collect::<Vec<_>>());
        }
    }
    Ok(actions)
}

/// Whether a gateway of the default routes in force answers until the end.
async fn watch(m: &DoctorMachine) -> Result<bool, CliError> {
    let end = Instant::now() + Duration::from_secs(m.watch);
    let mut silent = 0;
    loop {
        let heard = tokio::task::block_in_place(|| look(m, false).map(|seen| answers(&seen)))?;
        silent = if heard == Some(true) { 0 } else { silent + 1 };
        if silent >= LOST {
            return Ok(false);
        }
        // The last word counts: a silence at the end is watched out.
        if Instant::now() >= end && silent == 0 {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
