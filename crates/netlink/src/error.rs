//! What can go wrong when talking to the kernel, told so that callers can be idempotent.
//!
//! Every error names the operation and the thing it was done to; the kernel's own sentence
//! (extended ACK) is kept when there is one. Nothing here decides whether to retry.

use std::io;

/// The result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{op} {subject}: {}{}", io::Error::from_raw_os_error(*.errno), reason(.message))]
    Kernel {
        /// What was being done, for example `create bridge`.
        op: &'static str,
        /// The device, address, set or namespace that it was done to.
        subject: String,
        /// The kernel's errno, positive.
        errno: i32,
        /// The kernel's extended-ACK text, when it gave one.
        message: Option<String>,
    },
    /// A system call other than a netlink request failed.
    #[error("{op} {subject}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file, device or namespace that it was done to.
        subject: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("{op} {subject}: the kernel's answer is malformed: {what}")]
    Malformed {
        /// What was being done.
        op: &'static str,
        /// The thing that it was done to.
        subject: String,
        /// Which part of the answer is wrong.
        what: &'static str,
    },
    /// A value cannot be expressed to the kernel, for example a device name of 16 characters.
    #[error("{op}: {what}")]
    Invalid {
        /// What was being done.
        op: &'static str,
        /// What is wrong with the value.
        what: String,
    },
    /// The `nft` program refused a ruleset.
    #[error("nft: {0}")]
    Nft(String),
}

fn reason(message: &Option<String>) -> String {
    message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default()
}

impl Error {
    pub(crate) fn io(op: &'static str, subject: impl Into<String>, source: io::Error) -> Self {
        Self::Io { op, subject: subject.into(), source }
    }

    pub(crate) fn last(op: &'static str, subject: impl Into<String>) -> Self {
        Self::io(op, subject, io::Error::last_os_error())
    }

    pub(crate) fn kernel(op: &'static str, subject: impl Into<String>, errno: i32) -> Self {
        Self::Kernel { op, subject: subject.into(), errno, message: None }
    }

    /// The errno behind this error, positive, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Somebody else uses it (`EBUSY`).
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// The thing already exists: creating it again is no fault (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The thing is not there: deleting it again is no fault
    /// (`ENODEV`, `ENOENT`, `ESRCH` for routes, `EADDRNOTAVAIL` for addresses, `ENXIO`).
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO))
    }

    /// The kernel lacks the feature (`EOPNOTSUPP`, `EAFNOSUPPORT`, `EPROTONOSUPPORT`).
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT))
    }
}

/// What callers that make their operations idempotent write at the end of a line.
pub trait Idempotent<T> {
    /// Turns "it exists already" into `None`.
    fn unless_exists(self) -> Result<Option<T>>;
    /// Turns "it is not there" into `None`.
    fn unless_missing(self) -> Result<Option<T>>;
}

impl<T> Idempotent<T> for Result<T> {
    fn unless_exists(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unless_missing(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
