//! ClusterNetworks: `mgmt` always exists; the others are ready once somebody made them.

use kube::api::{Api, PostParams};
use multihome_model::condition::{self, Condition};
use multihome_model::{ClusterNetwork, ClusterNetworkSpec, MGMT_FABRIC};

use super::{Context, Outcome};
use crate::Key;
use crate::queue::Next;
use crate::status;

pub(super) async fn reconcile(ctx: &Context, name: &str) -> Outcome {
    let api: Api<ClusterNetwork> = Api::all(ctx.client.clone());
    let known = ctx.world.read().fabrics.get(&Key::new("", name)).cloned();
    let known = match known {
        Some(k) => k,
        None if name == MGMT_FABRIC => {
            let mgmt = ClusterNetwork::new(MGMT_FABRIC, ClusterNetworkSpec::default());
            match api.create(&PostParams::default(), &mgmt).await {
                Ok(_) => return Ok(Next::Wait),
                Err(kube::Error::Api(e)) if e.code == 409 => return Ok(Next::Wait),
                Err(e) => return Err(e.into()),
            }
        }
        None => return Ok(Next::Wait),
    };
    let ready = ready(&known);
    status::update(&api, name, Some(&known), |o| {
        let s = o.status.get_or_insert_default();
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await?;
    Ok(Next::Wait)
}

/// Networks ride on a fabric as well as its nodes' uplinks let them.
fn ready(fabric: &ClusterNetwork) -> Condition {
    let nodes = fabric.status.iter().flat_map(|s| &s.nodes);
    let faults: Vec<String> = nodes.filter_map(|(n, s)| Some(format!("node {n}: {}", s.message.as_ref()?))).collect();
    if faults.is_empty() {
        return Condition::new(status::READY, true, "Ready", "networks can ride on it");
    }
    Condition::new(status::READY, false, "UplinkFault", faults.join("; "))
}
