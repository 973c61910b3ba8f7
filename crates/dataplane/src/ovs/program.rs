//! The flows that bridges have: what is missing is added and what is too much removed, each bridge in one stroke.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use multihome_model::{IfName, MacAddr};
use multihome_ovsdb::Control;
use multihome_ovsdb::openflow::{Actions, Bridge, Bucket, Change, Flow, Group, Seen};

use super::Model;
use super::database::{Database, Touched};
use super::flows::{self, GROUPS, LEARNED, Piece, Way};
use super::model::{BridgeModel, Fact, Role};
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
    /// Whether something was taken away since the data path was last waited for.
    stale: bool,
}

fn bucket(port: u32) -> Bucket {
    Bucket { id: port, actions: Actions::none().output(port) }
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
    [Owner::Base].into_iter().chain(bridge.ports.keys().cloned().map(Owner::Port)).chain(hosts)
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
fn groups_of(role: &Role, pieces: &Pieces) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut groups: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    if matches!(role, Role::Network(_)) {
        groups.extend(GROUPS.map(|g| (g, BTreeSet::new())));
    }
    for piece in pieces.values() {
        for group in &piece.groups {
            groups.entry(*group).or_default().extend(piece.port);
        }
    }
    groups
}

/// What leads from some pieces to others. Removals come first: what is added may be about the same frames.
fn changes(before: &[Option<&Piece>], after: &[Option<&Piece>]) -> Vec<Change> {
    let set = |pieces: &[Option<&Piece>]| -> BTreeSet<Flow> {
        pieces.iter().flatten().flat_map(|p| p.flows.iter().cloned()).collect()
    };
    let members = |pieces: &[Option<&Piece>]| -> BTreeSet<(u32, u32)> {
        let of = |p: &&Piece| p.port.map(|port| p.groups.iter().map(move |g| (*g, port)).collect::<Vec<_>>());
        pieces.iter().flatten().filter_map(of).flatten().collect()
    };
    let learners = |pieces: &[Option<&Piece>]| -> BTreeSet<u32> {
        pieces.iter().flatten().filter(|p| p.learns).filter_map(|p| p.port).collect()
    };
    let (old, new) = (set(before), set(after));
    let (left, joined) = (members(before), members(after));
    let forgotten = learners(before).into_iter().filter(|port| !learners(after).contains(port)).collect::<Vec<_>>();
    let mut all: Vec<Change> = old.difference(&new).cloned().map(Change::Remove).collect();
    all.extend(left.difference(&joined).map(|(group, port)| Change::Leave(*group, *port)));
    all.extend(new.difference(&old).cloned().map(Change::Add));
    all.extend(joined.difference(&left).map(|(group, port)| Change::Join(*group, bucket(*port))));
    all.extend(forgotten.into_iter().map(|port| Change::Forget { table: LEARNED, cookie: flows::learned(port) }));
    all
}

impl Program {
    pub(super) fn new(directory: PathBuf, timeout: Duration) -> Self {
        let control = Control::new(&directory, timeout);
        Self { directory, timeout, bridges: HashMap::new(), known: HashMap::new(), control, stale: false }
    }

    fn bridge(&mut self, name: &IfName) -> &mut Bridge {
        let (directory, timeout) = (&self.directory, self.timeout);
        self.bridges.entry(name.clone()).or_insert_with(|| Bridge::new(directory, name.as_str(), timeout))
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
        // Who may not say something any more does not say it when this returns.
        if std::mem::take(&mut self.stale)
            && let Err(error) = self.control.settle()
        {
            tracing::debug!(%error, "ovs-vswitchd was not waited for");
        }
        failed
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
        let mut changes = vec![Change::Clear];
        for (id, members) in groups_of(&bridge.role, &pieces) {
            changes.push(Change::Group(Group { id, buckets: members.into_iter().map(bucket).collect() }));
        }
        changes.extend(flows_of(&pieces).into_iter().map(Change::Add));
        self.bridge(name).apply(&changes)?;
        self.known.insert(name.clone(), pieces);
        Ok(())
    }

    /// Whether a bridge has exactly the flows that it must have; what was learned does not count.
    pub(super) fn check(&mut self, name: &IfName, model: &BridgeModel, database: &Database) -> bool {
        let pieces = all(model, database);
        let groups: BTreeMap<u32, Vec<u32>> =
            groups_of(&model.role, &pieces).into_iter().map(|(g, m)| (g, m.into_iter().collect())).collect();
        let bridge = self.bridge(name);
        let seen = bridge.flows().and_then(|flows| Ok((flows, bridge.groups()?)));
        let right = seen.is_ok_and(|(flows, mut members)| {
            let flows: Vec<Seen> = flows.into_iter().filter(|f| f.table != LEARNED).collect();
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
    pub(super) fn seen(&mut self, name: &IfName) -> Result<Vec<Seen>> {
        Ok(self.bridge(name).flows()?)
    }
}
