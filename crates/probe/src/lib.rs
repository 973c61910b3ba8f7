//! Probes networks from inside: out of the uplink of a network on a node, and hearing what comes in by it.
//!
//! [`Prober`] is the engine of one network on one node: time and frames in, frames and a verdict out, without sockets or a
//! clock. [`Service`] is the thin shell with the sockets around all of a node.
//!
//! A probe has no address in the network, and keeps none: its MAC is its own ([`multihome_model::names::probe_mac`]), it
//! asks by ARP from 0.0.0.0 (RFC 5227) and by neighbour discovery from the link-local address of that MAC. For an IPv4 ping
//! of the gateway it borrows an address for a moment.
//!
//! Apart from that, the node's own network is asked whether it is routed to a network's gateway: by echo requests of the node
//! itself, which say nothing of the network.

mod dhcp;
mod engine;
mod frames;
mod icmp;
mod own;
mod peer;
mod routed;
mod routers;
mod service;
mod visit;
mod watch;
mod wire;

pub use engine::{Prober, Subject, Want};
pub use frames::{Heard, hear};
pub use icmp::Reply;
pub use routed::EchoRequest;
pub use service::Service;
pub use watch::Time;
pub use wire::{ETHERTYPE, Kind, Probe, SMALLEST};
