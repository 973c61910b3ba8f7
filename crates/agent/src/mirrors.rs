//! Mirrors of this node's NICs: which there are to be, and on each NIC, whether its own stands and who hears it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::mirror::{planned, reachable, sentence};
use multihome_control::queue::Next;
use multihome_control::world::{Tables, vm_key};
use multihome_control::{Key, status};
use multihome_model::condition::find;
use multihome_model::{Condition, IfName, NetworkInterface};
use multihome_plan::node::{Mirror, NodeMirror, NodeState, Step, tap_name};

use crate::{Agent, Error, settle, spec};

/// How soon it is looked again whether the work that a mirror takes was done.
const SOON: Duration = Duration::from_secs(1);

/// The mirrors of NICs of a node, by uid.
pub(crate) fn of_node(t: &Tables, node: &str) -> BTreeMap<String, NodeMirror> {
    let carried = t.nics_of_node(node).filter(|n| spec::carrier(n).is_some());
    carried.filter_map(|n| Some((n.uid()?, planned(t, n)?))).collect()
}

/// The mirrors that lead from a NIC and to it, by the taps that they lead from.
pub(crate) fn around(t: &Tables, nic: &NetworkInterface) -> BTreeMap<IfName, Mirror> {
    let key = Key::of(nic);
    let others = t.mirrored_to(&key).filter_map(|k| t.nics.get(k)).map(|n| &**n);
    let mirror = |n: &NetworkInterface| {
        let NodeMirror { to, direction } = planned(t, n)?;
        Some((tap_name(&n.uid()?), Mirror { to: tap_name(&to), direction }))
    };
    std::iter::once(nic).chain(others).filter_map(mirror).collect()
}

/// Whether a step is about a mirror, which hinders no NIC.
pub(crate) fn is_mirror(step: &Step) -> bool {
    matches!(step, Step::PutMirror(..) | Step::DeleteMirror(_))
}

/// Adds the mirrors that lead from a tap and to it, as they are and as they are to be, to what there is of that tap and what there is to
/// be, with the other taps that they need.
pub(crate) fn add_around(
    state: &NodeState,
    tap: &IfName,
    wished: BTreeMap<IfName, Mirror>,
    (mine, wanted): (&mut NodeState, &mut NodeState),
) {
    let there = |name: &IfName| name == tap || state.taps.contains_key(name);
    wanted.mirrors = wished.into_iter().filter(|(name, m)| there(name) && there(&m.to)).collect();
    let concerned = |name: &IfName, m: &Mirror| name == tap || m.to == *tap || wanted.mirrors.contains_key(name);
    let stand = state.mirrors.iter().filter(|(name, m)| concerned(name, m));
    mine.mirrors = stand.map(|(name, m)| (name.clone(), m.clone())).collect();
    let ends = mine.mirrors.iter().chain(&wanted.mirrors).flat_map(|(name, m)| [name, &m.to]);
    let others: BTreeMap<IfName, _> =
        ends.filter(|end| *end != tap).filter_map(|end| Some((end.clone(), state.taps.get(end)?.clone()))).collect();
    mine.taps.extend(others.clone());
    wanted.taps.extend(others);
}

/// What is to be told of a NIC.
enum Told {
    /// Nothing any more: it is not mirrored.
    Nothing,
    /// This.
    So(Condition),
    /// What it takes is still being done.
    Later,
}

/// Tells of the mirrors of this node's NICs.
pub(crate) async fn report(agent: &Agent) -> Next {
    settle("whether NICs are mirrored was not told", tell_all(agent).await)
}

async fn tell_all(agent: &Agent) -> Result<Next, Error> {
    let had = |n: &NetworkInterface| n.status.as_ref().is_some_and(|s| find(&s.conditions, status::MIRRORED).is_some());
    let nics: Vec<_> = {
        let t = agent.world.read();
        let mine = t.nics_of_node(&agent.config.node).filter(|n| spec::carrier(n).is_some());
        let concerned = mine.filter(|n| n.spec.mirror.is_some() || had(n));
        concerned.map(|n| (n.clone(), reachable(&t, n))).collect()
    };
    if nics.is_empty() {
        return Ok(Next::Wait);
    }
    let (stand, failed) = agent.plumbing.mirrors().await?;
    let mut next = Next::Wait;
    for (nic, reachable) in nics {
        let told = match reachable {
            _ if nic.spec.mirror.is_none() => Told::Nothing,
            Err((reason, text)) => Told::So(Condition::new(status::MIRRORED, false, reason, text)),
            Ok(to) => in_place(&nic, &to, &stand, &failed),
        };
        match told {
            Told::Nothing => tell(agent, &nic, None).await?,
            Told::So(condition) => tell(agent, &nic, Some(condition)).await?,
            Told::Later => next = Next::Again(SOON),
        }
    }
    Ok(next)
}

/// What is to be told of a NIC whose mirror can be.
fn in_place(
    nic: &NetworkInterface,
    to: &NetworkInterface,
    stand: &BTreeMap<IfName, Mirror>,
    failed: &BTreeMap<IfName, String>,
) -> Told {
    let tap = tap_name(&nic.uid().unwrap_or_default());
    let direction = nic.spec.mirror.as_ref().map(|m| m.direction()).unwrap_or_default();
    let wanted = Mirror { to: tap_name(&to.uid().unwrap_or_default()), direction };
    if stand.get(&tap) == Some(&wanted) {
        return Told::So(Condition::new(status::MIRRORED, true, "Copied", sentence(nic, to)));
    }
    if let Some(text) = failed.get(&tap) {
        return Told::So(Condition::new(status::MIRRORED, false, "NotCopied", text.clone()));
    }
    let plugged = |c: &Condition| c.r#type == status::ATTACHED && c.is_true();
    if to.status.as_ref().is_some_and(|s| s.conditions.iter().any(plugged)) {
        return Told::Later;
    }
    let text = format!("NIC {} is not plugged in yet: copies begin when it is", to.name_any());
    Told::So(Condition::new(status::MIRRORED, false, "TargetNotRunning", text))
}

