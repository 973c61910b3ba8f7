//! Judges any Linux machine, whoever manages it, from what was observed of it. Pure: no I/O here.

mod config;
pub mod fix;
pub mod layout;
mod observation;
mod query;
mod rules;
mod show;
mod vrf;

pub use config::{Dialect, NicConfig, dialect, find_word, nics as configured_nics};
pub use observation::{
    Address, ConfigFile, DhcpClient, FORMAT, Lease, Link, MAIN, MachineObservation, Neighbour, Options, PathMtu, Probe,
    Resolver, Route, Rule,
};
pub use query::{Family, devices, is_default, is_global, subnet};
pub use rules::{Diagnosis, examine_machine};
