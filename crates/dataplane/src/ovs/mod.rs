//! The engine of Open vSwitch: bridges, ports, VLANs and port security by ovs-vswitchd; everything else, which is not switching, by
//! the kernel's engine, of which it has one.
//!
//! A batch of steps is one transaction of the database and one bundle of flows per bridge. Bridges are ours by their name and by
//! what their row says of itself; nothing else is ever changed or removed. See `docs/concepts/engines.md`.

mod asks;
mod barrier;
mod database;
mod flows;
mod model;
mod observe;
mod policies;
mod policy;
mod program;
mod steps;
mod uplink;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use multihome_model::{BitRate, IfName, names};
use multihome_netlink::packet::{Insn, PacketSocket};
use multihome_netlink::{LinkChange, Netns, Offload, set_offload};
use multihome_ovsdb::Client;
use multihome_ovsdb::openflow::Seen;
use multihome_plan::node::{NodeState, Port, Step, diff};
use multihome_plan::policy::{Members, Policy};

use self::barrier::Barrier;
use self::database::{Database, Touched};
use self::model::{BridgeModel, Fact, PortModel};
use self::program::Program;
use crate::error::{Error, Result, StepError};
use crate::kernel::{self, Beside, Kernel, Rogue};

/// Where Debian's ovsdb-server listens; ovs-vswitchd's sockets are beside it.
pub const DATABASE: &str = "/var/run/openvswitch/db.sock";
/// How long Open vSwitch may take for an answer or a change.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a guest that pretended to be what it may not be is said to.
const ROGUE_FOR: Duration = Duration::from_secs(600);

/// What moves frames (ovs-vswitchd.conf.db(5), `datapath_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// The kernel's module `openvswitch`.
    System,
    /// ovs-vswitchd itself, in user space.
    Netdev,
}

impl Datapath {
    /// Its name in Open vSwitch.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }

    /// How ovs-vswitchd calls the one that all its bridges of this kind are in.
    fn path(self) -> &'static str {
        match self {
            Self::System => "system@ovs-system",
            Self::Netdev => "netdev@ovs-netdev",
        }
    }
}

/// How the engine works on this machine.
#[derive(Debug)]
pub struct Config {
    /// How the part works that is not switching.
    pub kernel: kernel::Config,
    /// The socket of ovsdb-server; those of bridges are in the same directory.
    pub database: PathBuf,
    /// What moves frames.
    pub datapath: Datapath,
}

/// Which bridges there are to be, by name.
type Model = BTreeMap<IfName, BridgeModel>;

/// The engine.
#[derive(Debug)]
pub struct Ovs {
    kernel: Kernel,
    datapath: Datapath,
    database: Database,
    program: Program,
    barrier: Barrier,
    /// What is in the database, and what will be after the next transaction.
    model: Model,
    touched: Touched,
    /// Facts of ports whose tap is not there.
    loose: BTreeMap<IfName, Port>,
    /// Policies of NICs whose tap is not there.
    loose_policies: BTreeMap<IfName, Policy>,
    /// How much is to reach the guests of taps that this batch makes or changes. Set last: whoever opens a device takes its queue away.
    shaping: BTreeMap<IfName, Option<BitRate>>,
    /// Who is in the groups that rules name.
    groups: Members,
    /// NICs with policies that cannot be kept: nothing leaves or reaches them.
    refused: BTreeSet<IfName>,
    /// How often each rogue was seen, and when it last was.
    rogues: HashMap<(IfName, Rogue), (u64, Option<Instant>)>,
}

/// Whether Open vSwitch runs: its database answers on a socket.
///
/// # Errors
/// Why not, in a sentence.
pub fn answers(database: &Path) -> Result<()> {
    let mut client = Client::new(database, "Open_vSwitch", TIMEOUT);
    client.transact(&multihome_ovsdb::Transaction::new())?;
    Ok(())
}

