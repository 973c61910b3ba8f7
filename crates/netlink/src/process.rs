//! Processes that are told apart for certain: by a descriptor, never by a number that may have
//! been given to somebody else since.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};

/// A handle on one process (pidfd_open(2), Linux 5.3). Its descriptor becomes readable when the
/// process ends.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// Opens a process by number, if it is the one that started at `start_time`
    /// (see [`start_time`]).
    ///
    /// # Errors
    /// [`Error::is_missing`] if it is gone or the number now belongs to another process.
    pub fn open(pid: u32, start: u64) -> Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if raw < 0 {
            return Err(Error::last("open process", pid.to_string()));
        }
        // SAFETY: raw is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
        // The descriptor is held, so the number cannot be reused between here and any later use.
        if start_time(pid)? != start {
            return Err(Error::kernel("open process", pid.to_string(), libc::ESRCH));
        }
        Ok(Self { pid, fd })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::is_missing`] if it has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: pidfd_send_signal takes a descriptor that we hold, and a null siginfo.
        let r = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if r < 0 { Err(Error::last("signal process", self.pid.to_string())) } else { Ok(()) }
    }

    /// Waits until it has ended (a zombie has), at most so long; says whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives across the call.
        let n = unsafe { libc::poll(&raw mut poll, 1, millis) };
        n > 0
    }
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
/// Together with its number this names a process for as long as the machine is up.
///
/// # Errors
/// [`Error::is_missing`] if there is none.
pub fn start_time(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|e| Error::io("look up process", pid.to_string(), e))?;
    // The second field is the program's name in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields.split_ascii_whitespace().nth(19).and_then(|f| f.parse().ok()).ok_or(Error::Malformed {
        op: "look up process",
        subject: pid.to_string(),
        what: "no start time",
    })
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Lets the program that a command starts have a descriptor, under the number that is returned.
/// No other program that is started meanwhile gets it.
pub fn inherit(command: &mut Command, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    // SAFETY: fcntl is async-signal-safe and allocates nothing, as code between fork and exec must;
    // the closure owns the descriptor, so the number stays valid as long as the command lives.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    number
}

/// Makes the program that a command starts the leader of a session of its own, so that it
/// survives its parent and gets none of its signals.
pub fn own_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and allocates nothing, as code between fork and exec must.
    unsafe { command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }) }
}
