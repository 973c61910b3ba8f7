//! The NICs that a floating address leads to: which they are, whether each is ready, and which node has the address. All of it is
//! decided here, for the controller, which writes it down, and for the agents, which follow what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use kube::ResourceExt;
use multihome_model::checked::{
    CheckedFloatingIP, CheckedForward, CheckedHealthCheck, LeadsTo, check_floating_ip, check_network,
};
use multihome_model::condition::find;
use multihome_model::{Backend, Condition, FloatingIP, FloatingIPSpec, MGMT_FABRIC, NetworkInterface};

use crate::floating::target;
use crate::world::{Tables, network_key, vm_key};
use crate::{Key, status};

/// The label that every NIC has besides its own and those of its VM: the name of its Network.
pub const LABEL_NETWORK: &str = "multihome.io/network";

/// Reasons of NICs that conversations can be led to. Where none is ready, all of these get them.
const RUNNING: [&str; 4] = [READY, NOT_CHECKED, CHECK_FAILED, NODE_SILENT];
const READY: &str = "Ready";
const NOT_CHECKED: &str = "NotChecked";
const CHECK_FAILED: &str = "CheckFailed";
const NODE_SILENT: &str = "NodeSilent";
const NOT_RUNNING: &str = "NotRunning";
const NO_ADDRESS: &str = "NoAddress";
const NIC_MISSING: &str = "NICMissing";
const NOT_BEHIND_GATEWAY: &str = "NotBehindGateway";
const OTHER_DOMAIN: &str = "OtherDomain";
const OTHER_NODE: &str = "OtherNode";

/// A routing domain.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Domain {
    Vpc(Key),
    /// A network that names no Vpc.
    Network(Key),
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vpc(k) => write!(f, "Vpc {k}"),
            Self::Network(k) => write!(f, "Network {k}"),
        }
    }
}

/// What becomes of a floating address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The node that has it.
    pub node: Option<String>,
    /// The NICs that it leads to, by name.
    pub backends: BTreeMap<String, Backend>,
}

/// A question that a node asks a NIC of its own, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The FloatingIP.
    pub floating: Key,
    /// The NIC's name.
    pub nic: String,
    /// Uid of the NIC's routing domain: of a Vpc, or of a Network that names none.
    pub domain: String,
    /// Whom to ask; all must answer.
    pub at: BTreeSet<SocketAddr>,
    /// The same, as status says it.
    pub asked: String,
    /// How often, and for how long.
    pub check: CheckedHealthCheck,
    /// What it said last time, if it was asked before.
    pub passed: Option<bool>,
}

/// Whether conversations can be led to a NIC at all.
pub(crate) fn runs(b: &Backend) -> bool {
    RUNNING.contains(&b.reason.as_str())
}

/// Those of some NICs that conversations are led to: the ready ones, or all that run where none is.
pub(crate) fn in_use<'a>(backends: &'a BTreeMap<String, Backend>, names: &'a [String]) -> Vec<(&'a str, &'a Backend)> {
    let all = || names.iter().filter_map(|n| Some((n.as_str(), backends.get(n)?)));
    let ready: Vec<_> = all().filter(|(_, b)| b.ready).collect();
    if ready.is_empty() { all().filter(|(_, b)| runs(b)).collect() } else { ready }
}

/// The names of the NICs that each forward leads to, in the order in which they are said, or by name where they are selected. Of an
/// address without forwards, the one that all of it leads to. `among` are those that are known already, if so.
pub(crate) fn names(
    t: &Tables,
    namespace: &str,
    checked: &CheckedFloatingIP,
    among: Option<&BTreeMap<String, Backend>>,
) -> Vec<Vec<String>> {
    let own = || checked.nic.iter().cloned().collect::<Vec<_>>();
    if checked.forwards.is_empty() {
        return vec![own()];
    }
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut all = vec![];
    for forward in &checked.forwards {
        let here = match &forward.to {
            LeadsTo::Default => own(),
            LeadsTo::Named(nics) => nics.clone(),
            LeadsTo::Selected(labels) => selected(t, namespace, labels, among),
        };
        let fits = |n: &String| {
            let fits = known.contains(n) || known.len() < FloatingIPSpec::MOST_BACKENDS;
            if fits {
                known.insert(n.clone());
            }
            fits
        };
        all.push(here.into_iter().filter(fits).collect());
    }
    all
}

