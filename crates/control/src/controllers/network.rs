//! Networks: effective MTU, VNI, address counts, and the NetworkAttachmentDefinition that each publishes.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::condition::{self, Condition};
use multihome_model::connectivity::LAYER2_FAILED;
use multihome_model::{Network, NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec, NetworkType, Vni};
use multihome_plan::address;
use serde_json::json;

use super::{Context, Outcome};
use crate::queue::Next;
use crate::status;
use crate::{Key, connectivity, vm, vpc};

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let Some(known) = ctx.world.read().networks.get(key).cloned() else { return Ok(Next::Wait) };
    if known.meta().deletion_timestamp.is_some() {
        return Ok(Next::Wait);
    }
    let api: Api<Network> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let spec = match check_network(&key.name, &known.spec) {
        Ok(spec) => spec,
        Err(v) => {
            let wrong = Condition::new(status::READY, false, "Invalid", v.to_string());
            set_ready(&api, &known, wrong, None).await?;
            return Ok(Next::Wait);
        }
    };
    if let Some(missing) = missing(ctx, key, &spec) {
        set_ready(&api, &known, missing, Some(&spec)).await?;
        return Ok(Next::Wait);
    }
    let guard = ctx.choosing.lock().await;
    let vni = choose_vni(ctx, &known, &spec);
    let (mtu, nics, used, free) = {
        let t = ctx.world.read();
        let none = BTreeSet::new();
        let taken = t.addresses(key).unwrap_or(&none);
        let (used, free) = match &spec.ipv4 {
            Some(s) => {
                let used = address::used(s, taken.iter());
                (used, Some(address::capacity(s).saturating_sub(used)))
            }
            None => (0, None),
        };
        (vm::effective_mtu(&t, &spec), t.nic_count(key), used, free)
    };
    let wide = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    let ready = fault(&known).map_or_else(
        || Condition::new(status::READY, true, "Ready", "NICs can attach"),
        |text| Condition::new(status::READY, false, LAYER2_FAILED, text),
    );
    let generation = known.meta().generation;
    status::update(&api, &key.name, Some(&known), |o| {
        let s = o.status.get_or_insert_default();
        s.mtu = Some(mtu.get());
        s.vni = vni.map(Vni::get);
        s.nics = nics as u32;
        s.ipv4_used = wide(used);
        s.ipv4_free = free.map(wide);
        s.network_attachment_definition = Some(key.name.clone());
        let (connected, route) = connectivity::sum_up(&spec, &s.connectivity);
        s.route = Some(route);
        for c in [ready.clone(), connected] {
            condition::set(&mut s.conditions, Condition { observed_generation: generation, ..c }, &status::now());
        }
    })
    .await?;
    drop(guard);
    publish(ctx, key, &known, &spec, mtu.get(), vni).await
}

/// Forgets what a node that is gone said of networks: nobody is to ask it any more.
pub(super) async fn forget_node(ctx: &Context, node: &str) -> Outcome {
    let said = |n: &Network| n.status.as_ref().is_some_and(|s| s.connectivity.contains_key(node));
    let (back, concerned) = {
        let t = ctx.world.read();
        let concerned: Vec<_> =
            t.networks.iter().filter(|(_, n)| said(n)).map(|(k, n)| (k.clone(), n.clone())).collect();
        (t.nodes.contains_key(&Key::new("", node)), concerned)
    };
    if back {
        return Ok(Next::Wait);
    }
    for (key, known) in concerned {
        let api: Api<Network> = Api::namespaced(ctx.client.clone(), &key.namespace);
        status::update(&api, &key.name, Some(&known), |o| {
            drop(o.status.get_or_insert_default().connectivity.remove(node));
        })
        .await?;
    }
    Ok(Next::Wait)
}

/// What the nodes that carry the network have against it, in one sentence.
fn fault(network: &Network) -> Option<String> {
    let nodes = network.status.iter().flat_map(|s| &s.connectivity);
    let broken: Vec<String> = nodes
        .filter_map(|(node, c)| {
            c.layer2.as_ref().filter(|r| r.reason == LAYER2_FAILED).map(|r| format!("on node {node}: {}", r.message))
        })
        .collect();
    (!broken.is_empty()).then(|| broken.join("; "))
}

fn missing(ctx: &Context, key: &Key, spec: &CheckedNetwork) -> Option<Condition> {
    if let Some(text) = not_offered(spec) {
        return Some(Condition::new(status::READY, false, "NotOffered", text));
    }
    let t = ctx.world.read();
    if let Some(vpc) = &spec.vpc
        && !t.vpcs.contains_key(&Key::new(key.namespace.clone(), vpc.clone()))
    {
        let text = format!("Vpc {vpc:?} does not exist in namespace {:?}: create it", key.namespace);
        return Some(Condition::new(status::READY, false, "VpcMissing", text));
    }
    if !vm::is_builtin_fabric(&spec.fabric) && !t.fabrics.contains_key(&Key::new("", spec.fabric.clone())) {
        let text = format!("ClusterNetwork {:?} does not exist: create it", spec.fabric);
        return Some(Condition::new(status::READY, false, "ClusterNetworkMissing", text));
    }
    None
}

