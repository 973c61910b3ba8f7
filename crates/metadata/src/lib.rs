//! The metadata service on every port: 169.254.169.254, [fe80::a9fe:a9fe] and [fd00:ec2::254], port 80.
//!
//! Who asks is known by the port that a frame came in on and by nothing else: each NIC has a packet socket and a small TCP
//! endpoint of its own, so that subnets that overlap and addresses that are not the guest's mix up no VMs. What is answered
//! decides [`multihome_guest::metadata::respond`]. Why not in the kernel: docs/decisions/0005.

mod endpoint;
mod frame;
mod http;
mod service;

pub use endpoint::Endpoint;
pub use frame::{ADDRESSES6, Heard, hear};
pub use http::Request;
pub use service::{Service, Told};
