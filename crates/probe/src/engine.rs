//! The prober of one network on one node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use multihome_dhcp::client::v4::Said;
use multihome_dhcp::frame6::End;
use multihome_model::MacAddr;

use crate::dhcp::Servers;
use crate::frames::{self, BROADCAST, Heard};
use crate::peer::{Peer, Shot};
use crate::routed::{EchoRequest, Routed};
use crate::routers::Routers;
use crate::visit::{Speaker, Visit};
use crate::watch::{LISTEN, OFTEN, Pace, SELDOM, Time, Watch};
use crate::wire::{Kind, Probe, SMALLEST};

mod verdict;

/// How many other nodes each node asks. They are its neighbours on a ring, so that each is asked by as many, and what
/// is sent does not grow with the square of the nodes.
const ASKED: usize = 3;
/// Answers to other nodes per second. A search for the largest frame takes 15 at a time.
const ANSWERS: u32 = 64;
/// How long changes are let settle before anything is asked.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// How many of its own questions back an answer may be.
const RECENT: u32 = 256;

/// What is wanted of somebody else's DHCP servers and routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Want {
    /// They are not asked.
    #[default]
    Nothing,
    /// They are asked, and their silence is no fault.
    Listen,
    /// They are asked, and their silence is a fault.
    Expect,
}

impl Want {
    fn pace(self) -> Pace {
        if self == Self::Expect { SELDOM } else { LISTEN }
    }
}

/// What is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The device that frames leave and come in by.
    pub device: String,
    /// The network ([`multihome_model::names::wire_hash`] of its uid).
    pub network: u64,
    /// This node (the same of its name).
    pub node: u64,
    /// The MAC that it is probed from.
    pub mac: MacAddr,
    /// The network's MTU in bytes.
    pub mtu: u16,
    /// Other nodes that carry it: their names.
    pub peers: BTreeMap<u64, String>,
    /// What is wanted of its DHCPv4 servers.
    pub ipv4: Want,
    /// What is wanted of its IPv6 routers and DHCPv6 servers.
    pub ipv6: Want,
    /// The IPv4 gateway that is written down; without one, the one that a DHCP server offers is asked.
    pub gateway4: Option<Ipv4Addr>,
    /// The IPv6 gateway that is written down; without one, the one that advertises itself is asked.
    pub gateway6: Option<Ipv6Addr>,
    /// The address that the IPv4 gateway is pinged from, the same on all nodes; without one, a lease is taken for a moment where
    /// servers offer some.
    pub address4: Option<Ipv4Addr>,
    /// Whether the node's own network is asked, too, if it is routed to the gateway: IPv4, IPv6.
    pub routed: [bool; 2],
}

/// A gateway that is watched.
#[derive(Debug, Clone)]
struct Gateway<A> {
    address: A,
    mac: Option<MacAddr>,
    watch: Watch,
}

impl<A: PartialEq + Copy> Gateway<A> {
    /// Keeps to the gateway that is wanted now.
    fn follow(this: &mut Option<Self>, wanted: Option<A>, now: Time) {
        if this.as_ref().map(|g| g.address) != wanted {
            *this = wanted.map(|address| Self { address, mac: None, watch: Watch::new(OFTEN, now) });
        }
    }

    /// Whether it is asked now: directly, where it is known where it is, and it did not leave the last question open.
    fn due(&mut self, now: Time) -> Option<(A, Option<MacAddr>)> {
        self.watch.due(now).then(|| (self.address, self.mac.filter(|_| self.watch.open() == 1)))
    }

    fn heard(&mut self, from: MacAddr, address: A, now: Time) {
        if self.address == address {
            self.mac = Some(from);
            self.watch.heard(now);
        }
    }
}

/// How many echo requests are open before it is said that none is answered.
const PATIENT: u8 = 3;

/// Echo requests to a gateway that answers neighbour discovery.
#[derive(Debug, Clone, Copy, Default)]
struct Echo {
    sequence: u16,
    open: u8,
    answered: bool,
}

impl Echo {
    /// Whether it is answered; `None` while that is not known.
    fn answers(self) -> Option<bool> {
        match self.open {
            PATIENT.. => Some(false),
            _ => self.answered.then_some(true),
        }
    }

