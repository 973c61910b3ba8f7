//! What is in Open vSwitch's database, and changes of it: one transaction for all that was touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use multihome_model::{IfName, MacAddr};
use multihome_ovsdb::{Client, Ref, Row, Transaction, Updates, Uuid, Where, map, set};
use multihome_plan::policy::Members;
use serde_json::{Value, json};

use super::model::{self, BridgeModel, Fact, PortModel, Role};
use super::{Datapath, Model};
use crate::error::{Error, Result};
use crate::kernel::is_ours;

const ROOT: &str = "Open_vSwitch";
const INTERFACE: &str = "Interface";
const INTERFACE_COLUMNS: [&str; 4] = ["name", "ofport", "error", "ifindex"];

/// A port's interface as ovs-vswitchd says that it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its number in flows.
    pub(super) port: Option<u32>,
    /// Why it does not work, if so.
    pub(super) error: Option<String>,
    /// The device that it is.
    pub(super) index: Option<u32>,
}

#[derive(Debug)]
struct PortRow {
    uuid: Uuid,
    interface: Uuid,
    /// Its columns are as they must be.
    right: bool,
}

#[derive(Debug)]
struct BridgeRow {
    uuid: Uuid,
    right: bool,
    ports: BTreeMap<String, PortRow>,
}

/// What was changed in the model and not yet in the database.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) bridges: BTreeSet<IfName>,
    pub(super) ports: BTreeSet<(IfName, String)>,
    pub(super) hosts: BTreeSet<(IfName, String, MacAddr)>,
    /// Groups.
    pub(super) groups: BTreeSet<String>,
    /// Addresses that are in others of a bridge's groups than before: known to its flows, not to the database.
    pub(super) grouped: BTreeSet<(IfName, IpAddr)>,
}

impl Touched {
    pub(super) fn is_empty(&self) -> bool {
        self.bridges.is_empty() && self.ports.is_empty() && self.hosts.is_empty() && self.groups.is_empty()
    }
}

/// The database, and what is known of it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) client: Client,
    datapath: Datapath,
    timeout: Duration,
    root: Option<Uuid>,
    bridges: BTreeMap<IfName, BridgeRow>,
    interfaces: HashMap<String, Interface>,
    names: HashMap<Uuid, String>,
    configured: i64,
    /// The connection over which all this was learnt.
    connection: u64,
}

/// The columns that are to be, against those that are.
fn right(row: &Row, wanted: &[(&'static str, Value)]) -> bool {
    wanted.iter().all(|(name, value)| match value.as_array().map(Vec::as_slice) {
        Some([kind, Value::Array(items)]) if kind == "set" => {
            let mut want: Vec<i64> = items.iter().filter_map(Value::as_i64).collect();
            let mut have = row.ints(name);
            want.sort_unstable();
            have.sort_unstable();
            let words = |v: &Value| v.as_str().map(str::to_owned);
            have == want && row.text(name).map(str::to_owned) == items.first().and_then(words)
        }
        Some([kind, Value::Array(pairs)]) if kind == "map" => {
            let have = row.map(name);
            let of = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()));
            pairs.iter().filter_map(of).all(|(key, value)| have.get(&key) == Some(&value))
        }
        _ => row.text(name).unwrap_or_default() == value.as_str().unwrap_or_default(),
    })
}

impl Database {
    pub(super) fn new(client: Client, datapath: Datapath, timeout: Duration) -> Self {
        Self {
            client,
            datapath,
            timeout,
            root: None,
            bridges: BTreeMap::new(),
            interfaces: HashMap::new(),
            names: HashMap::new(),
            configured: 0,
            connection: 0,
        }
    }

    /// Whether what is known is still kept up to date.
    pub(super) fn is_current(&mut self) -> bool {
        self.connection != 0 && self.client.is_connected() && self.client.connections() == self.connection
    }

