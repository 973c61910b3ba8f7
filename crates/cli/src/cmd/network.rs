//! `network …`.

use kube::Api;
use kube::api::PostParams;
use multihome_model::{
    DefaultPolicy, IpFamilySpec, Network, NetworkSpec, NetworkType, RouteMode, RuleAction, TrunkRange, VlanSpec,
};

use super::{Context, delete, get};
use crate::args::{ActionWish, NetworkCommand, NetworkCreate, RouteWish};
use crate::kinds::by_name;
use crate::{CliError, CliResult, Output};

pub(super) async fn run(ctx: &Context, command: &NetworkCommand, out: &mut Output) -> CliResult {
    match command {
        NetworkCommand::List(args) => get::list(ctx, "networks", args, out).await,
        NetworkCommand::Create(args) => create(ctx, args, out).await,
        NetworkCommand::Delete(args) => {
            out.line(delete::remove(ctx, &by_name("networks")?, &args.name, &ctx.namespace, true).await?);
            Ok(0)
        }
    }
}

/// The first address that a router can have.
fn first_address(net: ipnet::IpNet) -> Option<String> {
    let mut hosts = net.trunc().hosts();
    // The first of an IPv6 subnet is the routers' anycast address (RFC 4291 section 2.6.1).
    let a = if net.addr().is_ipv6() && net.prefix_len() < 127 { hosts.nth(1) } else { hosts.next() };
    a.map(|a| a.to_string())
}

/// What is said of VLANs, if anything.
fn vlan(args: &NetworkCreate) -> Result<Option<VlanSpec>, CliError> {
    let range = |text: &String| {
        let (first, last) = text.split_once('-').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let id = |id: &str| id.trim().parse::<u32>().ok();
        match (id(first), last.map(id)) {
            (Some(first), None) => Ok(TrunkRange { first, last: None }),
            (Some(first), Some(Some(last))) => Ok(TrunkRange { first, last: Some(last) }),
            _ => Err(CliError::new(format!("trunk {text:?} is no VLAN id and no range of them: use 100 or 100-199"))),
        }
    };
    let trunk = args.trunk.iter().map(range).collect::<Result<Vec<_>, _>>()?;
    let said = args.vlan.is_some() || !trunk.is_empty();
    Ok(said.then(|| VlanSpec { id: args.vlan, trunk, ..Default::default() }))
}

/// What is said of what no rule decides, if anything.
fn default_policy(args: &NetworkCreate) -> Option<DefaultPolicy> {
    let action = |wish: Option<ActionWish>| match wish {
        Some(ActionWish::Deny) => RuleAction::Deny,
        Some(ActionWish::Allow) | None => RuleAction::Allow,
    };
    let said = args.default_ingress.is_some() || args.default_egress.is_some();
    said.then(|| DefaultPolicy { ingress: action(args.default_ingress), egress: action(args.default_egress) })
}

async fn create(ctx: &Context, args: &NetworkCreate, out: &mut Output) -> CliResult {
    let kind = match args.r#type.to_lowercase().as_str() {
        "management" => NetworkType::Management,
        "vlan" => NetworkType::Vlan,
        "vlantrunk" | "trunk" => NetworkType::VlanTrunk,
        "untagged" => NetworkType::Untagged,
        "overlay" => NetworkType::Overlay,
        other => {
            return Err(CliError::new(format!(
                "type {other:?} is not known: use management, vlan, vlantrunk, untagged or overlay"
            )));
        }
    };
    let gateway = match (&args.gateway, &args.cidr) {
        (Some(g), _) => Some(g.clone()),
        (None, Some(cidr)) if !args.no_gateway => cidr.parse::<ipnet::IpNet>().ok().and_then(first_address),
        _ => None,
    };
    let family = args.cidr.as_ref().map(|cidr| IpFamilySpec {
        cidr: Some(cidr.clone()),
        gateway,
        dns: args.dns.clone(),
        lease_seconds: args.lease,
        ..Default::default()
    });
    let (ipv4, ipv6) = match family {
        Some(f) if f.cidr.as_deref().is_some_and(|c| c.contains(':')) => (None, Some(f)),
        f => (f, None),
    };
    let spec = NetworkSpec {
        r#type: kind,
        cluster_network: args.cluster_network.clone(),
        vlan: vlan(args)?,
        vpc: args.vpc.clone(),
        ipv4,
        ipv6,
        route: args.route.map(|wish| match wish {
            RouteWish::Auto => RouteMode::Auto,
            RouteWish::Manual => RouteMode::Manual,
            RouteWish::None => RouteMode::None,
        }),
        mtu: args.mtu,
        policies: args.policies.clone(),
        bandwidth: super::nic::bandwidth(&args.nic_ingress, &args.nic_egress),
        default_policy: default_policy(args),
        ..Default::default()
    };
    let api: Api<Network> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    api.create(&PostParams::default(), &Network::new(&args.name, spec)).await?;
    out.line(format!("network.multihome.io/{} created", args.name));
    Ok(0)
}
