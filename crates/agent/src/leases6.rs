//! What guests do by IPv6, told to the users and to port security: leases, and addresses that they form themselves.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use kube::api::Api;
use multihome_control::world::{Tables, network_key};
use multihome_control::{Key, status, vm};
use multihome_dhcp::server6::{MOST_FORMED, View};
use multihome_dhcp::v6::Fact;
use multihome_model::{
    Addressing, Condition, DhcpMode, Family, LearntAddress, Lease6Status, NetworkInterface, SOURCE_FORMED,
};

use crate::leases::stamp;
use crate::{Agent, spec};

/// Follows the DHCPv6 server and what ports show for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    loop {
        for uid in agent.dhcp6.changed().await {
            let nic = agent.world.read().nic_of_uid(&uid);
            let (Some(nic), Some(view)) = (nic, agent.dhcp6.view(&uid)) else { continue };
            if let Err(e) = tell(agent, &nic, &view).await {
                tracing::warn!(nic = %Key::of(nic.as_ref()), "IPv6 state not reported: {e}");
            }
        }
    }
}

async fn tell(agent: &Agent, nic: &Arc<NetworkInterface>, view: &View) -> Result<(), kube::Error> {
    let (formed, taken, only6) = {
        let t = agent.world.read();
        let (formed, taken) = sort(&t, nic, &view.formed, &[]);
        let only6 = vm::view(&t, nic.clone()).is_some_and(|v| v.spec.dhcp(Family::IPv4) != DhcpMode::Server);
        (formed, taken, only6)
    };
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        let s = o.status.get_or_insert_default();
        add_formed(&mut s.addresses, &formed);
        s.lease6 = view.given.map(|(a, at, seconds)| Lease6Status {
            address: a.to_string(),
            acknowledged: Some(stamp(at)),
            seconds,
            duid: view.duid.iter().map(|b| format!("{b:02x}")).collect(),
        });
        if only6 {
            match view.last {
                Some(Fact::Given(a)) => {
                    let text = format!("the guest took {a}");
                    status::set_nic_condition(o, Condition::new(status::LEASED, true, "Acknowledged", text));
                }
                Some(Fact::Released) => {
                    let text = "the guest gave its address back";
                    status::set_nic_condition(o, Condition::new(status::LEASED, false, "Released", text));
                }
                _ => {}
            }
        }
    })
    .await?;
    if let Some((a, owner)) = taken {
        let text = format!("the guest formed {a}, which is {owner}: what it sends from there is dropped");
        agent.events.warning(nic.as_ref(), "AddressTaken", text).await;
    }
    if view.last == Some(Fact::Declined) {
        let text = "the guest found its IPv6 address in use on the segment";
        agent.events.warning(nic.as_ref(), "AddressConflict", text).await;
    }
    Ok(())
}

/// Adds addresses that the guest formed to what is known of it; the oldest goes where there are too many.
pub(crate) fn add_formed(known: &mut Vec<LearntAddress>, formed: &[Ipv6Addr]) {
    for a in formed {
        if known.iter().any(|b| b.address == a.to_string()) {
            continue;
        }
        let mine = known.iter().filter(|b| b.source == SOURCE_FORMED).count();
        if mine >= MOST_FORMED
            && let Some(oldest) = known.iter().position(|b| b.source == SOURCE_FORMED)
        {
            known.remove(oldest);
        }
        known.push(LearntAddress { address: a.to_string(), source: SOURCE_FORMED.into(), ..LearntAddress::default() });
    }
}

/// Which of the addresses that a guest formed it may have, and one that it may not, with who has it. First come, first
/// served (RFC 6620): an address of this link, or of a prefix that guests form addresses from, belongs to the NIC that formed it first, unless it is somebody's claim or a router's.
pub(crate) fn sort(
    t: &Tables,
    nic: &Arc<NetworkInterface>,
    seen: &[Ipv6Addr],
    prefixes: &[u64],
) -> (Vec<Ipv6Addr>, Option<(Ipv6Addr, String)>) {
    let Some(view) = vm::view(t, nic.clone()) else { return (vec![], None) };
    let key = network_key(nic);
    let (router, _) =
        spec::router(&view.network.uid().unwrap_or_default(), &view.spec, spec::carrier(nic).unwrap_or_default());
    let prefix = view.spec.ipv6.as_ref().and_then(|s| match (s.cidr, s.addressing) {
        (IpNet::V6(net), Some(Addressing::Slaac | Addressing::Stateless)) => Some(net),
        _ => None,
    });
    let gateway = view.spec.ipv6.as_ref().and_then(|s| s.gateway);
    let own = vm::nic_address(nic, Family::IPv6);
    let mut taken = None;
    let mut mine = vec![];
    for a in seen {
        if Some(IpAddr::V6(*a)) == own || *a == view.mac.link_local() {
            continue;
        }
        let announced = prefixes.contains(&((u128::from(*a) >> 64) as u64));
        let right = a.is_unicast_link_local() || announced || prefix.is_some_and(|p| p.contains(a));
        if !right {
            continue;
        }
        let holder = if *a == router || gateway == Some(IpAddr::V6(*a)) {
            Some("the router's".to_owned())
        } else {
            t.nics_of_network(&key).filter_map(|k| t.nics.get(k)).filter(|n| n.uid() != nic.uid()).find_map(|n| {
                let s = n.status.as_ref()?;
                let has = vm::nic_mac(n).link_local() == *a
                    || vm::nic_address(n, Family::IPv6) == Some(IpAddr::V6(*a))
                    || s.addresses.iter().any(|b| b.address == a.to_string());
                has.then(|| format!("NIC {}'s", n.name_any()))
            })
        };
        match holder {
            Some(who) => taken = Some((*a, who)),
            None => mine.push(*a),
        }
    }
    (mine, taken)
}