    /// The sequence number of the next question.
    fn ask(&mut self) -> u16 {
        self.open = self.open.saturating_add(1);
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn heard(&mut self, sequence: u16) {
        if self.sequence.wrapping_sub(sequence) < u16::from(self.open) {
            (self.open, self.answered) = (0, true);
        }
    }
}

/// Probes one network on one node. Time only goes forward.
#[derive(Debug, Clone)]
pub struct Prober {
    subject: Subject,
    carrier: bool,
    peers: BTreeMap<u64, Peer>,
    servers: Servers,
    routers: Routers,
    servers6: Watch,
    /// The DHCPv6 server that answered last, and whether it has addresses.
    server6: Option<(Ipv6Addr, bool)>,
    gateway4: Option<Gateway<Ipv4Addr>>,
    gateway6: Option<Gateway<Ipv6Addr>>,
    echo6: Echo,
    visit: Visit,
    /// IPv4 and IPv6.
    routed: [Routed; 2],
    sequence: u32,
    /// Answers in this second.
    answered: (u64, u32),
}

impl Prober {
    /// A prober that begins soon: at a moment of the second after `now` that depends on network and node, so that many do
    /// not begin at once.
    pub fn new(subject: Subject, now: Time) -> Self {
        let spread = Duration::from_millis((subject.network ^ subject.node) % 1000);
        let first = now + DEBOUNCE + spread;
        let mut this = Self {
            carrier: true,
            peers: BTreeMap::new(),
            servers: Servers::new(subject.ipv4.pace(), first),
            routers: Routers::new(subject.ipv6.pace(), first),
            servers6: Watch::new(subject.ipv6.pace(), first),
            server6: None,
            gateway4: None,
            gateway6: None,
            echo6: Echo::default(),
            visit: Visit::new(first),
            routed: Default::default(),
            sequence: 0,
            answered: (0, 0),
            subject,
        };
        this.follow(first);
        this
    }

    /// What it probes.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Probes something else from now on. What stays the same keeps what was found of it.
    pub fn update(&mut self, subject: Subject, now: Time) {
        if self.subject == subject {
            return;
        }
        let at = now + DEBOUNCE;
        let whole = subject.mtu.max(SMALLEST);
        self.peers.values_mut().for_each(|p| p.set_whole(whole, at));
        if (self.subject.ipv4, self.subject.ipv6) != (subject.ipv4, subject.ipv6) {
            let (four, six) = (subject.ipv4.pace(), subject.ipv6.pace());
            (self.servers, self.routers) = (Servers::new(four, at), Routers::new(six, at));
            (self.servers6, self.server6) = (Watch::new(six, at), None);
        }
        self.subject = subject;
        self.follow(at);
    }

    /// The cable was put in, or pulled out. Returns whether that is news.
    pub fn set_carrier(&mut self, carrier: bool, now: Time) -> bool {
        let news = self.carrier != carrier;
        if news && carrier {
            let at = now + DEBOUNCE;
            self.peers.values_mut().for_each(|p| p.hurry(at));
            let gateways = [self.gateway4.as_mut().map(|g| &mut g.watch), self.gateway6.as_mut().map(|g| &mut g.watch)];
            let watches = gateways.into_iter().flatten();
            watches
                .chain([&mut self.servers.watch, &mut self.routers.watch, &mut self.servers6])
                .for_each(|w| w.hurry(at));
        }
        self.carrier = carrier;
        news
    }

    /// Keeps peers and gateways to what is wanted now; new ones are asked from `at` on.
    fn follow(&mut self, at: Time) {
        let all = &self.subject.peers;
        let after = all.range(self.subject.node..).chain(all.range(..self.subject.node));
        let asked: BTreeMap<u64, &String> = after.take(ASKED).map(|(id, name)| (*id, name)).collect();
        self.peers.retain(|id, p| asked.get(id) == Some(&&p.name));
        let whole = self.subject.mtu.max(SMALLEST);
        for (id, name) in asked {
            self.peers.entry(id).or_insert_with(|| Peer::new(name.clone(), whole, at));
        }
        let learnt = self.servers.offer().and_then(|o| o.routers.first().copied());
        Gateway::follow(&mut self.gateway4, self.subject.gateway4.or(learnt), at);
        let before = self.gateway6.as_ref().map(|g| g.address);
        Gateway::follow(&mut self.gateway6, self.subject.gateway6.or(self.routers.default()), at);
        if self.gateway6.as_ref().map(|g| g.address) != before {
            self.echo6 = Echo::default();
        }
        let four = self.gateway4.as_ref().map(|g| IpAddr::from(g.address));
        let six = self.gateway6.as_ref().map(|g| IpAddr::from(g.address));
        for ((routed, gateway), asked) in self.routed.iter_mut().zip([four, six]).zip(self.subject.routed) {
            routed.follow(gateway.filter(|_| asked), at);
        }
    }

