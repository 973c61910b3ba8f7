//! Shaping: token bucket filters as the root queueing disciplines of devices (tc-tbf(8)).
//!
//! Numbers from include/uapi/linux/pkt_sched.h (`struct tc_tbf_qopt`, `TCA_TBF_…`) and rtnetlink.h
//! (`struct tcmsg`); what the kernel makes of them is in net/sched/sch_tbf.c and sch_api.c.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::msg::{self, Msg};
use crate::rtnl::Rtnl;

const TC_H_ROOT: u32 = 0xffff_ffff;
const TBF: &str = "tbf";
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// Length of `struct tcmsg`.
const HEAD: usize = 20;
/// Where what is ours lies in `struct tc_tbf_qopt`, after which it ends: two `struct tc_ratespec` of 12 bytes come first.
const LINKLAYER: usize = 1;
const RATE: usize = 8;
const LIMIT: usize = 24;
const BUFFER: usize = 28;
const PARMS: usize = 36;

const NANOSECONDS: u64 = 1_000_000_000;
/// One tick in nanoseconds: `PSCHED_SHIFT` in include/net/pkt_sched.h, the second number of /proc/net/psched. It was
/// longer only before kernels knew `TCA_TBF_RATE64` and `TCA_TBF_BURST`.
const TICK: u64 = 64;

/// The part of the queue that is there at every rate, in bytes: ten GSO frames of 64 KiB.
const QUEUE_LEAST: u64 = 10 * 64 * 1024;
/// The longest queue besides the burst, in bytes: with the largest burst it is just what the kernel's u32 holds.
const QUEUE_MOST: u64 = 1 << 31;
/// The rate flows for this part of a second into the queue: 50 ms.
const QUEUE_PART: u64 = 20;

/// What may leave by a device: a token bucket that fills at `rate` and holds `burst`.
///
/// Over any time `t` no more than `burst + rate × t` bytes leave, counted from the destination MAC on. What is more waits
/// in a queue of `burst` plus what flows in 50 ms at `rate` (at least 640 KiB, ten GSO frames of full size; at most 2 GiB);
/// what finds it full is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Bytes per second, above 0.
    pub rate: u64,
    /// Bytes that may leave at once after a pause, 1 to 2,147,483,647. A GSO frame that is larger is split into its
    /// segments; any other frame that is larger is dropped, so this should be no less than the MTU and 18 bytes of
    /// Ethernet and VLAN headers.
    pub burst: u32,
}

impl Shape {
    fn check(&self) -> Result<()> {
        if self.rate > 0 && (1..=i32::MAX as u32).contains(&self.burst) {
            return Ok(());
        }
        let Self { rate, burst } = self;
        let what = format!(
            "a rate of {rate} bytes per second with a burst of {burst} bytes is not one above 0 with one of 1 to {}",
            i32::MAX
        );
        Err(Error::Invalid { op: "shape", what })
    }

    /// The queue's limit in bytes. That it is the burst and something that follows from the rate alone makes the burst
    /// readable from it.
    fn limit(&self) -> u32 {
        u32::try_from(u64::from(self.burst) + queue(self.rate)).unwrap_or(u32::MAX)
    }

