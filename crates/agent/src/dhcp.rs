//! What each NIC of a VM is told, handed to the DHCP server.
//!
//! When the primary moves, the NIC that gains the default route is told so only once the one that loses it has been
//! refused and started afresh: never two default routes in a guest, and never a second one that a client's script
//! fails to add because the first still stands. Between the two there is none, for as long as the gaining NIC takes to ask
//! again: so it is first given a short lease, and only once it has that the other one is refused.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use kube::ResourceExt;
use multihome_control::vm::{VmNicView, route_plan};
use multihome_dhcp::guard;
use multihome_dhcp::ra::Advertisement;
use multihome_dhcp::server::{Gateway, LeaseView};
use multihome_dhcp::server6::Said;
use multihome_dhcp::v4::{Record, Told};
use multihome_dhcp::v6;
use multihome_model::names;
use multihome_model::{DhcpMode, Family, LeaseStatus};
use multihome_plan::node::tap_name;
use multihome_plan::route::RoutePlan;

use crate::{Agent, Error, changes, guarded, spec};

/// A default route on its way from one NIC to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The NIC that still holds it.
    pub from: String,
    /// The NIC that will.
    pub to: String,
    /// The one of them that must ask again next.
    pub waits_for: String,
    /// When it does.
    pub until: SystemTime,
}

/// The lease, in seconds, of a NIC that is about to gain the default route: it asks every half of it.
const SHORT: u32 = 60;

/// What of a move is next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The NIC that gains takes a short lease.
    Shorten,
    /// The NIC that loses is refused.
    Take,
}

fn next(to: Option<&Lease>, now: SystemTime) -> Next {
    // One that is not known to ask again is not waited for.
    let asks_late = to.is_some_and(|l| {
        let end = l.acknowledged.map(|at| at + Duration::from_secs(l.seconds.into()));
        l.told && l.seconds > SHORT && end.is_some_and(|e| e > now)
    });
    if asks_late { Next::Shorten } else { Next::Take }
}

/// When a lease that was acknowledged then is renewed: at half of it.
pub(crate) fn renewal(acknowledged: SystemTime, seconds: u32) -> SystemTime {
    acknowledged + Duration::from_secs(u64::from(seconds) / 2)
}

/// What a guest was told last, by us or by somebody else through the guard.
struct Lease {
    /// Whether there was an acknowledgement at all that stands as far as we know.
    told: bool,
    /// Whether it named a default route.
    routed: bool,
    acknowledged: Option<SystemTime>,
    seconds: u32,
}

fn lease(agent: &Agent, uid: &str) -> Option<Lease> {
    let ours = |l: LeaseView| Lease {
        told: l.told.is_some(),
        routed: l.told.is_some_and(|t| t.router.is_some()),
        acknowledged: l.acknowledged,
        seconds: l.seconds,
    };
    let guarded = |v: guard::server::View| Lease {
        told: v.told.is_some(),
        routed: v.told.is_some_and(|t| t.router.is_some()),
        acknowledged: v.acknowledged.map(|a| a.0),
        seconds: v.acknowledged.map_or(0, |a| a.1),
    };
    agent.dhcp.lease(uid).map(ours).or_else(|| agent.guard.view(uid).map(guarded))
}

/// Whether a lease still stands in the guest, as far as we know.
fn stands(lease: &Lease) -> Option<SystemTime> {
    if !lease.told || !lease.routed {
        return None;
    }
    let end = lease.acknowledged.map(|at| at + Duration::from_secs(lease.seconds.into()));
    // Told before this process started: until it asks again or a lease time has passed, which nobody can tell.
    end.map_or_else(
        || Some(SystemTime::now() + Duration::from_secs(lease.seconds.into())),
        |e| (e > SystemTime::now()).then_some(e),
    )
}

