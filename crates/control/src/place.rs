//! Where NICs are, read once when they change and not once for every plan.

use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{MacAddr, NetworkInterface, PortSecurity};

use crate::vm;

/// A NIC that a node carries, as far as other nodes are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The node.
    pub node: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// What may leave it.
    pub security: PortSecurity,
}

impl Placed {
    /// What a NIC's status says; nothing before it has a MAC and a node.
    pub fn of(nic: &NetworkInterface) -> Option<Self> {
        let status = nic.status.as_ref().filter(|s| s.mac.is_some())?;
        Some(Self {
            node: status.node.clone()?,
            mac: vm::nic_mac(nic),
            addresses: addresses(nic),
            security: nic.spec.port_security.unwrap_or_default(),
        })
    }
}

/// All addresses of a NIC: those that it holds, and those that its guest formed or was given by others.
pub fn addresses(nic: &NetworkInterface) -> Vec<IpAddr> {
    let Some(status) = nic.status.as_ref() else { return vec![] };
    let mut all = vec![];
    for a in [&status.ipv4, &status.ipv6].into_iter().flatten() {
        all.extend(a.address.parse::<IpNet>().map(|n| n.addr()));
        all.extend(a.secondary.iter().filter_map(|s| s.parse::<IpAddr>().ok()));
    }
    all.extend(status.addresses.iter().filter_map(|a| a.address.parse::<IpAddr>().ok()));
    all
}
