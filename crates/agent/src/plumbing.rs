//! The node's devices: the plan applied, the whole of it or one NIC's share.
//!
//! What the node holds is observed at the start, after a failure and now and then, and kept in between, so that
//! attaching one NIC costs the same however many there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use multihome_control::Key;
use multihome_control::queue::Next;
use multihome_dataplane::{Counted, Dataplane, Ear, Rogue, StepError};
use multihome_dhcp::guard::server::{Doorkeeper, Passage};
use multihome_model::{IfName, NetworkType, PortSecurity, names};
use multihome_netlink::packet::{PacketSocket, filter};
use multihome_netlink::{Address, Capabilities, Link, Netns, Rtnl};
use multihome_plan::node::{
    Domain, Floating, Mirror, NodeInput, NodeNetwork, NodeNic, NodeState, Port, Remotes, Security, Service, Step,
    Uplink, UplinkKind, bridge_name, build, diff, remotes, simulate, tap_name,
};
use multihome_plan::policy::Members;
use tokio::runtime::Handle;

use crate::announce::{announce, announce_floating};
use crate::fabrics::OwnAddress;
use crate::management::Management;
use crate::policies::Policed;
use crate::trial::Trials;
use crate::{
    Agent, Config, Error, Work, dhcp, engine, fabrics, guarded, health, mirrors, networks, probes, settle, spec, trial,
};

/// How long what was observed is trusted.
const TRUST: Duration = Duration::from_secs(50);
/// How often it is looked whether the engine's daemons are those that were told.
const WATCH: Duration = Duration::from_secs(1);

struct Inner {
    engine: Box<dyn Dataplane>,
    rtnl: Rtnl,
    state: NodeState,
    /// When `state` was observed; `None` if it cannot be trusted.
    observed: Option<Instant>,
}

/// The engine and what it was seen to hold. All its work is blocking and done on threads for that.
#[derive(Clone)]
pub(crate) struct Plumbing {
    inner: Arc<Mutex<Inner>>,
    indexes: Arc<Mutex<HashMap<IfName, u32>>>,
    /// Addresses that servers of others gave, by the NIC's uid: in force before the resources say so.
    learnt: Arc<Mutex<HashMap<String, Passage>>>,
    /// Why mirrors that are to be are not.
    unmirrored: Arc<Mutex<BTreeMap<IfName, String>>>,
    /// What the last round of the whole plan could not do.
    said: Arc<Mutex<BTreeSet<String>>>,
    /// What is tried of the node's own devices, and what was taken back.
    pub(crate) trials: Arc<Trials>,
    pub(crate) management: Management,
    ear: Ear,
    /// The engine's name, what moves frames, and why it is this one.
    engine: (&'static str, &'static str, Arc<str>),
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a NIC from asking servers of others: its requests go no further than its port, as those to ours.
fn sate(port: &mut Port) {
    if port.dhcp4 == Service::Guarded {
        port.dhcp4 = Service::Served;
    }
}

impl Plumbing {
    /// Opens the engine.
    pub(crate) async fn open(config: &Config, capabilities: Capabilities, client: Client) -> Result<Self, Error> {
        let management = Management { remote: config.remote_api, client };
        let (trials, config) = (Arc::new(Trials::open(config)), config.clone());
        let (inner, why) = tokio::task::spawn_blocking(move || -> Result<(Inner, String), Error> {
            let engine::Chosen { engine, why } = engine::open(&config, &capabilities)?;
            Ok((Inner { engine, rtnl: Rtnl::open()?, state: NodeState::default(), observed: None }, why))
        })
        .await??;
        let (name, datapath) = inner.engine.name();
        tracing::info!("frames are moved by {name}, data path {datapath}: {why}");
        Ok(Self {
            ear: inner.engine.ear(),
            engine: (name, datapath, why.into()),
            inner: Arc::new(Mutex::new(inner)),
            indexes: Arc::default(),
            learnt: Arc::default(),
            unmirrored: Arc::default(),
            said: Arc::default(),
            trials,
            management,
        })
    }

    /// What the guard opens ports with: at once, because the guest is told next.
    pub(crate) fn doorkeeper(&self) -> Doorkeeper {
        let this = self.clone();
        Arc::new(move |nic, passage| tokio::task::block_in_place(|| this.let_pass(nic, passage)))
    }

