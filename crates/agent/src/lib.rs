//! The part that runs on each node: watch, plan, apply, serve DHCP, run VMs, observe, report status.
//!
//! Whatever this process knows can be found again: devices by observing them, VMs by their run directory, addresses and
//! slots in the resources. It may be killed at any point and started again, and VMs run on meanwhile.

mod acceleration;
mod announce;
mod changes;
mod dhcp;
mod engine;
mod fabrics;
mod guarded;
mod health;
mod instance;
mod leases;
mod leases6;
mod management;
mod metadata;
mod mirrors;
mod networks;
mod node;
mod observe;
mod plumbing;
mod policies;
mod probes;
mod running;
mod seed;
mod spec;
mod teardown;
mod trial;
mod warnings;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::{Client, ResourceExt};
use multihome_control::events::Events;
use multihome_control::queue::{Next, Queue};
use multihome_control::status::MIRRORED;
use multihome_control::{Change, Key, World};
use multihome_dhcp::guard::server::Guard;
use multihome_dhcp::server::Server;
use multihome_dhcp::server6::Server6;
use multihome_metadata::Service;
use multihome_model::condition::find;
use multihome_model::{ClusterNetwork, FloatingIP, NetworkInterface};
use multihome_vmm::images::ImageStore;
use multihome_vmm::{Acceleration, Accelerator, VmmConfig};
use tokio::sync::broadcast::error::RecvError;

pub use engine::Wish;
pub use spec::{local_change, node_input, remote_change};
pub use teardown::teardown;
pub use trial::resume;

/// How an agent runs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Where VMs' run directories, overlays and images are.
    pub data_dir: PathBuf,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Put before the names of routing domains' namespaces; empty but where several nodes share a machine.
    pub netns_prefix: String,
    /// The address that tunnels to other nodes start from. Without one, overlays reach this node only.
    pub tunnel_address: Option<IpAddr>,
    /// The API is on another machine: while it answers, this node can be managed. Otherwise its gateway tells.
    pub remote_api: bool,
    /// The engine that moves frames.
    pub dataplane: Wish,
    /// The socket of ovsdb-server, where it is not Debian's.
    pub ovs_database: Option<PathBuf>,
}

