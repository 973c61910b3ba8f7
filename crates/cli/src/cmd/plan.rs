//! `plan`: what manifests would lead to, computed here and now, without a server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use multihome_control::admission::{Lookup, Refusal, Request, Rules, Verb};
use multihome_control::vm::{self, annotated_bandwidth, annotated_policies, manifest_nics, nic_name, pod_network};
use multihome_control::world::Tables;
use multihome_control::{Key, fabric, mirror, policy};
use multihome_model::kubevirt::NetworkSource;
use multihome_model::kubevirt::VirtualMachine;
use multihome_model::{
    ANNOTATION_PRIMARY, Direction, Family, MacAddr, NetworkInterface, NetworkInterfaceSpec, NetworkInterfaceStatus,
    NicAddressStatus, Vni,
};
use multihome_plan::node::{
    Floating, NodeInput, NodeNetwork, NodeNic, NodeState, Transport, UplinkKind, Via, build, diff,
};
use multihome_plan::policy::Rules as PolicyRules;
use multihome_plan::primary::FAMILIES;
use multihome_plan::{address, route};
use serde_json::{Value, json};

use super::apply::{identify, read_documents};
use crate::args::{Format, Plan};
use crate::output::{cells, table};
use crate::{CliError, CliResult, Output};

pub(super) fn run(args: &Plan, out: &mut Output) -> CliResult {
    let documents = read_documents(&args.filename)?;
    let planned = Planned::from_documents(&documents)?;
    if args.output == Format::Json {
        let mut value = json!({"vms": planned.vms()});
        if let Some(node) = &args.node {
            value["node"] = serde_json::to_value(planned.steps(node))?;
        }
        out.json(&value)?;
    } else {
        planned.text(args.node.as_deref()).into_iter().for_each(|l| out.line(l));
    }
    Ok(0)
}

/// The text of a plan for manifests.
///
/// # Errors
/// When a document is refused.
pub fn plan_text(documents: &[Value], node: Option<&str>) -> Result<Vec<String>, CliError> {
    Ok(Planned::from_documents(documents)?.text(node))
}

/// What is stored so far, as admission reads it.
#[derive(Default)]
struct Shelf(BTreeMap<(String, String, String, String), Arc<Value>>);

impl Lookup for Shelf {
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let key = (group.to_owned(), plural.to_owned(), namespace.unwrap_or_default().to_owned(), name.to_owned());
        self.0.get(&key).cloned()
    }
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let here = |k: &(String, String, String, String)| {
            k.0 == group && k.1 == plural && namespace.is_none_or(|ns| k.2 == ns)
        };
        self.0.iter().filter(|(k, _)| here(k)).map(|(_, v)| v.clone()).collect()
    }
}

pub(super) struct Planned {
    tables: Tables,
    /// The VMs that the manifests describe.
    pub(super) vms: Vec<Key>,
}

impl Planned {
    pub(super) fn from_documents(documents: &[Value]) -> Result<Self, CliError> {
        let mut p = Planned { tables: Tables::default(), vms: vec![] };
        let mut shelf = Shelf::default();
        for d in documents {
            let (kind, name, namespace) = identify(d)?;
            let ns = if kind.namespaced { namespace.unwrap_or_else(|| "default".into()) } else { String::new() };
            let mut object = d.clone();
            object["metadata"]["namespace"] = json!(ns);
            object["metadata"]["uid"] = json!(format!("{}/{ns}/{name}", kind.resource.kind));
            let (group, plural) = (kind.resource.group.clone(), kind.resource.plural.clone());
            let request = Request {
                verb: Verb::Create,
                group: &group,
                plural: &plural,
                namespace: &ns,
                name: &name,
                old: None,
                new: Some(&object),
            };
            Rules::default().validate(&request, &shelf).map_err(|r| refusal(&kind.label(), &name, r))?;
            p.put(&kind.resource.kind, &object).map_err(|e| CliError::new(format!("{}/{name}: {e}", kind.label())))?;
            shelf.0.insert((group, plural, ns, name), Arc::new(object));
        }
        p.claim_addresses()?;
        Ok(p)
    }

    fn put(&mut self, kind: &str, object: &Value) -> Result<(), serde_json::Error> {
        put_object(&mut self.tables, kind, object.clone())?;
        if kind == "VirtualMachine" {
            let machine: VirtualMachine = serde_json::from_value(object.clone())?;
            self.vms.push(Key::of(&machine));
            self.nics_of(&machine);
        }
        Ok(())
    }

