//! A wire between two network namespaces that takes time, and now and then loses a frame: this kernel may have no netem.
//!
//! Both ends are taps, so that what travels is whole frames with their checksums, none of them longer than the MTU. Each direction
//! has a thread that reads and one that delivers, with a queue of bounded length between them; they end with the devices.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use multihome_netlink::{LinkChange, Netns, Rtnl, Tap};

/// The largest frame, in bytes: a jumbo frame.
const FRAME: usize = 9216;
/// How many frames are on the way at most; what comes beside them is lost, as in any switch.
const QUEUE: usize = 4096;
/// What reading says of a tap that is not there any more (`EBADFD`).
const GONE: i32 = 77;

/// How long frames take.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// How long in the middle.
    pub mean: Duration,
    /// How much less, or more, at most. Frames stay in order all the same.
    pub jitter: Duration,
}

/// A wire.
#[derive(Debug)]
pub struct Wire {
    loss: Arc<AtomicU32>,
}

impl Wire {
    /// Lays a wire between a new device in one namespace and one in another. `seed` is what jitter and losses follow from.
    ///
    /// # Panics
    /// If the devices cannot be made.
    pub fn lay(ends: [(&str, &str); 2], delay: Delay, seed: u64) -> Self {
        let loss = Arc::new(AtomicU32::new(0));
        let [a, b] = ends.map(|(netns, device)| tap(netns, device));
        let again = |f: &File| f.try_clone().expect("a second handle of a tap");
        let (back, forth) = (again(&b), again(&a));
        for (from, to, seed) in [(a, b, seed), (back, forth, !seed)] {
            let (queue, arrivals) = sync_channel(QUEUE);
            let line = Line { delay, dice: Dice(seed | 1), last: None, loss: loss.clone() };
            std::thread::spawn(move || take(from, line, &queue));
            std::thread::spawn(move || deliver(to, &arrivals));
        }
        Self { loss }
    }

    /// Makes it lose so many frames of a thousand from now on.
    pub fn lose(&self, per_mille: u32) {
        self.loss.store(per_mille, Ordering::Relaxed);
    }
}

/// Makes a tap, up, in a namespace.
fn tap(netns: &str, device: &str) -> File {
    let make = || {
        let tap = Tap { name: device, multi_queue: false, vnet_hdr: false };
        tap.create(None)?;
        Rtnl::open()?.change_named(device, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        tap.open()
    };
    let made = Netns::open(netns).and_then(|n| n.run(make));
    File::from(made.expect("the namespace is there").expect("a tap can be made"))
}

type Late = (Instant, Vec<u8>);

/// Reads what comes in at one end, until the device is gone.
fn take(mut from: File, mut line: Line, queue: &SyncSender<Late>) {
    let mut buf = [0; FRAME];
    loop {
        match from.read(&mut buf) {
            Ok(n) => {
                if let Some(due) = line.next(Instant::now()) {
                    let _ = queue.try_send((due, buf[..n].to_vec()));
                }
            }
            Err(e) if e.raw_os_error() == Some(GONE) => return,
            // Down; it may come up again.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Hands frames to the other end when they are due. What it does not take is lost.
fn deliver(mut to: File, arrivals: &Receiver<Late>) {
    for (due, frame) in arrivals {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let _ = to.write_all(&frame);
    }
}

/// One direction: when each frame arrives, if it does.
struct Line {
    delay: Delay,
    dice: Dice,
    last: Option<Instant>,
    loss: Arc<AtomicU32>,
}

impl Line {
    /// When a frame that is sent now arrives; not before any that was sent earlier.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let Delay { mean, jitter } = self.delay;
        let span = u64::try_from(jitter.as_micros()).unwrap_or(0) * 2;
        let due = now + mean.saturating_sub(jitter) + Duration::from_micros(self.dice.below(span + 1));
        let due = self.last.map_or(due, |last| due.max(last));
        if self.dice.below(1000) < u64::from(self.loss.load(Ordering::Relaxed)) {
            return None;
        }
        self.last = Some(due);
        Some(due)
    }
}

/// A generator of numbers that look like chance: the same ones from the same seed (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Delay = Delay { mean: Duration::from_millis(5), jitter: Duration::from_millis(2) };

    fn line(loss: u32) -> Line {
        Line { delay: DELAY, dice: Dice(7), last: None, loss: Arc::new(AtomicU32::new(loss)) }
    }

    #[test]
    fn frames_arrive_in_order_and_within_the_jitter() {
        let (mut line, start) = (line(0), Instant::now());
        let mut last = start;
        for i in 0..10_000u32 {
            let now = start + Duration::from_micros(100) * i;
            let due = line.next(now).expect("nothing is lost");
            assert!(due >= last, "frame {i} overtakes");
            let late = due - now;
            assert!(late >= DELAY.mean - DELAY.jitter && late <= DELAY.mean + DELAY.jitter, "frame {i}: {late:?}");
            last = due;
        }
        assert!(last > start);
    }

    #[test]
    fn as_many_are_lost_as_was_said_and_the_same_ones_each_time() {
        let lost = || {
            let (mut line, now) = (line(10), Instant::now());
            (0..100_000u32).filter(|_| line.next(now).is_none()).collect::<Vec<_>>()
        };
        let first = lost();
        assert!((800..1200).contains(&first.len()), "{} of 100,000", first.len());
        assert_eq!(first, lost());
    }
}
