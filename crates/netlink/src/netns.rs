//! Network namespaces: named ones as `ip netns` keeps them, and closures run inside one.
//!
//! A closure runs on a thread of its own that ends with it, so that no other code is ever
//! moved to another namespace by accident.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where named namespaces are mounted (iproute2's `NETNS_RUN_DIR`).
pub const RUN_DIR: &str = "/run/netns";
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace. It lives on as long as this is held, even if its name is deleted.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    name: String,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"), "(current)")
    }

    /// A named namespace that is there.
    ///
    /// # Errors
    /// [`Error::is_missing`] if it is not.
    pub fn open(name: &str) -> Result<Self> {
        let path = path_of(name)?;
        if !is_namespace(&path) {
            return Err(Error::kernel("open network namespace", name, libc::ENOENT));
        }
        Self::open_path(&path, name)
    }

    /// The network namespace of a process.
    ///
    /// # Errors
    /// [`Error::is_missing`] if there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open_path(&PathBuf::from(format!("/proc/{pid}/ns/net")), &format!("(process {pid})"))
    }

    /// A new namespace without a name, gone when the last holder is.
    ///
    /// # Errors
    /// When the system refuses it (root is needed).
    pub fn anonymous() -> Result<Self> {
        on_thread(|| {
            unshare("(anonymous)")?;
            Self::current()
        })
    }

    /// Creates a named namespace so that `ip netns` shows it, or opens the one that is there.
    /// A file without a namespace, left by somebody killed half way, is used.
    ///
    /// # Errors
    /// When the name is no file name, or the system refuses to mount (root is needed).
    pub fn ensure(name: &str) -> Result<Self> {
        match Self::open(name) {
            Err(e) if e.is_missing() => {}
            other => return other,
        }
        prepare_run_dir()?;
        let path = path_of(name)?;
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o444)
            .open(&path)
            .map_err(|e| Error::io("create", path.display().to_string(), e))?;
        on_thread(|| {
            unshare(name)?;
            mount(Some("/proc/thread-self/ns/net"), &path, libc::MS_BIND)
        })?;
        Self::open(name)
    }

    /// Deletes a named namespace. What lives in it goes when its last holder does.
    ///
    /// # Errors
    /// [`Error::is_missing`] if there is none of that name.
    pub fn delete(name: &str) -> Result<()> {
        let path = path_of(name)?;
        let c = c_path(&path)?;
        // SAFETY: c is a NUL-terminated string that outlives the call.
        if unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) } < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: a file that is no mount, left behind; it is removed below.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(Error::io("delete network namespace", name, error));
            }
        }
        fs::remove_file(&path).map_err(|e| Error::io("delete network namespace", name, e))
    }

    /// The names of all named namespaces, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read; that it does not exist is no error.
    pub fn list() -> Result<Vec<String>> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", RUN_DIR, e)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| is_namespace(&entry.path()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The name that it was opened under; in parentheses if it has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure inside, on a thread of its own (some 50 µs), and returns what it returns.
    /// Sockets and files that the closure opens keep the namespace and may be handed out;
    /// programs that it starts inherit it; `/proc/sys/net` shows this namespace's values.
    ///
    /// # Errors
    /// When the namespace cannot be entered; the closure has not run then.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            // SAFETY: setns takes a descriptor that we hold; it changes this thread only,
            // and the thread ends with the closure.
            if unsafe { libc::setns(self.fd.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
                return Err(Error::last("enter network namespace", &self.name));
            }
            Ok(f())
        })
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|e| Error::io("clone handle of", self.name.clone(), e))?;
        Ok(Self { fd, name: self.name.clone() })
    }

    fn open_path(path: &Path, name: &str) -> Result<Self> {
        let file = fs::File::open(path).map_err(|e| Error::io("open network namespace", name, e))?;
        Ok(Self { fd: file.into(), name: name.to_owned() })
    }
}

fn on_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(512 * 1024)
            .spawn_scoped(scope, f)
            .map_err(|e| Error::io("start", "namespace thread", e))?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn path_of(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) || name.len() > 255 {
        return Err(Error::Invalid { op: "network namespace", what: format!("{name:?} cannot be a file name") });
    }
    Ok(Path::new(RUN_DIR).join(name))
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Invalid { op: "mount", what: "a path holds a NUL".into() })
}

fn is_namespace(path: &Path) -> bool {
    let Ok(c) = c_path(path) else { return false };
    // SAFETY: an all-zero statfs is a valid value to be overwritten.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers live across the call.
    let r = unsafe { libc::statfs(c.as_ptr(), &raw mut stat) };
    r == 0 && stat.f_type as u64 == NSFS_MAGIC
}

fn unshare(name: &str) -> Result<()> {
    // SAFETY: only called on a thread of its own that ends soon after; CLONE_NEWNET touches
    // nothing but the thread's network namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(Error::last("create network namespace", name));
    }
    Ok(())
}

/// The directory with shared propagation, as iproute2 makes it, so that a namespace deleted in one
/// mount namespace does not stay alive in another.
fn prepare_run_dir() -> Result<()> {
    let dir = Path::new(RUN_DIR);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|e| Error::io("create", RUN_DIR, e))?;
    let shared = libc::MS_SHARED | libc::MS_REC;
    if mount(None, dir, shared).is_ok() {
        return Ok(());
    }
    mount(Some(RUN_DIR), dir, libc::MS_BIND | libc::MS_REC)?;
    mount(None, dir, shared)
}

fn mount(source: Option<&str>, target: &Path, flags: libc::c_ulong) -> Result<()> {
    let source = c_path(Path::new(source.unwrap_or("none")))?;
    let c = c_path(target)?;
    // SAFETY: all strings are NUL-terminated and outlive the call; fstype and data may be null
    // for bind and propagation changes.
    let r = unsafe { libc::mount(source.as_ptr(), c.as_ptr(), c"none".as_ptr(), flags, std::ptr::null()) };
    if r < 0 { Err(Error::last("mount", target.display().to_string())) } else { Ok(()) }
}
