//! The sockets around the guard: one where servers and routers are heard (the network's uplink, ports of NICs that may
//! say anything), one per guarded NIC, by which it is told.
//!
//! The bridge itself lets nothing of what is heard here through to a guarded port, so that a guest hears it once,
//! rewritten, and from whoever said it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use multihome_model::MacAddr;
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::v4::{Answer, Kind};
use super::{Dropped, Dropping, Role, ra, v4, v6};
use crate::frame::{self, End};
use crate::frame6::{self, Packet};
use crate::ra::ADVERTISEMENT;
use crate::server::{ENETDOWN, lock, read, watch, write};
use crate::server6::{MOST_FORMED, forms};
use crate::v4::CLIENT_PORT;

/// The largest frame that is read, in bytes: a jumbo frame.
const FRAME: usize = 9216;
/// How many frames are read at once.
const BATCH: usize = 8;
/// `errno` of a frame that is larger than the device takes.
const EMSGSIZE: i32 = 90;
/// The next header of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// Routers that are remembered per network.
const MOST_ROUTERS: usize = 8;

/// What port security is to let pass of a NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passage {
    /// The addresses that servers gave it.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it has taken so many addresses of DHCPv4 servers that it is to ask for no more.
    pub sated: bool,
}

/// Lets a NIC's addresses pass port security; called before the guest is told that it has them.
pub type Doorkeeper = Arc<dyn Fn(&str, &Passage) + Send + Sync>;

/// The most addresses that DHCPv4 servers hold for one NIC. A guest that boots takes up to three: firmware, initramfs and system have
/// a client identifier each (RFC 2131 section 2, option 61).
pub const MOST_TAKEN: usize = 8;

/// An address that somebody else's server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its subnet, where the answer said so.
    pub prefix: Option<u8>,
    /// Until when; `None` is for ever.
    pub until: Option<SystemTime>,
    /// Until when the server holds it, which is no less: the guest is told a shorter time where routes must be able to change.
    pub held: Option<SystemTime>,
    /// Who gave it.
    pub server: IpAddr,
}

/// What of an acknowledgement clients do not all follow when another one says something else (crate::v4::Told).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The default route.
    pub router: Option<Ipv4Addr>,
    /// The specific routes, encoded (RFC 3442), and the MTU in bytes where there was one; `None` of an acknowledgement that
    /// an earlier process saw.
    pub rest: Option<(Vec<u8>, Option<u16>)>,
}

/// What is known of one guarded NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// What the last acknowledgement said after the rewriting. A renewal that was turned into a refusal leaves it: the
    /// refusal may be lost, and until the client starts afresh it has what it was told.
    pub told: Option<Told>,
    /// Whether the client was told to start afresh, and has not.
    pub starts_afresh: bool,
    /// The router that the server offered with it, whether it was handed on or not.
    pub offered: Option<Ipv4Addr>,
    /// When that was, and for how many seconds.
    pub acknowledged: Option<(SystemTime, u32)>,
    /// Addresses that servers gave.
    pub given: Vec<Given>,
    /// Addresses that DHCPv4 servers gave before and still hold for it, oldest first: a server that tells clients by their
    /// identifier has one for each of them.
    pub taken: Vec<Given>,
    /// Addresses that the guest formed, oldest first.
    pub formed: Vec<Ipv6Addr>,
    /// Prefixes of 64 bits that routers tell guests to form addresses from.
    pub autonomous: Vec<u64>,
    /// Answers and advertisements that were handed on.
    pub handed_on: u64,
    /// Those that were not, and why the last was not.
    pub dropped: Option<Dropping>,
    /// Renewals that were turned into refusals because routes had changed.
    pub refused: u64,
}

struct Nic {
    name: Arc<str>,
    network: Arc<str>,
    role: RwLock<Arc<Role>>,
    view: Mutex<View>,
}

struct Port {
    ifindex: u32,
    socket: Arc<PacketSocket>,
    task: JoinHandle<()>,
}

