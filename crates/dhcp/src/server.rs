//! The sockets around the DHCPv4 engine: one packet socket per port, one UDP socket per gateway that relays reach.
//!
//! Answers come from the records that the agent puts here; nothing is stored. What guests were told is kept per NIC so
//! that the agent can show it and so that a renewal after a change is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use multihome_model::MacAddr;
use multihome_netlink::Netns;
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use multihome_netlink::udp;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::frame::{self, End};
use crate::v4::{CLIENT_PORT, Destination, Fact, Message, Outcome, PortState, Record, SERVER_PORT, Told, Via, handle};

/// The largest frame that a client's DHCP message comes in, in bytes.
const FRAME: usize = 2048;
/// How many frames are read at once.
const BATCH: usize = 16;

/// What is known of one NIC's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// The address of its record.
    pub address: Ipv4Addr,
    /// What the guest was told, if it holds a lease as far as we know.
    pub told: Option<Told>,
    /// What it is to be told instead, if that is something else: its next renewal is refused.
    pub due: Option<Told>,
    /// When the last acknowledgement went out.
    pub acknowledged: Option<SystemTime>,
    /// Lease time that was told with it, in seconds.
    pub seconds: u32,
    /// The name that the client gave itself.
    pub host_name: Option<String>,
    /// Whether the client makes a default route of its own where it is told none.
    pub invents_routes: bool,
    /// What happened last.
    pub last: Option<Fact>,
    /// How many requests were refused since the server started.
    pub refused: u64,
    /// How many messages were ignored since the server started.
    pub ignored: u64,
}

#[derive(Debug)]
struct Lease {
    port: PortState,
    acknowledged: Option<SystemTime>,
    seconds: u32,
    host_name: Option<String>,
    invents_routes: bool,
    last: Option<Fact>,
    refused: u64,
    ignored: u64,
}

#[derive(Debug)]
struct Entry {
    nic: Arc<str>,
    record: RwLock<Arc<Record>>,
    lease: Mutex<Lease>,
}

type ByMac = HashMap<MacAddr, Arc<Entry>>;

/// A port of a guest.
#[derive(Debug)]
struct Port {
    ifindex: u32,
    task: JoinHandle<()>,
}

/// Where relays and routed clients of a network reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Network namespace of the gateway.
    pub netns: String,
    /// The gateway's device there.
    pub device: String,
    /// The gateway's address: the server identifier.
    pub address: Ipv4Addr,
    /// Relays whose packets are answered.
    pub relays: BTreeSet<Ipv4Addr>,
}

#[derive(Debug)]
struct RunningGateway {
    settings: Gateway,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: RwLock<HashMap<Arc<str>, Arc<Entry>>>,
    /// By network, then MAC: for messages that come through the gateway.
    by_mac: RwLock<HashMap<Arc<str>, ByMac>>,
    changed: Mutex<BTreeSet<Arc<str>>>,
    notify: Notify,
}

/// The DHCPv4 server of one node.
#[derive(Debug, Default)]
pub struct Server {
    shared: Arc<Shared>,
    ports: Mutex<HashMap<Arc<str>, Port>>,
    gateways: Mutex<BTreeMap<String, RunningGateway>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.ports).values().for_each(|p| p.task.abort());
        lock(&self.gateways).values().for_each(|g| g.task.abort());
    }
}

