//! What the guest itself says: interfaces, addresses, default routes; compared with the plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::{Key, status, vm};
use multihome_model::condition::{self, Condition};
use multihome_model::kubevirt::{InterfaceStatus, VirtualMachineInstance};
use multihome_model::{Family, GuestView, LinkState, MacAddr, NetworkInterface};
use multihome_plan::route::RoutePlan;
use multihome_vmm::{GuestInterface, GuestRoute};

use crate::running::Running;
use crate::{Agent, changes, dhcp, leases, spec};

const EAGER: Duration = Duration::from_millis(500);
const CALM: Duration = Duration::from_secs(5);

/// Watches one guest until its process ends.
pub(crate) async fn follow(agent: Arc<Agent>, key: Key, running: Arc<Running>) {
    let mut connected = false;
    while running.vm.is_running() {
        let guest = running.vm.agent();
        // Without an agent at the other end an answer would be waited for in vain.
        let seen = if running.vm.agent_open().await.unwrap_or(false) {
            match guest.interfaces().await {
                Ok(interfaces) => guest.routes().await.ok().map(|routes| (interfaces, routes)),
                Err(_) => None,
            }
        } else {
            None
        };
        guest.disconnect().await;
        let settled = match seen {
            Some((interfaces, routes)) => {
                connected = true;
                match report(&agent, &key, &interfaces, &routes).await {
                    Ok(correct) => correct,
                    Err(e) => {
                        tracing::debug!(vm = %key, "guest not reported: {e}");
                        false
                    }
                }
            }
            None => {
                if std::mem::take(&mut connected) {
                    let lost = Condition::new("AgentConnected", false, "NoAnswer", "the guest agent does not answer");
                    let _ = set_vmi_condition(&agent, &key, lost).await;
                }
                false
            }
        };
        tokio::select! {
            () = tokio::time::sleep(if settled { CALM } else { EAGER }) => {}
            () = running.look.notified() => {}
            () = running.vm.ended() => return,
        }
    }
}

async fn set_vmi_condition(agent: &Agent, key: &Key, new: Condition) -> Result<(), kube::Error> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(agent.client.clone(), &key.namespace);
    status::update(&api, &key.name, None, |o| {
        let s = o.status.get_or_insert_default();
        condition::set(&mut s.conditions, new.clone(), &status::now());
    })
    .await
    .map(|_| ())
}

/// Writes what the guest says; returns whether its default routes are where they should be.
async fn report(
    agent: &Agent,
    key: &Key,
    interfaces: &[GuestInterface],
    routes: &[GuestRoute],
) -> Result<bool, kube::Error> {
    let views = vm::nics(&agent.world.read(), key);
    let plan = vm::route_plan(&views);
    let (told, pending) = dhcp::present(agent, &views);
    let by_mac: BTreeMap<[u8; 6], &GuestInterface> = interfaces.iter().filter_map(|i| Some((i.mac?, i))).collect();
    let mut correct = true;
    let mut shown = vec![];
    for v in &views {
        let name = v.nic.name_any();
        let guest = by_mac.get(&v.mac.0).copied();
        let verdict = judge(&plan, &name, guest, routes, &by_mac, &views);
        correct &= verdict.is_ok();
        let verdict = match verdict {
            Ok(text) => Condition::new(status::DEFAULT_ROUTE, true, "AsPlanned", text),
            Err(text) => match &pending {
                Some(p) if p.from == name || p.to == name => {
                    let text = format!(
                        "{text}; the default route moves from {} to {} when {} asks again, at {}",
                        p.from,
                        p.to,
                        p.waits_for,
                        leases::stamp(p.until)
                    );
                    Condition::new(status::DEFAULT_ROUTE, false, "WaitingForRenewal", text)
                }
                _ => match changes::waiting(agent, v, &told) {
                    Some(w) => {
                        let text = format!("{text}; {}", w.sentence());
                        Condition::new(status::DEFAULT_ROUTE, false, "WaitingForRenewal", text)
                    }
                    None => Condition::new(status::DEFAULT_ROUTE, false, "NotAsPlanned", text),
                },
            },
        };
        write_nic(agent, &v.nic, guest, routes, verdict).await?;
        shown.push(interface_status(v, guest));
    }
    let primary = plan.primary(Family::IPv4).map(|p| p.name.clone());
    shown.sort_by_key(|(name, _)| (Some(name) != primary.as_ref(), 0));
    let shown: Vec<InterfaceStatus> = shown.into_iter().map(|(_, s)| s).collect();
    let default_route = if correct {
        Condition::new(
            status::DEFAULT_ROUTE,
            true,
            "AsPlanned",
            "the guest has exactly the default route that is planned",
        )
    } else {
        Condition::new(
            status::DEFAULT_ROUTE,
            false,
            "NotAsPlanned",
            "see the conditions of its NICs, or «multihome doctor»",
        )
    };
    let api: Api<VirtualMachineInstance> = Api::namespaced(agent.client.clone(), &key.namespace);
    let known = agent.world.read().vmis.get(key).cloned();
    status::update(&api, &key.name, known.as_deref(), |o| {
        let s = o.status.get_or_insert_default();
        s.interfaces = shown.clone();
        let now = status::now();
        condition::set(
            &mut s.conditions,
            Condition::new("AgentConnected", true, "Answers", "the guest agent answers"),
            &now,
        );
        condition::set(&mut s.conditions, default_route.clone(), &now);
    })
    .await?;
    Ok(correct)
}

