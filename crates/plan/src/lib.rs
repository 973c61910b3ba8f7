//! What each guest is told and what each node must hold, decided without I/O.
//!
//! Everything here is a pure function of its input: no clock, no randomness, no device. The same resources give the
//! same plan on every node and after every restart, which is what lets an agent be killed at any point.

pub mod address;
pub mod mtu;
pub mod node;
pub mod policy;
pub mod primary;
pub mod route;