impl Ovs {
    /// Opens the engine. Nothing is changed yet.
    ///
    /// # Errors
    /// When the host's namespace cannot be worked in (root is needed).
    pub fn open(config: Config) -> Result<Self> {
        let directory = config.database.parent().unwrap_or(Path::new("/")).to_owned();
        let client = Client::new(&config.database, "Open_vSwitch", TIMEOUT);
        let barrier = Barrier::new(config.kernel.host.try_clone()?)?;
        let beside = Beside { bridges: HashMap::new(), plain: config.datapath == Datapath::Netdev };
        Ok(Self {
            kernel: Kernel::open_beside(config.kernel, beside)?,
            datapath: config.datapath,
            database: Database::new(client, config.datapath, TIMEOUT),
            program: Program::new(directory, config.datapath, TIMEOUT),
            barrier,
            model: Model::new(),
            touched: Touched::default(),
            loose: BTreeMap::new(),
            loose_policies: BTreeMap::new(),
            shaping: BTreeMap::new(),
            groups: Members::new(),
            refused: BTreeSet::new(),
            rogues: HashMap::new(),
        })
    }

    /// What moves frames.
    pub fn datapath(&self) -> Datapath {
        self.datapath
    }

    /// How many transactions the database was sent.
    pub fn transactions(&self) -> u64 {
        self.database.client.transactions()
    }

    /// Whether ovsdb-server and ovs-vswitchd are those that were told of everything: after a restart of either, what there is
    /// must be looked at again.
    pub fn is_current(&mut self) -> bool {
        self.database.is_current() && self.program.is_current()
    }

    /// Knows what is in the database.
    fn ensure_loaded(&mut self) -> Result<()> {
        if !self.database.is_current() {
            self.load()?;
        }
        Ok(())
    }

    /// Reads the database anew.
    fn load(&mut self) -> Result<()> {
        self.program.forget();
        self.barrier.forget();
        (self.model, self.groups) = self.database.load()?;
        self.group_addresses();
        self.touched = Touched::default();
        self.program.adopt(&self.model);
        let bridges = self.model.iter().flat_map(|(name, b)| b.ports.keys().map(|p| (p.clone(), name.clone())));
        self.kernel.beside().bridges = bridges.collect();
        Ok(())
    }

    /// The bridge that a port is on.
    fn bridge_of(&mut self, port: &str) -> Option<IfName> {
        self.kernel.beside().bridges.get(port).cloned()
    }

    /// Makes a port this, on this bridge and no other.
    fn put(&mut self, bridge: &IfName, name: &str, port: PortModel) {
        if self.bridge_of(name).is_some_and(|there| there != *bridge) {
            self.take(name);
        }
        let Some(there) = self.model.get_mut(bridge) else { return };
        there.put(name, port);
        self.kernel.beside().bridges.insert(name.to_owned(), bridge.clone());
        self.touched.ports.insert((bridge.clone(), name.to_owned()));
    }

    /// Takes a port off its bridge.
    fn take(&mut self, name: &str) -> Option<PortModel> {
        let bridge = self.kernel.beside().bridges.remove(name)?;
        self.touched.ports.insert((bridge.clone(), name.to_owned()));
        self.model.get_mut(&bridge)?.take(name)
    }

    /// Makes a bridge this.
    fn put_role(&mut self, name: &IfName, role: model::Role) {
        match self.model.get_mut(name) {
            Some(bridge) => bridge.role = role,
            None => drop(self.model.insert(name.clone(), BridgeModel::new(role))),
        }
        self.touched.bridges.insert(name.clone());
    }

    /// Removes a bridge with its ports.
    fn take_bridge(&mut self, name: &IfName) {
        let ports: Vec<String> = self.model.get(name).into_iter().flat_map(|b| b.ports.keys().cloned()).collect();
        for port in ports {
            self.take(&port);
        }
        self.model.remove(name);
        self.touched.bridges.insert(name.clone());
    }

