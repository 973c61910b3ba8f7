//! The guest as it shows itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kube::ResourceExt;
use multihome_model::{Family, MacAddr, NetworkInterface, NicAddressStatus};
use multihome_vmm::{GuestAgent, GuestInterface, GuestRoute};

use super::nics;
use crate::cmd::Context;
use crate::output::{cells, table};
use crate::{CliError, Output};

const FAMILIES: [Family; 2] = [Family::IPv4, Family::IPv6];

/// One family of one NIC.
struct SeenFamily {
    address: Option<String>,
    /// What the network offers.
    gateway: Option<String>,
    default_route: bool,
    ping: Option<bool>,
}

/// One NIC.
struct SeenNic {
    name: String,
    network: String,
    guest: String,
    mac: String,
    families: [SeenFamily; 2],
}

/// The guest. Only names, networks and gateways come from the API, found by MAC.
#[derive(Default)]
pub(super) struct Seen {
    nics: Vec<SeenNic>,
    routes: Vec<GuestRoute>,
}

fn is(ip: &IpAddr, family: Family) -> bool {
    ip.is_ipv4() == (family == Family::IPv4)
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local())
}

impl Seen {
    /// Asks the guest's agent; with `ping`, gateways are asked for an answer, too.
    pub(super) async fn read(ctx: &Context, agent: &GuestAgent, ping: bool) -> Result<Self, CliError> {
        let ours: BTreeMap<String, NetworkInterface> =
            nics(ctx).await?.into_iter().filter_map(|n| Some((n.status.as_ref()?.mac.clone()?, n))).collect();
        let read = async { Ok::<_, multihome_vmm::Error>((agent.interfaces().await?, agent.routes().await?)) };
        let Ok((interfaces, routes)) = read.await else {
            // Another reader has the agent for a moment.
            agent.disconnect().await;
            return Ok(Self::default());
        };
        let mut seen = vec![];
        for i in &interfaces {
            let Some(mac) = i.mac.map(|m| MacAddr(m).to_string()) else { continue };
            let Some(nic) = ours.get(&mac) else { continue };
            let status = nic.status.clone().unwrap_or_default();
            let families = [
                family(agent, i, &routes, Family::IPv4, status.ipv4, ping).await,
                family(agent, i, &routes, Family::IPv6, status.ipv6, ping).await,
            ];
            let network = nic.spec.network.clone();
            seen.push(SeenNic { name: nic.name_any(), network, guest: i.name.clone(), mac, families });
        }
        agent.disconnect().await;
        seen.sort_by(|a, b| a.guest.cmp(&b.guest));
        Ok(Self { nics: seen, routes })
    }

    /// Reads the guest with an answer of every gateway; where one is silent, again for some seconds, because an address
    /// of IPv6 is used a second after it is there (RFC 4862 section 5.4).
    pub(super) async fn with_pings(ctx: &Context, agent: &GuestAgent) -> Result<Self, CliError> {
        let mut seen = Self::read(ctx, agent, true).await?;
        for _ in 0..5 {
            if !seen.is_empty() && seen.silent().is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            seen = Self::read(ctx, agent, true).await?;
        }
        Ok(seen)
    }

    /// A NIC whose gateway did not answer, and the gateway.
    fn silent(&self) -> Option<(&str, &str)> {
        self.nics.iter().find_map(|n| {
            let f = n.families.iter().find(|f| f.ping == Some(false))?;
            Some((n.name.as_str(), f.gateway.as_deref()?))
        })
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.nics.is_empty()
    }

    /// Whether so many NICs are there, each with an address of both families.
    pub(super) fn addressed(&self, count: usize) -> bool {
        self.nics.len() >= count && self.nics.iter().all(|n| n.families.iter().all(|f| f.address.is_some()))
    }

    /// The NICs that hold a default route of a family.
    pub(super) fn holders(&self, family: Family) -> Vec<&str> {
        let of = usize::from(family == Family::IPv6);
        self.nics.iter().filter(|n| n.families[of].default_route).map(|n| n.name.as_str()).collect()
    }

    /// A table with a line per NIC and family.
    pub(super) fn print(&self, out: &mut Output) {
        let mut rows = vec![];
        for n in &self.nics {
            let mut first = [&n.name, &n.guest, &n.network, &n.mac].map(String::as_str);
            for f in &n.families {
                let none = || "none".to_owned();
                let mut row = cells(first);
                row.push(f.address.clone().unwrap_or_else(none));
                row.push(f.gateway.clone().unwrap_or_else(none));
                row.push(if f.default_route { "YES" } else { "no" }.into());
                row.push(match f.ping {
                    Some(true) => "answers".into(),
                    Some(false) => "silent".into(),
                    None => "-".into(),
                });
                rows.push(row);
                first = [""; 4];
            }
        }
        let header =
            cells(["NIC", "IN GUEST", "NETWORK", "MAC", "ADDRESS", "GATEWAY", "DEFAULT ROUTE", "GATEWAY PING"]);
        table(&header, &rows).into_iter().for_each(|l| out.line(format!("   {l}")));
    }

    /// The promise: exactly one default route per family, on the NIC that is to hold it, and every gateway answers.
    pub(super) fn check(&self, primary: &str) -> Result<(), CliError> {
        for family in FAMILIES {
            let name = if family == Family::IPv6 { "IPv6" } else { "IPv4" };
            let defaults: Vec<String> = self
                .routes
                .iter()
                .filter(|r| r.is_default() && is(&r.destination, family))
                .filter_map(|r| Some(format!("via {} by {}", r.gateway?, r.interface)))
                .collect();
            if defaults.len() != 1 {
                let list = if defaults.is_empty() { "none".into() } else { defaults.join(", ") };
                return Err(CliError::new(format!(
                    "the guest has {} {name} default routes instead of one: {list}",
                    defaults.len()
                )));
            }
            if self.holders(family) != [primary] {
                return Err(CliError::new(format!(
                    "the guest's {name} default route is by {}, and should be by {primary}",
                    self.holders(family).join(", ")
                )));
            }
        }
        if let Some((nic, gateway)) = self.silent() {
            return Err(CliError::new(format!("gateway {gateway} of {nic} does not answer ping from the guest")));
        }
        Ok(())
    }
}

async fn family(
    agent: &GuestAgent,
    interface: &GuestInterface,
    routes: &[GuestRoute],
    family: Family,
    status: Option<NicAddressStatus>,
    ping: bool,
) -> SeenFamily {
    let address = interface.addresses.iter().find(|(a, _)| is(a, family) && !is_link_local(a));
    let gateway = status.and_then(|a| a.gateway);
    let answers = match (&gateway, ping) {
        (Some(g), true) => {
            let p = agent.run("ping", &["-c", "1", "-W", "2", g], Duration::from_secs(10)).await;
            Some(p.is_ok_and(|o| o.status == Some(0)))
        }
        _ => None,
    };
    SeenFamily {
        address: address.map(|(a, len)| format!("{a}/{len}")),
        gateway,
        default_route: routes
            .iter()
            .any(|r| r.is_default() && is(&r.destination, family) && r.interface == interface.name),
        ping: answers,
    }
}
