//! NICs: their MAC and addresses are claimed before use and given back when they go; which of a VM's NICs is primary.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use multihome_model::checked::{CheckedNic, Subnet, check_nic};
use multihome_model::{
    AddressClaim, AddressClaimSpec, Condition, DhcpMode, FINALIZER_CLAIMS, Family, FloatingIP, MacAddr,
    NetworkInterface, NicAddressStatus, OwnerRef, SOURCE_CLAIM, SOURCE_GUARD, names,
};
use multihome_plan::address;
use multihome_plan::primary::FAMILIES;
use serde_json::json;

use super::{Context, Failure, Outcome, promiscuous};
use crate::queue::Next;
use crate::vm::{self, VmNicView};
use crate::world::{owner_of, vm_key};
use crate::{Key, status};

/// What a NIC holds, as far as it could be had.
#[derive(Debug, Default, PartialEq)]
struct Holdings {
    mac: Option<MacAddr>,
    ipv4: Option<NicAddressStatus>,
    ipv6: Option<NicAddressStatus>,
    secondary: Vec<IpAddr>,
}

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let Some(nic) = ctx.world.read().nics.get(key).cloned() else { return Ok(Next::Wait) };
    let api: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &key.namespace);
    if nic.meta().deletion_timestamp.is_some() {
        return release(ctx, &api, &nic).await;
    }
    if !nic.finalizers().iter().any(|f| f == FINALIZER_CLAIMS) {
        let mut finalizers = nic.finalizers().to_vec();
        finalizers.push(FINALIZER_CLAIMS.into());
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": nic.resource_version()}});
        return match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(Next::Wait),
            Err(kube::Error::Api(e)) if e.code == 409 || e.code == 404 => Ok(Next::Wait),
            Err(e) => Err(e.into()),
        };
    }
    let checked = match check_nic(&key.name, &nic.spec) {
        Ok(c) => c,
        Err(v) => return blocked(&api, &nic, "Invalid", v.to_string()).await,
    };
    let view = vm::view(&ctx.world.read(), nic.clone());
    let Some(view) = view else {
        let text = format!("network {:?} does not exist or is not valid: create or mend it", nic.spec.network);
        return blocked(&api, &nic, "NetworkMissing", text).await;
    };
    let holdings = match claim_all(ctx, &view, &checked).await? {
        Ok(h) => h,
        Err((reason, text)) => return blocked(&api, &nic, reason, text).await,
    };
    let (primary_for, node) = decide(ctx, &nic);
    let mtu = view.mtu.get();
    let open = promiscuous::what_is_open(&view);
    let updated = status::update(&api, &key.name, Some(&nic), |o| {
        let s = o.status.get_or_insert_default();
        s.mac = holdings.mac.map(|m| m.to_string());
        // What somebody else's server gave stays for as long as nothing is claimed.
        let keep = |old: &mut Option<NicAddressStatus>, new: &Option<NicAddressStatus>| {
            if new.is_some() || old.as_ref().is_none_or(|a| a.source != SOURCE_GUARD) {
                old.clone_from(new);
            }
        };
        keep(&mut s.ipv4, &holdings.ipv4);
        keep(&mut s.ipv6, &holdings.ipv6);
        s.primary_for = primary_for.clone();
        s.mtu = Some(mtu);
        if s.node.is_none() {
            s.node = node.clone();
        }
        let claimed = Condition::new(status::CLAIMED, true, "Claimed", "its MAC and addresses are its own");
        status::set_nic_condition(o, claimed);
        match &open {
            Some(text) => {
                let open = Condition::new(status::PORT_SECURED, false, promiscuous::REASON, text.clone());
                status::set_nic_condition(o, open);
            }
            None => status::clear_nic_condition(o, status::PORT_SECURED),
        }
    })
    .await?;
    promiscuous::tell(ctx, &nic, updated.as_ref(), open.as_deref()).await;
    if let Some(updated) = updated
        && nic.status.as_ref().and_then(|s| s.mac.as_ref()).is_none()
    {
        let text = match &holdings.ipv4 {
            Some(a) => format!("holds {} and {}", holdings.mac.map(|m| m.to_string()).unwrap_or_default(), a.address),
            None => format!("holds {}", holdings.mac.map(|m| m.to_string()).unwrap_or_default()),
        };
        ctx.events.normal(&updated, "Claimed", text).await;
    }
    drop_stale_claims(ctx, &nic, &holdings).await?;
    Ok(Next::Wait)
}

