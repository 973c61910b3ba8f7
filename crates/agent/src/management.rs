//! Whether this node can still be managed: its API answers, or where the API is on the node itself, its gateway does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kube::Client;
use multihome_netlink::{Rtnl, TABLE_MAIN};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much is sent with a question, in bytes: more than any packet holds, so that a way that loses large ones is noticed.
const PADDING: usize = 12_000;
/// How long the kernel takes to find a neighbour silent: three questions, a second apart, and one more.
const ROUNDS: u32 = 40;
const ROUND: Duration = Duration::from_millis(100);

/// How it is told.
#[derive(Clone)]
pub(crate) struct Management {
    /// The API is on another machine.
    pub(crate) remote: bool,
    pub(crate) client: Client,
}

impl Management {
    /// Whether the node can be managed now; `None` where there is nothing to tell it by.
    pub(crate) async fn works(&self) -> Option<bool> {
        if self.remote { Some(api_answers(&self.client).await) } else { gateway_answers().await }
    }
}

async fn api_answers(client: &Client) -> bool {
    let padding = "x".repeat(PADDING);
    let Ok(request) = http::Request::get("/version").header("x-multihome-padding", padding).body(vec![]) else {
        return false;
    };
    // Whatever is said in return, it came back.
    let asked = client.request_text(request);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(_) | Err(kube::Error::Api(_))) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The gateway of the default route in force, and the device that it is reached by.
fn gateway(rtnl: &mut Rtnl) -> Option<(u32, IpAddr)> {
    let routes = rtnl.routes().ok()?;
    let defaults = routes.into_iter().filter(|r| r.prefix == 0 && r.table == TABLE_MAIN && r.oif != 0);
    let best = defaults.filter(|r| r.gateway.is_some()).min_by_key(|r| (r.destination.is_ipv6(), r.metric))?;
    Some((best.oif, best.gateway?))
}

/// The kernel's own word on a neighbour (linux/neighbour.h): reachable, failed, or neither yet.
fn verdict(rtnl: &mut Rtnl, index: u32, ip: IpAddr) -> Option<bool> {
    const REACHABLE: u16 = 2;
    const FAILED: u16 = 0x20;
    let all = rtnl.neighbour_infos().ok()?;
    let state = all.into_iter().find(|n| n.index == index && n.ip == ip)?.state;
    match state {
        s if s & REACHABLE != 0 => Some(true),
        s if s & FAILED != 0 => Some(false),
        _ => None,
    }
}

async fn gateway_answers() -> Option<bool> {
    let mut rtnl = Rtnl::open().ok()?;
    let (index, ip) = gateway(&mut rtnl)?;
    if rtnl.neighbour_ask(index, ip).is_err() || verdict(&mut rtnl, index, ip) == Some(false) {
        // One that the kernel does not know is asked for by sending it something: to the discard port (RFC 863).
        let any: SocketAddr = if ip.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = std::net::UdpSocket::bind(any).ok()?;
        let _ = socket.send_to(&[], (ip, 9));
    }
    for _ in 0..ROUNDS {
        tokio::time::sleep(ROUND).await;
        if let Some(answers) = verdict(&mut rtnl, index, ip) {
            return Some(answers);
        }
    }
    Some(false)
}
