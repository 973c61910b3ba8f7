//! DHCPv6 (RFC 8415): the address of a NIC's record, and the settings that router advertisements have no words for.

pub mod engine;
pub mod message;
pub mod record;

pub use engine::{Fact, Outcome, handle};
pub use message::{Malformed, Message, MessageType};
pub use record::Record;

/// UDP port that servers and relays listen on.
pub const SERVER_PORT: u16 = 547;
/// UDP port that clients listen on.
pub const CLIENT_PORT: u16 = 546;
