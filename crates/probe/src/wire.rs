//! The frame by which nodes ask each other whether they are on the same network, and how large a frame may be.
//!
//! EtherType 0x88B5, the first of two for local experiments (IEEE 802, clause 9.2.3). After the Ethernet header, in network
//! byte order:
//!
//! | octets | field |
//! | --- | --- |
//! | 0–3 | `MHPB` |
//! | 4 | version: 1 |
//! | 5 | kind: 1 asks, 2 answers |
//! | 6–7 | size: octets after the Ethernet header, padding included, 46 or more |
//! | 8–15 | network: the first 8 octets of the SHA-256 of its uid |
//! | 16–23 | node that sends: the same of its name |
//! | 24–31 | node that is asked, or that the answer is for |
//! | 32–35 | sequence number, which the answer repeats |
//! | 36– | zeros |

use multihome_model::MacAddr;

/// The EtherType.
pub const ETHERTYPE: u16 = 0x88b5;
/// The smallest probe, in octets after the Ethernet header: the smallest that Ethernet sends without padding.
pub const SMALLEST: u16 = 46;

const MAGIC: [u8; 4] = *b"MHPB";
const VERSION: u8 = 1;
const HEADER: usize = 14;
const FIELDS: usize = 36;

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Are you there?
    Ask,
    /// I am.
    Answer,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Question or answer.
    pub kind: Kind,
    /// The network.
    pub network: u64,
    /// The node that sends it.
    pub from: u64,
    /// The node that it is for.
    pub to: u64,
    /// What question and answer have in common.
    pub sequence: u32,
    /// Octets after the Ethernet header.
    pub size: u16,
}

impl Probe {
    /// The whole frame. A size below [`SMALLEST`] is raised to it.
    pub fn encode(&self, from: MacAddr, to: MacAddr) -> Vec<u8> {
        let size = self.size.max(SMALLEST);
        let mut f = Vec::with_capacity(HEADER + usize::from(size));
        f.extend_from_slice(&to.0);
        f.extend_from_slice(&from.0);
        f.extend_from_slice(&ETHERTYPE.to_be_bytes());
        f.extend_from_slice(&MAGIC);
        f.push(VERSION);
        f.push(if self.kind == Kind::Ask { 1 } else { 2 });
        f.extend_from_slice(&size.to_be_bytes());
        for n in [self.network, self.from, self.to] {
            f.extend_from_slice(&n.to_be_bytes());
        }
        f.extend_from_slice(&self.sequence.to_be_bytes());
        f.resize(HEADER + usize::from(size), 0);
        f
    }

    /// Reads a frame, and who sent it; `None` for anything but a whole probe of this version.
    pub fn parse(frame: &[u8]) -> Option<(MacAddr, Self)> {
        let (header, body) = frame.split_first_chunk::<HEADER>()?;
        let f: &[u8; FIELDS] = body.first_chunk()?;
        if header[12..] != ETHERTYPE.to_be_bytes() || f[..4] != MAGIC || f[4] != VERSION {
            return None;
        }
        let kind = match f[5] {
            1 => Kind::Ask,
            2 => Kind::Answer,
            _ => return None,
        };
        let size = u16::from_be_bytes([f[6], f[7]]);
        if size < SMALLEST || body.len() < usize::from(size) {
            return None;
        }
        let number = |at: usize| f[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let probe = Self {
            kind,
            network: number(8),
            from: number(16),
            to: number(24),
            sequence: u32::from_be_bytes([f[32], f[33], f[34], f[35]]),
            size,
        };
        let mut source = [0; 6];
        source.copy_from_slice(&header[6..12]);
        Some((MacAddr(source), probe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([0x0e, 0x6d, 0, 0, 0, 2]);

    #[test]
    fn every_field_is_where_the_page_says() {
        let p = Probe { kind: Kind::Answer, network: 1, from: 2, to: 3, sequence: 4, size: 60 };
        let f = p.encode(A, B);
        assert_eq!(f.len(), 74);
        assert_eq!(f[..14], [0x0e, 0x6d, 0, 0, 0, 2, 0x0e, 0x6d, 0, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(f[14..22], *b"MHPB\x01\x02\x00\x3c");
        assert_eq!((f[29], f[37], f[45], f[49]), (1, 2, 3, 4));
        assert!(f[50..].iter().all(|b| *b == 0));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read(network: u64, from: u64, to: u64, sequence: u32, size in SMALLEST..9000, ask: bool) {
            let kind = if ask { Kind::Ask } else { Kind::Answer };
            let p = Probe { kind, network, from, to, sequence, size };
            let f = p.encode(A, B);
            prop_assert_eq!(Probe::parse(&f), Some((A, p)));
            prop_assert_eq!(Probe::parse(&f[..f.len() - 1]), None);
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), shaped: bool) {
            let good = Probe { kind: Kind::Ask, network: 1, from: 2, to: 3, sequence: 4, size: 46 }.encode(A, B);
            if shaped {
                let n = bytes.len().min(20);
                bytes[..n].copy_from_slice(&good[..n]);
            }
            let _ = Probe::parse(&bytes);
        }
    }
}