    fn let_pass(&self, nic: &str, passage: &Passage) {
        let before = lock(&self.learnt).insert(nic.to_owned(), passage.clone()).unwrap_or_default();
        let mut inner = lock(&self.inner);
        let tap = tap_name(nic);
        let Some(mut port) = inner.state.ports.get(&tap).cloned() else { return };
        let Security::Strict { ipv4, ipv6, .. } = &mut port.security else { return };
        for a in before.addresses.difference(&passage.addresses) {
            match a {
                IpAddr::V4(a) => ipv4.remove(a),
                IpAddr::V6(a) => ipv6.remove(a),
            };
        }
        for a in &passage.addresses {
            match a {
                IpAddr::V4(a) => ipv4.insert(*a),
                IpAddr::V6(a) => ipv6.insert(*a),
            };
        }
        match (before.sated, passage.sated) {
            (false, true) => sate(&mut port),
            (true, false) => port.dhcp4 = Service::Guarded,
            _ => {}
        }
        for failure in self.run(&mut inner, &[Step::PutPort(tap, port)]) {
            tracing::warn!("{}", sentence(&failure));
        }
    }

    /// Forgets what servers of others gave a NIC.
    pub(crate) fn forget_learnt(&self, nic: &str) {
        lock(&self.learnt).remove(nic);
    }

    /// The plan's input with what the machine itself has against it.
    fn judged(&self, mut input: NodeInput) -> Result<NodeInput, Error> {
        self.trials.hold(&mut input)?;
        let trunks = input.networks.iter().filter(|n| n.spec.kind == NetworkType::VlanTrunk);
        let fabrics: BTreeSet<String> = trunks.map(|n| n.spec.fabric.clone()).collect();
        for fabric in fabrics {
            // A bond says for itself which of its devices it cannot have.
            let of = input.node.fabrics.get(&fabric).filter(|f| f.bond.is_none());
            let device = of.and_then(|f| f.device.clone());
            let why = lock(&self.inner).engine.why_no_trunks(device.as_ref());
            if let Some(reason) = why.map_err(|e| Error::Dataplane(e.to_string()))? {
                input.node.no_trunks.insert(fabric, reason);
            }
        }
        Ok(input)
    }

