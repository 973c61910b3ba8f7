//! What this node says of the networks that it carries: whether their devices are in place, and what probing them found.

use std::collections::{BTreeSet, HashMap};

use kube::api::Api;
use multihome_control::{Key, status};
use multihome_dataplane::StepError;
use multihome_model::connectivity::{ANSWERS, IN_PLACE, LAYER2_FAILED, LAYER2_UNREACHABLE, NO_UPLINK, OK, OURS};
use multihome_model::{
    Connectivity, DhcpMode, Family, FamilyConnectivity, FamilyRoute, IfName, Network, NetworkType, ProbeResult, names,
};
use multihome_plan::node::{NodeInput, NodeNetwork, Step, bridge_name, build, domain_name, fabric_name};

use crate::{Agent, Error, plumbing};

/// What is known of networks without asking anybody on them, and what was told last.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// By network, those that this node carries.
    placed: HashMap<Key, Connectivity>,
    /// By network and its uid.
    told: HashMap<(Key, Option<String>), Connectivity>,
}

/// Writes `status.connectivity` of every network for this node, where it changed.
pub(crate) async fn report(agent: &Agent, input: &NodeInput, failures: &[StepError]) -> Result<(), Error> {
    let known: Vec<_> = agent.world.read().networks.iter().map(|(k, n)| (k.clone(), n.clone())).collect();
    let mut reports = agent.reports.lock().await;
    reports.placed = known
        .iter()
        .filter_map(|(key, _)| {
            let carried = input.networks.iter().find(|n| n.key == key.to_string())?;
            Some((key.clone(), placed(carried, input, failures)))
        })
        .collect();
    reports.told.retain(|(key, _), _| known.iter().any(|(k, _)| k == key));
    for (key, network) in known {
        tell(agent, &mut reports, &key, &network).await?;
    }
    Ok(())
}

/// The device of an overlay's tunnel.
fn tunnel(network: &NodeNetwork) -> Option<IfName> {
    (network.spec.kind == NetworkType::Overlay).then(|| names::device(names::VXLAN, &network.uid))
}

/// Writes what probing a network found, where it changed.
pub(crate) async fn found(agent: &Agent, key: &Key) -> Result<(), Error> {
    let mut reports = agent.reports.lock().await;
    let Some(network) = agent.world.read().networks.get(key).cloned() else { return Ok(()) };
    tell(agent, &mut reports, key, &network).await
}

async fn tell(agent: &Agent, reports: &mut Reports, key: &Key, network: &Network) -> Result<(), Error> {
    let node = &agent.config.node;
    let stands = network.status.as_ref().and_then(|s| s.connectivity.get(node));
    let id = (key.clone(), network.metadata.uid.clone());
    // Before the verdict: what is found out in between is in it.
    let unknown = agent.probes.routed_unknown(&key.to_string());
    let now = reports.placed.get(key).map(|p| merge(p, agent.probes.verdict(&key.to_string())));
    // What stands there may be older than what was told last; events follow from the latter.
    let before = reports.told.get(&id).or(stands).cloned();
    let stamp = status::now();
    let dated = now.map(|n| date(keep(n, before.as_ref(), unknown), before.as_ref(), &stamp));
    if dated.as_ref() == stands {
        if let Some(same) = dated {
            reports.told.insert(id, same);
        }
        return Ok(());
    }
    let api: Api<Network> = Api::namespaced(agent.client.clone(), &key.namespace);
    status::update(&api, &key.name, Some(network), |o| {
        let nodes = &mut o.status.get_or_insert_default().connectivity;
        match &dated {
            None => drop(nodes.remove(node)),
            Some(now) => drop(nodes.insert(node.clone(), now.clone())),
        }
    })
    .await?;
    if let Some(now) = &dated {
        events(agent, network, before.as_ref(), now).await;
    }
    match dated {
        Some(now) => drop(reports.told.insert(id, now)),
        None => drop(reports.told.remove(&id)),
    }
    Ok(())
}