/// What a router said last.
struct Router {
    mac: MacAddr,
    message: Vec<u8>,
}

#[derive(Default)]
struct Network {
    nics: HashMap<MacAddr, Arc<Nic>>,
    routers: BTreeMap<Ipv6Addr, Router>,
    /// What could not be read, so that nobody knows for which guest it was.
    unread: Option<Dropping>,
}

struct Shared {
    nics: RwLock<HashMap<Arc<str>, Arc<Nic>>>,
    networks: RwLock<HashMap<Arc<str>, Network>>,
    ports: Mutex<HashMap<Arc<str>, Port>>,
    changed: Mutex<BTreeSet<Arc<str>>>,
    notify: Notify,
    open: Doorkeeper,
}

/// The guard of one node.
pub struct Guard {
    shared: Arc<Shared>,
    ears: Mutex<HashMap<(String, u32), JoinHandle<()>>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.ears).values().for_each(JoinHandle::abort);
        lock(&self.shared.ports).values().for_each(|p| p.task.abort());
    }
}

impl Guard {
    /// A guard of nobody yet.
    pub fn new(open: Doorkeeper) -> Self {
        let shared = Shared {
            nics: RwLock::default(),
            networks: RwLock::default(),
            ports: Mutex::default(),
            changed: Mutex::default(),
            notify: Notify::new(),
            open,
        };
        Self { shared: Arc::new(shared), ears: Mutex::default() }
    }

    /// Guards a NIC, or gives it another role from now on: what routers said last is told again, rewritten anew.
    /// `before` is what its guest was told before this process started: whether that was a default route.
    pub fn put_nic(&self, nic: &str, network: &str, role: Role, before: Option<View>) {
        let shared = &self.shared;
        let known = read(&shared.nics).get(nic).filter(|n| &*n.network == network).cloned();
        if let Some(known) = known {
            let old = std::mem::replace(&mut *write(&known.role), Arc::new(role.clone()));
            if *old != role {
                if old.mac != role.mac
                    && let Some(n) = write(&shared.networks).get_mut(network)
                {
                    n.nics.remove(&old.mac);
                    n.nics.insert(role.mac, known.clone());
                }
                shared.repeat_routers(&known);
            }
            return;
        }
        self.remove_nic(nic);
        let name: Arc<str> = nic.into();
        let network: Arc<str> = network.into();
        let mac = role.mac;
        let entry = Arc::new(Nic {
            name: name.clone(),
            network: network.clone(),
            role: RwLock::new(Arc::new(role)),
            view: Mutex::new(before.unwrap_or_default()),
        });
        write(&shared.networks).entry(network).or_default().nics.insert(mac, entry.clone());
        write(&shared.nics).insert(name, entry);
    }

