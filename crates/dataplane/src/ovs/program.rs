//! The flows that bridges have: what is missing is added and what is too much removed, each bridge in one stroke.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multihome_model::{IfName, MacAddr};
use multihome_ovsdb::Control;
use multihome_ovsdb::openflow::{Bridge, Bucket, Change, Flow, Group, Seen};

use super::asks::Listeners;
use super::database::{Database, Touched};
use super::flows::{self, GROUPS, OWN, Piece, Way};
use super::model::{BridgeModel, Fact, Role};
use super::zones::Zones;
use super::{Datapath, Model, policy};
use crate::error::Result;

/// What flows are for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// The bridge, whoever is on it.
    Base,
    /// A port.
    Port(String),
    /// A NIC of another node.
    Host(MacAddr),
    /// An address that is in groups.
    Member(IpAddr),
}

type Pieces = BTreeMap<Owner, Piece>;

/// The bridges' flows, as far as they are known to be right.
#[derive(Debug)]
pub(super) struct Program {
    directory: PathBuf,
    timeout: Duration,
    bridges: HashMap<IfName, Bridge>,
    known: HashMap<IfName, Pieces>,
    control: Control,
    zones: Zones,
    listeners: Listeners,
    datapath: Datapath,
    /// Bridges that were just made, and had no flows.
    made: BTreeSet<IfName>,
    /// Whether something was taken away since the data path was last waited for.
    stale: bool,
}

fn bridge_of<'a>(
    all: &'a mut HashMap<IfName, Bridge>,
    directory: &Path,
    timeout: Duration,
    name: &IfName,
) -> &'a mut Bridge {
    all.entry(name.clone()).or_insert_with(|| Bridge::new(directory, name.as_str(), timeout))
}

/// A bridge's way to other nodes, if it has one that works.
fn way<'a>(bridge: &'a BridgeModel, database: &Database) -> Option<Way<'a>> {
    let name = bridge.uplink.as_ref()?;
    let port = database.interface(name)?.port?;
    match &bridge.ports.get(name)?.fact {
        Fact::Tunnel(flood) => Some(Way { port, flood: Some(flood), own: &flood.own }),
        Fact::Uplink(uplink) => Some(Way { port, flood: None, own: &uplink.own }),
        _ => None,
    }
}

/// What one owner's flows are to be; `None` for one that is not there, or not yet.
fn piece(owner: &Owner, bridge: &BridgeModel, database: &Database) -> Option<Piece> {
    match owner {
        Owner::Base => Some(flows::base(&bridge.role, way(bridge, database))),
        Owner::Port(name) => {
            let port = bridge.ports.get(name)?;
            Some(flows::port(&bridge.role, database.interface(name)?.port?, &port.fact))
        }
        Owner::Member(address) => Some(flows::member(*address, bridge.grouped.get(address)?)),
        Owner::Host(mac) => {
            let way = way(bridge, database)?;
            let remote = bridge.uplink.as_ref().and_then(|u| bridge.ports.get(u))?.hosts.get(mac)?;
            Some(flows::host(*mac, remote, way.flood.is_none_or(|f| f.unknown)))
        }
    }
}

/// Everybody who has flows.
fn owners(bridge: &BridgeModel) -> impl Iterator<Item = Owner> {
    let hosts = bridge.uplink.as_ref().and_then(|u| bridge.ports.get(u)).map(|p| &p.hosts);
    let hosts = hosts.into_iter().flat_map(|h| h.keys().copied()).map(Owner::Host);
    let members = bridge.grouped.keys().copied().map(Owner::Member);
    [Owner::Base].into_iter().chain(bridge.ports.keys().cloned().map(Owner::Port)).chain(hosts).chain(members)
}

fn all(bridge: &BridgeModel, database: &Database) -> Pieces {
    owners(bridge).filter_map(|o| Some((o.clone(), piece(&o, bridge, database)?))).collect()
}

/// All flows; of several about the same frames, as while an address moves from one node to another, the last one.
fn flows_of(pieces: &Pieces) -> Vec<Flow> {
    let key = |f: &Flow| (f.table, f.priority, f.matching.clone());
    let all: BTreeMap<_, Flow> = pieces.values().flat_map(|p| &p.flows).map(|f| (key(f), f.clone())).collect();
    all.into_values().collect()
}

