//! What a node knows of the NICs that other nodes carry: no overlay of ours learns or asks by multicast (RFC 7348 section
//! 4.2); forwarding entries and neighbours follow from the NICs' records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use multihome_model::{IfName, MacAddr, NetworkType, PortSecurity, names};
use serde::{Deserialize, Serialize};

use super::NodeNetwork;
use super::build::gateways;

/// A NIC that another node carries.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteNic {
    /// `NAMESPACE/NAME` of its network.
    pub network: String,
    /// Uid of the Vpc of its network.
    pub vpc: Option<String>,
    /// Its MAC.
    pub mac: MacAddr,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// What may leave it.
    pub security: PortSecurity,
    /// The name of its node.
    pub node: String,
    /// Where tunnels of its network end on its node, if they do.
    pub via: Option<IpAddr>,
}

/// What a VXLAN uplink knows of other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remotes {
    /// Where broadcasts go.
    pub flood: Flood,
    /// NICs by MAC.
    pub hosts: BTreeMap<MacAddr, Remote>,
}

/// Where frames go that are not for one known NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// Tunnel addresses of the nodes that get a copy of each broadcast.
    pub nodes: BTreeSet<IpAddr>,
    /// Whether frames to unknown addresses are copied, too, addresses learned, and neighbours asked rather than answered for:
    /// where a NIC may use any address.
    pub unknown: bool,
    /// Addresses of the network's gateway, which every node has itself: nobody is asked for them.
    #[serde(default)]
    pub own: BTreeSet<IpAddr>,
}

/// A NIC of another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// The tunnel address of its node.
    pub via: IpAddr,
    /// Its addresses; requests for them (ARP, neighbour solicitation) are answered here.
    pub addresses: BTreeSet<IpAddr>,
}

/// What the uplink of an overlay knows of other nodes; `None` for networks of other types, and before a VNI is chosen.
/// `open` says that a NIC of this node may use any address.
pub fn remotes<'a>(
    network: &NodeNetwork,
    open: bool,
    nics: impl IntoIterator<Item = &'a RemoteNic>,
) -> Option<(IfName, Remotes)> {
    if network.spec.kind != NetworkType::Overlay || network.vni.is_none() {
        return None;
    }
    let own = gateways(network);
    let mut all = Remotes { flood: Flood { nodes: BTreeSet::new(), unknown: open, own }, hosts: BTreeMap::new() };
    for nic in nics.into_iter().filter(|n| n.network == network.key) {
        let Some(via) = nic.via else { continue };
        all.flood.nodes.insert(via);
        all.flood.unknown |= nic.security == PortSecurity::Promiscuous;
        let mut addresses: BTreeSet<IpAddr> = nic.addresses.iter().copied().collect();
        if network.spec.ipv6.is_some() {
            addresses.insert(IpAddr::V6(nic.mac.link_local()));
        }
        all.hosts.insert(nic.mac, Remote { via, addresses });
    }
    Some((names::device(names::VXLAN, &network.uid), all))
}
