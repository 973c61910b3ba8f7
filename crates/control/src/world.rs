//! Everything that the controllers and the agent need to know, kept up to date by watching, with the indexes that make
//! one NIC's work independent of how many others there are.
//!
//! Readers are told of a change after the change can be read here, never before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
use multihome_model::{
    AddressClaim, ClusterNetwork, FloatingIP, Network, NetworkInterface, OwnerRef, SecurityGroup, Vpc,
};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

use crate::place::Placed;
use crate::{Key, mirror, policy};

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// A Network.
    Network(Key),
    /// A NetworkInterface, with the VM, the network and the groups that it had before and has now.
    Nic {
        /// The NIC.
        key: Key,
        /// VMs concerned.
        vms: Vec<Key>,
        /// Networks concerned.
        networks: Vec<Key>,
        /// Groups that it names itself, or did.
        groups: Vec<Key>,
    },
    /// An AddressClaim of this network.
    Claim(Key),
    /// A ClusterNetwork, by name.
    Fabric(String),
    /// A Vpc.
    Vpc(Key),
    /// A FloatingIP.
    Floating(Key),
    /// A SecurityGroup.
    Group(Key),
    /// A VirtualMachine.
    Vm(Key),
    /// A VirtualMachineInstance.
    Vmi(Key),
    /// A Node, by name.
    Node(String),
}

/// Objects of one kind by key.
pub type Table<K> = BTreeMap<Key, Arc<K>>;

/// The objects and their indexes.
#[derive(Debug, Default)]
pub struct Tables {
    /// Networks.
    pub networks: Table<Network>,
    /// NICs.
    pub nics: Table<NetworkInterface>,
    /// Fabrics.
    pub fabrics: Table<ClusterNetwork>,
    /// Routing domains.
    pub vpcs: Table<Vpc>,
    /// Floating addresses.
    pub floating: Table<FloatingIP>,
    /// Security groups.
    pub groups: Table<SecurityGroup>,
    /// VMs.
    pub vms: Table<VirtualMachine>,
    /// Instances.
    pub vmis: Table<VirtualMachineInstance>,
    /// Nodes.
    pub nodes: Table<Node>,
    claims: Table<AddressClaim>,
    /// NICs of each VM.
    nics_by_vm: HashMap<Key, BTreeSet<Key>>,
    /// NICs of each network.
    nics_by_network: HashMap<Key, BTreeSet<Key>>,
    /// Where the NICs of each network are, by their keys.
    placed: HashMap<Key, BTreeMap<Key, Placed>>,
    /// NICs of each node.
    nics_by_node: HashMap<String, BTreeSet<Key>>,
    /// Where each node's tunnels end.
    tunnels: HashMap<String, IpAddr>,
    /// The networks of each Vpc.
    networks_by_vpc: HashMap<Key, BTreeSet<Key>>,
    /// NICs that name each group themselves.
    nics_by_group: HashMap<Key, BTreeSet<Key>>,
    /// Networks that name each group for their NICs.
    networks_by_group: HashMap<Key, BTreeSet<Key>>,
    /// NICs that are mirrored to each NIC.
    nics_by_mirror: HashMap<Key, BTreeSet<Key>>,
    /// NICs by uid.
    nics_by_uid: HashMap<String, Key>,
    /// Addresses that are claimed in each network.
    addresses: HashMap<Key, BTreeSet<IpAddr>>,
    /// Names of the claims that each NIC holds, by the NIC's uid.
    claims_by_owner: HashMap<String, BTreeSet<Key>>,
}

/// Where the tunnels of a fabric end on each node.
#[derive(Debug)]
pub enum Tunnels<'a> {
    /// At the nodes' tunnel addresses.
    Everywhere(&'a HashMap<String, IpAddr>),
    /// At the nodes' addresses in the fabric's own underlay, as far as they have one.
    Own(HashMap<&'a str, IpAddr>),
}

impl Tunnels<'_> {
    /// Where they end on a node.
    pub fn to(&self, node: &str) -> Option<IpAddr> {
        match self {
            Self::Everywhere(all) => all.get(node).copied(),
            Self::Own(all) => all.get(node).copied(),
        }
    }

    /// Where they end on all nodes.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        let (everywhere, own) = match self {
            Self::Everywhere(all) => (Some(all.values()), None),
            Self::Own(all) => (None, Some(all.values())),
        };
        everywhere.into_iter().flatten().chain(own.into_iter().flatten()).copied()
    }
}

