//! The sockets by which gateways are asked from the node's own network: one raw ICMP socket per address family.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use multihome_netlink::IcmpSocket;
use tokio::task::JoinHandle;

use crate::icmp::{Reply, request};
use crate::routed::EchoRequest;
use crate::service::wait_for;

/// Room for an answer, in bytes: the largest IPv4 header, and our request's length with some to spare.
const ROOM: usize = 128;
/// How long nothing is read after an error that nobody expects, so that one that stays costs nothing.
const REST: Duration = Duration::from_secs(1);

/// The sockets of one node. They are opened when they are needed first.
pub(crate) struct OwnNetwork {
    /// Random, so that answers to other programs, and to other nodes behind one address, are told from ours.
    identifier: u16,
    sockets: OnceLock<[Option<Ear>; 2]>,
}

struct Ear {
    socket: Arc<IcmpSocket>,
    ear: JoinHandle<()>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.ear.abort();
    }
}

impl Default for OwnNetwork {
    fn default() -> Self {
        Self { identifier: RandomState::new().hash_one(0) as u16, sockets: OnceLock::new() }
    }
}

impl OwnNetwork {
    /// Which families can be asked, IPv4 first. The first call opens the sockets in the calling thread's namespace; it is to be
    /// made inside a runtime. `heard` takes each answer: from whom, and its sequence number.
    pub(crate) fn families(&self, heard: impl Fn(IpAddr, u16) + Clone + Send + 'static) -> [bool; 2] {
        let open = |ipv6: bool| match IcmpSocket::open(ipv6) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let ear = tokio::spawn(hear(socket.clone(), ipv6, self.identifier, heard.clone()));
                Some(Ear { socket, ear })
            }
            Err(e) => {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                tracing::warn!("whether management is routed to {family} gateways is not found out: {e}{cause}");
                None
            }
        };
        self.sockets.get_or_init(|| [open(false), open(true)]).each_ref().map(Option::is_some)
    }

    /// Sends an echo request. One that finds no route is as good as lost on its way.
    pub(crate) fn send(&self, network: &str, echo: EchoRequest) {
        let ipv6 = echo.to.is_ipv6();
        let of_family = |all: &[Option<Ear>; 2]| all[usize::from(ipv6)].as_ref().map(|e| e.socket.clone());
        let Some(socket) = self.sockets.get().and_then(of_family) else { return };
        if let Err(error) = socket.send(&request(ipv6, self.identifier, echo.sequence), echo.to) {
            tracing::debug!(network, "{} is not asked from the node's own network: {error}", echo.to);
        }
    }
}

/// Takes what comes in by one socket.
async fn hear(socket: Arc<IcmpSocket>, ipv6: bool, identifier: u16, heard: impl Fn(IpAddr, u16)) {
    let fd = match wait_for(socket) {
        Ok(fd) => fd,
        Err(e) => return tracing::error!("cannot wait for echo replies: {e}"),
    };
    let mut buf = [0; ROOM];
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        match ready.try_io(|s| s.get_ref().receive(&mut buf)) {
            Err(_would_block) => {}
            Ok(Ok((len, from))) => {
                let reply = Reply::parse(&buf[..len], ipv6).filter(|r| r.identifier == identifier);
                if let Some(reply) = reply {
                    heard(from, reply.sequence);
                }
            }
            Ok(Err(e)) => {
                tracing::debug!("an echo reply was not read: {e}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}