/// The plan as guests are told it now, and the move that is not done yet.
pub(crate) fn present(agent: &Agent, views: &[VmNicView]) -> (RoutePlan, Option<Pending>) {
    let mut plan = route_plan(views);
    let uid = |name: &str| views.iter().find(|v| v.nic.name_any() == name).and_then(|v| v.nic.uid());
    let Some(primary) = plan.primary(Family::IPv4).map(|n| n.name.clone()) else { return (plan, None) };
    let lease = |name: &str| uid(name).and_then(|u| lease(agent, &u));
    // What it has already it keeps: taking it away and giving it back would cost two fresh starts.
    if lease(&primary).is_some_and(|l| l.told && l.routed) {
        return (plan, None);
    }
    let holder = views.iter().map(|v| v.nic.name_any()).filter(|n| *n != primary).find_map(|n| {
        let end = stands(&lease(&n)?)?;
        Some((n, end))
    });
    let Some((from, until)) = holder else { return (plan, None) };
    // A NIC whose link is pulled when it gains the default route asks at once.
    let at_once = views.iter().any(|v| v.nic.name_any() == primary && changes::bounces(&v.nic));
    let next = if at_once { Next::Take } else { next(lease(&primary).as_ref(), SystemTime::now()) };
    for nic in &mut plan.nics {
        let Some(f) = &mut nic.ipv4 else { continue };
        if nic.name == primary {
            f.default_route = false;
            f.lease_seconds = f.lease_seconds.min(SHORT);
        } else if nic.name == from && next == Next::Shorten {
            f.default_route = true;
        }
    }
    let waits_for = if next == Next::Shorten { primary.clone() } else { from.clone() };
    let until = lease(&waits_for).and_then(|l| Some(renewal(l.acknowledged?, l.seconds))).unwrap_or(until);
    (plan, Some(Pending { from, to: primary, waits_for, until }))
}

/// Makes the DHCP server say what is planned for a VM's NICs that are on this node.
pub(crate) fn sync(agent: &Agent, views: &[VmNicView], host_name: &str) -> Result<Option<Pending>, Error> {
    seed(agent, views, host_name);
    let (plan, pending) = present(agent, views);
    for v in views {
        let Some(uid) = v.nic.uid() else { continue };
        let (server, answers_arp) = spec::server_address(&v.spec);
        sync6(agent, v, &uid, &plan)?;
        guarded::sync(agent, v, &uid, &plan)?;
        let record = plan.nic(&v.nic.name_any()).and_then(|p| Record::new(p, Some(host_name), server));
        let Some(record) = record else {
            agent.dhcp.remove_record(&uid);
            continue;
        };
        agent.dhcp.put_record(&uid, &v.network_key.to_string(), record, None);
        if let Some(ifindex) = agent.plumbing.ifindex(&tap_name(&uid)) {
            let mac = spec::server_mac(&v.network.uid().unwrap_or_default(), &v.spec, &agent.config.node);
            agent.dhcp.put_port(&uid, ifindex, mac, answers_arp)?;
        }
    }
    Ok(pending)
}

/// The same for DHCPv6 and router advertisements. A default route that moves is taken back and given at once: guests
/// follow an advertisement without asking.
fn sync6(agent: &Agent, v: &VmNicView, uid: &str, plan: &RoutePlan) -> Result<(), Error> {
    let network_uid = v.network.uid().unwrap_or_default();
    let (router, source) = spec::router(&network_uid, &v.spec, &agent.config.node);
    let server_mac = spec::server_mac(&network_uid, &v.spec, &agent.config.node);
    let nic = plan.nic(&v.nic.name_any());
    let Some(advertisement) = nic.and_then(|p| Advertisement::new(p, source)) else {
        agent.dhcp6.remove(uid);
        return Ok(());
    };
    let record = nic.and_then(|p| v6::Record::new(p, server_mac));
    agent.dhcp6.put(uid, Said { record, advertisement, router, server_mac });
    if let Some(ifindex) = agent.plumbing.ifindex(&tap_name(uid)) {
        agent.dhcp6.put_port(uid, ifindex)?;
    }
    Ok(())
}

