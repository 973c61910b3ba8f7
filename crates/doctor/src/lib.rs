//! Rules that judge what was observed of a VM or a network, and say in a sentence what is wrong and how to mend it.
//!
//! The rules are pure; whoever observes hands in a [`VmObservation`]. Every finding carries its evidence and what to do.

pub mod apply;
pub mod collect;
pub mod machine;
mod network;
mod rules;

use multihome_model::Connectivity;
use serde::Serialize;

pub use network::examine_network;
pub use rules::examine_vm;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Traffic goes wrong now.
    Error,
    /// It will, or nobody can tell.
    Warning,
    /// On its way to right by itself.
    Info,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which rule found it; stable, for programs.
    pub rule: &'static str,
    /// What it is about, such as `nic/web-mgmt`.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// The facts that it was seen by.
    pub evidence: Vec<String>,
    /// What follows if nothing is done.
    pub consequence: String,
    /// What to do.
    pub fix: String,
}

/// A VM as it was observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmObservation {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Whether it is meant to run.
    pub wanted: bool,
    /// The instance's phase; empty where there is none.
    pub phase: String,
    /// Why it is in that phase.
    pub reason: Option<String>,
    /// Whether the guest agent answers.
    pub agent: bool,
    /// Its NICs.
    pub nics: Vec<NicObservation>,
}

/// A NIC as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicObservation {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// What nodes say is wrong with its network.
    pub network_fault: Option<String>,
    /// What the VM's node found out about its network by probing: the node's name, and what it sees.
    pub connectivity: Option<(String, Connectivity)>,
    /// Whether its addresses are claimed; else why not.
    pub claimed: Result<(), String>,
    /// Whether QEMU has it; else why not.
    pub attached: Result<(), String>,
    /// Whether its link is up.
    pub link_up: bool,
    /// The planned IPv4 address with prefix length.
    pub address: Option<String>,
    /// The gateway that its network offers.
    pub gateway: Option<String>,
    /// The IPv6 gateway that its network offers.
    pub gateway6: Option<String>,
    /// Whether it is to hold the IPv4 default route.
    pub primary: bool,
    /// Whether it is to hold the IPv6 default route.
    pub primary6: bool,
    /// Whether Multihome serves its DHCP.
    pub served: bool,
    /// Whether the guest took its lease.
    pub leased: bool,
    /// A default route that is on its way to or from this NIC: the sentence that says until when.
    pub moving: Option<String>,
    /// What the guest shows of it; none if it does not show it.
    pub guest: Option<GuestNic>,
}

/// What the guest shows of a NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestNic {
    /// Its name there.
    pub name: String,
    /// Its addresses with prefix length.
    pub addresses: Vec<String>,
    /// Gateways of its default routes.
    pub default_routes: Vec<String>,
}
