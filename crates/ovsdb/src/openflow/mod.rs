//! OpenFlow 1.5 (Open Networking Foundation TS-025, «OpenFlow Switch Specification 1.5.1») with the extensions of Open vSwitch
//! (ovs-actions(7), ovs-fields(7)), as much as it takes to give a bridge a set of flows and groups in one stroke and to read it back.

mod action;
mod bridge;
mod flow;
mod group;
mod learn;
mod matching;
mod meter;
mod paused;
mod read;

pub use action::Actions;
pub use bridge::{Bridge, Change};
pub use flow::Flow;
pub use group::{Bucket, Group};
pub use learn::{Learn, Part};
pub use matching::{Field, Mac, Match, ct, field};
pub use meter::{Meter, Unit};
pub use paused::{Closer, Held, Paused};
pub use read::Seen;

/// The bridge's own port (`OFPP_LOCAL`).
pub const LOCAL: u32 = 0xffff_fffe;
/// The port that a frame came in by (`OFPP_IN_PORT`): it goes back there only where this is said.
pub const IN_PORT: u32 = 0xffff_fff8;

/// The wire protocol's number of version 1.5.
const VERSION: u8 = 6;
const HEADER: usize = 8;
/// Nicira's number, whose extensions are Open vSwitch's.
const NICIRA: u32 = 0x2320;

/// Kinds of messages (`OFPT_…`).
mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const ERROR: u8 = 1;
    pub(super) const ECHO_REQUEST: u8 = 2;
    pub(super) const ECHO_REPLY: u8 = 3;
    pub(super) const EXPERIMENTER: u8 = 4;
    pub(super) const SET_CONFIG: u8 = 9;
    pub(super) const FLOW_MOD: u8 = 14;
    pub(super) const GROUP_MOD: u8 = 15;
    pub(super) const MULTIPART_REQUEST: u8 = 18;
    pub(super) const MULTIPART_REPLY: u8 = 19;
    pub(super) const BARRIER_REQUEST: u8 = 20;
    pub(super) const BARRIER_REPLY: u8 = 21;
    pub(super) const METER_MOD: u8 = 29;
    pub(super) const BUNDLE_CONTROL: u8 = 33;
    pub(super) const BUNDLE_ADD: u8 = 34;
}

/// A message with its header. One that is longer than its length can say is cut by nobody: see [`Bridge::apply`].
fn message(kind: u8, xid: u32, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    let mut m = vec![VERSION, kind];
    m.extend(length.to_be_bytes());
    m.extend(xid.to_be_bytes());
    m.extend_from_slice(body);
    m
}

/// Fills up with zeros to a multiple of eight.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}
