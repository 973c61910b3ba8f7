//! What this node sees of the fabrics: their device, its carrier, speed and MTU, and its address in their underlay; as soon as the
//! kernel says that it changed.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use kube::api::Api;
use multihome_control::{fabric, status};
use multihome_model::checked::check_underlay;
use multihome_model::{ClusterNetwork, ClusterNetworkNodeStatus, ClusterNetworkSpec, IfName, Violations, names};
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
    let mut links = true;
    loop {
        if let Err(e) = report(agent).await {
            tracing::warn!("fabrics not reported: {e}");
        }
        if links {
            probes::links_changed(agent).await;
        }
        let mut heard = vec![];
        while heard.is_empty() {
            let mut ready = events.readable_mut().await.map_err(Error::Events)?;
            heard = ready.get_inner_mut().read()?;
            heard.retain(may_carry);
            ready.clear_ready();
        }
        tokio::time::sleep(BURST).await;
        heard.extend(events.get_mut().read()?.into_iter().filter(may_carry));
        links = !heard.iter().all(|e| matches!(e, LinkEvent::Addressed(_)));
    }
}

/// Devices of ours do not carry fabrics, but for bonds.
fn may_carry(event: &LinkEvent) -> bool {
    match event {
        LinkEvent::Changed(l) | LinkEvent::Gone(l) => !l.name.starts_with("mh") || l.name.starts_with(names::BOND),
        LinkEvent::Addressed(_) | LinkEvent::Lost => true,
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
        let here = facts.fabrics.get(&name);
        let now = match here {
            Some(Fabric { device: Some(device), bond }) => {
                see(agent, device, bond.is_some(), fabric.spec.mtu(), agent.plumbing.trials.objection(&name)).await?
            }
            _ => None,
        };
        let before = fabric.status.as_ref().and_then(|s| s.nodes.get(node));
        let now = underlay(agent, &fabric.spec, here.is_some_and(|f| f.device.is_some()), before, now).await?;
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

/// An address of the node's own, and what it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    pub(crate) device: String,
    pub(crate) mtu: u32,
    pub(crate) carrier: bool,
    pub(crate) address: IpAddr,
}

/// Adds the node's address in the fabric's underlay to what it sees of the fabric. `uplinked` says that the fabric has an uplink on
/// this node.
async fn underlay(
    agent: &Agent,
    fabric: &ClusterNetworkSpec,
    uplinked: bool,
    before: Option<&ClusterNetworkNodeStatus>,
    seen: Option<ClusterNetworkNodeStatus>,
) -> Result<Option<ClusterNetworkNodeStatus>, Error> {
    let cidrs = check_underlay(&fabric.underlay, &mut Violations::default());
    if cidrs.is_empty() {
        return Ok(seen);
    }
    let own = agent.plumbing.own_addresses().await?;
    let device = seen.as_ref().and_then(|s| s.device.as_deref());
    let chosen = choose(&own, &cidrs, device, tunnel_address(before));
    // A node that the fabric is not meant for needs none.
    if chosen.is_none() && !(uplinked || fabric.uplinks.is_empty()) {
        return Ok(seen);
    }
    let mut status = seen.unwrap_or_default();
    let fault = match chosen {
        None => {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            let within = cidrs.join(" or ");
            Some(format!("it has no address in {within}, so that its overlays reach no other node: give it one"))
        }
        Some(OwnAddress { device, carrier: false, .. }) => {
            Some(format!("{device}, where its tunnels go, has no carrier: look at its cable and at the switch"))
        }
        Some(OwnAddress { device, mtu, .. }) if *mtu < fabric.mtu() => {
            let wanted = fabric.mtu();
            Some(format!("{device}, where its tunnels go, carries packets of {mtu} bytes, and {wanted} are wanted"))
        }
        Some(_) => None,
    };
    if status.device.is_none()
        && let Some(own) = chosen
    {
        (status.device, status.mtu, status.carrier) = (Some(own.device.clone()), Some(own.mtu), own.carrier);
    }
    status.tunnel_address = chosen.map(|own| own.address.to_string());
    status.message = status.message.or(fault);
    Ok(Some(status))
}

fn tunnel_address(status: Option<&ClusterNetworkNodeStatus>) -> Option<IpAddr> {
    status?.tunnel_address.as_ref()?.parse().ok()
}

/// The address that tunnels start from: the one that they start from already; else one of the fabric's own device; else the lowest.
fn choose<'a>(
    own: &'a [OwnAddress],
    cidrs: &[IpNet],
    device: Option<&str>,
    before: Option<IpAddr>,
) -> Option<&'a OwnAddress> {
    let within = own.iter().filter(|o| cidrs.iter().any(|c| c.contains(&o.address)));
    within.min_by_key(|o| (Some(o.address) != before, Some(o.device.as_str()) != device, o.address))
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
    Ok(Some(ClusterNetworkNodeStatus {
        device: name,
        carrier: link.carrier,
        speed,
        mtu: Some(link.mtu),
        tunnel_address: None,
        message,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_start_from_an_address_in_the_underlay_and_stay_there() {
        let own = |device: &str, address: &str| OwnAddress {
            device: device.into(),
            mtu: 1500,
            carrier: true,
            address: address.parse().unwrap(),
        };
        let all =
            [own("eth0", "192.0.2.7"), own("eth1", "10.20.0.7"), own("eth1", "10.20.0.5"), own("lo", "10.20.1.1")];
        let cidrs: Vec<IpNet> = ["10.20.0.0/24", "10.20.1.0/24"].map(|c| c.parse().unwrap()).into();
        let chosen = |device, before: Option<&str>| {
            let before = before.map(|b| b.parse().unwrap());
            choose(&all, &cidrs, device, before).map(|o| o.address.to_string())
        };
        assert_eq!(chosen(None, None).unwrap(), "10.20.0.5", "the lowest");
        assert_eq!(chosen(Some("lo"), None).unwrap(), "10.20.1.1", "that of its own device");
        assert_eq!(chosen(Some("lo"), Some("10.20.0.7")).unwrap(), "10.20.0.7", "that where they are");
        assert_eq!(chosen(None, Some("10.20.0.9")).unwrap(), "10.20.0.5", "one that is gone is not kept");
        assert_eq!(choose(&all, &["172.16.0.0/12".parse().unwrap()], None, None), None);
    }
}
