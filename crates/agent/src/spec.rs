//! From resources to what the planner, the DHCP server and QEMU take.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use multihome_control::vpc::Exchange;
use multihome_control::world::Tables;
use multihome_control::{Key, fabric, floating, place, vm, vpc};
use multihome_model::checked::{CheckedAction, CheckedNetwork, CheckedPolicyRoute, check_network, check_policy_routes};
use multihome_model::kubevirt::VirtualMachineInstance;
use multihome_model::{MGMT_FABRIC, NetworkInterface, NicModel, Violations, Vni, Vpc};
use multihome_plan::node::{
    NodeFloating, NodeInput, NodeNetwork, NodeNic, NodePolicyRoute, NodeState, NodeVpc, RemoteNic, Steer, VpcPeer,
    build, gateway_mac, remotes, vpc_domain,
};
use multihome_vmm as vmm;
use multihome_vmm::images::ImageStore;

/// Everything that this node's plan depends on.
pub fn node_input(t: &Tables, node: &str) -> NodeInput {
    let nics: Vec<NodeNic> = t.nics_of_node(node).filter(|n| carrier(n).is_some()).map(|n| node_nic(n)).collect();
    let carried: BTreeSet<&str> = nics.iter().map(|n| n.network.as_str()).collect();
    let mine: BTreeSet<IpAddr> = nics.iter().flat_map(|n| n.addresses.iter().copied()).collect();
    let here = |f: &NodeFloating| f.node == node;
    let leads_here = |f: &NodeFloating| f.forwards.iter().any(|w| w.backends.iter().any(|b| mine.contains(b)));
    let planned = t.floating.values().filter(|f| f.metadata.deletion_timestamp.is_none());
    let planned: Vec<(Key, NodeFloating)> =
        planned.filter_map(|f| floating::planned(t, f)).filter(|(_, f)| here(f) || leads_here(f)).collect();
    let outside: Vec<Key> = planned.iter().filter(|(_, f)| here(f)).map(|(network, _)| network.clone()).collect();
    let floating = planned.into_iter().map(|(_, f)| f).collect();
    let mut here: BTreeSet<Key> =
        t.networks.keys().filter(|k| carried.contains(k.to_string().as_str())).cloned().collect();
    here.extend(outside);
    here.extend(hop_networks(t, &here));
    let own: BTreeSet<Key> = here.iter().filter_map(|k| vpc_of(t, k)).collect();
    let around = with_peers(t, &own);
    let (policies, members) = crate::policies::of_node(t, node);
    let mirrors = crate::mirrors::of_node(t, node);
    NodeInput { policies, members, mirrors, ..assemble(t, node, (here, nics, floating), &around) }
}

/// What the routing domain of a Vpc on this node, and those of its peers, depend on; and the namespaces of those domains.
fn domain_input(t: &Tables, node: &str, vpc: &Key) -> (NodeInput, Vec<String>) {
    // Who naming it leads to is told of it, too, and has peers of its own.
    let near: BTreeSet<Key> =
        with_peers(t, &[vpc.clone()].into()).into_iter().chain(vpc::naming(t, vpc).cloned()).collect();
    let around = with_peers(t, &near);
    let members = around.iter().flat_map(|v| vpc::members(t, v)).map(|(k, _)| k.clone());
    let (mut here, mut nics) = (BTreeSet::new(), vec![]);
    for network in members {
        let own = t.nics_of_network(&network).filter_map(|k| t.nics.get(k)).filter(|n| carrier(n) == Some(node));
        let before = nics.len();
        nics.extend(own.map(|n| node_nic(n)));
        if nics.len() > before {
            here.insert(network);
        }
    }
    here.extend(hop_networks(t, &here));
    let namespaces = near.iter().filter_map(|k| Some(vpc_domain(&t.vpcs.get(k)?.uid()?))).collect();
    (assemble(t, node, (here, nics, vec![]), &around), namespaces)
}

fn vpc_of(t: &Tables, network: &Key) -> Option<Key> {
    Some(Key::new(network.namespace.clone(), t.networks.get(network)?.spec.vpc.clone()?))
}

