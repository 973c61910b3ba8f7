//! What can go wrong between us and Open vSwitch.

use std::path::Path;

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why Open vSwitch did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers on the socket, or he hung up.
    #[error("cannot speak with Open vSwitch on {path}: {source}; is it running?")]
    Gone {
        /// The socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// He is there, but did not answer in time.
    #[error("Open vSwitch did not answer on {path} within {seconds} s: {what}")]
    Silent {
        /// The socket.
        path: String,
        /// How long was waited, in seconds.
        seconds: u64,
        /// What was asked for.
        what: &'static str,
    },
    /// What he says is not what the protocol allows.
    #[error("Open vSwitch said what cannot be understood on {path}: {what}")]
    Nonsense {
        /// The socket.
        path: String,
        /// What it was.
        what: String,
    },
    /// The database refused a transaction, and changed nothing (RFC 7047 section 4.1.3).
    #[error("Open vSwitch's database refused: {error}{}{details}", if .details.is_empty() { "" } else { ": " })]
    Refused {
        /// The kind, such as `constraint violation`.
        error: String,
        /// What else was said.
        details: String,
        /// The operation of the transaction that was refused, from 0; none if the transaction as a whole was.
        operation: Option<usize>,
    },
    /// A bridge refused an OpenFlow message (OpenFlow 1.5.1 section 7.5.4); nothing of its bundle was done.
    #[error("bridge {bridge} refused an OpenFlow message: error type {kind}, code {code}")]
    Flow {
        /// The bridge.
        bridge: String,
        /// `OFPET_…`.
        kind: u16,
        /// What it means depends on the type.
        code: u16,
    },
}

impl Error {
    pub(crate) fn gone(path: &Path, source: std::io::Error) -> Self {
        Self::Gone { path: path.display().to_string(), source }
    }

    pub(crate) fn nonsense(path: &Path, what: impl Into<String>) -> Self {
        Self::Nonsense { path: path.display().to_string(), what: what.into() }
    }

    /// Whether the daemon went away, is away, or is deaf: trying again later may help.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Silent { .. })
    }
}