    /// Reads what there is of ours.
    pub(super) fn load(&mut self) -> Result<(Model, Members)> {
        let mut all = Transaction::new();
        let _ = all.select(ROOT, &Where::All, &["_uuid", "cur_cfg", "external_ids"]);
        let bridge = ["_uuid", "name", "ports", "datapath_type", "fail_mode", "external_ids", "other_config"];
        let _ = all.select("Bridge", &Where::All, &bridge);
        let port = ["_uuid", "name", "interfaces", "vlan_mode", "tag", "trunks", "external_ids"];
        let _ = all.select("Port", &Where::All, &port);
        let _ = all.select(INTERFACE, &Where::All, &["_uuid", "name", "type", "options", "mtu_request"]);
        // Told of changes first, so that none is missed between.
        if !self.is_current() {
            self.interfaces.clear();
            self.names.clear();
            let seen = self.client.monitor(INTERFACE, &INTERFACE_COLUMNS)?;
            self.connection = self.client.connections();
            let root = self.client.monitor(ROOT, &["cur_cfg"])?;
            self.hear([(INTERFACE.to_owned(), seen), (ROOT.to_owned(), root)].into());
        }
        let mut answers = self.client.transact(&all)?.into_iter();
        let mut rows = || answers.next().map(|d| d.rows).unwrap_or_default();
        let (roots, bridges, ports, interfaces) = (rows(), rows(), rows(), rows());
        self.root = roots.first().and_then(Row::uuid);
        self.root()?;
        let by_uuid =
            |rows: Vec<Row>| -> HashMap<Uuid, Row> { rows.into_iter().filter_map(|r| Some((r.uuid()?, r))).collect() };
        let (ports, interfaces) = (by_uuid(ports), by_uuid(interfaces));
        self.bridges.clear();
        let mut model = Model::new();
        for row in bridges {
            let Some((name, uuid, role)) = ours(&row) else { continue };
            let mut there = BridgeModel::new(role);
            let mut kept = BTreeMap::new();
            let mut is_right = right(&row, &model::bridge_columns(&name, &there.role, self.datapath));
            for port in row.uuids("ports").iter().filter_map(|u| ports.get(u)) {
                let (Some(uuid), Some(called)) = (port.uuid(), port.text("name")) else { continue };
                let Some(interface) = port.uuids("interfaces").first().and_then(|u| interfaces.get(u)) else {
                    continue;
                };
                let Some(iface) = interface.uuid() else { continue };
                if called == name.as_str() {
                    is_right &= right(interface, &model::own_columns(&there.role));
                    kept.insert(called.to_owned(), PortRow { uuid, interface: iface, right: true });
                    continue;
                }
                let ids = port.map("external_ids");
                let Some(fact) = model::read::<Fact>(&ids) else { continue };
                let right = right(port, &model::port_columns(&fact))
                    && right(interface, &model::interface_columns(called, &fact));
                kept.insert(called.to_owned(), PortRow { uuid, interface: iface, right });
                there.put(called, PortModel { hosts: model::read_hosts(&ids), fact });
            }
            self.bridges.insert(name.clone(), BridgeRow { uuid, right: is_right, ports: kept });
            model.insert(name, there);
        }
        let groups = roots.first().map(|root| model::read_groups(&root.map("external_ids"))).unwrap_or_default();
        Ok((model, groups))
    }

    /// Whether the database has a bridge as it must be.
    pub(super) fn bridge_is_right(&self, bridge: &IfName) -> bool {
        self.bridges.get(bridge).is_some_and(|b| b.right)
    }

    /// Whether there is such a bridge.
    pub(super) fn has_bridge(&self, bridge: &IfName) -> bool {
        self.bridges.contains_key(bridge)
    }

    /// Whether the database has a port as it must be, and ovs-vswitchd could do it.
    pub(super) fn port_is_right(&self, bridge: &IfName, port: &str) -> bool {
        let row = self.bridges.get(bridge).and_then(|b| b.ports.get(port));
        row.is_some_and(|r| r.right) && self.why_not(port).is_none()
    }

    /// Why ovs-vswitchd could not do a port, if so. Of a patch port whose peer has just come it goes on for a while to say that
    /// there is none; peers are ours, and looked at as such.
    pub(super) fn why_not(&self, port: &str) -> Option<String> {
        let interface = self.interface(port);
        let error = interface.and_then(|i| i.error.clone());
        match interface.and_then(|i| i.port) {
            Some(_) if is_patch(port) => None,
            Some(_) => error,
            None => Some(error.unwrap_or_else(|| "it gives no reason".to_owned())),
        }
    }