impl Server {
    /// A server that answers nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what a NIC is told from now on. `told` is what it was told before this server started, if that is known.
    pub fn put_record(&self, nic: &str, network: &str, record: Record, told: Option<Told>) {
        let shared = &self.shared;
        let known = read(&shared.entries).get(nic).cloned();
        if let Some(entry) = known {
            let (old_mac, new_mac) = (entry.record().mac(), record.mac());
            *write(&entry.record) = Arc::new(record);
            if old_mac != new_mac {
                let mut by_mac = write(&shared.by_mac);
                by_mac.values_mut().for_each(|m| {
                    m.remove(&old_mac);
                });
                by_mac.entry(network.into()).or_default().insert(new_mac, entry);
            }
            return;
        }
        let name: Arc<str> = nic.into();
        let mac = record.mac();
        let entry = Arc::new(Entry {
            nic: name.clone(),
            record: RwLock::new(Arc::new(record)),
            lease: Mutex::new(Lease {
                port: PortState { told },
                acknowledged: None,
                seconds: 0,
                host_name: None,
                invents_routes: false,
                last: None,
                refused: 0,
                ignored: 0,
            }),
        });
        write(&shared.by_mac).entry(network.into()).or_default().insert(mac, entry.clone());
        write(&shared.entries).insert(name, entry);
    }

    /// Forgets a NIC, and stops answering on its port.
    pub fn remove_record(&self, nic: &str) {
        self.remove_port(nic);
        if let Some(entry) = write(&self.shared.entries).remove(nic) {
            let mac = entry.record().mac();
            write(&self.shared.by_mac).values_mut().for_each(|m| {
                if m.get(&mac).is_some_and(|e| Arc::ptr_eq(e, &entry)) {
                    m.remove(&mac);
                }
            });
        }
    }

    /// The NICs that have a record.
    pub fn nics(&self) -> Vec<Arc<str>> {
        read(&self.shared.entries).keys().cloned().collect()
    }

    /// Answers on a NIC's port. `server_mac` is the source of answers; where `answer_arp`, requests for the server
    /// identifier's MAC are answered with it, because nothing else on the network has that address.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn put_port(
        &self,
        nic: &str,
        ifindex: u32,
        server_mac: MacAddr,
        answer_arp: bool,
    ) -> Result<(), multihome_netlink::Error> {
        let Some(entry) = read(&self.shared.entries).get(nic).cloned() else { return Ok(()) };
        let mut ports = lock(&self.ports);
        if ports.get(nic).is_some_and(|p| p.ifindex == ifindex && !p.task.is_finished()) {
            return Ok(());
        }
        let filter = if answer_arp { filter::dhcp4_requests_or_arp() } else { filter::dhcp4_requests() };
        let socket = PacketSocket::open(ifindex, &filter)?;
        let name = entry.nic.clone();
        let task = tokio::spawn(serve_port(self.shared.clone(), entry, socket, server_mac));
        if let Some(old) = ports.insert(name, Port { ifindex, task }) {
            old.task.abort();
        }
        Ok(())
    }

    /// Stops answering on a NIC's port; its record stays.
    pub fn remove_port(&self, nic: &str) {
        if let Some(port) = lock(&self.ports).remove(nic) {
            port.task.abort();
        }
    }

    /// Answers relays and routed clients of a network at its gateway.
    ///
    /// # Errors
    /// When the namespace or the device is not there.
    pub fn put_gateway(&self, network: &str, settings: &Gateway) -> Result<(), multihome_netlink::Error> {
        let mut gateways = lock(&self.gateways);
        if gateways.get(network).is_some_and(|g| g.settings == *settings && !g.task.is_finished()) {
            return Ok(());
        }
        if let Some(old) = gateways.remove(network) {
            old.task.abort();
        }
        let netns = Netns::open(&settings.netns)?;
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT);
        let socket = netns.run(|| udp::open(local, Some(&settings.device)))??;
        let task = tokio::spawn(serve_gateway(self.shared.clone(), network.into(), settings.clone(), socket));
        gateways.insert(network.to_owned(), RunningGateway { settings: settings.clone(), task });
        Ok(())
    }

    /// Keeps the gateways of these networks only.
    pub fn retain_gateways(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.gateways).retain(|network, g| {
            let stays = keep(network);
            if !stays {
                g.task.abort();
            }
            stays
        });
    }

    /// What is known of a NIC's lease.
    pub fn lease(&self, nic: &str) -> Option<LeaseView> {
        let entry = read(&self.shared.entries).get(nic).cloned()?;
        let record = entry.record();
        let l = lock(&entry.lease);
        let due = l.port.told.as_ref().is_some_and(|t| t != record.told()).then(|| record.told().clone());
        Some(LeaseView {
            address: record.address(),
            told: l.port.told.clone(),
            due,
            acknowledged: l.acknowledged,
            seconds: l.seconds,
            host_name: l.host_name.clone(),
            invents_routes: l.invents_routes,
            last: l.last.clone(),
            refused: l.refused,
            ignored: l.ignored,
        })
    }

    /// Forgets what a guest was told, because it went away without saying so (its VM was stopped).
    pub fn forget_told(&self, nic: &str) {
        if let Some(entry) = read(&self.shared.entries).get(nic) {
            lock(&entry.lease).port.told = None;
        }
    }

    /// Waits until something happened to leases, and says to which NICs' since the last call.
    pub async fn changed(&self) -> BTreeSet<Arc<str>> {
        loop {
            let waiting = self.shared.notify.notified();
            let set = std::mem::take(&mut *lock(&self.shared.changed));
            if !set.is_empty() {
                return set;
            }
            waiting.await;
        }
    }
}

