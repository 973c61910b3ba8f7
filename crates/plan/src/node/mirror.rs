//! NICs of which what they say and hear is copied to another NIC of the node.

use std::collections::BTreeSet;

use multihome_model::{IfName, MirrorDirection};
use serde::{Deserialize, Serialize};

use super::{NodeInput, NodeState, Step, tap_name};

/// Where what a NIC says and hears is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The tap of the NIC that gets the copies.
    pub to: IfName,
    /// What is copied.
    pub direction: MirrorDirection,
}

/// What a NIC says of its mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMirror {
    /// Uid of the NetworkInterface that gets the copies.
    pub to: String,
    /// What is copied.
    pub direction: MirrorDirection,
}

/// Mirrors whose NICs are both here. Of a NIC that gets copies nothing is copied, so that no copy is copied again.
pub(super) fn add_mirrors(input: &NodeInput, state: &mut NodeState) {
    let targets: BTreeSet<&str> = input.mirrors.values().map(|m| m.to.as_str()).collect();
    for (uid, mirror) in input.mirrors.iter().filter(|(uid, _)| !targets.contains(uid.as_str())) {
        let (name, to) = (tap_name(uid), tap_name(&mirror.to));
        if state.taps.contains_key(&name) && state.taps.contains_key(&to) {
            state.mirrors.insert(name, Mirror { to, direction: mirror.direction });
        }
    }
}

/// Whether a tap is there and stays the device that it is.
fn stays(tap: &IfName, observed: &NodeState, desired: &NodeState) -> bool {
    match (observed.taps.get(tap), desired.taps.get(tap)) {
        (Some(seen), Some(wanted)) => (seen.queues > 1) == (wanted.queues > 1),
        _ => false,
    }
}

/// Whether a mirror can stand for as long as steps are taken: it names a device, and another one by the same name is another.
fn stands(name: &IfName, mirror: &Mirror, observed: &NodeState, desired: &NodeState) -> bool {
    stays(name, observed, desired) && stays(&mirror.to, observed, desired)
}

/// Mirrors end before the taps that they are of, and lead to, go.
pub(super) fn remove(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for (name, mirror) in &observed.mirrors {
        if !desired.mirrors.contains_key(name) || !stands(name, mirror, observed, desired) {
            steps.push(Step::DeleteMirror(name.clone()));
        }
    }
}

/// Mirrors begin when all taps are there.
pub(super) fn add(observed: &NodeState, desired: &NodeState, steps: &mut Vec<Step>) {
    for (name, mirror) in &desired.mirrors {
        if observed.mirrors.get(name) != Some(mirror) || !stands(name, mirror, observed, desired) {
            steps.push(Step::PutMirror(name.clone(), mirror.clone()));
        }
    }
}