    pub(super) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.get(name)
    }

    /// Takes in what changed.
    fn hear(&mut self, mut updates: BTreeMap<String, Updates>) {
        let interfaces = updates.remove(INTERFACE).unwrap_or_default();
        // First what was: a row that goes and one that comes may have the same name.
        for name in interfaces.keys().filter_map(|uuid| self.names.remove(uuid)).collect::<Vec<_>>() {
            self.interfaces.remove(&name);
        }
        for (uuid, row) in interfaces {
            let Some(row) = row else { continue };
            let Some(name) = row.text("name") else { continue };
            let port = row.int("ofport").and_then(|n| u32::try_from(n).ok());
            let index = row.int("ifindex").and_then(|n| u32::try_from(n).ok()).filter(|i| *i != 0);
            let error = row.text("error").map(str::to_owned);
            self.names.insert(uuid, name.to_owned());
            self.interfaces.insert(name.to_owned(), Interface { port, error, index });
        }
        for row in updates.remove(ROOT).unwrap_or_default().into_values().flatten() {
            self.configured = row.int("cur_cfg").unwrap_or(self.configured);
        }
    }

    /// Takes in what changed until now.
    pub(super) fn listen(&mut self) -> Result<()> {
        let updates = self.client.updates(Instant::now())?;
        self.hear(updates);
        Ok(())
    }

    /// Makes the database hold what was touched as the model says, in one transaction, and waits until ovs-vswitchd has done it.
    /// Only patch ports that change bridge are taken off the old one first.
    /// Returns whether there was anything to do.
    pub(super) fn commit(&mut self, model: &Model, groups: &Members, touched: &Touched) -> Result<bool> {
        let root = self.root()?;
        self.part(model, touched)?;
        let mut t = Changes { transaction: Transaction::new(), made: vec![], root };
        self.compile(model, touched, &mut t);
        Self::compile_groups(groups, touched, &mut t);
        if t.transaction.is_empty() {
            return Ok(false);
        }
        let (done, next) = self.transact(&mut t.transaction)?;
        self.remember(model, touched, &t, &done);
        self.wait_for(next)?;
        Ok(true)
    }

    /// Takes patch ports off the bridges that they leave for others. In one transaction with their coming there, ovs-vswitchd would
    /// keep the port on the old bridge, too, where no row tells of it, and often carry nothing by either (seen with 3.1.0).
    fn part(&mut self, model: &Model, touched: &Touched) -> Result<()> {
        let wanted = |bridge: &IfName, port: &str| model.get(bridge).is_some_and(|b| b.ports.contains_key(port));
        let comes: BTreeSet<&str> =
            touched.ports.iter().filter(|(b, p)| is_patch(p) && wanted(b, p)).map(|(_, p)| p.as_str()).collect();
        let mut leaving = Transaction::new();
        for (bridge, port) in touched.ports.iter().filter(|(b, p)| comes.contains(p.as_str()) && !wanted(b, p)) {
            let Some(there) = self.bridges.get_mut(bridge) else { continue };
            let Some(row) = there.ports.remove(port) else { continue };
            leaving.mutate("Bridge", &Where::Is(there.uuid.clone()), vec![("ports", "delete", row.uuid.json())]);
        }
        if leaving.is_empty() {
            return Ok(());
        }
        let (_, next) = self.transact(&mut leaving)?;
        self.wait_for(next)
    }

    /// Sends a transaction; and what to wait for until ovs-vswitchd has done what it says.
    fn transact(&mut self, transaction: &mut Transaction) -> Result<(Vec<multihome_ovsdb::Done>, i64)> {
        let root = self.root()?;
        transaction.mutate(ROOT, &root, vec![("next_cfg", "+=", json!(1))]);
        let asked = transaction.select(ROOT, &root, &["next_cfg"]);
        transaction.comment("multihome");
        let done = self.client.transact(transaction)?;
        let next = done.get(asked).and_then(|d| d.rows.first()).and_then(|r| r.int("next_cfg")).unwrap_or_default();
        Ok((done, next))
    }

    /// The only row of its table, without which nothing can be said.
    fn root(&self) -> Result<Where> {
        let reason = "its database is empty: start ovs-vswitchd, or run ovs-vsctl init".to_owned();
        let empty = Error::Unsupported { what: "networks by Open vSwitch".into(), reason };
        self.root.clone().map(Where::Is).ok_or(empty)
    }

    fn wait_for(&mut self, next: i64) -> Result<()> {
        let until = Instant::now() + self.timeout;
        while self.configured < next {
            let updates = self.client.updates(until)?;
            if updates.is_empty() && Instant::now() >= until {
                let path = self.client.path().display().to_string();
                let seconds = self.timeout.as_secs();
                return Err(multihome_ovsdb::Error::Silent { path, seconds, what: "a change by ovs-vswitchd" }.into());
            }
            self.hear(updates);
        }
        Ok(())
    }
}

