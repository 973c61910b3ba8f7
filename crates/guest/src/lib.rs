//! The route plan of a VM in every dialect that a guest understands. Text in, text out: no I/O, no clock, no randomness.
//!
//! [`render`] makes configuration files, [`seed`] the NoCloud seed, [`metadata`] the answers of the metadata service, and
//! [`state`] says what the guest's kernel must hold in the end, whichever dialect brought it there.

#[cfg(test)]
extern crate self as multihome_guest;

mod cloudinit;
mod dialect;
mod ec2;
#[cfg(test)]
#[path = "../tests/support/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
mod ifcfg;
mod ifupdown;
mod iproute;
mod iso9660;
pub mod metadata;
mod netplan;
mod network_data;
mod networkd;
mod networkmanager;
pub mod seed;
pub mod state;
mod vendor;
mod view;
mod yaml;

use std::collections::BTreeMap;

use multihome_plan::route::RoutePlan;
use serde::Serialize;

pub use dialect::{Dialect, UnknownDialect};

/// What a guest's configuration is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Guest {
    /// The VM's name, which becomes the guest's host name.
    pub name: String,
    /// What tells cloud-init whether it is still the same machine. Must live as long as the VM, and never change with its
    /// NICs: a new one makes cloud-init set the guest up again, new SSH host keys included.
    pub instance_id: String,
    /// What each NIC is told.
    pub plan: RoutePlan,
    /// Device names that the guest is known to use, by the NIC's name. A NIC that is not listed is found by its MAC, and
    /// where a dialect knows devices by name only, the guest is told to name it (see [`Guest::device`]).
    pub devices: BTreeMap<String, String>,
    /// Public SSH keys, one `authorized_keys` line each.
    pub ssh_keys: Vec<String>,
    /// The user's own user-data, handed on unchanged.
    pub user_data: Option<String>,
    /// The user's own network-config, which a seed hands on unchanged instead of ours; the tables and rules of ours are left
    /// out with it.
    pub network_config: Option<String>,
}

impl Guest {
    /// A guest with a plan and nothing else.
    pub fn new(name: impl Into<String>, instance_id: impl Into<String>, plan: RoutePlan) -> Self {
        Self {
            name: name.into(),
            instance_id: instance_id.into(),
            plan,
            devices: BTreeMap::new(),
            ssh_keys: vec![],
            user_data: None,
            network_config: None,
        }
    }
}

/// A file of a guest's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Where it belongs: a path in the guest, or a bare name within a seed.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its text.
    pub content: String,
}

impl File {
    pub(crate) fn new(path: impl Into<String>, mode: u32, content: impl Into<String>) -> Self {
        Self { path: path.into(), mode, content: content.into() }
    }
}

/// The files that configure a guest, in one dialect. Same guest, same files.
pub fn render(dialect: Dialect, guest: &Guest) -> Vec<File> {
    match dialect {
        Dialect::CloudInitV1 => seed::files_v1(guest),
        Dialect::CloudInitV2 => seed::files(guest),
        Dialect::Netplan => netplan::files(guest),
        Dialect::Networkd => networkd::files(guest),
        Dialect::NetworkManager => networkmanager::files(guest),
        Dialect::IfcfgRhel => ifcfg::rhel::files(guest),
        Dialect::IfcfgSuse => ifcfg::suse::files(guest),
        Dialect::Ifupdown => ifupdown::files(guest),
        Dialect::OpenStack => {
            vec![File::new("network_data.json", 0o644, yaml::json(&network_data::network_data(guest)))]
        }
        Dialect::Ec2 => vec![File::new("meta-data", 0o644, ec2::listing(guest))],
        Dialect::Ip => vec![File::new("network.sh", 0o755, iproute::script(guest))],
    }
}