    /// Speaks to a NIC by its tap, and sees what addresses its guest forms.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn put_tap(&self, nic: &str, ifindex: u32) -> Result<(), multihome_netlink::Error> {
        let Some(entry) = read(&self.shared.nics).get(nic).cloned() else { return Ok(()) };
        let mut ports = lock(&self.shared.ports);
        if ports.get(nic).is_some_and(|p| p.ifindex == ifindex && !p.task.is_finished()) {
            return Ok(());
        }
        let socket = Arc::new(PacketSocket::open(ifindex, &filter::dhcp6_requests_or_solicitations())?);
        let ears = PacketSocket::open(ifindex, &filter::dhcp6_requests_or_solicitations())?;
        let name = entry.name.clone();
        let task = tokio::spawn(see(self.shared.clone(), entry, ears));
        if let Some(old) = ports.insert(name, Port { ifindex, socket, task }) {
            old.task.abort();
        }
        Ok(())
    }

    /// Guards a NIC no more.
    pub fn remove_nic(&self, nic: &str) {
        if let Some(port) = lock(&self.shared.ports).remove(nic) {
            port.task.abort();
        }
        if let Some(entry) = write(&self.shared.nics).remove(nic) {
            let mut networks = write(&self.shared.networks);
            if let Some(n) = networks.get_mut(&entry.network) {
                n.nics.retain(|_, e| !Arc::ptr_eq(e, &entry));
                if n.nics.is_empty() {
                    networks.remove(&entry.network);
                }
            }
        }
    }

    /// Listens on a device behind which servers and routers of a network are.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn put_ear(&self, network: &str, ifindex: u32) -> Result<(), multihome_netlink::Error> {
        let mut ears = lock(&self.ears);
        let key = (network.to_owned(), ifindex);
        if ears.get(&key).is_some_and(|t| !t.is_finished()) {
            return Ok(());
        }
        let socket = PacketSocket::open(ifindex, &filter::dhcp_replies_or_router_advertisements())?;
        ears.insert(key, tokio::spawn(hear(self.shared.clone(), network.into(), socket)));
        Ok(())
    }

    /// Listens no more where `keep` says no.
    pub fn retain_ears(&self, keep: impl Fn(&str, u32) -> bool) {
        lock(&self.ears).retain(|(network, ifindex), task| {
            let stays = keep(network, *ifindex);
            if !stays {
                task.abort();
            }
            stays
        });
    }

    /// What is known of a NIC.
    pub fn view(&self, nic: &str) -> Option<View> {
        read(&self.shared.nics).get(nic).map(|n| lock(&n.view).clone())
    }

    /// Forgets what a guest was told, because it starts anew.
    pub fn forget_told(&self, nic: &str) {
        if let Some(n) = read(&self.shared.nics).get(nic) {
            lock(&n.view).told = None;
        }
    }

    /// Takes away addresses whose time is over.
    pub fn expire(&self) {
        let now = SystemTime::now();
        for nic in read(&self.shared.nics).values() {
            let mut view = lock(&nic.view);
            let before = view.passage();
            let runs = |end: Option<SystemTime>| end.is_none_or(|u| u > now);
            let (given, over): (Vec<Given>, _) =
                std::mem::take(&mut view.given).into_iter().partition(|g| runs(g.until));
            view.given = given;
            view.taken.extend(over.into_iter().filter(|g| g.address.is_ipv4()));
            view.taken.retain(|g| runs(g.held));
            if view.passage() != before {
                (self.shared.open)(&nic.name, &view.passage());
                drop(view);
                self.shared.tell(&nic.name);
            }
        }
    }

    /// The NICs that have taken as many addresses as one may have, with one of the servers.
    pub fn sated(&self) -> Vec<(Arc<str>, IpAddr)> {
        let nics: Vec<Arc<Nic>> = read(&self.shared.nics).values().cloned().collect();
        let server = |view: &View| view.taken.last().filter(|_| view.is_sated()).map(|g| g.server);
        nics.iter().filter_map(|n| Some((n.name.clone(), server(&lock(&n.view))?))).collect()
    }

    /// What was dropped so far, by NIC (`true`) or, where nobody knows for which NIC it was, by network (`false`).
    pub fn drops(&self) -> Vec<(bool, Arc<str>, Dropping)> {
        let shared = &self.shared;
        let nics: Vec<Arc<Nic>> = read(&shared.nics).values().cloned().collect();
        let mut all: Vec<(bool, Arc<str>, Dropping)> =
            nics.iter().filter_map(|n| Some((true, n.name.clone(), lock(&n.view).dropped?))).collect();
        let networks = read(&shared.networks);
        all.extend(networks.iter().filter_map(|(name, n)| Some((false, name.clone(), n.unread?))));
        all
    }

    /// Waits until something happened, and says to which NICs since the last call.
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

fn count(of: &mut Option<Dropping>, why: Dropped) {
    *of = Some((of.map_or(0, |(n, _)| n) + 1, why));
}

fn unreadable(fragment: bool) -> Dropped {
    if fragment { Dropped::Fragment } else { Dropped::Malformed("a header, a length or the checksum is wrong") }
}

fn addresses(view: &View) -> BTreeSet<IpAddr> {
    view.given.iter().map(|g| g.address).collect()
}

