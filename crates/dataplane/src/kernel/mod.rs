//! The engine that every Linux machine has: bridges, taps, VXLAN and VLAN devices, network
//! namespaces, and nftables.
//!
//! A device is ours if its name is one of our prefixes and eleven hex digits and it is of the kind
//! that the prefix says; nothing else is ever changed or removed.

mod bandwidth;
mod bond;
pub(crate) mod bridge;
mod domain;
mod fabric;
mod floating;
mod mirror;
mod mtu;
mod notes;
mod observe;
pub(crate) mod overlay;
mod policy;
mod policy_route;
mod private;
mod returns;
mod router;
mod security;
mod sets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use multihome_model::{BitRate, IfName, names};
use multihome_netlink::nft::Nft;
use multihome_netlink::packet::{Insn, PacketSocket};
use multihome_netlink::{Capabilities, Capability, Idempotent, Link, Netns, Rtnl};
use multihome_plan::node::{NodeState, Port, Remotes, Step, diff};

pub(crate) use self::bandwidth::BURST;
pub use self::policy::Counted;
pub use self::security::Rogue;
use crate::error::{Error, Result, StepError};

/// How the engine works on this machine.
#[derive(Debug)]
pub struct Config {
    /// The namespace that bridges and taps live in: the host's own.
    pub host: Netns,
    /// Put before the names of routing domains' namespaces; empty but where several engines share one
    /// machine, as tests do.
    pub netns_prefix: String,
    /// Where it is noted what must be put back in the end; survives restarts, not reboots.
    pub state_dir: PathBuf,
    /// The user id that may open taps; they are opened by us and handed over, so usually none.
    pub tap_owner: Option<u32>,
    /// What this machine's kernel can do.
    pub capabilities: Capabilities,
}

/// The engine.
#[derive(Debug)]
pub struct Kernel {
    config: Config,
    rtnl: Rtnl,
    nft: Nft,
    /// The facts in the tables, once read; every later change goes through here.
    ports: Option<BTreeMap<IfName, Port>>,
    /// What VXLAN uplinks know, once read; every later change goes through here.
    remotes: Option<BTreeMap<IfName, Remotes>>,
    /// What the table of policies holds, once read; every later change goes through here.
    policies: Option<policy::Known>,
    /// How much guests may send that may not send anything, once read; every later change goes through here.
    rates: Option<BTreeMap<IfName, BitRate>>,
    /// The tables are loaded: known for certain, because we did it or looked.
    tables: bool,
    /// Where another engine has the bridges, and this one the rest.
    beside: Option<Beside>,
}

/// What another engine has, for which this one makes devices that it does not plug in anywhere.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Which bridge each device is a port of.
    pub(crate) bridges: HashMap<String, IfName>,
    /// Whether frames pass through a program, which must have them as they are on the wire: no checksums and no segments that
    /// are left to somebody else.
    pub(crate) plain: bool,
}

