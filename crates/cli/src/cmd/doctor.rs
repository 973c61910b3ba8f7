//! `doctor`: collects what is known of a VM and lets the rules judge it.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use multihome_control::world::network_key;
use multihome_doctor::{Finding, GuestNic, NicObservation, Severity, VmObservation, examine_network, examine_vm};
use multihome_model::condition::{Condition, find};
use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
use multihome_model::{Family, LinkState, Network, NetworkInterface};
use serde_json::json;

use super::{Context, machine};
use crate::args::{Doctor, Format};
use crate::{CliError, CliResult, Output};

pub(super) async fn run(ctx: &Context, args: &Doctor, out: &mut Output) -> CliResult {
    let names = match &args.target {
        Some(t) => match t.split_once('/') {
            Some(("vm" | "vmi" | "virtualmachine", name)) => vec![name.to_owned()],
            Some(("net" | "network", name)) => return network(ctx, name, args, out).await,
            Some(("node" | "no", name)) => return machine::node(ctx, name, args, out).await,
            None if t == "vm" => all_vms(ctx).await?,
            _ => {
                return Err(CliError::new(format!("{t:?} cannot be examined"))
                    .hint("use vm/NAME, vm, net/NAME, node/NAME, or no target for this machine")
                    .exit(2));
            }
        },
        None => return machine::run(args, out).await,
    };
    let mut total = vec![];
    for name in &names {
        let seen = observe(ctx, name).await.map_err(|e| e.exit(2))?;
        let found = examine_vm(&seen);
        if args.output != Format::Json {
            print(&seen, &found, out);
        }
        total.extend(found);
    }
    if args.output == Format::Json {
        out.json(&json!({"findings": total}))?;
    }
    Ok(u8::from(total.iter().any(|f| f.severity != Severity::Info)))
}

/// What nodes found out about a network.
async fn network(ctx: &Context, name: &str, args: &Doctor, out: &mut Output) -> CliResult {
    let api: Api<Network> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let there = api.get_opt(name).await.map_err(|e| CliError::from(e).exit(2))?;
    let Some(there) = there else {
        let text = format!("network {name:?} does not exist in namespace {}", ctx.namespace);
        return Err(CliError::new(text).exit(2));
    };
    let seen = there.status.map(|s| s.connectivity).unwrap_or_default();
    let found = examine_network(name, &seen);
    if args.output == Format::Json {
        out.json(&json!({"findings": found}))?;
    } else if found.is_empty() {
        let nodes: Vec<&str> = seen.keys().map(String::as_str).collect();
        out.line(match nodes.as_slice() {
            [] => format!("net/{name}: no node carries it: it has no NIC that is in a running VM"),
            [node] => format!("net/{name}: healthy: node {node} finds nothing wrong"),
            _ => format!("net/{name}: healthy: nodes {} find nothing wrong", nodes.join(", ")),
        });
    } else {
        let word = if found.len() == 1 { "finding" } else { "findings" };
        out.line(format!("net/{name}: {} {word}", found.len()));
        print_findings(&found, out);
    }
    Ok(u8::from(found.iter().any(|f| f.severity != Severity::Info)))
}

async fn all_vms(ctx: &Context) -> Result<Vec<String>, CliError> {
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let list = api.list(&ListParams::default()).await.map_err(|e| CliError::from(e).exit(2))?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}

fn print(seen: &VmObservation, found: &[Finding], out: &mut Output) {
    if found.is_empty() {
        let what = if seen.phase == "Running" {
            let holds6 = |n: &&NicObservation| {
                n.primary6 && n.guest.as_ref().is_some_and(|g| g.default_routes.iter().any(|r| r.contains(':')))
            };
            let four = seen.nics.iter().find(|n| n.primary).map(|n| n.name.as_str());
            let six = seen.nics.iter().find(holds6).map(|n| n.name.as_str());
            let count = seen.nics.len();
            match (four, six) {
                (Some(p), Some(q)) if p == q => format!("{count} NICs, one default route per family, by {p}"),
                (Some(p), Some(q)) => format!("{count} NICs, one default route by {p}, and one for IPv6 by {q}"),
                (Some(p), None) => format!("{count} NICs, one default route, by {p}"),
                (None, Some(q)) => format!("{count} NICs, one default route, for IPv6, by {q}"),
                (None, None) => format!("{count} NICs, and no network offers a gateway"),
            }
        } else {
            "stopped, as wished".into()
        };
        return out.line(format!("vm/{}: healthy: {what}", seen.name));
    }
    let word = if found.len() == 1 { "finding" } else { "findings" };
    out.line(format!("vm/{}: {} {word}", seen.name, found.len()));
    print_findings(found, out);
}

