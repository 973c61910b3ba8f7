//! Nodes: one that does not speak any more is not ready, and what was on one that somebody removed is free for others.
//!
//! A node that is silent may still run its VMs: they are started elsewhere only once the Node itself is deleted, by who knows
//! that the machine is off. Starting them twice would give two machines the same addresses.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use multihome_model::condition::{self, Condition};
use multihome_model::kubevirt::VirtualMachineInstance;
use multihome_model::{FINALIZER_AGENT, NetworkInterface};
use serde_json::json;

use super::nic::is_live;
use super::{Context, Failure};
use crate::{Key, node, status};

/// How often nodes are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a node may be silent, or absent, before that counts: four heartbeats.
const GRACE: Duration = Duration::from_secs(40);

/// What was seen of a node, and since when nothing else was.
struct Seen {
    heartbeat: Option<String>,
    since: Instant,
}

/// Looks after nodes for as long as it is polled.
pub(super) async fn follow(ctx: &Context) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if let Err(e) = look(ctx, &mut seen).await {
            tracing::warn!("nodes will be looked at again: {e}");
        }
    }
}

async fn look(ctx: &Context, seen: &mut HashMap<String, Seen>) -> Result<(), Failure> {
    let (nodes, named) = {
        let t = ctx.world.read();
        let nodes: HashMap<String, _> = t.nodes.iter().map(|(k, n)| (k.name.clone(), n.clone())).collect();
        let vmis = t.vmis.values().filter_map(|v| v.status.as_ref()?.node_name.clone());
        let nics = t.nics.values().filter_map(|n| n.status.as_ref()?.node.clone());
        let named: std::collections::BTreeSet<String> = vmis.chain(nics).collect();
        (nodes, named)
    };
    seen.retain(|name, _| nodes.contains_key(name) || named.contains(name));
    // The clock that counts is this one: those of nodes may differ.
    let mut silent = |name: &str, heartbeat: Option<String>| {
        let now = || Seen { heartbeat: heartbeat.clone(), since: Instant::now() };
        let last = seen.entry(name.to_owned()).or_insert_with(now);
        if last.heartbeat != heartbeat {
            *last = now();
        }
        last.since.elapsed() >= GRACE
    };
    for (name, there) in nodes.iter().filter(|(_, n)| node::is_ours_alone(n)) {
        if silent(name, heartbeat(there)) && node::is_ready(there) {
            not_ready(ctx, name).await?;
        }
    }
    for name in named.iter().filter(|n| !nodes.contains_key(*n)) {
        if silent(name, None) {
            give_up(ctx, name).await?;
        }
    }
    Ok(())
}

fn heartbeat(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|t| t.0.to_string())
}

async fn not_ready(ctx: &Context, name: &str) -> Result<(), Failure> {
    let api: Api<Node> = Api::all(ctx.client.clone());
    let text = format!(
        "its agent has said nothing for {} s: look at the machine and at «multihome agent» on it",
        GRACE.as_secs()
    );
    let ready = json!({
        "type": "Ready", "status": "Unknown", "reason": "AgentSilent", "message": text, "lastTransitionTime": status::now(),
    });
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({"status": {"conditions": [ready]}})))
        .await?;
    if let Some(there) = api.get_opt(name).await? {
        ctx.events.warning(&there, "AgentSilent", text).await;
    }
    Ok(())
}

/// What was on a node that is not there any more: instances have failed, NICs are on no node.
async fn give_up(ctx: &Context, name: &str) -> Result<(), Failure> {
    let (vmis, nics) = {
        let t = ctx.world.read();
        let there = |n: Option<&String>| n.is_some_and(|n| n == name);
        let vmis: Vec<_> =
            t.vmis.values().filter(|v| there(v.status.as_ref().and_then(|s| s.node_name.as_ref()))).cloned().collect();
        let nics: Vec<_> =
            t.nics.values().filter(|n| there(n.status.as_ref().and_then(|s| s.node.as_ref()))).cloned().collect();
        (vmis, nics)
    };
    let text = format!("its node {name} was removed");
    for vmi in vmis {
        let key = Key::of(vmi.as_ref());
        let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &key.namespace);
        if vmi.status.as_ref().is_some_and(|s| is_live(&s.phase)) {
            status::update(&api, &key.name, Some(&vmi), |o| {
                let s = o.status.get_or_insert_default();
                s.phase = "Failed".into();
                s.reason = Some(text.clone());
                condition::set(
                    &mut s.conditions,
                    Condition::new(status::READY, false, "NodeLost", &*text),
                    &status::now(),
                );
            })
            .await?;
            ctx.events.warning(vmi.as_ref(), "NodeLost", text.clone()).await;
        }
        // Nobody else is there to let it go.
        if vmi.metadata.deletion_timestamp.is_some() && vmi.finalizers().iter().any(|f| f == FINALIZER_AGENT) {
            let rest: Vec<&String> = vmi.finalizers().iter().filter(|f| *f != FINALIZER_AGENT).collect();
            let patch = json!({"metadata": {"finalizers": rest, "resourceVersion": vmi.resource_version()}});
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {}
                Err(kube::Error::Api(e)) if e.code == 409 || e.code == 404 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    for nic in nics {
        let key = Key::of(nic.as_ref());
        let api: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &key.namespace);
        status::update(&api, &key.name, Some(&nic), |o| status::release_nic(o, "NodeLost", &text)).await?;
        ctx.events.warning(nic.as_ref(), "NodeLost", text.clone()).await;
    }
    Ok(())
}
