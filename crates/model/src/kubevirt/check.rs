//! What of a VM manifest cannot work, one sentence each. Rules as in KubeVirt's admission where they are about
//! networks; a binding that Multihome does not have is refused rather than ignored.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Interface, VirtualMachineInstanceSpec, VirtualMachineSpec, VmNetwork};
use crate::{MacAddr, Violations, names, quantity};

/// What a network of a VM means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkSource {
    /// The management network of the VM's namespace.
    Pod,
    /// A Network by name: `NAME` or `NAMESPACE/NAME`.
    Named(String),
}

/// What a network of a VM means; `None` if the manifest does not say exactly one thing.
pub fn network_source(network: &VmNetwork) -> Option<NetworkSource> {
    match (&network.pod, &network.multus) {
        (Some(_), None) => Some(NetworkSource::Pod),
        (None, Some(m)) => Some(NetworkSource::Named(m.network_name.clone())),
        _ => None,
    }
}

const MODELS: [&str; 4] = ["virtio", "e1000", "e1000e", "rtl8139"];
const STRATEGIES: [&str; 5] = ["Always", "Halted", "Manual", "RerunOnFailure", "Once"];
const OTHER_BINDINGS: [&str; 7] = ["sriov", "slirp", "macvtap", "passt", "passtBinding", "binding", "vhostuser"];

/// Checks a VirtualMachine's name and spec.
pub fn check_machine(name: &str, spec: &VirtualMachineSpec) -> Violations {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    match (&spec.running, &spec.run_strategy) {
        (Some(_), Some(_)) => v.add("spec.running", "running and runStrategy exclude each other: keep one"),
        (_, Some(s)) if !STRATEGIES.contains(&s.as_str()) => {
            v.add("spec.runStrategy", format!("runStrategy {s:?} is not known: use one of {}", STRATEGIES.join(", ")))
        }
        _ => {}
    }
    check_spec("spec.template.spec", &spec.template.spec, &mut v);
    v
}

/// Checks a VirtualMachineInstance's name and spec.
pub fn check_instance(name: &str, spec: &VirtualMachineInstanceSpec) -> Violations {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    check_spec("spec", spec, &mut v);
    v
}

fn check_spec(at: &str, spec: &VirtualMachineInstanceSpec, v: &mut Violations) {
    let interfaces = spec.domain.devices.interfaces.as_deref().unwrap_or_default();
    check_networks(at, spec, interfaces, v);
    for (i, interface) in interfaces.iter().enumerate() {
        check_interface(&format!("{at}.domain.devices.interfaces[{i}]"), interface, v);
    }
    if let Some(Value::String(q)) = spec.domain.memory.as_ref().and_then(|m| m.guest.as_ref()) {
        v.take(&format!("{at}.domain.memory.guest"), quantity::bytes(q));
    }
    if let Some(requests) = spec.domain.resources.as_ref().map(|r| &r.requests) {
        if let Some(Value::String(q)) = requests.get("memory") {
            v.take(&format!("{at}.domain.resources.requests.memory"), quantity::bytes(q));
        }
        if let Some(Value::String(q)) = requests.get("cpu") {
            v.take(&format!("{at}.domain.resources.requests.cpu"), quantity::cpus(q));
        }
    }
    super::seed::check(at, spec, v);
    for (i, disk) in spec.domain.devices.disks.iter().enumerate() {
        if !spec.volumes.iter().any(|vol| vol.name == disk.name) {
            v.add(
                format!("{at}.domain.devices.disks[{i}].name"),
                format!("disk {:?} has no volume: add a volume of that name", disk.name),
            );
        }
    }
}

fn check_networks(at: &str, spec: &VirtualMachineInstanceSpec, interfaces: &[Interface], v: &mut Violations) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pods = 0;
    for (i, network) in spec.networks.iter().enumerate() {
        let field = format!("{at}.networks[{i}]");
        if seen.insert(&network.name, i).is_some() {
            v.add(format!("{field}.name"), format!("network {:?} is listed twice: names must differ", network.name));
        }
        match network_source(network) {
            Some(NetworkSource::Pod) => pods += 1,
            Some(NetworkSource::Named(name)) => {
                let (ns, n) = name.split_once('/').unwrap_or(("default", &name));
                v.take(&format!("{field}.multus.networkName"), names::dns_label(ns).and(names::dns_label(n)));
            }
            None => v.add(
                &field,
                format!("network {:?} must say exactly one of pod and multus: pod for the management network, multus with networkName for any other", network.name),
            ),
        }
        if !interfaces.iter().any(|x| x.name == network.name) {
            v.add(
                &field,
                format!(
                    "network {:?} has no interface: add one of that name to domain.devices.interfaces",
                    network.name
                ),
            );
        }
    }
    if pods > 1 {
        v.add(format!("{at}.networks"), format!("{pods} networks are of source pod: a VM has at most one"));
    }
    let mut names_seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, interface) in interfaces.iter().enumerate() {
        let field = format!("{at}.domain.devices.interfaces[{i}].name");
        v.take(&field, names::dns_label(&interface.name));
        if names_seen.insert(&interface.name, i).is_some() {
            v.add(&field, format!("interface {:?} is listed twice: names must differ", interface.name));
        }
        if !spec.networks.iter().any(|n| n.name == interface.name) {
            v.add(&field, format!("interface {:?} has no network: add one of that name to networks", interface.name));
        }
    }
}

fn check_interface(at: &str, interface: &Interface, v: &mut Violations) {
    if let Some(model) = &interface.model
        && !MODELS.contains(&model.as_str())
    {
        v.add(format!("{at}.model"), format!("model {model:?} is not offered: use one of {}", MODELS.join(", ")));
    }
    if let Some(mac) = &interface.mac_address {
        v.take(&format!("{at}.macAddress"), MacAddr::parse_nic(mac));
    }
    if let Some(state) = &interface.state
        && !["up", "down", "absent"].contains(&state.as_str())
    {
        v.add(format!("{at}.state"), format!("state {state:?} is not known: use up, down or absent"));
    }
    for other in OTHER_BINDINGS.iter().filter(|b| interface.rest.contains_key(**b)) {
        v.add(
            format!("{at}.{other}"),
            format!("interface {:?} asks for binding {other}, which is not offered: use bridge: {{}}", interface.name),
        );
    }
    if interface.bridge.is_some() && interface.masquerade.is_some() {
        v.add(at, format!("interface {:?} has two bindings: use bridge: {{}} alone", interface.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(v: Value) -> VirtualMachineInstanceSpec {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn unknown_fields_are_kept() {
        let text = json!({"domain": {"devices": {"rng": {}}, "machine": {"type": "q35"}}, "affinity": {"x": 1}});
        assert_eq!(serde_json::to_value(spec(text.clone())).unwrap(), text);
    }

    #[test]
    fn interfaces_and_networks_must_match() {
        let s = spec(json!({
            "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}, "model": "ne2k"}]}},
            "networks": [{"name": "a", "pod": {}}, {"name": "c", "multus": {"networkName": "x"}}, {"name": "d"}],
        }));
        let v = check_instance("web", &s).to_string();
        assert!(v.contains("interface \"b\" has no network"), "{v}");
        assert!(v.contains("network \"c\" has no interface"), "{v}");
        assert!(v.contains("exactly one of pod and multus"), "{v}");
        assert!(v.contains("model \"ne2k\" is not offered"), "{v}");
    }
}