/// The groups and their members.
fn groups_of(role: &Role, pieces: &Pieces) -> BTreeMap<u32, Vec<Bucket>> {
    let mut groups: BTreeMap<u32, Vec<Bucket>> = BTreeMap::new();
    if matches!(role, Role::Network(_)) {
        groups.extend(GROUPS.map(|g| (g, vec![])));
    }
    for piece in pieces.values() {
        for group in &piece.groups {
            groups.entry(*group).or_default().extend(piece.port.map(|port| piece.bucket(port)));
        }
    }
    groups
}

/// What bridges learned for a port, and when it is to be forgotten: with the first that is not as it was.
fn learned(piece: &Piece) -> Vec<((u8, u64), u32)> {
    let Some(port) = piece.port else { return vec![] };
    let addresses = piece.learns.then(|| (flows::addresses(port), 0));
    addresses.into_iter().chain(piece.epoch.map(|epoch| (flows::conversations(port), epoch))).collect()
}

/// What leads from some pieces to others. Removals come first: what is added may be about the same frames.
fn changes(before: &[Option<&Piece>], after: &[Option<&Piece>]) -> Vec<Change> {
    let set = |pieces: &[Option<&Piece>]| -> BTreeSet<Flow> {
        pieces.iter().flatten().flat_map(|p| p.flows.iter().cloned()).collect()
    };
    let members = |pieces: &[Option<&Piece>]| -> BTreeMap<(u32, u32), Bucket> {
        let of =
            |p: &&Piece| p.port.map(|port| p.groups.iter().map(|g| ((*g, port), p.bucket(port))).collect::<Vec<_>>());
        pieces.iter().flatten().filter_map(of).flatten().collect()
    };
    let learners =
        |pieces: &[Option<&Piece>]| -> BTreeSet<_> { pieces.iter().flatten().flat_map(|p| learned(p)).collect() };
    let (old, new) = (set(before), set(after));
    let (left, joined) = (members(before), members(after));
    let other = |a: &BTreeMap<(u32, u32), Bucket>, b: &BTreeMap<(u32, u32), Bucket>| -> Vec<((u32, u32), Bucket)> {
        a.iter().filter(|(at, bucket)| b.get(at) != Some(bucket)).map(|(at, bucket)| (*at, bucket.clone())).collect()
    };
    let mut all: Vec<Change> = old.difference(&new).cloned().map(Change::Remove).collect();
    all.extend(other(&left, &joined).into_iter().map(|((group, port), _)| Change::Leave(group, port)));
    all.extend(new.difference(&old).cloned().map(Change::Add));
    all.extend(other(&joined, &left).into_iter().map(|((group, _), bucket)| Change::Join(group, bucket)));
    let forgotten = learners(before).difference(&learners(after)).map(|(at, _)| *at).collect::<BTreeSet<_>>();
    all.extend(forgotten.into_iter().map(|(table, cookie)| Change::Forget { table, cookie }));
    for (before, after) in before.iter().zip(after) {
        all.extend(young(*before, *after).map(Change::Add));
    }
    all
}

/// A NIC that was there before its first rules may have connections.
fn young(before: Option<&Piece>, after: Option<&Piece>) -> Option<Flow> {
    let (before, after) = (before?, after?);
    let first = before.port.is_some() && before.epoch.is_none() && after.epoch.is_some();
    after.port.filter(|_| first).map(flows::young)
}

impl Program {
    pub(super) fn new(directory: PathBuf, datapath: Datapath, timeout: Duration) -> Self {
        let control = Control::new(&directory, timeout);
        let (bridges, known, zones) = (HashMap::new(), HashMap::new(), Zones::default());
        let (listeners, made) = (Listeners::new(&directory, timeout), BTreeSet::new());
        Self { directory, timeout, bridges, known, control, zones, listeners, datapath, made, stale: false }
    }

    fn bridge(&mut self, name: &IfName) -> &mut Bridge {
        bridge_of(&mut self.bridges, &self.directory, self.timeout, name)
    }

    /// Says that a bridge was just made.
    pub(super) fn made(&mut self, name: &IfName) {
        self.made.insert(name.clone());
    }

