//! Reading what a client sent (RFC 2131 section 2, options of RFC 2132, RFC 3396 for split ones).

use std::net::Ipv4Addr;

use multihome_model::MacAddr;

/// Option numbers that the server reads or writes.
pub mod option {
    /// Padding.
    pub const PAD: u8 = 0;
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN: u8 = 15;
    /// Interface MTU.
    pub const MTU: u8 = 26;
    /// Broadcast address.
    pub const BROADCAST: u8 = 28;
    /// Time servers.
    pub const NTP: u8 = 42;
    /// Requested address.
    pub const REQUESTED: u8 = 50;
    /// Lease time.
    pub const LEASE: u8 = 51;
    /// Overload of `file` and `sname`.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER: u8 = 54;
    /// Message for people.
    pub const TEXT: u8 = 56;
    /// Largest message that the client takes.
    pub const MAX_SIZE: u8 = 57;
    /// Renewal time.
    pub const T1: u8 = 58;
    /// Rebinding time.
    pub const T2: u8 = 59;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// Relay agent information (RFC 3046).
    pub const RELAY: u8 = 82;
    /// Search domains (RFC 3397).
    pub const SEARCH: u8 = 119;
    /// Classless static routes (RFC 3442).
    pub const ROUTES: u8 = 121;
    /// The same by Microsoft's number.
    pub const ROUTES_MS: u8 = 249;
    /// End of options.
    pub const END: u8 = 255;
}

/// Length of the fixed part, magic cookie included, in bytes.
pub const FIXED: usize = 240;
/// The magic cookie (RFC 2132 section 2).
pub const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The smallest message that old relays and clients take, in bytes (RFC 951 section 3, RFC 1542 section 2.1).
pub const MIN_SIZE: usize = 300;

/// DHCP message types (RFC 2132 section 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageType {
    /// Who has an address for me?
    Discover = 1,
    /// Have this one.
    Offer = 2,
    /// I take this one.
    Request = 3,
    /// Somebody else has it.
    Decline = 4,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
    /// I am done with it.
    Release = 7,
    /// I have an address; what else is there to know?
    Inform = 8,
}

impl MessageType {
    fn from_wire(value: u8) -> Option<Self> {
        use MessageType::*;
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform].into_iter().find(|t| *t as u8 == value)
    }
}

/// Why a packet is not a DHCP message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the fixed part.
    #[error("shorter than {FIXED} bytes")]
    Short,
    /// Not a request over Ethernet.
    #[error("not a BOOTREQUEST over Ethernet")]
    NotRequest,
    /// No magic cookie: plain BOOTP.
    #[error("no magic cookie")]
    NoCookie,
    /// An option runs over the end, or has an impossible length.
    #[error("option {0} has an impossible length")]
    Option(u8),
    /// No message type, or one that clients do not send.
    #[error("no DHCP message type that clients send")]
    Type,
}

/// A client's message, borrowed from the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The packet.
    pub raw: &'a [u8],
    /// Message type.
    pub kind: MessageType,
    /// The client's own address, if it has one.
    pub ciaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// Whether it cannot take unicast yet.
    pub broadcast: bool,
    /// Its MAC.
    pub chaddr: MacAddr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 57, in bytes.
    pub max_size: Option<u16>,
    /// Option 12.
    pub host_name: Option<&'a [u8]>,
    /// Option 55.
    pub parameters: &'a [u8],
    /// Option 61, to be echoed (RFC 6842).
    pub client_id: Option<&'a [u8]>,
    /// Option 82, to be echoed (RFC 3046 section 2.2).
    pub relay_info: Option<&'a [u8]>,
}

/// The parameter request list of ConnMan (measured with 1.44), which no other client sends.
const CONNMAN: [u8; 8] = [1, 3, 26, 252, 42, 15, 6, 12];

impl<'a> Message<'a> {
    /// Whether the client is one that makes a default route of its own where it is told no router: ConnMan, known by its
    /// parameter request list. No answer of a server keeps it from that.
    pub fn invents_routes(&self) -> bool {
        self.parameters == CONNMAN
    }