impl View {
    /// Whether servers hold as many addresses for it as one NIC may have.
    pub fn is_sated(&self) -> bool {
        self.taken.len() + self.given.iter().filter(|g| g.address.is_ipv4()).count() >= MOST_TAKEN
    }

    fn passage(&self) -> Passage {
        Passage { addresses: addresses(self), sated: self.is_sated() }
    }

    /// An IPv4 address takes the place of the one before, which its server holds until its time is over.
    fn take(&mut self, given: Given) {
        let (six, before): (Vec<Given>, _) =
            std::mem::take(&mut self.given).into_iter().partition(|g| g.address.is_ipv6());
        self.taken.extend(before);
        self.taken.retain(|g| g.address != given.address);
        self.given = six;
        self.given.push(given);
    }
}

impl Shared {
    fn tell(&self, nic: &Arc<str>) {
        if lock(&self.changed).insert(nic.clone()) {
            self.notify.notify_waiters();
        }
    }

    fn nic(&self, network: &str, mac: MacAddr) -> Option<Arc<Nic>> {
        read(&self.networks).get(network)?.nics.get(&mac).cloned()
    }

    fn send(&self, nic: &Nic, frame: &[u8]) {
        let socket = lock(&self.ports).get(&nic.name).map(|p| p.socket.clone());
        match socket.map(|s| s.send(frame)) {
            Some(Ok(())) => lock(&nic.view).handed_on += 1,
            Some(Err(e)) if e.raw_os_error() == Some(EMSGSIZE) => self.drop_it(nic, Dropped::TooLarge),
            Some(Err(e)) => tracing::debug!(nic = %nic.name, "not handed on: {e}"),
            None => {}
        }
    }

    fn drop_it(&self, nic: &Nic, why: Dropped) {
        tracing::debug!(nic = %nic.name, "dropped: {why}");
        count(&mut lock(&nic.view).dropped, why);
    }

    /// A frame of which not more than this is known: it is for a guest, and cannot be read.
    fn unread(&self, network: &str, mac: Option<[u8; 6]>, why: Dropped) {
        match mac.and_then(|m| self.nic(network, MacAddr(m))) {
            Some(nic) => self.drop_it(&nic, why),
            None => {
                tracing::debug!(network, "dropped: {why}");
                if let Some(n) = write(&self.networks).get_mut(network) {
                    count(&mut n.unread, why);
                }
            }
        }
    }

    /// One frame from where servers are.
    fn frame(&self, network: &str, data: &[u8], pending: bool) {
        if data.get(12..14) == Some(&[8, 0]) {
            let Some(d) = frame::parse_udp(data, pending) else {
                let headers = data.get(14).map_or(0, |b| 14 + usize::from(b & 0xf) * 4 + 8);
                let client = data.get(headers..).and_then(v4::client).or(data.first_chunk().copied());
                // More fragments, or an offset (RFC 791 section 3.1).
                let fragment = data.get(20..22).is_some_and(|f| f[0] & 0x3f != 0 || f[1] != 0);
                return self.unread(network, client, unreadable(fragment));
            };
            let Some(nic) = v4::client(d.payload).and_then(|mac| self.nic(network, MacAddr(mac))) else { return };
            let role = read(&nic.role).clone();
            match v4::rewrite(d.payload, &role) {
                Ok(answer) => {
                    let from = End { mac: d.source_mac, address: d.source, port: d.source_port };
                    let all = data[0] & 1 != 0;
                    self.answer4(&nic, &role, answer, from, (all, d.destination));
                }
                Err(why) => self.drop_it(&nic, why),
            }
            return;
        }
        let Some(p) = frame6::parse(data, pending) else {
            return self.unread(network, data.first_chunk().copied(), unreadable(data.get(20) == Some(&FRAGMENT)));
        };
        match p.udp() {
            Some(d) if d.destination_port == crate::v6::CLIENT_PORT => {
                let Some(nic) = self.nic(network, p.destination_mac) else { return };
                self.answer6(&nic, &p, d.source_port, d.payload);
            }
            Some(_) => {}
            // RFC 4861 section 6.1.2: from this link, from a link-local address.
            None if p.payload[0] == ADVERTISEMENT && p.hop_limit == 255 && p.source.is_unicast_link_local() => {
                self.advertisement(network, &p);
            }
            None => {}
        }
    }