/// Which families it is primary for, and which node carries it.
fn decide(ctx: &Context, nic: &NetworkInterface) -> (Vec<Family>, Option<String>) {
    let Some(vm) = vm_key(nic) else { return (vec![], None) };
    let t = ctx.world.read();
    let plan = vm::route_plan(&vm::nics(&t, &vm));
    let name = nic.name_any();
    let primary = FAMILIES.into_iter().filter(|f| plan.primary(*f).is_some_and(|p| p.name == name)).collect();
    let instance = t.vmis.get(&vm).filter(|v| v.meta().deletion_timestamp.is_none());
    let node = instance.and_then(|v| v.status.as_ref()).filter(|s| is_live(&s.phase)).and_then(|s| s.node_name.clone());
    (primary, node)
}

/// Whether an instance in this phase has, or is to have, devices on its node.
pub(super) fn is_live(phase: &str) -> bool {
    !matches!(phase, "Succeeded" | "Failed")
}

async fn blocked(api: &Api<NetworkInterface>, nic: &NetworkInterface, reason: &str, text: String) -> Outcome {
    status::update(api, &nic.name_any(), Some(nic), |o| {
        status::set_nic_condition(o, Condition::new(status::CLAIMED, false, reason, text.clone()));
    })
    .await?;
    // What stands in the way may go without an event for this NIC: an address that somebody frees.
    Ok(Next::Again(std::time::Duration::from_secs(10)))
}

/// Claims what the NIC asks for or needs. The inner error is for the user, the outer one for the queue.
async fn claim_all(
    ctx: &Context,
    view: &VmNicView,
    checked: &CheckedNic,
) -> Result<Result<Holdings, (&'static str, String)>, Failure> {
    let mut h = Holdings::default();
    let held: BTreeSet<String> = {
        let t = ctx.world.read();
        t.claims_of(&view.nic.uid().unwrap_or_default()).iter().map(|c| c.spec.address.clone()).collect()
    };
    let mac = claim_mac(ctx, view, checked, &held);
    // An address that the guest forms follows from the MAC, which is then claimed first.
    let forms = view.spec.ipv6.as_ref().and_then(|s| s.formed_prefix());
    let (mac, v4, v6) = if let Some(prefix) = forms {
        let mac = mac.await?;
        let formed = mac.as_ref().ok().map(|m| IpAddr::V6(m.eui64(prefix)));
        let v4 = claim_ip(ctx, view, checked.address(Family::IPv4), checked, Family::IPv4, &held).await?;
        let v6 = claim_ip(ctx, view, formed, checked, Family::IPv6, &held).await?;
        (mac, v4, v6)
    } else {
        let ips = async {
            let v4 = claim_ip(ctx, view, checked.address(Family::IPv4), checked, Family::IPv4, &held).await?;
            let v6 = claim_ip(ctx, view, checked.address(Family::IPv6), checked, Family::IPv6, &held).await?;
            Ok::<_, Failure>((v4, v6))
        };
        let (mac, ips) = tokio::join!(mac, ips);
        let (v4, v6) = ips?;
        (mac?, v4, v6)
    };
    match (mac, v4, v6) {
        (Ok(m), Ok(a), Ok(b)) => {
            h.mac = Some(m);
            h.ipv4 = a;
            h.ipv6 = b;
        }
        (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) => return Ok(Err(e)),
    }
    for a in &checked.secondary {
        if !held.contains(&a.to_string())
            && let Err(owner) = claim(ctx, view, &names::ip_claim(&view.network_key.name, *a), &a.to_string()).await?
        {
            return Ok(Err(("AddressTaken", format!("address {a} is taken by NIC {owner}: use another"))));
        }
        h.secondary.push(*a);
        let list = if a.is_ipv4() { &mut h.ipv4 } else { &mut h.ipv6 };
        if let Some(s) = list {
            s.secondary.push(a.to_string());
        }
    }
    Ok(Ok(h))
}