    /// Knows which zones NICs had before.
    pub(super) fn adopt(&mut self, model: &Model) {
        self.zones.adopt(policy::blocks(model).into_keys().collect());
    }

    /// Waits until the data path forgets what flows said that are there no more, and has told what it counted.
    pub(super) fn settle(&mut self) {
        let Self { bridges, known, control, .. } = self;
        let mut told = bridges.iter_mut().find(|(name, _)| known.contains_key(*name)).map(|(_, bridge)| bridge);
        let nudge = || match &mut told {
            Some(bridge) => bridge.apply(&[Change::Add(flows::nudge()), Change::Remove(flows::nudge())]),
            None => Ok(()),
        };
        if let Err(error) = control.settle(nudge) {
            tracing::warn!(%error, "ovs-vswitchd was not waited for");
        }
    }

    /// Makes zones ready for flows that use them.
    pub(super) fn open_zones(&mut self, model: &Model) -> Result<()> {
        let Self { directory, timeout, bridges, control, zones, datapath, .. } = self;
        let empty = |on: &IfName, all: &[u16]| Ok(bridge_of(bridges, directory, *timeout, on).forget_zones(all)?);
        zones.open(&policy::blocks(model), *datapath, control, empty)
    }

    /// Empties zones that no flow uses any more.
    pub(super) fn close_zones(&mut self, model: &Model) -> Result<()> {
        let Self { directory, timeout, bridges, control, zones, datapath, .. } = self;
        let any = model.keys().next().map(|name| bridge_of(bridges, directory, *timeout, name));
        zones.close(&policy::blocks(model), *datapath, control, any)
    }

    /// Forgets what is known of all bridges.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Whether ovs-vswitchd, which forgets flows when it ends, is the one that was told of them.
    pub(super) fn is_current(&mut self) -> bool {
        let known = &self.known;
        let told = self.bridges.iter_mut().find(|(name, _)| known.contains_key(*name));
        told.is_none_or(|(_, bridge)| bridge.is_alive())
    }

    /// Gives bridges the flows that follow from what was touched. Returns what failed, by bridge.
    pub(super) fn sync(
        &mut self,
        model: &Model,
        database: &Database,
        touched: &Touched,
    ) -> Vec<(IfName, crate::Error)> {
        let mut owners: BTreeMap<&IfName, BTreeSet<Owner>> = BTreeMap::new();
        for bridge in &touched.bridges {
            owners.entry(bridge).or_default().insert(Owner::Base);
        }
        for (bridge, port) in &touched.ports {
            owners.entry(bridge).or_default().insert(Owner::Port(port.clone()));
        }
        for (bridge, _, mac) in &touched.hosts {
            owners.entry(bridge).or_default().insert(Owner::Host(*mac));
        }
        for (bridge, address) in &touched.grouped {
            owners.entry(bridge).or_default().insert(Owner::Member(*address));
        }
        let mut failed = Vec::new();
        for (name, owners) in owners {
            let Some(bridge) = model.get(name) else {
                self.known.remove(name);
                self.bridges.remove(name);
                continue;
            };
            if let Err(error) = self.sync_bridge(name, bridge, database, owners) {
                self.known.remove(name);
                failed.push((name.clone(), error));
            }
        }
        self.listen(model);
        // Who may not say something any more does not say it when this returns.
        if std::mem::take(&mut self.stale) {
            self.settle();
            if self.datapath == Datapath::Netdev
                && let Err(error) = self.control.purge()
            {
                tracing::warn!(%error, "the data path was not made to ask again");
            }
        }
        failed
    }

    /// Answers for the bridges whose flows ask about frames.
    pub(super) fn listen(&mut self, model: &Model) {
        let asks = |fact: &Fact| matches!(fact, Fact::Nic { port: Some(port), .. } if flows::asks(port));
        let all = model.iter().filter(|(_, bridge)| bridge.ports.values().any(|p| asks(&p.fact)));
        self.listeners.set(&all.map(|(name, _)| name.clone()).collect());
    }

