//! Applies node plans: engines that observe what a node holds of ours and carry out steps on it.
//!
//! What there should be is decided in the crate `plan`; here it is done. Every step is idempotent,
//! a step that fails hinders no other, and devices that are right already are not touched, so that a
//! restart loses no packet. Calls block on the kernel and on nothing else: from an event loop, make
//! them on a thread that may block.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use multihome_model::IfName;
use multihome_netlink::Netns;
use multihome_netlink::packet::{Insn, PacketSocket};
use multihome_plan::node::{NodeState, Step};

mod error;
pub mod kernel;
pub mod ovs;

pub use error::{Error, Result, StepError};
pub use kernel::{Counted, Rogue};

/// Something that can hold a node plan: the Linux kernel, Open vSwitch, OVN.
pub trait Engine: Send {
    /// What the node holds of ours now. A thing that is there but not as it must be in a way that
    /// [`NodeState`] has no words for (a bridge that is down) is reported with an empty alias, so that
    /// the next diff mends it.
    ///
    /// # Errors
    /// When the node cannot be looked at.
    fn observe(&mut self) -> Result<NodeState>;

    /// Carries out steps in order; one that fails hinders no other. Returns what failed.
    fn apply(&mut self, steps: &[Step]) -> Vec<StepError>;
}

/// The device on which the node hears and speaks on a network's uplink by packet sockets, from the names of the uplink and of the
/// network's bridge.
pub type Ear = fn(&IfName, &IfName) -> IfName;

/// What the agent of a node asks of an engine beside steps.
pub trait Dataplane: Engine + std::fmt::Debug {
    /// Its name, and what moves frames, as the Node shows them.
    fn name(&self) -> (&'static str, &'static str);

    /// Whether what was last observed and applied still stands, as far as the engine can tell without looking at everything:
    /// `false` after a restart of a daemon that forgets.
    fn is_current(&mut self) -> bool;

    /// Why this node can carry no trunks by a device, or without one, if so: a sentence's end.
    ///
    /// # Errors
    /// When the node cannot be looked at.
    fn why_no_trunks(&mut self, device: Option<&IfName>) -> Result<Option<String>>;

    /// How the node itself hears and speaks on networks' uplinks.
    fn ear(&self) -> Ear;

    /// Opens a tap's queues, to be handed to QEMU.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such tap; `EBUSY` if somebody has it.
    fn open_tap(&self, name: &IfName, queues: u32) -> Result<Vec<OwnedFd>>;

    /// Opens a packet socket on a device of the host's namespace, for example on a tap, where it sees what the guest sends
    /// before bridge and filters do.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such device.
    fn packet_socket(&mut self, name: &IfName, filter: &[Insn]) -> Result<PacketSocket>;

    /// Opens a packet socket on a device of a routing domain, for example on the end of a floating address inside.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such domain or device.
    fn domain_socket(&self, domain: &str, name: &IfName, filter: &[Insn]) -> Result<PacketSocket>;

    /// A routing domain's namespace, for sockets of the node's own in it.
    ///
    /// # Errors
    /// [`multihome_netlink::Error::is_missing`] if there is no such domain.
    fn domain(&self, domain: &str) -> Result<Netns>;

    /// How many frames of each NIC were dropped because it may not send them.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn drops(&mut self) -> Result<BTreeMap<IfName, u64>>;

    /// The NICs whose guests pretended in the last ten minutes to be what they may not be. Their frames were dropped.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn rogues(&mut self) -> Result<BTreeSet<(IfName, Rogue)>>;

    /// What was counted at each NIC with policies, since it has them.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn policy_counters(&mut self) -> Result<BTreeMap<IfName, Counted>>;

    /// Removes everything of ours from the node. Returns what could not be removed.
    fn teardown(&mut self) -> Vec<StepError>;
}
