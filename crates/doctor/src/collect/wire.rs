//! Asks gateways whether they are there, looks for other holders of this machine's addresses, and for
//! the largest packet that reaches the gateway. All NICs at once, within two seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};

use super::frames::{self, Heard, Mac};
use super::kernel::{Indexes, mac};
use crate::machine::{Family, MachineObservation, PathMtu, Probe, is_global};

/// How often a question is repeated, and how long its answers are waited for.
const TRIES: u32 = 3;
const SPACING: Duration = Duration::from_millis(300);
/// Sizes of IP packets in bytes that paths are made for: tunnels, PPPoE, Ethernet, jumbo frames.
const SIZES: [u16; 13] = [576, 1280, 1380, 1400, 1420, 1430, 1442, 1450, 1480, 1492, 1500, 4000, 9000];

/// What one NIC is asked.
#[derive(Debug, Clone)]
struct Job {
    link: String,
    index: u32,
    mac: Mac,
    mtu: u32,
    gateways: Vec<IpAddr>,
    own: Vec<(Ipv4Addr, ipnet::IpNet)>,
    link_local: Option<Ipv6Addr>,
}

/// Probes every uplink; that it may not is a note.
pub(super) fn look(_indexes: &Indexes, o: &mut MachineObservation) {
    let jobs: Vec<Job> = o.uplinks().iter().filter_map(|l| job(o, &l.name)).collect();
    let own: Vec<String> = o.links.iter().filter_map(|l| l.mac.clone()).collect();
    let results: Vec<Result<Probe, String>> = std::thread::scope(|s| {
        let running: Vec<_> = jobs.iter().map(|j| s.spawn(|| run(j, &own))).collect();
        running.into_iter().map(|r| r.join().unwrap_or_else(|_| Err("the prober ended early".into()))).collect()
    });
    for (job, result) in jobs.iter().zip(results) {
        match result {
            Ok(p) => o.probes.push(p),
            Err(e) if e.contains("not permitted") => {
                o.notes.push("not asked: gateways, doubled addresses and path MTU (packet sockets need root)".into());
                return;
            }
            Err(e) => o.notes.push(format!("{} could not be probed: {e}", job.link)),
        }
    }
}

/// Probes one link for its gateways.
///
/// # Errors
/// When the link has no carrier or address, or packet sockets are not permitted.
pub fn probe(o: &MachineObservation, link: &str) -> Result<Probe, String> {
    let own: Vec<String> = o.links.iter().filter_map(|l| l.mac.clone()).collect();
    run(&job(o, link).ok_or_else(|| format!("{link} is down or has nothing to ask for"))?, &own)
}

/// Whether any gateway of the default routes in force answers; none if there is none that could.
pub fn answers(o: &MachineObservation) -> Option<bool> {
    let mut asked = None;
    for family in Family::ALL {
        let Some(route) = o.default_in_force(family) else { continue };
        let (Some(dev), Some(via)) = (&route.dev, route.via) else { continue };
        let Some(mut j) = job(o, dev) else { continue };
        j.gateways = vec![via];
        j.own.retain(|(_, net)| net.contains(&via));
        j.mtu = 0;
        if let Ok(p) = run(&j, &[]) {
            let heard = p.gateways.iter().any(|(_, m)| m.is_some());
            asked = Some(asked.unwrap_or(false) || heard);
        }
    }
    asked
}

fn job(o: &MachineObservation, link: &str) -> Option<Job> {
    let l = o.link(link).filter(|l| l.up && l.carrier)?;
    let bytes: Vec<u8> = l.mac.as_ref()?.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    let mut gateways: Vec<IpAddr> = Family::ALL.iter().filter_map(|f| Some(o.gateway(link, *f)?.0)).collect();
    for r in o.routes.iter().filter(|r| r.dev.as_deref() == Some(link) && r.to.prefix_len() == 0) {
        gateways.extend(r.via.filter(|v| !gateways.contains(v)));
    }
    let own = o.addresses_of(link).filter(|a| is_global(a)).filter_map(|a| match a.net.addr() {
        IpAddr::V4(v4) => Some((v4, a.net)),
        IpAddr::V6(_) => None,
    });
    let link_local = o.addresses_of(link).find_map(|a| match a.net.addr() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() && !a.tentative => Some(v6),
        _ => None,
    });
    // Neighbour solicitations need an address of the link to come from.
    gateways.retain(|g| g.is_ipv4() || link_local.is_some());
    let job = Job {
        link: link.into(),
        index: l.index,
        mac: bytes.try_into().ok()?,
        mtu: l.mtu,
        own: own.collect(),
        gateways,
        link_local,
    };
    (!job.gateways.is_empty() || !job.own.is_empty()).then_some(job)
}

/// Everything that one NIC has heard so far.
struct Ear {
    socket: PacketSocket,
    batch: FrameBatch,
    id: u16,
    own: Mac,
    own_mac_seen: Option<String>,
}