/// The NICs that have labels, by name.
fn selected(
    t: &Tables,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    among: Option<&BTreeMap<String, Backend>>,
) -> Vec<String> {
    let has = |name: &String| {
        let nic = t.nics.get(&Key::new(namespace, name.clone()));
        nic.is_some_and(|nic| has_labels(t, nic, labels))
    };
    if let Some(known) = among {
        return known.keys().filter(|n| has(n)).cloned().collect();
    }
    let here = t.nics.iter().filter(|(k, nic)| k.namespace == namespace && has_labels(t, nic, labels));
    let mut found: Vec<String> = here.map(|(k, _)| k.name.clone()).collect();
    found.sort();
    found
}

/// Whether an address leads to a NIC of a network.
pub(crate) fn leads_into(t: &Tables, floating: &FloatingIP, network: &Key) -> bool {
    let namespace = floating.namespace().unwrap_or_default();
    let known = floating.status.iter().flat_map(|s| s.backends.keys());
    known.filter_map(|n| t.nics.get(&Key::new(namespace.clone(), n.clone()))).any(|n| network_key(n) == *network)
}

/// Whether an address may lead to a NIC, or did.
pub(crate) fn concerns(t: &Tables, floating: &FloatingIP, nic: &Key) -> bool {
    let spec = &floating.spec;
    let selects = |labels: &BTreeMap<String, String>| {
        !labels.is_empty() && t.nics.get(nic).is_some_and(|nic| has_labels(t, nic, labels))
    };
    floating.namespace().as_ref() == Some(&nic.namespace)
        && (spec.nic.as_ref() == Some(&nic.name)
            || floating.status.as_ref().is_some_and(|s| s.backends.contains_key(&nic.name))
            || spec.forwards.iter().any(|f| f.nics.contains(&nic.name) || selects(&f.nic_selector)))
}

/// Whether a NIC has labels: its own, those of its VM and of that one's instances, and the name of its network.
fn has_labels(t: &Tables, nic: &NetworkInterface, wanted: &BTreeMap<String, String>) -> bool {
    let vm = vm_key(nic);
    let of_vm = vm.as_ref().and_then(|k| t.vms.get(k));
    let template = of_vm.and_then(|v| v.spec.template.metadata.as_ref()?.get("labels"));
    let instance = vm.as_ref().and_then(|k| t.vmis.get(k));
    wanted.iter().all(|(key, value)| {
        if key == LABEL_NETWORK {
            return network_key(nic).name == *value;
        }
        let has = |labels: &BTreeMap<String, String>| labels.get(key).map(|v| v == value);
        has(nic.labels())
            .or_else(|| has(instance?.labels()))
            .or_else(|| template?.get(key).map(|v| v.as_str() == Some(value)))
            .or_else(|| has(of_vm?.labels()))
            .unwrap_or(false)
    })
}

/// The ports that a NIC is asked at.
fn asked_ports(checked: &CheckedFloatingIP, names: &[Vec<String>], nic: &str) -> BTreeSet<u16> {
    let Some(check) = &checked.health_check else { return BTreeSet::new() };
    let leads = |(forward, names): (&CheckedForward, &Vec<String>)| {
        (!forward.udp && names.iter().any(|n| n == nic)).then_some(forward.target)
    };
    match check.port {
        Some(port) => BTreeSet::from([port]),
        None => checked.forwards.iter().zip(names).filter_map(leads).collect(),
    }
}

fn asked_text(address: IpAddr, ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match address {
        IpAddr::V4(a) => format!("{a}:{}", ports.join(",")),
        IpAddr::V6(a) => format!("[{a}]:{}", ports.join(",")),
    }
}