/// Findings, each with its evidence, what it leads to, and its cure.
pub(super) fn print_findings<'a>(found: impl IntoIterator<Item = &'a Finding>, out: &mut Output) {
    for f in found {
        let severity = match f.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        out.line(format!("\n{severity}: {} ({})", f.message, f.rule));
        f.evidence.iter().for_each(|e| out.line(format!("  seen: {e}")));
        out.line(format!("  leads to: {}", f.consequence));
        out.line(format!("  mend: {}", f.fix.replace('\n', "\n        ")));
    }
}

/// What the API knows of a VM.
pub(super) async fn observe(ctx: &Context, name: &str) -> Result<VmObservation, CliError> {
    let vms: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let vmis: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let nics: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let (vm, vmi) = (vms.get_opt(name).await?, vmis.get_opt(name).await?);
    if vm.is_none() && vmi.is_none() {
        return Err(CliError::new(format!("VM {name:?} does not exist in namespace {}", ctx.namespace)));
    }
    let wanted = vm.is_none_or(|v| v.spec.running == Some(true) || v.spec.run_strategy.as_deref() == Some("Always"));
    let status = vmi.and_then(|v| v.status).unwrap_or_default();
    let list = nics.list(&ListParams::default().fields(&format!("spec.vm={name}"))).await?;
    let mut networks = BTreeMap::new();
    for key in list.items.iter().map(network_key).collect::<BTreeSet<_>>() {
        let api: Api<Network> = Api::namespaced(ctx.client.clone(), &key.namespace);
        if let Some(network) = api.get_opt(&key.name).await? {
            networks.insert(key, network);
        }
    }
    let mut nics: Vec<&NetworkInterface> = list.items.iter().collect();
    nics.sort_by_key(|n| (n.spec.order(), n.name_any()));
    Ok(VmObservation {
        name: name.to_owned(),
        wanted,
        phase: status.phase.clone(),
        reason: status.reason.clone(),
        agent: find(&status.conditions, "AgentConnected").is_some_and(Condition::is_true),
        nics: nics.into_iter().map(|n| nic(n, networks.get(&network_key(n)), status.node_name.as_deref())).collect(),
    })
}

fn nic(n: &NetworkInterface, network: Option<&Network>, node: Option<&str>) -> NicObservation {
    let s = n.status.clone().unwrap_or_default();
    let state = |kind: &str| match find(&s.conditions, kind) {
        Some(c) if c.is_true() => Ok(()),
        Some(c) => Err(c.message.clone()),
        None => Err("nothing was reported".to_owned()),
    };
    let moving = find(&s.conditions, "DefaultRouteCorrect")
        .filter(|c| c.reason == "WaitingForRenewal")
        .map(|c| c.message.clone());
    NicObservation {
        name: n.name_any(),
        network: n.spec.network.clone(),
        network_fault: network.and_then(|net| {
            let c = find(&net.status.as_ref()?.conditions, "Ready")?;
            (!c.is_true()).then(|| c.message.clone())
        }),
        connectivity: node.zip(network).and_then(|(node, net)| {
            let seen = net.status.as_ref()?.connectivity.get(node)?;
            Some((node.to_owned(), seen.clone()))
        }),
        claimed: state("Claimed"),
        attached: state("Attached"),
        link_up: n.spec.link_state != Some(LinkState::Down),
        address: s.ipv4.as_ref().map(|a| a.address.clone()),
        gateway: s.ipv4.as_ref().and_then(|a| a.gateway.clone()),
        gateway6: s.ipv6.as_ref().and_then(|a| a.gateway.clone()),
        primary: s.primary_for.contains(&Family::IPv4),
        primary6: s.primary_for.contains(&Family::IPv6),
        served: find(&s.conditions, "Leased").is_some(),
        leased: state("Leased").is_ok(),
        moving,
        guest: s.guest.as_ref().map(|g| GuestNic {
            name: s.guest_name.clone().unwrap_or_default(),
            addresses: g.addresses.clone(),
            default_routes: g.default_routes.clone(),
        }),
    }
}