    /// Makes everything that was touched true: the database, the bridges' own devices, and the flows.
    fn flush(&mut self) -> Result<()> {
        let committed = self.commit();
        let shaped = committed.and_then(|()| self.shape());
        self.release_lent().and(shaped)
    }

    /// Gives taps the queues that limit what reaches their guests.
    fn shape(&mut self) -> Result<()> {
        let all = std::mem::take(&mut self.shaping);
        all.into_iter().try_for_each(|(tap, rate)| self.kernel.shape_tap(&tap, rate))
    }

    /// The same, with devices of the node's own kept that are no port for a moment.
    fn commit(&mut self) -> Result<()> {
        if self.touched.is_empty() {
            return Ok(());
        }
        self.group_addresses();
        let touched = std::mem::take(&mut self.touched);
        let made = touched.bridges.iter().filter(|b| !self.database.has_bridge(b)).cloned().collect::<Vec<_>>();
        if let Err(error) = self.database.commit(&self.model, &self.groups, &touched) {
            // What was done of it is not known, or nothing was.
            let _ = self.load();
            return Err(error);
        }
        let bridges = &self.kernel.beside().bridges;
        self.loose.retain(|name, _| !bridges.contains_key(name.as_str()));
        self.loose_policies.retain(|name, _| !bridges.contains_key(name.as_str()));
        self.database.listen()?;
        for bridge in &touched.bridges {
            if self.model.contains_key(bridge) {
                self.set_up(bridge)?;
            }
        }
        made.iter().for_each(|bridge| self.program.made(bridge));
        self.program.open_zones(&self.model)?;
        let failed = self.program.sync(&self.model, &self.database, &touched);
        self.program.close_zones(&self.model)?;
        match failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => self.works(&touched),
        }
    }

    /// Whether ovs-vswitchd could do what was asked of it.
    fn works(&self, touched: &Touched) -> Result<()> {
        for (bridge, port) in &touched.ports {
            if self.model.get(bridge).is_none_or(|b| !b.ports.contains_key(port)) {
                continue;
            }
            if let Some(reason) = self.database.why_not(port) {
                return Err(Error::Unsupported { what: format!("port {port} of {bridge} by Open vSwitch"), reason });
            }
        }
        Ok(())
    }

    /// Sets a bridge's own device up: no IPv6 of the host's, up, and with the name that people know.
    fn set_up(&mut self, bridge: &IfName) -> Result<()> {
        self.kernel.silence(bridge.as_str())?;
        let alias = self.model.get(bridge).map(|b| model::alias(&b.role).to_owned()).unwrap_or_default();
        let change = LinkChange { alias: Some(&alias), up: Some(true), ..LinkChange::default() };
        Ok(self.kernel.rtnl().change_named(bridge.as_str(), &change)?)
    }

    /// Carries out steps that belong together in one transaction. If that is refused, each half by itself, so that the one that
    /// cannot be done hinders no other.
    fn batch(&mut self, steps: &[Step]) -> Vec<StepError> {
        let mut failed: Vec<StepError> = Vec::new();
        for step in steps {
            if self.has_no_successor(step, &failed) {
                continue;
            }
            if let Err(error) = self.step(step) {
                tracing::debug!(?step, %error, "step failed");
                failed.push(StepError { step: step.clone(), error });
            }
        }
        let Err(error) = self.flush() else { return failed };
        let left: Vec<Step> = steps.iter().filter(|s| !failed.iter().any(|f| f.step == **s)).cloned().collect();
        let retry = !matches!(&error, Error::Vswitch(e) if e.is_gone());
        match left.as_slice() {
            [] => failed,
            [one] => {
                failed.push(StepError { step: one.clone(), error });
                failed
            }
            many if retry => {
                let (first, second) = many.split_at(many.len() / 2);
                failed.extend(self.batch(first));
                failed.extend(self.batch(second));
                failed
            }
            many => {
                // Nobody is there: said once, of the first step that needs him.
                let step = many.iter().find(|s| steps::switches(s)).unwrap_or(&many[0]).clone();
                failed.push(StepError { step, error });
                failed
            }
        }
    }

    /// Whether a step removes an uplink in whose place there is nothing, because that failed.
    fn has_no_successor(&mut self, step: &Step, failed: &[StepError]) -> bool {
        let Step::DeleteUplink(name) = step else { return false };
        let of = self.uplink_bridge(name);
        failed.iter().any(|f| matches!(&f.step, Step::PutUplink(_, u) if Some(&u.bridge) == of.as_ref()))
    }

    /// The counters of strict NICs, by bridge.
    fn counters(&mut self) -> Result<Vec<(IfName, u32, Vec<Seen>)>> {
        self.ensure_loaded()?;
        let mut all = Vec::new();
        for (name, bridge) in self.model.iter().filter(|(_, b)| b.ports.values().any(|p| p.fact.counts())) {
            let mut by_flow: HashMap<u64, Vec<Seen>> = HashMap::new();
            for seen in self.program.seen(name, None)? {
                if [flows::REFUSE, flows::ROGUE].contains(&seen.table) {
                    by_flow.entry(seen.cookie).or_default().push(seen);
                }
            }
            for (port, _) in bridge.ports.iter().filter(|(_, p)| p.fact.counts()) {
                let Some(number) = self.database.interface(port).and_then(|i| i.port) else { continue };
                let Ok(tap) = IfName::new(port.as_str()) else { continue };
                let own =
                    flows::counters(number).into_iter().flat_map(|f| by_flow.remove(&f.cookie()).unwrap_or_default());
                all.push((tap, number, own.collect()));
            }
        }
        Ok(all)
    }

    /// How many frames of each NIC were dropped because it may not send them, since its port got its flows.
    ///
    /// # Errors
    /// When a bridge cannot be asked.
    pub fn drops(&mut self) -> Result<BTreeMap<IfName, u64>> {
        let of = |number: u32, seen: &[Seen]| {
            let flow = flows::refused(number);
            seen.iter().find(|s| s.is(&flow)).map_or(0, |s| s.packets)
        };
        Ok(self.counters()?.into_iter().map(|(tap, number, seen)| (tap, of(number, &seen))).collect())
    }

    /// The NICs whose guests pretended in the last ten minutes to be what they may not be. Their frames were dropped.
    ///
    /// # Errors
    /// When a bridge cannot be asked.
    pub fn rogues(&mut self) -> Result<BTreeSet<(IfName, Rogue)>> {
        let now = Instant::now();
        let mut found = BTreeSet::new();
        let mut kept = HashMap::new();
        for (tap, number, seen) in self.counters()? {
            for (rogue, flow) in flows::rogues(number) {
                let Some(seen) = seen.iter().find(|s| s.is(&flow)) else { continue };
                let key = (tap.clone(), rogue);
                let (before, last) = self.rogues.remove(&key).unwrap_or((0, None));
                let since = Duration::from_secs(seen.idle.into());
                let last = if seen.packets > before { now.checked_sub(since) } else { last };
                if seen.packets > 0 && last.is_some_and(|l| now.duration_since(l) < ROGUE_FOR) {
                    found.insert(key.clone());
                }
                kept.insert(key, (seen.packets, last));
            }
        }
        self.rogues = kept;
        Ok(found)
    }

    /// Opens a tap's queues, to be handed to QEMU.
    ///
    /// # Errors
    /// As [`Kernel::open_tap`].
    pub fn open_tap(&self, name: &IfName, queues: u32) -> Result<Vec<OwnedFd>> {
        self.kernel.open_tap(name, queues)
    }

    /// Opens a packet socket on a device of the host's namespace, for example on a tap.
    ///
    /// # Errors
    /// As [`Kernel::packet_socket`].
    pub fn packet_socket(&mut self, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        self.kernel.packet_socket(name, filter)
    }

    /// Removes everything of ours from the node and from the database. Returns what could not be removed.
    pub fn teardown(&mut self) -> Vec<StepError> {
        use crate::Engine;
        let mut failed = match self.observe() {
            Ok(observed) => self.apply(&diff(&observed, &NodeState::default())),
            Err(error) => vec![StepError { step: Step::DeleteDomain(names::NETNS.into()), error }],
        };
        let leftover: Vec<IfName> = self.model.keys().cloned().collect();
        leftover.iter().for_each(|bridge| self.take_bridge(bridge));
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        groups.iter().for_each(|group| self.put_members(group, None));
        let flushed = self.flush();
        for result in self.kernel.put_all_back().into_iter().chain([flushed, self.barrier.remove()]) {
            if let Err(error) = result {
                tracing::warn!(%error, "teardown is incomplete");
                failed.push(StepError { step: Step::DeleteDomain(names::NETNS.into()), error });
            }
        }
        failed
    }

    /// Makes a device of the host's namespace hand over frames as they are on the wire, where a program takes them.
    fn make_plain(&mut self, device: &IfName, which: &[Offload]) -> Result<()> {
        if self.datapath != Datapath::Netdev {
            return Ok(());
        }
        let off = || -> multihome_netlink::Result<()> {
            for which in which {
                match set_offload(device.as_str(), *which, false) {
                    Err(e) if e.is_unsupported() => {}
                    other => other?,
                }
            }
            Ok(())
        };
        Ok(self.kernel.config().host.run(off)??)
    }
}

