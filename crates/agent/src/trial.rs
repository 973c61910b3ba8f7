//! Changes of what the node's own devices carry are on trial until the node was seen to be manageable with them, and are taken
//! back by themselves if it is not within a minute, whoever was killed in between.
//!
//! What is tried is written down before it is done: the state to go back to, and since when. An agent that starts and finds a
//! trial there goes on with it before it asks anybody anything, because what it would ask may be what the trial has cut off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::Client;
use multihome_model::Mtu;
use multihome_plan::node::{Fabric, NodeInput, NodeState, UplinkKind, diff};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::engine;
use crate::management::Management;
use crate::plumbing::Plumbing;
use crate::{Agent, Config, Error, Work};

/// How long a change may keep the node from being managed, in seconds.
pub(crate) const LIMIT: u64 = 60;
/// A change is confirmed when so many questions in a row were answered, a second apart.
const CONFIRMED: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// What a fabric asks of the node's own devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    fabric: Fabric,
    /// The largest MTU of the networks on it.
    mtu: Option<Mtu>,
}

type Wishes = BTreeMap<String, Wish>;

/// A trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Running {
    /// What is tried.
    wishes: Wishes,
    /// Seconds since the epoch.
    since: u64,
    /// The boot in which it began: with the next one, what it did is gone.
    boot: String,
    /// What was in place before.
    before: NodeState,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Known {
    /// What was in force when the node was last seen to be manageable.
    confirmed: Wishes,
    /// What was taken back.
    rejected: Wishes,
    running: Option<Running>,
}

