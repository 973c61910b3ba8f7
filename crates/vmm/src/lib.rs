//! Virtual machines: QEMU processes, the machine protocol, the guest agent, and the local image store.
//!
//! A VM is started in a session of its own and outlives the process that started it; [`Vm::attach`]
//! finds it again. QEMU runs as a user of its own inside its seccomp sandbox, and is handed every
//! file, socket and tap as an open descriptor, so that this user needs access to nothing.
//! Nothing here decides what a VM should look like, or knows what a network is.

mod accel;
mod agent;
mod command;
mod error;
mod guestnet;
pub mod images;
mod medium;
mod nic;
mod qmp;
mod spec;
mod user;
mod vm;

pub use accel::{Acceleration, Accelerator, probe_accelerator};
pub use agent::{AgentInfo, GuestAgent, Output};
pub use error::{Error, Result};
pub use guestnet::{GuestInterface, GuestRoute};
pub use nic::VmNic;
pub use qmp::{Event, FdSet, Qmp};
pub use spec::{DEFAULT_PORTS, Disk, DiskFormat, KernelBoot, MAX_PORTS, NicAttachment, NicModel, NicSpec, VmSpec};
pub use user::{USER, User, ensure as ensure_user};
pub use vm::{Ending, Files, Vm, VmmConfig, remove};
