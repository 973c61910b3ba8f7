//! The sockets around the endpoints: one packet socket per port. An endpoint is there only while somebody talks to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use multihome_guest::Guest;
use multihome_guest::metadata::{Response, respond};
use multihome_model::MacAddr;
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::endpoint::Endpoint;
use crate::frame::{Heard, hear, wrap};
use crate::http::Request;

/// The largest frame that is read, in bytes: more than an endpoint's window lets a guest send at once.
const FRAME: usize = 8192;
/// How many frames are read at once.
const BATCH: usize = 8;
/// `ENETDOWN` (asm-generic/errno.h): reported once after the device went down; it may come up again.
const ENETDOWN: i32 = 100;

/// Who asks on a port, and what there is to tell.
#[derive(Debug, Clone)]
pub struct Told {
    /// The guest.
    pub guest: Arc<Guest>,
    /// The NIC's name in the guest's plan.
    pub nic: String,
    /// The NIC's MAC.
    pub mac: MacAddr,
    /// The MAC that the service has on this network.
    pub server_mac: MacAddr,
}

#[derive(Debug)]
struct Port {
    ifindex: u32,
    told: Arc<RwLock<Arc<Told>>>,
    task: JoinHandle<()>,
}

/// The metadata service of one node.
#[derive(Debug, Default)]
pub struct Service {
    ports: Mutex<HashMap<String, Port>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ports().values().for_each(|p| p.task.abort());
    }
}

impl Service {
    /// A service that answers nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<String, Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a NIC is told from now on, by its port. Connections go on over a change.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn put(&self, nic: &str, ifindex: u32, told: Told) -> Result<(), multihome_netlink::Error> {
        let mut ports = self.ports();
        if let Some(port) = ports.get(nic).filter(|p| p.ifindex == ifindex && !p.task.is_finished()) {
            *port.told.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(told);
            return Ok(());
        }
        let socket = PacketSocket::open(ifindex, &filter::metadata())?;
        let told = Arc::new(RwLock::new(Arc::new(told)));
        let task = tokio::spawn(serve(nic.to_owned(), told.clone(), socket));
        if let Some(old) = ports.insert(nic.to_owned(), Port { ifindex, told, task }) {
            old.task.abort();
        }
        Ok(())
    }

    /// Stops answering on a NIC's port.
    pub fn remove(&self, nic: &str) {
        if let Some(port) = self.ports().remove(nic) {
            port.task.abort();
        }
    }
}

fn answer(told: &Told, request: &Request<'_>) -> Response {
    respond(&told.guest, &told.nic, request.method, request.path, &request.headers)
}

/// Sequence numbers that a guest cannot guess from another port's.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

async fn serve(nic: String, told: Arc<RwLock<Arc<Told>>>, socket: PacketSocket) {
    let socket = match watch(socket) {
        Ok(s) => s,
        Err(e) => return tracing::error!(%nic, "cannot wait for requests: {e}"),
    };
    let began = Instant::now();
    let mut batch = FrameBatch::new(BATCH, FRAME);
    let mut endpoint: Option<Endpoint> = None;
    loop {
        let wait = endpoint.as_mut().map_or(Duration::MAX, |e| e.wait(began.elapsed()));
        let ready = tokio::select! {
            ready = socket.readable() => Some(ready),
            () = tokio::time::sleep(wait), if endpoint.is_some() => None,
        };
        let now = { told.read().unwrap_or_else(PoisonError::into_inner).clone() };
        match ready {
            None => {}
            Some(Err(_)) => return,
            Some(Ok(mut ready)) => match ready.try_io(|s| s.get_ref().receive(&mut batch)) {
                Err(_would_block) => continue,
                Ok(Err(e)) if e.raw_os_error() == Some(ENETDOWN) => continue,
                // The device is gone; the agent opens the port anew where there is another.
                Ok(Err(e)) => return tracing::debug!(%nic, "port closed: {e}"),
                Ok(Ok(_)) => take(&batch, &now, socket.get_ref(), &mut endpoint, began.elapsed()),
            },
        }
        let Some(e) = &mut endpoint else { continue };
        for packet in e.poll(began.elapsed(), &|r| answer(&now, r)) {
            send(socket.get_ref(), &wrap(&packet, now.mac, now.server_mac));
        }
        if e.is_idle() {
            endpoint = None;
        }
    }
}

/// Answers for neighbours at once, and hands packets to the endpoint.
fn take(batch: &FrameBatch, told: &Told, socket: &PacketSocket, endpoint: &mut Option<Endpoint>, now: Duration) {
    for f in batch.iter() {
        match hear(f.data, told.mac, told.server_mac) {
            Heard::Neighbour(reply) => send(socket, &reply),
            Heard::Packet(p) => endpoint.get_or_insert_with(|| Endpoint::new(seed(), now)).receive(p),
            Heard::Nothing => {}
        }
    }
}

/// What is not sent the guest asks for again.
fn send(socket: &PacketSocket, frame: &[u8]) {
    if let Err(e) = socket.send(frame) {
        tracing::debug!("answer not sent: {e}");
    }
}

/// Waits for a socket that owns its descriptor for as long as it lives, which is what `AsyncFd` relies on.
#[expect(deprecated, reason = "the replacement is unsafe, and a packet socket keeps its descriptor")]
fn watch(socket: PacketSocket) -> std::io::Result<AsyncFd<PacketSocket>> {
    AsyncFd::new(socket)
}
