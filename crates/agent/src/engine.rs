//! Which engine moves the frames of this node: what was asked for, and what the machine can do.

use std::path::{Path, PathBuf};

use multihome_dataplane::Dataplane;
use multihome_dataplane::kernel::{Config as KernelConfig, Kernel};
use multihome_dataplane::ovs::{self, Datapath, Ovs};
use multihome_netlink::{Capabilities, Capability, Netns};

use crate::{Config, Error};

/// The engine that a node is asked to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// The kernel's where the kernel has VLANs, else Open vSwitch where it runs, else the kernel's.
    #[default]
    Auto,
    /// The kernel's bridges.
    Kernel,
    /// Open vSwitch.
    Ovs,
}

/// An engine, and why it is this one.
pub(crate) struct Chosen {
    pub(crate) engine: Box<dyn Dataplane>,
    pub(crate) why: String,
}

fn kernel_config(config: &Config, capabilities: &Capabilities) -> Result<KernelConfig, Error> {
    Ok(KernelConfig {
        host: Netns::current()?,
        netns_prefix: config.netns_prefix.clone(),
        state_dir: config.data_dir.join("dataplane"),
        // Taps are opened here and handed to QEMU.
        tap_owner: None,
        capabilities: capabilities.clone(),
    })
}

/// The kernel's engine in the host's own namespace.
pub(crate) fn open_kernel(config: &Config, capabilities: &Capabilities) -> Result<Kernel, Error> {
    Kernel::open(kernel_config(config, capabilities)?).map_err(|e| Error::Dataplane(e.to_string()))
}

/// The engine of Open vSwitch.
pub(crate) fn open_ovs(config: &Config, socket: &Path, capabilities: &Capabilities) -> Result<Ovs, Error> {
    let datapath = match capabilities.check(Capability::OvsDatapath) {
        Ok(()) => Datapath::System,
        Err(_) => Datapath::Netdev,
    };
    let kernel = kernel_config(config, capabilities)?;
    let config = ovs::Config { kernel, database: socket.to_owned(), datapath };
    Ovs::open(config).map_err(|e| Error::Dataplane(e.to_string()))
}

/// The socket of ovsdb-server.
fn database(config: &Config) -> PathBuf {
    config.ovs_database.clone().unwrap_or_else(|| Path::new(ovs::DATABASE).to_owned())
}

/// Which engine holds this node's networks: a file, so that neither a daemon that is away for a while nor a teardown mistakes it.
/// Sockets know no network namespaces, and somebody else's Open vSwitch is not to be touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    /// The kernel's.
    Kernel,
    /// Open vSwitch, by the socket of its database.
    Ovs(PathBuf),
}

fn file(config: &Config) -> PathBuf {
    config.data_dir.join("engine")
}

/// Which engine holds what there is; `None` where there is nothing yet.
pub(crate) fn holds(config: &Config) -> Option<Holds> {
    let text = std::fs::read_to_string(file(config)).ok()?;
    match text.trim().split_once(' ') {
        Some(("ovs", path)) => Some(Holds::Ovs(path.into())),
        _ => Some(Holds::Kernel),
    }
}

/// Nothing is held any more.
pub(crate) fn forget(config: &Config) -> Result<(), Error> {
    let path = file(config);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File { path, source }),
        _ => Ok(()),
    }
}

fn note(config: &Config, holds: &Holds) -> Result<(), Error> {
    let path = file(config);
    let text = match holds {
        Holds::Kernel => "kernel\n".to_owned(),
        Holds::Ovs(socket) => format!("ovs {}\n", socket.display()),
    };
    let written = std::fs::create_dir_all(&config.data_dir).and_then(|()| std::fs::write(&path, text));
    written.map_err(|source| Error::File { path, source })
}

/// Whether Open vSwitch is what a node is to have, and why: a sentence's part.
fn choose(config: &Config, holds: Option<&Holds>, capabilities: &Capabilities) -> Result<(bool, String), Error> {
    let other = |name: &str, flag: &str| {
        let text = format!(
            "this node's networks are held by {name}: start with --dataplane {flag}, or stop its VMs and run «multihome teardown» first"
        );
        Err(Error::Dataplane(text))
    };
    match (config.dataplane, holds) {
        (Wish::Kernel, Some(Holds::Ovs(_))) => return other("Open vSwitch", "ovs"),
        (Wish::Ovs, Some(Holds::Kernel)) => return other("the kernel's bridges", "kernel"),
        (Wish::Kernel, _) => return Ok((false, "asked for".into())),
        (Wish::Ovs, _) => return Ok((true, "asked for".into())),
        (Wish::Auto, Some(Holds::Ovs(_))) => return Ok((true, "it holds what there is".into())),
        (Wish::Auto, _) => {}
    }
    let no_vlans = match capabilities.check(Capability::Vlan) {
        Ok(()) => return Ok((false, "this kernel has VLANs".into())),
        Err(reason) => format!("this kernel has no VLANs ({reason})"),
    };
    if holds == Some(&Holds::Kernel) {
        return Ok((false, format!("{no_vlans}, but its bridges hold what there is")));
    }
    Ok(match ovs::answers(&database(config)) {
        Ok(()) => (true, format!("{no_vlans}, and Open vSwitch runs")),
        Err(e) => (false, format!("{no_vlans}, but neither is there an Open vSwitch: {e}")),
    })
}

/// Opens the engine that this node is to have.
pub(crate) fn open(config: &Config, capabilities: &Capabilities) -> Result<Chosen, Error> {
    let holds = holds(config);
    let (by_ovs, why) = choose(config, holds.as_ref(), capabilities)?;
    let now = if by_ovs { Holds::Ovs(database(config)) } else { Holds::Kernel };
    note(config, &now)?;
    let engine: Box<dyn Dataplane> = match now {
        Holds::Ovs(socket) => Box::new(open_ovs(config, &socket, capabilities)?),
        Holds::Kernel => Box::new(open_kernel(config, capabilities)?),
    };
    Ok(Chosen { engine, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_had_and_otherwise_what_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let config = |dataplane| Config {
            node: "n".into(),
            data_dir: dir.path().into(),
            dataplane,
            ovs_database: Some("/nonexistent/db.sock".into()),
            ..Config::default()
        };
        let nothing = Capabilities::default();
        let chosen = |wish, holds: Option<&Holds>| choose(&config(wish), holds, &nothing);
        assert!(chosen(Wish::Ovs, None).unwrap().0);
        assert!(!chosen(Wish::Kernel, None).unwrap().0);
        let (by_ovs, why) = chosen(Wish::Auto, None).unwrap();
        assert!(!by_ovs);
        assert!(why.contains("cannot speak with Open vSwitch on /nonexistent/db.sock"), "{why}");
        // What holds the networks stays, also while it does not answer, and is not changed behind them.
        let held = Holds::Ovs("/nonexistent/db.sock".into());
        assert!(chosen(Wish::Auto, Some(&held)).unwrap().0);
        let refused = chosen(Wish::Kernel, Some(&held)).unwrap_err().to_string();
        assert!(refused.contains("held by Open vSwitch: start with --dataplane ovs"), "{refused}");
        assert!(chosen(Wish::Ovs, Some(&Holds::Kernel)).is_err());
        for kept in [held, Holds::Kernel] {
            note(&config(Wish::Auto), &kept).unwrap();
            assert_eq!(holds(&config(Wish::Auto)), Some(kept));
        }
        forget(&config(Wish::Auto)).unwrap();
        forget(&config(Wish::Auto)).unwrap();
        assert_eq!(holds(&config(Wish::Auto)), None);
    }
}