type Claimed<T> = Result<Result<T, (&'static str, String)>, Failure>;

async fn claim_mac(ctx: &Context, view: &VmNicView, checked: &CheckedNic, held: &BTreeSet<String>) -> Claimed<MacAddr> {
    let uid = view.nic.uid().unwrap_or_default();
    let current = view.nic.status.as_ref().and_then(|s| s.mac.as_deref()).and_then(|m| m.parse().ok());
    if let Some(mac) = checked.mac.or(current)
        && held.contains(&mac.to_string())
    {
        return Ok(Ok(mac));
    }
    if let Some(mac) = checked.mac {
        let name = names::mac_claim(&view.network_key.name, mac);
        return Ok(match claim(ctx, view, &name, &mac.to_string()).await? {
            Ok(()) => Ok(mac),
            Err(owner) => Err(("MacTaken", format!("MAC {mac} is taken by NIC {owner}: use another, or none"))),
        });
    }
    for attempt in 0..16 {
        let mac = names::derived_mac(&uid, attempt);
        let name = names::mac_claim(&view.network_key.name, mac);
        if claim(ctx, view, &name, &mac.to_string()).await?.is_ok() {
            return Ok(Ok(mac));
        }
    }
    Ok(Err(("MacTaken", "no free MAC was found in sixteen tries: set mac".into())))
}

async fn claim_ip(
    ctx: &Context,
    view: &VmNicView,
    wish: Option<IpAddr>,
    checked: &CheckedNic,
    family: Family,
    held: &BTreeSet<String>,
) -> Claimed<Option<NicAddressStatus>> {
    let Some(subnet) = view.spec.subnet(family) else { return Ok(Ok(None)) };
    // Somebody else's DHCP server chooses, unless an address is asked for.
    if subnet.dhcp == DhcpMode::Guard && wish.is_none() {
        return Ok(Ok(None));
    }
    let said = |a: IpAddr| {
        Some(NicAddressStatus {
            address: format!("{a}/{}", subnet.cidr.prefix_len()),
            secondary: vec![],
            gateway: subnet.gateway.map(|g| g.to_string()),
            source: SOURCE_CLAIM.into(),
        })
    };
    if let Some(a) = wish {
        if let Some(why) = subnet.refuse(a) {
            return Ok(Err(("AddressRefused", why)));
        }
        if held.contains(&a.to_string()) {
            return Ok(Ok(said(a)));
        }
        let name = names::ip_claim(&view.network_key.name, a);
        return Ok(match claim(ctx, view, &name, &a.to_string()).await? {
            Ok(()) => Ok(said(a)),
            Err(owner) => Err(("AddressTaken", format!("address {a} is taken by NIC {owner}: use another, or none"))),
        });
    }
    let keeps = |a: &IpAddr| subnet.cidr.contains(a) && subnet.gateway != Some(*a) && held.contains(&a.to_string());
    if let Some(a) = vm::nic_address(&view.nic, family).filter(keeps) {
        return Ok(Ok(said(a)));
    }
    // A claim from before a restart, whose NIC had not been told yet.
    let own = held.iter().filter_map(|h| h.parse::<IpAddr>().ok());
    let mut own = own.filter(|a| subnet.refuse(*a).is_none() && !checked.secondary.contains(a));
    if let Some(a) = own.next() {
        return Ok(Ok(said(a)));
    }
    choose_ip(ctx, view, subnet, said).await
}

/// Chooses the lowest free address; whoever else chose it at the same time makes the claim fail, and the next is tried.
async fn choose_ip(
    ctx: &Context,
    view: &VmNicView,
    subnet: &Subnet,
    said: impl Fn(IpAddr) -> Option<NicAddressStatus>,
) -> Claimed<Option<NicAddressStatus>> {
    let _one_at_a_time = ctx.choosing.lock().await;
    let mut refused = BTreeSet::new();
    loop {
        let chosen = {
            let t = ctx.world.read();
            let none = BTreeSet::new();
            let taken = t.addresses(&view.network_key).unwrap_or(&none);
            if refused.is_empty() {
                address::choose(subnet, taken)
            } else {
                address::choose(subnet, &taken.union(&refused).copied().collect())
            }
        };
        let a = match chosen {
            Ok(a) => a,
            Err(e) => {
                let text = format!("{e}: free one, or enlarge the pools of network {:?}", view.network_key.name);
                return Ok(Err(("PoolExhausted", text)));
            }
        };
        let name = names::ip_claim(&view.network_key.name, a);
        if claim(ctx, view, &name, &a.to_string()).await?.is_ok() {
            return Ok(Ok(said(a)));
        }
        refused.insert(a);
    }
}

async fn claim(ctx: &Context, view: &VmNicView, name: &str, address: &str) -> Result<Result<(), String>, Failure> {
    claim_for(ctx, &view.network_key, &owner_of(&view.nic), name, address).await
}

/// Creates a claim if nobody has it. The inner error names the NIC or floating address that does.
pub(super) async fn claim_for(
    ctx: &Context,
    network: &Key,
    owner: &OwnerRef,
    name: &str,
    address: &str,
) -> Result<Result<(), String>, Failure> {
    let api: Api<AddressClaim> = Api::namespaced(ctx.client.clone(), &network.namespace);
    let spec = AddressClaimSpec { network: network.name.clone(), address: address.into(), owner: owner.clone() };
    let claim = AddressClaim::new(name, spec);
    loop {
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => return Ok(Ok(())),
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            Err(e) => return Err(e.into()),
        }
        let Some(there) = api.get_opt(name).await? else { continue };
        if there.spec.owner.uid == owner.uid {
            return Ok(Ok(()));
        }
        let holder = there.spec.owner.clone();
        if holder_lives(ctx, &holder.namespace, &holder.name, &holder.uid).await? {
            return Ok(Err(format!("{}/{}", holder.namespace, holder.name)));
        }
        // Its NIC is gone without having given it back.
        delete_claim(&api, &there).await?;
    }
}

