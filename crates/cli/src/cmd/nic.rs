//! `nic …`.

use std::time::Duration;

use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use multihome_model::condition::find;
use multihome_model::{
    BandwidthSpec, LinkState, MirrorDirection, NetworkInterface, NetworkInterfaceSpec, NicAddressSpec, OnChange,
    PortSecurity,
};
use serde_json::json;

use super::{Context, delete, get};
use crate::args::{ChangeWish, LinkWish, MirrorWish, NicCommand, NicCreate, NicMirror};
use crate::kinds::by_name;
use crate::{CliError, CliResult, Output};

fn api(ctx: &Context) -> Api<NetworkInterface> {
    Api::namespaced(ctx.client.clone(), &ctx.namespace)
}

pub(super) async fn run(ctx: &Context, command: &NicCommand, out: &mut Output) -> CliResult {
    match command {
        NicCommand::List(args) => return get::list(ctx, "networkinterfaces", args, out).await,
        NicCommand::Create(args) => return create(ctx, args, out).await,
        NicCommand::Attach(args) => {
            let nic = api(ctx).get(&args.name).await?;
            if let Some(vm) = nic.spec.vm().filter(|vm| *vm != args.vm) {
                return Err(CliError::new(format!("NIC {:?} belongs to VM {vm:?}", args.name))
                    .hint(format!("detach it first: multihome nic detach {}", args.name)));
            }
            change(ctx, &args.name, json!({"vm": args.vm})).await?;
            out.line(format!("networkinterface.multihome.io/{} attached to {}", args.name, args.vm));
        }
        NicCommand::Detach(args) => {
            let nic = api(ctx).get(&args.name).await?;
            let Some(vm) = nic.spec.vm().map(str::to_owned) else {
                return Err(CliError::new(format!("NIC {:?} belongs to no VM", args.name)));
            };
            change(ctx, &args.name, json!({"vm": null, "primary": null})).await?;
            out.line(format!("networkinterface.multihome.io/{} detached from {vm}", args.name));
        }
        NicCommand::SetPrimary(args) => set_primary(ctx, &args.name, out).await?,
        NicCommand::Link(args) => {
            let (state, word) = match args.state {
                LinkWish::Up => (LinkState::Up, "up"),
                LinkWish::Down => (LinkState::Down, "down"),
            };
            change(ctx, &args.name, json!({"linkState": state})).await?;
            out.line(format!("networkinterface.multihome.io/{} link {word}", args.name));
        }
        NicCommand::Policies(args) => {
            change(ctx, &args.name, json!({"policies": args.groups})).await?;
            let groups = if args.groups.is_empty() { "no groups".into() } else { args.groups.join(", ") };
            out.line(format!("networkinterface.multihome.io/{} in {groups}", args.name));
        }
        NicCommand::Bandwidth(args) => {
            let ways = [("ingress", &args.ingress), ("egress", &args.egress)];
            let said = ways.into_iter().filter_map(|(way, rate)| Some((way, rate.as_deref()?)));
            let rate = |rate: &str| if rate == "default" { json!(null) } else { json!(rate) };
            let spec: serde_json::Map<_, _> = said.clone().map(|(way, r)| (way.to_owned(), rate(r))).collect();
            change(ctx, &args.name, json!({"bandwidth": spec})).await?;
            let all: Vec<String> = said.map(|(way, rate)| format!("{way} {rate}")).collect();
            out.line(format!("networkinterface.multihome.io/{} {}", args.name, all.join(", ")));
        }
        NicCommand::Mirror(args) => out.line(mirror(ctx, args).await?),
        NicCommand::OnChange(args) => {
            let (how, text) = match args.how {
                ChangeWish::Renew => (OnChange::Renew, "tells its guest of changes at renewals"),
                ChangeWish::BounceLink => (OnChange::BounceLink, "tells its guest of changes at once, by its link"),
            };
            change(ctx, &args.name, json!({"onChange": how})).await?;
            out.line(format!("networkinterface.multihome.io/{} {text}", args.name));
        }
        NicCommand::Delete(args) => {
            out.line(delete::remove(ctx, &by_name("networkinterfaces")?, &args.name, &ctx.namespace, true).await?);
        }
    }
    Ok(0)
}

