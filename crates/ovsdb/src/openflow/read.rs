//! Reads what a bridge says: any bytes, of which none may be believed.

use std::collections::BTreeMap;

use super::flow::Flow;
use super::matching::Match;

/// A flow as a bridge has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its table.
    pub table: u8,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// How many frames it was for.
    pub packets: u64,
    /// How long ago the last one was, in seconds; since it was added, if there was none.
    pub idle: u32,
    matching: Match,
}

impl Seen {
    /// Whether it is this flow, as far as a cookie tells.
    pub fn is(&self, flow: &Flow) -> bool {
        self.key() == (flow.table, flow.priority, flow.cookie(), flow.matching.sorted())
    }

    /// What tells it from others, in an order that has nothing to do with what the bridge said first.
    fn key(&self) -> (u8, u16, u64, Match) {
        (self.table, self.priority, self.cookie, self.matching.sorted())
    }

    /// Whether these are exactly the flows that were meant.
    pub fn are(seen: &[Self], flows: &[Flow]) -> bool {
        let mut seen: Vec<_> = seen.iter().map(Self::key).collect();
        let mut meant: Vec<_> = flows.iter().map(|f| (f.table, f.priority, f.cookie(), f.matching.sorted())).collect();
        seen.sort_unstable();
        meant.sort_unstable();
        seen == meant
    }
}

/// A cursor over bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// What a structure with its length at its beginning holds behind it: `fixed` bytes are before the end of the length.
    fn block(&mut self, length: u16, before: usize) -> Option<Bytes<'a>> {
        self.take(usize::from(length).checked_sub(before)?).map(Bytes)
    }
}

/// Reads the flows of a multipart reply (`struct ofp_flow_desc`, section 7.3.5.2); `None` if it makes no sense.
pub(super) fn flows(body: &[u8]) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    let mut bytes = Bytes(body);
    while !bytes.0.is_empty() {
        let length = bytes.u16()?;
        let mut b = bytes.block(length, 2)?;
        b.take(2)?;
        let table = b.u8()?;
        b.u8()?;
        let priority = b.u16()?;
        // Timeouts, flags, importance.
        b.take(8)?;
        let cookie = b.u64()?;
        let (_, matching) = padded(&mut b)?;
        let (_, stats) = padded(&mut b)?;
        let stats = stats_of(stats);
        let number = |field: u8| stats.get(&field).copied().unwrap_or(0);
        all.push(Seen {
            table,
            priority,
            cookie,
            packets: number(4),
            idle: u32::try_from(number(1) >> 32).unwrap_or(u32::MAX),
            matching: Match(matching.to_vec()),
        });
    }
    Some(all)
}

/// A type, a length that counts itself, and what is in it, filled up to a multiple of eight.
fn padded<'a>(b: &mut Bytes<'a>) -> Option<(u16, &'a [u8])> {
    let (kind, length) = (b.u16()?, usize::from(b.u16()?));
    let inner = b.take(length.checked_sub(4)?)?;
    b.take(length.next_multiple_of(8) - length)?;
    Some((kind, inner))
}

/// Statistics by field (section 7.2.4.4): 0 and 1 are times, seconds in the upper half; 4 counts packets.
fn stats_of(bytes: &[u8]) -> BTreeMap<u8, u64> {
    let mut all = BTreeMap::new();
    let mut b = Bytes(bytes);
    while let (Some(_class), Some(field), Some(length)) = (b.u16(), b.u8(), b.u8()) {
        let Some(value) = b.take(length.into()) else { break };
        if let Ok(value) = value.try_into() {
            all.insert(field >> 1, u64::from_be_bytes(value));
        }
    }
    all
}

/// Reads the groups of a multipart reply (section 7.3.5.9): the numbers of their buckets, by group.
pub(super) fn groups(body: &[u8]) -> Option<BTreeMap<u32, Vec<u32>>> {
    let mut all = BTreeMap::new();
    let mut bytes = Bytes(body);
    while !bytes.0.is_empty() {
        let length = bytes.u16()?;
        let mut b = bytes.block(length, 2)?;
        b.take(2)?;
        let id = b.u32()?;
        let list = b.u16()?;
        b.take(6)?;
        let mut buckets = b.block(list, 0)?;
        let mut ids = Vec::new();
        while !buckets.0.is_empty() {
            let length = buckets.u16()?;
            let mut bucket = buckets.block(length, 2)?;
            bucket.take(2)?;
            ids.push(bucket.u32()?);
        }
        all.insert(id, ids);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_in_another_order_are_the_same() {
        let a = Match::any().in_port(3).ipv4().protocol(17).udp_dst(67);
        let b = Match::any().eth_type(0x800).in_port(3).protocol(17).udp_dst(67);
        assert_ne!(a, b);
        assert_eq!(a.sorted(), b.sorted());
        assert_ne!(a.sorted(), b.udp_src(1).sorted());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = flows(&bytes);
            let _ = groups(&bytes);
            let _ = Match(bytes).sorted();
        }

        /// Bytes that are nearly right get further.
        #[test]
        fn no_lengths_make_it_panic(mut bytes in proptest::collection::vec(0u8..24, 0..200), n in 0u16..220) {
            if let Some(head) = bytes.get_mut(..2) {
                head.copy_from_slice(&n.to_be_bytes());
            }
            let _ = flows(&bytes);
            let _ = groups(&bytes);
        }
    }
}