/// Writes it on the NIC, and says in Events who hears whom from now on, or not any more.
async fn tell(agent: &Agent, nic: &Arc<NetworkInterface>, now: Option<Condition>) -> Result<(), Error> {
    let said = |n: &NetworkInterface| n.status.as_ref().and_then(|s| find(&s.conditions, status::MIRRORED)).cloned();
    let gist = |c: &Option<Condition>| c.as_ref().map(|c| (c.is_true(), c.reason.clone(), c.message.clone()));
    if gist(&said(nic)) == gist(&now) {
        return Ok(());
    }
    // What the API has may be newer than what was watched: an Event is for what it did not say yet.
    let before = Mutex::new(None);
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        *before.lock().unwrap_or_else(PoisonError::into_inner) = said(o);
        match &now {
            Some(c) => status::set_nic_condition(o, c.clone()),
            None => status::clear_nic_condition(o, status::MIRRORED),
        }
    })
    .await?;
    let before = before.into_inner().unwrap_or_else(PoisonError::into_inner);
    if gist(&before) == gist(&now) {
        return Ok(());
    }
    let vmi = vm_key(nic).and_then(|k| agent.world.read().vmis.get(&k).cloned());
    let was = before.filter(Condition::is_true);
    match (was, now.filter(Condition::is_true)) {
        (_, Some(now)) => {
            let text = format!("{} from now on", now.message);
            agent.events.warning(nic.as_ref(), "MirrorBegun", text.clone()).await;
            if let Some(vmi) = vmi {
                agent.events.warning(vmi.as_ref(), "MirrorBegun", text).await;
            }
        }
        (Some(was), None) => {
            let text = format!("not so any more: {}", was.message);
            agent.events.normal(nic.as_ref(), "MirrorEnded", text.clone()).await;
            if let Some(vmi) = vmi {
                agent.events.normal(vmi.as_ref(), "MirrorEnded", text).await;
            }
        }
        (None, None) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::{Bandwidth, Mtu};
    use multihome_plan::node::{Tap, diff, simulate};

    /// What a node holds with these taps and these mirrors between them.
    fn state(taps: &[&str], mirrors: &[(&str, &str)]) -> NodeState {
        let tap = |name: &str| Tap {
            alias: format!("nic default/{name}"),
            bridge: IfName::new("mhb0").unwrap(),
            mtu: Mtu::ETHERNET,
            queues: 1,
            tx_queue_length: None,
            vlans: None,
            bandwidth: Bandwidth::default(),
        };
        NodeState {
            taps: taps.iter().map(|n| (tap_name(n), tap(n))).collect(),
            mirrors: mirrors_of(mirrors),
            ..NodeState::default()
        }
    }

    fn mirrors_of(mirrors: &[(&str, &str)]) -> BTreeMap<IfName, Mirror> {
        let mirror = |to: &str| Mirror { to: tap_name(to), direction: Default::default() };
        mirrors.iter().map(|(name, to)| (tap_name(name), mirror(to))).collect()
    }

    type Named = &'static [(&'static str, &'static str)];
    type Case = (&'static [&'static str], Named, &'static str, Named, Named, usize);

    #[test]
    fn one_nic_comes_with_its_mirrors_and_those_to_it_and_touches_no_other() {
        // What is there; the NIC, and what is wished of mirrors around it; what is there then; how many steps it takes.
        #[rustfmt::skip]
        let cases: [Case; 8] = [
            (&["web"], &[], "cap", &[("web", "cap")], &[("web", "cap")], 2),
            (&["cap"], &[], "web", &[("web", "cap")], &[("web", "cap")], 2),
            (&["db"], &[], "web", &[("web", "cap")], &[], 1),
            (&["web", "cap"], &[("web", "cap")], "web", &[("web", "cap")], &[("web", "cap")], 0),
            (&["web", "cap", "db"], &[("web", "cap"), ("db", "cap")], "web", &[], &[("db", "cap")], 1),
            (&["web", "cap", "far"], &[("web", "cap")], "web", &[("web", "far")], &[("web", "far")], 1),
            (&["web", "cap", "db"], &[("web", "db")], "cap", &[("web", "cap")], &[("web", "cap")], 1),
            // One that led to it before it was made anew.
            (&["web"], &[("web", "cap")], "cap", &[("web", "cap")], &[("web", "cap")], 3),
        ];
        for (taps, stand, nic, wished, expected, steps) in cases {
            let mut there = state(taps, stand);
            let tap = tap_name(nic);
            let mut mine = state(&[], &[]);
            mine.taps.extend(there.taps.get(&tap).map(|t| (tap.clone(), t.clone())));
            let mut wanted = state(&[nic], &[]);
            add_around(&there, &tap, mirrors_of(wished), (&mut mine, &mut wanted));
            let all = diff(&mine, &wanted);
            assert_eq!(all.len(), steps, "{nic}, {wished:?}: {all:?}");
            all.iter().for_each(|s| simulate(&mut there, s));
            let names: Vec<&str> = taps.iter().copied().chain([nic]).collect();
            assert_eq!(there, state(&names, expected), "{nic}, {wished:?}");
        }
    }
}
