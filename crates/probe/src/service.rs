//! The sockets around the probers of one node: a packet socket on each network's uplink, and one clock for all.
//!
//! What comes in by an uplink is seen before the bridge that it is a port of sees it, and what is sent leaves by the cable
//! alone. Guests of this node that may be a server or a router are asked at their ports, beside.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use multihome_model::Connectivity;
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::engine::{Prober, Subject};
use crate::own::OwnNetwork;
use crate::watch::Time;
use crate::wire::ETHERTYPE;

/// What all probers of a node send together, in frames per second. Where that is too little, each asks less often.
const FRAMES_PER_SECOND: f64 = 1000.0;
/// What may be sent at once after a pause, in frames.
const BURST: f64 = 200.0;
/// How finely time is divided.
const TICK: Duration = Duration::from_millis(50);
/// How long a network that nothing is due for is left alone at most.
const IDLE: Duration = Duration::from_secs(60);
/// How many frames are read at once.
const BATCH: usize = 8;
/// The smallest frames that are read whole, in bytes: of DHCP servers and routers.
const FRAME: usize = 2048;
/// `ENETDOWN` (asm-generic/errno.h): reported once after the device went down; it may come up again.
const ENETDOWN: i32 = 100;

/// A device that is asked and heard by.
struct Port {
    ifindex: u32,
    socket: Arc<PacketSocket>,
    ear: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ear.abort();
    }
}

struct Entry {
    prober: Prober,
    /// What was found when [`Service::changed`] was last told.
    told: Connectivity,
    uplink: Port,
    /// Ports of guests.
    guests: Vec<Port>,
}

impl Entry {
    /// Gives back what is borrowed.
    fn end(&mut self, network: &str) {
        if let Some(frame) = self.prober.end() {
            self.send(network, &frame);
        }
    }

    /// Sends a frame. Other nodes are asked by the uplink alone. A frame that is too large for a device, or finds it down,
    /// is lost like one on the wire.
    fn send(&self, network: &str, frame: &[u8]) {
        let between_nodes = frame.get(12..14) == Some(&ETHERTYPE.to_be_bytes());
        for port in std::iter::once(&self.uplink).chain(self.guests.iter().filter(|_| !between_nodes)) {
            if let Err(error) = port.socket.send(frame) {
                tracing::debug!(network, "a probe was not sent: {error}");
            }
        }
    }
}

struct Shared {
    start: Instant,
    networks: Mutex<HashMap<String, Entry>>,
    own: OwnNetwork,
    changed: Mutex<BTreeSet<String>>,
    news: Notify,
    due: Notify,
}

/// The probers of one node.
pub struct Service {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Default for Service {
    fn default() -> Self {
        let shared = Shared {
            start: Instant::now(),
            networks: Mutex::default(),
            own: OwnNetwork::default(),
            changed: Mutex::default(),
            news: Notify::new(),
            due: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Probes a network by its uplink, a device of the calling thread's namespace, or probes it otherwise from now on.
    /// `guests` are the ports of guests that may be a server or a router of it. To be called inside a runtime. The calling
    /// thread's namespace is the node's own network, too, which is asked where `subject` says so and it can be.
    ///
    /// # Errors
    /// When a device is gone.
    pub fn put(
        &self,
        network: &str,
        uplink: u32,
        guests: &[u32],
        mut subject: Subject,
    ) -> Result<(), multihome_netlink::Error> {
        let shared = &self.shared;
        if subject.routed.contains(&true) {
            let able = shared.open_own();
            subject.routed = [subject.routed[0] && able[0], subject.routed[1] && able[1]];
        }
        let now = shared.start.elapsed();
        let mut networks = lock(&shared.networks);
        let before = networks.remove(network);
        let as_before = before.as_ref().map(|e| e.prober.subject()).is_some_and(|s| {
            // What the sockets depend on.
            (s.mac, s.mtu) == (subject.mac, subject.mtu)
        });
        let (mut ports, mut prober, mut told) = (vec![], None, None);
        if let Some(mut e) = before {
            if e.uplink.ifindex != uplink {
                e.end(network);
            }
            // Of another uplink nothing is known.
            prober = (e.uplink.ifindex == uplink).then_some(e.prober);
            told = Some(e.told);
            ports.push(e.uplink);
            ports.extend(e.guests);
        }
        ports.retain(|p| as_before && !p.ear.is_finished());
        let mut port = |ifindex: u32| match ports.iter().position(|p| p.ifindex == ifindex) {
            Some(at) => Ok(ports.swap_remove(at)),
            None => shared.open(network, ifindex, &subject),
        };
        let uplink = port(uplink)?;
        let guests = guests.iter().map(|g| port(*g)).collect::<Result<_, _>>()?;
        let prober = match prober {
            Some(mut p) => {
                p.update(subject, now);
                p
            }
            None => Prober::new(subject, now),
        };
        let mut entry = Entry { told: told.unwrap_or_default(), prober, uplink, guests };
        shared.look(network, &mut entry);
        networks.insert(network.to_owned(), entry);
        shared.due.notify_one();
        Ok(())
    }

    /// Probes only networks that `keep` names.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.shared.networks).retain(|network, e| {
            let kept = keep(network);
            if !kept {
                e.end(network);
            }
            kept
        });
    }