    /// How long the burst takes at the rate, in ticks.
    fn ticks(&self) -> u64 {
        let ticks = u128::from(self.burst) * u128::from(NANOSECONDS) / u128::from(self.rate.max(1)) / u128::from(TICK);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Whether `buffer` is what the kernel tells of this burst: it cuts nanoseconds and then ticks, multiplies by the
    /// rate's reciprocal of some 24 to 32 bits, and tells the lower 32 bits of the result.
    fn is_told_as(&self, buffer: u32) -> bool {
        let ticks = self.ticks();
        let off = (buffer.wrapping_sub(ticks as u32) as i32).unsigned_abs();
        u64::from(off) <= (ticks >> 20) + 2
    }
}

/// The queue besides the burst, in bytes.
fn queue(rate: u64) -> u64 {
    (rate / QUEUE_PART).clamp(QUEUE_LEAST, QUEUE_MOST)
}

/// `struct tcmsg` of a device's root.
fn head(index: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    head
}

/// With no handle, and both flags, the kernel changes a root of the same kind, and puts a new one in place of any other
/// (`tc_modify_qdisc`).
fn setting(index: u32, shape: &Shape) -> Msg {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut m = Msg::new(libc::RTM_NEWQDISC, flags, "shape", format!("link {index}")).raw(&head(index));
    m.text(libc::TCA_KIND, TBF);
    m.nest(libc::TCA_OPTIONS, |m| {
        let mut parms = [0; PARMS];
        let mut put = |at: usize, value: u32| parms[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(RATE, u32::try_from(shape.rate).unwrap_or(u32::MAX));
        put(LIMIT, shape.limit());
        put(BUFFER, u32::try_from(shape.ticks()).unwrap_or(u32::MAX));
        // Else the kernel looks for a table of how long packets take, as old programs send one.
        parms[LINKLAYER] = TC_LINKLAYER_ETHERNET;
        m.attr(TCA_TBF_PARMS, &parms);
        m.attr(TCA_TBF_RATE64, &shape.rate.to_ne_bytes());
        m.u32(TCA_TBF_BURST, shape.burst);
    });
    m
}

/// Only a root of this kind: the kernel compares (`tc_get_qdisc`).
fn removal(index: u32) -> Msg {
    let mut m = Msg::new(libc::RTM_DELQDISC, 0, "stop shaping", format!("link {index}")).raw(&head(index));
    m.text(libc::TCA_KIND, TBF);
    m
}

/// `ENOENT` of a request to create says that the kernel does not know the kind (`qdisc_create`); nothing else is looked
/// for. It must not pass for something that is not there.
fn unknown_kind(error: Error) -> Error {
    match error {
        Error::Kernel { op, subject, errno: libc::ENOENT, message } => {
            Error::Kernel { op, subject, errno: libc::EOPNOTSUPP, message }
        }
        other => other,
    }
}

impl Rtnl {
    /// Shapes what leaves by a device, or no longer. Of a tap or a veth device that is what its other side receives.
    ///
    /// `Some` makes a token bucket filter the root queueing discipline in place of whatever is there. One that is there
    /// already is changed in place: what waits in its queue goes on waiting. Its bucket is full again, so who sets the same
    /// shape over and over lets a burst more through each time; see [`Rtnl::shapes`] for whether there is need. `None`
    /// removes a root that is a token bucket filter, with what waits in it, and the device has the kernel's default again;
    /// that there is none is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`] if rate or burst is out of range. [`Error::is_unsupported`] if the kernel has no `sch_tbf`: one
    /// that is a module it loads itself. [`Error::is_missing`] if there is no such device.
    pub fn shape(&mut self, index: u32, shape: Option<Shape>) -> Result<()> {
        if let Some(shape) = shape {
            shape.check()?;
            return self.socket.request(setting(index, &shape)).map_err(unknown_kind);
        }
        match self.socket.request(removal(index)) {
            // Where the root is of another kind the kernel says EINVAL, to a request that is otherwise always the same;
            // where it is one that cannot be removed, ENOENT.
            Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
            // It knows no queueing disciplines at all.
            Err(e) if e.is_unsupported() => Ok(()),
            result => result,
        }
    }

    /// Every device of the namespace whose root queueing discipline is a token bucket filter, by index, with its shape;
    /// none where the kernel knows no queueing disciplines.
    ///
    /// A shape that [`Rtnl::shape`] set is read back as it was set, so that it may be compared. The kernel does not tell
    /// the burst itself but how long it takes at the rate, in ticks of 64 ns, too coarse above 15.6 MB/s; so it is taken
    /// from the queue's limit, if the ticks agree. Where they do not, as of filters that others set up, the burst is the
    /// least whole number of bytes for these ticks, at most one tick's worth below what was set.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn shapes(&mut self) -> Result<HashMap<u32, Shape>> {
        let m = Msg::new(libc::RTM_GETQDISC, 0, "list", "queueing disciplines").raw(&[0; HEAD]);
        match self.socket.dump(m, parse) {
            Ok(all) => Ok(all.into_iter().collect()),
            Err(e) if e.is_unsupported() => Ok(HashMap::new()),
            Err(e) => Err(e),
        }
    }
}

/// Reads an `RTM_NEWQDISC` body; `None` if it is not of a root that is a token bucket filter.
fn parse(body: &[u8]) -> Option<(u32, Shape)> {
    let index = msg::u32_at(body, 4)?;
    let attributes = body.get(HEAD..)?;
    let kind = msg::attrs(attributes).find(|a| a.kind == libc::TCA_KIND)?.text();
    if msg::u32_at(body, 12)? != TC_H_ROOT || kind != TBF {
        return None;
    }
    let options = msg::find(attributes, libc::TCA_OPTIONS)?;
    let parms = msg::find(options, TCA_TBF_PARMS)?;
    // Told only where it does not fit 32 bits.
    let rate = match msg::find(options, TCA_TBF_RATE64).and_then(|d| msg::u64_at(d, 0)) {
        Some(rate) => rate,
        None => u64::from(msg::u32_at(parms, RATE)?),
    };
    let burst = burst(rate, msg::u32_at(parms, LIMIT)?, msg::u32_at(parms, BUFFER)?);
    Some((index, Shape { rate, burst }))
}

/// The burst in bytes of a rate, a queue's limit in bytes, and how long the burst takes in ticks.
fn burst(rate: u64, limit: u32, buffer: u32) -> u32 {
    let set = u64::from(limit).checked_sub(queue(rate)).and_then(|b| u32::try_from(b).ok());
    let told = set.map(|burst| Shape { rate, burst }).filter(|s| s.check().is_ok() && s.is_told_as(buffer));
    if let Some(shape) = told {
        return shape.burst;
    }
    let bytes = (u128::from(buffer) * u128::from(TICK) * u128::from(rate)).div_ceil(u128::from(NANOSECONDS));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(m: &mut Msg) -> Vec<u8> {
        m.seal(1)[msg::HEADER..].to_vec()
    }

    /// A burst's time as the kernel computes and tells it (`psched_ratecfg_precompute`, `psched_l2t_ns`, `tbf_dump`).
    fn told(shape: &Shape) -> u32 {
        let (mut factor, mut shift) = (NANOSECONDS, 0);
        let reciprocal = loop {
            let reciprocal = (factor / shape.rate) as u32;
            if reciprocal & (1 << 31) != 0 || factor & (1 << 63) != 0 {
                break reciprocal;
            }
            factor <<= 1;
            shift += 1;
        };
        let time = u64::from(shape.burst).wrapping_mul(u64::from(reciprocal)) >> shift;
        (time / TICK) as u32
    }

    #[test]
    fn what_is_written_reads_back() {
        for (rate, burst) in
            [(1, 1), (12_500_000, 100_000), (u64::from(u32::MAX) + 1, 1 << 20), (5_000_000_000, 1 << 22)]
        {
            let shape = Shape { rate, burst };
            assert_eq!(parse(&body(&mut setting(7, &shape))), Some((7, shape)));
        }
        assert_eq!(parse(&body(&mut removal(7))), None, "no options");
    }

    #[test]
    fn the_queue_holds_the_burst_and_50_ms_and_ten_large_frames() {
        let limit = |rate, burst| Shape { rate, burst }.limit();
        assert_eq!(limit(1, 1500), 1500 + 655_360);
        assert_eq!(limit(5_000_000_000, 1 << 20), (1 << 20) + 250_000_000);
        assert_eq!(limit(u64::MAX, i32::MAX as u32), u32::MAX);
    }

    #[test]
    fn a_burst_that_another_program_set_is_read_to_a_tick() {
        let foreign = Shape { rate: 1_000_000, burst: 20_000 };
        assert_eq!(burst(foreign.rate, 1_000_000, told(&foreign)), 20_000);
        let fast = Shape { rate: 1_000_000_000, burst: 1_000_000 };
        let read = burst(fast.rate, 1_000_000, told(&fast));
        assert!((999_872..=1_000_000).contains(&read), "{read}");
        // Nothing but the limit differs by a little.
        assert_eq!(burst(foreign.rate, foreign.limit() + 100, told(&foreign)), 20_000);
    }

    #[test]
    fn shapes_out_of_range_are_refused() {
        for (rate, burst) in [(0, 1500), (1, 0), (1, 1 << 31)] {
            assert!(matches!(Shape { rate, burst }.check(), Err(Error::Invalid { .. })), "{rate} {burst}");
        }
        assert!(Shape { rate: 1, burst: i32::MAX as u32 }.check().is_ok());
    }

    #[test]
    fn a_kind_that_the_kernel_lacks_is_unsupported_and_not_missing() {
        let e = unknown_kind(Error::kernel("shape", "link 1", libc::ENOENT));
        assert!(e.is_unsupported() && !e.is_missing(), "{e}");
        assert!(unknown_kind(Error::kernel("shape", "link 1", libc::ENODEV)).is_missing());
    }

    proptest! {
        #[test]
        fn a_shape_is_known_by_what_the_kernel_tells(
            bits in 0..64u32, low in any::<u64>(), burst_bits in 0..31u32, burst_low in any::<u32>()
        ) {
            let rate = (1 << bits) | (low & ((1 << bits) - 1));
            let shape = Shape { rate, burst: (1 << burst_bits) | (burst_low & ((1 << burst_bits) - 1)) };
            prop_assert!(shape.check().is_ok());
            prop_assert_eq!(burst(rate, shape.limit(), told(&shape)), shape.burst);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }

        #[test]
        fn no_options_make_the_reader_panic(
            parms in proptest::collection::vec(any::<u8>(), 0..40), rest in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let mut m = Msg::new(libc::RTM_NEWQDISC, 0, "test", "").raw(&head(7));
            m.text(libc::TCA_KIND, TBF);
            m.nest(libc::TCA_OPTIONS, |m| {
                m.attr(TCA_TBF_PARMS, &parms);
                m.put_raw(&rest);
            });
            prop_assert_eq!(parse(&body(&mut m)).is_some(), parms.len() >= BUFFER + 4);
        }
    }
}