    /// What this node is to hold, by what is known of it.
    pub(crate) async fn input(&self, input: NodeInput) -> Result<NodeInput, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.judged(input)).await?
    }

    /// The plan with what servers of others gave NICs.
    fn planned(&self, mut input: NodeInput) -> NodeState {
        let learnt = lock(&self.learnt);
        let mut sated = vec![];
        for nic in &mut input.nics {
            let Some(passage) = learnt.get(&nic.uid) else { continue };
            nic.addresses.extend(&passage.addresses);
            sated.extend(passage.sated.then(|| tap_name(&nic.uid)));
        }
        let mut state = build(&input);
        for tap in sated {
            state.ports.get_mut(&tap).into_iter().for_each(sate);
        }
        state
    }

    /// What the node holds now.
    pub(crate) async fn observed(&self) -> Result<NodeState, Error> {
        let this = self.clone();
        let look = move || lock(&this.inner).engine.observe();
        tokio::task::spawn_blocking(look).await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// Makes the node hold what follows from what it holds now.
    pub(crate) async fn revert(
        &self,
        wanted: impl FnOnce(&NodeState) -> NodeState + Send + 'static,
    ) -> Result<(), Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            inner.state = inner.engine.observe().map_err(|e| Error::Dataplane(e.to_string()))?;
            let steps = diff(&inner.state, &wanted(&inner.state));
            let failures = this.run(&mut inner, &steps);
            inner.observed = None;
            told(failures)
        })
        .await?
    }

    /// The index of a tap that is in place.
    pub(crate) fn ifindex(&self, tap: &IfName) -> Option<u32> {
        lock(&self.indexes).get(tap).copied()
    }

    /// Makes the node hold what its input says, and nothing else of ours. Returns what failed.
    async fn apply_all(&self, input: NodeInput) -> Result<Vec<StepError>, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.apply(&this.planned(input))).await?
    }

    /// Makes the node hold one NIC, with the mirrors that lead from it and to it; its network comes along if it is not there yet.
    /// A mirror that fails hinders no NIC. `everything` is the whole input,
    /// computed only where it is needed. Returns whether it was: then the whole plan is due for a report.
    pub(crate) async fn attach(
        &self,
        nic: NodeNic,
        network: NodeNetwork,
        (policed, wished): (Policed, BTreeMap<IfName, Mirror>),
        everything: impl FnOnce() -> NodeInput + Send + 'static,
    ) -> Result<bool, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            // A plan with this NIC alone, on a network whose bridge stands as planned: only the NIC's own steps are left.
            let alone = this.planned(NodeInput {
                policies: policed.policy.map(|p| (nic.uid.clone(), p)).into_iter().collect(),
                members: policed.members,
                nics: vec![nic.clone()],
                networks: vec![network.clone()],
                ..Default::default()
            });
            let bridge = bridge_name(&network);
            // A fabric's bridge depends on everything that rides on it, and a NIC that may use any address changes what its
            // network's tunnel does.
            let simple = network.spec.kind != NetworkType::VlanTrunk && nic.security == PortSecurity::Strict;
            let stands =
                simple && inner.observed.is_some() && inner.state.bridges.get(&bridge) == alone.bridges.get(&bridge);
            if !stands {
                drop(inner);
                let everything = this.judged(everything())?;
                Handle::current().block_on(trial::before(&this, &everything))?;
                // What fails beside this NIC's own devices (an uplink that the kernel refuses, somebody else's NIC)
                // hinders it not: VMs of this node reach each other, and the network says what is wrong.
                let tap = tap_name(&nic.uid);
                let failures = this.apply(&this.planned(everything))?;
                let own = failures.into_iter().filter(|f| match &f.step {
                    Step::PutTap(name, _) | Step::PutPort(name, _) | Step::PutPolicy(name, _) => *name == tap,
                    Step::PutBridge(name, _) | Step::PutFabric(name, _) => *name == bridge,
                    _ => false,
                });
                return told(own.collect()).map(|()| true);
            }
            let tap = tap_name(&nic.uid);
            let mut mine = NodeState {
                taps: inner.state.taps.get(&tap).map(|t| (tap.clone(), t.clone())).into_iter().collect(),
                ports: inner.state.ports.get(&tap).map(|p| (tap.clone(), p.clone())).into_iter().collect(),
                policies: inner.state.policies.get(&tap).map(|p| (tap.clone(), p.clone())).into_iter().collect(),
                // Groups that others name as well stay.
                members: alone
                    .members
                    .keys()
                    .filter_map(|g| inner.state.members.get_key_value(g))
                    .map(|(g, m)| (g.clone(), m.clone()))
                    .collect(),
                ..Default::default()
            };
            let NodeState { taps, ports, policies, members, .. } = alone;
            let mut wanted = NodeState { taps, ports, policies, members, ..Default::default() };
            mirrors::add_around(&inner.state, &tap, wished, (&mut mine, &mut wanted));
            let steps = diff(&mine, &wanted);
            let failures = this.run(&mut inner, &steps);
            let own = failures.into_iter().filter(|f| !mirrors::is_mirror(&f.step)).collect();
            // One that did not end is looked at with the whole.
            told(own).map(|()| inner.observed.is_none())
        })
        .await?
    }

    /// The index of the device by which the node speaks on the wire that a bridge leads to.
    pub(crate) async fn wire_of(&self, bridge: &IfName) -> Option<u32> {
        let (this, bridge) = (self.clone(), bridge.clone());
        let find = move || {
            let mut inner = lock(&this.inner);
            let wire = |u: &Uplink| u.bridge == bridge && !matches!(u.kind, UplinkKind::Vxlan { .. });
            let name = inner.state.uplinks.iter().find(|(_, u)| wire(u)).map(|(n, _)| n.clone())?;
            let ear = inner.engine.ear()(&name, &bridge);
            inner.rtnl.index(ear.as_str()).ok()
        };
        tokio::task::spawn_blocking(find).await.ok()?
    }

    /// A packet socket on a device of a routing domain.
    pub(crate) async fn domain_socket(&self, domain: String, name: IfName) -> Result<PacketSocket, Error> {
        let this = self.clone();
        let open = move || lock(&this.inner).engine.domain_socket(&domain, &name, &filter::all());
        tokio::task::spawn_blocking(open).await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// A routing domain's namespace.
    pub(crate) async fn domain(&self, domain: String) -> Result<Netns, Error> {
        let this = self.clone();
        let open = move || lock(&this.inner).engine.domain(&domain);
        tokio::task::spawn_blocking(open).await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// Makes what a network's tunnel knows of other nodes true, where the tunnel is in place.
    pub(crate) async fn apply_remotes(&self, uplink: IfName, remotes: Remotes) -> Result<(), Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            let Some(there) = inner.state.uplinks.get(&uplink).cloned().filter(|_| inner.observed.is_some()) else {
                return Ok(());
            };
            let with = |remotes: Option<Remotes>| NodeState {
                uplinks: [(uplink.clone(), there.clone())].into(),
                remotes: remotes.into_iter().map(|r| (uplink.clone(), r)).collect(),
                ..Default::default()
            };
            let steps = diff(&with(inner.state.remotes.get(&uplink).cloned()), &with(Some(remotes)));
            told(this.run(&mut inner, &steps))
        })
        .await?
    }

    /// Makes what routing domains know of other nodes true, and what the tunnels of their networks know, where they are in place.
    /// Returns whether they are.
    pub(crate) async fn apply_domains(&self, (wanted, namespaces): (NodeState, Vec<String>)) -> Result<bool, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            if inner.observed.is_none() {
                return Ok(false);
            }
            let (mut before, mut after) = (NodeState::default(), NodeState::default());
            for ns in &namespaces {
                match (inner.state.domains.get(ns), wanted.domains.get(ns)) {
                    (Some(there), Some(wanted)) if there.peers == wanted.peers => {
                        let (router, routes) = (wanted.router.clone(), wanted.routes.clone());
                        before.domains.insert(ns.clone(), there.clone());
                        after.domains.insert(ns.clone(), Domain { router, routes, ..there.clone() });
                    }
                    (None, None) => {}
                    _ => return Ok(false),
                }
            }
            for (uplink, remotes) in wanted.remotes {
                let Some(there) = inner.state.uplinks.get(&uplink).cloned() else { return Ok(false) };
                before.remotes.extend(inner.state.remotes.get(&uplink).map(|r| (uplink.clone(), r.clone())));
                after.remotes.insert(uplink.clone(), remotes);
                before.uplinks.insert(uplink.clone(), there.clone());
                after.uplinks.insert(uplink, there);
            }
            let steps = diff(&before, &after);
            told(this.run(&mut inner, &steps)).map(|()| true)
        })
        .await?
    }

    /// Whether rules of this node name groups.
    pub(crate) fn names_groups(&self) -> bool {
        !lock(&self.inner).state.members.is_empty()
    }

    /// Makes these the members of the groups that rules of this node name.
    pub(crate) async fn apply_members(&self, members: Members) -> Result<(), Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            let there = inner.state.members.clone();
            let named = members.into_iter().filter(|(g, _)| there.contains_key(g)).collect::<Members>();
            let there = there.into_iter().filter(|(g, _)| named.contains_key(g)).collect();
            let with = |members: Members| NodeState { members, ..Default::default() };
            told(this.run(&mut inner, &diff(&with(there), &with(named))))
        })
        .await?
    }

    /// What was counted at the NICs of this node that have policies.
    pub(crate) async fn policy_counters(&self) -> Result<BTreeMap<IfName, Counted>, Error> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || lock(&this.inner).engine.policy_counters());
        found.await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// A device as it is, and its speed in Mbit/s; `None` where there is none.
    pub(crate) async fn look_at(&self, device: IfName) -> Result<Option<(Link, Option<u32>)>, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let link = lock(&this.inner).rtnl.link(device.as_str())?;
            let speed = multihome_netlink::speed(device.as_str()).ok().flatten();
            Ok(link.map(|l| (l, speed)))
        })
        .await?
    }

    /// The node's own addresses, but for those of devices that are made here; bonds count as the node's.
    pub(crate) async fn own_addresses(&self) -> Result<Vec<OwnAddress>, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            let links: HashMap<u32, Link> = inner.rtnl.links()?.into_iter().map(|l| (l.index, l)).collect();
            let own = |l: &Link| !l.name.starts_with("mh") || l.name.starts_with(names::BOND);
            let of = |a: Address| {
                let link = links.get(&a.index).filter(|l| l.up && own(l))?;
                Some(OwnAddress { device: link.name.clone(), mtu: link.mtu, carrier: link.carrier, address: a.ip })
            };
            Ok(inner.rtnl.addresses()?.into_iter().filter_map(of).collect())
        })
        .await?
    }

    /// The indexes of devices by name, where they are there.
    pub(crate) async fn indexes_of(&self, devices: Vec<IfName>) -> Result<HashMap<IfName, u32>, Error> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            let index = |d: IfName| inner.rtnl.index(d.as_str()).ok().map(|i| (d, i));
            devices.into_iter().filter_map(index).collect()
        });
        Ok(found.await?)
    }

    /// The engine's name, what moves frames, and why it is this one.
    pub(crate) fn engine(&self) -> (&'static str, &'static str, &str) {
        (self.engine.0, self.engine.1, &self.engine.2)
    }

    /// The device on which the node hears and speaks on an uplink.
    pub(crate) fn ear(&self, uplink: &IfName, bridge: &IfName) -> IfName {
        (self.ear)(uplink, bridge)
    }

    /// Opens a tap's queues.
    pub(crate) async fn open_tap(&self, tap: IfName, queues: u32) -> Result<Vec<OwnedFd>, Error> {
        let this = self.clone();
        let opened = tokio::task::spawn_blocking(move || lock(&this.inner).engine.open_tap(&tap, queues));
        opened.await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// Whether the engine's daemons forgot what they were told; then it is looked at again.
    async fn forgot(&self) -> Result<bool, Error> {
        let this = self.clone();
        let forgot = tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            // Before the first look nothing was told.
            let forgot = inner.observed.is_some() && !inner.engine.is_current();
            if forgot {
                inner.observed = None;
            }
            forgot
        });
        Ok(forgot.await?)
    }

    /// Logs what the last round did not say already.
    fn warn_once(&self, now: BTreeSet<String>) {
        let mut said = lock(&self.said);
        now.difference(&said).for_each(|text| tracing::warn!("{text}"));
        *said = now;
    }

    /// Taps whose guests pretended lately to be DHCP servers or routers, and were silenced.
    pub(crate) async fn rogues(&self) -> Result<BTreeSet<(IfName, Rogue)>, Error> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || lock(&this.inner).engine.rogues());
        found.await?.map_err(|e| Error::Dataplane(e.to_string()))
    }

    /// Reads the indexes of taps that were in place before this process started.
    async fn learn_indexes(&self) -> Result<(), Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut inner = lock(&this.inner);
            let missing: Vec<IfName> = {
                let known = lock(&this.indexes);
                inner.state.taps.keys().filter(|t| !known.contains_key(*t)).cloned().collect()
            };
            for tap in missing {
                if let Ok(i) = inner.rtnl.index(tap.as_str()) {
                    lock(&this.indexes).insert(tap, i);
                }
            }
        })
        .await?;
        Ok(())
    }

    fn apply(&self, desired: &NodeState) -> Result<Vec<StepError>, Error> {
        let mut inner = lock(&self.inner);
        if inner.observed.is_none_or(|t| t.elapsed() > TRUST) {
            inner.state = inner.engine.observe().map_err(|e| Error::Dataplane(e.to_string()))?;
            inner.observed = Some(Instant::now());
        }
        let steps = diff(&inner.state, desired);
        Ok(self.run(&mut inner, &steps))
    }

    fn run(&self, inner: &mut Inner, steps: &[Step]) -> Vec<StepError> {
        if steps.is_empty() {
            return vec![];
        }
        let fresh = |step: &Step| match step {
            Step::PutTap(name, tap) if !inner.state.taps.contains_key(name) => Some((name.clone(), tap.bridge.clone())),
            _ => None,
        };
        let fresh: Vec<_> = steps.iter().filter_map(fresh).collect();
        // Changing where one leads is nobody's business on its network.
        let same = |a: &Floating, b: &Floating| (&a.alias, a.mac, a.address) == (&b.alias, b.mac, b.address);
        let arrives = |step: &Step| match step {
            Step::PutFloating(ns, name, f) => {
                let there = inner.state.domains.get(ns).and_then(|d| d.floating.get(name));
                (!there.is_some_and(|t| same(t, f))).then(|| (ns.clone(), f.clone()))
            }
            _ => None,
        };
        let arrived: Vec<_> = steps.iter().filter_map(arrives).collect();
        let failures = inner.engine.apply(steps);
        for step in steps {
            simulate(&mut inner.state, step);
        }
        self.remember_indexes(inner, steps);
        for (domain, floating) in arrived {
            announce_floating(self, domain, &floating);
        }
        for (tap, bridge) in fresh {
            if let Some(Security::Strict { mac, .. }) = inner.state.ports.get(&tap).map(|p| &p.security) {
                announce(self, bridge, *mac);
            }
        }
        self.remember_mirrors(inner, steps, &failures);
        if failures.iter().any(|f| !matches!(f.step, Step::PutMirror(..))) {
            inner.observed = None;
        }
        failures
    }

    /// Which mirrors could not be made, and why. They are not there, and so are tried again with the next plan.
    fn remember_mirrors(&self, inner: &mut Inner, steps: &[Step], failures: &[StepError]) {
        let mut unmirrored = lock(&self.unmirrored);
        for step in steps {
            if let Step::PutMirror(name, _) | Step::DeleteMirror(name) = step {
                unmirrored.remove(name);
            }
        }
        for failure in failures {
            if let Step::PutMirror(name, _) = &failure.step {
                inner.state.mirrors.remove(name);
                unmirrored.insert(name.clone(), sentence(failure));
            }
        }
    }

    /// The mirrors that stand, and why others do not.
    pub(crate) async fn mirrors(&self) -> Result<(BTreeMap<IfName, Mirror>, BTreeMap<IfName, String>), Error> {
        let this = self.clone();
        let read = move || (lock(&this.inner).state.mirrors.clone(), lock(&this.unmirrored).clone());
        Ok(tokio::task::spawn_blocking(read).await?)
    }

    fn remember_indexes(&self, inner: &mut Inner, steps: &[Step]) {
        let mut indexes = lock(&self.indexes);
        for step in steps {
            match step {
                Step::PutTap(name, _) => {
                    if let Ok(i) = inner.rtnl.index(name.as_str()) {
                        indexes.insert(name.clone(), i);
                    }
                }
                Step::DeleteTap(name) => {
                    indexes.remove(name);
                }
                _ => {}
            }
        }
    }
}

