//! How much later an answer arrives that goes through the guard: the same frames over two cables, one with the guard
//! between its halves, the other a bridge of the kernel. Needs root; prints microseconds.
//!
//!   guard_latency [ANSWERS]

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multihome_dhcp::frame::{self, End};
use multihome_dhcp::guard::Role;
use multihome_dhcp::guard::server::Guard;
use multihome_model::{MacAddr, Mtu};
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use multihome_netlink::{LinkChange, LinkKind, Netns, NewLink, Rtnl, VethPeer};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const SERVER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

/// A veth pair; the index of the node's end, and a socket on the other.
fn cable(rtnl: &mut Rtnl, near: &str, far: &str) -> Result<(u32, PacketSocket)> {
    let up = || LinkChange { up: Some(true), ..LinkChange::default() };
    let peer = VethPeer { name: far, netns: None, mac: None, mtu: None };
    let index = rtnl.create(&NewLink { name: near, kind: LinkKind::Veth { peer }, change: up() })?;
    rtnl.change_named(far, &up())?;
    Ok((index, PacketSocket::open(rtnl.index(far)?, &filter::dhcp4_replies())?))
}

/// An acknowledgement with a router and a route, as servers send them.
fn answer(xid: u32) -> Option<Vec<u8>> {
    let mut p = vec![0; 240];
    p[..4].copy_from_slice(&[2, 1, 6, 0]);
    p[4..8].copy_from_slice(&xid.to_be_bytes());
    p[16..20].copy_from_slice(&[10, 77, 0, 9]);
    p[28..34].copy_from_slice(&GUEST.0);
    p[236..240].copy_from_slice(&[99, 130, 83, 99]);
    for option in [
        &[53, 1, 2][..],
        &[54, 4, 10, 77, 0, 1],
        &[51, 4, 0, 0, 14, 16],
        &[1, 4, 255, 255, 255, 0],
        &[3, 4, 10, 77, 0, 1],
        &[6, 4, 10, 77, 0, 53],
        &[121, 8, 24, 10, 50, 0, 10, 77, 0, 1],
        &[255],
    ] {
        p.extend_from_slice(option);
    }
    p.resize(300, 0);
    let from = End { mac: SERVER, address: Ipv4Addr::new(10, 77, 0, 1), port: 67 };
    frame::build_udp(from, End { mac: GUEST, address: Ipv4Addr::new(10, 77, 0, 9), port: 68 }, &p)
}

/// The time of each answer from one end to the other, in µs, ascending.
fn measure(from: &PacketSocket, to: &PacketSocket, count: u32) -> Result<Vec<f64>> {
    let mut batch = FrameBatch::new(4, 2048);
    let mut times = vec![];
    for xid in 0..count {
        let frame = answer(xid).ok_or("a frame that fits")?;
        let begun = Instant::now();
        from.send(&frame)?;
        let arrived = loop {
            if begun.elapsed() > Duration::from_secs(1) {
                return Err(format!("answer {xid} did not arrive").into());
            }
            match to.receive(&mut batch) {
                Ok(_) if batch.iter().any(|f| f.data.get(46..50) == Some(&xid.to_be_bytes()[..])) => {
                    break begun.elapsed();
                }
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => return Err(e.into()),
            }
        };
        times.push(arrived.as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_micros(300));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn run(count: u32) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let (uplink, server) = cable(&mut rtnl, "uplink", "server")?;
    let (tap, guest) = cable(&mut rtnl, "tap", "guest")?;
    let (near, bridge_server) = cable(&mut rtnl, "near", "bserver")?;
    let (far, bridge_guest) = cable(&mut rtnl, "far", "bguest")?;
    let kind = LinkKind::Bridge { ageing: 30_000, vlan_filtering: false };
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let bridge = rtnl.create(&NewLink { name: "bridge", kind, change: up })?;
    for port in [near, far] {
        rtnl.change(port, &LinkChange { master: Some(bridge), ..LinkChange::default() })?;
    }
    let guard = Guard::new(Arc::new(|_, _| {}));
    let mtu = Mtu::ETHERNET;
    let role = Role { mac: GUEST, default4: false, default6: false, dns4: false, dns6: false, mtu, longest: 3600 };
    guard.put_nic("nic", "net", role, None);
    guard.put_tap("nic", tap)?;
    guard.put_ear("net", uplink)?;
    measure(&server, &guest, count / 10 + 1)?;
    let guarded = measure(&server, &guest, count)?;
    let plain = measure(&bridge_server, &bridge_guest, count)?;
    let at = |t: &[f64], share: f64| t[((t.len() - 1) as f64 * share) as usize];
    println!(
        "guarded {:.1} {:.1} plain {:.1} {:.1}",
        at(&guarded, 0.5),
        at(&guarded, 0.99),
        at(&plain, 0.5),
        at(&plain, 0.99)
    );
    Ok(())
}

fn main() -> Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(2000), |a| a.parse())?;
    let netns = Netns::anonymous()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    netns.run(|| {
        let _inside = runtime.enter();
        run(count)
    })?
}
