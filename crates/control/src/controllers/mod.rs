//! The controllers: one queue, one handler per kind.

mod fabric;
mod floating;
mod group;
mod nad;
mod network;
mod nic;
mod node;
mod promiscuous;
mod vm;
mod vpc;

use std::sync::Arc;

use kube::Client;
use multihome_model::{FloatingIP, MGMT_FABRIC};
use tokio::sync::broadcast::error::RecvError;

use crate::events::Events;
use crate::policy::{network_groups, peers_of};
use crate::queue::{Next, Queue};
use crate::world::{Tables, vm_key};
use crate::{Change, Key, World, backends};

/// How many objects are worked on at the same time.
const WORKERS: usize = 16;

/// What one handler works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Network(Key),
    Nic(Key),
    Vpc(Key),
    Fabric(String),
    Floating(Key),
    Group(Key),
    Vm(Key),
    Vmi(Key),
    /// A node that is gone, by name.
    NodeGone(String),
}

/// What every handler has at hand.
struct Context {
    client: Client,
    world: World,
    events: Events,
    /// Serialises choices that must not be made twice at once: addresses, VNIs.
    choosing: tokio::sync::Mutex<()>,
}

/// A failure of a handler; it is logged, and the work comes back.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Api(#[from] kube::Error),
}

type Outcome = Result<Next, Failure>;

/// Runs all controllers until the future is dropped.
pub async fn run(client: Client, world: World) {
    let ctx = Arc::new(Context {
        events: Events::new(client.clone(), "controller", None),
        client,
        world,
        choosing: tokio::sync::Mutex::default(),
    });
    let queue = Queue::default();
    let mut changes = ctx.world.changes();
    ctx.world.synced().await;
    enqueue_everything(&ctx, &queue);
    let feed = async {
        loop {
            match changes.recv().await {
                Ok(change) => enqueue(&ctx, &queue, change),
                Err(RecvError::Lagged(_)) => enqueue_everything(&ctx, &queue),
                Err(RecvError::Closed) => return,
            }
        }
    };
    let work = queue.run(WORKERS, |work| {
        let ctx = ctx.clone();
        async move {
            let outcome = match &work {
                Work::Network(k) => network::reconcile(&ctx, k).await,
                Work::Nic(k) => nic::reconcile(&ctx, k).await,
                Work::Vpc(k) => vpc::reconcile(&ctx, k).await,
                Work::Fabric(name) => fabric::reconcile(&ctx, name).await,
                Work::Floating(k) => floating::reconcile(&ctx, k).await,
                Work::Group(k) => group::reconcile(&ctx, k).await,
                Work::Vm(k) => vm::reconcile_vm(&ctx, k).await,
                Work::Vmi(k) => vm::reconcile_vmi(&ctx, k).await,
                Work::NodeGone(name) => network::forget_node(&ctx, name).await,
            };
            outcome.unwrap_or_else(|e| {
                tracing::warn!(?work, "will be tried again: {e}");
                Next::Failed
            })
        }
    });
    tokio::join!(feed, work, node::follow(&ctx));
}

fn enqueue_everything(ctx: &Context, queue: &Queue<Work>) {
    queue.push(Work::Fabric(MGMT_FABRIC.into()));
    let t = ctx.world.read();
    t.fabrics.keys().for_each(|k| queue.push(Work::Fabric(k.name.clone())));
    t.vpcs.keys().for_each(|k| queue.push(Work::Vpc(k.clone())));
    t.networks.keys().for_each(|k| queue.push(Work::Network(k.clone())));
    t.nics.keys().for_each(|k| queue.push(Work::Nic(k.clone())));
    t.floating.keys().for_each(|k| queue.push(Work::Floating(k.clone())));
    t.groups.keys().for_each(|k| queue.push(Work::Group(k.clone())));
    t.vms.keys().for_each(|k| queue.push(Work::Vm(k.clone())));
    t.vmis.keys().for_each(|k| queue.push(Work::Vmi(k.clone())));
}

