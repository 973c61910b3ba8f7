//! What this node says of the networks that it carries: whether their bridge and uplink are in place.

use kube::api::Api;
use multihome_control::status;
use multihome_dataplane::StepError;
use multihome_model::{Network, NetworkType, ProbeResult};
use multihome_plan::node::{NodeInput, NodeNetwork, Step, bridge_name, build, domain_name, fabric_name};

use crate::{Agent, Error, plumbing};

/// Writes `status.connectivity` of every network for this node, where it changed.
pub(crate) async fn report(agent: &Agent, input: &NodeInput, failures: &[StepError]) -> Result<(), Error> {
    let node = &agent.config.node;
    let known: Vec<_> = agent.world.read().networks.iter().map(|(k, n)| (k.clone(), n.clone())).collect();
    for (key, network) in known {
        let carried = input.networks.iter().find(|n| n.key == key.to_string());
        let before = network.status.as_ref().and_then(|s| s.connectivity.get(node));
        let now = carried.map(|n| layer2(n, input, failures));
        let same = match (before.and_then(|c| c.layer2.as_ref()), &now) {
            (None, None) => before.is_none(),
            (Some(a), Some(b)) => a.ok == b.ok && a.reason == b.reason,
            _ => false,
        };
        if same {
            continue;
        }
        let api: Api<Network> = Api::namespaced(agent.client.clone(), &key.namespace);
        let stamp = status::now();
        status::update(&api, &key.name, Some(&network), |o| {
            let s = o.status.get_or_insert_default();
            match &now {
                None => drop(s.connectivity.remove(node)),
                Some(result) => {
                    let result = ProbeResult { time: Some(stamp.clone()), ..result.clone() };
                    s.connectivity.entry(node.clone()).or_default().layer2 = Some(result);
                }
            }
        })
        .await?;
        if let Some(result) = now.filter(|r| !r.ok) {
            agent.events.warning(network.as_ref(), "Layer2Failed", format!("on node {node}: {}", result.reason)).await;
        }
    }
    Ok(())
}

fn layer2(network: &NodeNetwork, input: &NodeInput, failures: &[StepError]) -> ProbeResult {
    let failed = |reason: String| ProbeResult { ok: false, reason, time: None };
    let bridge = bridge_name(network);
    let domain = domain_name(network);
    let name = &network.spec.fabric;
    let rides = matches!(network.spec.kind, NetworkType::Vlan | NetworkType::VlanTrunk | NetworkType::Untagged);
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
            Step::CreateDomain(ns) | Step::PutEgress(ns, _) => network.spec.owns_gateway && *ns == domain,
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
    let alone = rides && network.spec.kind != NetworkType::Untagged && device.is_none();
    let reason = if alone {
        format!("in place, without an uplink: ClusterNetwork {name:?} has none on this node")
    } else {
        "in place".to_owned()
    };
    ProbeResult { ok: true, reason, time: None }
}