/// A step's failure with its cause, as users read it.
pub(crate) fn sentence(failure: &StepError) -> String {
    format!("{failure}: {}", failure.error)
}

fn told(failures: Vec<StepError>) -> Result<(), Error> {
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::Dataplane(failures.iter().map(sentence).collect::<Vec<_>>().join("; ")))
}

/// Tells a network's tunnel which NICs other nodes carry: what a NIC elsewhere changes, and nothing else.
pub(crate) async fn reconcile_remotes(agent: &Agent, key: &Key) -> Next {
    let work = async {
        let change = spec::domain_change(&agent.world.read(), &agent.config.node, key);
        if let Some(wanted) = change {
            if !agent.plumbing.apply_domains(wanted).await? {
                agent.queue.push(Work::Node);
            }
            return Ok(Next::Wait);
        }
        let wanted = {
            let t = agent.world.read();
            let node = &agent.config.node;
            let Some(network) = spec::node_network(&t, key) else { return Ok(Next::Wait) };
            let mut here =
                t.nics_of_network(key).filter_map(|k| t.nics.get(k)).filter(|n| spec::carrier(n) == Some(node));
            let open = here.any(|n| n.spec.port_security == Some(PortSecurity::Promiscuous));
            remotes(&network, open, &spec::remote_nics(&t, node, key))
        };
        if let Some((uplink, wanted)) = wanted {
            agent.plumbing.apply_remotes(uplink, wanted).await?;
        }
        Ok(Next::Wait)
    };
    settle("what other nodes carry was not told", work.await)
}

