//! One boot: a fresh guest on two networks, its clients, what disturbs them, and a renewal.

use std::time::{Duration, Instant, SystemTime};

use multihome_model::DhcpMode;
use multihome_model::checked::CheckedNetwork;

use crate::client::{Asks, Client};
use crate::judge::{Routes, Verdict, look};
use crate::machine::Machine;
use crate::node::Node;
use crate::outside::{self, Foreign};
use crate::{Result, networks, wait_for};

/// Lease time that Multihome and its guard give, in seconds: short, because renewals are waited for.
pub const LEASE: u32 = 20;
/// How long the default route may take after both NICs have addresses, in seconds; then it is missing.
const PATIENCE: u64 = 10;
/// How long routes must stay as they are to be believed.
const QUIET: Duration = Duration::from_millis(1500);
/// How long a boot may take until both NICs have addresses, in seconds.
const BOOT: u64 = 45;

/// What disturbs the primary NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Its server answers 700 ms late.
    Slow,
    /// Its carrier comes 2 s late.
    LateCarrier,
    /// It is unplugged from a running guest and plugged in again.
    Replugged,
}

/// Who serves DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Servers {
    /// Multihome.
    Multihome,
    /// dnsmasq on both networks, behind Multihome's guard.
    Guarded,
    /// dnsmasq on both networks, and no Multihome.
    Plain,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Slow, Self::LateCarrier, Self::Replugged];

    /// A short name, as results carry it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::LateCarrier => "late-carrier",
            Self::Replugged => "replugged",
        }
    }
}

impl Servers {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Multihome, Self::Guarded, Self::Plain];

    /// A short name, as results carry it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multihome => "Multihome",
            Self::Guarded => "guarded",
            Self::Plain => "dnsmasq",
        }
    }
}

/// What came of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// After the boot, with what disturbed it.
    pub boot: Verdict,
    /// After both leases were renewed.
    pub renewal: Verdict,
}

/// A guest on two networks, with a node in between or without.
pub struct Lab {
    /// The guest.
    pub guest: Machine,
    /// The world outside.
    pub world: Machine,
    /// What is between them. Ends before the others do.
    pub node: Node,
    /// How many of the guest's NICs are in use, the primary first: 2, or 1.
    pub nics: usize,
    servers: Servers,
}

impl Lab {
    /// Makes all of it for two IPv4 networks that both have a router; the guest's NICs are not plugged in yet.
    ///
    /// # Errors
    /// When something that it takes cannot be made.
    pub fn new(servers: Servers) -> Result<Self> {
        let mode = if servers == Servers::Multihome { DhcpMode::Server } else { DhcpMode::Guard };
        Self::with(servers, &networks::checked(&[networks::spec(0, mode), networks::spec(1, mode)])?)
    }

    /// The same for networks of another kind.
    ///
    /// # Errors
    /// When something that it takes cannot be made.
    pub fn with(servers: Servers, networks: &[CheckedNetwork; 2]) -> Result<Self> {
        let (guest, mut world) = (Machine::new()?, outside::world()?);
        let node = Node::new(&guest, &world, (servers != Servers::Plain).then(|| networks.clone()))?;
        let foreign = if servers == Servers::Multihome { Foreign::Nobody } else { Foreign::Dnsmasq };
        outside::serve(&mut world, foreign, LEASE / 2)?;
        node.tell(&networks::route_plan(networks, 0, LEASE))?;
        Ok(Self { guest, world, node, nics: 2, servers })
    }

    /// Something that changes with every acknowledgement that a NIC gets.
    fn acknowledged(&self, nic: usize) -> Result<(usize, Option<SystemTime>)> {
        if self.servers == Servers::Multihome {
            let last = self.node.call(move |n| n.server.lease(networks::NICS[nic]).and_then(|l| l.acknowledged))?;
            return Ok((0, last));
        }
        Ok((outside::acknowledgements(&self.world, nic), None))
    }

    /// Waits until every NIC has an address and there is a default route, or has been time enough for one, and until
    /// nothing changes any more.
    ///
    /// # Errors
    /// When a NIC gets no address in a minute.
    pub fn settled(&self) -> Result<Routes> {
        let mut addressed: Option<Instant> = None;
        let mut since: Option<(Instant, Routes)> = None;
        let seen = wait_for("an address on every NIC", BOOT, || {
            let now = look(&self.guest, false)?;
            if now.addresses[..self.nics].iter().any(Vec::is_empty) {
                addressed = None;
                return Ok(None);
            }
            let first = *addressed.get_or_insert_with(Instant::now);
            let (at, before) = since.get_or_insert_with(|| (Instant::now(), now.clone()));
            if *before != now {
                since = Some((Instant::now(), now));
                return Ok(None);
            }
            let enough = !now.defaults.is_empty() || first.elapsed().as_secs() >= PATIENCE;
            Ok((enough && at.elapsed() >= QUIET).then_some(now))
        });
        seen.map_err(|e| format!("{e}\n{}{}", self.guest.logs(), self.world.logs()).into())
    }

    /// Waits until every lease was renewed, and routes changed no more.
    ///
    /// # Errors
    /// When a client does not renew in twice the time that it may take.
    pub fn renewed(&self, client: Client) -> Result<Routes> {
        let all = || (0..self.nics).map(|i| self.acknowledged(i)).collect::<Result<Vec<_>>>();
        let before = all()?;
        client.renew(&self.guest)?;
        let patience = u64::from(LEASE.max(outside::LEASE));
        wait_for("the renewal of every lease", patience, || {
            Ok(all()?.iter().zip(&before).all(|(a, b)| a != b).then_some(()))
        })
        .map_err(|e| format!("{e}\n{}", self.guest.logs()))?;
        self.settled()
    }
}

/// Boots a guest once and has it renew once. `number` decides which NIC's client is started first.
///
/// # Errors
/// When it could not be done: nothing is known then.
pub fn boot(client: Client, scenario: Scenario, servers: Servers, number: usize) -> Result<Outcome> {
    let mut lab = Lab::new(servers)?;
    let late = if scenario == Scenario::Slow { Duration::from_millis(700) } else { Duration::ZERO };
    lab.node.plug(0, scenario != Scenario::LateCarrier, late)?;
    lab.node.plug(1, true, Duration::ZERO)?;
    client.install(&lab.guest, Asks::V4)?;
    client.start(&mut lab.guest, number % 2, Asks::V4)?;
    match scenario {
        Scenario::Slow => {}
        Scenario::LateCarrier => {
            std::thread::sleep(Duration::from_secs(2));
            lab.node.carrier(0)?;
        }
        Scenario::Replugged => {
            lab.settled()?;
            lab.node.unplug(0)?;
            std::thread::sleep(Duration::from_secs(1));
            lab.node.plug(0, true, Duration::ZERO)?;
            client.came_back(&mut lab.guest, 0, Asks::V4)?;
        }
    }
    let boot = lab.settled()?.verdict("eth0");
    let renewal = lab.renewed(client)?.verdict("eth0");
    Ok(Outcome { boot, renewal })
}
