//! What happens to leases, told to the users: status, conditions, Events.

use std::sync::Arc;
use std::time::SystemTime;

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::{Key, status};
use multihome_dhcp::server::LeaseView;
use multihome_dhcp::v4::{Fact, Refusal};
use multihome_model::{Condition, LeaseStatus, NetworkInterface};

use crate::{Agent, Work};

/// What is said of the one client that no answer of a server keeps from making a default route.
const CONNMAN: &str = "the guest's client is ConnMan, which makes a default route by a NIC that is told none: \
    make this NIC the primary, or configure it in the guest by hand (multihome guest config)";

/// Follows the DHCP server's leases for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    loop {
        for uid in agent.dhcp.changed().await {
            let nic = agent.world.read().nic_of_uid(&uid);
            let (Some(nic), Some(lease)) = (nic, agent.dhcp.lease(&uid)) else { continue };
            if let Some(vm) = multihome_control::world::vm_key(&nic) {
                // A default route on its way may have moved on.
                agent.queue.push(Work::Instance(vm));
            }
            if let Err(e) = tell(agent, &nic, &lease).await {
                tracing::warn!(nic = %Key::of(nic.as_ref()), "lease not reported: {e}");
            }
        }
    }
}

/// A time as status carries it, RFC 3339 in seconds.
pub(crate) fn stamp(t: SystemTime) -> String {
    jiff::Timestamp::try_from(t).map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

async fn tell(agent: &Agent, nic: &Arc<NetworkInterface>, lease: &LeaseView) -> Result<(), kube::Error> {
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    let first = nic.status.as_ref().is_none_or(|s| s.lease.is_none());
    let told = lease.told.as_ref();
    let routed = told.is_some_and(|t| t.router.is_some());
    status::update(&api, &nic.name_any(), Some(nic), |o| match lease.last {
        Some(Fact::Acknowledged) => {
            o.status.get_or_insert_default().lease = Some(LeaseStatus {
                address: lease.address.to_string(),
                default_route: routed,
                acknowledged: lease.acknowledged.map(stamp),
                seconds: lease.seconds,
                hostname: lease.host_name.clone(),
                server: told.map(|t| t.server.to_string()),
                gateway: told.and_then(|t| t.router).map(|r| r.to_string()),
                routes: told.into_iter().flat_map(|t| &t.routes).map(|(to, via)| format!("{to} via {via}")).collect(),
                mtu: told.map(|t| t.mtu),
            });
            let text = format!("the guest took {}", lease.address);
            status::set_nic_condition(o, Condition::new(status::LEASED, true, "Acknowledged", text));
        }
        Some(Fact::Refused(why)) => {
            let text = match why {
                Refusal::RoutesChanged => "its routes or MTU changed: the guest was told to start afresh",
                Refusal::WrongAddress => "the guest asked for an address that is not its own, and was refused",
            };
            if why == Refusal::RoutesChanged {
                o.status.get_or_insert_default().lease = None;
            }
            status::set_nic_condition(o, Condition::new(status::LEASED, false, "Refused", text));
        }
        Some(Fact::Released) => {
            o.status.get_or_insert_default().lease = None;
            status::set_nic_condition(
                o,
                Condition::new(status::LEASED, false, "Released", "the guest gave its address back"),
            );
        }
        Some(Fact::Declined) => {
            let text = format!("the guest found somebody else using {}: look for it on the segment", lease.address);
            status::set_nic_condition(o, Condition::new(status::LEASED, false, "AddressConflict", text));
        }
        _ => {}
    })
    .await?;
    match &lease.last {
        Some(Fact::Acknowledged) if first => {
            // Two reasons, because Events of one reason are counted together under the first one's text.
            let (reason, with) = if routed { ("LeasedWithRouter", "with") } else { ("Leased", "without") };
            let text = format!("the guest took {} {with} a default route", lease.address);
            agent.events.normal(nic.as_ref(), reason, text).await;
            if lease.invents_routes && !routed {
                agent.events.warning(nic.as_ref(), "ClientInventsRoute", CONNMAN).await;
            }
        }
        Some(Fact::Refused(Refusal::RoutesChanged)) => {
            agent
                .events
                .normal(
                    nic.as_ref(),
                    "RoutesChanged",
                    "a renewal was refused so that the guest learns its new routes and MTU",
                )
                .await;
        }
        Some(Fact::Refused(Refusal::WrongAddress)) => {
            agent
                .events
                .warning(nic.as_ref(), "WrongAddress", "the guest asked for an address that is not its own")
                .await;
        }
        Some(Fact::Declined) => {
            agent
                .events
                .warning(
                    nic.as_ref(),
                    "AddressConflict",
                    format!("the guest found {} in use on the segment", lease.address),
                )
                .await;
        }
        _ => {}
    }
    Ok(())
}