/// Whether a port of ours is an end of a pair of patch ports.
fn is_patch(port: &str) -> bool {
    use multihome_model::names::{PATCH, VLAN};
    is_ours(port, VLAN) || is_ours(port, PATCH)
}

/// A bridge of ours, by its name and what it says that it is.
fn ours(row: &Row) -> Option<(IfName, Uuid, Role)> {
    use multihome_model::names::{BRIDGE, DEVICE_BRIDGE, FABRIC};
    let name = row.text("name").filter(|n| [BRIDGE, FABRIC, DEVICE_BRIDGE].iter().any(|p| is_ours(n, p)))?;
    Some((IfName::new(name).ok()?, row.uuid()?, model::read(&row.map("external_ids"))?))
}

/// What a transaction makes: the bridge, the port, and the operations that insert port and interface, or the bridge itself.
struct Made {
    bridge: IfName,
    port: Option<(String, usize)>,
    at: usize,
}

struct Changes {
    transaction: Transaction,
    made: Vec<Made>,
    root: Where,
}

impl Changes {
    /// Makes a port with its interface.
    fn port(&mut self, bridge: &IfName, name: &str, fact: Option<&PortModel>, role: &Role) -> Ref {
        let mut interface = match fact {
            Some(p) => model::interface_columns(name, &p.fact),
            None => [vec![("type", json!("internal"))], model::own_columns(role)].concat(),
        };
        interface.push(("name", json!(name)));
        let first = self.transaction.len();
        let interface = self.transaction.insert(INTERFACE, interface);
        let mut columns = vec![("name", json!(name)), ("interfaces", interface.into())];
        if let Some(port) = fact {
            columns.extend(model::port_columns(&port.fact));
            let hosts = port.hosts.iter().map(|(mac, r)| model::host_id(*mac, Some(r)));
            columns.push(("external_ids", map([model::port_id(&port.fact)].into_iter().chain(hosts))));
        }
        let at = self.transaction.len();
        self.made.push(Made { bridge: bridge.clone(), port: Some((name.to_owned(), first)), at });
        self.transaction.insert("Port", columns)
    }
}

impl Database {
    fn compile_groups(groups: &Members, touched: &Touched, t: &mut Changes) {
        for group in &touched.groups {
            let key = model::group_key(group);
            t.transaction.mutate(ROOT, &t.root, vec![("external_ids", "delete", set([key.as_str()]))]);
            if let Some(members) = groups.get(group) {
                let ids = map([(key, model::group_value(members))]);
                t.transaction.mutate(ROOT, &t.root, vec![("external_ids", "insert", ids)]);
            }
        }
    }

    fn compile(&self, model: &Model, touched: &Touched, t: &mut Changes) {
        let mut loose: HashMap<&str, &PortRow> = HashMap::new();
        let at = |bridge: &IfName, port: &str| self.bridges.get(bridge).and_then(|b| b.ports.get(port));
        let wanted = |bridge: &IfName, port: &str| model.get(bridge).and_then(|b| b.ports.get(port));
        for (bridge, port) in touched.ports.iter().filter(|(b, p)| wanted(b, p).is_none()) {
            let (Some(row), Some(there)) = (at(bridge, port), self.bridges.get(bridge)) else { continue };
            t.transaction.mutate(
                "Bridge",
                &Where::Is(there.uuid.clone()),
                vec![("ports", "delete", row.uuid.clone().json())],
            );
            loose.insert(port, row);
        }
        let mut fresh: BTreeMap<&IfName, Vec<Ref>> = BTreeMap::new();
        for (bridge, name) in &touched.ports {
            let (Some(port), Some(role)) = (wanted(bridge, name), model.get(bridge).map(|b| &b.role)) else { continue };
            let row = at(bridge, name).or_else(|| loose.get(name.as_str()).copied());
            let reference: Ref = match row {
                Some(row) => {
                    self.update_port(name, port, row, &mut t.transaction);
                    row.uuid.clone().into()
                }
                None => t.port(bridge, name, Some(port), role),
            };
            if at(bridge, name).is_none() {
                fresh.entry(bridge).or_default().push(reference);
            }
        }
        for bridge in &touched.bridges {
            self.compile_bridge(bridge, model, fresh.remove(bridge).unwrap_or_default(), t);
        }
        for (bridge, ports) in fresh {
            let Some(row) = self.bridges.get(bridge) else { continue };
            t.transaction.mutate("Bridge", &Where::Is(row.uuid.clone()), vec![("ports", "insert", set(ports))]);
        }
        for (bridge, port, mac) in &touched.hosts {
            let (Some(row), Some(there)) = (at(bridge, port), wanted(bridge, port)) else { continue };
            let remote = there.hosts.get(mac);
            let (key, value) = model::host_id(*mac, remote);
            let mut changes = vec![("external_ids", "delete", set([key.clone()]))];
            changes.extend(remote.map(|_| ("external_ids", "insert", map([(key, value)]))));
            t.transaction.mutate("Port", &Where::Is(row.uuid.clone()), changes);
        }
    }

