//! VM manifests: the networks that they name, the MACs that they ask for, the images that they boot.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use multihome_model::kubevirt::{
    NetworkSource, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec, check_instance, check_machine,
};
use multihome_model::{
    ANNOTATION_ALLOW_SAME_NETWORK, ANNOTATION_POLICIES, ANNOTATION_POLICIES_OF, ANNOTATION_PRIMARY,
    ANNOTATIONS_BANDWIDTH, ANNOTATIONS_BANDWIDTH_OF, BitRate, MacAddr, Network, NetworkInterface, Violations,
};
use serde_json::Value;

use super::nic::network_of_manifest;
use super::{Lookup, Refusal, Request, Rules, Verdict, get, group, list, parse, spec_changed};
use crate::Key;
use crate::vm::{annotated_policies, group_names, manifest_nics, nic_name, pod_network};
use crate::world::network_key;

pub(super) fn validate_machine(rules: &Rules, req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    let Some(new) = req.new else { return Ok(()) };
    if req.old.is_some() && !spec_changed(req) && !annotations_changed(req) {
        return Ok(());
    }
    let vm: VirtualMachine = parse(new)?;
    let mut v = check_machine(req.name, &vm.spec);
    if v.is_empty() {
        policies(req, look, &vm.spec.template.spec, &vm.metadata, &mut v);
        bandwidth(req, &vm.spec.template.spec, &mut v);
        let flags = Flags::of(&vm.metadata);
        networks(req, look, "spec.template.spec", &vm.spec.template.spec, &flags, &mut v);
        images(rules, "spec.template.spec", &vm.spec.template.spec, &mut v);
    }
    Ok(v.into_result(())?)
}

pub(super) fn validate_instance(rules: &Rules, req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    let Some(new) = req.new else { return Ok(()) };
    if req.old.is_some() && !spec_changed(req) && !annotations_changed(req) {
        return Ok(());
    }
    let vmi: VirtualMachineInstance = parse(new)?;
    let mut v = check_instance(req.name, &vmi.spec);
    if v.is_empty() {
        policies(req, look, &vmi.spec, &vmi.metadata, &mut v);
        bandwidth(req, &vmi.spec, &mut v);
        networks(req, look, "spec", &vmi.spec, &Flags::of(&vmi.metadata), &mut v);
        images(rules, "spec", &vmi.spec, &mut v);
    }
    Ok(v.into_result(())?)
}

/// The annotations of which this is true.
fn annotations_of(meta: Option<&Value>, ours: impl Fn(&str) -> bool) -> Vec<(&String, &str)> {
    let all = meta.and_then(|m| m.get("metadata")?.get("annotations")?.as_object());
    all.into_iter().flatten().filter(|(n, _)| ours(n)).filter_map(|(n, v)| Some((n, v.as_str()?))).collect()
}

/// The annotations that name SecurityGroups.
fn policies_of(meta: Option<&Value>) -> Vec<(&String, &str)> {
    annotations_of(meta, |name| name == ANNOTATION_POLICIES || name.starts_with(ANNOTATION_POLICIES_OF))
}

/// The annotations that say how much NICs carry.
fn bandwidth_of(meta: Option<&Value>) -> Vec<(&String, &str)> {
    let of = |name: &str| ANNOTATIONS_BANDWIDTH_OF.iter().any(|begin| name.starts_with(begin));
    annotations_of(meta, |name| ANNOTATIONS_BANDWIDTH.contains(&name) || of(name))
}

fn annotations_changed(req: &Request<'_>) -> bool {
    policies_of(req.old) != policies_of(req.new) || bandwidth_of(req.old) != bandwidth_of(req.new)
}

/// Rates must be such, and interfaces that are named must be there.
fn bandwidth(req: &Request<'_>, spec: &VirtualMachineInstanceSpec, v: &mut Violations) {
    let nics = manifest_nics(spec);
    for (name, text) in bandwidth_of(req.new) {
        let field = format!("metadata.annotations[{name}]");
        let interface = ANNOTATIONS_BANDWIDTH_OF.iter().find_map(|begin| name.strip_prefix(begin));
        if let Some(interface) = interface.filter(|i| !nics.iter().any(|n| n.interface.name == **i)) {
            let all = ANNOTATIONS_BANDWIDTH.join(" or ");
            v.add(&field, format!("the VM has no interface {interface:?}: name one of its own, or use {all}"));
        }
        v.take(&field, BitRate::parse(text));
    }
}

