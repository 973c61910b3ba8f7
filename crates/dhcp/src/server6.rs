//! The sockets around the DHCPv6 engine and the router advertisements: one packet socket per port.
//!
//! Each port is a link with one guest on it, so that every guest is told its own share of the route plan: the same
//! router is a default router to one NIC and none to another. The port also shows which addresses a guest forms for
//! itself (duplicate address detection, RFC 4862 section 5.4), which the agent lets pass where nobody else has them
//! (first come, first served; RFC 6620).

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use multihome_model::MacAddr;
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::frame6::{self, End, Packet};
use crate::ra::{self, Advertisement};
use crate::server::{ENETDOWN, jitter, lock, read, watch, write};
use crate::v6::{self, CLIENT_PORT, Fact, Message, Record, SERVER_PORT};

/// The largest frame that a client's message comes in, in bytes.
const FRAME: usize = 2048;
/// How many frames are read at once.
const BATCH: usize = 16;
/// The shortest pause between two advertisements to all nodes (RFC 4861 section 10, MIN_DELAY_BETWEEN_RAS).
const PAUSE: Duration = Duration::from_secs(3);
/// The longest delay of an answer to a solicitation (RFC 4861 section 10: 500 ms). There is one router on a port, so
/// that answers need not be spread as far.
const ANSWER_DELAY: Duration = Duration::from_millis(50);
/// How often news is told, [`PAUSE`] apart, because an advertisement may be lost (RFC 4861 section 6.2.4).
const TELLINGS: u8 = 3;
/// Pause between advertisements when nothing changes, in seconds (RFC 4861 section 6.2.1).
const INTERVAL: (u64, u64) = (200, 600);
/// Addresses that are remembered per port; a guest that forms more has its oldest forgotten.
pub const MOST_FORMED: usize = 16;

/// What a NIC is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// By DHCPv6; `None` where everything comes by router advertisements.
    pub record: Option<Record>,
    /// By router advertisements.
    pub advertisement: Advertisement,
    /// The router's link-local address: the source of advertisements and DHCPv6 answers.
    pub router: Ipv6Addr,
    /// The source MAC of both.
    pub server_mac: MacAddr,
}

/// What is known of one NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The address that DHCPv6 gave last, when, and for how many seconds.
    pub given: Option<(Ipv6Addr, SystemTime, u32)>,
    /// The client's DUID: shown, never an identity.
    pub duid: Vec<u8>,
    /// What DHCPv6 did last.
    pub last: Option<Fact>,
    /// When the guest was last told whether this NIC holds the default route, and that it does.
    pub told: Option<(SystemTime, bool)>,
    /// Addresses that the guest formed, oldest first.
    pub formed: Vec<Ipv6Addr>,
    /// Messages that could not be read or broke the rules.
    pub ignored: u64,
}

#[derive(Debug)]
struct Entry {
    nic: Arc<str>,
    said: RwLock<Arc<Said>>,
    /// What is taken back by the next advertisements, and by how many of them.
    before: Mutex<(Option<Advertisement>, u8)>,
    view: Mutex<View>,
    news: Notify,
}

#[derive(Debug)]
struct Port {
    ifindex: u32,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    changed: Mutex<BTreeSet<Arc<str>>>,
    notify: Notify,
}

impl Shared {
    fn tell(&self, nic: &Arc<str>) {
        if lock(&self.changed).insert(nic.clone()) {
            self.notify.notify_waiters();
        }
    }
}

/// The DHCPv6 server and router advertiser of one node.
#[derive(Debug, Default)]
pub struct Server6 {
    shared: Arc<Shared>,
    entries: RwLock<HashMap<Arc<str>, Arc<Entry>>>,
    ports: Mutex<HashMap<Arc<str>, Port>>,
}

impl Drop for Server6 {
    fn drop(&mut self) {
        lock(&self.ports).values().for_each(|p| p.task.abort());
    }
}

impl Server6 {
    /// A server that speaks to nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what a NIC is told from now on. What it was told and is not any more is taken back at once.
    pub fn put(&self, nic: &str, said: Said) {
        if let Some(entry) = read(&self.entries).get(nic) {
            let old = std::mem::replace(&mut *write(&entry.said), Arc::new(said.clone()));
            if *old != said {
                let mut before = lock(&entry.before);
                // What an earlier change took back may not have been told often enough yet.
                let gone = match &before.0 {
                    Some(earlier) => old.advertisement.taking_back(earlier),
                    None => old.advertisement.clone(),
                };
                *before = (Some(gone), TELLINGS);
                entry.news.notify_one();
            }
            return;
        }
        let name: Arc<str> = nic.into();
        let entry = Arc::new(Entry {
            nic: name.clone(),
            said: RwLock::new(Arc::new(said)),
            before: Mutex::new((None, 0)),
            view: Mutex::default(),
            news: Notify::new(),
        });
        write(&self.entries).insert(name, entry);
    }

    /// Forgets a NIC, and speaks no more on its port.
    pub fn remove(&self, nic: &str) {
        if let Some(port) = lock(&self.ports).remove(nic) {
            port.task.abort();
        }
        write(&self.entries).remove(nic);
    }

