//! What a flow is about: fields of a frame and their values (section 7.2.3, «OXM»).

use std::net::{Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A field: its class, its number there, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    class: u16,
    number: u8,
    length: u8,
}

/// The fields, by their names in ovs-fields(7).
pub mod field {
    use super::Field;

    const fn basic(number: u8, length: u8) -> Field {
        Field { class: 0x8000, number, length }
    }

    /// The port that the frame came in by.
    pub const IN_PORT: Field = basic(0, 4);
    /// 64 bits that tables hand on to each other.
    pub const METADATA: Field = basic(2, 8);
    /// Destination MAC.
    pub const ETH_DST: Field = basic(3, 6);
    /// Source MAC.
    pub const ETH_SRC: Field = basic(4, 6);
    /// EtherType; behind a VLAN tag.
    pub const ETH_TYPE: Field = basic(5, 2);
    /// VLAN id, and 0x1000 if there is a tag.
    pub const VLAN_VID: Field = basic(6, 2);
    /// IP protocol.
    pub const IP_PROTO: Field = basic(10, 1);
    /// IPv4 source.
    pub const IPV4_SRC: Field = basic(11, 4);
    /// IPv4 destination.
    pub const IPV4_DST: Field = basic(12, 4);
    /// UDP source port.
    pub const UDP_SRC: Field = basic(15, 2);
    /// UDP destination port.
    pub const UDP_DST: Field = basic(16, 2);
    /// ARP operation.
    pub const ARP_OP: Field = basic(21, 2);
    /// ARP sender's protocol address.
    pub const ARP_SPA: Field = basic(22, 4);
    /// ARP target's protocol address.
    pub const ARP_TPA: Field = basic(23, 4);
    /// ARP sender's hardware address.
    pub const ARP_SHA: Field = basic(24, 6);
    /// ARP target's hardware address.
    pub const ARP_THA: Field = basic(25, 6);
    /// IPv6 source.
    pub const IPV6_SRC: Field = basic(26, 16);
    /// IPv6 destination.
    pub const IPV6_DST: Field = basic(27, 16);
    /// ICMPv6 type.
    pub const ICMPV6_TYPE: Field = basic(29, 1);
    /// Target address of neighbour discovery.
    pub const ND_TARGET: Field = basic(31, 16);
    /// Whether an IP packet is a fragment: 1, and 2 with it if it is not the first (`nw_frag`).
    pub const IP_FRAG: Field = nicira(26, 1);
    /// Time to live, or hop limit.
    pub const IP_TTL: Field = nicira(29, 1);
    /// TCP's flags (RFC 9293 section 3.1).
    pub const TCP_FLAGS: Field = basic(42, 2);
    /// TCP source port.
    pub const TCP_SRC: Field = basic(13, 2);
    /// SCTP source port.
    pub const SCTP_SRC: Field = basic(17, 2);
    /// SCTP destination port.
    pub const SCTP_DST: Field = basic(18, 2);
    /// ICMP type.
    pub const ICMP_TYPE: Field = basic(19, 1);
    /// ICMP code.
    pub const ICMP_CODE: Field = basic(20, 1);
    /// ICMPv6 code.
    pub const ICMPV6_CODE: Field = basic(30, 1);
    /// The number of a conjunction all of whose parts match.
    pub const CONJUNCTION: Field = nicira(37, 4);
    /// What the connection tracker says of a packet that it was shown ([`super::ct`]).
    pub const CT_STATE: Field = nicira(105, 4);
    /// The mark of its connection.
    pub const CT_MARK: Field = nicira(107, 4);
    /// IP protocol of the packet that opened its connection; so the next ones.
    pub const CT_PROTO: Field = nicira(119, 1);
    /// IPv4 source.
    pub const CT_IPV4_SRC: Field = nicira(120, 4);
    /// IPv4 destination.
    pub const CT_IPV4_DST: Field = nicira(121, 4);
    /// IPv6 source.
    pub const CT_IPV6_SRC: Field = nicira(122, 16);
    /// IPv6 destination.
    pub const CT_IPV6_DST: Field = nicira(123, 16);
    /// Source port, or ICMP type.
    pub const CT_TP_SRC: Field = nicira(124, 2);
    /// Destination port, or ICMP code.
    pub const CT_TP_DST: Field = nicira(125, 2);

    const fn nicira(number: u8, length: u8) -> Field {
        Field { class: 1, number, length }
    }

    /// A register of 32 bits, from 0 to 15.
    pub const fn reg(number: u8) -> Field {
        nicira(number, 4)
    }

    /// Four registers together, the lowest first: from 0 to 3.
    pub const fn wide(number: u8) -> Field {
        nicira(111 + number, 16)
    }
}

/// What the connection tracker says of a packet (ovs-fields(7), `ct_state`).
pub mod ct {
    /// It opens a connection.
    pub const NEW: u32 = 1;
    /// It belongs to a connection that was let in.
    pub const ESTABLISHED: u32 = 2;
    /// It makes no sense to the tracker.
    pub const INVALID: u32 = 16;
    /// It was shown to the tracker.
    pub const TRACKED: u32 = 32;
}