impl Fact {
    /// Whether what it may not say is counted.
    fn counts(&self) -> bool {
        use multihome_plan::node::Security;
        let strict = |p: &Port| matches!(p.security, Security::Strict { .. } | Security::Trunk(Some(_)));
        matches!(self, Self::Nic { port: Some(port), .. } if strict(port))
    }
}

impl crate::Engine for Ovs {
    fn observe(&mut self) -> Result<NodeState> {
        self.observed()
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<StepError> {
        let Some(first) = steps.first() else { return vec![] };
        let ready = self.ensure_loaded().and_then(|()| self.barrier.ensure());
        match ready {
            Ok(()) => self.batch(steps),
            Err(error) => vec![StepError { step: first.clone(), error }],
        }
    }
}

impl crate::Dataplane for Ovs {
    fn name(&self) -> (&'static str, &'static str) {
        ("openvswitch", self.datapath.name())
    }

    fn is_current(&mut self) -> bool {
        Self::is_current(self)
    }

    fn why_no_trunks(&mut self, device: Option<&IfName>) -> Result<Option<String>> {
        Ovs::why_no_trunks(self, device)
    }

    fn ear(&self) -> crate::Ear {
        // A VLAN of a device is no device here: the network's bridge lets the node hear and speak.
        |uplink, bridge| match kernel::is_ours(uplink.as_str(), names::VLAN) {
            true => bridge.clone(),
            false => uplink.clone(),
        }
    }

    fn open_tap(&self, name: &IfName, queues: u32) -> Result<Vec<OwnedFd>> {
        Ovs::open_tap(self, name, queues)
    }

    fn packet_socket(&mut self, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        Ovs::packet_socket(self, name, filter)
    }

    fn domain_socket(&self, domain: &str, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        self.kernel.domain_socket(domain, name, filter)
    }

    fn domain(&self, domain: &str) -> Result<Netns> {
        self.kernel.domain(domain)
    }

    fn drops(&mut self) -> Result<BTreeMap<IfName, u64>> {
        Ovs::drops(self)
    }

    fn rogues(&mut self) -> Result<BTreeSet<(IfName, Rogue)>> {
        Ovs::rogues(self)
    }

    fn policy_counters(&mut self) -> Result<BTreeMap<IfName, crate::Counted>> {
        Ovs::policy_counters(self)
    }

    fn teardown(&mut self) -> Vec<StepError> {
        Ovs::teardown(self)
    }
}