impl Ear {
    /// Hands on what comes in until a time, or until `done` says so.
    fn listen(&mut self, until: Instant, mut take: impl FnMut(Heard), mut done: impl FnMut() -> bool) {
        while Instant::now() < until && !done() {
            let got = self.socket.receive(&mut self.batch).unwrap_or(0);
            if got == 0 {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            for frame in self.batch.iter() {
                let heard = frames::read(frame.data, self.id);
                if frames::source(frame.data) == Some(self.own) {
                    self.own_mac_seen = Some(match &heard {
                        Some(Heard::Arp(_, ip)) => format!("ARP packet from {} that says {ip}", mac(self.own)),
                        _ => format!("frame from {}", mac(self.own)),
                    });
                }
                if let Some(h) = heard {
                    take(h);
                }
            }
        }
    }
}

fn run(job: &Job, own: &[String]) -> Result<Probe, String> {
    let socket = PacketSocket::open(job.index, &filter::arp_or_icmp()).map_err(|e| chain(&e))?;
    let id = (std::process::id() & 0xffff) as u16;
    let mut ear = Ear { socket, batch: FrameBatch::new(16, 256), id, own: job.mac, own_mac_seen: None };
    let mut macs: Vec<Option<Mac>> = vec![None; job.gateways.len()];
    let mut duplicates: Vec<(IpAddr, Mac)> = vec![];
    for _ in 0..TRIES {
        for frame in questions(job, &macs) {
            // A full queue or a link that goes down loses a question like the wire would.
            let _ = ear.socket.send(&frame);
        }
        let until = Instant::now() + SPACING;
        ear.listen(
            until,
            |heard| match heard {
                Heard::Arp(m, ip) => {
                    let at = job.gateways.iter().position(|g| *g == IpAddr::V4(ip));
                    at.into_iter().for_each(|i| macs[i] = Some(m));
                    if job.own.iter().any(|(a, _)| *a == ip) && !duplicates.iter().any(|(_, d)| *d == m) {
                        duplicates.push((ip.into(), m));
                    }
                }
                Heard::Neighbour(ip, m) => {
                    let at = job.gateways.iter().position(|g| *g == IpAddr::V6(ip));
                    at.into_iter().for_each(|i| macs[i] = Some(m));
                }
                Heard::Echo(..) => {}
            },
            || false,
        );
    }
    let path_mtu = if job.mtu > 0 { path(job, &macs, &mut ear) } else { None };
    Ok(Probe {
        link: job.link.clone(),
        gateways: job.gateways.iter().zip(&macs).map(|(g, m)| (*g, m.map(mac))).collect(),
        // Another NIC of this machine that answers is ARP flux and not a duplicate.
        duplicates: duplicates.into_iter().map(|(ip, m)| (ip, mac(m))).filter(|(_, m)| !own.contains(m)).collect(),
        own_mac_seen: ear.own_mac_seen,
        path_mtu,
    })
}

fn chain(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |s| format!("{e}: {s}"))
}

fn source_for(job: &Job, gateway: Ipv4Addr) -> Ipv4Addr {
    let on_link = job.own.iter().find(|(_, net)| net.contains(&IpAddr::V4(gateway)));
    on_link.or(job.own.first()).map_or(Ipv4Addr::UNSPECIFIED, |(ip, _)| *ip)
}

fn questions(job: &Job, macs: &[Option<Mac>]) -> Vec<Vec<u8>> {
    let open = job.gateways.iter().zip(macs).filter(|(_, m)| m.is_none());
    let mut all: Vec<Vec<u8>> = open
        .filter_map(|(g, _)| match g {
            IpAddr::V4(g) => Some(frames::arp_request(job.mac, source_for(job, *g), *g)),
            IpAddr::V6(g) => Some(frames::solicitation(job.mac, job.link_local?, *g)),
        })
        .collect();
    all.extend(job.own.iter().map(|(ip, _)| frames::arp_request(job.mac, Ipv4Addr::UNSPECIFIED, *ip)));
    all
}

/// Finds the largest packet that the first IPv4 gateway answers. A gateway that does not answer the
/// smallest tells nothing.
fn path(job: &Job, macs: &[Option<Mac>], ear: &mut Ear) -> Option<PathMtu> {
    let (gateway, to) = job.gateways.iter().zip(macs).find_map(|(g, m)| match g {
        IpAddr::V4(g) => Some((*g, (*m)?)),
        IpAddr::V6(_) => None,
    })?;
    let from = source_for(job, gateway);
    let own = u16::try_from(job.mtu).unwrap_or(u16::MAX);
    let all: Vec<u16> = SIZES.into_iter().filter(|s| *s < own).chain([own]).collect();
    let mut heard: Vec<u16> = vec![];
    // The NIC's own size first, twice; the sizes between only if it does not come back.
    for round in 0..4 {
        let largest = heard.iter().copied().max().unwrap_or(0);
        let ask = |s: u16| if round < 2 { s == own || s == all[0] } else { s > largest };
        if round == 2 && heard.is_empty() {
            return None;
        }
        for (seq, size) in all.iter().enumerate().filter(|(_, s)| ask(**s)) {
            // Paced, so that neither a queue nor a limit on echo replies drops what the MTU lets pass.
            std::thread::sleep(Duration::from_millis(8));
            let _ = ear.socket.send(&frames::echo(job.mac, to, from, gateway, ear.id, seq as u16, *size));
        }
        let found = std::cell::RefCell::new(&mut heard);
        ear.listen(
            Instant::now() + SPACING,
            |h| {
                if let Heard::Echo(ip, seq, _) = h
                    && ip == gateway
                {
                    found.borrow_mut().extend(all.get(usize::from(seq)));
                }
            },
            || found.borrow().contains(&own),
        );
        if heard.contains(&own) {
            break;
        }
    }
    let answered = heard.iter().copied().max()?;
    let lost = SIZES.into_iter().chain([own]).filter(|s| *s > answered && *s <= own).min();
    Some(PathMtu { gateway: gateway.into(), answered: answered.into(), lost: lost.map(u32::from) })
}
