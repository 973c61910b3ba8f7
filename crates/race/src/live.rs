//! Changes of a network while a guest runs: what a client makes of them when it renews its lease.

use std::time::Duration;

use multihome_model::checked::CheckedNetwork;
use multihome_model::{DhcpMode, NetworkSpec};

use crate::boot::{LEASE, Lab, Servers};
use crate::client::{Asks, Client};
use crate::judge::{Routes, look, name_servers};
use crate::machine::Machine;
use crate::{Result, networks, wait_for};

/// A lease that no client renews while it is watched, in seconds.
const LONG: u32 = 3600;

/// What changes on the primary's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its gateway is no more.
    GatewayGone,
    /// It has another gateway.
    GatewayOther,
    /// It has another route.
    Routes,
    /// It has another name server.
    Dns,
    /// It has a smaller MTU.
    Mtu,
}

/// What a client made of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// The guest has the new, and nothing of the old.
    Yes,
    /// The guest has the old.
    No,
    /// The guest has neither before nor after: the client takes no such thing.
    Never,
}

impl Followed {
    fn of(before: bool, seen: (bool, bool)) -> Self {
        match (before, seen) {
            (_, (false, true)) => Self::Yes,
            (false, (_, false)) => Self::Never,
            _ => Self::No,
        }
    }
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::GatewayGone, Self::GatewayOther, Self::Routes, Self::Dns, Self::Mtu];

    /// The change in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::GatewayGone => "gateway removed",
            Self::GatewayOther => "gateway changed",
            Self::Routes => "routes changed",
            Self::Dns => "name server changed",
            Self::Mtu => "MTU lowered",
        }
    }

    fn apply(self, spec: &mut NetworkSpec) {
        let Some(f) = &mut spec.ipv4 else { return };
        match self {
            Self::GatewayGone => {
                f.routes.iter_mut().for_each(|r| r.via.clone_from(&f.gateway));
                f.gateway = None;
            }
            Self::GatewayOther => {
                f.routes.iter_mut().for_each(|r| r.via.clone_from(&f.gateway));
                f.gateway = Some("10.100.0.2".into());
            }
            Self::Routes => f.routes[0].to = "10.52.0.0/16".into(),
            Self::Dns => f.dns = vec!["10.100.0.2".into()],
            Self::Mtu => spec.mtu = Some(1300),
        }
    }

    /// Whether a guest has what the network said before, and what it says afterwards.
    fn seen(self, guest: &Machine) -> Result<(bool, bool)> {
        let routes = look(guest, false)?.all;
        let route = |text: &str| routes.iter().any(|r| r == text);
        let defaults = routes.iter().filter(|r| r.starts_with("default ")).count();
        Ok(match self {
            Self::GatewayGone => (defaults > 0, defaults == 0),
            Self::GatewayOther => (route("default 10.100.0.1 eth0"), route("default 10.100.0.2 eth0")),
            Self::Routes => (route("10.50.0.0/16 10.100.0.1 eth0"), route("10.52.0.0/16 10.100.0.1 eth0")),
            Self::Dns => {
                let has = name_servers(guest)?;
                (has.contains("10.100.0.1"), has.contains("10.100.0.2"))
            }
            Self::Mtu => {
                // dhcpcd leaves the device alone and says it of its routes.
                let said = guest.run("ip -o link show dev eth0; ip -4 route show dev eth0")?;
                (said.contains("mtu 1400"), said.contains("mtu 1300"))
            }
        })
    }
}

fn specs(change: Option<Change>) -> [NetworkSpec; 2] {
    let mut specs = [0, 1].map(|i| networks::spec(i, DhcpMode::Server));
    specs[0].mtu = Some(1400);
    if let Some(c) = change {
        c.apply(&mut specs[0]);
    }
    specs
}

/// A guest with one NIC and its lease on a network that Multihome serves.
fn running(client: Client, networks: &[CheckedNetwork; 2], lease: u32) -> Result<Lab> {
    let mut lab = Lab::with(Servers::Multihome, networks)?;
    lab.node.tell(&networks::route_plan(networks, 0, lease))?;
    lab.nics = 1;
    lab.node.plug(0, true, Duration::ZERO)?;
    lab.node.plug(1, false, Duration::ZERO)?;
    client.install(&lab.guest, Asks::V4)?;
    client.start(&mut lab.guest, 0, Asks::V4)?;
    lab.settled()?;
    Ok(lab)
}

