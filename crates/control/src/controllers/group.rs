//! SecurityGroups: who is in them, and whether what they name is there.

use kube::api::Api;
use multihome_model::SecurityGroup;
use multihome_model::checked::check_group;
use multihome_model::condition::{self, Condition};

use super::{Context, Outcome};
use crate::queue::Next;
use crate::{Key, policy, status};

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let (known, nics, missing) = {
        let t = ctx.world.read();
        let Some(known) = t.groups.get(key).cloned() else { return Ok(Next::Wait) };
        let missing: Vec<String> =
            policy::peers_of(&t, key).iter().filter(|k| !t.groups.contains_key(*k)).map(ToString::to_string).collect();
        (known, policy::nics_of_group(&t, key).len(), missing)
    };
    let ready = match check_group(&key.name, &known.spec) {
        Err(v) => Condition::new(status::READY, false, "Invalid", v.to_string()),
        Ok(_) if !missing.is_empty() => {
            let text =
                format!("SecurityGroup {} does not exist, so that nobody is in it: create it", missing.join(", "));
            Condition::new(status::READY, false, "GroupMissing", text)
        }
        Ok(_) => Condition::new(status::READY, true, "Ready", "its rules are enforced at every NIC that is in it"),
    };
    let api: Api<SecurityGroup> = Api::namespaced(ctx.client.clone(), &key.namespace);
    status::update(&api, &key.name, Some(&known), |o| {
        let (ingress, egress) = (o.spec.ingress.len(), o.spec.egress.len());
        let s = o.status.get_or_insert_default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (s.ingress_rules, s.egress_rules, s.nics) = (number(ingress), number(egress), number(nics));
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await?;
    Ok(Next::Wait)
}