/// The domain of a NIC, where its gateway is ours; else why it has none.
fn domain_of(t: &Tables, key: &Key) -> Result<Domain, (&'static str, String)> {
    let name = &key.name;
    let Some(nic) = t.nics.get(key) else {
        let text = format!("NIC {name:?} does not exist in namespace {:?}: create it", key.namespace);
        return Err((NIC_MISSING, text));
    };
    let network = network_key(nic);
    let checked = t.networks.get(&network).and_then(|n| check_network(&network.name, &n.spec).ok());
    match checked {
        Some(n) if !n.owns_gateway => Err((
            NOT_BEHIND_GATEWAY,
            format!(
                "NIC {name} is on Network {network}, whose gateway is not Multihome's: a floating address leads behind one that is"
            ),
        )),
        Some(n) => Ok(match n.vpc {
            Some(vpc) => Domain::Vpc(Key::new(network.namespace, vpc)),
            None => Domain::Network(network),
        }),
        None => Ok(Domain::Network(network)),
    }
}

/// Whether a node does not speak any more, or was removed. Where no node is known, nothing is known of this one.
fn is_silent(t: &Tables, node: &str) -> bool {
    let Some(known) = t.nodes.get(&Key::new("", node)) else { return !t.nodes.is_empty() };
    let conditions = known.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status != "True")
}

/// Whether a node has an uplink to the fabric of the network that an address is from.
pub(crate) fn has_uplink(t: &Tables, floating: &FloatingIP, node: &str) -> bool {
    let fabric = fabric_of(t, floating);
    crate::fabric::facts(t, node).fabrics.get(&fabric).is_some_and(|f| f.device.is_some())
}

/// The fabric of the network that an address is from; empty if there is no such network.
pub(crate) fn fabric_of(t: &Tables, floating: &FloatingIP) -> String {
    let outside = Key::reference(&floating.spec.network, &floating.namespace().unwrap_or_default());
    t.networks.get(&outside).map(|n| n.spec.fabric().to_owned()).unwrap_or_default()
}