impl Tables {
    /// The NICs of a VM.
    pub fn nics_of_vm(&self, vm: &Key) -> Vec<Arc<NetworkInterface>> {
        self.nics_by_vm.get(vm).into_iter().flatten().filter_map(|k| self.nics.get(k).cloned()).collect()
    }

    /// The NIC of a uid.
    pub fn nic_of_uid(&self, uid: &str) -> Option<Arc<NetworkInterface>> {
        self.nics.get(self.nics_by_uid.get(uid)?).cloned()
    }

    /// The keys of the NICs of a network.
    pub fn nics_of_network(&self, network: &Key) -> impl Iterator<Item = &Key> {
        self.nics_by_network.get(network).into_iter().flatten()
    }

    /// Where the NICs of a network are.
    pub fn placed(&self, network: &Key) -> impl Iterator<Item = &Placed> {
        self.placed.get(network).into_iter().flat_map(BTreeMap::values)
    }

    /// The NICs of a node.
    pub fn nics_of_node(&self, node: &str) -> impl Iterator<Item = &Arc<NetworkInterface>> {
        self.nics_by_node.get(node).into_iter().flatten().filter_map(|k| self.nics.get(k))
    }

    /// Where tunnels of a fabric end.
    pub fn tunnels(&self, fabric: &str) -> Tunnels<'_> {
        let own = self.fabrics.get(&Key::new("", fabric)).filter(|f| !f.spec.underlay.is_empty());
        let Some(own) = own else { return Tunnels::Everywhere(&self.tunnels) };
        let nodes = own.status.iter().flat_map(|s| &s.nodes);
        Tunnels::Own(nodes.filter_map(|(n, s)| Some((n.as_str(), s.tunnel_address.as_ref()?.parse().ok()?))).collect())
    }

    /// The networks of a Vpc, by their names.
    pub fn networks_of_vpc(&self, vpc: &Key) -> impl Iterator<Item = &Key> {
        self.networks_by_vpc.get(vpc).into_iter().flatten()
    }

    /// The keys of the NICs that name a group themselves.
    pub fn nics_naming_group(&self, group: &Key) -> impl Iterator<Item = &Key> {
        self.nics_by_group.get(group).into_iter().flatten()
    }

    /// The keys of the networks that name a group for their NICs.
    pub fn networks_of_group(&self, group: &Key) -> impl Iterator<Item = &Key> {
        self.networks_by_group.get(group).into_iter().flatten()
    }

    /// The keys of the NICs that are mirrored to a NIC, which may not be there.
    pub fn mirrored_to(&self, target: &Key) -> impl Iterator<Item = &Key> {
        self.nics_by_mirror.get(target).into_iter().flatten()
    }

    /// Whether any NIC is mirrored.
    pub fn has_mirrors(&self) -> bool {
        !self.nics_by_mirror.is_empty()
    }

    /// How many NICs a network has.
    pub fn nic_count(&self, network: &Key) -> usize {
        self.nics_by_network.get(network).map_or(0, BTreeSet::len)
    }

    /// The addresses that are claimed in a network.
    pub fn addresses(&self, network: &Key) -> Option<&BTreeSet<IpAddr>> {
        self.addresses.get(network)
    }

    /// All claims.
    pub(crate) fn claims(&self) -> &Table<AddressClaim> {
        &self.claims
    }

    /// The claims of a NIC, by its uid.
    pub fn claims_of(&self, nic_uid: &str) -> Vec<Arc<AddressClaim>> {
        let keys = self.claims_by_owner.get(nic_uid).into_iter().flatten();
        keys.filter_map(|k| self.claims.get(k).cloned()).collect()
    }

    /// The network that a NIC attaches to.
    pub fn network_of(&self, nic: &NetworkInterface) -> Option<(Key, Arc<Network>)> {
        let key = network_key(nic);
        self.networks.get(&key).cloned().map(|n| (key, n))
    }
}

