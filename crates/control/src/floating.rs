//! Floating addresses: which networks they can be from, and what they lead to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_model::checked::{CheckedFloatingIP, CheckedForward, CheckedNetwork, check_floating_ip};
use multihome_model::{DhcpMode, Family, FloatingIP, NetworkInterface, NetworkType};
use multihome_plan::node::{Forward, NodeFloating, Transport};

use crate::world::Tables;
use crate::{Key, backends};

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

/// A floating address as the planners of nodes take it; `None` while it has no address, or leads nowhere.
pub fn planned(t: &Tables, floating: &FloatingIP) -> Option<(Key, NodeFloating)> {
    let key = Key::of(floating);
    let checked = check_floating_ip(&key.name, &floating.spec).ok()?;
    let status = floating.status.as_ref()?;
    let network = Key::reference(&floating.spec.network, &key.namespace);
    // Until the controller has looked.
    let backends = match status.backends.is_empty() {
        true => backends::decide(t, floating).backends,
        false => status.backends.clone(),
    };
    let led = |names: &[String]| -> BTreeSet<IpAddr> {
        let addresses =
            backends::in_use(&backends, names).into_iter().filter_map(|(_, b)| b.address.as_ref()?.parse().ok());
        // What it was before its spec was changed may be of the other family still.
        addresses.filter(|a: &IpAddr| a.is_ipv4() == (checked.family == Family::IPv4)).collect()
    };
    let by_forward = backends::names(t, &key.namespace, &checked, Some(&backends));
    let used = by_forward.iter().flat_map(|names| backends::in_use(&backends, names)).map(|(name, _)| name);
    let domain = used.into_iter().find_map(|name| backends::domain_uid(t, &Key::new(key.namespace.clone(), name)))?;
    let forward = |(f, names): (&CheckedForward, &Vec<String>)| Forward {
        transport: if f.udp { Transport::Udp } else { Transport::Tcp },
        port: f.port,
        target: f.target,
        backends: led(names),
    };
    let whole = checked.forwards.is_empty().then(|| by_forward.first().map(|names| led(names))).flatten();
    let planned = NodeFloating {
        uid: floating.uid()?,
        key: key.to_string(),
        network: network.to_string(),
        address: status
            .address
            .as_ref()?
            .parse()
            .ok()
            .filter(|a: &IpAddr| a.is_ipv4() == (checked.family == Family::IPv4))?,
        node: status.node.clone()?,
        domain,
        target: whole.and_then(|all| all.into_iter().next()),
        forwards: checked.forwards.iter().zip(&by_forward).map(forward).filter(|f| !f.backends.is_empty()).collect(),
        algorithm: checked.algorithm,
    };
    Some((network, planned))
}