/// A Warning for each word that is new, a Normal when nothing is wrong any more.
async fn events(agent: &Agent, network: &Network, before: Option<&Connectivity>, now: &Connectivity) {
    let node = &agent.config.node;
    let words: BTreeSet<&str> = before.iter().flat_map(|b| b.faults()).map(|f| f.reason.as_str()).collect();
    let faults = now.faults();
    for fault in faults.iter().filter(|f| !words.contains(f.reason.as_str())) {
        agent.events.warning(network, &fault.reason, format!("on node {node}: {}", fault.message)).await;
    }
    if faults.is_empty() && !words.is_empty() && !now.probing {
        agent.events.normal(network, OK, format!("on node {node}: nothing is wrong any more")).await;
    }
}

/// What was known before holds until something else is found: when this process was started anew, or more is asked for.
/// `unknown` says by family whether it has yet to be found out that a gateway is routed to.
fn keep(mut now: Connectivity, before: Option<&Connectivity>, unknown: [bool; 2]) -> Connectivity {
    let Some(before) = before else { return now };
    // It is asked apart from all else, and may be known later.
    let families = [(&mut now.ipv4, &before.ipv4), (&mut now.ipv6, &before.ipv6)];
    for ((now, before), unknown) in families.into_iter().zip(unknown) {
        if let Some(routed) = before.as_ref().and_then(|b| b.routed.clone()).filter(|_| unknown) {
            now.get_or_insert_default().routed.get_or_insert(routed);
        }
    }
    if !now.probing || before.probing {
        return now;
    }
    let told = |l: &ProbeResult| [ANSWERS, LAYER2_UNREACHABLE].contains(&l.reason.as_str());
    let unknown = now.layer2.as_ref().is_some_and(|l| l.reason == IN_PLACE);
    let family = |now: Option<FamilyConnectivity>, before: &Option<FamilyConnectivity>| {
        let (now, before) = (now.unwrap_or_default(), before.clone().unwrap_or_default());
        let kept = FamilyConnectivity {
            dhcp: now.dhcp.or(before.dhcp),
            gateway: now.gateway.or(before.gateway),
            learnt: now.learnt.or(before.learnt),
            routed: now.routed.or(before.routed),
        };
        (kept != FamilyConnectivity::default()).then_some(kept)
    };
    Connectivity {
        probing: false,
        layer2: before.layer2.clone().filter(|l| unknown && told(l)).or(now.layer2),
        path_mtu: now.path_mtu.or_else(|| before.path_mtu.clone()),
        ipv4: family(now.ipv4, &before.ipv4),
        ipv6: family(now.ipv6, &before.ipv6),
    }
}

/// Results with the times since when they are so.
fn date(mut now: Connectivity, before: Option<&Connectivity>, stamp: &str) -> Connectivity {
    let result = |now: Option<ProbeResult>, before: Option<&ProbeResult>| now.map(|r| r.since(before, stamp));
    now.layer2 = result(now.layer2, before.and_then(|b| b.layer2.as_ref()));
    now.path_mtu = result(now.path_mtu, before.and_then(|b| b.path_mtu.as_ref()));
    let family = |now: Option<FamilyConnectivity>, before: Option<&FamilyConnectivity>| {
        now.map(|f| FamilyConnectivity {
            dhcp: result(f.dhcp, before.and_then(|b| b.dhcp.as_ref())),
            gateway: result(f.gateway, before.and_then(|b| b.gateway.as_ref())),
            learnt: f.learnt.map(|l| {
                let same = before
                    .and_then(|b| b.learnt.clone())
                    .filter(|b| *b == FamilyRoute { time: b.time.clone(), ..l.clone() });
                same.unwrap_or(FamilyRoute { time: Some(stamp.to_owned()), ..l })
            }),
            routed: result(f.routed, before.and_then(|b| b.routed.as_ref())),
        })
    };
    now.ipv4 = family(now.ipv4, before.and_then(|b| b.ipv4.as_ref()));
    now.ipv6 = family(now.ipv6, before.and_then(|b| b.ipv6.as_ref()));
    now
}

