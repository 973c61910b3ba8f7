//! Specs as the rest of the program works with them: every value parsed, every rule about one object alone checked.

mod fabric;
mod floating;
mod group;
mod network;
mod nic;
mod policy_route;
mod subnet;

pub use fabric::{check_cluster_network, check_underlay, check_vpc};
pub use floating::{CheckedFloatingIP, CheckedForward, CheckedHealthCheck, LeadsTo, check_floating_ip};
pub use group::{CheckedGroup, CheckedRule, check_group};
pub use network::{CheckedNetwork, check_network};
pub use nic::{CheckedNic, check_nic};
pub use policy_route::{CheckedAction, CheckedPolicyRoute, MOST_POLICY_ROUTES, check_policy_routes};
pub use subnet::{AddressRange, Route, Subnet, parse_range, parse_route};