impl Entry {
    fn record(&self) -> Arc<Record> {
        read(&self.record).clone()
    }
}

impl Shared {
    fn handle(&self, entry: &Entry, payload: &[u8], via: Via) -> Option<(Outcome, Arc<Record>)> {
        let message =
            Message::parse(payload).inspect_err(|e| tracing::debug!(nic = %entry.nic, "dropped: {e}")).ok()?;
        let record = entry.record();
        let mut lease = lock(&entry.lease);
        let outcome = handle(&record, &mut lease.port, &message, via);
        match &outcome.fact {
            Fact::Ignored(why) => {
                lease.ignored += 1;
                tracing::debug!(nic = %entry.nic, "ignored: {why}");
                return None;
            }
            Fact::Acknowledged => {
                lease.acknowledged = Some(SystemTime::now());
                lease.seconds = record.lease_seconds();
                lease.invents_routes = message.invents_routes();
                if let Some(name) = message.host_name {
                    lease.host_name = Some(String::from_utf8_lossy(name).into_owned());
                }
            }
            Fact::Refused(_) => lease.refused += 1,
            _ => {}
        }
        lease.last = Some(outcome.fact.clone());
        drop(lease);
        if !matches!(outcome.fact, Fact::Offered | Fact::Informed) && lock(&self.changed).insert(entry.nic.clone()) {
            self.notify.notify_waiters();
        }
        Some((outcome, record))
    }
}

async fn serve_port(shared: Arc<Shared>, entry: Arc<Entry>, socket: PacketSocket, server_mac: MacAddr) {
    let socket = match watch(socket) {
        Ok(s) => s,
        Err(e) => return tracing::error!(nic = %entry.nic, "cannot wait for DHCP requests: {e}"),
    };
    let mut batch = FrameBatch::new(BATCH, FRAME);
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let got = ready.try_io(|s| s.get_ref().receive(&mut batch));
        match got {
            Err(_would_block) => continue,
            Ok(Ok(_)) => {}
            Ok(Err(e)) if e.raw_os_error() == Some(ENETDOWN) => continue,
            // The device is gone; the agent opens the port anew where there is another.
            Ok(Err(e)) => return tracing::debug!(nic = %entry.nic, "port closed: {e}"),
        }
        for f in batch.iter() {
            let Some(reply) = answer_frame(&shared, &entry, f.data, f.checksum_pending, server_mac) else { continue };
            if let Err(e) = socket.get_ref().send(&reply) {
                tracing::debug!(nic = %entry.nic, "answer not sent: {e}");
            }
        }
    }
}

/// `ENETDOWN` (asm-generic/errno.h): reported once after the device went down; it may come up again.
pub(crate) const ENETDOWN: i32 = 100;