impl Config {
    /// The image store of the node.
    pub fn images(&self) -> ImageStore {
        ImageStore::new(self.data_dir.join("images"))
    }
    /// The directory with one directory per running VM.
    pub fn run_root(&self) -> PathBuf {
        self.data_dir.join("vms")
    }
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A VM matter.
    #[error(transparent)]
    Vmm(#[from] multihome_vmm::Error),
    /// A device matter.
    #[error(transparent)]
    Netlink(#[from] multihome_netlink::Error),
    /// The kernel's events.
    #[error("the kernel's events cannot be waited for: {0}")]
    Events(#[source] std::io::Error),
    /// A file of the data directory.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The API.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The seed of a VM.
    #[error("the seed was not changed: {0}")]
    Seed(String),
    /// The data plane.
    #[error("{0}")]
    Dataplane(String),
    /// Another agent speaks for the node.
    #[error(
        "another agent speaks for node {0:?}: give this one another name with --node-name, or wait 40 s after the other ended"
    )]
    NameTaken(String),
    /// A task of the runtime ended before it should.
    #[error("a background task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// How often the node's devices are looked at without a reason.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// What the agent works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// The whole node plan.
    Node,
    /// What other nodes carry of one network, and of the routing domain that it is in.
    Remotes(Key),
    /// Who is in the groups that rules here name.
    Members,
    /// Whether NICs here are mirrored as they say.
    Mirrors,
    /// One instance: its NICs, its process.
    Instance(Key),
}

/// What every part of the agent has at hand.
struct Agent {
    config: Config,
    vmm: VmmConfig,
    client: Client,
    world: World,
    events: Events,
    queue: Queue<Work>,
    plumbing: plumbing::Plumbing,
    dhcp: Arc<Server>,
    dhcp6: Arc<Server6>,
    metadata: Service,
    guard: Arc<Guard>,
    probes: multihome_probe::Service,
    /// What NICs are asked that floating addresses lead to.
    checks: health::Checks,
    /// What this node says of networks.
    reports: tokio::sync::Mutex<networks::Reports>,
    /// How VMs are accelerated, once it was tried.
    acceleration: tokio::sync::watch::Sender<Option<Acceleration>>,
    /// Running VMs by the uid of their instance.
    running: Mutex<HashMap<String, Arc<running::Running>>>,
}

impl Agent {
    /// Says nothing more to a NIC.
    fn forget_nic(&self, uid: &str) {
        self.dhcp.remove_record(uid);
        self.dhcp6.remove(uid);
        self.metadata.remove(uid);
        self.guard.remove_nic(uid);
        self.plumbing.forget_learnt(uid);
    }
    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<running::Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn is_mine(&self, node: Option<&str>) -> bool {
        node == Some(self.config.node.as_str())
    }
}

/// Runs the agent until the future is dropped. VMs and devices stay.
///
/// # Errors
/// When the node cannot be used at all: no user for QEMU, no netlink, no API.
pub async fn run(config: Config, client: Client, world: World) -> Result<(), Error> {
    let mut changes = world.changes();
    let identity = node::identity(&config)?;
    node::claim_name(&config.node, &identity, &client).await?;
    let (user, kernel) = {
        let user = tokio::task::spawn_blocking(multihome_vmm::ensure_user);
        let kernel = tokio::task::spawn_blocking(multihome_netlink::probe);
        (user.await??, kernel.await??)
    };
    let vmm = VmmConfig {
        qemu: config.qemu.clone(),
        run_root: config.run_root(),
        user: Some(user),
        accelerator: Accelerator::Tcg,
    };
    let plumbing = plumbing::Plumbing::open(&config, kernel.clone(), client.clone()).await?;
    let guard = Arc::new(Guard::new(plumbing.doorkeeper()));
    let agent = Arc::new(Agent {
        events: Events::new(client.clone(), "agent", Some(&config.node)),
        vmm,
        client,
        queue: Queue::default(),
        plumbing,
        dhcp: Arc::new(Server::new()),
        dhcp6: Arc::new(Server6::new()),
        metadata: Service::new(),
        guard,
        probes: multihome_probe::Service::default(),
        checks: health::Checks::default(),
        reports: tokio::sync::Mutex::default(),
        running: Mutex::default(),
        acceleration: tokio::sync::watch::channel(acceleration::remembered(&config)).0,
        world,
        config,
    });
    agent.world.synced().await;
    instance::find_running(&agent).await;
    agent.queue.push(Work::Node);
    everything(&agent);
    let mut again = tokio::time::interval(LOOK_AGAIN);
    let mut networks = Networks::default();
    let mut fabrics = Fabrics::default();
    let mut groups = Groups::default();
    let mut nodes = Nodes::default();
    let feed = async {
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(Change::Network(key)) if !networks.differs(&agent, &key) => {}
                    // What else nodes report of it concerns no plan.
                    Ok(Change::Fabric(name)) if !fabrics.differs(&agent, &name) => {}
                    // How many NICs are in it does not.
                    Ok(Change::Group(key)) if !groups.differs(&agent, &key) => {}
                    // Heartbeats do not, either.
                    Ok(Change::Node(name)) if !nodes.differs(&agent, &name) => {}
                    Ok(change) => enqueue(&agent, change),
                    Err(RecvError::Lagged(_)) => everything(&agent),
                    Err(RecvError::Closed) => return,
                },
                // Somebody may have removed a device of ours.
                _ = again.tick() => agent.queue.push(Work::Node),
            }
        }
    };
    let work = agent.queue.run(16, |work| {
        let agent = agent.clone();
        async move {
            match work {
                Work::Node => plumbing::reconcile(&agent).await,
                Work::Remotes(key) => plumbing::reconcile_remotes(&agent, &key).await,
                Work::Members => policies::reconcile_members(&agent).await,
                Work::Mirrors => mirrors::report(&agent).await,
                Work::Instance(key) => instance::reconcile(&agent, &key).await,
            }
        }
    });
    tokio::join!(
        feed,
        work,
        node::report(&agent, &kernel, &identity),
        fabrics::follow(&agent),
        trial::follow(&agent),
        leases::follow(&agent),
        leases6::follow(&agent),
        guarded::follow(&agent),
        probes::follow(&agent),
        policies::follow(&agent),
        warnings::follow(&agent),
        plumbing::follow(&agent)
    );
    Ok(())
}

fn everything(agent: &Agent) {
    agent.queue.push(Work::Node);
    let t = agent.world.read();
    t.vmis.keys().for_each(|k| agent.queue.push(Work::Instance(k.clone())));
}

/// What this node's plans depend on of each network. Its counters change with every NIC, and concern nobody here.
#[derive(Default)]
struct Networks(HashMap<Key, Gist>);

/// What of a network plans depend on.
#[derive(PartialEq, Eq)]
struct Gist {
    generation: Option<i64>,
    mtu: Option<u32>,
    vni: Option<u32>,
    /// Whether a gateway was learnt, where something was.
    gateway: Option<bool>,
}

impl Networks {
    /// Whether a network is other than when this was last asked.
    fn differs(&mut self, agent: &Agent, key: &Key) -> bool {
        let Some(network) = agent.world.read().networks.get(key).cloned() else {
            self.0.remove(key);
            return true;
        };
        let status = network.status.as_ref();
        let now = Gist {
            generation: network.metadata.generation,
            mtu: status.and_then(|s| s.mtu),
            vni: status.and_then(|s| s.vni),
            gateway: status.and_then(|s| Some(s.route.as_ref()?.ipv4.as_ref()?.gateway.is_some())),
        };
        let same = self.0.get(key) == Some(&now);
        self.0.insert(key.clone(), now);
        !same
    }
}