/// What the model can say and no node can do yet: told, never silently skipped.
fn not_offered(spec: &CheckedNetwork) -> Option<String> {
    matches!(spec.kind, NetworkType::VlanTrunk | NetworkType::Cni).then(|| {
        format!(
            "networks of type {} are not carried yet: use Vlan, Untagged, Overlay or Management",
            spec.kind.as_str()
        )
    })
}

async fn set_ready(
    api: &Api<Network>,
    known: &Network,
    ready: Condition,
    spec: Option<&CheckedNetwork>,
) -> Result<(), kube::Error> {
    status::update(api, &known.name_any(), Some(known), |o| {
        let s = o.status.get_or_insert_default();
        s.route = spec.map(|spec| connectivity::route(spec, &s.connectivity));
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await
    .map(|_| ())
}

/// The VNI of an overlay: the one that it asks for or has, else one that follows from its uid and is free.
fn choose_vni(ctx: &Context, known: &Network, spec: &CheckedNetwork) -> Option<Vni> {
    if spec.kind != NetworkType::Overlay {
        return None;
    }
    if spec.vni.is_some() {
        return spec.vni;
    }
    let had = known.spec.vni.or(known.status.as_ref().and_then(|s| s.vni));
    vpc::choose_vni(&ctx.world.read(), &known.uid().unwrap_or_default(), had)
}

/// The NetworkAttachmentDefinition of the network's own name, with the labels by which Harvester's tools read it.
async fn publish(
    ctx: &Context,
    key: &Key,
    network: &Network,
    spec: &CheckedNetwork,
    mtu: u32,
    vni: Option<Vni>,
) -> Outcome {
    let mut config = json!({
        "cniVersion": "0.3.1",
        "name": key.name,
        "type": "multihome",
        "network": key.to_string(),
        "mtu": mtu,
        "ipam": {},
    });
    if let Some(vlan) = spec.vlan {
        config["vlan"] = json!(vlan.get());
    }
    if let Some(vni) = vni {
        config["vni"] = json!(vni.get());
    }
    let harvester_type = match spec.kind {
        NetworkType::Vlan => "L2VlanNetwork",
        NetworkType::VlanTrunk => "L2VlanTrunkNetwork",
        NetworkType::Untagged => "UntaggedNetwork",
        NetworkType::Overlay => "OverlayNetwork",
        NetworkType::Management | NetworkType::Cni => "",
    };
    let mut nad =
        NetworkAttachmentDefinition::new(&key.name, NetworkAttachmentDefinitionSpec { config: config.to_string() });
    nad.metadata.namespace = Some(key.namespace.clone());
    let mut labels = vec![("multihome.io/network".to_owned(), key.name.clone())];
    if !harvester_type.is_empty() {
        labels.push(("network.harvesterhci.io/type".into(), harvester_type.into()));
        labels.push(("network.harvesterhci.io/clusternetwork".into(), spec.fabric.clone()));
        labels.push(("network.harvesterhci.io/ready".into(), "true".into()));
    }
    if let Some(vlan) = spec.vlan {
        labels.push(("network.harvesterhci.io/vlan-id".into(), vlan.get().to_string()));
    }
    nad.metadata.labels = Some(labels.into_iter().collect());
    nad.metadata.owner_references = Some(vec![owner(network)]);
    let api: Api<NetworkAttachmentDefinition> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.get_opt(&key.name).await? {
        None => match api.create(&PostParams::default(), &nad).await {
            Ok(_) => {}
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            // The namespace is going.
            Err(kube::Error::Api(e)) if e.code == 403 || e.code == 404 => {}
            Err(e) => return Err(e.into()),
        },
        Some(there) => {
            let ours =
                there.meta().owner_references.iter().flatten().any(|o| Some(&o.uid) == network.meta().uid.as_ref());
            if ours && (there.spec != nad.spec || there.meta().labels != nad.meta().labels) {
                let patch = json!({"metadata": {"labels": nad.metadata.labels}, "spec": nad.spec});
                api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
        }
    }
    Ok(Next::Wait)
}

/// The owner reference of something that goes with its network.
fn owner(network: &Network) -> OwnerReference {
    OwnerReference {
        api_version: Network::api_version(&()).into_owned(),
        kind: Network::kind(&()).into_owned(),
        name: network.name_any(),
        uid: network.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }
}