macro_rules! put {
    ($($(#[$doc:meta])* $name:ident: $kind:ty;)*) => {
        /// Filled by hand, for plans of what is not in any API yet.
        impl Tables {
            $($(#[$doc])* pub fn $name(&mut self, object: $kind) {
                let key = Key::of(&object);
                <$kind as Watched>::index(self, &key, None, Some(&object));
                <$kind as Watched>::table(self).insert(key, Arc::new(object));
            })*
        }
    };
}

put! {
    /// Adds a Network.
    put_network: Network;
    /// Adds a NIC.
    put_nic: NetworkInterface;
    /// Adds a claim.
    put_claim: AddressClaim;
    /// Adds a fabric.
    put_fabric: ClusterNetwork;
    /// Adds a node.
    put_node: Node;
    /// Adds a routing domain.
    put_vpc: Vpc;
    /// Adds a floating address.
    put_floating: FloatingIP;
    /// Adds a security group.
    put_group: SecurityGroup;
    /// Adds a VM.
    put_vm: VirtualMachine;
    /// Adds an instance.
    put_vmi: VirtualMachineInstance;
}

/// The key of the network that a NIC attaches to.
pub fn network_key(nic: &NetworkInterface) -> Key {
    Key::reference(&nic.spec.network, &nic.namespace().unwrap_or_default())
}

/// The key of the VM that a NIC belongs to.
pub fn vm_key(nic: &NetworkInterface) -> Option<Key> {
    nic.spec.vm().map(|vm| Key::new(nic.namespace().unwrap_or_default(), vm))
}

/// A kind that the world watches: where it is kept, and what a change of it means.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static {
    fn table(tables: &mut Tables) -> &mut Table<Self>;
    /// Updates the indexes; `old` has left the table already and `new` is not in it yet.
    fn index(_: &mut Tables, _: &Key, _old: Option<&Self>, _new: Option<&Self>) {}
    fn change(key: &Key, old: Option<&Self>, new: Option<&Self>) -> Change;
}

macro_rules! watched {
    ($kind:ty, $field:ident, $change:expr) => {
        impl Watched for $kind {
            fn table(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$field
            }
            fn change(key: &Key, _: Option<&Self>, _: Option<&Self>) -> Change {
                let change: fn(&Key) -> Change = $change;
                change(key)
            }
        }
    };
}

watched!(ClusterNetwork, fabrics, |k| Change::Fabric(k.name.clone()));
watched!(Vpc, vpcs, |k| Change::Vpc(k.clone()));
watched!(FloatingIP, floating, |k| Change::Floating(k.clone()));
watched!(SecurityGroup, groups, |k| Change::Group(k.clone()));
watched!(VirtualMachine, vms, |k| Change::Vm(k.clone()));
watched!(VirtualMachineInstance, vmis, |k| Change::Vmi(k.clone()));

impl Watched for Network {
    fn table(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.networks
    }
    fn index(tables: &mut Tables, key: &Key, old: Option<&Self>, new: Option<&Self>) {
        let vpc = |n: &Self| n.spec.vpc.as_ref().map(|v| Key::new(key.namespace.clone(), v.clone()));
        move_index(&mut tables.networks_by_vpc, key, old.and_then(vpc), new.and_then(vpc));
        let groups = |n: Option<&Self>| n.map(policy::network_groups).unwrap_or_default();
        move_indexes(&mut tables.networks_by_group, key, groups(old), groups(new));
    }
    fn change(key: &Key, _: Option<&Self>, _: Option<&Self>) -> Change {
        Change::Network(key.clone())
    }
}

impl Watched for Node {
    fn table(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.nodes
    }
    fn index(tables: &mut Tables, key: &Key, _: Option<&Self>, new: Option<&Self>) {
        match new.and_then(crate::node::tunnel_address) {
            Some(address) => tables.tunnels.insert(key.name.clone(), address),
            None => tables.tunnels.remove(&key.name),
        };
    }
    fn change(key: &Key, _: Option<&Self>, _: Option<&Self>) -> Change {
        Change::Node(key.name.clone())
    }
}

impl Watched for NetworkInterface {
    fn table(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.nics
    }
    fn index(tables: &mut Tables, key: &Key, old: Option<&Self>, new: Option<&Self>) {
        let vms = &mut tables.nics_by_vm;
        move_index(vms, key, old.and_then(vm_key), new.and_then(vm_key));
        move_index(&mut tables.nics_by_network, key, old.map(network_key), new.map(network_key));
        if let Some(old) = old
            && let Some(there) = tables.placed.get_mut(&network_key(old))
        {
            there.remove(key);
        }
        let node = |n: &Self| n.status.as_ref()?.node.clone();
        move_index(&mut tables.nics_by_node, key, old.and_then(node), new.and_then(node));
        if let Some((network, placed)) = new.and_then(|n| Some((network_key(n), Placed::of(n)?))) {
            tables.placed.entry(network).or_default().insert(key.clone(), placed);
        }
        move_index(&mut tables.nics_by_mirror, key, old.and_then(mirror::target), new.and_then(mirror::target));
        let groups = |n: Option<&Self>| n.map(policy::own_groups).unwrap_or_default();
        move_indexes(&mut tables.nics_by_group, key, groups(old), groups(new));
        if let Some(uid) = old.and_then(ResourceExt::uid) {
            tables.nics_by_uid.remove(&uid);
        }
        if let Some(uid) = new.and_then(ResourceExt::uid) {
            tables.nics_by_uid.insert(uid, key.clone());
        }
    }
    fn change(key: &Key, old: Option<&Self>, new: Option<&Self>) -> Change {
        let both = || [old, new].into_iter().flatten();
        let vms: BTreeSet<Key> = both().filter_map(vm_key).collect();
        let networks: BTreeSet<Key> = both().map(network_key).collect();
        let groups: BTreeSet<Key> = both().flat_map(policy::own_groups).collect();
        let (vms, networks) = (vms.into_iter().collect(), networks.into_iter().collect());
        Change::Nic { key: key.clone(), vms, networks, groups: groups.into_iter().collect() }
    }
}

impl Watched for AddressClaim {
    fn table(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.claims
    }
    fn index(tables: &mut Tables, key: &Key, old: Option<&Self>, new: Option<&Self>) {
        let owner = |c: &Self| c.spec.owner.uid.clone();
        move_index(&mut tables.claims_by_owner, key, old.map(owner), new.map(owner));
        for (claim, present) in [(old, false), (new, true)] {
            let Some(claim) = claim else { continue };
            let Ok(address) = claim.spec.address.parse::<IpAddr>() else { continue };
            let set = tables.addresses.entry(claim_network(claim)).or_default();
            if present {
                set.insert(address)
            } else {
                set.remove(&address)
            };
        }
    }
    fn change(_: &Key, old: Option<&Self>, new: Option<&Self>) -> Change {
        Change::Claim(new.or(old).map(claim_network).unwrap_or_else(|| Key::new("", "")))
    }
}

fn claim_network(claim: &AddressClaim) -> Key {
    Key::new(claim.namespace().unwrap_or_default(), claim.spec.network.clone())
}

/// As [`move_index`], where there may be several.
fn move_indexes(index: &mut HashMap<Key, BTreeSet<Key>>, key: &Key, from: Vec<Key>, to: Vec<Key>) {
    from.into_iter().for_each(|k| move_index(index, key, Some(k), None));
    to.into_iter().for_each(|k| move_index(index, key, None, Some(k)));
}

fn move_index<I: Eq + std::hash::Hash>(
    index: &mut HashMap<I, BTreeSet<Key>>,
    key: &Key,
    from: Option<I>,
    to: Option<I>,
) {
    if let Some(from) = from
        && let Some(set) = index.get_mut(&from)
    {
        set.remove(key);
        if set.is_empty() {
            index.remove(&from);
        }
    }
    if let Some(to) = to {
        index.entry(to).or_default().insert(key.clone());
    }
}

/// The shared view of the API. Clones share it.
#[derive(Debug, Clone)]
pub struct World {
    tables: Arc<RwLock<Tables>>,
    changes: broadcast::Sender<Change>,
    synced: Arc<watch::Sender<usize>>,
}

/// How many kinds are watched.
const KINDS: usize = 10;
/// How many changes a slow reader may lag behind before it must look at everything again.
const BACKLOG: usize = 65536;

impl World {
    /// Starts to watch with tasks of its own, which end when the last clone of the runtime does.
    pub fn watch(client: &Client) -> Self {
        let world = Self {
            tables: Arc::default(),
            changes: broadcast::channel(BACKLOG).0,
            synced: Arc::new(watch::channel(0).0),
        };
        world.start::<Network>(client);
        world.start::<NetworkInterface>(client);
        world.start::<AddressClaim>(client);
        world.start::<ClusterNetwork>(client);
        world.start::<Vpc>(client);
        world.start::<FloatingIP>(client);
        world.start::<SecurityGroup>(client);
        world.start::<VirtualMachine>(client);
        world.start::<VirtualMachineInstance>(client);
        world.start::<Node>(client);
        world
    }

    /// Waits until everything that exists has been seen once.
    pub async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.synced.subscribe().wait_for(|n| *n >= KINDS).await;
    }

    /// Reads. Do not hold it across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes from now on. A reader that lags must look at everything again.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn start<K: Watched>(&self, client: &Client) {
        let world = self.clone();
        let api: Api<K> = Api::all(client.clone());
        tokio::spawn(async move {
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            pin_mut!(stream);
            let mut seen: Option<BTreeSet<Key>> = None;
            let mut first = true;
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::Init) => seen = Some(BTreeSet::new()),
                    Ok(watcher::Event::InitApply(o)) => {
                        if let Some(seen) = &mut seen {
                            seen.insert(Key::of(&o));
                        }
                        world.put(o);
                    }
                    Ok(watcher::Event::InitDone) => {
                        world.keep_only::<K>(&seen.take().unwrap_or_default());
                        if std::mem::take(&mut first) {
                            world.synced.send_modify(|n| *n += 1);
                        }
                    }
                    Ok(watcher::Event::Apply(o)) => world.put(o),
                    Ok(watcher::Event::Delete(o)) => world.remove::<K>(&Key::of(&o)),
                    Err(e) => tracing::warn!(kind = %K::kind(&()), "watch interrupted: {e}"),
                }
            }
        });
    }

    fn put<K: Watched>(&self, object: K) {
        let key = Key::of(&object);
        let mut tables = self.write();
        let old = K::table(&mut tables).remove(&key);
        if let Some(old) = &old
            && old.meta().resource_version == object.meta().resource_version
        {
            let old = old.clone();
            K::table(&mut tables).insert(key, old);
            return;
        }
        K::index(&mut tables, &key, old.as_deref(), Some(&object));
        let change = K::change(&key, old.as_deref(), Some(&object));
        K::table(&mut tables).insert(key, Arc::new(object));
        drop(tables);
        let _ = self.changes.send(change);
    }

    fn remove<K: Watched>(&self, key: &Key) {
        let mut tables = self.write();
        let Some(old) = K::table(&mut tables).remove(key) else { return };
        K::index(&mut tables, key, Some(&old), None);
        let change = K::change(key, Some(&old), None);
        drop(tables);
        let _ = self.changes.send(change);
    }

    fn keep_only<K: Watched>(&self, seen: &BTreeSet<Key>) {
        let gone: Vec<Key> = K::table(&mut self.write()).keys().filter(|k| !seen.contains(*k)).cloned().collect();
        gone.iter().for_each(|k| self.remove::<K>(k));
    }
}

/// The owner reference that a NIC's claims carry.
pub fn owner_of(nic: &NetworkInterface) -> OwnerRef {
    OwnerRef {
        namespace: nic.namespace().unwrap_or_default(),
        name: nic.name_any(),
        uid: nic.uid().unwrap_or_default(),
    }
}