    /// Speaks on a NIC's port.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn put_port(&self, nic: &str, ifindex: u32) -> Result<(), multihome_netlink::Error> {
        let Some(entry) = read(&self.entries).get(nic).cloned() else { return Ok(()) };
        let mut ports = lock(&self.ports);
        if ports.get(nic).is_some_and(|p| p.ifindex == ifindex && !p.task.is_finished()) {
            return Ok(());
        }
        let socket = PacketSocket::open(ifindex, &filter::dhcp6_requests_or_solicitations())?;
        let name = entry.nic.clone();
        let task = tokio::spawn(serve(self.shared.clone(), entry, socket));
        if let Some(old) = ports.insert(name, Port { ifindex, task }) {
            old.task.abort();
        }
        Ok(())
    }

    /// What is known of a NIC.
    pub fn view(&self, nic: &str) -> Option<View> {
        read(&self.entries).get(nic).map(|e| lock(&e.view).clone())
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

/// When what is to be sent.
struct Clock {
    /// The next advertisement to all nodes.
    next: Instant,
    /// The last one.
    last: Option<Instant>,
    /// How many more are sent [`PAUSE`] apart.
    tellings: u8,
    /// An answer to a solicitation that is due.
    answer: Option<(Instant, End)>,
}

impl Clock {
    fn deadline(&self) -> Instant {
        self.answer.map_or(self.next, |(at, _)| at.min(self.next))
    }
    fn soon(&mut self) {
        let now = Instant::now();
        self.tellings = TELLINGS;
        self.next = self.last.map_or(now, |l| now.max(l + PAUSE));
    }
    fn sent(&mut self) {
        let now = Instant::now();
        self.last = Some(now);
        self.tellings = self.tellings.saturating_sub(1);
        self.next = if self.tellings > 0 {
            now + PAUSE
        } else {
            now + Duration::from_secs(INTERVAL.0) + jitter(Duration::from_secs(INTERVAL.1 - INTERVAL.0))
        };
    }
}

async fn serve(shared: Arc<Shared>, entry: Arc<Entry>, socket: PacketSocket) {
    let socket = match watch(socket) {
        Ok(s) => s,
        Err(e) => return tracing::error!(nic = %entry.nic, "cannot wait for solicitations: {e}"),
    };
    let mut batch = FrameBatch::new(BATCH, FRAME);
    let mut clock = Clock { next: Instant::now(), last: None, tellings: TELLINGS, answer: None };
    loop {
        tokio::select! {
            () = entry.news.notified() => clock.soon(),
            () = sleep_until(clock.deadline()) => {
                if let Some((_, to)) = clock.answer.take_if(|(at, _)| *at <= Instant::now()) {
                    advertise(&shared, &entry, socket.get_ref(), to);
                }
                if clock.next <= Instant::now() {
                    advertise(&shared, &entry, socket.get_ref(), End::ALL_NODES);
                    clock.sent();
                }
            }
            ready = socket.readable() => {
                let Ok(mut ready) = ready else { return };
                match ready.try_io(|s| s.get_ref().receive(&mut batch)) {
                    Err(_would_block) => continue,
                    Ok(Ok(_)) => {}
                    Ok(Err(e)) if e.raw_os_error() == Some(ENETDOWN) => continue,
                    Ok(Err(e)) => return tracing::debug!(nic = %entry.nic, "port closed: {e}"),
                }
                for f in batch.iter() {
                    if let Some(p) = frame6::parse(f.data, f.checksum_pending) {
                        hear(&shared, &entry, socket.get_ref(), &p, &mut clock);
                    }
                }
            }
        }
    }
}

/// One packet of the guest.
fn hear(shared: &Shared, entry: &Entry, socket: &PacketSocket, p: &Packet<'_>, clock: &mut Clock) {
    let said = read(&entry.said).clone();
    if p.source_mac != said.advertisement.mac {
        return;
    }
    if let Some(a) = forms(p)
        && remember(entry, a)
    {
        shared.tell(&entry.nic);
    }
    if p.protocol == frame6::ICMP {
        // RFC 4861 section 6.1.1: from this link, of code 0, whole.
        if p.payload[0] == ra::SOLICITATION && p.hop_limit == 255 && p.payload[1] == 0 && p.payload.len() >= 8 {
            let at = Instant::now() + jitter(ANSWER_DELAY);
            let to = End { mac: p.source_mac, address: p.source };
            // Whoever has no address yet is answered by an advertisement to all, of which there are not many.
            let all = clock.last.is_none_or(|l| l + PAUSE <= at);
            match (p.source.is_unspecified(), all) {
                (false, _) => clock.answer = Some((at, to)),
                (true, true) => clock.answer = Some((at, End::ALL_NODES)),
                (true, false) => clock.next = clock.next.min(clock.last.unwrap_or(at) + PAUSE),
            }
        }
        return;
    }
    let Some(d) = p.udp().filter(|d| d.destination_port == SERVER_PORT && d.source_port == CLIENT_PORT) else { return };
    let Some(record) = &said.record else { return };
    let message = match Message::parse(d.payload) {
        Ok(m) => m,
        Err(e) => {
            lock(&entry.view).ignored += 1;
            return tracing::debug!(nic = %entry.nic, "dropped: {e}");
        }
    };
    let outcome = v6::handle(record, &message);
    {
        let mut view = lock(&entry.view);
        view.last = Some(outcome.fact);
        match outcome.fact {
            Fact::Given(a) => {
                view.given = Some((a, SystemTime::now(), record.lease_seconds()));
                view.duid = message.client_id.unwrap_or_default().to_vec();
            }
            Fact::Released | Fact::Declined => view.given = None,
            Fact::Ignored(why) => {
                view.ignored += 1;
                tracing::debug!(nic = %entry.nic, "ignored: {why}");
            }
            _ => {}
        }
    }
    if matches!(outcome.fact, Fact::Given(_) | Fact::Released | Fact::Declined) {
        shared.tell(&entry.nic);
    }
    let from = End { mac: said.server_mac, address: said.router };
    let to = End { mac: p.source_mac, address: p.source };
    if let Some(reply) = outcome.reply
        && let Some(frame) = frame6::build_udp(from, to, (SERVER_PORT, CLIENT_PORT), &reply)
        && let Err(e) = socket.send(&frame)
    {
        tracing::debug!(nic = %entry.nic, "answer not sent: {e}");
    }
}

/// The address that a packet shows the guest to have formed: the target of duplicate address detection, or the
/// link-local source of a solicitation.
pub(crate) fn forms(p: &Packet<'_>) -> Option<Ipv6Addr> {
    const NEIGHBOR_SOLICITATION: u8 = 135;
    if p.source.is_unicast_link_local() {
        return Some(p.source);
    }
    let probe = p.protocol == frame6::ICMP
        && p.payload[0] == NEIGHBOR_SOLICITATION
        && p.source.is_unspecified()
        && p.hop_limit == 255;
    let target: [u8; 16] = p.payload.get(8..24).filter(|_| probe)?.try_into().ok()?;
    let target = Ipv6Addr::from(target);
    (!target.is_multicast() && !target.is_unspecified()).then_some(target)
}

/// Whether an address is new for the port.
fn remember(entry: &Entry, a: Ipv6Addr) -> bool {
    let mut view = lock(&entry.view);
    if view.formed.contains(&a) {
        return false;
    }
    if view.formed.len() >= MOST_FORMED {
        view.formed.remove(0);
    }
    view.formed.push(a);
    true
}

fn advertise(shared: &Shared, entry: &Entry, socket: &PacketSocket, to: End) {
    let said = read(&entry.said).clone();
    let message = {
        let mut before = lock(&entry.before);
        match &before.0 {
            Some(old) => {
                let text = said.advertisement.taking_back(old);
                // Told often enough to everybody: then it is forgotten.
                if to == End::ALL_NODES {
                    before.1 = before.1.saturating_sub(1);
                    if before.1 == 0 {
                        before.0 = None;
                    }
                }
                text
            }
            None => said.advertisement.clone(),
        }
    };
    let from = End { mac: said.server_mac, address: said.router };
    let Some(frame) = frame6::build_icmp(from, to, &message.encode()) else { return };
    if let Err(e) = socket.send(&frame) {
        return tracing::debug!(nic = %entry.nic, "advertisement not sent: {e}");
    }
    let default = said.advertisement.router_lifetime > 0;
    let mut view = lock(&entry.view);
    let news = view.told.is_none_or(|(_, d)| d != default);
    view.told = Some((SystemTime::now(), default));
    drop(view);
    if news {
        shared.tell(&entry.nic);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ra::Route;

    #[test]
    fn two_changes_in_a_row_take_back_what_both_took_away() {
        let said = |routes: &[&str], router_lifetime: u16| Said {
            record: None,
            advertisement: Advertisement {
                mac: MacAddr([2, 0, 0, 0, 0, 5]),
                managed: false,
                other: false,
                router_lifetime,
                source: None,
                mtu: 1500,
                prefixes: vec![],
                routes: routes.iter().map(|to| Route { to: to.parse().unwrap(), lifetime: 1800 }).collect(),
                dns: vec![],
                domains: vec![],
            },
            router: "fe80::1".parse().unwrap(),
            server_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        };
        let server = Server6::new();
        server.put("a", said(&["fd01::/32", "fd02::/32", "fd03::/32"], 1800));
        server.put("a", said(&["fd02::/32", "fd03::/32"], 1800));
        server.put("a", said(&["fd03::/32"], 1800));
        let last = said(&["fd01::/32"], 0);
        server.put("a", last.clone());
        let entry = read(&server.entries).get("a").cloned().unwrap();
        let before = lock(&entry.before).0.clone().unwrap();
        let told = last.advertisement.taking_back(&before);
        let mut gone: Vec<String> = told.routes.iter().filter(|r| r.lifetime == 0).map(|r| r.to.to_string()).collect();
        gone.sort();
        assert_eq!(gone, ["fd02::/32", "fd03::/32"]);
        assert!(told.routes.contains(&Route { to: "fd01::/32".parse().unwrap(), lifetime: 1800 }));
    }
}