    /// Other nodes carry a network from now on.
    pub fn set_peers(&self, network: &str, peers: BTreeMap<u64, String>) {
        let now = self.shared.start.elapsed();
        if let Some(e) = lock(&self.shared.networks).get_mut(network)
            && e.prober.subject().peers != peers
        {
            e.prober.update(Subject { peers, ..e.prober.subject().clone() }, now);
            self.shared.look(network, e);
            self.shared.due.notify_one();
        }
    }

    /// The cable of a network's uplink was put in, or pulled out.
    pub fn set_carrier(&self, network: &str, carrier: bool) {
        let now = self.shared.start.elapsed();
        if let Some(e) = lock(&self.shared.networks).get_mut(network)
            && e.prober.set_carrier(carrier, now)
        {
            self.shared.look(network, e);
            self.shared.due.notify_one();
        }
    }

    /// What is known of a network; `None` if it is not probed.
    pub fn verdict(&self, network: &str) -> Option<Connectivity> {
        lock(&self.shared.networks).get(network).map(|e| e.prober.verdict())
    }

    /// Of which families it is not known yet whether the node's own network is routed to a network's gateway, though it is
    /// asked: IPv4, IPv6. See [`Prober::routed_unknown`].
    pub fn routed_unknown(&self, network: &str) -> [bool; 2] {
        lock(&self.shared.networks).get(network).map(|e| e.prober.routed_unknown()).unwrap_or_default()
    }

    /// Waits until something else was found, and says of which networks since the last call.
    pub async fn changed(&self) -> BTreeSet<String> {
        loop {
            let waiting = self.shared.news.notified();
            let set = std::mem::take(&mut *lock(&self.shared.changed));
            if !set.is_empty() {
                return set;
            }
            waiting.await;
        }
    }

    /// Sends what is due, for as long as it is polled.
    pub async fn run(&self) {
        let shared = &self.shared;
        let (mut budget, mut sequence, mut last) = (BURST, 0, shared.start.elapsed());
        loop {
            let now = shared.start.elapsed();
            budget = (budget + (now - last).as_secs_f64() * FRAMES_PER_SECOND).min(BURST);
            last = now;
            let next = shared.send(now, &mut budget, &mut sequence);
            let pause = next.map_or(IDLE, |t| t.saturating_sub(shared.start.elapsed())).clamp(TICK, IDLE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.due.notified() => tokio::time::sleep(TICK).await,
            }
        }
    }
}

impl Shared {
    fn open(
        self: &Arc<Self>,
        network: &str,
        ifindex: u32,
        subject: &Subject,
    ) -> Result<Port, multihome_netlink::Error> {
        let socket = Arc::new(PacketSocket::open(ifindex, &filter::probes(subject.mac.0))?);
        let ear = tokio::spawn(hear(self.clone(), network.to_owned(), socket.clone(), subject.mtu));
        Ok(Port { ifindex, socket, ear })
    }