/// Whether one NIC's share of the guest's default routes is as planned, in a sentence either way.
fn judge(
    plan: &RoutePlan,
    name: &str,
    guest: Option<&GuestInterface>,
    routes: &[GuestRoute],
    by_mac: &BTreeMap<[u8; 6], &GuestInterface>,
    views: &[vm::VmNicView],
) -> Result<String, String> {
    let Some(guest) = guest else { return Err("the guest does not show this NIC yet".into()) };
    let mut text = vec![];
    for family in [Family::IPv4, Family::IPv6] {
        let Some(planned) = plan.nic(name).and_then(|n| n.family(family)) else { continue };
        let speaks = |a: &IpAddr| a.is_ipv4() == (family == Family::IPv4);
        if family == Family::IPv6 && !guest.addresses.iter().any(|(a, _)| speaks(a)) {
            text.push("the guest speaks no IPv6 on it".into());
            continue;
        }
        let router = views.iter().find(|v| v.nic.name_any() == name).map(|v| {
            let (router, _) =
                spec::router(&v.network.uid().unwrap_or_default(), &v.spec, spec::carrier(&v.nic).unwrap_or_default());
            IpAddr::V6(router)
        });
        let right = |g: &IpAddr| match planned.gateway {
            // IPv6 routers are known by their link-local address (RFC 4861).
            Some(gateway) => *g == gateway || (g.is_ipv6() && Some(*g) == router),
            // Whoever serves there names it.
            None => true,
        };
        let the = if family == Family::IPv6 { "the IPv6 default route" } else { "the default route" };
        let of = |i: &str| {
            routes
                .iter()
                .filter(|r| r.is_default() && r.interface == i && r.destination.is_ipv4() == (family == Family::IPv4))
                .filter_map(|r| r.gateway)
                .collect::<Vec<IpAddr>>()
        };
        let here = of(&guest.name);
        match (planned.default_route, here.as_slice()) {
            (true, [gateway]) if right(gateway) => text.push(format!("holds {the}, via {gateway}")),
            (true, []) if planned.gateway.is_none() && family == Family::IPv6 => {
                text.push("no IPv6 router has shown itself".into())
            }
            (true, []) => {
                let other = views.iter().filter(|v| v.nic.name_any() != name).find_map(|v| {
                    let i = by_mac.get(&v.mac.0)?;
                    (!of(&i.name).is_empty()).then(|| v.nic.name_any())
                });
                return Err(match other {
                    Some(o) => format!("{the} should be by this NIC, and is by {o}"),
                    None => format!("{the} should be by this NIC, and the guest has none yet"),
                });
            }
            (true, found) => {
                let list = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "{the} by this NIC should go via {}, and goes via {list}",
                    planned.gateway.map(|g| g.to_string()).unwrap_or_else(|| "one router".into())
                ));
            }
            (false, []) if family == Family::IPv4 => text.push("holds no default route, as planned".into()),
            (false, []) => text.push("holds no IPv6 default route, as planned".into()),
            (false, found) => {
                return Err(format!(
                    "the guest has a default route by this NIC, via {}, which it should not",
                    found[0]
                ));
            }
        }
    }
    Ok(text.join("; "))
}

async fn write_nic(
    agent: &Agent,
    nic: &NetworkInterface,
    guest: Option<&GuestInterface>,
    routes: &[GuestRoute],
    verdict: Condition,
) -> Result<(), kube::Error> {
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        let s = o.status.get_or_insert_default();
        let now = status::now();
        s.guest_name = guest.map(|g| g.name.clone());
        let view = guest.map(|g| GuestView {
            addresses: g.addresses.iter().map(|(a, len)| format!("{a}/{len}")).collect(),
            default_routes: routes
                .iter()
                .filter(|r| r.is_default() && r.interface == g.name)
                .filter_map(|r| r.gateway.map(|g| g.to_string()))
                .collect(),
            observed: None,
        });
        let same = match (&s.guest, &view) {
            (Some(a), Some(b)) => a.addresses == b.addresses && a.default_routes == b.default_routes,
            (None, None) => true,
            _ => false,
        };
        if !same {
            s.guest = view.map(|v| GuestView { observed: Some(now), ..v });
        }
        status::set_nic_condition(o, verdict.clone());
    })
    .await
    .map(|_| ())
}

fn interface_status(v: &vm::VmNicView, guest: Option<&GuestInterface>) -> (String, InterfaceStatus) {
    let name = v.nic.name_any();
    let vm = v.nic.spec.vm().unwrap_or_default();
    // NICs that came with the VM go by the manifest's name.
    let manifest = name.strip_prefix(&format!("{vm}-")).unwrap_or(&name).to_owned();
    let mut addresses: Vec<String> = guest
        .map(|g| g.addresses.iter().filter(|(a, _)| !is_link_local(a)).map(|(a, _)| a.to_string()).collect())
        .unwrap_or_default();
    addresses.sort_by_key(|a| a.contains(':'));
    let status = InterfaceStatus {
        name: Some(manifest),
        mac: Some(MacAddr(v.mac.0).to_string()),
        ip_address: addresses.first().cloned(),
        ip_addresses: addresses,
        interface_name: guest.map(|g| g.name.clone()),
        info_source: Some(if guest.is_some() { "domain, guest-agent" } else { "domain" }.into()),
        queue_count: Some(v.nic.spec.queues.unwrap_or(1)),
        link_state: Some(if v.nic.spec.link_state == Some(LinkState::Down) { "down" } else { "up" }.into()),
    };
    (name, status)
}

fn is_link_local(a: &IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
    }
}