    /// The NICs that a VM's manifest becomes, as the controller makes them.
    fn nics_of(&mut self, machine: &VirtualMachine) {
        let key = Key::of(machine);
        for m in manifest_nics(&machine.spec.template.spec) {
            let network = match &m.source {
                NetworkSource::Named(n) => n.clone(),
                NetworkSource::Pod => {
                    let all = self.tables.networks.iter().map(|(k, n)| (k, n.as_ref()));
                    pod_network(all, &key.namespace).map(|k| k.name).unwrap_or_default()
                }
            };
            let name = nic_name(&key.name, &m.interface.name);
            let primary = machine.annotations().get(ANNOTATION_PRIMARY).map_or(m.default, |p| *p == m.interface.name);
            let spec = NetworkInterfaceSpec {
                network,
                vm: Some(key.name.clone()),
                order: Some(m.order),
                primary: primary.then_some(true),
                mac: m.interface.mac_address.clone(),
                policies: annotated_policies(machine.annotations(), &m.interface.name).unwrap_or_default(),
                bandwidth: annotated_bandwidth(machine.annotations(), &m.interface.name),
                ..Default::default()
            };
            let mut nic = NetworkInterface::new(&name, spec);
            nic.metadata = ObjectMeta {
                namespace: Some(key.namespace.clone()),
                uid: Some(format!("NetworkInterface/{}/{name}", key.namespace)),
                ..nic.metadata
            };
            self.tables.put_nic(nic);
        }
    }

    /// Gives every NIC the addresses that it would get on an empty network.
    fn claim_addresses(&mut self) -> Result<(), CliError> {
        let mut taken: BTreeMap<Key, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut nics: Vec<NetworkInterface> = self.tables.nics.values().map(|n| n.as_ref().clone()).collect();
        // Addresses that are asked for go first, as they would if they were there already.
        nics.sort_by_key(|n| (n.spec.ipv4.is_none(), n.spec.vm().map(str::to_owned), n.spec.order(), n.name_any()));
        for mut nic in nics {
            let Some(view) = vm::view(&self.tables, Arc::new(nic.clone())) else { continue };
            let mut status = NetworkInterfaceStatus {
                mac: Some(view.mac.to_string()),
                mtu: Some(view.mtu.get()),
                ..Default::default()
            };
            for family in FAMILIES {
                let Some(subnet) = view.spec.subnet(family) else { continue };
                let wish = nic.spec.family(family).and_then(|f| f.address.as_ref()).and_then(|a| a.parse().ok());
                let used = taken.entry(view.network_key.clone()).or_default();
                // A guest forms the address of its MAC where it forms one at all.
                let formed = subnet.formed_prefix().map(|p| IpAddr::V6(view.mac.eui64(p)));
                let a = match formed.or(wish) {
                    Some(a) => a,
                    None => address::choose(subnet, used)
                        .map_err(|e| CliError::new(format!("NIC {}: {e}", nic.name_any())))?,
                };
                used.insert(a);
                let held = NicAddressStatus {
                    address: format!("{a}/{}", subnet.cidr.prefix_len()),
                    gateway: subnet.gateway.map(|g| g.to_string()),
                    ..Default::default()
                };
                match family {
                    Family::IPv4 => status.ipv4 = Some(held),
                    Family::IPv6 => status.ipv6 = Some(held),
                }
            }
            nic.status = Some(status);
            self.tables.nics.insert(Key::of(&nic), Arc::new(nic));
        }
        Ok(())
    }

    fn vms(&self) -> Vec<Value> {
        let plan = |key: &Key| json!({"vm": key.to_string(), "plan": route::RoutePlan::clone(&self.plan_of(key).1)});
        self.vms.iter().map(plan).collect()
    }

    pub(super) fn plan_of(&self, key: &Key) -> (Vec<vm::VmNicView>, route::RoutePlan) {
        let views = vm::nics(&self.tables, key);
        let plan = vm::route_plan(&views);
        (views, plan)
    }

