//! The conversations that a network namespace remembers (connection tracking): listed, and forgotten one by one.
//!
//! Numbers from include/uapi/linux/netfilter/nfnetlink_conntrack.h. A rule decides on a conversation's first packet, and an address
//! translation holds until its end; who takes back what a rule allowed has to end what runs.

use std::net::IpAddr;

use crate::error::{Error, Idempotent, Result};
use crate::msg::{self, Msg};
use crate::neigh::{family, read_ip};
use crate::netns::Netns;
use crate::socket::Socket;

const SUBSYS: u16 = 1 << 8;
const GET: u16 = SUBSYS | 1;
const DELETE: u16 = SUBSYS | 2;
const NESTED: u16 = 0x8000;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// One direction of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Where its packets are from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The protocol (IANA): 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Source and destination port; 0 where the protocol has none.
    pub ports: (u16, u16),
}

/// A conversation: what its first packet looked like before any translation, and what its answers look like before theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The direction in which it began.
    pub original: Tuple,
    /// The way back. Where nothing is translated, the original the other way round.
    pub reply: Tuple,
    /// Its mark; 0 if it has none.
    pub mark: u32,
    /// How the kernel knows it: the original tuple as it said it, and its number.
    key: (Vec<u8>, Vec<u8>),
}

/// A socket for the conversations of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

/// `struct nfgenmsg` of any family.
const HEAD: [u8; 4] = [0; 4];

impl Conntrack {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the system refuses the socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(|| Ok(Self { socket: Socket::open(libc::NETLINK_NETFILTER)? }))?
    }

    /// Ends the conversations that `which` says, and returns how many. Only those are held in memory, however many there are.
    ///
    /// # Errors
    /// When the kernel refuses to list or to forget them; [`Error::is_unsupported`] where it cannot be asked (`CONFIG_NF_CT_NETLINK`).
    pub fn end(&mut self, mut which: impl FnMut(&Conversation) -> bool) -> Result<usize> {
        let list = Msg::new(GET, 0, "list", "conversations").raw(&HEAD);
        let found = self.socket.dump(list, |body| parse(body).filter(&mut which)).map_err(|e| match e.errno() {
            // What netfilter says of a subsystem that it does not have.
            Some(libc::EINVAL) => Error::kernel("list", "conversations", libc::EOPNOTSUPP),
            _ => e,
        })?;
        let count = found.len();
        let forget = |c: Conversation| {
            let (tuple, id) = c.key;
            let subject = format!("{} > {}", c.original.source, c.original.destination);
            let mut m = Msg::new(DELETE, 0, "end conversation", subject).raw(&[family(c.original.source), 0, 0, 0]);
            m.attr(TUPLE_ORIG | NESTED, &tuple);
            if !id.is_empty() {
                m.attr(ID, &id);
            }
            m
        };
        // One that has ended by itself meanwhile is no fault.
        for result in self.socket.batch(found.into_iter().map(forget).collect()) {
            result.unless_missing()?;
        }
        Ok(count)
    }
}

fn parse(body: &[u8]) -> Option<Conversation> {
    let attributes = body.get(HEAD.len()..)?;
    let original = msg::find(attributes, TUPLE_ORIG)?;
    let reply = msg::find(attributes, TUPLE_REPLY)?;
    let id = msg::find(attributes, ID).unwrap_or_default();
    let mark = msg::find(attributes, MARK).and_then(|m| Some(u32::from_be_bytes(m.try_into().ok()?)));
    let key = (original.to_vec(), id.to_vec());
    Some(Conversation { original: tuple(original)?, reply: tuple(reply)?, mark: mark.unwrap_or(0), key })
}

fn tuple(data: &[u8]) -> Option<Tuple> {
    let (ip, protocol) = (msg::find(data, TUPLE_IP)?, msg::find(data, TUPLE_PROTO)?);
    let address = |v4, v6| read_ip(msg::find(ip, v4).or_else(|| msg::find(ip, v6))?);
    let port = |kind| msg::find(protocol, kind).and_then(|p| Some(u16::from_be_bytes(p.try_into().ok()?)));
    Some(Tuple {
        source: address(IP_V4_SRC, IP_V6_SRC)?,
        destination: address(IP_V4_DST, IP_V6_DST)?,
        protocol: *msg::find(protocol, PROTO_NUM)?.first()?,
        ports: (port(PROTO_SRC_PORT).unwrap_or(0), port(PROTO_DST_PORT).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = parse(&body);
        }
    }
}
