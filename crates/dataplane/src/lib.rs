//! Applies node plans: engines that observe what a node holds of ours and carry out steps on it.
//!
//! What there should be is decided in the crate `plan`; here it is done. Every step is idempotent,
//! a step that fails hinders no other, and devices that are right already are not touched, so that a
//! restart loses no packet. Calls block on the kernel and on nothing else: from an event loop, make
//! them on a thread that may block.

use multihome_plan::node::{NodeState, Step};

mod error;
pub mod kernel;

pub use error::{Error, Result, StepError};

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