/// What is known of trials.
#[derive(Debug)]
pub(crate) struct Trials {
    path: PathBuf,
    known: Mutex<Known>,
    begun: Notify,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What each fabric that a network of this node rides on asks of the node's devices.
fn wishes(input: &NodeInput) -> Wishes {
    let mut all = Wishes::new();
    for n in &input.networks {
        let rides = n.spec.kind.rides_on_uplink();
        let fabric = input.node.fabrics.get(&n.spec.fabric).filter(|f| rides && f.device.is_some());
        if let Some(fabric) = fabric {
            let wish = all.entry(n.spec.fabric.clone()).or_default();
            wish.fabric = fabric.clone();
            wish.mtu = wish.mtu.max(Some(n.mtu));
        }
    }
    all
}

impl Trials {
    /// Reads what an earlier agent left.
    pub(crate) fn open(config: &Config) -> Self {
        let path = config.data_dir.join("dataplane").join("trials.json");
        let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { path, known: Mutex::new(known), begun: Notify::new() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, on the disk first.
    fn change(&self, how: impl FnOnce(&mut Known)) -> Result<(), Error> {
        let mut known = self.known();
        let mut next = known.clone();
        how(&mut next);
        let failed = |source| Error::File { path: self.path.clone(), source };
        let text = serde_json::to_vec(&next).map_err(|e| failed(e.into()))?;
        let fresh = self.path.with_extension("new");
        let dir = self.path.parent().unwrap_or(&self.path);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            let mut file = std::fs::File::create(&fresh)?;
            std::io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(failed)?;
        *known = next;
        Ok(())
    }

    /// The input with what was taken back replaced by what was there before. What was taken back of a fabric is forgotten once it
    /// asks for something else.
    pub(crate) fn hold(&self, input: &mut NodeInput) -> Result<(), Error> {
        let asked = wishes(input);
        let other = |name: &String, wish: &Wish| asked.get(name) != Some(wish);
        if self.known().rejected.iter().any(|(n, w)| other(n, w)) {
            self.change(|k| k.rejected.retain(|n, w| !other(n, w)))?;
        }
        let known = self.known();
        for name in known.rejected.keys() {
            let before = known.confirmed.get(name).cloned().unwrap_or_default();
            input.node.fabrics.insert(name.clone(), before.fabric);
            if let Some(most) = before.mtu {
                let on = input.networks.iter_mut().filter(|n| n.spec.fabric == *name);
                on.for_each(|n| n.mtu = n.mtu.min(most));
            }
        }
        Ok(())
    }

    /// Why a fabric is not as it asks to be on this node.
    pub(crate) fn objection(&self, fabric: &str) -> Option<String> {
        let known = self.known();
        let wish = known.rejected.get(fabric)?;
        let device = wish.fabric.device.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(format!(
            "its change (to {device}) kept this node from being managed for {LIMIT} s and was taken back: change its uplinks or MTU to what works"
        ))
    }

    /// What is new of an input, that was not taken back before.
    fn fresh(&self, input: &NodeInput) -> Wishes {
        let known = self.known();
        let tried = known.running.as_ref().map(|r| &r.wishes);
        let old = |name: &String, wish: &Wish| {
            known.confirmed.get(name) == Some(wish) || tried.is_some_and(|t| t.get(name) == Some(wish))
        };
        wishes(input).into_iter().filter(|(name, wish)| !old(name, wish)).collect()
    }

    /// Forgets fabrics that ask for nothing any more.
    fn tidy(&self, input: &NodeInput) -> Result<(), Error> {
        let asked = wishes(input);
        if self.known().confirmed.keys().all(|n| asked.contains_key(n)) {
            return Ok(());
        }
        self.change(|k| k.confirmed.retain(|n, _| asked.contains_key(n)))
    }

    /// Since when something is on trial.
    fn since(&self) -> Option<u64> {
        self.known().running.as_ref().map(|r| r.since)
    }

    fn take_back(&self) -> Result<Wishes, Error> {
        let tried = self.known().running.as_ref().map(|r| r.wishes.clone()).unwrap_or_default();
        let rejected = tried.clone();
        self.change(|k| {
            k.running = None;
            k.rejected.extend(rejected);
        })?;
        Ok(tried)
    }

    fn confirm(&self) -> Result<(), Error> {
        self.change(|k| k.confirmed.extend(k.running.take().into_iter().flat_map(|r| r.wishes)))
    }
}

/// Before a plan is applied: what is new in it goes on trial, if the node can be managed now.
pub(crate) async fn before(plumbing: &Plumbing, input: &NodeInput) -> Result<(), Error> {
    let trials = &plumbing.trials;
    trials.tidy(input)?;
    let fresh = trials.fresh(input);
    if fresh.is_empty() {
        return Ok(());
    }
    if plumbing.management.works().await != Some(true) {
        // Nothing that could be lost.
        return trials.change(|k| k.confirmed.extend(fresh));
    }
    let state = plumbing.observed().await?;
    trials.change(|k| {
        // A trial within a trial goes back to where the first began.
        let (mut wishes, before) = match k.running.take() {
            Some(r) => (r.wishes, r.before),
            None => (Wishes::new(), state),
        };
        wishes.extend(fresh);
        k.running = Some(Running { wishes, since: now(), boot: boot(), before });
    })?;
    trials.begun.notify_one();
    Ok(())
}

/// Ends each trial, one way or the other, for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    let trials = &agent.plumbing.trials;
    loop {
        if trials.since().is_none() {
            trials.begun.notified().await;
        }
        let kept = watch(trials, &agent.plumbing.management).await;
        let ended = if kept { trials.confirm() } else { take_back(agent).await };
        match ended {
            Ok(()) => {}
            Err(e) => {
                tracing::warn!("a trial did not end as it should, and is ended again: {e}");
                tokio::time::sleep(SECOND).await;
            }
        }
    }
}

/// Puts back what was there before, at once: a round of the plan that runs may wait for an API which cannot be reached.
async fn take_back(agent: &Agent) -> Result<(), Error> {
    let trials = &agent.plumbing.trials;
    let before = trials.known().running.as_ref().map(|r| r.before.clone()).unwrap_or_default();
    let names = trials.take_back()?.into_keys().collect::<Vec<_>>().join(", ");
    tracing::warn!("the change of ClusterNetwork {names} kept this node from being managed: it is taken back");
    let put_back = agent.plumbing.revert(move |observed| as_before(observed, before)).await;
    agent.queue.push(Work::Node);
    put_back
}

/// Whether the node was seen to be manageable before the time is over.
async fn watch(trials: &Trials, management: &Management) -> bool {
    let mut answered = 0;
    while let Some(since) = trials.since() {
        answered = match management.works().await {
            Some(false) => 0,
            Some(true) | None => answered + 1,
        };
        if answered >= CONFIRMED {
            return true;
        }
        // The clock may have been set back.
        if !(since..since + LIMIT).contains(&now()) {
            return false;
        }
        tokio::time::sleep(SECOND).await;
    }
    true
}

/// Ends a trial that an earlier agent began. To be called before anything else is asked of the API.
///
/// # Errors
/// When what was there before cannot be put back, or that cannot be written down.
pub async fn resume(config: &Config, client: &Client) -> Result<(), Error> {
    let trials = Trials::open(config);
    let Some(running) = trials.known().running.clone() else { return Ok(()) };
    let rebooted = running.boot != boot();
    if !rebooted {
        tracing::warn!("a change of uplinks is on trial: waiting until this node is seen to be manageable");
        let management = Management { remote: config.remote_api, client: client.clone() };
        if watch(&trials, &management).await {
            return trials.confirm();
        }
        let config = config.clone();
        tokio::task::spawn_blocking(move || put_back(&config, running.before)).await??;
    }
    let names = trials.take_back()?.into_keys().collect::<Vec<_>>().join(", ");
    tracing::warn!("the change of ClusterNetwork {names} was taken back");
    Ok(())
}

/// Makes uplinks, bonds and fabrics' bridges what they were.
fn put_back(config: &Config, before: NodeState) -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Dataplane(e.to_string());
    let mut engine = engine::open(config, &multihome_netlink::probe()?)?.engine;
    let observed = engine.observe().map_err(|e| failed(&e))?;
    match engine.apply(&diff(&observed, &as_before(&observed, before))).first() {
        Some(e) => Err(failed(e)),
        None => Ok(()),
    }
}

/// What is there, with uplinks, bonds and fabrics' bridges as they were.
fn as_before(observed: &NodeState, before: NodeState) -> NodeState {
    let tunnel = |kind: &UplinkKind| matches!(kind, UplinkKind::Vxlan { .. });
    let mut wanted = NodeState { bonds: before.bonds, fabrics: before.fabrics, ..observed.clone() };
    wanted.uplinks.retain(|_, u| tunnel(&u.kind));
    let own = before.uplinks.into_iter().filter(|(_, u)| !tunnel(&u.kind) && observed.bridges.contains_key(&u.bridge));
    wanted.uplinks.extend(own);
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::IfName;
    use multihome_model::checked::check_network;
    use multihome_plan::node::NodeNetwork;

    fn input(device: &str, mtu: u32) -> NodeInput {
        let spec = serde_json::from_str(r#"{"type": "Untagged", "clusterNetwork": "data"}"#).unwrap();
        let mut input = NodeInput::default();
        input.networks.push(NodeNetwork {
            uid: "u".into(),
            key: "default/n".into(),
            spec: check_network("n", &spec).unwrap(),
            mtu: Mtu::new(mtu).unwrap(),
            vni: None,
            vpc_uid: None,
        });
        let device = Some(IfName::new(device).unwrap());
        input.node.fabrics.insert("data".into(), Fabric { device, bond: None });
        input
    }

    fn begin(trials: &Trials, input: &NodeInput) {
        let (wishes, before) = (trials.fresh(input), NodeState::default());
        trials.change(|k| k.running = Some(Running { wishes, since: now(), boot: boot(), before })).unwrap();
    }

    #[test]
    fn what_was_taken_back_stays_so_until_something_else_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().into(), ..Config::default() };
        let trials = Trials::open(&config);
        let good = input("eth1", 1500);
        begin(&trials, &good);
        assert!(trials.fresh(&good).is_empty(), "it is on trial already");
        trials.confirm().unwrap();
        let bad = input("eth2", 9000);
        begin(&trials, &bad);
        trials.take_back().unwrap();
        // Also for the agent that comes after this one.
        let trials = Trials::open(&config);
        let mut held = bad.clone();
        trials.hold(&mut held).unwrap();
        assert_eq!(wishes(&held), wishes(&good));
        trials.tidy(&held).unwrap();
        assert!(trials.objection("data").unwrap().contains("eth2"));
        assert!(trials.fresh(&held).is_empty(), "what was there before is not tried again");
        let mut other = input("eth3", 1500);
        trials.hold(&mut other).unwrap();
        assert_eq!(wishes(&other), wishes(&input("eth3", 1500)));
        trials.tidy(&other).unwrap();
        assert_eq!(trials.objection("data"), None);
        assert_eq!(trials.fresh(&other).len(), 1);
        begin(&trials, &bad);
        trials.take_back().unwrap();
        trials.hold(&mut good.clone()).unwrap();
        assert_eq!(trials.objection("data"), None, "who asks for what is there is told nothing");
    }
}
