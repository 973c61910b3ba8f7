//! Another node that carries the network: whether it answers, and how large a frame may be on the way to it and back.

use std::time::Duration;

use multihome_model::MacAddr;

use crate::watch::{OFTEN, Time, Watch};
use crate::wire::SMALLEST;

/// How many sizes are tried at once. Three rounds of them find one size among 4096.
const RUNGS: u16 = 16;
/// How long the answers to one round are waited for.
const ROUND: Duration = Duration::from_millis(800);
/// How long a size that was found is believed while the whole size does not pass.
const BELIEVED: Duration = Duration::from_secs(60);
/// Small frames are sent as soon as this many large ones got no answer.
const DOUBT: usize = 2;

/// A frame to send: how large, and whether to all, because the one that it is for may have moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shot {
    pub(crate) size: u16,
    pub(crate) to_all: bool,
}

/// What is known of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing yet.
    Unknown,
    /// It does not answer.
    Silent,
    /// It answers, whatever the size.
    Whole,
    /// It answers small frames. The largest that passes, in octets after the Ethernet header, once that is found.
    UpTo(Option<u16>),
}

/// The search for the largest size: `passes` is answered, `lost` is not.
#[derive(Debug, Clone, Copy)]
struct Search {
    passes: u16,
    lost: u16,
    until: Time,
    /// The largest size of this round that was answered.
    best: u16,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// Where it answered from.
    pub(crate) mac: Option<MacAddr>,
    whole: u16,
    large: Watch,
    small: Watch,
    search: Option<Search>,
    found: Option<(u16, Time)>,
}

impl Peer {
    pub(crate) fn new(name: String, whole: u16, first: Time) -> Self {
        let watch = Watch::new(OFTEN, first);
        Self { name, mac: None, whole, large: watch, small: watch, search: None, found: None }
    }

    /// Another size is to pass from now on.
    pub(crate) fn set_whole(&mut self, whole: u16, now: Time) {
        if self.whole != whole {
            *self = Self { mac: self.mac, ..Self::new(std::mem::take(&mut self.name), whole, now) };
        }
    }

    pub(crate) fn hurry(&mut self, at: Time) {
        self.large.hurry(at);
        self.small.hurry(at);
    }

    fn doubts(&self) -> bool {
        self.large.answers() == Some(false) || self.large.open() >= DOUBT
    }

    /// What is to be sent now.
    pub(crate) fn due(&mut self, now: Time, out: &mut Vec<Shot>) {
        if self.large.due(now) {
            // A device on the way may have forgotten where the node is, or never heard.
            out.push(Shot { size: self.whole, to_all: self.mac.is_none() || self.large.open() > 1 });
        }
        if !self.doubts() {
            return;
        }
        if self.small.due(now) {
            out.push(Shot { size: SMALLEST, to_all: true });
        }
        self.narrow(now, out);
    }

    fn narrow(&mut self, now: Time, out: &mut Vec<Shot>) {
        if self.large.answers() != Some(false) || self.small.answers() != Some(true) {
            self.search = None;
            return;
        }
        let mut s = match self.search {
            Some(s) if now < s.until => return,
            Some(mut s) => {
                let step = step(s);
                s.lost = s.lost.min(s.best + step);
                s.passes = s.best;
                s
            }
            None if self.found.is_some_and(|(_, at)| now < at + BELIEVED) => return,
            None => Search { passes: SMALLEST, lost: self.whole, until: now, best: SMALLEST },
        };
        if s.lost <= s.passes + 1 {
            self.found = Some((s.passes, now));
            self.search = None;
            return;
        }
        s.until = now + ROUND;
        let step = step(s);
        let sizes = (1..RUNGS).map(|i| s.passes.saturating_add(step * i)).take_while(|n| *n < s.lost);
        out.extend(sizes.map(|size| Shot { size, to_all: false }));
        self.search = Some(s);
    }

    /// It answered a frame of this size.
    pub(crate) fn heard(&mut self, from: MacAddr, size: u16, now: Time) {
        self.mac = Some(from);
        self.small.heard(now);
        if size >= self.whole {
            self.large.heard(now);
            (self.search, self.found) = (None, None);
        } else if let Some(s) = &mut self.search
            && size < s.lost
        {
            s.best = s.best.max(size);
        }
    }

    pub(crate) fn next(&self) -> Time {
        let mut next = self.large.next();
        if self.doubts() {
            next = next.min(self.small.next());
            next = self.search.map_or(next, |s| next.min(s.until));
        }
        next
    }

    pub(crate) fn reach(&self) -> Reach {
        match (self.large.answers(), self.small.answers()) {
            (Some(true), _) => Reach::Whole,
            (Some(false), Some(true)) => Reach::UpTo(self.found.map(|(n, _)| n)),
            (Some(false), Some(false)) => Reach::Silent,
            _ => Reach::Unknown,
        }
    }
}

/// The distance between two sizes of a round.
fn step(s: Search) -> u16 {
    (s.lost.saturating_sub(s.passes)).div_ceil(RUNGS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 2]);

    /// Lets a node answer what fits for some seconds; how many frames went out.
    fn run(p: &mut Peer, from: u64, to: u64, largest: u16) -> usize {
        let mut sent = 0;
        for t in (from..to).step_by(10) {
            let now = Duration::from_millis(t);
            let mut out = vec![];
            p.due(now, &mut out);
            sent += out.len();
            for shot in out.into_iter().filter(|s| s.size <= largest) {
                p.heard(MAC, shot.size, now);
            }
        }
        sent
    }

    #[test]
    fn one_frame_in_three_seconds_tells_that_all_is_well() {
        let mut p = Peer::new("b".into(), 1500, Duration::ZERO);
        assert_eq!((run(&mut p, 0, 30_000, 1500), p.reach()), (10, Reach::Whole));
    }

    #[test]
    fn silence_is_told_within_ten_seconds() {
        let mut p = Peer::new("b".into(), 1500, Duration::ZERO);
        run(&mut p, 0, 3001, 1500);
        run(&mut p, 3001, 12_000, 0);
        assert_eq!(p.reach(), Reach::Silent);
        run(&mut p, 12_000, 14_100, 1500);
        assert_eq!(p.reach(), Reach::Whole);
    }

    proptest! {
        #[test]
        fn the_largest_size_is_found_and_few_frames_are_spent(whole in 200u16..9000, part in 0u16..1000) {
            let largest = SMALLEST + (u32::from(whole - SMALLEST - 1) * u32::from(part) / 1000) as u16;
            let mut p = Peer::new("b".into(), whole, Duration::ZERO);
            run(&mut p, 0, 3001, whole);
            // The word is there within ten seconds, and the number soon after.
            run(&mut p, 3001, 10_000, largest);
            prop_assert!(matches!(p.reach(), Reach::UpTo(_)), "{:?}", p.reach());
            let sent = run(&mut p, 10_000, 40_000, largest);
            prop_assert_eq!(p.reach(), Reach::UpTo(Some(largest)));
            prop_assert!(sent < 140, "{} frames in 30 s", sent);
            run(&mut p, 40_000, 43_000, whole);
            prop_assert_eq!(p.reach(), Reach::Whole);
        }
    }
}
