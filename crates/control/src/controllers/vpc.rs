//! Vpcs: what is in them, the identifier of their tunnels, and what they exchange with others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::ResourceExt;
use kube::api::Api;
use multihome_model::checked::{CheckedAction, check_policy_routes};
use multihome_model::condition::{self, Condition};
use multihome_model::{Violations, Vni, Vpc, VpcPeerStatus};

use super::{Context, Outcome};
use crate::queue::Next;
use crate::{Key, status, vpc};

pub(super) async fn reconcile(ctx: &Context, key: &Key) -> Outcome {
    let choosing = ctx.choosing.lock().await;
    let (known, members, nodes, vni, peers) = {
        let t = ctx.world.read();
        let Some(known) = t.vpcs.get(key).cloned() else { return Ok(Next::Wait) };
        let members: Vec<_> = vpc::members(&t, key).map(|(k, spec)| (k.clone(), spec)).collect();
        let nics = members.iter().flat_map(|(k, _)| t.nics_of_network(k)).filter_map(|k| t.nics.get(k));
        let nodes: BTreeSet<String> = nics.filter_map(|n| n.status.as_ref()?.node.clone()).collect();
        let had = known.status.as_ref().and_then(|s| s.vni);
        let vni = vpc::choose_vni(&t, &known.uid().unwrap_or_default(), had);
        (known, members, nodes, vni, vpc::exchanges(key, &vpc::around(&t, key)))
    };
    let ready = ready(&known, &members, &peers);
    let api: Api<Vpc> = Api::namespaced(ctx.client.clone(), &key.namespace);
    status::update(&api, &key.name, Some(&known), |o| {
        let s = o.status.get_or_insert_default();
        s.networks = members.len() as u32;
        s.nodes = nodes.iter().cloned().collect();
        s.vni = vni.map(Vni::get);
        s.peers = peers
            .iter()
            .map(|e| VpcPeerStatus {
                vpc: e.other.to_string(),
                cidrs: e.subnets.iter().map(ToString::to_string).collect(),
                message: e.problem.clone(),
            })
            .collect();
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await?;
    drop(choosing);
    Ok(Next::Wait)
}

fn ready(
    known: &Vpc,
    members: &[(Key, multihome_model::checked::CheckedNetwork)],
    peers: &[vpc::Exchange],
) -> Condition {
    let broken: Vec<String> = peers.iter().filter_map(|e| e.problem.clone()).collect();
    if !broken.is_empty() {
        return Condition::new(status::READY, false, "PeeringIncomplete", broken.join("; "));
    }
    let own = |name: &String| members.iter().any(|(k, _)| k.name == *name);
    if let Some(name) = known.spec.peers.iter().flat_map(|p| &p.networks).find(|n| !own(n)) {
        let text = format!(
            "spec.peers offers Network {name:?}, which is none of its own: create it in this Vpc, or name another"
        );
        return Condition::new(status::READY, false, "NetworkMissing", text);
    }
    let inside = |hop: &IpAddr| members.iter().any(|(_, n)| vpc::subnets(n).iter().any(|s| s.contains(hop)));
    let astray = known.spec.static_routes.iter().find(|r| r.next_hop.parse().is_ok_and(|hop| !inside(&hop)));
    if let Some(route) = astray {
        let text = format!(
            "the next hop {} of the route to {} is in none of its networks: use an address in one",
            route.next_hop, route.cidr
        );
        return Condition::new(status::READY, false, "RouteAstray", text);
    }
    let checked = check_policy_routes(&known.spec.policy_routes, &mut Violations::default());
    let hop = checked.iter().find_map(|r| match r.action {
        CheckedAction::Reroute(hop) if !inside(&hop) => Some(hop),
        _ => None,
    });
    if let Some(hop) = hop {
        let text = format!("the next hop {hop} of a policy route is in none of its networks: use an address in one");
        return Condition::new(status::READY, false, "RouteAstray", text);
    }
    Condition::new(status::READY, true, "Ready", "its networks reach each other by their gateways")
}
