//! Vpcs: how many networks are in each.

use kube::api::Api;
use multihome_model::Vpc;
use multihome_model::condition::{self, Condition};

use super::{Context, Outcome};
use crate::Key;
use crate::queue::Next;
use crate::status;

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let (known, networks) = {
        let t = ctx.world.read();
        let Some(known) = t.vpcs.get(key).cloned() else { return Ok(Next::Wait) };
        let members = t
            .networks
            .iter()
            .filter(|(k, n)| k.namespace == key.namespace && n.spec.vpc.as_deref() == Some(key.name.as_str()));
        (known, members.count() as u32)
    };
    let api: Api<Vpc> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let ready = Condition::new(status::READY, true, "Ready", "its networks reach each other by their gateways");
    status::update(&api, &key.name, Some(&known), |o| {
        let s = o.status.get_or_insert_default();
        s.networks = networks;
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await?;
    Ok(Next::Wait)
}