impl Field {
    /// What stands before a value, or for the field itself where it is but named.
    pub(super) fn header(self, masked: bool) -> [u8; 4] {
        let [a, b] = self.class.to_be_bytes();
        let length = if masked { self.length * 2 } else { self.length };
        [a, b, self.number << 1 | u8::from(masked), length]
    }

    /// Its length in bits.
    pub(super) fn bits(self) -> u16 {
        u16::from(self.length) * 8
    }
}

/// What a flow is about. Fields are given from the outermost layer inwards: those of a layer mean something only after what
/// says that it is there (section 7.2.3.8).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match(pub(super) Vec<u8>);

impl Match {
    /// Every frame.
    pub fn any() -> Self {
        Self::default()
    }

    fn with(self, field: Field, value: &[u8]) -> Self {
        debug_assert_eq!(value.len(), usize::from(field.length), "{field:?}");
        self.and([&field.header(false)[..], value].concat())
    }

    /// Adds a field; what was said before is not said again.
    fn and(mut self, one: Vec<u8>) -> Self {
        if !self.fields().contains(&one.as_slice()) {
            self.0.extend(one);
        }
        self
    }

    /// A mask of all bits is none: so bridges say it, too.
    fn masked(self, field: Field, value: &[u8], mask: &[u8]) -> Self {
        if mask.iter().all(|b| *b == u8::MAX) {
            return self.with(field, value);
        }
        debug_assert_eq!((value.len(), mask.len()), (field.length.into(), field.length.into()), "{field:?}");
        self.and([&field.header(true)[..], value, mask].concat())
    }

    /// Frames that came in by a port.
    pub fn in_port(self, port: u32) -> Self {
        self.with(field::IN_PORT, &port.to_be_bytes())
    }

    /// Frames whose metadata has these bits, among those of the mask.
    pub fn metadata(self, bits: u64, mask: u64) -> Self {
        self.masked(field::METADATA, &bits.to_be_bytes(), &mask.to_be_bytes())
    }

    /// Frames while a register has these bits, among those of the mask.
    pub fn reg(self, number: u8, bits: u32, mask: u32) -> Self {
        // Half of a packet register (section 7.2.3.10, «xreg» of ovs-fields(7)): so bridges say it, too.
        let half = |value: u32| if number.is_multiple_of(2) { u64::from(value) << 32 } else { u64::from(value) };
        let whole = Field { class: 0x8001, number: number / 2, length: 8 };
        let (rest, bits_there, mask_there) = self.without(whole);
        let (bits, mask) = (bits_there | half(bits & mask), mask_there | half(mask));
        rest.masked(whole, &bits.to_be_bytes(), &mask.to_be_bytes())
    }

    /// The same without a field of 64 bits, with its value and its mask.
    fn without(self, field: Field) -> (Self, u64, u64) {
        let (mut rest, mut value, mut mask) = (Vec::new(), 0, 0);
        for one in self.fields() {
            if one[..3] != field.header(false)[..3] && one[..3] != field.header(true)[..3] {
                rest.extend_from_slice(one);
                continue;
            }
            let number = |at: usize| one.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
            value = number(4).unwrap_or_default();
            mask = number(12).unwrap_or(u64::MAX);
        }
        (Self(rest), value, mask)
    }

    /// Its fields one by one, without what is none.
    fn fields(&self) -> Vec<&[u8]> {
        let mut all = Vec::new();
        let mut rest = self.0.as_slice();
        while let Some((head, after)) = rest.split_at_checked(4) {
            let Some((_, next)) = after.split_at_checked(head[3].into()) else { break };
            all.push(&rest[..4 + usize::from(head[3])]);
            rest = next;
        }
        all
    }

    /// Frames whose field has this value. What it needs before it is said by the caller.
    pub fn is(self, field: Field, value: &[u8]) -> Self {
        self.with(field, value)
    }

    /// Frames whose field has these bits, among those of the mask; no bits at all are said by saying nothing.
    pub fn is_masked(self, field: Field, value: &[u8], mask: &[u8]) -> Self {
        match mask.iter().all(|b| *b == 0) {
            true => self,
            false => self.masked(field, value, mask),
        }
    }

    /// Packets of which the connection tracker says these things, among those asked about ([`ct`]).
    pub fn tracked(self, bits: u32, mask: u32) -> Self {
        self.masked(field::CT_STATE, &bits.to_be_bytes(), &mask.to_be_bytes())
    }

    /// Frames for a MAC.
    pub fn to(self, mac: Mac) -> Self {
        self.with(field::ETH_DST, &mac)
    }

    /// Frames for the MACs that have these bits.
    pub fn to_masked(self, mac: Mac, mask: Mac) -> Self {
        self.masked(field::ETH_DST, &mac, &mask)
    }