/// What is known without probing, and what probing found. Where devices are missing, nothing else is worth telling.
fn merge(placed: &Connectivity, found: Option<Connectivity>) -> Connectivity {
    let in_place = placed.layer2.as_ref().is_some_and(|l| l.ok);
    let Some(found) = found.filter(|_| in_place) else { return placed.clone() };
    let family = |placed: &Option<FamilyConnectivity>, found: Option<FamilyConnectivity>| match (placed, found) {
        (Some(p), Some(f)) => Some(FamilyConnectivity {
            dhcp: p.dhcp.clone().or(f.dhcp),
            gateway: p.gateway.clone().or(f.gateway),
            learnt: f.learnt,
            routed: f.routed,
        }),
        (p, f) => f.or_else(|| p.clone()),
    };
    Connectivity {
        probing: found.probing,
        layer2: found.layer2.or_else(|| placed.layer2.clone()),
        path_mtu: found.path_mtu,
        ipv4: family(&placed.ipv4, found.ipv4),
        ipv6: family(&placed.ipv6, found.ipv6),
    }
}

/// What follows from the devices alone.
fn placed(network: &NodeNetwork, input: &NodeInput, failures: &[StepError]) -> Connectivity {
    let layer2 = layer2(network, input, failures);
    if !layer2.ok {
        return Connectivity { layer2: Some(layer2), ..Connectivity::default() };
    }
    let ours = |family| {
        let subnet = network.spec.subnet(family)?;
        let gateway = subnet.gateway.filter(|_| network.spec.owns_gateway);
        let f = FamilyConnectivity {
            dhcp: (subnet.dhcp == DhcpMode::Server).then(|| ProbeResult::new(true, OURS, "Multihome serves it here")),
            gateway: gateway.map(|g| ProbeResult::new(true, OURS, format!("{g} is Multihome's own, in place"))),
            learnt: None,
            routed: None,
        };
        (f != FamilyConnectivity::default()).then_some(f)
    };
    Connectivity {
        probing: false,
        layer2: Some(layer2),
        path_mtu: None,
        ipv4: ours(Family::IPv4),
        ipv6: ours(Family::IPv6),
    }
}

