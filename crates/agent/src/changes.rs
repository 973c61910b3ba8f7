//! Changes that a running guest has yet to learn by DHCPv4: said on its NICs, and hastened by the NIC's link where it asks
//! for that.

use std::time::{Duration, SystemTime};

use kube::ResourceExt;
use kube::api::Api;
use multihome_control::status;
use multihome_control::vm::VmNicView;
use multihome_dhcp::v4::Told;
use multihome_model::condition::{Condition, find};
use multihome_model::{LinkState, NetworkInterface, OnChange};
use multihome_plan::route::RoutePlan;

use crate::running::Running;
use crate::{Agent, Error, dhcp, leases};

/// How long a link is down for its guest to notice: a client that watches it asks again when it comes back.
const DOWN: Duration = Duration::from_secs(2);
/// The reason of a lease that stands and says something out of date.
const WAITING: &str = "WaitingForRenewal";

/// What a guest is to be told instead of what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// By our own server.
    Served(Told),
    /// By the guard, which knows of the default route before it hears the next answer, and of nothing else.
    Guarded {
        /// Whether it is to have one.
        default_route: bool,
    },
}

/// Something that a guest does not know yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    due: Due,
    /// In the order of importance.
    what: Vec<&'static str>,
    /// When its lease is renewed, if that is known.
    until: Option<SystemTime>,
}

impl Waiting {
    /// The sentence for conditions.
    pub(crate) fn sentence(&self) -> String {
        let when = self.until.map_or_else(String::new, |t| format!(", at {}", leases::stamp(t)));
        format!("the guest learns of its {} when it renews its lease{when}", self.what.join(", "))
    }
}

/// What a NIC's guest does not know yet, as far as anybody can tell. `plan` is what is told now.
pub(crate) fn waiting(agent: &Agent, v: &VmNicView, plan: &RoutePlan) -> Option<Waiting> {
    let uid = v.nic.uid()?;
    if let Some(l) = agent.dhcp.lease(&uid) {
        let (told, due) = (l.told?, l.due?);
        let parts = [
            (told.router != due.router, "default route"),
            (told.routes != due.routes, "routes"),
            (told.mtu != due.mtu, "MTU"),
            (told.server != due.server, "DHCP server"),
        ];
        let what = parts.into_iter().filter_map(|(differs, word)| differs.then_some(word)).collect();
        return Some(Waiting {
            due: Due::Served(due),
            what,
            until: l.acknowledged.map(|at| dhcp::renewal(at, l.seconds)),
        });
    }
    let g = agent.guard.view(&uid)?;
    let told = g.told?;
    let wanted = plan.nic(&v.nic.name_any())?.ipv4.as_ref()?.default_route && g.offered.is_some();
    (told.router.is_some() != wanted).then(|| Waiting {
        due: Due::Guarded { default_route: wanted },
        what: vec!["default route"],
        until: g.acknowledged.map(|(at, seconds)| dhcp::renewal(at, seconds)),
    })
}

/// Says on every NIC whether its guest has yet to learn something.
pub(crate) async fn show(agent: &Agent, views: &[VmNicView], plan: &RoutePlan) -> Result<(), Error> {
    for v in views {
        let Some(known) = v.nic.status.as_ref().and_then(|s| find(&s.conditions, status::LEASED)) else { continue };
        let address = v.nic.status.as_ref().and_then(|s| s.lease.as_ref()).map(|l| l.address.clone());
        let (true, Some(address)) = (known.is_true(), address) else { continue };
        let text = format!("the guest took {address}");
        let next = match waiting(agent, v, plan) {
            Some(w) => Condition::new(status::LEASED, true, WAITING, format!("{text}; {}", w.sentence())),
            None if known.reason == WAITING => Condition::new(status::LEASED, true, "Acknowledged", text),
            None => continue,
        };
        if (known.reason.as_str(), &known.message) == (next.reason.as_str(), &next.message) {
            continue;
        }
        let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &v.nic.namespace().unwrap_or_default());
        status::update(&api, &v.nic.name_any(), Some(&v.nic), |o| {
            // A refusal or a new lease says more.
            let now = o.status.as_ref().and_then(|s| find(&s.conditions, status::LEASED));
            if now.is_some_and(|c| c.is_true() && c.reason == known.reason) {
                status::set_nic_condition(o, next.clone());
            }
        })
        .await?;
    }
    Ok(())
}

/// Pulls the cable of every NIC that asks for it and whose guest has yet to learn something, once for each thing to be learnt,
/// and plugs it in again.
pub(crate) async fn hasten(agent: &Agent, r: &Running, views: &[VmNicView]) -> Result<(), Error> {
    let (plan, _) = dhcp::present(agent, views);
    show(agent, views, &plan).await?;
    let mut pulled = vec![];
    for v in views {
        let spec = &v.nic.spec;
        let (Some(uid), true) = (v.nic.uid(), bounces(&v.nic) && spec.link_state != Some(LinkState::Down)) else {
            continue;
        };
        let Some(w) = waiting(agent, v, &plan) else {
            r.hastened().remove(&uid);
            continue;
        };
        let done = r.hastened().get(&uid) == Some(&w.due);
        if !done && r.set_link(&uid, false).await? {
            r.hastened().insert(uid.clone(), w.due.clone());
            pulled.push((v, uid, w.what.join(", ")));
        }
    }
    if pulled.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(DOWN).await;
    for (v, uid, what) in pulled {
        r.set_link(&uid, true).await?;
        let text = format!("the link was down for {} s so that the guest learns of its {what}", DOWN.as_secs());
        agent.events.normal(v.nic.as_ref(), "LinkBounced", text).await;
    }
    Ok(())
}

/// Whether a NIC's link may be used to hasten its guest.
pub(crate) fn bounces(nic: &NetworkInterface) -> bool {
    nic.spec.on_change == Some(OnChange::BounceLink)
}
