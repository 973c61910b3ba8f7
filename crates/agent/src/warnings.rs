//! What ports and the guard drop, told to the users as Events.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use multihome_control::Key;
use multihome_control::world::{network_key, vm_key};
use multihome_dataplane::Rogue;
use multihome_dhcp::guard::Dropping;
use multihome_dhcp::guard::server::MOST_TAKEN;
use multihome_model::{IfName, NetworkInterface};
use multihome_plan::node::tap_name;

use crate::Agent;

/// How often what was dropped is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long nothing more is said of the answers that one NIC or network misses.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Said {
    rogues: BTreeSet<(IfName, Rogue)>,
    /// By NIC or network: how many answers were dropped when it was last said, and when that was.
    answers: HashMap<(bool, Arc<str>), (u64, Instant)>,
    /// NICs that ask servers of others for no more addresses.
    sated: BTreeSet<Arc<str>>,
}

/// Looks for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    let mut said = Said::default();
    let mut each = tokio::time::interval(LOOK);
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        each.tick().await;
        rogues(agent, &mut said).await;
        answers(agent, &mut said).await;
        sated(agent, &mut said).await;
    }
}

/// Guests that pretend to be servers or routers. Each is told of once, and again if it stopped for ten minutes.
async fn rogues(agent: &Agent, said: &mut Said) {
    let seen = match agent.plumbing.rogues().await {
        Ok(seen) => seen,
        Err(e) => return tracing::warn!("who pretends to be a server is not known: {e}"),
    };
    said.rogues.retain(|r| seen.contains(r));
    let new: Vec<(IfName, Rogue)> = seen.into_iter().filter(|r| !said.rogues.contains(r)).collect();
    if new.is_empty() {
        return;
    }
    let taps: HashMap<IfName, Arc<NetworkInterface>> = {
        let t = agent.world.read();
        t.nics.values().filter_map(|n| Some((tap_name(&n.uid()?), n.clone()))).collect()
    };
    for (tap, rogue) in new {
        let Some(nic) = taps.get(&tap) else { continue };
        rogue_event(agent, nic, rogue).await;
        said.rogues.insert((tap, rogue));
    }
}

async fn rogue_event(agent: &Agent, nic: &NetworkInterface, rogue: Rogue) {
    let (reason, role) = match rogue {
        Rogue::Dhcp4 => ("RogueDhcpServer", "a DHCP server"),
        Rogue::Dhcp6 => ("RogueDhcpServer6", "a DHCPv6 server"),
        Rogue::Router => ("RogueRouter", "an IPv6 router"),
    };
    let vm = vm_key(nic);
    let text = format!(
        "VM {} speaks as {role} on Network {} by its NIC {}: what it says there is dropped; if that is its task, set portSecurity: Promiscuous on the NIC",
        vm.as_ref().map_or("?".into(), Key::to_string),
        network_key(nic),
        nic.name_any(),
    );
    agent.events.warning(nic, reason, text.clone()).await;
    let vmi = vm.and_then(|k| agent.world.read().vmis.get(&k).cloned());
    if let Some(vmi) = vmi {
        agent.events.warning(vmi.as_ref(), reason, text).await;
    }
}

/// Guests that took so many addresses of servers of others that they get no more. Each is told of once.
async fn sated(agent: &Agent, said: &mut Said) {
    let now = agent.guard.sated();
    said.sated.retain(|nic| now.iter().any(|(n, _)| n == nic));
    for (name, server) in now {
        let Some(nic) = agent.world.read().nic_of_uid(&name).filter(|_| said.sated.insert(name.clone())) else {
            continue;
        };
        let text = format!(
            "the guest took {MOST_TAKEN} addresses of DHCP server {server} and others there, each under another client identifier: it gets no more until one of them ends; let the server tell clients by MAC, or the guest keep to one identifier"
        );
        agent.events.warning(nic.as_ref(), "TooManyAddresses", text).await;
    }
}

/// Answers of servers and advertisements of routers that the guard did not hand on.
async fn answers(agent: &Agent, said: &mut Said) {
    let now = agent.guard.drops();
    said.answers.retain(|(nic, name), _| now.iter().any(|(n, of, _)| n == nic && of == name));
    for (is_nic, name, (count, why)) in now {
        let key = (is_nic, name.clone());
        let quiet = said.answers.get(&key).is_some_and(|(n, at)| *n == count || at.elapsed() < QUIET);
        if quiet {
            continue;
        }
        said.answers.insert(key, (count, Instant::now()));
        answer_event(agent, is_nic, &name, (count, why)).await;
    }
}

async fn answer_event(agent: &Agent, is_nic: bool, name: &str, (count, why): Dropping) {
    const REASON: &str = "AnswerDropped";
    if is_nic {
        let Some(nic) = agent.world.read().nic_of_uid(name) else { return };
        let text = format!("a DHCP server or router said what the guard did not hand on ({count} so far): {why}");
        agent.events.warning(nic.as_ref(), REASON, text).await;
        return;
    }
    let network = {
        let t = agent.world.read();
        t.networks.values().find(|n| Key::of(n.as_ref()).to_string() == name).cloned()
    };
    let Some(network) = network else { return };
    let text = format!(
        "somebody on this network sends DHCP answers or router advertisements that cannot be read ({count} so far): {why}"
    );
    agent.events.warning(network.as_ref(), REASON, text).await;
}
