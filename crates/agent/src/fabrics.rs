//! What this node sees of the fabrics: their device, its carrier, speed and MTU; as soon as the kernel says that it changed.

use std::time::Duration;

use kube::api::Api;
use multihome_control::{fabric, status};
use multihome_model::{ClusterNetwork, ClusterNetworkNodeStatus, IfName, names};
use multihome_netlink::{LinkEvent, LinkEvents};
use multihome_plan::node::Fabric;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Agent, Error, probes};

/// Changes of links come in bursts; what a burst ends with is reported.
const BURST: Duration = Duration::from_millis(200);
/// How long after a failure the kernel is asked for its events again.
const AGAIN: Duration = Duration::from_secs(5);

/// Reports at the start and whenever a link that may carry a fabric changes, for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    loop {
        if let Err(e) = watch(agent).await {
            tracing::warn!("links are not watched: {e}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[expect(deprecated, reason = "the replacement is unsafe, and the socket keeps its descriptor")]
async fn watch(agent: &Agent) -> Result<(), Error> {
    let mut events = AsyncFd::with_interest(LinkEvents::open()?, Interest::READABLE).map_err(Error::Events)?;
    loop {
        if let Err(e) = report(agent).await {
            tracing::warn!("fabrics not reported: {e}");
        }
        probes::links_changed(agent).await;
        let mut concerns = false;
        while !concerns {
            let mut ready = events.readable_mut().await.map_err(Error::Events)?;
            concerns = ready.get_inner_mut().read()?.iter().any(may_carry);
            ready.clear_ready();
        }
        tokio::time::sleep(BURST).await;
        events.get_mut().read()?;
    }
}

/// Devices of ours do not carry fabrics, but for bonds.
fn may_carry(event: &LinkEvent) -> bool {
    match event {
        LinkEvent::Changed(l) | LinkEvent::Gone(l) => !l.name.starts_with("mh") || l.name.starts_with(names::BOND),
        LinkEvent::Lost => true,
    }
}

/// Writes what this node sees of every fabric, where it is other than what stands there.
pub(crate) async fn report(agent: &Agent) -> Result<(), Error> {
    let node = &agent.config.node;
    let (facts, known) = {
        let t = agent.world.read();
        let known: Vec<_> = t.fabrics.iter().map(|(k, f)| (k.name.clone(), f.clone())).collect();
        (fabric::facts(&t, node), known)
    };
    for (name, fabric) in known {
        let now = match facts.fabrics.get(&name) {
            Some(Fabric { device: Some(device), bond }) => {
                see(agent, device, bond.is_some(), fabric.spec.mtu(), agent.plumbing.trials.objection(&name)).await?
            }
            _ => None,
        };
        let before = fabric.status.as_ref().and_then(|s| s.nodes.get(node));
        if before == now.as_ref() {
            continue;
        }
        let api: Api<ClusterNetwork> = Api::all(agent.client.clone());
        status::update(&api, &name, Some(&fabric), |o| {
            let nodes = &mut o.status.get_or_insert_default().nodes;
            match &now {
                Some(n) => drop(nodes.insert(node.clone(), n.clone())),
                None => drop(nodes.remove(node)),
            }
        })
        .await?;
        let said = |s: Option<&ClusterNetworkNodeStatus>| s.and_then(|s| s.message.clone());
        match (said(before), said(now.as_ref())) {
            (a, Some(b)) if a.as_ref() != Some(&b) => {
                agent.events.warning(fabric.as_ref(), "UplinkFault", format!("on node {node}: {b}")).await;
            }
            (Some(_), None) if now.is_some() => {
                agent
                    .events
                    .normal(fabric.as_ref(), "UplinkRight", format!("on node {node}: its uplink is right again"))
                    .await;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A fabric's device as it is; `None` for a bond that is not made yet, because no NIC of this node needs it.
async fn see(
    agent: &Agent,
    device: &IfName,
    bond: bool,
    mtu: u32,
    objection: Option<String>,
) -> Result<Option<ClusterNetworkNodeStatus>, Error> {
    let found = agent.plumbing.look_at(device.clone()).await?;
    let name = Some(device.to_string());
    let Some((link, speed)) = found else {
        let message = format!("there is no device {device}");
        return Ok((!bond).then(|| ClusterNetworkNodeStatus {
            device: name,
            message: Some(message),
            ..Default::default()
        }));
    };
    let message = if let Some(text) = objection {
        Some(text)
    } else if link.up && !link.carrier {
        Some(format!("{device} has no carrier: look at its cable and at the switch"))
    } else if bond && link.mtu < mtu {
        Some(format!("{device} carries packets of {} bytes, and {mtu} are wanted", link.mtu))
    } else {
        None
    };
    Ok(Some(ClusterNetworkNodeStatus { device: name, carrier: link.carrier, speed, mtu: Some(link.mtu), message }))
}
