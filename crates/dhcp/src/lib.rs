//! DHCP engines: bytes in, bytes out, and the thin shell with the sockets around them.
//!
//! There is no lease database. What a NIC is told is its [`v4::Record`], which follows from its resource; a client is
//! identified by the port that its frame came in on and its MAC, never by a client id that a cloned guest shares with
//! its template. [`v4::engine`] and everything below it is pure; only [`server`] opens sockets.

pub mod client;
pub mod frame;
pub mod frame6;
pub mod guard;
pub mod ra;
pub mod server;
pub mod server6;
pub mod v4;
pub mod v6;
