//! Policies of this node's NICs: who the groups are that their rules name, and what was counted, told on the NIC.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::policy::{Enforced, enforced, members};
use multihome_control::queue::Next;
use multihome_control::status;
use multihome_control::world::Tables;
use multihome_dataplane::kernel::Counted;
use multihome_model::{
    Condition, DefaultInForce, Direction, IfName, NetworkInterface, PolicyStatus, RuleAction, RuleStatus,
};
use multihome_plan::node::tap_name;
use multihome_plan::policy::{Members, Policy};

use crate::{Agent, settle, spec};

/// How often what was counted is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long counters alone are not told again of one NIC.
const QUIET: Duration = Duration::from_secs(30);

/// What is to be enforced at one NIC, and who the groups are that it names.
pub(crate) struct Policed {
    /// The rules; none where everything passes.
    pub policy: Option<Policy>,
    /// Who the groups are that they name.
    pub members: Members,
}

/// What is to be enforced at a NIC.
pub(crate) fn policed(t: &Tables, nic: &NetworkInterface) -> Policed {
    let policy = enforced(t, nic).map(|e| e.policy);
    let members = if policy.is_some() { members(t, std::iter::once(nic)) } else { Members::new() };
    Policed { policy, members }
}

/// The NICs of a node that have policies, by uid, and who the groups are that these name.
pub(crate) fn of_node(t: &Tables, node: &str) -> (BTreeMap<String, Policy>, Members) {
    let mut policies = BTreeMap::new();
    let mut named = vec![];
    for nic in t.nics_of_node(node).filter(|n| spec::carrier(n).is_some()) {
        if let Some(e) = enforced(t, nic) {
            policies.insert(nic.uid().unwrap_or_default(), e.policy);
            named.push(nic.clone());
        }
    }
    let members = members(t, named.iter().map(|n| &**n));
    (policies, members)
}

/// Tells the ports of this node who is in the groups that their rules name: what a NIC elsewhere changes, and nothing else.
pub(crate) async fn reconcile_members(agent: &Agent) -> Next {
    let work = async {
        if agent.plumbing.names_groups() {
            let (_, members) = of_node(&agent.world.read(), &agent.config.node);
            agent.plumbing.apply_members(members).await?;
        }
        Ok(Next::Wait)
    };
    settle("who is in which group was not told", work.await)
}

/// Tells of policies for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    let mut told: HashMap<String, Instant> = HashMap::new();
    let mut each = tokio::time::interval(LOOK);
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        each.tick().await;
        let counted = match agent.plumbing.policy_counters().await {
            Ok(counted) => counted,
            Err(e) => {
                tracing::warn!("what policies counted is not known: {e}");
                continue;
            }
        };
        let nics: Vec<(Arc<NetworkInterface>, Option<Enforced>)> = {
            let t = agent.world.read();
            let mine = t.nics.values().filter(|n| spec::carrier(n) == Some(agent.config.node.as_str()));
            let with = |n: &Arc<NetworkInterface>| (n.clone(), enforced(&t, n));
            let had = |n: &NetworkInterface| n.status.as_ref().is_some_and(|s| s.policies.is_some());
            mine.map(with).filter(|(n, e)| e.is_some() || had(n)).collect()
        };
        told.retain(|uid, _| nics.iter().any(|(n, _)| n.uid().as_deref() == Some(uid)));
        for (nic, enforced) in nics {
            if let Err(e) = tell(agent, &nic, enforced.as_ref(), &counted, &mut told).await {
                tracing::warn!(nic = nic.name_any(), "its policies are not reported: {e}");
            }
        }
    }
}

async fn tell(
    agent: &Agent,
    nic: &NetworkInterface,
    enforced: Option<&Enforced>,
    counted: &BTreeMap<IfName, Counted>,
    told: &mut HashMap<String, Instant>,
) -> Result<(), kube::Error> {
    let uid = nic.uid().unwrap_or_default();
    let none = Counted::default();
    let wanted = enforced.map(|e| shown(e, counted.get(&tap_name(&uid)).unwrap_or(&none)));
    let had = nic.status.as_ref().and_then(|s| s.policies.as_ref());
    let same_rules = had.map(without_counts) == wanted.as_ref().map(without_counts);
    let condition = enforced.map(condition);
    if same_rules && (had == wanted.as_ref() || told.get(&uid).is_some_and(|at| at.elapsed() < QUIET)) {
        return Ok(());
    }
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        o.status.get_or_insert_default().policies.clone_from(&wanted);
        match &condition {
            Some(c) => status::set_nic_condition(o, c.clone()),
            None => status::clear_nic_condition(o, status::POLICED),
        }
    })
    .await?;
    told.insert(uid, Instant::now());
    Ok(())
}

fn without_counts(status: &PolicyStatus) -> PolicyStatus {
    let mut out = status.clone();
    out.rules.iter_mut().for_each(|r| r.packets = 0);
    out.defaults.iter_mut().for_each(|d| d.packets = 0);
    (out.stray, out.crowded) = (0, 0);
    out
}

/// What is told of a NIC's policies.
fn shown(e: &Enforced, counted: &Counted) -> PolicyStatus {
    let rule = |s: &multihome_control::policy::Source| RuleStatus {
        group: s.group.to_string(),
        direction: s.direction,
        rule: s.text.clone(),
        packets: counted.rules.get(&s.id).copied().unwrap_or_default(),
    };
    let default = |(direction, action, because): &(Direction, RuleAction, String)| DefaultInForce {
        direction: *direction,
        action: *action,
        because: because.clone(),
        packets: counted.otherwise.get(direction).copied().unwrap_or_default(),
    };
    PolicyStatus {
        groups: e.groups.iter().map(ToString::to_string).collect(),
        defaults: e.defaults.iter().map(default).collect(),
        rules: e.sources.iter().map(rule).collect(),
        stray: counted.stray,
        crowded: counted.crowded,
    }
}

fn condition(e: &Enforced) -> Condition {
    if e.problems.is_empty() {
        let text = format!("{} rules of {} groups are enforced at its port", e.sources.len(), e.groups.len());
        return Condition::new(status::POLICED, true, "Enforced", text);
    }
    let text = format!("{}; until then only what its other groups allow passes", e.problems.join("; "));
    Condition::new(status::POLICED, false, "GroupMissing", text)
}