    /// Opens the sockets of the node's own network, if they are not open yet, and says of which families there are.
    fn open_own(self: &Arc<Self>) -> [bool; 2] {
        // The sockets are part of what hears by them.
        let hears = Arc::downgrade(self);
        self.own.families(move |from, sequence| {
            if let Some(shared) = hears.upgrade() {
                shared.echo(from, sequence);
            }
        })
    }

    /// An echo reply came in.
    fn echo(&self, from: IpAddr, sequence: u16) {
        let now = self.start.elapsed();
        for (network, e) in lock(&self.networks).iter_mut() {
            if e.prober.echo_heard(from, sequence, now) {
                self.look(network, e);
            }
        }
    }

    /// Lets those who have waited longest ask first. Returns when something is due next.
    fn send(&self, now: Time, budget: &mut f64, sequence: &mut u16) -> Option<Time> {
        let mut networks = lock(&self.networks);
        let mut due: Vec<(Time, String)> = networks
            .iter()
            .filter_map(|(n, e)| e.prober.next().filter(|t| *t <= now).map(|t| (t, n.clone())))
            .collect();
        due.sort_unstable();
        for (_, network) in due {
            if *budget < 1.0 {
                break;
            }
            let Some(e) = networks.get_mut(&network) else { continue };
            for frame in e.prober.poll(now) {
                *budget -= 1.0;
                e.send(&network, &frame);
            }
            for echo in e.prober.poll_routed(now, sequence) {
                *budget -= 1.0;
                self.own.send(&network, echo);
            }
            self.look(&network, e);
        }
        networks.values().filter_map(|e| e.prober.next()).min()
    }

    /// Tells of a network if something else was found than was told.
    fn look(&self, network: &str, e: &mut Entry) {
        let verdict = e.prober.verdict();
        if verdict != e.told {
            e.told = verdict;
            self.tell(network);
        }
    }

    fn tell(&self, network: &str) {
        if lock(&self.changed).insert(network.to_owned()) {
            self.news.notify_waiters();
        }
    }

    fn frame(&self, network: &str, socket: &PacketSocket, frame: &[u8], pending: bool) {
        let now = self.start.elapsed();
        let mut networks = lock(&self.networks);
        let Some(e) = networks.get_mut(network) else { return };
        let before = e.prober.next();
        let answer = e.prober.frame(frame, pending, now);
        match answer {
            Some(answer) => {
                drop(networks);
                if let Err(error) = socket.send(&answer) {
                    tracing::debug!(network, "an answer to a probe was not sent: {error}");
                }
            }
            None => {
                self.look(network, e);
                if e.prober.next() < before {
                    self.due.notify_one();
                }
            }
        }
    }
}

/// Takes what comes in by one uplink.
async fn hear(shared: Arc<Shared>, network: String, socket: Arc<PacketSocket>, mtu: u16) {
    let fd = match wait_for(socket) {
        Ok(fd) => fd,
        Err(e) => return tracing::error!(network, "cannot wait for frames: {e}"),
    };
    let mut batch = FrameBatch::new(BATCH, FRAME.max(usize::from(mtu) + 64));
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        match ready.try_io(|s| s.get_ref().receive(&mut batch)) {
            Err(_would_block) => continue,
            Ok(Ok(_)) => {}
            Ok(Err(e)) if is_passing(&e) => continue,
            // The device is gone; the agent probes by another where there is one.
            Ok(Err(e)) => return tracing::debug!(network, "is not probed any more: {e}"),
        }
        // What came tagged is of another network.
        for f in batch.iter().filter(|f| f.vlan.is_none()) {
            shared.frame(&network, fd.get_ref(), f.data, f.checksum_pending);
        }
    }
}

/// Waits for a socket that owns its descriptor for as long as it lives, which is what `AsyncFd` relies on.
#[expect(deprecated, reason = "the replacement is unsafe, and the socket keeps its descriptor")]
pub(crate) fn wait_for<T: AsRawFd>(socket: Arc<T>) -> io::Result<AsyncFd<Arc<T>>> {
    AsyncFd::new(socket)
}

fn is_passing(e: &io::Error) -> bool {
    e.raw_os_error() == Some(ENETDOWN) || e.kind() == io::ErrorKind::Interrupted
}
