//! The rules of one NIC that `nft`'s language has no words for: keys with the number of an echo request, with no ports, and of the
//! packet that an ICMP error quotes.

use std::time::Duration;

use multihome_model::IfName;
use multihome_netlink::nft::{Base, Expr};

use super::rules::{Ip, Way};

/// How long an echo request waits for its answer (RFC 5508 REQ-1: at least 60 s).
const ECHO: Duration = Duration::from_secs(60);
/// How long a conversation by another protocol is remembered, as Linux does (nf_conntrack_generic_timeout).
const OTHER: Duration = Duration::from_secs(600);

/// Loads a key: both addresses, the protocol, and what stands for the ports.
struct Key(Vec<Expr>);

/// What stands for the ports of a conversation.
enum Ports {
    /// The number of an echo request (RFC 792), twice: at this offset of the transport's header.
    Echo(u32),
    /// Ports at these offsets of the transport's header, the NIC's first.
    At(u32, u32),
    /// Nothing.
    None,
}

impl Key {
    /// From fields: base and offset of the NIC's address and of the other, and what loads the protocol.
    fn new(base: Base, ip: Ip, addresses: (u32, u32), protocol: Option<u32>, ports: &Ports) -> Self {
        let length = ip.length();
        let words = length / 4;
        let load = |base, offset, length, register| Expr::Payload { base, offset, length, register };
        let mut out = vec![load(base, addresses.0, length, 0), load(base, addresses.1, length, words)];
        let after = 2 * words;
        out.push(match protocol {
            Some(offset) => load(base, offset, 1, after),
            None => Expr::Protocol { register: after },
        });
        let (near, far) = (after + 1, after + 2);
        let t = Base::Transport;
        match *ports {
            Ports::Echo(at) => out.extend([load(t, at, 2, near), load(t, at, 2, far)]),
            Ports::At(mine, theirs) => out.extend([load(t, mine, 2, near), load(t, theirs, 2, far)]),
            Ports::None => out.extend([Expr::Zero { register: near }, Expr::Zero { register: far }]),
        }
        Self(out)
    }

    /// Of a packet itself.
    fn of(way: Way, ip: Ip, ports: &Ports) -> Self {
        let (source, destination) = (ip.source(), ip.source() + ip.length());
        let addresses = if way == Way::Out { (source, destination) } else { (destination, source) };
        Self::new(Base::Network, ip, addresses, None, ports)
    }

    /// Of the packet that an ICMP error quotes behind its 8 bytes (RFC 792, RFC 4443 section 3), without options or extension
    /// headers: it went the other way.
    fn quoted(way: Way, ip: Ip, ports: fn(Way, u32) -> Ports) -> Self {
        const QUOTED: u32 = 8;
        let (header, protocol) = if ip == Ip::V4 { (20, 9) } else { (40, 6) };
        let (source, destination) = (QUOTED + ip.source(), QUOTED + ip.source() + ip.length());
        let addresses = if way == Way::In { (source, destination) } else { (destination, source) };
        Self::new(Base::Transport, ip, addresses, Some(QUOTED + protocol), &ports(way, QUOTED + header))
    }

    fn then(&self, more: impl IntoIterator<Item = Expr>) -> Vec<Expr> {
        self.0.iter().cloned().chain(more).collect()
    }
}

/// The rules that the language has no words for, by their chains, which must be empty.
pub(super) fn rules(nic: &IfName) -> Vec<(String, Vec<Expr>)> {
    let mut out = vec![];
    for (way, ip) in Way::ALL.into_iter().flat_map(|way| Ip::ALL.map(|ip| (way, ip))) {
        let (w, a, b, n) = (way.name(), way.opens(), way.answers(), ip.digit());
        let mut add = |kind: &str, exprs| out.push((format!("{nic}-{kind}-{w}{n}"), exprs));
        let set = |name: char| format!("{nic}-{name}{n}");
        let lookup = |name: char| Expr::Lookup { set: set(name) };
        let update = |name: char, timeout| Expr::Update { set: set(name), timeout };
        let echo = Key::of(way, ip, &Ports::Echo(4));
        add("echo", echo.then([lookup(b), Expr::Accept]));
        add("asks", echo.then([update(a, ECHO), Expr::Accept]));
        let other = Key::of(way, ip, &Ports::None);
        for name in [a, b] {
            add("other", other.then([lookup(name), update(name, OTHER), Expr::Accept]));
        }
        add("begins", other.then([update(a, OTHER), Expr::Accept]));
        let ports: [fn(Way, u32) -> Ports; 3] = [
            |way, at| if way == Way::In { Ports::At(at, at + 2) } else { Ports::At(at + 2, at) },
            |_, at| Ports::Echo(at + 4),
            |_, _| Ports::None,
        ];
        for (key, name) in ports.into_iter().flat_map(|p| [a, b].map(|name| (Key::quoted(way, ip, p), name))) {
            add("quoted", key.then([lookup(name), Expr::Accept]));
        }
    }
    out
}