    /// Reads a client's message. Options that a server does not need are skipped; of a split option, the first part
    /// counts, because none that is read here may be longer than 255 bytes.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; FIXED] = raw.first_chunk().ok_or(Malformed::Short)?;
        if fixed[0] != 1 || fixed[1] != 1 || fixed[2] != 6 {
            return Err(Malformed::NotRequest);
        }
        if fixed[236..240] != COOKIE {
            return Err(Malformed::NoCookie);
        }
        let at = |i: usize| Ipv4Addr::new(fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]);
        let mut chaddr = [0; 6];
        chaddr.copy_from_slice(&fixed[28..34]);
        let mut m = Message {
            raw,
            kind: MessageType::Discover,
            ciaddr: at(12),
            giaddr: at(24),
            broadcast: fixed[10] & 0x80 != 0,
            chaddr: MacAddr(chaddr),
            requested: None,
            server: None,
            max_size: None,
            host_name: None,
            parameters: &[],
            client_id: None,
            relay_info: None,
        };
        let mut kind = None;
        let mut overload = 0;
        m.options(&raw[FIXED..], &mut kind, &mut overload)?;
        if overload & 1 != 0 {
            m.options(&raw[108..236], &mut kind, &mut 0)?;
        }
        if overload & 2 != 0 {
            m.options(&raw[44..108], &mut kind, &mut 0)?;
        }
        m.kind = kind.and_then(MessageType::from_wire).ok_or(Malformed::Type)?;
        Ok(m)
    }

    fn options(&mut self, mut rest: &'a [u8], kind: &mut Option<u8>, overload: &mut u8) -> Result<(), Malformed> {
        while let Some((&code, tail)) = rest.split_first() {
            match code {
                option::END => return Ok(()),
                option::PAD => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            let (&len, tail) = tail.split_first().ok_or(Malformed::Option(code))?;
            if tail.len() < usize::from(len) {
                return Err(Malformed::Option(code));
            }
            let (body, tail) = tail.split_at(usize::from(len));
            rest = tail;
            match code {
                option::TYPE => *kind = kind.or(Some(single(code, body)?)),
                option::OVERLOAD => *overload = single(code, body)?,
                option::REQUESTED => self.requested = self.requested.or(Some(address(code, body)?)),
                option::SERVER => self.server = self.server.or(Some(address(code, body)?)),
                option::MAX_SIZE => {
                    let two: [u8; 2] = body.try_into().map_err(|_| Malformed::Option(code))?;
                    self.max_size = Some(u16::from_be_bytes(two));
                }
                option::HOST_NAME => self.host_name = self.host_name.or(Some(body)),
                55 => self.parameters = body,
                option::CLIENT_ID => self.client_id = self.client_id.or(Some(body)),
                option::RELAY => self.relay_info = self.relay_info.or(Some(body)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn single(code: u8, body: &[u8]) -> Result<u8, Malformed> {
    <[u8; 1]>::try_from(body).map(|[b]| b).map_err(|_| Malformed::Option(code))
}

fn address(code: u8, body: &[u8]) -> Result<Ipv4Addr, Malformed> {
    <[u8; 4]>::try_from(body).map(Ipv4Addr::from).map_err(|_| Malformed::Option(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), shaped: bool) {
            if shaped && bytes.len() >= FIXED {
                bytes[..3].copy_from_slice(&[1, 1, 6]);
                bytes[236..240].copy_from_slice(&COOKIE);
            }
            let _ = Message::parse(&bytes);
        }
    }

    #[test]
    fn overloaded_fields_are_read() {
        let mut p = vec![0u8; FIXED];
        p[..3].copy_from_slice(&[1, 1, 6]);
        p[236..240].copy_from_slice(&COOKIE);
        p[108..115].copy_from_slice(&[53, 1, 3, 54, 4, 10, 0]);
        p[115..118].copy_from_slice(&[0, 1, 255]);
        p.extend([52, 1, 1, 255]);
        let m = Message::parse(&p).unwrap();
        assert_eq!((m.kind, m.server), (MessageType::Request, Some(Ipv4Addr::new(10, 0, 0, 1))));
        p.truncate(p.len() - 4);
        assert_eq!(Message::parse(&p), Err(Malformed::Type));
        p.extend([61, 9, 0]);
        assert_eq!(Message::parse(&p), Err(Malformed::Option(61)));
    }
}