/// Whom a change concerns besides the object itself.
fn enqueue(ctx: &Context, queue: &Queue<Work>, change: Change) {
    match change {
        Change::Network(k) => {
            let t = ctx.world.read();
            t.nics_of_network(&k).for_each(|nic| queue.push(Work::Nic(nic.clone())));
            t.vms.keys().filter(|vm| waits_for_network(&t, vm)).for_each(|vm| queue.push(Work::Vm(vm.clone())));
            let from = |f: &Key, spec: &str| Key::reference(spec, &f.namespace) == k;
            let floating = t.floating.iter().filter(|(f, o)| from(f, &o.spec.network));
            floating.for_each(|(f, _)| queue.push(Work::Floating(f.clone())));
            enqueue_floating(&t, queue, |f| backends::leads_into(&t, f, &k));
            t.networks.get(&k).into_iter().flat_map(|n| network_groups(n)).for_each(|g| queue.push(Work::Group(g)));
            match t.networks.get(&k) {
                Some(n) => {
                    n.spec.vpc.iter().for_each(|v| enqueue_vpc(&t, queue, &Key::new(k.namespace.clone(), v.clone())))
                }
                None => t.vpcs.keys().for_each(|v| queue.push(Work::Vpc(v.clone()))),
            }
            drop(t);
            queue.push(Work::Network(k));
        }
        Change::Nic { key, vms, networks, groups } => {
            let t = ctx.world.read();
            let of_network = networks.iter().filter_map(|n| t.networks.get(n)).flat_map(|n| network_groups(n));
            groups.into_iter().chain(of_network).for_each(|g| queue.push(Work::Group(g)));
            for vm in vms {
                t.nics_of_vm(&vm).iter().for_each(|nic| queue.push(Work::Nic(Key::of(nic.as_ref()))));
                queue.push(if t.vms.contains_key(&vm) { Work::Vm(vm) } else { Work::Vmi(vm) });
            }
            drop(t);
            let t = ctx.world.read();
            for n in networks {
                if let Some(vpc) = t.networks.get(&n).and_then(|o| o.spec.vpc.clone()) {
                    queue.push(Work::Vpc(Key::new(n.namespace.clone(), vpc)));
                }
                queue.push(Work::Network(n));
            }
            enqueue_floating(&t, queue, |f| backends::concerns(&t, f, &key));
            drop(t);
            queue.push(Work::Nic(key));
        }
        Change::Claim(network) => queue.push(Work::Network(network)),
        Change::Fabric(name) => {
            let t = ctx.world.read();
            let riders = t.networks.iter().filter(|(_, n)| n.spec.fabric() == name);
            riders.for_each(|(k, _)| queue.push(Work::Network(k.clone())));
            let from = t.floating.iter().filter(|(_, f)| backends::fabric_of(&t, f) == name);
            from.for_each(|(k, _)| queue.push(Work::Floating(k.clone())));
            drop(t);
            queue.push(Work::Fabric(name));
        }
        Change::Vpc(k) => {
            enqueue_vpc(&ctx.world.read(), queue, &k);
            let t = ctx.world.read();
            let waiting =
                t.networks.iter().filter(|(n, o)| n.namespace == k.namespace && o.spec.vpc.as_deref() == Some(&k.name));
            waiting.for_each(|(n, _)| queue.push(Work::Network(n.clone())));
            enqueue_floating(&t, queue, |_| true);
        }
        Change::Floating(k) => queue.push(Work::Floating(k)),
        Change::Group(k) => {
            let t = ctx.world.read();
            let named = t.groups.keys().filter(|g| peers_of(&t, g).contains(&k));
            named.for_each(|g| queue.push(Work::Group(g.clone())));
            drop(t);
            queue.push(Work::Group(k));
        }
        Change::Vm(k) => {
            enqueue_floating_of_vm(&ctx.world.read(), queue, &k);
            queue.push(Work::Vm(k));
        }
        Change::Vmi(k) => {
            let t = ctx.world.read();
            t.nics_of_vm(&k).iter().for_each(|nic| queue.push(Work::Nic(Key::of(nic.as_ref()))));
            enqueue_floating_of_vm(&t, queue, &k);
            let owned = t.vms.contains_key(&k);
            drop(t);
            if owned {
                queue.push(Work::Vm(k.clone()));
            }
            queue.push(Work::Vmi(k));
        }
        Change::Node(name) => {
            let t = ctx.world.read();
            let on = |f: &FloatingIP| {
                let backends = f.status.iter().flat_map(|s| s.backends.values());
                backends.filter_map(|b| b.node.as_ref()).any(|n| *n == name)
            };
            enqueue_floating(&t, queue, on);
            if !t.nodes.contains_key(&Key::new("", name.clone())) {
                queue.push(Work::NodeGone(name));
            }
            let pending = t.vmis.iter().filter(|(_, v)| v.status.as_ref().is_none_or(|s| s.node_name.is_none()));
            pending.for_each(|(k, _)| queue.push(Work::Vmi(k.clone())));
        }
    }
}

/// A Vpc, and those for which what it offers counts.
fn enqueue_vpc(t: &crate::world::Tables, queue: &Queue<Work>, vpc: &Key) {
    queue.push(Work::Vpc(vpc.clone()));
    crate::vpc::naming(t, vpc).for_each(|k| queue.push(Work::Vpc(k.clone())));
}

/// The floating addresses, of some, of which something else would be decided now.
fn enqueue_floating(t: &Tables, queue: &Queue<Work>, of: impl Fn(&FloatingIP) -> bool) {
    let stale = t.floating.iter().filter(|(_, f)| of(f) && backends::is_stale(t, f));
    stale.for_each(|(k, _)| queue.push(Work::Floating(k.clone())));
}

/// Those that lead to NICs of a VM, whose labels count as those of its NICs.
fn enqueue_floating_of_vm(t: &Tables, queue: &Queue<Work>, vm: &Key) {
    let nics: Vec<Key> = t.nics_of_vm(vm).iter().map(|n| Key::of(n.as_ref())).collect();
    enqueue_floating(t, queue, |f| nics.iter().any(|nic| backends::concerns(t, f, nic)));
}

/// Whether a VM has fewer NICs than its manifest names.
fn waits_for_network(t: &crate::world::Tables, vm: &Key) -> bool {
    t.vms.get(vm).is_some_and(|m| {
        let wanted = crate::vm::manifest_nics(&m.spec.template.spec).len();
        t.nics_of_vm(vm).iter().filter(|n| vm_key(n).as_ref() == Some(vm)).count() < wanted
    })
}