    fn steps(&self, node: &str) -> Vec<multihome_plan::node::Step> {
        let mut input = NodeInput { node: fabric::facts(&self.tables, node), ..NodeInput::default() };
        for (i, (key, network)) in self.tables.networks.iter().enumerate() {
            let Ok(spec) = multihome_model::checked::check_network(&key.name, &network.spec) else { continue };
            let vpc = spec.vpc.as_ref().and_then(|v| self.tables.vpcs.get(&Key::new(key.namespace.clone(), v.clone())));
            input.networks.push(NodeNetwork {
                uid: network.uid().unwrap_or_default(),
                key: key.to_string(),
                mtu: vm::effective_mtu(&self.tables, &spec),
                // Chosen by the controller in the end; any stands for it here.
                vni: spec.vni.or_else(|| Vni::new(i as u32 + 1).ok()),
                vpc_uid: vpc.and_then(|v| v.uid()),
                spec,
            });
        }
        for nic in self.tables.nics.values().filter(|n| n.spec.vm().is_some()) {
            let s = nic.status.clone().unwrap_or_default();
            let all = [s.ipv4, s.ipv6];
            let addresses =
                all.iter().flatten().filter_map(|a| a.address.parse::<ipnet::IpNet>().ok()).map(|n| n.addr());
            input.nics.push(NodeNic {
                uid: nic.uid().unwrap_or_default(),
                key: Key::of(nic.as_ref()).to_string(),
                network: multihome_control::world::network_key(nic).to_string(),
                mac: s.mac.and_then(|m| m.parse().ok()).unwrap_or(MacAddr([0; 6])),
                addresses: addresses.collect(),
                security: nic.spec.port_security.unwrap_or_default(),
                queues: nic.spec.queues.unwrap_or(1),
                tx_queue_length: nic.spec.tx_queue_length,
                bandwidth: vm::nic_bandwidth(nic),
            });
        }
        let nics = || self.tables.nics.values().filter(|n| n.spec.vm().is_some());
        let enforced = |n: &Arc<NetworkInterface>| Some((n.uid()?, policy::enforced(&self.tables, n)?.policy));
        input.policies = nics().filter_map(enforced).collect();
        let mirrored = |n: &Arc<NetworkInterface>| Some((n.uid()?, mirror::planned(&self.tables, n)?));
        input.mirrors = nics().filter_map(mirrored).collect();
        input.members = policy::members(&self.tables, nics().map(|n| &**n));
        diff(&NodeState::default(), &build(&input))
    }

    /// What is enforced at NICs, where anything is.
    fn policies(&self, views: &[vm::VmNicView]) -> Vec<String> {
        let mut rows = vec![];
        for view in views {
            let Some(e) = policy::enforced(&self.tables, &view.nic) else { continue };
            let name = view.nic.name_any();
            for direction in Direction::ALL {
                let of = e.sources.iter().filter(|s| s.direction == direction);
                rows.extend(
                    of.map(|s| [&name, direction.as_str(), &s.text, &s.group.to_string()].map(str::to_owned).to_vec()),
                );
                let (_, action, because) = &e.defaults[usize::from(direction == Direction::Egress)];
                let rest = format!("{action:?} the rest: {because}");
                rows.push([&name, direction.as_str(), &rest, ""].map(str::to_owned).to_vec());
            }
        }
        if rows.is_empty() {
            return vec![];
        }
        let shown = table(&cells(["NIC", "DIRECTION", "RULE", "GROUP"]), &rows);
        std::iter::once(String::new()).chain(shown.into_iter().map(|l| format!("  {l}"))).collect()
    }

    fn text(&self, node: Option<&str>) -> Vec<String> {
        let mut lines = vec![];
        for key in &self.vms {
            let (views, plan) = self.plan_of(key);
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("VM {key}"));
            let header = cells(["NIC", "NETWORK", "MAC", "ADDRESS", "GATEWAY", "DEFAULT ROUTE", "MTU", "ROUTES"]);
            let mut rows = vec![];
            for n in &plan.nics {
                let network = views.iter().find(|v| v.nic.name_any() == n.name).map(|v| v.network_key.name.clone());
                for f in [&n.ipv4, &n.ipv6].into_iter().flatten() {
                    let routes: Vec<String> = f.routes.iter().map(|r| format!("{} via {}", r.to, r.via)).collect();
                    rows.push(vec![
                        n.name.clone(),
                        network.clone().unwrap_or_default(),
                        n.mac.to_string(),
                        f.address.map(|a| a.to_string()).unwrap_or_else(|| "by its DHCP server".into()),
                        f.gateway.map(|g| g.to_string()).unwrap_or_else(|| "none".into()),
                        if f.default_route { "yes" } else { "no" }.into(),
                        n.mtu.to_string(),
                        if routes.is_empty() { "none".into() } else { routes.join(", ") },
                    ]);
                }
            }
            lines.extend(table(&header, &rows).into_iter().map(|l| format!("  {l}")));
            lines.extend(self.policies(&views));
        }
        if let Some(node) = node {
            lines.push(String::new());
            lines.push(format!("Steps on node {node}, from nothing:"));
            lines.extend(self.steps(node).iter().map(|s| format!("  {}", describe(s))));
        }
        lines
    }
}

