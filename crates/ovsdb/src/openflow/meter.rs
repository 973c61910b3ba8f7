//! Meters: how much may pass (section 5.11).

/// A meter that drops what is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Its number, from 1 to 0xffff0000.
    pub id: u32,
    /// What is counted.
    pub unit: Unit,
    /// How many of them a second, from 1.
    pub rate: u32,
    /// How many may come at once.
    pub burst: u32,
}

/// What a meter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Kilobits: of frames without preamble and checksum.
    Kilobits,
}

const ADD: u16 = 0;
const DELETE: u16 = 2;
/// `OFPMF_KBPS`, `OFPMF_PKTPS` and `OFPMF_BURST`.
const KBPS: u16 = 1;
const PKTPS: u16 = 2;
const BURST: u16 = 4;
const DROP: u16 = 1;

impl Meter {
    /// `struct ofp_meter_mod` without its header.
    pub(super) fn body(&self) -> Vec<u8> {
        let band = [
            &DROP.to_be_bytes()[..],
            &16u16.to_be_bytes(),
            &self.rate.to_be_bytes(),
            &self.burst.to_be_bytes(),
            &[0; 4],
        ];
        let unit = if self.unit == Unit::Kilobits { KBPS } else { PKTPS };
        [&ADD.to_be_bytes()[..], &(unit | BURST).to_be_bytes(), &self.id.to_be_bytes(), &band.concat()].concat()
    }
}

/// Removes a meter, if it is there.
pub(super) fn delete(id: u32) -> Vec<u8> {
    [&DELETE.to_be_bytes()[..], &(PKTPS | BURST).to_be_bytes(), &id.to_be_bytes()].concat()
}
