//! Networks whose DHCP server or router is somebody else's: what the guard makes of them, and what users are told of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::vm::VmNicView;
use multihome_control::world::Tables;
use multihome_control::{Key, status};
use multihome_dhcp::guard::Role;
use multihome_dhcp::guard::server::{Given, Told, View};
use multihome_model::{
    Condition, DhcpMode, Family, IfName, LearntAddress, LeaseStatus, NetworkInterface, NicAddressStatus, PortSecurity,
    SOURCE_GUARD,
};
use multihome_plan::node::{NodeInput, build, tap_name};
use multihome_plan::route::RoutePlan;

use crate::leases::{REFUSED, stamp, starts_anew};
use crate::{Agent, Error, leases6};

/// How often leases of others are looked at for their end.
const LOOK: Duration = Duration::from_secs(15);

/// Guards one NIC as planned, or not at all.
pub(crate) fn sync(agent: &Agent, v: &VmNicView, uid: &str, plan: &RoutePlan) -> Result<(), Error> {
    let on_secondary = [Family::IPv4, Family::IPv6].map(|f| v.spec.subnet(f).is_some_and(|s| s.dns_on_secondary));
    let role = plan.nic(&v.nic.name_any()).and_then(|p| Role::new(p, on_secondary));
    let Some(role) = role else {
        agent.guard.remove_nic(uid);
        return Ok(());
    };
    let before = agent.guard.view(uid).is_none().then(|| remembered(&v.nic)).flatten();
    agent.guard.put_nic(uid, &v.network_key.to_string(), role, before);
    if let Some(ifindex) = agent.plumbing.ifindex(&tap_name(uid)) {
        agent.guard.put_tap(uid, ifindex)?;
    }
    Ok(())
}

/// What the status knows from before this process was started.
fn remembered(nic: &NetworkInterface) -> Option<View> {
    let status = nic.status.as_ref()?;
    let time =
        |text: &Option<String>| text.as_deref()?.parse::<jiff::Timestamp>().ok().map(std::time::SystemTime::from);
    let given = status.addresses.iter().filter(|a| a.source == SOURCE_GUARD).filter_map(|a| {
        Some(Given {
            address: a.address.parse().ok()?,
            prefix: None,
            until: time(&a.until),
            held: time(&a.until),
            server: a.server.as_ref().and_then(|s| s.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        })
    });
    let mut view = View { given: given.collect(), ..View::default() };
    if let Some(lease) = &status.lease {
        let gateway = status.ipv4.as_ref().and_then(|a| a.gateway.as_ref()).and_then(|g| g.parse().ok());
        view.offered = gateway;
        view.told = Some(Told { router: gateway.filter(|_| lease.default_route), rest: None });
        view.acknowledged = time(&lease.acknowledged).map(|at| (at, lease.seconds));
    }
    Some(view)
}

/// Listens where servers and routers of guarded networks are: uplinks, and NICs that may say anything.
pub(crate) async fn sync_ears(agent: &Agent, input: &NodeInput) -> Result<(), Error> {
    let guarded = input.networks.iter().filter(|n| n.spec.dhcp.contains(&DhcpMode::Guard));
    let plan = build(input);
    let mut wanted = vec![];
    for network in guarded {
        let bridge = multihome_plan::node::bridge_name(network);
        let uplinks = plan.uplinks.iter().filter(|(_, u)| u.bridge == bridge);
        let uplinks = uplinks.map(|(name, u)| agent.plumbing.ear(name, &u.bridge));
        // Of other networks, too, that are the same VLAN.
        let here = |tap: &IfName| plan.taps.get(tap).is_some_and(|t| t.bridge == bridge);
        let open = input.nics.iter().filter(|n| n.security == PortSecurity::Promiscuous).map(|n| tap_name(&n.uid));
        let devices = uplinks.chain(open.filter(here));
        wanted.extend(devices.map(|d| (network.key.clone(), d)));
    }
    let indexes = agent.plumbing.indexes_of(wanted.iter().map(|(_, d)| d.clone()).collect()).await?;
    let wanted: BTreeSet<(String, u32)> =
        wanted.into_iter().filter_map(|(n, d)| Some((n, *indexes.get(&d)?))).collect();
    agent.guard.retain_ears(|n, i| wanted.contains(&(n.to_owned(), i)));
    for (network, ifindex) in &wanted {
        agent.guard.put_ear(network, *ifindex)?;
    }
    Ok(())
}

/// Follows what the guard sees for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    loop {
        let changed = tokio::time::timeout(LOOK, agent.guard.changed()).await;
        tokio::task::block_in_place(|| agent.guard.expire());
        for uid in changed.unwrap_or_default() {
            let nic = agent.world.read().nic_of_uid(&uid);
            let (Some(nic), Some(view)) = (nic, agent.guard.view(&uid)) else { continue };
            if let Some(vm) = multihome_control::world::vm_key(&nic) {
                // A default route on its way may have moved on.
                agent.queue.push(crate::Work::Instance(vm));
            }
            if let Err(e) = tell(agent, &nic, &view).await {
                tracing::warn!(nic = %Key::of(nic.as_ref()), "what the guard saw is not reported: {e}");
            }
        }
    }
}