/// Vpcs, and those that they exchange something with.
fn with_peers(t: &Tables, own: &BTreeSet<Key>) -> BTreeSet<Key> {
    let mut all = own.clone();
    for vpc in own {
        let got = vpc::exchanges(vpc, &vpc::around(t, vpc));
        all.extend(got.into_iter().map(|e| e.other).filter(|k| t.vpcs.contains_key(k)));
    }
    all
}

type Carried = (BTreeSet<Key>, Vec<NodeNic>, Vec<NodeFloating>);

fn assemble(t: &Tables, node: &str, (here, nics, floating): Carried, around: &BTreeSet<Key>) -> NodeInput {
    let networks = here.iter().filter_map(|k| node_network(t, k)).collect();
    let vpcs: Vec<NodeVpc> = around.iter().filter_map(|k| node_vpc(t, k)).collect();
    let in_vpcs = around.iter().flat_map(|v| vpc::members(t, v)).map(|(k, _)| k.clone());
    let concerned: BTreeSet<Key> = here.iter().cloned().chain(in_vpcs).collect();
    let remote = concerned.iter().flat_map(|k| remote_nics(t, node, k)).collect();
    let fabrics: BTreeSet<&str> = vpcs.iter().map(|v| v.fabric.as_str()).collect();
    let ends = |fabric: &str| {
        let tunnels = t.tunnels(fabric);
        t.nodes.keys().filter_map(|k| Some((k.name.clone(), tunnels.to(&k.name)?))).collect()
    };
    let tunnels = fabrics.into_iter().map(|f| (f.to_owned(), ends(f))).collect();
    let node = fabric::facts(t, node);
    NodeInput { node, networks, nics, remote, floating, tunnels, vpcs, ..NodeInput::default() }
}

/// The networks that next hops of policy routes are in, of the Vpcs of these networks.
fn hop_networks(t: &Tables, here: &BTreeSet<Key>) -> Vec<Key> {
    let vpcs: BTreeSet<Key> = here.iter().filter_map(|k| vpc_of(t, k)).collect();
    let mut found = vec![];
    for (key, vpc) in vpcs.iter().filter_map(|k| Some((k, t.vpcs.get(k)?))) {
        let hops: Vec<_> = policy_routes(vpc).iter().filter_map(|r| r.action.hop()).collect();
        let holds = |n: &CheckedNetwork| vpc::subnets(n).iter().any(|s| hops.iter().any(|h| s.contains(h)));
        found.extend(vpc::members(t, key).filter(|(_, n)| !hops.is_empty() && holds(n)).map(|(k, _)| k.clone()));
    }
    found
}

/// A routing domain as the planner takes it.
fn node_vpc(t: &Tables, key: &Key) -> Option<NodeVpc> {
    let there = t.vpcs.get(key)?;
    let exchanged = vpc::exchanges(key, &vpc::around(t, key));
    let parsed =
        |r: &multihome_model::StaticRoute| Some((r.cidr.parse::<IpNet>().ok()?.trunc(), r.next_hop.parse().ok()?));
    let peer = |e: Exchange| Some(VpcPeer { uid: t.vpcs.get(&e.other)?.uid()?, subnets: e.subnets });
    Some(NodeVpc {
        uid: there.uid()?,
        key: key.to_string(),
        vni: there.status.as_ref().and_then(|s| s.vni).and_then(|v| Vni::new(v).ok()),
        mtu: vm::tunnel_mtu(t, there.spec.fabric()),
        fabric: there.spec.fabric().to_owned(),
        subnets: vpc::members(t, key).flat_map(|(_, n)| vpc::subnets(&n)).collect(),
        policy_routes: policy_routes(there),
        static_routes: there.spec.static_routes.iter().filter_map(parsed).collect(),
        peers: exchanged.into_iter().filter(|e| !e.subnets.is_empty()).filter_map(peer).collect(),
    })
}

fn policy_routes(vpc: &Vpc) -> Vec<NodePolicyRoute> {
    let checked = check_policy_routes(&vpc.spec.policy_routes, &mut Violations::default());
    let planned = |r: CheckedPolicyRoute| NodePolicyRoute {
        from: r.from,
        to: r.to,
        action: match r.action {
            CheckedAction::Reroute(hop) => Steer::Hop(hop),
            CheckedAction::Drop => Steer::Drop,
            CheckedAction::Allow => Steer::Allow,
        },
    };
    checked.into_iter().map(planned).collect()
}