/// Applies the whole plan of this node, and says on each network how that went.
pub(crate) async fn reconcile(agent: &Agent) -> Next {
    let work = async {
        let input = spec::node_input(&agent.world.read(), &agent.config.node);
        let input = agent.plumbing.input(input).await?;
        trial::before(&agent.plumbing, &input).await?;
        let failures = agent.plumbing.apply_all(input.clone()).await?;
        agent.plumbing.learn_indexes().await?;
        if agent.world.read().has_mirrors() {
            agent.queue.push(Work::Mirrors);
        }
        dhcp::sync_gateways(agent)?;
        guarded::sync_ears(agent, &input).await?;
        probes::sync(agent, &input).await?;
        health::sync(agent);
        networks::report(agent, &input, &failures).await?;
        fabrics::report(agent).await?;
        // What the kernel will refuse again is looked at with the next regular round.
        let (permanent, passing): (Vec<_>, Vec<_>) = failures.into_iter().partition(|f| f.error.is_permanent());
        agent.plumbing.warn_once(permanent.iter().map(sentence).collect());
        told(passing)?;
        Ok(Next::Wait)
    };
    settle("the node plan was not applied", work.await)
}

/// Applies the whole plan again as soon as the engine's daemons forgot it, for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    loop {
        tokio::time::sleep(WATCH).await;
        match agent.plumbing.forgot().await {
            Ok(true) => {
                tracing::warn!("Open vSwitch was restarted: it is told everything again");
                agent.queue.push(Work::Node);
            }
            Ok(false) => {}
            Err(e) => tracing::warn!("whether the data plane is as it was is not known: {e}"),
        }
    }
}