    fn update_port(&self, name: &str, port: &PortModel, row: &PortRow, t: &mut Transaction) {
        let which = Where::Is(row.uuid.clone());
        t.update("Port", &which, model::port_columns(&port.fact));
        let (key, value) = model::port_id(&port.fact);
        let ids = vec![("external_ids", "delete", set([key.clone()])), ("external_ids", "insert", map([(key, value)]))];
        t.mutate("Port", &which, ids);
        t.update(INTERFACE, &Where::Is(row.interface.clone()), model::interface_columns(name, &port.fact));
    }

    fn compile_bridge(&self, name: &IfName, model: &Model, ports: Vec<Ref>, t: &mut Changes) {
        match (model.get(name), self.bridges.get(name)) {
            (Some(bridge), Some(row)) => {
                let which = Where::Is(row.uuid.clone());
                t.transaction.update("Bridge", &which, model::bridge_columns(name, &bridge.role, self.datapath));
                if !ports.is_empty() {
                    t.transaction.mutate("Bridge", &which, vec![("ports", "insert", set(ports))]);
                }
                if let Some(own) = row.ports.get(name.as_str()) {
                    let own = Where::Is(own.interface.clone());
                    t.transaction.update(INTERFACE, &own, model::own_columns(&bridge.role));
                }
            }
            (Some(bridge), None) => {
                let own = t.port(name, name.as_str(), None, &bridge.role);
                let mut columns = model::bridge_columns(name, &bridge.role, self.datapath);
                let all: Vec<Ref> = [own].into_iter().chain(ports).collect();
                columns.extend([("name", json!(name.as_str())), ("ports", set(all))]);
                let at = t.transaction.len();
                t.made.push(Made { bridge: name.clone(), port: None, at });
                let made = t.transaction.insert("Bridge", columns);
                t.transaction.mutate(ROOT, &t.root, vec![("bridges", "insert", made.into())]);
            }
            (None, Some(row)) => {
                t.transaction.mutate(ROOT, &t.root, vec![("bridges", "delete", row.uuid.clone().json())]);
            }
            (None, None) => {}
        }
    }

    /// What the transaction did is known from now on.
    fn remember(&mut self, model: &Model, touched: &Touched, t: &Changes, done: &[multihome_ovsdb::Done]) {
        let uuid = |at: usize| done.get(at).and_then(|d| d.uuid.clone());
        let mut loose = HashMap::new();
        for (bridge, port) in &touched.ports {
            if model.get(bridge).is_none_or(|b| !b.ports.contains_key(port))
                && let Some(row) = self.bridges.get_mut(bridge).and_then(|b| b.ports.remove(port))
            {
                loose.insert(port.clone(), row);
            }
        }
        for made in t.made.iter().filter(|m| m.port.is_none()) {
            if let Some(uuid) = uuid(made.at) {
                let row = BridgeRow { uuid, right: true, ports: BTreeMap::new() };
                self.bridges.insert(made.bridge.clone(), row);
            }
        }
        for made in &t.made {
            let Some((name, interface)) = &made.port else { continue };
            if let (Some(uuid), Some(interface)) = (uuid(made.at), uuid(*interface))
                && let Some(bridge) = self.bridges.get_mut(&made.bridge)
            {
                bridge.ports.insert(name.clone(), PortRow { uuid, interface, right: true });
            }
        }
        for (bridge, port) in &touched.ports {
            let Some(there) = self.bridges.get_mut(bridge) else { continue };
            if model.get(bridge).is_some_and(|b| b.ports.contains_key(port)) {
                match there.ports.get_mut(port) {
                    Some(row) => row.right = true,
                    None => {
                        there.ports.extend(loose.remove(port).map(|row| (port.clone(), PortRow { right: true, ..row })))
                    }
                }
            }
        }
        for bridge in &touched.bridges {
            match model.contains_key(bridge) {
                true => self.bridges.get_mut(bridge).into_iter().for_each(|b| b.right = true),
                false => drop(self.bridges.remove(bridge)),
            }
        }
    }
}