async fn holder_lives(ctx: &Context, namespace: &str, name: &str, uid: &str) -> Result<bool, Failure> {
    let nics: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), namespace);
    let floating: Api<FloatingIP> = Api::namespaced(ctx.client.clone(), namespace);
    Ok(nics.get_opt(name).await?.is_some_and(|n| n.uid().as_deref() == Some(uid))
        || floating.get_opt(name).await?.is_some_and(|f| f.uid().as_deref() == Some(uid)))
}

pub(super) async fn delete_claim(api: &Api<AddressClaim>, claim: &AddressClaim) -> Result<(), Failure> {
    let exactly = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: claim.uid(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(&claim.name_any(), &exactly).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Gives back what the NIC no longer holds, after a change of its spec.
async fn drop_stale_claims(ctx: &Context, nic: &NetworkInterface, h: &Holdings) -> Result<(), Failure> {
    let mut keep: BTreeSet<String> = h.secondary.iter().map(ToString::to_string).collect();
    keep.extend(h.mac.map(|m| m.to_string()));
    for a in [&h.ipv4, &h.ipv6].into_iter().flatten() {
        keep.extend(a.address.split('/').next().map(str::to_owned));
    }
    let stale: Vec<Arc<AddressClaim>> = {
        let t = ctx.world.read();
        t.claims_of(&nic.uid().unwrap_or_default()).into_iter().filter(|c| !keep.contains(&c.spec.address)).collect()
    };
    for claim in stale {
        let api: Api<AddressClaim> = Api::namespaced(ctx.client.clone(), &claim.namespace().unwrap_or_default());
        delete_claim(&api, &claim).await?;
    }
    Ok(())
}

/// A NIC that is going: once no node has it any more, its claims are given back and it may go.
async fn release(ctx: &Context, api: &Api<NetworkInterface>, nic: &NetworkInterface) -> Outcome {
    if !nic.finalizers().iter().any(|f| f == FINALIZER_CLAIMS) {
        return Ok(Next::Wait);
    }
    if nic.status.as_ref().is_some_and(|s| s.node.is_some()) {
        return Ok(Next::Wait);
    }
    let claims = ctx.world.read().claims_of(&nic.uid().unwrap_or_default());
    for claim in claims {
        let api: Api<AddressClaim> = Api::namespaced(ctx.client.clone(), &claim.namespace().unwrap_or_default());
        delete_claim(&api, &claim).await?;
    }
    let rest: Vec<&String> = nic.finalizers().iter().filter(|f| *f != FINALIZER_CLAIMS).collect();
    let patch = json!({"metadata": {"finalizers": rest, "resourceVersion": nic.resource_version()}});
    match api.patch(&nic.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(Next::Wait),
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(Next::Wait),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(Next::Failed),
        Err(e) => Err(e.into()),
    }
}
