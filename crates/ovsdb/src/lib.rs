//! Speaks with Open vSwitch over its Unix sockets: the database by JSON-RPC (RFC 7047), and each bridge by OpenFlow 1.5 with the
//! extensions of Open vSwitch.
//!
//! It knows no networks and no VMs; it decides nothing. Calls block on the daemon for as long as their timeout says. Nothing is
//! sent twice by itself: a connection that broke is made anew by the next call, and whoever called looks at what is there.

mod client;
mod control;
mod error;
mod frames;
pub mod openflow;
mod transaction;
mod value;

pub use client::{Client, Updates};
pub use control::Control;
pub use error::{Error, Result};
pub use transaction::{Done, Ref, Transaction, Where};
pub use value::{Row, Uuid, map, set};