fn answer_frame(shared: &Shared, entry: &Entry, data: &[u8], pending: bool, server_mac: MacAddr) -> Option<Vec<u8>> {
    if let Some(reply) = frame::answer_arp(data, entry.record().server(), server_mac) {
        return Some(reply);
    }
    let d = frame::parse_udp(data, pending)?;
    let record = entry.record();
    if d.destination_port != SERVER_PORT || d.source_mac != record.mac() {
        return None;
    }
    let (outcome, record) = shared.handle(entry, d.payload, Via::Port)?;
    let (payload, to) = outcome.reply?;
    let (mac, address) = match to {
        Destination::Broadcast => (MacAddr([0xff; 6]), Ipv4Addr::BROADCAST),
        Destination::Unicast(a) | Destination::Offered(a) => (record.mac(), a),
        // The engine answers relays at the gateway only.
        Destination::Relay(_) => return None,
    };
    let from = End { mac: server_mac, address: record.server(), port: SERVER_PORT };
    frame::build_udp(from, End { mac, address, port: CLIENT_PORT }, &payload)
}

async fn serve_gateway(shared: Arc<Shared>, network: Arc<str>, settings: Gateway, socket: std::net::UdpSocket) {
    let socket = match watch(socket) {
        Ok(s) => s,
        Err(e) => return tracing::error!(%network, "cannot wait for relayed DHCP requests: {e}"),
    };
    let mut buf = [0u8; FRAME];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        loop {
            match ready.try_io(|s| udp::receive(s.as_fd(), &mut buf)) {
                Err(_would_block) => break,
                Ok(Err(e)) => {
                    tracing::debug!(%network, "cannot read: {e}");
                    break;
                }
                Ok(Ok(arrival)) => {
                    let payload = &buf[..arrival.len];
                    if let Some((reply, to)) = answer_gateway(&shared, &network, &settings, payload)
                        && let Err(e) = udp::send(socket.as_fd(), &reply, to, settings.address, 0)
                    {
                        tracing::debug!(%network, %to, "answer not sent: {e}");
                    }
                }
            }
        }
    }
}

fn answer_gateway(
    shared: &Shared,
    network: &str,
    settings: &Gateway,
    payload: &[u8],
) -> Option<(Vec<u8>, SocketAddrV4)> {
    let message = Message::parse(payload).ok()?;
    let relayed = message.giaddr != Ipv4Addr::UNSPECIFIED;
    if relayed && !settings.relays.contains(&message.giaddr) {
        tracing::debug!(network, relay = %message.giaddr, "dropped: not a relay of this network");
        return None;
    }
    let entry = read(&shared.by_mac).get(network)?.get(&message.chaddr).cloned()?;
    let (outcome, _) = shared.handle(&entry, payload, Via::Gateway)?;
    match outcome.reply? {
        (payload, Destination::Relay(a)) => Some((payload, SocketAddrV4::new(a, SERVER_PORT))),
        (payload, Destination::Unicast(a)) => Some((payload, SocketAddrV4::new(a, CLIENT_PORT))),
        // Without a relay in between only clients that have an address can reach the gateway.
        _ => None,
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(l: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    l.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(l: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    l.write().unwrap_or_else(PoisonError::into_inner)
}

/// A random pause below `most`. Nothing secret depends on it.
pub(crate) fn jitter(most: std::time::Duration) -> std::time::Duration {
    use std::hash::{BuildHasher, Hasher};
    let n = std::collections::hash_map::RandomState::new().build_hasher().finish();
    most.mul_f64(n as f64 / u64::MAX as f64)
}

/// Waits for a socket that owns its descriptor for as long as it lives, which is what `AsyncFd` relies on.
#[expect(deprecated, reason = "the replacement is unsafe, and both kinds of socket here keep their descriptor")]
pub(crate) fn watch<T: std::os::fd::AsRawFd>(socket: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(socket)
}
