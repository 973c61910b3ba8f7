//! Whether the NICs of this node answer that floating addresses lead to: a TCP connection to each, from its own routing domain.
//!
//! It is made on the NIC's own node, because its gateway has the same address on every node: from another one the answer would not
//! come back. What is found is written where it changed; what becomes of it is the controller's (`multihome_control::backends`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::api::Api;
use multihome_control::backends::{Question, questions};
use multihome_control::{Key, World, status};
use multihome_model::checked::CheckedHealthCheck;
use multihome_model::{FloatingIP, Health, names};
use multihome_plan::node::vpc_domain;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::plumbing::Plumbing;
use crate::{Agent, Error};

/// How many connections there are at once.
const AT_ONCE: usize = 64;
/// Nobody waits longer than this for the first question.
const FIRST: Duration = Duration::from_secs(1);

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is asked on this node, by FloatingIP and NIC.
pub(crate) struct Checks {
    running: Mutex<HashMap<(Key, String), (Question, Task)>>,
    permits: Arc<Semaphore>,
}

impl Default for Checks {
    fn default() -> Self {
        Self { running: Mutex::default(), permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// What follows from answers in a row.
#[derive(Debug, Default)]
struct Verdict {
    passes: Option<bool>,
    /// The last answer, and how often in a row it was that.
    last: (bool, u32),
}

impl Verdict {
    /// Hears one answer.
    fn hear(&mut self, answered: bool, check: &CheckedHealthCheck) {
        let before = if self.last.0 == answered { self.last.1 } else { 0 };
        self.last = (answered, before.saturating_add(1));
        if self.last.1 >= if answered { check.successes } else { check.failures } {
            self.passes = Some(answered);
        }
    }
}

/// Asks what is to be asked on this node, and nothing else.
pub(crate) fn sync(agent: &Agent) {
    let wanted = questions(&agent.world.read(), &agent.config.node);
    let mut running = agent.checks.running.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |a: &Question, b: &Question| (&a.domain, &a.at, a.check) == (&b.domain, &b.at, b.check);
    let mut before = std::mem::take(&mut *running);
    for question in wanted {
        let key = (question.floating.clone(), question.nic.clone());
        let kept = before.remove(&key).filter(|(there, _)| same(there, &question));
        let entry = kept.unwrap_or_else(|| {
            let asker = Asker {
                question: question.clone(),
                node: agent.config.node.clone(),
                client: agent.client.clone(),
                world: agent.world.clone(),
                plumbing: agent.plumbing.clone(),
                permits: agent.checks.permits.clone(),
            };
            (question, Task(tokio::spawn(asker.run()).abort_handle()))
        });
        running.insert(key, entry);
    }
}

struct Asker {
    question: Question,
    node: String,
    client: Client,
    world: World,
    plumbing: Plumbing,
    permits: Arc<Semaphore>,
}

impl Asker {
    /// Asks for as long as it is polled.
    async fn run(self) {
        let Question { floating, nic, check, passed, .. } = &self.question;
        let mut verdict = Verdict { passes: *passed, ..Verdict::default() };
        // Those of one node do not all ask at once, and each at the same moment as before a restart.
        let share = names::wire_hash(&format!("{floating} {nic} {}", self.node)) % 1000;
        let wait = check.interval.min(FIRST).mul_f64(share as f64 / 1000.0);
        let mut next = Instant::now() + wait;
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + check.interval;
            let trouble = self.ask().await;
            verdict.hear(trouble.is_none(), check);
            if let Some(passes) = verdict.passes
                && let Err(e) = self.tell(passes, trouble.unwrap_or_default()).await
            {
                tracing::warn!(%floating, nic, "what its health check found is not told: {e}");
            }
        }
    }

    /// Asks once, and says what is wrong in a sentence.
    async fn ask(&self) -> Option<String> {
        for to in &self.question.at {
            let _permit = self.permits.acquire().await.ok()?;
            if let Err(why) = self.connect(*to).await {
                return Some(format!("NIC {} does not answer at {to}: {why}", self.question.nic));
            }
        }
        None
    }

    async fn connect(&self, to: SocketAddr) -> Result<(), String> {
        let domain = vpc_domain(&self.question.domain);
        let netns = self.plumbing.domain(domain).await.map_err(|e| e.to_string())?;
        let open = move || netns.run(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() });
        let socket = tokio::task::spawn_blocking(open).await.map_err(|e| e.to_string())?;
        let socket = socket.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        // Nothing of it is left when it is closed: what waits for an answer of a VM that has stopped would keep the namespace alive.
        socket.set_zero_linger().map_err(|e| e.to_string())?;
        let patience = self.question.check.timeout;
        match timeout(patience, socket.connect(to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => Err("the port is closed".into()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("nothing came back within {} s", patience.as_secs())),
        }
    }

    /// Writes a verdict where it is not written yet.
    async fn tell(&self, passes: bool, message: String) -> Result<(), Error> {
        let Question { floating, nic, asked, .. } = &self.question;
        let message = if passes { String::new() } else { message };
        let new = Health { node: self.node.clone(), asked: asked.clone(), passes, message };
        let said = |o: &FloatingIP| {
            let there = o.status.as_ref().and_then(|s| s.backends.get(nic)?.health.as_ref());
            there.is_some_and(|h| (h.passes, &h.node, &h.asked) == (passes, &new.node, &new.asked))
        };
        if self.world.read().floating.get(floating).is_none_or(|o| said(o)) {
            return Ok(());
        }
        let api: Api<FloatingIP> = Api::namespaced(self.client.clone(), &floating.namespace);
        let write = |o: &mut FloatingIP| {
            if said(o) {
                return;
            }
            let there = o.status.as_mut().and_then(|s| s.backends.get_mut(nic));
            if let Some(b) = there.filter(|b| b.node.as_ref() == Some(&self.node)) {
                b.health = Some(new.clone());
            }
        };
        status::update(&api, &floating.name, None, write).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_takes_answers_in_a_row() {
        let check = CheckedHealthCheck { port: None, interval: FIRST, timeout: FIRST, failures: 3, successes: 2 };
        let after = |passes: Option<bool>, answers: &str| {
            let mut verdict = Verdict { passes, ..Verdict::default() };
            answers.chars().for_each(|c| verdict.hear(c == '+', &check));
            verdict.passes
        };
        for (before, answers, verdict) in [
            (None, "+", None),
            (None, "++", Some(true)),
            (None, "--", None),
            (None, "---", Some(false)),
            (None, "--+-", None),
            (None, "-+-+", None),
            (Some(true), "--+--", Some(true)),
            (Some(true), "---", Some(false)),
            (Some(false), "+-+", Some(false)),
            (Some(false), "++", Some(true)),
        ] {
            assert_eq!(after(before, answers), verdict, "{before:?} {answers}");
        }
    }
}
