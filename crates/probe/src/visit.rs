//! An IPv4 gateway's ping, from inside its network: an echo request needs an address there, which is borrowed for a moment.
//!
//! Where somebody else's DHCP server gives addresses, a lease is taken and given back at once. Where Multihome gives them itself,
//! the network has an address for this, which is the same on all nodes: where it is, each question tells anew.

use std::net::Ipv4Addr;
use std::time::Duration;

use multihome_dhcp::client::v4::Offer;
use multihome_model::MacAddr;

use crate::frames;
use crate::watch::Time;

/// How long after a lease was given back the next one is asked for.
const LEASED: Duration = Duration::from_secs(600);
/// How long after a gateway was asked from an address of ours it is asked again.
const LENT: Duration = Duration::from_secs(60);
/// How long after a visit the next one may begin, whatever happens meanwhile.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a step waits for what answers it.
const STEP: Duration = Duration::from_secs(1);
/// How often something is said that nobody answers.
const PATIENT: u8 = 3;

/// What the address is borrowed by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    given: Offer,
    /// Where the server's answers come from: itself, or a relay.
    server: MacAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Nothing is wanted until the time comes.
    Rest,
    /// The next offer is taken.
    Offers,
    /// The server was asked for what it offered so many times.
    Asked(Lease, u8),
    /// The server gave it.
    Granted(Lease),
    /// Others were asked whether they have the address.
    Checked(Lease),
    /// Somebody else has it.
    Taken(Lease),
    /// The gateway was asked so many times.
    Here(Ipv4Addr, Option<Lease>, u8),
    /// It is given back: so many times more.
    Leaving(Lease, u8),
}

/// Pings of one network's gateway.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    phase: Phase,
    next: Time,
    /// When the last one ended.
    ended: Option<Time>,
    /// The gateway, and where it is.
    gateway: Option<(Ipv4Addr, MacAddr)>,
    sequence: u16,
    answers: Option<bool>,
}

/// What a visit says, and by whom.
pub(crate) struct Speaker {
    /// The prober's MAC.
    pub(crate) mac: MacAddr,
    /// The identifier of its echo requests.
    pub(crate) identifier: u16,
    /// The address that the network has for this.
    pub(crate) own: Option<Ipv4Addr>,
}

impl Visit {
    pub(crate) fn new(first: Time) -> Self {
        Self { phase: Phase::Rest, next: first, ended: None, gateway: None, sequence: 0, answers: None }
    }

    /// Whether the gateway answers ping; `None` while nobody knows.
    pub(crate) fn answers(&self) -> Option<bool> {
        self.answers
    }

    /// When something is due next; while an offer is waited for, nothing is.
    pub(crate) fn next(&self) -> Option<Time> {
        (self.gateway.is_some() || self.lease().is_some()).then_some(self.next).filter(|_| self.phase != Phase::Offers)
    }

    fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Asked(l, _) | Phase::Granted(l) | Phase::Checked(l) | Phase::Taken(l) | Phase::Leaving(l, _) => {
                Some(l)
            }
            Phase::Here(_, l, _) => l.as_ref(),
            Phase::Rest | Phase::Offers => None,
        }
    }

    /// The gateway that answers now, if one does. Another one, and one that was silent, is asked soon.
    pub(crate) fn follow(&mut self, gateway: Option<(Ipv4Addr, MacAddr)>, now: Time) {
        if self.gateway.map(|g| g.0) != gateway.map(|g| g.0) {
            self.answers = None;
            if self.phase == Phase::Rest {
                self.next = self.ended.map_or(now, |t| now.max(t + AGAIN));
            }
        }
        self.gateway = gateway;
    }

    /// What is due now. `offers` says whether there is a server that offers leases. Returns the frames, and whether an offer is
    /// wanted that nobody has asked for yet.
    pub(crate) fn poll(&mut self, by: &Speaker, offers: bool, now: Time) -> (Vec<Vec<u8>>, bool) {
        let mut out = vec![];
        if self.next().is_none_or(|t| now < t) {
            return (out, false);
        }
        self.next = now + STEP;
        let mac = by.mac;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Rest) {
            Phase::Rest if by.own.is_none() && !offers => self.rest(now + LENT),
            Phase::Rest => match by.own {
                None => {
                    self.phase = Phase::Offers;
                    return (out, true);
                }
                Some(address) => self.ask(by, (address, None, 0), &mut out),
            },
            Phase::Offers => Phase::Offers,
            // It may have been given, and nobody heard it.
            Phase::Asked(l, PATIENT) => self.leave(Some(l), now),
            Phase::Asked(l, asked) => {
                out.extend(frames::request4(mac, &l.given));
                Phase::Asked(l, asked + 1)
            }
            Phase::Granted(l) => {
                // RFC 2131 section 4.4.1: whether somebody else has it.
                out.push(frames::arp(mac, None, l.given.address));
                Phase::Checked(l)
            }
            // Nobody has said that it is his.
            Phase::Checked(l) => self.ask(by, (l.given.address, Some(l), 0), &mut out),
            Phase::Taken(l) => {
                out.extend(frames::decline4(mac, &l.given));
                self.end_of(now + LEASED, now)
            }
            Phase::Here(_, lease, PATIENT) => {
                self.answers = Some(false);
                self.leave(lease, now)
            }
            // It went silent altogether.
            Phase::Here(_, lease, _) if self.gateway.is_none() => self.leave(lease, now),
            Phase::Here(address, lease, asked) => self.ask(by, (address, lease, asked), &mut out),
            Phase::Leaving(_, 0) => self.end_of(now + LEASED, now),
            Phase::Leaving(l, left) => {
                out.extend(frames::release4((mac, l.server), &l.given));
                Phase::Leaving(l, left - 1)
            }
        };
        (out, false)
    }

    fn rest(&mut self, until: Time) -> Phase {
        self.next = until;
        Phase::Rest
    }

    fn end_of(&mut self, until: Time, now: Time) -> Phase {
        self.ended = Some(now);
        self.rest(until)
    }

    fn leave(&mut self, lease: Option<Lease>, now: Time) -> Phase {
        self.next = now;
        match lease {
            // Twice, because nobody answers it.
            Some(l) => Phase::Leaving(l, 2),
            None => self.end_of(now + LENT, now),
        }
    }

    /// Asks the gateway, and tells it before where the question comes from.
    fn ask(
        &mut self,
        by: &Speaker,
        (address, lease, asked): (Ipv4Addr, Option<Lease>, u8),
        out: &mut Vec<Vec<u8>>,
    ) -> Phase {
        if let Some((gateway, to)) = self.gateway {
            self.sequence = self.sequence.wrapping_add(1);
            out.push(frames::arp_from((by.mac, address), Some(to), gateway));
            out.push(frames::echo4((by.mac, address), (to, gateway), by.identifier, self.sequence));
        }
        Phase::Here(address, lease, asked + 1)
    }

    /// A server offers something: taken, if it is waited for.
    pub(crate) fn offered(&mut self, offer: &Offer, server: MacAddr, now: Time) {
        let a = offer.address;
        let nobody = a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback() || a == offer.server;
        if self.phase == Phase::Offers && !nobody && self.gateway.is_some_and(|g| g.0 != a) {
            (self.phase, self.next) = (Phase::Asked(Lease { given: offer.clone(), server }, 0), now);
        }
    }

    /// A server gave what it was asked for.
    pub(crate) fn granted(&mut self, given: &Offer, server: MacAddr, now: Time) {
        let as_asked = |o: &Offer| (o.transaction, o.server, o.address);
        if matches!(&self.phase, Phase::Asked(l, _) if as_asked(&l.given) == as_asked(given)) {
            (self.phase, self.next) = (Phase::Granted(Lease { given: given.clone(), server }), now);
        }
    }

    /// A server does not give what it was asked for.
    pub(crate) fn refused(&mut self, transaction: u32, now: Time) {
        if matches!(&self.phase, Phase::Asked(l, _) if l.given.transaction == transaction) {
            self.phase = self.end_of(now + LEASED, now);
        }
    }

    /// Somebody has an address.
    pub(crate) fn arp(&mut self, address: Ipv4Addr, now: Time) {
        if let Phase::Checked(l) = &self.phase
            && l.given.address == address
        {
            (self.phase, self.next) = (Phase::Taken(l.clone()), now);
        }
    }

    /// An echo request with our identifier was answered.
    pub(crate) fn echo(&mut self, from: Ipv4Addr, to: Ipv4Addr, sequence: u16, now: Time) {
        let Phase::Here(address, lease, asked) = &self.phase else { return };
        let recent = self.sequence.wrapping_sub(sequence) < u16::from(*asked);
        if *address == to && recent && self.gateway.is_some_and(|g| g.0 == from) {
            let lease = lease.clone();
            self.answers = Some(true);
            self.phase = self.leave(lease, now);
        }
    }

    /// What gives back at once what is held; nothing is asked afterwards.
    pub(crate) fn end(&mut self, mac: MacAddr) -> Option<Vec<u8>> {
        let lease = self.lease()?.clone();
        self.phase = Phase::Rest;
        frames::release4((mac, lease.server), &lease.given)
    }
}