/// The kinds that plans depend on.
pub(super) const KINDS: [&str; 9] = [
    "Network",
    "ClusterNetwork",
    "Node",
    "Vpc",
    "NetworkInterface",
    "FloatingIP",
    "SecurityGroup",
    "VirtualMachine",
    "VirtualMachineInstance",
];

/// Puts an object of one of [`KINDS`] where plans are made from; others are nothing to them.
pub(super) fn put_object(tables: &mut Tables, kind: &str, v: Value) -> Result<(), serde_json::Error> {
    match kind {
        "Network" => tables.put_network(serde_json::from_value(v)?),
        "ClusterNetwork" => tables.put_fabric(serde_json::from_value(v)?),
        "Node" => tables.put_node(serde_json::from_value(v)?),
        "Vpc" => tables.put_vpc(serde_json::from_value(v)?),
        "NetworkInterface" => tables.put_nic(serde_json::from_value(v)?),
        "FloatingIP" => tables.put_floating(serde_json::from_value(v)?),
        "SecurityGroup" => tables.put_group(serde_json::from_value(v)?),
        "VirtualMachine" => tables.put_vm(serde_json::from_value(v)?),
        "VirtualMachineInstance" => tables.put_vmi(serde_json::from_value(v)?),
        _ => {}
    }
    Ok(())
}

fn refusal(kind: &str, name: &str, r: Refusal) -> CliError {
    let text = match r {
        Refusal::Forbidden(text) => text,
        Refusal::Invalid(list) => {
            list.into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; ")
        }
    };
    CliError::new(format!("{kind}/{name}: {text}"))
}