/// What a NIC of this node takes by itself, where its network is in place: its tap and its facts.
pub fn local_change(t: &Tables, node: &str, nic: &Key) -> Option<NodeState> {
    let nic = t.nics.get(nic).filter(|n| carrier(n) == Some(node))?;
    let network = node_network(t, &multihome_control::world::network_key(nic))?;
    Some(build(&NodeInput { nics: vec![node_nic(nic)], networks: vec![network], ..NodeInput::default() }))
}

/// What the routing domain of a network, and those of its peers, are to be on this node; and their namespaces.
pub(crate) fn domain_change(t: &Tables, node: &str, network: &Key) -> Option<(NodeState, Vec<String>)> {
    let (input, namespaces) = domain_input(t, node, &vpc_of(t, network)?);
    Some((build(&input), namespaces))
}

/// How many facts about other nodes a change of a NIC elsewhere on this network is weighed against on this node.
pub fn remote_change(t: &Tables, node: &str, network: &Key) -> usize {
    match vpc_of(t, network) {
        Some(_) => {
            let Some((state, namespaces)) = domain_change(t, node, network) else { return 0 };
            let routes = namespaces.iter().filter_map(|ns| state.domains.get(ns)).map(|d| d.routes.len());
            routes.sum::<usize>() + state.remotes.values().map(|r| r.hosts.len()).sum::<usize>()
        }
        None => node_network(t, network)
            .and_then(|n| remotes(&n, false, &remote_nics(t, node, network)))
            .map_or(0, |(_, r)| r.hosts.len()),
    }
}

/// The node that carries a NIC whose MAC is settled.
pub(crate) fn carrier(nic: &NetworkInterface) -> Option<&str> {
    nic.status.as_ref().filter(|s| s.mac.is_some())?.node.as_deref()
}

/// The NICs of a network that other nodes carry.
pub(crate) fn remote_nics(t: &Tables, node: &str, network: &Key) -> Vec<RemoteNic> {
    let vpc = vpc_of(t, network).and_then(|v| t.vpcs.get(&v)?.uid());
    let name = network.to_string();
    let tunnels = t.tunnels(t.networks.get(network).map_or(MGMT_FABRIC, |n| n.spec.fabric()));
    let elsewhere = t.placed(network).filter(|p| p.node != node).map(|p| RemoteNic {
        network: name.clone(),
        vpc: vpc.clone(),
        mac: p.mac,
        addresses: p.addresses.clone(),
        security: p.security,
        node: p.node.clone(),
        via: tunnels.to(&p.node),
    });
    elsewhere.collect()
}

/// A network as the planner takes it.
pub(crate) fn node_network(t: &Tables, key: &Key) -> Option<NodeNetwork> {
    let network = t.networks.get(key)?;
    let spec = check_network(&key.name, &network.spec).ok()?;
    let vpc_uid = match &spec.vpc {
        Some(vpc) => Some(t.vpcs.get(&Key::new(key.namespace.clone(), vpc.clone()))?.uid()?),
        None => None,
    };
    let vni = network.status.as_ref().and_then(|s| s.vni).and_then(|v| Vni::new(v).ok());
    Some(NodeNetwork {
        uid: network.uid()?,
        key: key.to_string(),
        mtu: vm::effective_mtu(t, &spec),
        spec,
        vni,
        vpc_uid,
    })
}

/// A NIC as the planner takes it.
pub(crate) fn node_nic(nic: &NetworkInterface) -> NodeNic {
    NodeNic {
        uid: nic.uid().unwrap_or_default(),
        key: Key::of(nic).to_string(),
        network: multihome_control::world::network_key(nic).to_string(),
        mac: vm::nic_mac(nic),
        addresses: place::addresses(nic),
        security: nic.spec.port_security.unwrap_or_default(),
        queues: nic.spec.queues.unwrap_or(1),
        tx_queue_length: nic.spec.tx_queue_length,
        bandwidth: vm::nic_bandwidth(nic),
    }
}

