//! What can go wrong with a VM, told so that the caller knows whether to try again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a VM, its guest or an image failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or file operation failed.
    #[error("cannot {op} {subject}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file, socket or program that it was done to.
        subject: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] multihome_netlink::Error),
    /// The VM's specification cannot be carried out.
    #[error("{0}")]
    Invalid(String),
    /// QEMU ended before it was ready; the text is what it said.
    #[error("QEMU ended at its start: {0}")]
    StartFailed(String),
    /// QEMU is running already in this directory.
    #[error("VM {0} runs already")]
    Running(String),
    /// There is no running QEMU for this directory.
    #[error("no QEMU runs for {}", .0.display())]
    NotRunning(PathBuf),
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {text}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// QEMU's error class, for example `DeviceNotFound`.
        class: String,
        /// QEMU's text.
        text: String,
    },
    /// An answer did not come in time.
    #[error("no answer to {what} within {} s", .after.as_secs_f32())]
    Timeout {
        /// What was asked.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The other side closed the connection.
    #[error("the connection to {0} is closed")]
    Closed(&'static str),
    /// An answer could not be understood.
    #[error("{from} gave an answer that cannot be understood: {what}")]
    Malformed {
        /// Who answered.
        from: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The guest agent refused a command.
    #[error("the guest agent refused {command}: {text}")]
    Agent {
        /// The agent's command.
        command: String,
        /// The agent's error class.
        class: String,
        /// The agent's text.
        text: String,
    },
    /// The guest did not let go of a device.
    #[error("the guest did not release NIC {nic} within {} s (no ACPI hot-plug support, or it is still booting)", .after.as_secs_f32())]
    UnplugIgnored {
        /// The NIC.
        nic: String,
        /// How long was waited.
        after: Duration,
    },
    /// An image is not in the store; the text has the command that would import it.
    #[error("image {name} is not in the local image store; import it with `{command}`")]
    ImageMissing {
        /// The image's name as it was asked for.
        name: String,
        /// The exact command that imports it.
        command: String,
    },
    /// An external program failed.
    #[error("{program} failed: {text}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        text: String,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, subject: impl ToString, source: io::Error) -> Self {
        Self::Io { op, subject: subject.to_string(), source }
    }

    /// Whether the same call may succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Closed(_) | Self::UnplugIgnored { .. })
    }

    /// Whether the thing asked for is not there: a device QEMU does not know, a VM not running,
    /// an image not in the store.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Qmp { class, .. } => class == "DeviceNotFound",
            Self::NotRunning(_) | Self::ImageMissing { .. } => true,
            Self::Kernel(e) => e.is_missing(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