pub(super) fn describe(step: &multihome_plan::node::Step) -> String {
    use multihome_plan::node::{Security, Step};
    match step {
        Step::CreateDomain(ns) => format!("namespace {ns}"),
        Step::PutBond(n, b) => {
            let nics = b.nics.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
            format!("bond {n} of {nics} for {}, {}, MTU {}", b.alias, b.mode.as_str(), b.mtu)
        }
        Step::PutFabric(n, f) => {
            let out = match &f.uplink {
                Some(u) => {
                    let inner =
                        u.untagged.map(|id| format!(", VLAN {} inside for no tag", id.get())).unwrap_or_default();
                    format!("{} with VLANs {}{inner}", u.device, u.tagged)
                }
                None => "no device".into(),
            };
            format!("bridge {n} for trunks on {}, out by {out}, MTU {}", f.alias, f.mtu)
        }
        Step::PutBridge(n, b) => format!("bridge {n} for {}, MTU {}", b.alias, b.mtu),
        Step::PutUplink(n, u) => {
            let what = match &u.kind {
                UplinkKind::Vxlan { vni, .. } => format!("VXLAN {}", vni.get()),
                UplinkKind::Vlan { parent, id } => format!("VLAN {} of {parent}", id.get()),
                UplinkKind::Device => "the device as it is".into(),
            };
            format!("{n}: {}, {what}, port of {}, MTU {}", u.alias, u.bridge, u.mtu)
        }
        Step::PutLeg(ns, n, l) => {
            let addresses: Vec<String> = l.addresses.iter().map(ToString::to_string).collect();
            format!("{n}: {} with {} in {ns}, port of {}", l.alias, addresses.join(", "), l.bridge)
        }
        Step::PutEgress(ns, e) => format!("{}: way out of {ns}, {} to {}", e.host, e.peer_address, e.host_address),
        Step::PutPort(n, p) => match &p.security {
            Security::Strict { mac, .. } => format!("{n}: only {mac} and its addresses may send"),
            Security::Trunk(Some(mac)) => format!("{n}: only {mac} may send, with or without a tag"),
            Security::Promiscuous | Security::Trunk(None) => format!("{n}: anything may send"),
        },
        Step::PutMembers(group, members) => format!("group {group}: {} addresses", members.len()),
        Step::DeleteMembers(group) => format!("forget group {group}"),
        Step::PutPolicy(n, p) => {
            let rules = |r: &PolicyRules| match r.rules.len() {
                1 => format!("1 rule, then {:?}", r.otherwise),
                n => format!("{n} rules, then {:?}", r.otherwise),
            };
            format!("{n}: towards it {}; from it {}", rules(&p.ingress), rules(&p.egress))
        }
        Step::DeletePolicy(n) => format!("{n}: everything may be opened"),
        Step::PutTap(n, t) => {
            let vlans = t.vlans.as_ref().map(|v| {
                let native = v.native.map(|id| format!(", {} without a tag", id.get())).unwrap_or_default();
                format!(", VLANs {}{native}", v.tagged)
            });
            let limits = if t.bandwidth.is_unlimited() { String::new() } else { format!(", {}", t.bandwidth) };
            format!("tap {n} for {}, port of {}{}, MTU {}{limits}", t.alias, t.bridge, vlans.unwrap_or_default(), t.mtu)
        }
        Step::PutMirror(n, m) => format!("{n}: copied to {}, {}", m.to, m.direction),
        Step::DeleteMirror(n) => format!("{n}: not copied any more"),
        Step::PutFlood(n, f) => {
            let nodes: Vec<String> = f.nodes.iter().map(ToString::to_string).collect();
            let nobody = "no other node".to_owned();
            format!("{n}: broadcasts to {}", if nodes.is_empty() { nobody } else { nodes.join(", ") })
        }
        Step::PutRemote(n, mac, r) => format!("{n}: {mac} on node {}", r.via),
        Step::PutRouter(ns, r) => {
            format!("{}: tunnel of {ns} to {} other nodes, VNI {}", r.device, r.nodes.len(), r.vni.get())
        }
        Step::DeleteRouter(ns, n) => format!("remove tunnel {n} of {ns}"),
        Step::PutPeering(p) => format!("link {} and {}", p.ends[0].0, p.ends[1].0),
        Step::DeletePeering(ns, n) => format!("remove link {n} of {ns}"),
        Step::PutFloating(ns, _, f) => format!("{ns}: {} leads to {}", f.address, led_text(f)),
        Step::DeleteFloating(ns, n) => format!("{ns}: remove floating address {n}"),
        Step::PutReturns(ns, returns) => {
            let targets: usize = returns.routers.values().map(|r| r.targets.len()).sum();
            format!("{ns}: {targets} ports of NICs answer by {} other nodes", returns.routers.len())
        }
        Step::PutRoute(ns, to, via) => format!("{ns}: {to} {}", via_text(via)),
        Step::PutPolicyRoutes(ns, routes) => format!("{ns}: {} policy routes", routes.len()),
        Step::DeleteRoute(ns, to) => format!("{ns}: no route to {to}"),
        Step::DeleteRemote(n, mac) => format!("{n}: forget {mac}"),
        Step::DeleteDomain(n) => format!("remove namespace {n}"),
        Step::DeleteBond(n)
        | Step::DeleteFabric(n)
        | Step::DeleteBridge(n)
        | Step::DeleteUplink(n)
        | Step::DeletePort(n)
        | Step::DeleteTap(n) => {
            format!("remove {n}")
        }
        Step::DeleteLeg(_, n) | Step::DeleteEgress(_, n) => format!("remove {n}"),
    }
}

/// The NIC that all of an address leads to, or how many NICs each of its ports does.
fn led_text(f: &Floating) -> String {
    let ports = f.forwards.iter().map(|w| {
        let protocol = if w.transport == Transport::Tcp { "TCP" } else { "UDP" };
        let to: Vec<String> = w.backends.iter().map(ToString::to_string).collect();
        let how = if to.len() > 1 { format!(" ({:?})", f.algorithm) } else { String::new() };
        format!("port {} of {} by {protocol} port {}{how}", w.target, to.join(", "), w.port)
    });
    f.target.map_or_else(|| ports.collect::<Vec<_>>().join("; "), |target| target.to_string())
}

fn via_text(via: &Via) -> String {
    match via {
        Via::Router(mac) => format!("by the router {mac} of another node"),
        Via::Hop(hop) => format!("via {hop}"),
        Via::Peer(device) => format!("by the link {device}"),
        Via::Unreachable => "is unreachable".into(),
    }
}
