//! What a VM's resources amount to: its NICs with their networks, its route plan, its size.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use kube::{Resource, ResourceExt};
use multihome_model::checked::{CheckedNetwork, check_network, check_nic};
use multihome_model::kubevirt::{Interface, NetworkSource, VirtualMachineInstanceSpec, network_source};
use multihome_model::{
    ANNOTATION_POD_NETWORK, ANNOTATION_POLICIES, ANNOTATION_POLICIES_OF, ANNOTATIONS_BANDWIDTH,
    ANNOTATIONS_BANDWIDTH_OF, Bandwidth, BandwidthSpec, Family, MGMT_FABRIC, MacAddr, Mtu, Network, NetworkInterface,
    NetworkType, names, quantity,
};
use multihome_plan::mtu;
use multihome_plan::route::{RoutePlan, VmNic, plan};

use crate::world::Tables;
use crate::{Key, connectivity};

/// One NIC of a VM, with its network.
#[derive(Debug, Clone)]
pub struct VmNicView {
    /// The NIC.
    pub nic: Arc<NetworkInterface>,
    /// Its network's key.
    pub network_key: Key,
    /// Its network.
    pub network: Arc<Network>,
    /// Its network's spec, checked, with what the nodes learnt of it.
    pub spec: CheckedNetwork,
    /// Its network's effective MTU.
    pub mtu: Mtu,
    /// Its MAC; the one that it would get where none is claimed yet.
    pub mac: MacAddr,
}

/// The NICs of a VM that stay, by order and name. NICs on networks that are missing or wrong are left out.
pub fn nics(tables: &Tables, vm: &Key) -> Vec<VmNicView> {
    let mut out: Vec<VmNicView> = tables
        .nics_of_vm(vm)
        .into_iter()
        .filter(|n| n.meta().deletion_timestamp.is_none())
        .filter_map(|nic| view(tables, nic))
        .collect();
    out.sort_by_key(|v| (v.nic.spec.order(), v.nic.name_any()));
    out
}

/// A NIC with its network; `None` if the network is missing or wrong.
pub fn view(tables: &Tables, nic: Arc<NetworkInterface>) -> Option<VmNicView> {
    let (network_key, network) = tables.network_of(&nic)?;
    let mut spec = check_network(&network.name_any(), &network.spec).ok()?;
    connectivity::heed(&mut spec, network.status.as_ref());
    let mtu = effective_mtu(tables, &spec);
    let mac = nic_mac(&nic);
    Some(VmNicView { nic, network_key, network, spec, mtu, mac })
}

/// A NIC's MAC, or the one that it would get.
pub fn nic_mac(nic: &NetworkInterface) -> MacAddr {
    let text = nic.status.as_ref().and_then(|s| s.mac.as_deref()).or(nic.spec.mac.as_deref());
    text.and_then(|m| m.parse().ok()).unwrap_or_else(|| names::derived_mac(&nic.uid().unwrap_or_default(), 0))
}

/// How much a NIC may carry, as far as it says so itself. What it says wrong is not said: it was refused when it was written.
pub fn nic_bandwidth(nic: &NetworkInterface) -> Bandwidth {
    check_nic(&nic.name_any(), &nic.spec).map(|n| n.bandwidth).unwrap_or_default()
}

/// A NIC's address in one family, as claimed.
pub fn nic_address(nic: &NetworkInterface, family: Family) -> Option<IpAddr> {
    let status = nic.status.as_ref()?;
    let a = match family {
        Family::IPv4 => status.ipv4.as_ref()?,
        Family::IPv6 => status.ipv6.as_ref()?,
    };
    a.address.parse::<IpNet>().map(|n| n.addr()).ok()
}

/// The MTU in force for a network.
pub fn effective_mtu(tables: &Tables, spec: &CheckedNetwork) -> Mtu {
    let fabric = tables.fabrics.get(&Key::new("", spec.fabric.clone())).map_or(1500, |f| f.spec.mtu());
    mtu::effective(
        spec.kind,
        Mtu::new(fabric).unwrap_or(Mtu::ETHERNET),
        spec.mtu,
        tunnels_over_ipv6(tables, &spec.fabric),
    )
}

/// The MTU of tunnels between nodes: what the fabric leaves that they go by.
pub fn tunnel_mtu(tables: &Tables, fabric: &str) -> Mtu {
    let mtu = tables.fabrics.get(&Key::new("", fabric)).map_or(1500, |f| f.spec.mtu());
    let mtu = Mtu::new(mtu).unwrap_or(Mtu::ETHERNET);
    mtu::ceiling(NetworkType::Overlay, mtu, tunnels_over_ipv6(tables, fabric))
}

/// Whether tunnels of a fabric may have IPv6 outside: then all of them leave room for it, so that an MTU holds on every node.
fn tunnels_over_ipv6(tables: &Tables, fabric: &str) -> bool {
    let own = tables.fabrics.get(&Key::new("", fabric)).map(|f| &f.spec.underlay).filter(|u| !u.is_empty());
    match own {
        Some(cidrs) => cidrs.iter().any(|c| c.contains(':')),
        None => tables.tunnels(fabric).all().any(|a| a.is_ipv6()),
    }
}

/// What each NIC of a VM is told.
pub fn route_plan(views: &[VmNicView]) -> RoutePlan {
    let names: Vec<String> = views.iter().map(|v| v.nic.name_any()).collect();
    let nics: Vec<VmNic<'_>> = views
        .iter()
        .zip(&names)
        .map(|(v, name)| VmNic {
            name,
            order: v.nic.spec.order(),
            wants_primary: v.nic.spec.primary == Some(true),
            mac: v.mac,
            network: &v.spec,
            mtu: v.mtu,
            ipv4: nic_address(&v.nic, Family::IPv4),
            ipv6: nic_address(&v.nic, Family::IPv6),
        })
        .collect();
    plan(&nics)
}

