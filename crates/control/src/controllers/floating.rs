//! FloatingIPs: their address is claimed like a NIC's, and they are where a NIC is that they lead to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use multihome_model::checked::{CheckedFloatingIP, CheckedNetwork, Subnet, check_floating_ip, check_network};
use multihome_model::condition::{self, Condition};
use multihome_model::{FINALIZER_CLAIMS, FloatingIP, OwnerRef, Violations, names};
use multihome_plan::address;
use serde_json::json;

use super::nic::{claim_for, delete_claim};
use super::{Context, Failure, Outcome};
use crate::floating::unfit;
use crate::queue::Next;
use crate::{Key, backends, status};

/// How long until what stands in the way is looked at again, where no event tells.
const AGAIN: Duration = Duration::from_secs(10);

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let Some(known) = ctx.world.read().floating.get(key).cloned() else { return Ok(Next::Wait) };
    let api: Api<FloatingIP> = Api::namespaced(ctx.client.clone(), &key.namespace);
    if known.metadata.deletion_timestamp.is_some() {
        return release(ctx, &api, &known).await;
    }
    if !known.finalizers().iter().any(|f| f == FINALIZER_CLAIMS) {
        let list: Vec<&str> = known.finalizers().iter().map(String::as_str).chain([FINALIZER_CLAIMS]).collect();
        return set_finalizers(&api, &known, &list).await;
    }
    let checked = check_floating_ip(&key.name, &known.spec);
    let outcome = settle(ctx, key, &known, &checked).await?;
    let blocked = outcome.is_err();
    status::update(&api, &key.name, Some(&known), |o| {
        let t = ctx.world.read();
        // What agents found is in the object as it is now.
        let decision = backends::decide(&t, o);
        let (address, ready) = match &outcome {
            Ok(a) => (Some(*a), backends::condition(&t, o, *a, &decision)),
            Err((reason, text)) => (None, Condition::new(status::READY, false, reason, text.as_str())),
        };
        let target = backends::only_nic(o).and_then(|n| decision.backends.get(n)?.address.clone());
        let (count, all) = backends::ready_of(&decision);
        let s = o.status.get_or_insert_default();
        s.address = address.map(|a| a.to_string());
        s.target = target;
        s.backends_ready = (all > 0).then(|| format!("{count}/{all}"));
        (s.node, s.backends) = (decision.node, decision.backends);
        condition::set(&mut s.conditions, ready, &status::now());
    })
    .await?;
    Ok(if blocked { Next::Again(AGAIN) } else { Next::Wait })
}

/// The address that it holds, or why it has none: reason and sentence.
async fn settle(
    ctx: &Context,
    key: &Key,
    known: &FloatingIP,
    checked: &Result<CheckedFloatingIP, Violations>,
) -> Result<Result<IpAddr, (&'static str, String)>, Failure> {
    let checked = match checked {
        Ok(c) => c,
        Err(v) => return Ok(Err(("Invalid", v.to_string()))),
    };
    let at = Key::reference(&known.spec.network, &key.namespace);
    let network = ctx.world.read().networks.get(&at).and_then(|n| check_network(&at.name, &n.spec).ok());
    let Some(network) = network else {
        return Ok(Err(("NetworkMissing", format!("Network {at} does not exist or is not valid: create or mend it"))));
    };
    if let Some(why) = unfit(&at, &network, checked) {
        return Ok(Err(("NetworkUnfit", why)));
    }
    let Some(subnet) = network.subnet(checked.family) else {
        return Ok(Err(("NetworkUnfit", format!("Network {at} has no {:?} subnet", checked.family))));
    };
    let owner =
        OwnerRef { namespace: key.namespace.clone(), name: key.name.clone(), uid: known.uid().unwrap_or_default() };
    let held: BTreeSet<IpAddr> = {
        let t = ctx.world.read();
        let mine = t.claims_of(&owner.uid).into_iter();
        mine.filter(|c| c.spec.network == at.name).filter_map(|c| c.spec.address.parse().ok()).collect()
    };
    let outcome = match checked.address.or(held.into_iter().find(|a| subnet.refuse(*a).is_none())) {
        Some(a) => {
            if let Some(why) = subnet.refuse(a) {
                return Ok(Err(("AddressRefused", why)));
            }
            let name = names::ip_claim(&at.name, a);
            match claim_for(ctx, &at, &owner, &name, &a.to_string()).await? {
                Ok(()) => Ok(a),
                Err(holder) => Err(("AddressTaken", format!("address {a} is taken by {holder}: use another, or none"))),
            }
        }
        None => choose(ctx, &at, &network, subnet, &owner).await?,
    };
    if let Ok(keep) = outcome {
        give_back(ctx, &owner.uid, Some(keep)).await?;
    }
    Ok(outcome)
}

async fn choose(
    ctx: &Context,
    at: &Key,
    network: &CheckedNetwork,
    subnet: &Subnet,
    owner: &OwnerRef,
) -> Result<Result<IpAddr, (&'static str, String)>, Failure> {
    let _one_at_a_time = ctx.choosing.lock().await;
    let mut refused: BTreeSet<IpAddr> = BTreeSet::new();
    loop {
        let chosen = {
            let t = ctx.world.read();
            let taken: BTreeSet<IpAddr> = t.addresses(at).into_iter().flatten().chain(&refused).copied().collect();
            address::choose(subnet, &taken)
        };
        let a = match chosen {
            Ok(a) => a,
            Err(e) => {
                let kind = network.kind.as_str();
                return Ok(Err((
                    "PoolExhausted",
                    format!("{e}: free one, or enlarge the pools of the {kind} network {at}"),
                )));
            }
        };
        if claim_for(ctx, at, owner, &names::ip_claim(&at.name, a), &a.to_string()).await?.is_ok() {
            return Ok(Ok(a));
        }
        refused.insert(a);
    }
}

async fn release(ctx: &Context, api: &Api<FloatingIP>, known: &FloatingIP) -> Outcome {
    if !known.finalizers().iter().any(|f| f == FINALIZER_CLAIMS) {
        return Ok(Next::Wait);
    }
    give_back(ctx, &known.uid().unwrap_or_default(), None).await?;
    let rest: Vec<&str> = known.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER_CLAIMS).collect();
    set_finalizers(api, known, &rest).await
}

async fn set_finalizers(api: &Api<FloatingIP>, known: &FloatingIP, list: &[&str]) -> Outcome {
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": known.resource_version()}});
    match api.patch(&known.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(Next::Wait),
        Err(kube::Error::Api(e)) if e.code == 409 || e.code == 404 => Ok(Next::Wait),
        Err(e) => Err(e.into()),
    }
}

/// Gives back every claim but that of an address.
async fn give_back(ctx: &Context, uid: &str, keep: Option<IpAddr>) -> Result<(), Failure> {
    let keep = keep.map(|a| a.to_string());
    let claims = ctx.world.read().claims_of(uid);
    for claim in claims.into_iter().filter(|c| Some(&c.spec.address) != keep.as_ref()) {
        let api = Api::namespaced(ctx.client.clone(), &claim.namespace().unwrap_or_default());
        delete_claim(&api, &claim).await?;
    }
    Ok(())
}