fn layer2(network: &NodeNetwork, input: &NodeInput, failures: &[StepError]) -> ProbeResult {
    let failed = |text: String| ProbeResult::new(false, LAYER2_FAILED, text);
    let bridge = bridge_name(network);
    let domain = domain_name(network);
    let name = &network.spec.fabric;
    let rides = network.spec.kind.rides_on_uplink();
    let fabric = input.node.fabrics.get(name).filter(|_| rides);
    let trunk = network.spec.kind == NetworkType::VlanTrunk;
    if let Some(reason) = input.node.no_trunks.get(name).filter(|_| trunk) {
        return failed(format!("this node cannot do trunks on ClusterNetwork {name:?}: {reason}"));
    }
    let mine: Vec<String> = failures
        .iter()
        .filter(|f| match &f.step {
            Step::PutBond(name, _) => fabric.is_some_and(|f| f.device.as_ref() == Some(name)),
            Step::PutFabric(fabric, _) => rides && *fabric == fabric_name(name),
            Step::PutBridge(name, _) => *name == bridge,
            Step::PutUplink(_, u) => u.bridge == bridge,
            Step::PutLeg(_, _, leg) => leg.bridge == bridge,
            Step::PutFloating(_, _, floating) => floating.bridge == bridge,
            Step::PutFlood(name, _) | Step::PutRemote(name, ..) => tunnel(network).is_some_and(|u| u == *name),
            Step::CreateDomain(ns)
            | Step::PutEgress(ns, _)
            | Step::PutRouter(ns, _)
            | Step::PutReturns(ns, _)
            | Step::PutRoute(ns, ..) => network.spec.owns_gateway && *ns == domain,
            _ => false,
        })
        .map(plumbing::sentence)
        .collect();
    if !mine.is_empty() {
        return failed(mine.join("; "));
    }
    let device = fabric.and_then(|f| f.device.as_ref());
    let plan = build(input);
    let trunks = plan.fabrics.get(&fabric_name(name)).and_then(|f| f.uplink.as_ref());
    if let (NetworkType::Untagged, Some(uplink)) = (network.spec.kind, trunks)
        && !plan.uplinks.values().any(|u| u.bridge == bridge)
    {
        let device = &uplink.device;
        return failed(match uplink.untagged {
            None => format!(
                "a trunk beside it takes all VLANs of {device}, and one is needed to stand for frames without a tag: leave one out of the trunk"
            ),
            Some(_) => format!("another untagged network has {device} on this node: use one network for both"),
        });
    }
    if rides && device.is_none() {
        let text = format!("in place, without an uplink: ClusterNetwork {name:?} has none on this node");
        return ProbeResult::new(true, NO_UPLINK, text);
    }
    ProbeResult::new(true, IN_PLACE, "in place")
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::connectivity::{GATEWAY_SILENT, NO_CARRIER, NOT_ROUTED};

    fn result(reason: &str) -> Option<ProbeResult> {
        Some(ProbeResult::new(reason != GATEWAY_SILENT, reason, "words"))
    }

    fn four(gateway: &str) -> Option<FamilyConnectivity> {
        let learnt = Some(FamilyRoute { cidr: Some("10.0.0.0/24".into()), ..FamilyRoute::default() });
        Some(FamilyConnectivity { gateway: result(gateway), learnt, ..FamilyConnectivity::default() })
    }

    #[test]
    fn what_was_known_holds_until_something_else_is_found() {
        let before = Connectivity { layer2: result(ANSWERS), ipv4: four(GATEWAY_SILENT), ..Connectivity::default() };
        let before = date(before, None, "t1");
        let started = Connectivity { probing: true, layer2: result(IN_PLACE), ..Connectivity::default() };
        assert_eq!(date(keep(started.clone(), Some(&before), [false; 2]), Some(&before), "t2"), before);
        assert!(keep(started.clone(), None, [false; 2]).probing, "of what nobody knew before nothing is known");
        // What was found is told, at once or in the end.
        let pulled = Connectivity { layer2: result(NO_CARRIER), ..Connectivity::default() };
        assert_eq!(keep(pulled.clone(), Some(&before), [false; 2]), pulled);
        let partly = Connectivity { ipv4: four(ANSWERS), ..started };
        let now = date(keep(partly, Some(&before), [false; 2]), Some(&before), "t2");
        let (four, layer2) = (now.ipv4.unwrap(), now.layer2.unwrap());
        assert_eq!((layer2.reason.as_str(), layer2.time.as_deref()), (ANSWERS, Some("t1")));
        let gateway = four.gateway.unwrap();
        assert_eq!((gateway.reason.as_str(), gateway.time.as_deref()), (ANSWERS, Some("t2")));
        assert_eq!(four.learnt.unwrap().time.as_deref(), Some("t1"), "the subnet is the same");
    }

    #[test]
    fn whether_management_is_routed_holds_while_it_is_asked_anew() {
        let routed = |word: &str| {
            let routed = Some(ProbeResult::new(word != NOT_ROUTED, word, "words"));
            Some(FamilyConnectivity { routed, ..FamilyConnectivity::default() })
        };
        let before = date(Connectivity { ipv4: routed(NOT_ROUTED), ..Connectivity::default() }, None, "t1");
        // All else is known already.
        let anew = |now: Connectivity, unknown| date(keep(now, Some(&before), [unknown, false]), Some(&before), "t2");
        assert_eq!(anew(Connectivity::default(), true), before);
        assert_eq!(anew(Connectivity::default(), false).ipv4, None, "it is not asked any more");
        assert_eq!(anew(Connectivity { ipv4: routed(NOT_ROUTED), ..Connectivity::default() }, false), before);
        let now = anew(Connectivity { ipv4: routed(ANSWERS), ..Connectivity::default() }, true);
        let now = now.ipv4.and_then(|f| f.routed).unwrap();
        assert_eq!((now.reason.as_str(), now.time.as_deref()), (ANSWERS, Some("t2")));
    }

    #[test]
    fn what_is_ours_is_told_beside_what_was_found() {
        let ours = FamilyConnectivity { gateway: result(OURS), ..FamilyConnectivity::default() };
        let placed = Connectivity { layer2: result(IN_PLACE), ipv4: Some(ours), ..Connectivity::default() };
        let found = Connectivity { layer2: result(ANSWERS), ..Connectivity::default() };
        let both = merge(&placed, Some(found.clone()));
        assert_eq!(both.layer2, result(ANSWERS));
        assert_eq!(both.ipv4.unwrap().gateway, result(OURS));
        let failed = Connectivity {
            layer2: Some(ProbeResult::new(false, LAYER2_FAILED, "no device")),
            ..Connectivity::default()
        };
        assert_eq!(merge(&failed, Some(found)), failed, "what explains the rest is told alone");
    }
}