/// What QEMU is started with. The error is a sentence for the user.
pub(crate) fn vm_spec(
    vmi: &VirtualMachineInstance,
    images: &ImageStore,
    dir: &std::path::Path,
) -> Result<vmm::VmSpec, String> {
    let spec = &vmi.spec;
    let uid = vmi.uid().unwrap_or_default();
    let boot = spec.domain.firmware.as_ref().and_then(|f| f.kernel_boot.as_ref());
    let mut kernel = None;
    if let Some(container) = boot.and_then(|b| b.container.as_ref()) {
        let image = images.lookup(&container.image).map_err(|e| e.to_string())?;
        let mut k = images.kernel_boot(&image).ok_or_else(|| {
            format!("image {:?} is a disk: import a kernel and an initramfs under that name", container.image)
        })?;
        if let Some(arguments) = boot.and_then(|b| b.kernel_args.clone()) {
            k.cmdline = arguments;
        }
        kernel = Some(k);
    }
    let mut disks = vec![];
    for disk in &spec.domain.devices.disks {
        let Some(volume) = spec.volumes.iter().find(|v| v.name == disk.name) else { continue };
        if let Some(c) = volume.container_disk.as_ref().or(volume.registry_disk.as_ref()) {
            let image = images.lookup(&c.image).map_err(|e| e.to_string())?;
            let path = dir.join(format!("{}.qcow2", disk.name));
            match images.overlay(&image, &path).map_err(|e| e.to_string())? {
                Some(d) => disks.push(d),
                // A kernel image in a disk's place boots directly, as container disks with a kernel do.
                None => kernel = kernel.or_else(|| images.kernel_boot(&image)),
            }
        } else if let Some(h) = &volume.host_disk {
            if let Ok(image) = images.lookup_disk(&h.path) {
                let path = dir.join(format!("{}.qcow2", disk.name));
                disks.extend(images.overlay(&image, &path).map_err(|e| e.to_string())?);
                continue;
            }
            let path = std::path::PathBuf::from(&h.path);
            if !path.exists() {
                return Err(format!(
                    "hostDisk {:?} does not exist on this node: create it, or import it as an image of that name",
                    h.path
                ));
            }
            let format = match std::fs::read(&path).ok().as_deref().and_then(|b| b.get(..4)) {
                Some(b"QFI\xfb") => vmm::DiskFormat::Qcow2,
                _ => vmm::DiskFormat::Raw,
            };
            disks.push(vmm::Disk { path, format, read_only: false, backing: None });
        }
    }
    if kernel.is_none() && disks.is_empty() {
        return Err("the VM has nothing to boot from: give it a containerDisk, a hostDisk or a kernelBoot image".into());
    }
    let name = Key::of(vmi).to_string();
    Ok(vmm::VmSpec {
        id: uid.clone(),
        name,
        uuid: Some(uid),
        vcpus: vm::vcpus(spec).min(255),
        memory_mib: u32::try_from(vm::memory_mib(spec)).unwrap_or(u32::MAX).max(32),
        kernel,
        disks,
        cdrom: spec.seed().map(|_| dir.join(crate::seed::FILE)),
        ports: vmm::DEFAULT_PORTS,
    })
}

/// A NIC's hardware.
pub(crate) fn nic_model(model: Option<NicModel>) -> vmm::NicModel {
    match model.unwrap_or_default() {
        NicModel::Virtio => vmm::NicModel::Virtio,
        NicModel::E1000 => vmm::NicModel::E1000,
        NicModel::E1000e => vmm::NicModel::E1000e,
        NicModel::Rtl8139 => vmm::NicModel::Rtl8139,
    }
}

/// The MAC that answers of a network's DHCP server come from: its gateway leg's, on this node.
pub(crate) fn server_mac(network_uid: &str, spec: &CheckedNetwork, node: &str) -> multihome_model::MacAddr {
    gateway_mac(network_uid, spec.kind, node)
}