/// SecurityGroups that annotations name must be there, and what they are for, too; those that were named before may be missing.
fn policies(
    req: &Request<'_>,
    look: &dyn Lookup,
    spec: &VirtualMachineInstanceSpec,
    meta: &ObjectMeta,
    v: &mut Violations,
) {
    let nics = manifest_nics(spec);
    let before: Vec<String> = policies_of(req.old).into_iter().flat_map(|(_, text)| group_names(text)).collect();
    for (name, text) in policies_of(req.new) {
        let field = format!("metadata.annotations[{name}]");
        if let Some(interface) = name.strip_prefix(ANNOTATION_POLICIES_OF)
            && !nics.iter().any(|n| n.interface.name == interface)
        {
            v.add(
                &field,
                format!("the VM has no interface {interface:?}: name one of its own, or use {ANNOTATION_POLICIES}"),
            );
        }
        for group in group::missing(look, &group_names(text), &before, req.namespace) {
            v.add(&field, group.1);
        }
    }
    let none = BTreeMap::new();
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    for m in &nics {
        let NetworkSource::Named(network) = &m.source else { continue };
        let names = annotated_policies(annotations, &m.interface.name).unwrap_or_default();
        let key = Key::reference(network, req.namespace);
        let kind = get::<Network>(look, &key).map(|n| n.spec.r#type);
        if let Some(why) = kind.and_then(|kind| group::unenforceable(kind, &key, &names)) {
            v.add("metadata.annotations", why);
        }
    }
}

/// What annotations say.
struct Flags {
    primary: Option<String>,
    same_network: bool,
}

impl Flags {
    fn of(meta: &ObjectMeta) -> Self {
        let get = |name: &str| meta.annotations.as_ref().and_then(|a| a.get(name));
        Self {
            primary: get(ANNOTATION_PRIMARY).cloned(),
            same_network: get(ANNOTATION_ALLOW_SAME_NETWORK).is_some_and(|v| v == "true"),
        }
    }
}

fn networks(
    req: &Request<'_>,
    look: &dyn Lookup,
    at: &str,
    spec: &VirtualMachineInstanceSpec,
    flags: &Flags,
    v: &mut Violations,
) {
    let nics = manifest_nics(spec);
    if let Some(p) = &flags.primary
        && !nics.iter().any(|n| n.interface.name == *p)
    {
        v.add(
            "metadata.annotations",
            format!("{ANNOTATION_PRIMARY} names interface {p:?}, which the VM has not: name one of its own"),
        );
    }
    let all = list::<Network>(look, Some(req.namespace));
    let keyed: Vec<(Key, Network)> = all.into_iter().map(|n| (Key::of(&n), n)).collect();
    let mut seen: Vec<(Key, String)> = vec![];
    for (i, m) in nics.iter().enumerate() {
        let field = format!("{at}.networks[{i}]");
        let net = match &m.source {
            NetworkSource::Named(name) => Key::reference(name, req.namespace),
            NetworkSource::Pod => match pod_network(keyed.iter().map(|(k, n)| (k, n)), req.namespace) {
                Ok(k) => k,
                Err(why) => {
                    v.add(&field, why);
                    continue;
                }
            },
        };
        if let Err(refusal) = network_of_manifest(look, &net) {
            match refusal {
                Refusal::Forbidden(text) => v.add(&field, text),
                Refusal::Invalid(list) => list.into_iter().for_each(|x| v.add(&field, x.message)),
            }
            continue;
        }
        if let Some((_, other)) = seen.iter().find(|(k, _)| *k == net)
            && !flags.same_network
        {
            v.add(
                &field,
                format!("interfaces {other:?} and {:?} are both on Network {net}: use another network, or annotate the VM with {ANNOTATION_ALLOW_SAME_NETWORK}=true", m.interface.name),
            );
        }
        seen.push((net.clone(), m.interface.name.clone()));
        let name = nic_name(req.name, &m.interface.name);
        if let Some(there) = get::<NetworkInterface>(look, &Key::new(req.namespace, name.clone()))
            && there.spec.vm() != Some(req.name)
        {
            v.add(
                &field,
                format!(
                    "NIC {name:?}, which interface {:?} would become, exists and belongs to {}: rename the interface",
                    m.interface.name,
                    there.spec.vm().unwrap_or("no VM")
                ),
            );
        }
        if let Some(mac) = m.interface.mac_address.as_deref().and_then(|m| m.parse::<MacAddr>().ok()) {
            let taken = list::<NetworkInterface>(look, None).into_iter().find(|n| {
                let theirs = n.status.as_ref().and_then(|s| s.mac.as_deref()).or(n.spec.mac.as_deref());
                network_key(n) == net
                    && theirs.and_then(|x| x.parse::<MacAddr>().ok()) == Some(mac)
                    && (n.name_any() != name || n.namespace().as_deref() != Some(req.namespace))
            });
            if let Some(n) = taken {
                v.add(
                    format!("{at}.domain.devices.interfaces[{i}].macAddress"),
                    format!("MAC {mac} is taken by NIC {} on Network {net}: use another, or none", Key::of(&n)),
                );
            }
        }
    }
}

/// Images are looked up in the node's store; one that is missing is refused with the command that would import it.
fn images(rules: &Rules, at: &str, spec: &VirtualMachineInstanceSpec, v: &mut Violations) {
    let Some(check) = &rules.images else { return };
    let boot = spec.domain.firmware.as_ref().and_then(|f| f.kernel_boot.as_ref()).and_then(|k| k.container.as_ref());
    let mut look = |field: String, image: &str| {
        if let Err(why) = check(image) {
            v.add(field, why);
        }
    };
    if let Some(c) = boot {
        look(format!("{at}.domain.firmware.kernelBoot.container.image"), &c.image);
    }
    for (i, vol) in spec.volumes.iter().enumerate() {
        for (name, disk) in [("containerDisk", &vol.container_disk), ("registryDisk", &vol.registry_disk)] {
            if let Some(d) = disk {
                look(format!("{at}.volumes[{i}].{name}.image"), &d.image);
            }
        }
    }
}