    fn sync_bridge(
        &mut self,
        name: &IfName,
        bridge: &BridgeModel,
        database: &Database,
        mut owners: BTreeSet<Owner>,
    ) -> Result<()> {
        let Some(mut known) = self.known.remove(name) else {
            return self.replace(name, bridge, all(bridge, database));
        };
        // What is known of the uplink is in the bridge's own flows, and in those of whom it leads to.
        let uplink = bridge.uplink.clone().map(Owner::Port);
        let base = piece(&Owner::Base, bridge, database);
        if uplink.is_some_and(|u| owners.contains(&u)) || known.get(&Owner::Base) != base.as_ref() {
            owners.insert(Owner::Base);
            owners.extend(known.keys().filter(|o| matches!(o, Owner::Host(_))).cloned());
            owners.extend(self::owners(bridge).filter(|o| matches!(o, Owner::Host(_))));
        }
        let after: Vec<(Owner, Option<Piece>)> =
            owners.into_iter().map(|o| (o.clone(), piece(&o, bridge, database))).collect();
        let old: Vec<Option<&Piece>> = after.iter().map(|(o, _)| known.get(o)).collect();
        let new: Vec<Option<&Piece>> = after.iter().map(|(_, p)| p.as_ref()).collect();
        let changes = changes(&old, &new);
        let before: Vec<_> = old.iter().flatten().flat_map(|p| &p.meters).copied().collect();
        let mut meters: Vec<_> = new.iter().flatten().flat_map(|p| &p.meters).copied().collect();
        // One that is made anew takes the flows with it that ask it.
        meters.retain(|m| !before.contains(m));
        self.bridge(name).set_meters(&meters)?;
        self.stale |= changes.iter().any(|c| matches!(c, Change::Remove(_) | Change::Forget { .. }));
        self.bridge(name).apply(&changes)?;
        for (owner, piece) in after {
            match piece {
                Some(piece) => known.insert(owner, piece),
                None => known.remove(&owner),
            };
        }
        self.known.insert(name.clone(), known);
        Ok(())
    }

    /// Gives a bridge all its flows in place of whatever it has.
    fn replace(&mut self, name: &IfName, bridge: &BridgeModel, pieces: Pieces) -> Result<()> {
        self.stale = true;
        // One that had other flows, or lost them with its daemon, may have connections.
        let had = !self.made.remove(name);
        let mut changes = vec![Change::Clear];
        for (id, buckets) in groups_of(&bridge.role, &pieces) {
            changes.push(Change::Group(Group { id, buckets }));
        }
        changes.extend(flows_of(&pieces).into_iter().map(Change::Add));
        let policed = pieces.values().filter(|p| had && p.epoch.is_some()).filter_map(|p| p.port);
        changes.extend(policed.map(|port| Change::Add(flows::young(port))));
        let meters: Vec<_> = pieces.values().flat_map(|p| &p.meters).copied().collect();
        self.bridge(name).set_meters(&meters)?;
        self.bridge(name).apply(&changes)?;
        self.known.insert(name.clone(), pieces);
        Ok(())
    }

    /// Whether a bridge has exactly the flows that it must have; what was learned does not count.
    pub(super) fn check(&mut self, name: &IfName, model: &BridgeModel, database: &Database) -> bool {
        let pieces = all(model, database);
        let groups: BTreeMap<u32, Vec<u32>> = groups_of(&model.role, &pieces)
            .into_iter()
            .map(|(group, buckets)| (group, buckets.into_iter().map(|b| b.id).collect::<Vec<_>>()))
            .map(|(group, mut ids)| {
                ids.sort_unstable();
                (group, ids)
            })
            .collect();
        let bridge = self.bridge(name);
        let seen = bridge.flows(None).and_then(|flows| Ok((flows, bridge.groups()?)));
        let right = seen.is_ok_and(|(flows, mut members)| {
            let flows: Vec<Seen> = flows.into_iter().filter(|f| !OWN.contains(&f.table)).collect();
            members.values_mut().for_each(|m| m.sort_unstable());
            members == groups && Seen::are(&flows, &flows_of(&pieces))
        });
        match right {
            true => drop(self.known.insert(name.clone(), pieces)),
            false => drop(self.known.remove(name)),
        }
        right
    }

    /// The flows that a bridge has, with how often they were used.
    pub(super) fn seen(&mut self, name: &IfName, table: Option<u8>) -> Result<Vec<Seen>> {
        Ok(self.bridge(name).flows(table)?)
    }
}
