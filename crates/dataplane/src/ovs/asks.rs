//! Whom a NIC asks a DHCP server of others for: itself alone. The switch asks here about each request, which its flows cannot read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use multihome_model::IfName;
use multihome_ovsdb::openflow::{Closer, Paused};

/// How long a bridge that hung up, or is not there yet, is let alone.
const PAUSE: Duration = Duration::from_millis(500);

/// What a thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    closer: Option<Closer>,
    ended: bool,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers for one bridge, in a thread of its own, until it is dropped.
#[derive(Debug)]
struct Listener {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.ended = true;
        if let Some(closer) = shared.closer.take() {
            closer.close();
        }
        drop(shared);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics for no reason that anybody could mend.
            let _ = thread.join();
        }
    }
}

/// Those who answer, by bridge.
#[derive(Debug)]
pub(super) struct Listeners {
    directory: PathBuf,
    timeout: Duration,
    all: BTreeMap<IfName, Listener>,
}

impl Listeners {
    pub(super) fn new(directory: &Path, timeout: Duration) -> Self {
        Self { directory: directory.to_owned(), timeout, all: BTreeMap::new() }
    }

    /// Answers for these bridges and no others.
    pub(super) fn set(&mut self, bridges: &BTreeSet<IfName>) {
        self.all.retain(|name, _| bridges.contains(name));
        for name in bridges {
            if !self.all.contains_key(name) {
                let (directory, bridge, timeout) = (self.directory.clone(), name.clone(), self.timeout);
                let shared = Arc::new(Mutex::new(Shared::default()));
                let its = shared.clone();
                let run = move || listen(&directory, &bridge, timeout, &its);
                match std::thread::Builder::new().name(format!("dhcp {name}")).spawn(run) {
                    Ok(thread) => drop(self.all.insert(name.clone(), Listener { shared, thread: Some(thread) })),
                    Err(error) => {
                        tracing::warn!(bridge = %name, %error, "nobody answers for what its NICs ask DHCP servers")
                    }
                }
            }
        }
    }
}

fn listen(directory: &Path, bridge: &IfName, timeout: Duration, shared: &Mutex<Shared>) {
    loop {
        let ended = Paused::connect(directory, bridge.as_str(), timeout).and_then(|mut paused| {
            {
                let mut shared = lock(shared);
                if shared.ended {
                    return Ok(());
                }
                shared.closer = Some(paused.closer()?);
            }
            loop {
                let held = paused.wait()?;
                if asks_for(&held.frame, &held.said) {
                    paused.resume(&held)?;
                }
            }
        });
        if lock(shared).ended {
            return;
        }
        if let Err(error) = ended {
            tracing::debug!(%bridge, %error, "asks about nothing now");
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Whether a DHCPv4 request in an Ethernet frame is for this hardware address: `chaddr` says so (RFC 2131 section 2).
fn asks_for(frame: &[u8], mac: &[u8]) -> bool {
    const ETHERNET: usize = 14;
    const UDP: usize = 8;
    const CHADDR: usize = 28;
    let Some(head) = frame.get(ETHERNET) else { return false };
    let at = ETHERNET + usize::from(head & 15) * 4 + UDP + CHADDR;
    !mac.is_empty() && frame.get(at..at + mac.len()) == Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_whom_it_says() {
        let mac = [2, 0, 0, 0, 0, 7];
        let request = |options: usize| {
            let mut frame = vec![0; 14 + 20 + options + 8 + 28];
            frame[14] = 0x45 + (options / 4) as u8;
            frame.extend(mac);
            frame
        };
        assert!(asks_for(&request(0), &mac) && asks_for(&request(8), &mac));
        assert!(!asks_for(&request(0), &[2, 0, 0, 0, 0, 8]) && !asks_for(&request(0), &[]));
        let short = request(0);
        assert!((0..short.len()).all(|n| !asks_for(&short[..n], &mac)));
    }
}