/// What plans were made from of each fabric: its generation, and where its tunnels end on each node.
#[derive(Default)]
struct Fabrics(HashMap<String, (Option<i64>, BTreeMap<String, String>)>);

impl Fabrics {
    /// Whether a fabric is other than when this was last asked.
    fn differs(&mut self, agent: &Agent, name: &str) -> bool {
        let ends = |f: &ClusterNetwork| {
            let nodes = f.status.iter().flat_map(|s| &s.nodes);
            nodes.filter_map(|(n, s)| Some((n.clone(), s.tunnel_address.clone()?))).collect()
        };
        let now = agent.world.read().fabrics.get(&Key::new("", name)).map(|f| (f.metadata.generation, ends(f)));
        match now {
            Some(now) => self.0.insert(name.to_owned(), now.clone()) != Some(now),
            None => {
                self.0.remove(name);
                true
            }
        }
    }
}

/// The generation and uid of each security group that plans were made from.
#[derive(Default)]
struct Groups(HashMap<Key, (Option<i64>, Option<String>)>);

impl Groups {
    /// Whether a group is other than when this was last asked.
    fn differs(&mut self, agent: &Agent, key: &Key) -> bool {
        let now = agent.world.read().groups.get(key).map(|g| (g.metadata.generation, g.uid()));
        match now {
            Some(now) => self.0.insert(key.clone(), now.clone()) != Some(now),
            None => self.0.remove(key).is_some(),
        }
    }
}

/// What plans depend on of each node: its labels, and where its tunnels end.
#[derive(Default)]
struct Nodes(HashMap<String, (BTreeMap<String, String>, Option<IpAddr>)>);

impl Nodes {
    /// Whether a node is other than when this was last asked.
    fn differs(&mut self, agent: &Agent, name: &str) -> bool {
        let now = agent.world.read().nodes.get(&Key::new("", name)).map(|n| {
            let mut labels = n.labels().clone();
            // Told once VMs were started, and no plan selects by it.
            labels.remove(node::ACCELERATOR);
            (labels, multihome_control::node::tunnel_address(n))
        });
        match now {
            Some(now) => self.0.insert(name.to_owned(), now.clone()) != Some(now),
            None => self.0.remove(name).is_some(),
        }
    }
}

/// Whom a change concerns on this node.
fn enqueue(agent: &Agent, change: Change) {
    match change {
        Change::Network(_) | Change::Vpc(_) | Change::Fabric(_) => {
            // DHCP answers follow from networks, so that instances are concerned, too.
            everything(agent);
        }
        Change::Nic { key, vms, networks, groups } => {
            vms.into_iter().for_each(|vm| agent.queue.push(Work::Instance(vm)));
            let t = agent.world.read();
            let said =
                |n: &Arc<NetworkInterface>| n.status.as_ref().is_some_and(|s| find(&s.conditions, MIRRORED).is_some());
            if t.has_mirrors() || t.nics.get(&key).is_some_and(said) {
                agent.queue.push(Work::Mirrors);
            }
            let in_groups = |n: &Key| t.networks.get(n).is_some_and(|n| !n.spec.policies.is_empty());
            if !groups.is_empty() || networks.iter().any(in_groups) {
                agent.queue.push(Work::Members);
            }
            let carrier = t.nics.get(&key).and_then(|n| n.status.as_ref()?.node.as_deref());
            // What floating addresses have to do with it follows from the whole.
            let led = |f: &FloatingIP| {
                f.namespace().as_ref() == Some(&key.namespace)
                    && f.status.as_ref().is_some_and(|s| s.backends.contains_key(&key.name))
            };
            if carrier.is_none() || t.floating.values().any(|f| led(f)) {
                agent.queue.push(Work::Node);
            }
            if !agent.is_mine(carrier) {
                networks.into_iter().for_each(|n| agent.queue.push(Work::Remotes(n)));
            }
        }
        Change::Vmi(key) => agent.queue.push(Work::Instance(key)),
        Change::Node(_) | Change::Floating(_) => agent.queue.push(Work::Node),
        Change::Group(_) => agent.queue.push(Work::Node),
        Change::Claim(_) | Change::Vm(_) => {}
    }
}

/// The outcome of work that may fail: logged, and tried again.
fn settle(what: &str, result: Result<Next, Error>) -> Next {
    result.unwrap_or_else(|e| {
        tracing::warn!("{what}: {}", with_causes(&e));
        Next::Failed
    })
}

/// An error with what is behind it.
fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
