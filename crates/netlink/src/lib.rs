//! The only crate that speaks netlink and nftables, opens namespaces, or contains unsafe code.
//!
//! A thin, synchronous layer: every call is a few system calls on a socket of our own, costs
//! microseconds, and waits for nothing but the kernel. It knows no networks and no VMs; it decides
//! nothing. Sockets stay in the network namespace that they were opened in, whichever thread uses
//! them later.
//!
//! Errors say what was done to what, and whether the thing [existed](Error::is_exists) or was
//! [missing](Error::is_missing), so that callers can be idempotent.
// Everything unsafe of the product lives here, each with its safety comment.
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod addr;
mod conntrack;
mod error;
mod ethtool;
mod event;
pub mod fdpass;
mod icmp;
mod inspect;
mod link;
mod msg;
mod neigh;
mod netns;
pub mod nft;
pub mod packet;
mod probe;
pub mod process;
mod qdisc;
mod route;
mod rtnl;
mod rule;
mod socket;
pub mod sysctl;
mod tap;
pub mod udp;
mod vlan;

pub use addr::Address;
pub use conntrack::{Conntrack, Conversation, Tuple};
pub use error::{Error, Idempotent, Result};
pub use ethtool::{Offload, driver, offload, set_offload, speed};
pub use event::{LinkEvent, LinkEvents};
pub use icmp::IcmpSocket;
pub use inspect::{AddressInfo, NeighbourInfo, NextHop, RouteInfo};
pub use link::{Link, LinkChange, LinkKind, NewLink, PortFlags, VethPeer};
pub use neigh::{FdbEntry, Neighbour};
pub use netns::{Netns, RUN_DIR};
pub use probe::{Capabilities, Capability, probe};
pub use qdisc::Shape;
pub use route::{PROTOCOL, Route, RouteKind, TABLE_MAIN};
pub use rtnl::Rtnl;
pub use rule::{RULE_BLACKHOLE, RULE_UNREACHABLE, Rule};
pub use tap::Tap;
pub use vlan::BridgeVlan;
