//! Floating addresses: which networks they can be from, and what they lead to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_model::checked::{CheckedFloatingIP, CheckedNetwork, check_floating_ip};
use multihome_model::{DhcpMode, Family, FloatingIP, NetworkInterface, NetworkType};
use multihome_plan::node::{Forward, NodeFloating, Transport};

use crate::Key;
use crate::world::Tables;

/// Why a network has no floating addresses, or not without one being named; in a sentence.
pub fn unfit(key: &Key, network: &CheckedNetwork, floating: &CheckedFloatingIP) -> Option<String> {
    if !matches!(network.kind, NetworkType::Vlan | NetworkType::Untagged) {
        return Some(format!(
            "Network {key} is of type {}: floating addresses are from type Vlan or Untagged",
            network.kind.as_str()
        ));
    }
    let Some(subnet) = network.subnet(floating.family) else {
        return Some(match floating.family {
            Family::IPv4 => format!("Network {key} has no IPv4 subnet: give it spec.ipv4.cidr, or ask for family IPv6"),
            Family::IPv6 => format!("Network {key} has no IPv6 subnet: give it spec.ipv6.cidr, or ask for family IPv4"),
        });
    };
    let field = if floating.family == Family::IPv4 { "spec.ipv4" } else { "spec.ipv6" };
    let chosen = floating.address.is_none() && subnet.pools.is_empty() && subnet.dhcp == DhcpMode::Guard;
    chosen.then(|| {
        format!(
            "on Network {key} another DHCP server gives addresses, and any could be taken: name spec.address, or give the network \
             {field}.pools that the other server leaves alone"
        )
    })
}

/// The address of a family that a NIC has.
pub fn target(nic: &NetworkInterface, family: Family) -> Option<IpAddr> {
    let status = nic.status.as_ref()?;
    let held = match family {
        Family::IPv4 => status.ipv4.as_ref()?,
        Family::IPv6 => status.ipv6.as_ref()?,
    };
    Some(held.address.parse::<IpNet>().ok()?.addr())
}

/// A floating address as the planner of its NIC's node takes it; `None` while it has no address or leads nowhere.
pub fn planned(t: &Tables, floating: &FloatingIP) -> Option<(Key, NodeFloating)> {
    let key = Key::of(floating);
    let nic = t.nics.get(&Key::new(key.namespace.clone(), floating.spec.nic.clone()))?;
    let checked = check_floating_ip(&key.name, &floating.spec).ok()?;
    let network = Key::reference(&floating.spec.network, &key.namespace);
    let forward = |(udp, port, target): &(bool, u16, u16)| Forward {
        transport: if *udp { Transport::Udp } else { Transport::Tcp },
        port: *port,
        target: *target,
    };
    let forwards: BTreeSet<Forward> = checked.forwards.iter().map(forward).collect();
    let planned = NodeFloating {
        uid: floating.uid()?,
        key: key.to_string(),
        network: network.to_string(),
        // What it held before its spec was changed may be of the other family still.
        address: floating
            .status
            .as_ref()?
            .address
            .as_ref()?
            .parse()
            .ok()
            .filter(|a: &IpAddr| a.is_ipv4() == (checked.family == Family::IPv4))?,
        nic: nic.uid()?,
        target: target(nic, checked.family)?,
        forwards,
    };
    Some((network, planned))
}