/// Virtual processors that an instance asks for.
pub fn vcpus(spec: &VirtualMachineInstanceSpec) -> u32 {
    if let Some(c) = &spec.domain.cpu {
        let product = c.cores.unwrap_or(1) * c.sockets.unwrap_or(1) * c.threads.unwrap_or(1);
        return product.max(1);
    }
    let request = spec.domain.resources.as_ref().and_then(|r| r.requests.get("cpu"));
    request.and_then(|q| quantity::cpus(&plain(q)).ok()).unwrap_or(1)
}

/// Memory that an instance asks for, in MiB; 256 where it asks for none.
pub fn memory_mib(spec: &VirtualMachineInstanceSpec) -> u64 {
    let guest = spec.domain.memory.as_ref().and_then(|m| m.guest.as_ref());
    let request = || spec.domain.resources.as_ref().and_then(|r| r.requests.get("memory"));
    let bytes = guest.or_else(request).and_then(|q| quantity::bytes(&plain(q)).ok());
    bytes.map_or(256, |b| (b >> 20).max(16))
}

fn plain(q: &serde_json::Value) -> String {
    q.as_str().map_or_else(|| q.to_string(), str::to_owned)
}

/// The management network that `pod` means in a namespace: the one that says so, else the only one.
///
/// # Errors
/// A sentence where there is none, or several without a mark.
pub fn pod_network<'a>(networks: impl Iterator<Item = (&'a Key, &'a Network)>, namespace: &str) -> Result<Key, String> {
    let here: Vec<(&Key, &Network)> =
        networks.filter(|(k, n)| k.namespace == namespace && n.spec.r#type == NetworkType::Management).collect();
    if let Some((k, _)) =
        here.iter().find(|(_, n)| n.annotations().get(ANNOTATION_POD_NETWORK).is_some_and(|v| v == "true"))
    {
        return Ok((*k).clone());
    }
    match here.as_slice() {
        [(k, _)] => Ok((*k).clone()),
        [] => Err(format!(
            "the pod network means the namespace's Network of type Management, and namespace {namespace:?} has none: create one, or use multus with networkName"
        )),
        several => Err(format!(
            "the pod network could mean any of {}: annotate one of them with {ANNOTATION_POD_NETWORK}=true",
            several.iter().map(|(k, _)| k.name.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// An interface of a VM's manifest with what it attaches to.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestNic {
    /// Its place.
    pub order: i32,
    /// The interface.
    pub interface: Interface,
    /// What it attaches to.
    pub source: NetworkSource,
    /// Whether it takes the pod network's place.
    pub default: bool,
}

/// The name of the pod network's interface where the manifest names no interface at all.
pub const DEFAULT_INTERFACE: &str = "default";

/// The SecurityGroups that a VM's annotations give an interface: its own, else those of all. Without either, the NIC's own spec
/// decides.
pub fn annotated_policies(annotations: &BTreeMap<String, String>, interface: &str) -> Option<Vec<String>> {
    let own = annotations.get(&format!("{ANNOTATION_POLICIES_OF}{interface}"));
    own.or_else(|| annotations.get(ANNOTATION_POLICIES)).map(|text| group_names(text))
}

/// The rates that a VM's annotations give an interface: its own, else those of all. A way of which they say nothing is the NIC's own
/// spec's affair.
pub fn annotated_bandwidth(annotations: &BTreeMap<String, String>, interface: &str) -> Option<BandwidthSpec> {
    let said = |way: usize| {
        let own = annotations.get(&format!("{}{interface}", ANNOTATIONS_BANDWIDTH_OF[way]));
        own.or_else(|| annotations.get(ANNOTATIONS_BANDWIDTH[way])).cloned()
    };
    Some(BandwidthSpec { ingress: said(0), egress: said(1) }).filter(|b| *b != BandwidthSpec::default())
}

/// The names of SecurityGroups in the value of an annotation.
pub fn group_names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The interfaces of a manifest, in its order. A manifest without any gets one on the pod network, as in KubeVirt,
/// unless it says `autoattachPodInterface: false`.
pub fn manifest_nics(spec: &VirtualMachineInstanceSpec) -> Vec<ManifestNic> {
    let devices = &spec.domain.devices;
    let interfaces = devices.interfaces.clone().unwrap_or_default();
    if interfaces.is_empty() && spec.networks.is_empty() && devices.autoattach_pod_interface != Some(false) {
        let interface = Interface { name: DEFAULT_INTERFACE.into(), ..Default::default() };
        return vec![ManifestNic { order: 0, interface, source: NetworkSource::Pod, default: false }];
    }
    let by_name: BTreeMap<&str, _> = spec.networks.iter().map(|n| (n.name.as_str(), n)).collect();
    interfaces
        .into_iter()
        .enumerate()
        .filter(|(_, i)| i.state.as_deref() != Some("absent"))
        .filter_map(|(order, interface)| {
            let network = by_name.get(interface.name.as_str())?;
            let default = network.multus.as_ref().is_some_and(|m| m.default == Some(true));
            Some(ManifestNic { order: order as i32, interface, source: network_source(network)?, default })
        })
        .collect()
}

/// The name of the NIC that an interface of a VM becomes.
pub fn nic_name(vm: &str, interface: &str) -> String {
    format!("{vm}-{interface}")
}

/// The fabric that every cluster has.
pub fn is_builtin_fabric(name: &str) -> bool {
    name == MGMT_FABRIC
}