    /// When [`Prober::poll`] or [`Prober::poll_routed`] has something to do next. While the cable is out, only the latter has.
    pub fn next(&self) -> Option<Time> {
        let gateways = [self.gateway4.as_ref().map(|g| g.watch.next()), self.gateway6.as_ref().map(|g| g.watch.next())];
        let wanted = |want: Want, t: Time| (want != Want::Nothing).then_some(t);
        let servers = [
            wanted(self.subject.ipv4, self.servers.watch.next()),
            wanted(self.subject.ipv6, self.routers.watch.next()),
            wanted(self.subject.ipv6, self.servers6.next()),
        ];
        let servers = servers.into_iter().chain([self.visit.next()]);
        let all = gateways.into_iter().chain(servers).flatten().chain(self.peers.values().map(Peer::next));
        let inside = all.min().filter(|_| self.carrier);
        inside.into_iter().chain(self.routed.iter().filter_map(Routed::next)).min()
    }

    /// What is to be asked from the node's own network now, whether the cable is in or not. `sequence` is the number of the last
    /// such request of the node, whatever network it was for.
    pub fn poll_routed(&mut self, now: Time, sequence: &mut u16) -> Vec<EchoRequest> {
        self.routed.iter_mut().filter_map(|r| r.due(now, sequence)).collect()
    }

    /// An echo request from the node's own network was answered. Returns whether it was one of this prober's.
    pub fn echo_heard(&mut self, from: IpAddr, sequence: u16, now: Time) -> bool {
        self.routed.iter_mut().any(|r| r.heard(from, sequence, now))
    }

    /// Of which families it is not known yet whether the node's own network is routed to the gateway, though it is asked: IPv4,
    /// IPv6.
    pub fn routed_unknown(&self) -> [bool; 2] {
        self.routed.each_ref().map(Routed::is_unknown)
    }

    /// What is to be sent out of the uplink now.
    pub fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        let mut out = vec![];
        if !self.carrier {
            return out;
        }
        let mac = self.subject.mac;
        self.routers.expire(now);
        self.follow(now);
        self.poll_peers(now, &mut out);
        let answering = self.gateway4.as_ref().filter(|g| g.watch.answers() == Some(true));
        self.visit.follow(answering.and_then(|g| Some((g.address, g.mac?))), now);
        let offers = self.subject.ipv4 != Want::Nothing && self.servers.watch.answers() == Some(true);
        let (frames, wants_offer) = self.visit.poll(&self.speaker(), offers, now);
        out.extend(frames);
        if wants_offer {
            self.servers.watch.hurry(now);
        }
        if self.subject.ipv4 != Want::Nothing && self.servers.watch.due(now) {
            out.extend(frames::dhcp4(mac, self.transaction()));
        }
        if self.subject.ipv6 != Want::Nothing {
            if self.routers.watch.due(now) {
                out.extend(frames::router_solicitation(mac));
            }
            if self.servers6.due(now) {
                let [_, a, b, c] = self.transaction().to_be_bytes();
                out.extend(frames::dhcp6(mac, [a, b, c]));
            }
        }
        if let Some((address, to)) = self.gateway4.as_mut().and_then(|g| g.due(now)) {
            out.push(frames::arp(mac, to, address));
        }
        if let Some((address, to)) = self.gateway6.as_mut().and_then(|g| g.due(now)) {
            out.extend(frames::solicitation(mac, to, address));
            if let Some(mac6) = self.gateway6.as_ref().and_then(|g| g.mac) {
                let to = End { mac: mac6, address };
                out.extend(frames::echo(mac, to, self.transaction() as u16, self.echo6.ask()));
            }
        }
        out
    }

    fn poll_peers(&mut self, now: Time, out: &mut Vec<Vec<u8>>) {
        let mut shots: Vec<Shot> = vec![];
        for (id, peer) in &mut self.peers {
            peer.due(now, &mut shots);
            for shot in shots.drain(..) {
                self.sequence = self.sequence.wrapping_add(1);
                let probe = Probe {
                    kind: Kind::Ask,
                    network: self.subject.network,
                    from: self.subject.node,
                    to: *id,
                    sequence: self.sequence,
                    size: shot.size,
                };
                let to = peer.mac.filter(|_| !shot.to_all).unwrap_or(BROADCAST);
                out.push(probe.encode(self.subject.mac, to));
            }
        }
    }

