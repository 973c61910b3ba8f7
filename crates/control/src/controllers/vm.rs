//! VirtualMachines and their instances: NICs that come with a VM, the instance while it is to run, and the node that
//! runs it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use multihome_model::condition::{self, Condition, find};
use multihome_model::kubevirt::{
    NetworkSource, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec, VirtualMachineStatus,
};
use multihome_model::{
    ANNOTATION_ALLOW_SAME_NETWORK, ANNOTATION_PRIMARY, FINALIZER_CLAIMS, LinkState, NetworkInterface,
    NetworkInterfaceSpec, NicModel,
};
use serde_json::json;

use super::{Context, Failure, Outcome};
use crate::queue::Next;
use crate::vm::{ManifestNic, annotated_bandwidth, annotated_policies, manifest_nics, nic_name, pod_network};
use crate::world::vm_key;
use crate::{Key, fabric, node, status};

/// How long a VM that failed rests before it is started again.
const RESTART_DELAY: Duration = Duration::from_secs(10);

pub(super) async fn reconcile_vm(ctx: &Context, key: &Key) -> Outcome {
    let (vm, vmi) = {
        let t = ctx.world.read();
        let Some(vm) = t.vms.get(key).cloned() else { return Ok(Next::Wait) };
        (vm, t.vmis.get(key).cloned())
    };
    if vm.meta().deletion_timestamp.is_some() {
        return Ok(Next::Wait);
    }
    let problem = ensure_nics(ctx, key, vm.as_ref(), &vm.spec.template.spec).await?;
    let next = drive_instance(ctx, key, &vm, vmi.as_deref(), problem.is_some()).await?;
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let seen = observe(&vm, vmi.as_deref(), problem.as_deref());
    status::update(&api, &key.name, Some(&vm), |o| {
        let s = o.status.get_or_insert_default();
        s.created = seen.created;
        s.ready = seen.ready;
        s.printable_status = seen.printable_status.clone();
        for c in &seen.conditions {
            condition::set(&mut s.conditions, c.clone(), &status::now());
        }
        if problem.is_none() {
            s.conditions.retain(|c| c.r#type != "Failure");
        }
    })
    .await?;
    Ok(next)
}

fn wants_instance(vm: &VirtualMachine, vmi: Option<&VirtualMachineInstance>) -> bool {
    let ended = vmi.and_then(|v| v.status.as_ref()).is_some_and(|s| s.phase == "Succeeded");
    match vm.spec.run_strategy.as_deref() {
        Some("Always") => true,
        Some("RerunOnFailure") => !ended,
        Some("Once" | "Manual") => vmi.is_some(),
        Some(_) => false,
        None => vm.spec.running == Some(true),
    }
}

/// Creates or deletes the instance as the VM wishes.
async fn drive_instance(
    ctx: &Context,
    key: &Key,
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    blocked: bool,
) -> Outcome {
    let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let first_run = vm.spec.run_strategy.as_deref() == Some("Once") && vm.status.as_ref().is_none_or(|s| !s.created);
    match vmi {
        None if (wants_instance(vm, None) || first_run) && !blocked => {
            let template = vm.spec.template.metadata.clone().unwrap_or_else(|| json!({}));
            let mut new = VirtualMachineInstance::new(&key.name, vm.spec.template.spec.clone());
            let map = |field: &str| {
                template.get(field).and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
            };
            new.metadata.namespace = Some(key.namespace.clone());
            new.metadata.labels = map("labels");
            new.metadata.annotations = map("annotations");
            new.metadata.owner_references = Some(vec![owner_reference(vm)]);
            match api.create(&PostParams::default(), &new).await {
                Ok(_) => ctx.events.normal(vm, "Created", "started: its instance was created").await,
                Err(kube::Error::Api(e)) if e.code == 409 => {}
                Err(kube::Error::Api(e)) if e.code == 403 || e.code == 422 => {
                    ctx.events.warning(vm, "NotStarted", e.message.clone()).await;
                    return Ok(Next::Again(RESTART_DELAY));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Some(i) if i.meta().deletion_timestamp.is_none() => {
            let phase = i.status.as_ref().map(|s| s.phase.as_str()).unwrap_or_default();
            if !wants_instance(vm, Some(i)) {
                delete(&api, i).await?;
                ctx.events.normal(vm, "Stopping", "to be stopped: its instance was deleted").await;
            } else if phase == "Succeeded" {
                delete(&api, i).await?;
            } else if phase == "Failed" {
                let rested = i.status.as_ref().and_then(|s| find(&s.conditions, status::READY)).is_none_or(|c| {
                    let since = c.last_transition_time.as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
                    since
                        .is_none_or(|t| jiff::Timestamp::now().duration_since(t) >= jiff::SignedDuration::from_secs(10))
                });
                if rested {
                    delete(&api, i).await?;
                } else {
                    return Ok(Next::Again(RESTART_DELAY));
                }
            }
        }
        _ => {}
    }
    Ok(Next::Wait)
}

async fn delete(api: &Api<VirtualMachineInstance>, i: &VirtualMachineInstance) -> Result<(), Failure> {
    let exactly = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: i.uid(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(&i.name_any(), &exactly).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn observe(vm: &VirtualMachine, vmi: Option<&VirtualMachineInstance>, problem: Option<&str>) -> VirtualMachineStatus {
    let phase = vmi.and_then(|v| v.status.as_ref()).map(|s| s.phase.as_str()).unwrap_or_default();
    let deleting = vmi.is_some_and(|v| v.meta().deletion_timestamp.is_some());
    let running = phase == "Running" && !deleting;
    let printable = match (vmi, phase) {
        (Some(_), _) if deleting => "Stopping",
        (Some(_), "Running") => "Running",
        (Some(_), "Failed") => "CrashLoopBackOff",
        (Some(_), _) => "Starting",
        (None, _) if problem.is_some() && wants_instance(vm, None) => "ErrorNetwork",
        (None, _) if wants_instance(vm, None) => "Starting",
        (None, _) => "Stopped",
    };
    let reason = vmi.and_then(|v| v.status.as_ref()).and_then(|s| s.reason.clone()).unwrap_or_default();
    let ready = if running {
        Condition::new(status::READY, true, "Running", "its instance runs")
    } else {
        Condition::new(status::READY, false, printable, reason)
    };
    let mut conditions = vec![ready];
    if let Some(problem) = problem {
        conditions.push(Condition::new("Failure", true, "NetworkProblem", problem));
    }
    VirtualMachineStatus {
        created: vmi.is_some(),
        ready: running,
        printable_status: printable.into(),
        conditions,
        rest: Default::default(),
    }
}

pub(super) async fn reconcile_vmi(ctx: &Context, key: &Key) -> Outcome {
    let (vmi, machine) = {
        let t = ctx.world.read();
        let Some(vmi) = t.vmis.get(key).cloned() else { return Ok(Next::Wait) };
        (vmi, t.vms.get(key).cloned())
    };
    if vmi.meta().deletion_timestamp.is_some() {
        return Ok(Next::Wait);
    }
    if machine.is_none() {
        ensure_nics(ctx, key, vmi.as_ref(), &vmi.spec).await?;
    }
    schedule(ctx, key, &vmi).await
}

/// Binds an instance to the ready node with the fewest instances that its selector allows and that has an uplink to every
/// fabric of its networks.
async fn schedule(ctx: &Context, key: &Key, vmi: &VirtualMachineInstance) -> Outcome {
    if vmi.status.as_ref().is_some_and(|s| s.node_name.is_some()) {
        return Ok(Next::Wait);
    }
    let chosen = {
        let t = ctx.world.read();
        let load = |node: &str| {
            let here = |v: &&Arc<VirtualMachineInstance>| {
                v.status.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(node))
            };
            t.vmis.values().filter(here).count()
        };
        let fits = t.nodes.values().filter(|n| node::is_ready(n) && selected(n, &vmi.spec)).map(|n| n.name_any());
        let fits: Vec<String> = fits.collect();
        if fits.is_empty() {
            Err("no node is ready that its nodeSelector allows".to_owned())
        } else {
            let missing = |n: &String| fabric::missing(&t, n, key);
            let chosen = fits.iter().filter(|n| missing(n).is_none()).min_by_key(|n| (load(n), (*n).clone()));
            let why = || {
                let all: Vec<String> = fits.iter().filter_map(|n| Some(format!("{n} has {}", missing(n)?))).collect();
                format!("no node reaches all its networks: {}", all.join(", "))
            };
            chosen.cloned().ok_or_else(why)
        }
    };
    let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &key.namespace);
    status::update(&api, &key.name, Some(vmi), |o| {
        let s = o.status.get_or_insert_default();
        match &chosen {
            Ok(node) if s.node_name.is_none() => {
                s.node_name = Some(node.clone());
                s.phase = "Scheduled".into();
                s.reason = None;
            }
            Ok(_) => {}
            Err(text) => {
                s.phase = "Pending".into();
                s.reason = Some(text.clone());
                let ready = Condition::new(status::READY, false, "Unschedulable", &**text);
                condition::set(&mut s.conditions, ready, &status::now());
            }
        }
    })
    .await?;
    Ok(Next::Wait)
}

fn selected(node: &Node, spec: &VirtualMachineInstanceSpec) -> bool {
    spec.node_selector.iter().all(|(k, v)| node.labels().get(k) == Some(v))
}

/// Makes the NICs that a manifest names what it says; returns what stands in the way, in a sentence.
async fn ensure_nics<K>(
    ctx: &Context,
    key: &Key,
    owner: &K,
    spec: &VirtualMachineInstanceSpec,
) -> Result<Option<String>, Failure>
where
    K: Resource<DynamicType = ()>,
{
    let api: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let wanted = manifest_nics(spec);
    let mut problem = None;
    for m in &wanted {
        if let Err(why) = ensure_nic(ctx, &api, key, owner, m).await? {
            problem.get_or_insert(why);
        }
    }
    let names: Vec<String> = wanted.iter().map(|m| nic_name(&key.name, &m.interface.name)).collect();
    let ours = ctx.world.read().nics_of_vm(key);
    for nic in ours.iter().filter(|n| owned_by(n, owner) && !names.contains(&n.name_any())) {
        if nic.meta().deletion_timestamp.is_none() {
            match api.delete(&nic.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(e)) if e.code == 404 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(problem)
}

fn owned_by<K: Resource<DynamicType = ()>>(nic: &NetworkInterface, owner: &K) -> bool {
    nic.owner_references().iter().any(|o| Some(&o.uid) == owner.meta().uid.as_ref())
}

async fn ensure_nic<K>(
    ctx: &Context,
    api: &Api<NetworkInterface>,
    key: &Key,
    owner: &K,
    m: &ManifestNic,
) -> Result<Result<(), String>, Failure>
where
    K: Resource<DynamicType = ()>,
{
    let network = match &m.source {
        NetworkSource::Named(name) => Key::reference(name, &key.namespace),
        NetworkSource::Pod => {
            let t = ctx.world.read();
            match pod_network(t.networks.iter().map(|(k, n)| (k, n.as_ref())), &key.namespace) {
                Ok(k) => k,
                Err(why) => return Ok(Err(why)),
            }
        }
    };
    let name = nic_name(&key.name, &m.interface.name);
    let link = if m.interface.state.as_deref() == Some("down") { Some(LinkState::Down) } else { None };
    let there = ctx.world.read().nics.get(&Key::new(key.namespace.clone(), name.clone())).cloned();
    let annotations = owner.meta().annotations.clone().unwrap_or_default();
    let policies = annotated_policies(&annotations, &m.interface.name);
    let bandwidth = annotated_bandwidth(&annotations, &m.interface.name);
    if let Some(there) = there {
        if !owned_by(&there, owner) {
            let mine = vm_key(&there).as_ref() == Some(key);
            let text = format!(
                "NIC {name:?} exists and belongs to {}: delete or rename it",
                there.spec.vm().unwrap_or("no VM")
            );
            return Ok(if mine { Ok(()) } else { Err(text) });
        }
        let mut patch = json!({});
        if there.spec.order != Some(m.order) {
            patch["order"] = json!(m.order);
        }
        if there.spec.link_state != link && (link.is_some() || m.interface.state.is_some()) {
            patch["linkState"] = json!(link);
        }
        if let Some(mac) = &m.interface.mac_address
            && there.spec.mac.as_ref().is_none_or(|x| !x.eq_ignore_ascii_case(mac))
        {
            patch["mac"] = json!(mac);
        }
        if let Some(policies) = policies.filter(|p| *p != there.spec.policies) {
            patch["policies"] = json!(policies);
        }
        if let Some(wanted) = bandwidth {
            let is = there.spec.bandwidth.clone().unwrap_or_default();
            let differs = |want: &Option<String>, is: Option<String>| want.is_some() && *want != is;
            if differs(&wanted.ingress, is.ingress) || differs(&wanted.egress, is.egress) {
                patch["bandwidth"] = json!(wanted);
            }
        }
        if patch != json!({}) {
            let patch = Patch::Merge(json!({"spec": patch}));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(e)) if e.code == 422 || e.code == 404 => return Ok(Err(e.message.clone())),
                Err(e) => return Err(e.into()),
            }
        }
        return Ok(Ok(()));
    }
    let primary = match annotations.get(ANNOTATION_PRIMARY) {
        Some(p) => *p == m.interface.name,
        None => m.default,
    };
    let mut nic = NetworkInterface::new(
        &name,
        NetworkInterfaceSpec {
            network: if network.namespace == key.namespace { network.name.clone() } else { network.to_string() },
            vm: Some(key.name.clone()),
            order: Some(m.order),
            primary: primary.then_some(true),
            mac: m.interface.mac_address.clone(),
            model: m.interface.model.as_deref().and_then(model),
            link_state: link,
            policies: policies.unwrap_or_default(),
            bandwidth,
            allow_same_network: annotations.get(ANNOTATION_ALLOW_SAME_NETWORK).is_some_and(|v| v == "true"),
            ..Default::default()
        },
    );
    nic.metadata.namespace = Some(key.namespace.clone());
    nic.metadata.owner_references = Some(vec![owner_reference(owner)]);
    nic.metadata.finalizers = Some(vec![FINALIZER_CLAIMS.into()]);
    match api.create(&PostParams::default(), &nic).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(Ok(())),
        Err(kube::Error::Api(e)) if e.code == 422 || e.code == 403 || e.code == 404 => Ok(Err(e.message.clone())),
        Err(e) => Err(e.into()),
    }
}

fn model(name: &str) -> Option<NicModel> {
    serde_json::from_value(json!(name)).ok()
}

fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