/// Decides which NICs an address leads to, which of them are ready, and which node has it.
pub fn decide(t: &Tables, floating: &FloatingIP) -> Decision {
    let key = Key::of(floating);
    let Ok(checked) = check_floating_ip(&key.name, &floating.spec) else { return Decision::default() };
    let by_forward = names(t, &key.namespace, &checked, None);
    let mut all: Vec<&String> = vec![];
    for name in by_forward.iter().flatten() {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let known = floating.status.as_ref().map(|s| &s.backends);
    let domains: BTreeMap<&String, _> =
        all.iter().map(|n| (*n, domain_of(t, &Key::new(key.namespace.clone(), (*n).clone())))).collect();
    // One that joins does not turn out those that are there.
    let was_ready = |n: &&&String| known.is_some_and(|k| k.get(**n).is_some_and(|b| b.ready));
    let home = all.iter().filter(was_ready).chain(&all).find_map(|n| domains.get(*n)?.as_ref().ok()).cloned();
    let mut backends = BTreeMap::new();
    for name in &all {
        let nic = Key::new(key.namespace.clone(), (*name).clone());
        let judged = match &domains[*name] {
            Err((reason, text)) => Backend { reason: (*reason).into(), message: text.clone(), ..Backend::default() },
            Ok(domain) => {
                let ports = asked_ports(&checked, &by_forward, name);
                let health = known.and_then(|k| k.get(*name)?.health.clone());
                judge(t, &nic, &checked, Backend { health, ..Backend::default() }, &ports, (domain, home.as_ref()))
            }
        };
        backends.insert((*name).clone(), judged);
    }
    let order: Vec<String> = all.into_iter().cloned().collect();
    let node = choose(t, floating, &backends, &order);
    if let (Some(node), Some(home)) = (&node, &home) {
        leave_out(t, node, home, &mut backends);
    }
    Decision { node, backends }
}

/// What is the case with a NIC that is behind a gateway of ours.
fn judge(
    t: &Tables,
    key: &Key,
    checked: &CheckedFloatingIP,
    mut b: Backend,
    ports: &BTreeSet<u16>,
    (domain, home): (&Domain, Option<&Domain>),
) -> Backend {
    let name = &key.name;
    let nic = t.nics.get(key);
    let address = nic.and_then(|n| target(n, checked.family));
    b.address = address.map(|a| a.to_string());
    b.node = nic.and_then(|n| n.status.as_ref()?.node.clone());
    let health = b.health.take();
    let mut say = |reason: &str, message: String| (b.reason, b.message) = (reason.to_owned(), message);
    let (Some(address), Some(node)) = (address, b.node.as_deref()) else {
        match address {
            None => say(NO_ADDRESS, format!("NIC {name} has no {:?} address", checked.family)),
            Some(_) => say(NOT_RUNNING, format!("NIC {name} is on no node: its VM does not run")),
        }
        return b;
    };
    if let Some(home) = home.filter(|h| *h != domain) {
        say(
            OTHER_DOMAIN,
            format!(
                "NIC {name} is in {domain}, and others are in {home}: one address leads to NICs of one routing domain"
            ),
        );
        return b;
    }
    let asked = asked_text(address, ports);
    b.health = health.filter(|h| checked.health_check.is_some() && h.node == node && h.asked == asked);
    match &b.health {
        _ if is_silent(t, node) => {
            let text = format!("node {node}, where NIC {name} is, says nothing any more");
            (b.reason, b.message) = (NODE_SILENT.into(), text);
        }
        None if checked.health_check.is_some() => {
            (b.reason, b.message) = (NOT_CHECKED.into(), format!("NIC {name} has yet to be asked at {asked}"));
        }
        Some(h) if !h.passes => (b.reason, b.message) = (CHECK_FAILED.into(), h.message.clone()),
        _ => (b.ready, b.reason) = (true, READY.into()),
    }
    b
}

/// The node that has the address: the one that has it as long as a NIC there gets conversations, else that of the first one that
/// does and whose node has an uplink.
fn choose(t: &Tables, floating: &FloatingIP, backends: &BTreeMap<String, Backend>, order: &[String]) -> Option<String> {
    let used = in_use(backends, order);
    // A node that may still have the address keeps it as long as nobody else is better.
    let speaks = |b: &Backend| b.reason != NODE_SILENT;
    let some_speak = used.iter().any(|(_, b)| speaks(b));
    let nodes: Vec<&str> =
        used.iter().filter(|(_, b)| speaks(b) || !some_speak).filter_map(|(_, b)| b.node.as_deref()).collect();
    let fit: Vec<&str> = nodes.iter().copied().filter(|n| has_uplink(t, floating, n)).collect();
    let current = floating.status.as_ref().and_then(|s| s.node.as_deref());
    let keeps = fit.iter().copied().find(|n| current == Some(*n));
    keeps.or_else(|| fit.first().copied()).or_else(|| nodes.first().copied()).map(str::to_owned)
}

/// Takes out NICs on other nodes where nothing leads there from the node of the address, and back.
fn leave_out(t: &Tables, node: &str, home: &Domain, backends: &mut BTreeMap<String, Backend>) {
    let vni = |k: &Key| t.vpcs.get(k).and_then(|v| v.status.as_ref()?.vni);
    let fabric = match home {
        Domain::Vpc(vpc) => t.vpcs.get(vpc).map_or(MGMT_FABRIC, |v| v.spec.fabric()),
        Domain::Network(_) => MGMT_FABRIC,
    };
    let tunnels = t.tunnels(fabric);
    let ends = |other: &str| tunnels.to(node).is_some() && tunnels.to(other).is_some();
    for (name, b) in backends.iter_mut().filter(|(_, b)| runs(b)) {
        let Some(other) = b.node.as_deref().filter(|n| *n != node) else { continue };
        let why = match home {
            Domain::Network(network) => {
                format!("Network {network} has no gateway that leads from one to the other: put the network in a Vpc")
            }
            Domain::Vpc(vpc) if vni(vpc).is_none() => {
                format!("Vpc {vpc} has no tunnel from one to the other yet")
            }
            Domain::Vpc(_) if !ends(other) => {
                "no tunnel leads from one to the other: give both a tunnel address".to_owned()
            }
            Domain::Vpc(_) => continue,
        };
        (b.ready, b.reason) = (false, OTHER_NODE.into());
        b.message = format!("NIC {name} is on node {other} and the address on node {node}, and {why}");
    }
}

/// The NIC of an address that leads to one by `spec.nic` alone.
pub(crate) fn only_nic(floating: &FloatingIP) -> Option<&str> {
    let own = floating.spec.forwards.iter().any(|f| !f.nics.is_empty() || !f.nic_selector.is_empty());
    floating.spec.nic.as_deref().filter(|_| !own)
}

/// How many of the NICs that an address leads to are ready, and how many there are.
pub(crate) fn ready_of(decision: &Decision) -> (usize, usize) {
    (decision.backends.values().filter(|b| b.ready).count(), decision.backends.len())
}

/// Whether an address leads to its NICs, and which they are.
pub(crate) fn condition(t: &Tables, floating: &FloatingIP, address: IpAddr, decision: &Decision) -> Condition {
    let no = |reason: &str, text: String| Condition::new(status::READY, false, reason, text);
    let all = &decision.backends;
    let Some(node) = &decision.node else {
        return match (all.len(), all.values().next()) {
            (1, Some(b)) => no(&b.reason, b.message.clone()),
            (0, _) => no(
                "NoNIC",
                "no NIC has the labels that its ports ask for: label some, or the VMs that have them".into(),
            ),
            (n, _) => no("NoneRuns", format!("none of its {n} NICs can be led to: {}", troubles(decision))),
        };
    };
    let here = all.iter().find(|(_, b)| runs(b) && b.node.as_ref() == Some(node)).map_or("", |(n, _)| n.as_str());
    if !has_uplink(t, floating, node) {
        let fabric = fabric_of(t, floating);
        let text = format!(
            "node {node}, where NIC {here} is, has no uplink to ClusterNetwork {fabric:?}: give it one, or run the VM elsewhere"
        );
        return no("NoUplink", text);
    }
    let yes = |reason: &str, text: String| Condition::new(status::READY, true, reason, text);
    if let Some((name, b)) = only_nic(floating).and_then(|n| all.get_key_value(n)) {
        let inner = b.address.as_deref().unwrap_or_default();
        let asymmetric = asymmetric(t, floating, decision);
        let text = format!("{address} leads to {inner} of NIC {name} on node {node}{asymmetric}");
        return match b.ready {
            true => yes("Ready", text),
            false => yes("NoneReady", format!("{text}, though that is not ready: {}", b.message)),
        };
    }
    let running = all.values().filter(|b| runs(b)).count();
    let nowhere = idle_ports(t, floating, decision) + &surplus(t, floating) + &asymmetric(t, floating, decision);
    match ready_of(decision) {
        (0, n) => {
            let text = format!(
                "{address} leads to {running} of {n} NICs by node {node}, because none is ready: {}",
                troubles(decision)
            );
            yes("NoneReady", text)
        }
        (1, 1) => yes("Ready", format!("{address} leads to NIC {here} on node {node}{nowhere}")),
        (ready, n) if ready == n => yes("Ready", format!("{address} leads to {n} NICs by node {node}{nowhere}")),
        (ready, n) => {
            let text =
                format!("{address} leads to {ready} of {n} NICs by node {node}{nowhere}; {}", troubles(decision));
            yes("Ready", text)
        }
    }
}

/// The ports that lead nowhere, where others lead somewhere.
fn idle_ports(t: &Tables, floating: &FloatingIP, decision: &Decision) -> String {
    let key = Key::of(floating);
    let Ok(checked) = check_floating_ip(&key.name, &floating.spec) else { return String::new() };
    let by_forward = names(t, &key.namespace, &checked, Some(&decision.backends));
    let idle = checked.forwards.iter().zip(&by_forward).filter(|(_, n)| in_use(&decision.backends, n).is_empty());
    idle.map(|(f, _)| format!("; port {} leads nowhere", f.port)).collect()
}

/// The NICs that are led to and whose guests answer by another one, as far as can be told: those that hold no default route, where neither
/// the gateway keeps it symmetric nor a seed tells the guest how to.
fn asymmetric(t: &Tables, floating: &FloatingIP, decision: &Decision) -> String {
    let key = Key::of(floating);
    let Ok(family) = check_floating_ip(&key.name, &floating.spec).map(|c| c.family) else { return String::new() };
    let answers_elsewhere = |name: &String| {
        let nic = t.nics.get(&Key::new(key.namespace.clone(), name.clone()))?;
        let network = network_key(nic);
        let symmetric = check_network(&network.name, &t.networks.get(&network)?.spec).ok()?.symmetric;
        let seeded = vm_key(nic).and_then(|k| t.vmis.get(&k)).is_some_and(|v| v.spec.seed().is_some());
        let primary = nic.status.as_ref()?.primary_for.contains(&family);
        (!symmetric && !seeded && !primary).then_some((name.clone(), network))
    };
    let running = decision.backends.iter().filter(|(_, b)| runs(b));
    let mut all = running.filter_map(|(name, _)| answers_elsewhere(name));
    let Some((name, network)) = all.next() else { return String::new() };
    let more = match all.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(
        "; NIC {name}{more} holds no default route, so that clients in other networks are answered by another NIC, unless the guest \
         has a routing table for it: say symmetric: Gateway on Network {network}, or make it primary"
    )
}

/// How many NICs have the labels that are asked for, and are left out all the same.
fn surplus(t: &Tables, floating: &FloatingIP) -> String {
    let key = Key::of(floating);
    let Ok(checked) = check_floating_ip(&key.name, &floating.spec) else { return String::new() };
    let taken: BTreeSet<String> = names(t, &key.namespace, &checked, None).into_iter().flatten().collect();
    let labels = checked.forwards.iter().filter_map(|f| match &f.to {
        LeadsTo::Selected(labels) => Some(labels),
        LeadsTo::Default | LeadsTo::Named(_) => None,
    });
    let all: BTreeSet<String> = labels.flat_map(|l| selected(t, &key.namespace, l, None)).collect();
    match all.difference(&taken).count() {
        0 => String::new(),
        n => format!("; {n} more NICs have its labels, and {} is the most", FloatingIPSpec::MOST_BACKENDS),
    }
}

/// What is wrong with NICs that are not ready; of many with the first ones.
fn troubles(decision: &Decision) -> String {
    const SAID: usize = 3;
    let mut all = decision.backends.iter().filter(|(_, b)| !b.ready);
    let mut said: Vec<String> = all.by_ref().take(SAID).map(|(n, b)| format!("{n}: {}", b.message)).collect();
    match all.count() {
        0 => {}
        more => said.push(format!("and {more} more")),
    }
    said.join("; ")
}

/// Whether what status says of an address is not what would be decided and said now.
pub(crate) fn is_stale(t: &Tables, floating: &FloatingIP) -> bool {
    let decision = decide(t, floating);
    let Some(status) = floating.status.as_ref() else { return true };
    let says = |address: IpAddr| {
        let now = condition(t, floating, address, &decision);
        let said = find(&status.conditions, status::READY);
        said.is_none_or(|c| (&c.status, &c.reason, &c.message) != (&now.status, &now.reason, &now.message))
    };
    let address = status.address.as_ref().and_then(|a| a.parse().ok());
    status.node != decision.node || status.backends != decision.backends || address.is_some_and(says)
}

/// What a node has to ask its NICs, as the addresses' status says where those are.
pub fn questions(t: &Tables, node: &str) -> Vec<Question> {
    let mut all = vec![];
    for (key, floating) in t.floating.iter().filter(|(_, f)| f.metadata.deletion_timestamp.is_none()) {
        let Ok(checked) = check_floating_ip(&key.name, &floating.spec) else { continue };
        let (Some(check), Some(status)) = (checked.health_check, floating.status.as_ref()) else { continue };
        let by_forward = names(t, &key.namespace, &checked, Some(&status.backends));
        for (name, b) in status.backends.iter().filter(|(_, b)| runs(b) && b.node.as_deref() == Some(node)) {
            let nic = Key::new(key.namespace.clone(), name.clone());
            let Some(domain) = domain_uid(t, &nic) else { continue };
            let Some(address) = b.address.as_ref().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
            let ports = asked_ports(&checked, &by_forward, name);
            if ports.is_empty() {
                continue;
            }
            all.push(Question {
                floating: key.clone(),
                nic: name.clone(),
                domain,
                asked: asked_text(address, &ports),
                at: ports.into_iter().map(|p| SocketAddr::new(address, p)).collect(),
                check,
                passed: b.health.as_ref().map(|h| h.passes),
            });
        }
    }
    all
}

/// Uid of the routing domain that a NIC is in: of the Vpc, or of the Network that names none.
pub(crate) fn domain_uid(t: &Tables, nic: &Key) -> Option<String> {
    match domain_of(t, nic).ok()? {
        Domain::Vpc(k) => t.vpcs.get(&k)?.uid(),
        Domain::Network(k) => t.networks.get(&k)?.uid(),
    }
}

#[cfg(test)]
mod tests;