/// The link-local address of a network's IPv6 router, and its MAC where the router is ours.
pub(crate) fn router(
    network_uid: &str,
    spec: &CheckedNetwork,
    node: &str,
) -> (std::net::Ipv6Addr, Option<multihome_model::MacAddr>) {
    let mac = server_mac(network_uid, spec, node);
    match spec.ipv6.as_ref().and_then(|s| s.gateway) {
        Some(std::net::IpAddr::V6(a)) if a.is_unicast_link_local() => (a, None),
        Some(_) if spec.owns_gateway => (mac.link_local(), Some(mac)),
        _ => (mac.link_local(), None),
    }
}

/// The server identifier: the network's gateway; where it has none, a link-local address that ports answer for.
pub(crate) fn server_address(spec: &CheckedNetwork) -> (std::net::Ipv4Addr, bool) {
    match spec.ipv4.as_ref().and_then(|s| s.gateway) {
        Some(std::net::IpAddr::V4(a)) => (a, false),
        _ => (std::net::Ipv4Addr::new(169, 254, 169, 253), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Three nodes; Vpcs a and b peer, b and c do, and d is alone; each has two networks with NICs here and there.
    fn world() -> Tables {
        let mut t = Tables::default();
        let read = |v: Value| serde_json::from_value(v);
        for n in 1..4 {
            let own = json!({"multihome.io/tunnel-address": format!("192.0.2.{n}")});
            t.put_node(
                serde_json::from_value(json!({"metadata": {"name": format!("node{n}"), "annotations": own}})).unwrap(),
            );
        }
        let peers = [("a", vec!["b"]), ("b", vec!["a", "c"]), ("c", vec!["b"]), ("d", vec![])];
        for (v, (name, peers)) in peers.into_iter().enumerate() {
            let peers: Vec<Value> = peers.into_iter().map(|p| json!({"vpc": p})).collect();
            let vpc = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "Vpc",
                "metadata": {"name": name, "namespace": "lab", "uid": format!("vpc-{name}")},
                "spec": {"peers": peers}, "status": {"vni": 900 + v}});
            t.put_vpc(serde_json::from_value(vpc).unwrap());
            for i in 0..2 {
                let (net, third) = (format!("{name}{i}"), 2 * v + i);
                let network = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "Network",
                    "metadata": {"name": net, "namespace": "lab", "uid": format!("net-{net}")},
                    "spec": {"type": "Overlay", "vpc": name,
                        "ipv4": {"cidr": format!("10.0.{third}.0/24"), "gateway": format!("10.0.{third}.1")}},
                    "status": {"vni": 100 + third}});
                t.put_network(serde_json::from_value(network).unwrap());
                // Vpc c is on the third node alone.
                let nodes = if name == "c" { 3..4 } else { 1 + i..3 + i.min(v % 2) };
                for n in nodes {
                    let nic = json!({"apiVersion": "multihome.io/v1alpha1", "kind": "NetworkInterface",
                        "metadata": {"name": format!("{net}-{n}"), "namespace": "lab", "uid": format!("nic-{net}-{n}")},
                        "spec": {"network": net, "vm": "x"},
                        "status": {"node": format!("node{n}"), "mac": format!("02:00:00:00:{third:02x}:{n:02x}"),
                            "ipv4": {"address": format!("10.0.{third}.{}/24", 10 + n)}}});
                    t.put_nic(read(nic).unwrap());
                }
            }
        }
        t
    }

    #[test]
    fn a_domain_by_itself_is_planned_as_in_the_whole() {
        let t = world();
        let mut compared = 0;
        for node in ["node1", "node2", "node3"] {
            let whole = build(&node_input(&t, node));
            for network in t.networks.keys() {
                let (state, namespaces) = domain_change(&t, node, network).unwrap();
                for ns in &namespaces {
                    let gist = |s: &NodeState| {
                        s.domains.get(ns).map(|d| (d.router.clone(), d.routes.clone(), d.peers.clone()))
                    };
                    assert_eq!(gist(&state), gist(&whole), "{network} on {node}: {ns}");
                    compared += usize::from(gist(&whole).is_some_and(|g| !g.1.is_empty()));
                }
                for (uplink, remotes) in &state.remotes {
                    assert_eq!(whole.remotes.get(uplink), Some(remotes), "{network} on {node}");
                }
            }
        }
        assert!(compared > 20, "{compared} domains with routes were compared");
    }
}