    fn answer4(&self, nic: &Nic, role: &Role, answer: Answer, from: End, (all, to): (bool, Ipv4Addr)) {
        let broadcast = End { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST, port: CLIENT_PORT };
        let mut news = false;
        let (payload, to) = {
            let mut view = lock(&nic.view);
            let rest = (answer.routes.clone(), answer.mtu);
            let differs = |t: &Told| t.router != answer.router || t.rest.as_ref().is_some_and(|r| *r != rest);
            match answer.kind {
                // Most clients do not take back at a renewal what they were told before.
                Kind::Acknowledge if answer.renewal && view.told.as_ref().is_some_and(differs) => {
                    view.starts_afresh = true;
                    view.refused += 1;
                    news = true;
                    (v4::refusal(&answer), broadcast)
                }
                kind => {
                    if kind == Kind::Acknowledge
                        && let Some(seconds) = answer.seconds
                    {
                        view.told = Some(Told { router: answer.router, rest: Some(rest) });
                        view.starts_afresh = false;
                        view.offered = answer.offered;
                        view.acknowledged = Some((SystemTime::now(), seconds));
                        let server = IpAddr::V4(answer.server.unwrap_or(from.address));
                        let after = |seconds: u32| SystemTime::now().checked_add(Duration::from_secs(seconds.into()));
                        let given = Given {
                            address: IpAddr::V4(answer.address),
                            prefix: answer.prefix,
                            until: after(seconds),
                            held: after(answer.held.unwrap_or(seconds)),
                            server,
                        };
                        let before = view.passage();
                        view.take(given);
                        if view.passage() != before {
                            (self.open)(&nic.name, &view.passage());
                        }
                        news = true;
                    }
                    if kind == Kind::Refuse {
                        (view.told, view.starts_afresh) = (None, false);
                    }
                    let mac = if all { broadcast.mac } else { role.mac };
                    (answer.payload, End { mac, address: to, port: CLIENT_PORT })
                }
            }
        };
        if let Some(frame) = frame::build_udp(from, to, &payload) {
            self.send(nic, &frame);
        }
        if news {
            self.tell(&nic.name);
        }
    }

    fn answer6(&self, nic: &Nic, p: &Packet<'_>, source_port: u16, payload: &[u8]) {
        let role = read(&nic.role).clone();
        let answer = match v6::rewrite(payload, &role) {
            Ok(a) => a,
            Err(why) => return self.drop_it(nic, why),
        };
        if !answer.given.is_empty() {
            let mut view = lock(&nic.view);
            let before = addresses(&view);
            for (a, valid) in &answer.given {
                view.given.retain(|g| g.address != IpAddr::V6(*a));
                if *valid > 0 {
                    // RFC 8415 section 7.7: all ones are for ever.
                    let seconds = (*valid != u32::MAX).then(|| Duration::from_secs((*valid).into()));
                    let until = seconds.and_then(|s| SystemTime::now().checked_add(s));
                    let server = IpAddr::V6(p.source);
                    let given = Given { address: IpAddr::V6(*a), prefix: None, until, held: until, server };
                    view.given.push(given);
                }
            }
            let after = addresses(&view);
            if after != before {
                (self.open)(&nic.name, &view.passage());
            }
            drop(view);
            self.tell(&nic.name);
        }
        let from = frame6::End { mac: p.source_mac, address: p.source };
        let to = frame6::End { mac: role.mac, address: p.destination };
        if let Some(frame) = frame6::build_udp(from, to, (source_port, crate::v6::CLIENT_PORT), &answer.payload) {
            self.send(nic, &frame);
        }
    }