    /// Frames from a MAC.
    pub fn from(self, mac: Mac) -> Self {
        self.with(field::ETH_SRC, &mac)
    }

    /// Frames from the MACs that have these bits.
    pub fn from_masked(self, mac: Mac, mask: Mac) -> Self {
        self.masked(field::ETH_SRC, &mac, &mask)
    }

    /// Frames of an EtherType, behind a tag or not.
    pub fn eth_type(self, kind: u16) -> Self {
        self.with(field::ETH_TYPE, &kind.to_be_bytes())
    }

    /// Frames with any VLAN tag, also one that says nothing but a priority.
    pub fn tagged(self) -> Self {
        self.masked(field::VLAN_VID, &[0x10, 0], &[0x10, 0])
    }

    /// Frames with the tag of a VLAN; 0 is a tag with a priority alone.
    pub fn vlan(self, id: u16) -> Self {
        self.with(field::VLAN_VID, &(0x1000 | id).to_be_bytes())
    }

    /// ARP.
    pub fn arp(self) -> Self {
        self.eth_type(0x0806)
    }

    /// IPv4.
    pub fn ipv4(self) -> Self {
        self.eth_type(0x0800)
    }

    /// IPv6.
    pub fn ipv6(self) -> Self {
        self.eth_type(0x86dd)
    }

    /// Packets that are fragments.
    pub fn fragment(self) -> Self {
        self.masked(field::IP_FRAG, &[1], &[1])
    }

    /// IP packets of a protocol.
    pub fn protocol(self, number: u8) -> Self {
        self.with(field::IP_PROTO, &[number])
    }

    /// IPv4 packets with this source.
    pub fn ipv4_src(self, ip: Ipv4Addr) -> Self {
        self.with(field::IPV4_SRC, &ip.octets())
    }

    /// IPv4 packets with this destination.
    pub fn ipv4_dst(self, ip: Ipv4Addr) -> Self {
        self.with(field::IPV4_DST, &ip.octets())
    }

    /// IPv6 packets with this source.
    pub fn ipv6_src(self, ip: Ipv6Addr) -> Self {
        self.with(field::IPV6_SRC, &ip.octets())
    }

    /// IPv6 packets whose source has these bits.
    pub fn ipv6_src_masked(self, ip: Ipv6Addr, mask: Ipv6Addr) -> Self {
        self.masked(field::IPV6_SRC, &ip.octets(), &mask.octets())
    }

    /// IPv6 packets with this destination.
    pub fn ipv6_dst(self, ip: Ipv6Addr) -> Self {
        self.with(field::IPV6_DST, &ip.octets())
    }

    /// UDP from this port, after [`Match::protocol`] 17.
    pub fn udp_src(self, port: u16) -> Self {
        self.with(field::UDP_SRC, &port.to_be_bytes())
    }

    /// UDP to this port, after [`Match::protocol`] 17.
    pub fn udp_dst(self, port: u16) -> Self {
        self.with(field::UDP_DST, &port.to_be_bytes())
    }

    /// ICMPv6 of a type.
    pub fn icmpv6(self, kind: u8) -> Self {
        self.protocol(58).with(field::ICMPV6_TYPE, &[kind])
    }

    /// Neighbour discovery about an address, after [`Match::icmpv6`] 135 or 136. It has code 0 (RFC 4861 section 4.3); where that is
    /// not said, ovs-vswitchd does not tell the kernel's data path of the address (`odp_flow_key_from_mask`), which then
    /// takes one address for another.
    pub fn nd_target(self, ip: Ipv6Addr) -> Self {
        self.with(field::ICMPV6_CODE, &[0]).with(field::ND_TARGET, &ip.octets())
    }

    /// ARP of an operation: 1 asks, 2 answers.
    pub fn arp_op(self, op: u16) -> Self {
        self.with(field::ARP_OP, &op.to_be_bytes())
    }

    /// ARP whose sender says to have this address.
    pub fn arp_spa(self, ip: Ipv4Addr) -> Self {
        self.with(field::ARP_SPA, &ip.octets())
    }

    /// ARP about this address.
    pub fn arp_tpa(self, ip: Ipv4Addr) -> Self {
        self.with(field::ARP_TPA, &ip.octets())
    }

    /// ARP whose sender says to have this MAC.
    pub fn arp_sha(self, mac: Mac) -> Self {
        self.with(field::ARP_SHA, &mac)
    }

    /// `struct ofp_match`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut m = vec![0, 1];
        m.extend(u16::try_from(4 + self.0.len()).unwrap_or(u16::MAX).to_be_bytes());
        m.extend_from_slice(&self.0);
        super::pad(&mut m);
        m
    }

    /// The same with fields in one order, whichever they were said in.
    pub(super) fn sorted(&self) -> Self {
        let mut fields = self.fields();
        let known: usize = fields.iter().map(|f| f.len()).sum();
        fields.sort_unstable();
        let mut sorted = fields.concat();
        sorted.extend_from_slice(&self.0[known..]);
        Self(sorted)
    }
}