/// Begins or ends a mirror, and says what is so then.
async fn mirror(ctx: &Context, args: &NicMirror) -> Result<String, CliError> {
    let direction = match args.direction {
        MirrorWish::Both => MirrorDirection::Both,
        MirrorWish::Ingress => MirrorDirection::Ingress,
        MirrorWish::Egress => MirrorDirection::Egress,
    };
    let wish = args.to.as_ref().map(|to| json!({"to": to, "direction": direction}));
    change(ctx, &args.name, json!({"mirror": wish})).await?;
    let said = args.to.as_ref().map_or_else(|| "not mirrored".into(), |to| format!("mirrored to {to}, {direction}"));
    Ok(format!("networkinterface.multihome.io/{} {said}", args.name))
}

/// Limits as they were said, where any was.
pub(super) fn bandwidth(ingress: &Option<String>, egress: &Option<String>) -> Option<BandwidthSpec> {
    let spec = BandwidthSpec { ingress: ingress.clone(), egress: egress.clone() };
    (spec != BandwidthSpec::default()).then_some(spec)
}

async fn change(ctx: &Context, name: &str, spec: serde_json::Value) -> Result<(), CliError> {
    api(ctx).patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
    Ok(())
}

/// Moves the default route: whoever says `primary: true` among the VM's NICs stops saying so.
async fn set_primary(ctx: &Context, name: &str, out: &mut Output) -> Result<(), CliError> {
    let nic = api(ctx).get(name).await?;
    let Some(vm) = nic.spec.vm() else {
        return Err(CliError::new(format!("NIC {name:?} belongs to no VM: only a VM's NIC can be primary")));
    };
    if nic.status.as_ref().is_some_and(|s| s.ipv4.as_ref().is_some_and(|a| a.gateway.is_none())) {
        return Err(CliError::new(format!(
            "NIC {name:?} cannot be primary: network {:?} offers no gateway",
            nic.spec.network
        ))
        .hint("set the network's ipv4.gateway"));
    }
    let all = api(ctx).list(&ListParams::default()).await?;
    let others =
        all.items.iter().filter(|n| n.spec.vm() == Some(vm) && n.name_any() != name && n.spec.primary == Some(true));
    for other in others {
        change(ctx, &other.name_any(), json!({"primary": null})).await?;
    }
    change(ctx, name, json!({"primary": true})).await?;
    out.line(format!("networkinterface.multihome.io/{name} primary for {vm}"));
    Ok(())
}

async fn create(ctx: &Context, args: &NicCreate, out: &mut Output) -> CliResult {
    let bare = args.network.rsplit('/').next().unwrap_or_default();
    let name = match (&args.name, &args.vm) {
        (Some(n), _) => n.clone(),
        (None, Some(vm)) => format!("{vm}-{bare}"),
        (None, None) => {
            return Err(CliError::new("a NIC without a VM needs a name: multihome nic create NAME --network …"));
        }
    };
    let family = args.address.as_ref().map(|a| NicAddressSpec { address: Some(a.clone()), secondary: vec![] });
    let (ipv4, ipv6) = match family {
        Some(f) if f.address.as_deref().is_some_and(|a| a.contains(':')) => (None, Some(f)),
        f => (f, None),
    };
    let spec = NetworkInterfaceSpec {
        network: args.network.clone(),
        vm: args.vm.clone(),
        primary: args.primary.then_some(true),
        mac: args.mac.clone(),
        ipv4,
        ipv6,
        port_security: args.promiscuous.then_some(PortSecurity::Promiscuous),
        policies: args.policies.clone(),
        bandwidth: bandwidth(&args.ingress, &args.egress),
        ..Default::default()
    };
    let started = std::time::Instant::now();
    api(ctx).create(&PostParams::default(), &NetworkInterface::new(&name, spec)).await?;
    out.line(format!("networkinterface.multihome.io/{name} created"));
    if let Some(seconds) = args.wait {
        wait_ready(ctx, &name, Duration::from_secs(seconds)).await?;
        out.note(format!("ready after {} ms", started.elapsed().as_millis()));
    }
    Ok(0)
}

/// Waits until a NIC is Ready; the error says what it waits for.
pub(super) async fn wait_ready(ctx: &Context, name: &str, patience: Duration) -> Result<NetworkInterface, CliError> {
    let end = tokio::time::Instant::now() + patience;
    loop {
        let nic = api(ctx).get(name).await?;
        let ready = nic.status.as_ref().and_then(|s| find(&s.conditions, "Ready")).cloned();
        match ready {
            Some(c) if c.is_true() => return Ok(nic),
            c if tokio::time::Instant::now() > end => {
                let why = c.map_or_else(|| "nothing was reported".to_owned(), |c| c.message);
                return Err(CliError::new(format!("NIC {name:?} is not ready after {} s: {why}", patience.as_secs()))
                    .hint(format!("multihome trace nic/{name}")));
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