/// Changes the primary's network and waits for the next renewal. `plain`: the server acknowledges the renewal whatever was
/// told before, as servers do that remember nothing; otherwise it is Multihome's.
///
/// # Errors
/// When a NIC gets no address, or a lease is not renewed.
pub fn follows(client: Client, change: Change, plain: bool) -> Result<Followed> {
    let lab = running(client, &networks::checked(&specs(None))?, LEASE)?;
    let (before, _) = change.seen(&lab.guest)?;
    let after = networks::checked(&specs(Some(change)))?;
    lab.node.change(after.clone())?;
    if plain {
        // Or clients do not hear it at all.
        lab.node.call(|n| n.identifiers = Some([0, 1].map(networks::gateway)))?;
    }
    lab.node.tell(&networks::route_plan(&after, 0, LEASE))?;
    if plain {
        lab.node.call(|n| networks::NICS.iter().for_each(|nic| n.server.forget_told(nic)))?;
    }
    lab.renewed(client)?;
    // A client's script may take its time.
    let followed = wait_for("the change", 5, || Ok((change.seen(&lab.guest)? == (false, true)).then_some(())));
    let seen = if followed.is_ok() { (false, true) } else { change.seen(&lab.guest)? };
    Ok(Followed::of(before, seen))
}

/// Changes the primary's network and takes the NIC's carrier away for 2 s, as the agent does where a NIC says
/// `onChange: BounceLink`: whether the client follows long before it would renew its lease.
///
/// # Errors
/// When a NIC gets no address.
pub fn follows_its_link(client: Client, change: Change) -> Result<Followed> {
    let lab = running(client, &networks::checked(&specs(None))?, LONG)?;
    let (before, _) = change.seen(&lab.guest)?;
    let after = networks::checked(&specs(Some(change)))?;
    lab.node.change(after.clone())?;
    lab.node.tell(&networks::route_plan(&after, 0, LONG))?;
    lab.node.bounce(0, Duration::from_secs(2))?;
    let followed = wait_for("the change", 15, || Ok((change.seen(&lab.guest)? == (false, true)).then_some(())));
    let seen = if followed.is_ok() { (false, true) } else { change.seen(&lab.guest)? };
    Ok(Followed::of(before, seen))
}

/// Moves the default route from the first NIC to the second as Multihome's agent does, one step a renewal. Returns what
/// the guest held after the first step and after the second.
///
/// # Errors
/// When a NIC gets no address, or a lease is not renewed.
pub fn moves(client: Client, servers: Servers) -> Result<[Routes; 2]> {
    let mut lab = Lab::new(servers)?;
    lab.start(client, Asks::V4)?;
    lab.settled()?;
    let mode = if servers == Servers::Multihome { DhcpMode::Server } else { DhcpMode::Guard };
    let networks = networks::checked(&[0, 1].map(|i| networks::spec(i, mode)))?;
    let last = networks::route_plan(&networks, 1, LEASE);
    let mut first = last.clone();
    first.nics.iter_mut().filter_map(|n| n.ipv4.as_mut()).for_each(|f| f.default_route = false);
    lab.node.tell(&first)?;
    let between = lab.renewed(client)?;
    lab.node.tell(&last)?;
    Ok([between, lab.renewed(client)?])
}

/// The measurement for every client: a line of a table for each, with what it does at a renewal by itself, at a renewal with
/// Multihome's server, and when its link goes and comes.
///
/// # Errors
/// When a guest cannot be judged.
pub fn table(clients: &[Client]) -> Result<String> {
    let mut out = format!("| client | {} |\n", Change::ALL.map(Change::name).join(" | "));
    out += &format!("| --- |{}\n", " --- |".repeat(Change::ALL.len()));
    let word = |f: Followed| match f {
        Followed::Yes => "yes",
        Followed::No => "no",
        Followed::Never => "–",
    };
    for client in clients {
        let line = std::thread::scope(|scope| -> Result<Vec<String>> {
            let cells = Change::ALL.map(|c| {
                let [plain, ours] = [true, false].map(|plain| scope.spawn(move || follows(*client, c, plain)));
                [plain, ours, scope.spawn(move || follows_its_link(*client, c))]
            });
            let mut line = vec![];
            for cell in cells {
                let mut words = vec![];
                for one in cell {
                    words.push(word(one.join().map_err(|_| "a measurement broke off")??));
                }
                line.push(words.join(" / "));
            }
            Ok(line)
        })?;
        out += &format!("| {} | {} |\n", client.name(), line.join(" | "));
        eprint!("{}", out.lines().last().map(|l| format!("{l}\n")).unwrap_or_default());
    }
    Ok(out)
}