async fn tell(agent: &Agent, nic: &Arc<NetworkInterface>, view: &View) -> Result<(), kube::Error> {
    let formed = formed(&agent.world.read(), nic, view);
    let first = starts_anew(nic) && !view.starts_afresh;
    let lease = lease(view);
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        let s = o.status.get_or_insert_default();
        s.addresses.retain(|a| a.source != SOURCE_GUARD);
        s.addresses.extend(view.given.iter().map(|g| LearntAddress {
            address: g.address.to_string(),
            source: SOURCE_GUARD.into(),
            until: g.until.map(stamp),
            server: Some(g.server.to_string()),
        }));
        leases6::add_formed(&mut s.addresses, &formed);
        let v4 = view.given.iter().find(|g| g.address.is_ipv4());
        if s.ipv4.as_ref().is_none_or(|a| a.source == SOURCE_GUARD) {
            let old = s.ipv4.take();
            s.ipv4 = v4.map(|g| {
                let same = old.filter(|o| g.prefix.is_none() && o.address.starts_with(&format!("{}/", g.address)));
                let written = format!("{}/{}", g.address, g.prefix.unwrap_or(32));
                NicAddressStatus {
                    address: same.as_ref().map_or(written, |o| o.address.clone()),
                    secondary: vec![],
                    gateway: view.offered.map(|r| r.to_string()),
                    source: SOURCE_GUARD.into(),
                }
            });
        }
        s.lease.clone_from(&lease);
        let condition = match (&lease, v4) {
            _ if view.starts_afresh => {
                let text = "its routes or MTU changed: the guest was told to start afresh";
                Some(Condition::new(status::LEASED, false, REFUSED, text))
            }
            (Some(l), Some(g)) => {
                let text = format!("the guest took {} from {}, by the guard", l.address, g.server);
                Some(Condition::new(status::LEASED, true, "Guarded", text))
            }
            _ => None,
        };
        if let Some(condition) = condition {
            status::set_nic_condition(o, condition);
        }
    })
    .await?;
    if let Some(l) = lease.filter(|_| first) {
        let (reason, with) = if l.default_route { ("LeasedWithRouter", "with") } else { ("Leased", "without") };
        let text = format!("the guest took {} {with} a default route, by the guard", l.address);
        agent.events.normal(nic.as_ref(), reason, text).await;
    }
    Ok(())
}

fn lease(view: &View) -> Option<LeaseStatus> {
    let told = view.told.as_ref()?;
    let (at, seconds) = view.acknowledged?;
    let given = view.given.iter().find(|g| g.address.is_ipv4())?;
    Some(LeaseStatus {
        address: given.address.to_string(),
        default_route: told.router.is_some(),
        acknowledged: Some(stamp(at)),
        seconds,
        ..LeaseStatus::default()
    })
}

/// The addresses that the guest formed and may have: of this link, or of a prefix that a router announced for it.
fn formed(t: &Tables, nic: &Arc<NetworkInterface>, view: &View) -> Vec<std::net::Ipv6Addr> {
    leases6::sort(t, nic, &view.formed, &view.autonomous).0
}