/// A kernel device's name after a prefix: eleven hex digits.
pub(crate) fn is_ours(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|hash| hash.len() == 11 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Kernel {
    /// Opens the engine. Nothing is changed yet.
    ///
    /// # Errors
    /// When the host's namespace cannot be worked in (root is needed).
    pub fn open(config: Config) -> Result<Self> {
        let rtnl = Rtnl::open_in(&config.host)?;
        let nft = Nft::open_in(&config.host)?;
        Ok(Self {
            config,
            rtnl,
            nft,
            ports: None,
            remotes: None,
            policies: None,
            rates: None,
            tables: false,
            beside: None,
        })
    }

    /// Opens it as the part of another engine, which has the bridges.
    ///
    /// # Errors
    /// As [`Kernel::open`].
    pub(crate) fn open_beside(config: Config, beside: Beside) -> Result<Self> {
        Ok(Self { beside: Some(beside), ..Self::open(config)? })
    }

    /// The other engine's bridges: kept up to date by it.
    pub(crate) fn beside(&mut self) -> &mut Beside {
        self.beside.get_or_insert_default()
    }

    /// Looks at and changes devices of the host's namespace.
    pub(crate) fn rtnl(&mut self) -> &mut Rtnl {
        &mut self.rtnl
    }

    /// How the engine works.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What this machine's kernel can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.config.capabilities
    }

    fn require(&self, capability: Capability, what: impl FnOnce() -> String) -> Result<()> {
        self.config
            .capabilities
            .check(capability)
            .map_err(|reason| Error::Unsupported { what: what(), reason: reason.to_owned() })
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::CreateDomain(ns) => self.create_domain(ns).map(drop),
            Step::DeleteDomain(ns) => self.delete_domain(ns),
            Step::PutBond(name, bond) => self.put_bond(name, bond),
            Step::DeleteBond(name) => self.delete_bond(name),
            Step::PutFabric(name, fabric) => self.put_fabric(name, fabric),
            Step::DeleteFabric(name) => self.delete_fabric(name),
            Step::PutBridge(name, bridge) => self.put_bridge(name, bridge),
            Step::PutUplink(name, uplink) => self.put_uplink(name, uplink),
            Step::PutFlood(name, flood) => self.put_flood(name, flood),
            Step::PutRemote(name, mac, remote) => self.put_remote(name, *mac, Some(remote)),
            Step::DeleteRemote(name, mac) => self.put_remote(name, *mac, None),
            Step::PutLeg(ns, name, leg) => self.put_leg(ns, name, leg),
            Step::PutEgress(ns, egress) => self.put_egress(ns, egress),
            Step::DeleteEgress(ns, host) => self.delete_egress(ns, host),
            Step::PutRouter(ns, router) => self.put_router(ns, router),
            Step::DeleteRouter(ns, name) | Step::DeletePeering(ns, name) => self.delete_inside(ns, name),
            Step::PutPeering(peering) => self.put_peering(peering),
            Step::PutFloating(ns, name, floating) => self.put_floating(ns, name, floating),
            Step::DeleteFloating(ns, name) => self.delete_floating(ns, name),
            Step::PutReturns(ns, returns) => self.put_returns(ns, returns),
            Step::PutRoute(ns, to, via) => self.put_route(ns, *to, via),
            Step::DeleteRoute(ns, to) => self.delete_route(ns, *to),
            Step::PutPolicyRoutes(ns, routes) => self.put_policy_routes(ns, routes),
            Step::PutPort(name, port) => self.put_port(name, Some(port)),
            Step::DeletePort(name) => self.put_port(name, None),
            Step::PutMembers(group, members) => self.put_members(group, members),
            Step::DeleteMembers(group) => self.delete_members(group),
            Step::PutPolicy(name, policy) => self.put_policy(name, policy),
            Step::DeletePolicy(name) => self.delete_policy(name),
            Step::PutTap(name, tap) => self.put_tap(name, tap),
            Step::DeleteUplink(name) => self.delete_uplink(name),
            Step::DeleteTap(name) => {
                self.limit_egress(name, None)?;
                self.delete_device(name)
            }
            Step::PutMirror(name, mirror) => self.put_mirror(name, mirror),
            Step::DeleteMirror(name) => self.delete_mirror(name),
            Step::DeleteBridge(name) => self.delete_device(name),
            Step::DeleteLeg(ns, name) => self.delete_leg(ns, name),
        }
    }

    /// Whether a step removes an uplink in whose place there is nothing, because that failed.
    fn has_no_successor(&mut self, step: &Step, failed: &[StepError]) -> bool {
        let Step::DeleteUplink(name) = step else { return false };
        let mut bridges = failed.iter().filter_map(|f| match &f.step {
            Step::PutUplink(_, uplink) => Some(&uplink.bridge),
            _ => None,
        });
        let Some(of) = self.rtnl.link(name.as_str()).ok().flatten().map(|l| l.master) else { return false };
        bridges.any(|b| self.rtnl.index(b.as_str()).is_ok_and(|index| index == of))
    }

    pub(crate) fn delete_device(&mut self, name: &IfName) -> Result<()> {
        self.rtnl.delete(name.as_str()).unless_missing()?;
        Ok(())
    }

    /// The link of a name, which must be of a kind if it is there.
    pub(crate) fn expect(&mut self, name: &IfName, kind: &str) -> Result<Option<Link>> {
        match self.rtnl.link(name.as_str())? {
            Some(link) if link.kind != kind => {
                let kind = if link.kind.is_empty() { "physical device".into() } else { link.kind };
                Err(Error::Foreign { name: name.to_string(), kind })
            }
            link => Ok(link),
        }
    }

    /// A tap as it is made and opened. Its frames carry a header for offloads, unless they are to be plain.
    fn tap<'a>(&self, name: &'a IfName, queues: u32) -> multihome_netlink::Tap<'a> {
        let vnet_hdr = self.beside.as_ref().is_none_or(|b| !b.plain);
        multihome_netlink::Tap { name: name.as_str(), multi_queue: queues > 1, vnet_hdr }
    }

    /// Opens a tap's queues, to be handed to QEMU.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such tap; `EBUSY` if somebody has it.
    pub fn open_tap(&self, name: &IfName, queues: u32) -> Result<Vec<OwnedFd>> {
        let tap = self.tap(name, queues);
        let open = || (0..queues.max(1)).map(|_| tap.open()).collect::<Result<Vec<_>, _>>();
        Ok(self.config.host.run(open)??)
    }

    /// Opens a packet socket on a device of the host's namespace, for example on a tap, where it sees
    /// what the guest sends before the bridge and its filters do.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such device.
    pub fn packet_socket(&mut self, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        let index = self.rtnl.index(name.as_str())?;
        Ok(self.config.host.run(|| PacketSocket::open(index, filter))??)
    }

    /// Opens a packet socket on a device of a routing domain.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such domain or device.
    pub fn domain_socket(&self, domain: &str, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        let netns = Netns::open(&self.netns_name(domain))?;
        let index = Rtnl::open_in(&netns)?.index(name.as_str())?;
        Ok(netns.run(|| PacketSocket::open(index, filter))??)
    }

    /// A routing domain's namespace.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such domain.
    pub fn domain(&self, domain: &str) -> Result<Netns> {
        Ok(Netns::open(&self.netns_name(domain))?)
    }

    /// Removes what no step does.
    pub(crate) fn put_all_back(&mut self) -> [Result<()>; 4] {
        [self.release_forwarding(), self.delete_tables(), self.delete_policies(), self.delete_bandwidth()]
    }

    /// Removes everything of ours from the node: devices, namespaces, tables, and changed kernel
    /// parameters. Returns what could not be removed.
    pub fn teardown(&mut self) -> Vec<StepError> {
        use crate::Engine;
        let mut failed = Vec::new();
        match self.observe() {
            Ok(observed) => {
                failed = self.apply(&diff(&observed, &NodeState::default()));
            }
            Err(error) => {
                let step = Step::DeleteDomain(names::NETNS.into());
                failed.push(StepError { step, error });
            }
        }
        for result in self.put_all_back() {
            if let Err(error) = result {
                tracing::warn!(%error, "teardown is incomplete");
                let step = Step::DeleteDomain(names::NETNS.into());
                failed.push(StepError { step, error });
            }
        }
        failed
    }
}