    fn speaker(&self) -> Speaker {
        Speaker { mac: self.subject.mac, identifier: self.transaction() as u16, own: self.subject.address4 }
    }

    /// What is to be sent before nothing is asked any more: what was borrowed is given back.
    pub fn end(&mut self) -> Option<Vec<u8>> {
        self.visit.end(self.subject.mac)
    }

    /// One number for all questions of this prober: nothing follows from an answer but what it says.
    fn transaction(&self) -> u32 {
        self.subject.network as u32 ^ (self.subject.node >> 32) as u32
    }

    /// Takes a frame that came in by the uplink; what is to be answered at once. `checksum_pending` says that its sender
    /// left the checksum to hardware.
    pub fn frame(&mut self, frame: &[u8], checksum_pending: bool, now: Time) -> Option<Vec<u8>> {
        let mac = self.subject.mac;
        match frames::hear(frame, mac, checksum_pending)? {
            Heard::Probe(from, p) => return self.probe(from, &p, now),
            Heard::Asked(by) => return if self.may_answer(now) { frames::advertisement(mac, by) } else { None },
            Heard::Arp(from, address) => {
                self.visit.arp(address, now);
                if let Some(g) = &mut self.gateway4 {
                    g.heard(from, address, now);
                }
            }
            Heard::Neighbour(from, address) => {
                if let Some(g) = &mut self.gateway6 {
                    g.heard(from, address, now);
                }
            }
            Heard::Echo(from, identifier, sequence) => {
                let its = self.gateway6.as_ref().is_some_and(|g| g.address == from);
                if its && identifier == self.transaction() as u16 {
                    self.echo6.heard(sequence);
                }
            }
            Heard::Echo4(from, to, identifier, sequence) => {
                if identifier == self.transaction() as u16 {
                    self.visit.echo(from, to, sequence, now);
                }
            }
            Heard::Server4(from, said) if self.subject.ipv4 != Want::Nothing => match said {
                Said::Offered(offer) if offer.transaction == self.transaction() => {
                    let server = offer.server;
                    self.servers.heard(offer.clone(), now);
                    if self.servers.offer().is_some_and(|o| o.server == server) {
                        self.visit.offered(&offer, from, now);
                    }
                    self.follow(now);
                }
                Said::Offered(_) => {}
                Said::Granted(given) => self.visit.granted(&given, from, now),
                Said::Refused(transaction) => self.visit.refused(transaction, now),
            },
            Heard::Router(from, address, said) if self.subject.ipv6 != Want::Nothing => {
                self.routers.heard(address, said, now);
                self.follow(now);
                // It is there, as it says itself.
                if let Some(g) = &mut self.gateway6 {
                    g.heard(from, address, now);
                }
            }
            Heard::Server6(from, said)
                if said.transaction == self.transaction().to_be_bytes()[1..] && self.subject.ipv6 != Want::Nothing =>
            {
                self.servers6.heard(now);
                self.server6 = Some((from, said.gives));
            }
            Heard::Server4(..) | Heard::Router(..) | Heard::Server6(..) => {}
        }
        None
    }

    fn probe(&mut self, from: MacAddr, p: &Probe, now: Time) -> Option<Vec<u8>> {
        if p.network != self.subject.network || p.to != self.subject.node || from.is_multicast() {
            return None;
        }
        match p.kind {
            Kind::Ask if self.may_answer(now) => {
                let answer = Probe { kind: Kind::Answer, from: self.subject.node, to: p.from, ..*p };
                Some(answer.encode(self.subject.mac, from))
            }
            Kind::Ask => None,
            Kind::Answer => {
                let recent = self.sequence.wrapping_sub(p.sequence) < RECENT;
                if let Some(peer) = self.peers.get_mut(&p.from).filter(|_| recent) {
                    peer.heard(from, p.size, now);
                }
                None
            }
        }
    }

    fn may_answer(&mut self, now: Time) -> bool {
        let (second, count) = &mut self.answered;
        if *second != now.as_secs() {
            (*second, *count) = (now.as_secs(), 0);
        }
        *count += 1;
        *count <= ANSWERS
    }

    /// The gateway that is watched, and whether it answers.
    fn gateway(&self, ipv6: bool) -> Option<(IpAddr, Option<bool>)> {
        if ipv6 {
            self.gateway6.as_ref().map(|g| (g.address.into(), g.watch.answers()))
        } else {
            self.gateway4.as_ref().map(|g| (g.address.into(), g.watch.answers()))
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod visits;