    fn advertisement(&self, network: &str, p: &Packet<'_>) {
        let nics: Vec<Arc<Nic>> = {
            let mut networks = write(&self.networks);
            let Some(n) = networks.get_mut(network) else { return };
            if n.routers.contains_key(&p.source) || n.routers.len() < MOST_ROUTERS {
                n.routers.insert(p.source, Router { mac: p.source_mac, message: p.payload.to_vec() });
            }
            if p.destination.is_multicast() {
                n.nics.values().cloned().collect()
            } else {
                n.nics.get(&p.destination_mac).cloned().into_iter().collect()
            }
        };
        let from = frame6::End { mac: p.source_mac, address: p.source };
        for nic in nics {
            let to = if p.destination.is_multicast() {
                frame6::End::ALL_NODES
            } else {
                frame6::End { mac: p.destination_mac, address: p.destination }
            };
            self.advertise(&nic, from, to, p.payload);
        }
    }

    fn advertise(&self, nic: &Nic, from: frame6::End, to: frame6::End, message: &[u8]) {
        let role = read(&nic.role).clone();
        match ra::rewrite(message, &role) {
            Ok(a) => {
                let news = {
                    let mut view = lock(&nic.view);
                    let before = view.autonomous.len();
                    for prefix in a.autonomous {
                        if !view.autonomous.contains(&prefix) && view.autonomous.len() < MOST_FORMED {
                            view.autonomous.push(prefix);
                        }
                    }
                    view.autonomous.len() != before
                };
                if let Some(frame) = frame6::build_icmp(from, to, &a.message) {
                    self.send(nic, &frame);
                }
                if news {
                    self.tell(&nic.name);
                }
            }
            Err(why) => self.drop_it(nic, why),
        }
    }

    /// Tells a NIC again what routers said last, after its role changed.
    fn repeat_routers(&self, nic: &Nic) {
        let said: Vec<(frame6::End, Vec<u8>)> = {
            let networks = read(&self.networks);
            let routers = networks.get(&nic.network).into_iter().flat_map(|n| &n.routers);
            routers.map(|(a, r)| (frame6::End { mac: r.mac, address: *a }, r.message.clone())).collect()
        };
        for (from, message) in said {
            self.advertise(nic, from, frame6::End::ALL_NODES, &message);
        }
    }
}

/// Hears servers and routers of a network on one device.
async fn hear(shared: Arc<Shared>, network: Arc<str>, socket: PacketSocket) {
    let shared = &shared;
    each_frame(socket, &network, |data, pending| shared.frame(&network, data, pending)).await;
}

/// Sees which addresses a guest forms.
async fn see(shared: Arc<Shared>, nic: Arc<Nic>, socket: PacketSocket) {
    let (shared, nic) = (&shared, &nic);
    each_frame(socket, &nic.name, |data, pending| {
        let Some(p) = frame6::parse(data, pending).filter(|p| p.source_mac == read(&nic.role).mac) else { return };
        let Some(a) = forms(&p) else { return };
        let mut view = lock(&nic.view);
        if !view.formed.contains(&a) {
            if view.formed.len() >= MOST_FORMED {
                view.formed.remove(0);
            }
            view.formed.push(a);
            drop(view);
            shared.tell(&nic.name);
        }
    })
    .await;
}

async fn each_frame(socket: PacketSocket, what: &str, mut take: impl FnMut(&[u8], bool)) {
    let socket = match watch(socket) {
        Ok(s) => s,
        Err(e) => return tracing::error!(what, "cannot wait for frames: {e}"),
    };
    let mut batch = FrameBatch::new(BATCH, FRAME);
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        match ready.try_io(|s| s.get_ref().receive(&mut batch)) {
            Err(_would_block) => continue,
            Ok(Ok(_)) => {}
            Ok(Err(e)) if e.raw_os_error() == Some(ENETDOWN) => continue,
            // The device is gone; the agent listens anew where there is another.
            Ok(Err(e)) => return tracing::debug!(what, "listens no more: {e}"),
        }
        for f in batch.iter().filter(|f| f.vlan.is_none()) {
            take(f.data, f.checksum_pending);
        }
    }
}
