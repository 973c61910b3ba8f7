//! The rules for a machine. Pure, and each as sure as its evidence: what may well be on purpose is
//! silent or a remark, because a false alarm is a defect.

mod defaults;
mod dns;
mod links;
mod mtu;
mod persistence;
mod replies;
mod subnets;
mod wire;

use serde::Serialize;

use super::fix::{Action, Fixer, Remedy};
use super::observation::{MachineObservation, Options};
use crate::{Finding, Severity};

/// A finding about a machine, with the steps of its cure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// What is wrong, and the cure as text.
    #[serde(flatten)]
    pub finding: Finding,
    /// The cure as steps that `--fix` carries out; empty where only a person can decide.
    pub actions: Vec<Action>,
}

/// A rule's findings, as they are being made.
#[derive(Debug)]
struct Case {
    severity: Severity,
    rule: &'static str,
    subject: String,
    message: String,
    evidence: Vec<String>,
    consequence: String,
}

impl Case {
    fn cure(self, remedy: Remedy) -> Diagnosis {
        let finding = Finding {
            severity: self.severity,
            rule: self.rule,
            subject: self.subject,
            message: self.message,
            evidence: self.evidence,
            consequence: self.consequence,
            fix: remedy.text(),
        };
        Diagnosis { finding, actions: remedy.actions }
    }
}

/// Everything that is wrong with a machine, the worst first.
pub fn examine_machine(o: &MachineObservation, options: &Options) -> Vec<Diagnosis> {
    let f = Fixer::new(o);
    let mut found = vec![];
    found.extend(defaults::judge(&f, options));
    found.extend(subnets::judge(&f, options));
    found.extend(replies::judge(&f, options));
    found.extend(mtu::judge(&f));
    found.extend(links::judge(&f));
    found.extend(dns::judge(&f));
    found.extend(persistence::judge(&f));
    found.extend(wire::judge(&f));
    found.sort_by_key(|d| d.finding.severity);
    found
}

#[cfg(test)]
mod tests;
