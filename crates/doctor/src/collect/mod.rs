//! Looks at a Linux machine: the kernel by netlink, files below a root directory, processes, and the
//! wire. Decides nothing; what it saw is a [`MachineObservation`].

mod files;
mod frames;
mod kernel;
mod leases;
mod processes;
mod wire;

use std::path::{Path, PathBuf};

use crate::machine::{FORMAT, MachineObservation};

pub use wire::{answers, probe};

/// What to look at.
#[derive(Debug, Clone)]
pub struct Look {
    /// Directory below which configuration, leases and run files are read; `/` on the machine itself.
    pub root: PathBuf,
    /// Whether to ask gateways and to look for doubled addresses on the wire (root only, at most 3 s).
    pub probe: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { root: "/".into(), probe: true }
    }
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not tell.
    #[error("the kernel's network state cannot be read")]
    Kernel(#[from] multihome_netlink::Error),
}

/// Looks at this machine, in the network namespace of the calling thread.
///
/// # Errors
/// When the kernel does not tell its links, addresses or routes. What else cannot be seen is a note.
pub fn collect(look: &Look) -> Result<MachineObservation, Error> {
    let mut o = MachineObservation {
        format: FORMAT,
        root: look.root.display().to_string(),
        host: host(&look.root),
        ..MachineObservation::default()
    };
    let indexes = kernel::read(&mut o)?;
    files::read(&look.root, &mut o);
    leases::read(&look.root, &indexes, &mut o);
    processes::read(&look.root, &mut o);
    leases::of_clients(&look.root, &mut o);
    files::resolvers(&look.root, &indexes, &mut o);
    if look.probe {
        wire::look(&indexes, &mut o);
    }
    Ok(o)
}

/// The running host's name, or that of a mounted guest.
fn host(root: &Path) -> String {
    let path = if root == Path::new("/") { "proc/sys/kernel/hostname" } else { "etc/hostname" };
    text(root, path).unwrap_or_default().trim().to_owned()
}

/// A file below the root, if it can be read; at most 256 KiB of it.
fn text(root: &Path, path: &str) -> Option<String> {
    bytes(root, path).map(|b| String::from_utf8_lossy(&b).into_owned())
}

fn bytes(root: &Path, path: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut data = vec![];
    let file = std::fs::File::open(root.join(path.trim_start_matches('/'))).ok()?;
    file.take(256 * 1024).read_to_end(&mut data).ok()?;
    Some(data)
}

/// The names in a directory below the root, sorted; none if there is no such directory.
fn names(root: &Path, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(dir.trim_start_matches('/'))).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}