impl crate::Engine for Kernel {
    fn observe(&mut self) -> Result<NodeState> {
        self.observed()
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<StepError> {
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
        failed
    }
}

impl crate::Dataplane for Kernel {
    fn name(&self) -> (&'static str, &'static str) {
        ("kernel", "kernel")
    }

    fn is_current(&mut self) -> bool {
        true
    }

    fn why_no_trunks(&mut self, device: Option<&IfName>) -> Result<Option<String>> {
        Kernel::why_no_trunks(self, device)
    }

    fn ear(&self) -> crate::Ear {
        |uplink, _| uplink.clone()
    }

    fn open_tap(&self, name: &IfName, queues: u32) -> Result<Vec<OwnedFd>> {
        Kernel::open_tap(self, name, queues)
    }

    fn packet_socket(&mut self, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        Kernel::packet_socket(self, name, filter)
    }

    fn domain_socket(&self, domain: &str, name: &IfName, filter: &[Insn]) -> Result<PacketSocket> {
        Kernel::domain_socket(self, domain, name, filter)
    }

    fn domain(&self, domain: &str) -> Result<Netns> {
        Kernel::domain(self, domain)
    }

    fn drops(&mut self) -> Result<BTreeMap<IfName, u64>> {
        Kernel::drops(self)
    }

    fn rogues(&mut self) -> Result<BTreeSet<(IfName, Rogue)>> {
        Kernel::rogues(self)
    }

    fn policy_counters(&mut self) -> Result<BTreeMap<IfName, Counted>> {
        Kernel::policy_counters(self)
    }

    fn teardown(&mut self) -> Vec<StepError> {
        Kernel::teardown(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_ours("mhb0123456789a", names::BRIDGE));
        for other in ["mhb", "mhb0123456789", "mhbridge-of-xyz", "mht0123456789a", "mhb0123456789g"] {
            assert!(!is_ours(other, names::BRIDGE), "{other}");
        }
    }
}
