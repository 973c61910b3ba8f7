//! What is done with a frame (section 7.2.6, and ovs-actions(7)).

use super::learn::Learn;
use super::matching::{Field, field};
use super::{NICIRA, pad};

const OUTPUT: u16 = 0;
const POP_VLAN: u16 = 18;
const GROUP: u16 = 22;
const SET_FIELD: u16 = 25;
const COPY_FIELD: u16 = 28;
const METER: u16 = 29;
const EXPERIMENTER: u16 = 0xffff;
const RESUBMIT_TABLE: u16 = 14;
const OUTPUT_REG: u16 = 15;
const CONJUNCTION: u16 = 34;
const CONNTRACK: u16 = 35;
const CONTROLLER2: u16 = 37;
/// Properties of the last.
const ASK_USERDATA: u16 = 3;
const ASK_PAUSE: u16 = 4;
const LEARN2: u16 = 45;
/// In the 16-bit port of an extension: where the frame came in.
const SAME_PORT: u16 = 0xfff8;

/// Actions in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actions(pub(super) Vec<u8>);

impl Actions {
    /// None: what comes to an end with these is dropped.
    pub fn none() -> Self {
        Self::default()
    }

    fn add(mut self, kind: u16, body: &[u8]) -> Self {
        let mut action = kind.to_be_bytes().to_vec();
        action.extend([0; 2]);
        action.extend_from_slice(body);
        pad(&mut action);
        let length = u16::try_from(action.len()).unwrap_or(u16::MAX);
        action[2..4].copy_from_slice(&length.to_be_bytes());
        self.0.extend(action);
        self
    }

    fn nicira(self, subtype: u16, body: &[u8]) -> Self {
        let head = [&NICIRA.to_be_bytes()[..], &subtype.to_be_bytes(), body].concat();
        self.add(EXPERIMENTER, &head)
    }

    /// Sends it out of a port.
    pub fn output(self, port: u32) -> Self {
        let body = [&port.to_be_bytes()[..], &[0; 2], &[0; 6]].concat();
        self.add(OUTPUT, &body)
    }

    /// Sends it out of the port that a register holds.
    pub fn output_reg(self, reg: u8) -> Self {
        // «offset << 6 | bits - 1»: all 32.
        let body = [&31u16.to_be_bytes()[..], &field::reg(reg).header(false), &[0; 2], &[0; 6]].concat();
        self.nicira(OUTPUT_REG, &body)
    }

    /// Forwards it as a learning bridge with VLANs does, by what the database says of the ports (`OFPP_NORMAL`).
    pub fn normal(self) -> Self {
        self.output(0xffff_fffa)
    }

    /// Hands it to a group.
    pub fn group(self, id: u32) -> Self {
        self.add(GROUP, &id.to_be_bytes())
    }

    /// Takes the outermost VLAN tag away.
    pub fn pop_vlan(self) -> Self {
        self.add(POP_VLAN, &[0; 4])
    }

    /// Gives a field a value.
    pub fn set(self, field: Field, value: &[u8]) -> Self {
        let body = [&field.header(false)[..], value].concat();
        self.add(SET_FIELD, &body)
    }

    /// Copies one field into another of the same length.
    pub fn copy(self, from: Field, to: Field) -> Self {
        let bits = from.bits().to_be_bytes();
        let body = [&bits[..], &[0; 2], &[0; 2], &[0; 2], &from.header(false), &to.header(false)].concat();
        self.add(COPY_FIELD, &body)
    }

    /// Looks it up in another table, and comes back.
    pub fn resubmit(self, table: u8) -> Self {
        let body = [&SAME_PORT.to_be_bytes()[..], &[table], &[0; 3]].concat();
        self.nicira(RESUBMIT_TABLE, &body)
    }

    /// Gives bits of a field a value: those of the mask.
    pub fn set_masked(self, field: Field, value: &[u8], mask: &[u8]) -> Self {
        let body = [&field.header(true)[..], value, mask].concat();
        self.add(SET_FIELD, &body)
    }

    /// Drops it if there are more of these than a meter allows ([`super::Meter`]). Nothing may stand before it.
    pub fn meter(self, id: u32) -> Self {
        self.add(METER, &id.to_be_bytes())
    }

    /// Is one part of a condition of several, from 0: each of them holds where one of its flows matches. The flow that matches
    /// the number of the whole says what is done then. With nothing else.
    pub fn part_of(self, conjunction: u32, part: u8, of: u8) -> Self {
        let body = [&[part, of][..], &conjunction.to_be_bytes()].concat();
        self.nicira(CONJUNCTION, &body)
    }

    /// Shows an IP packet to the connection tracker, in the zone that 16 bits of a register say (from bit `shift`), and goes on with it in
    /// a table. With `keep`, what it opens is kept from then on, with the mark that a register holds.
    pub fn track(self, zone: (u8, u16), table: u8, keep: Option<u8>) -> Self {
        let (reg, shift) = zone;
        let mut b = u16::from(keep.is_some()).to_be_bytes().to_vec();
        b.extend(field::reg(reg).header(false));
        b.extend((shift << 6 | 15).to_be_bytes());
        b.extend([table, 0, 0, 0, 0, 0]);
        let marks = keep.map(|mark| Self::none().copy(field::reg(mark), field::CT_MARK));
        b.extend(marks.unwrap_or_default().0);
        self.nicira(CONNTRACK, &b)
    }

    /// Asks a program about it, with these words ([`super::Paused`]), and goes on when it says so.
    pub fn ask(self, said: &[u8]) -> Self {
        let mut b = vec![0; 6];
        let mut property = |kind: u16, value: &[u8]| {
            b.extend(kind.to_be_bytes());
            b.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_be_bytes());
            b.extend_from_slice(value);
            b.resize(6 + (b.len() - 6).next_multiple_of(8), 0);
        };
        property(ASK_USERDATA, said);
        property(ASK_PAUSE, &[]);
        self.nicira(CONTROLLER2, &b)
    }

    /// Makes a flow of what this one is.
    pub fn learn(self, learn: &Learn) -> Self {
        self.nicira(LEARN2, &learn.body())
    }
}