/// NICs that this process has no record of yet get one with what their guest was told before, from their status.
fn seed(agent: &Agent, views: &[VmNicView], host_name: &str) {
    let plan = route_plan(views);
    for v in views {
        let Some(uid) = v.nic.uid() else { continue };
        if agent.dhcp.lease(&uid).is_some() {
            continue;
        }
        let (server, _) = spec::server_address(&v.spec);
        let Some(p) = plan.nic(&v.nic.name_any()) else { continue };
        let Some(record) = Record::new(p, Some(host_name), server) else { continue };
        let told = v.nic.status.as_ref().and_then(|s| s.lease.as_ref()).map(|l| remembered(l, record.told(), v));
        agent.dhcp.put_record(&uid, &v.network_key.to_string(), record, told);
    }
}

/// What a lease of the status says that the guest was told; what an older version did not write down is taken to be as
/// it is `now`.
fn remembered(l: &LeaseStatus, now: &Told, v: &VmNicView) -> Told {
    let Some(server) = l.server.as_deref().and_then(|s| s.parse().ok()) else {
        let router = match v.spec.ipv4.as_ref().and_then(|s| s.gateway) {
            Some(IpAddr::V4(a)) if l.default_route => Some(a),
            _ => None,
        };
        return Told { router, ..now.clone() };
    };
    let route = |text: &String| {
        let (to, via) = text.split_once(" via ")?;
        Some((to.parse().ok()?, via.parse().ok()?))
    };
    Told {
        server,
        router: l.gateway.as_deref().and_then(|g| g.parse().ok()),
        routes: l.routes.iter().filter_map(route).collect(),
        mtu: l.mtu.unwrap_or(now.mtu),
    }
}

/// Opens the gateways that relays reach, for every network of this node that lists relays, and closes the others.
pub(crate) fn sync_gateways(agent: &Agent) -> Result<(), Error> {
    let input = spec::node_input(&agent.world.read(), &agent.config.node);
    let mut keep = BTreeSet::new();
    for n in &input.networks {
        let Some(subnet) = n.spec.ipv4.as_ref().filter(|s| s.dhcp == DhcpMode::Server && !s.relays.is_empty()) else {
            continue;
        };
        let (Some(IpAddr::V4(address)), true) = (subnet.gateway, n.spec.owns_gateway) else { continue };
        let relays = subnet.relays.iter().filter_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        });
        let gateway = Gateway {
            netns: format!("{}{}", agent.config.netns_prefix, multihome_plan::node::domain_name(n)),
            device: names::device(names::GATEWAY, &n.uid).as_str().to_owned(),
            address,
            relays: relays.collect(),
        };
        agent.dhcp.put_gateway(&n.key, &gateway)?;
        keep.insert(n.key.clone());
    }
    agent.dhcp.retain_gateways(|n| keep.contains(n));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_that_asks_late_is_made_to_ask_soon_first() {
        let now = SystemTime::now();
        let lease = |seconds: u32, ago: u64| Lease {
            told: true,
            routed: false,
            acknowledged: Some(now - Duration::from_secs(ago)),
            seconds,
        };
        assert_eq!(next(Some(&lease(3600, 10)), now), Next::Shorten);
        assert_eq!(next(Some(&lease(SHORT, 10)), now), Next::Take);
        // Its client is gone, was never there, or nobody knows when it asks: that is not waited for.
        assert_eq!(next(Some(&lease(3600, 3601)), now), Next::Take);
        assert_eq!(next(None, now), Next::Take);
        assert_eq!(next(Some(&Lease { acknowledged: None, ..lease(3600, 0) }), now), Next::Take);
        assert_eq!(next(Some(&Lease { told: false, ..lease(3600, 10) }), now), Next::Take);
    }
}
