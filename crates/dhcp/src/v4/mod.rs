//! DHCPv4 (RFC 2131, RFC 2132).

pub mod engine;
pub mod message;
pub mod record;

pub use engine::{Destination, Fact, Outcome, PortState, Refusal, Via, handle};
pub use message::{Malformed, Message, MessageType};
pub use record::{Record, Told};

/// UDP port that servers listen on.
pub const SERVER_PORT: u16 = 67;
/// UDP port that clients listen on.
pub const CLIENT_PORT: u16 = 68;
