//! A TCP endpoint of one NIC: IP packets in, IP packets out, no I/O and no clock of its own.

use std::collections::VecDeque;
use std::time::Duration;

use multihome_guest::metadata::{ADDRESS, Response};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::frame::ADDRESSES6;
use crate::http::{Conversation, Request};

/// The port that is listened on.
const PORT: u16 = 80;
/// Connections at a time; more are refused.
const MOST: usize = 8;
/// Bytes in flight per connection, from and to the guest.
const BUFFERS: (usize, usize) = (4096, 8192);
/// A connection on which nothing happens for so long ends.
const IDLE: Duration = Duration::from_secs(15);
/// Packets that wait for the next poll; more are dropped, as on any wire.
const WAITING: usize = 64;
/// The largest packet that is sent, in bytes: passes everywhere (RFC 8200 section 5).
const MTU: usize = 1280;

#[derive(Debug, Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let r = f(&mut packet);
        self.0.push(packet);
        r
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        Some((Incoming(self.incoming.pop_front()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = MTU;
        // A virtio guest leaves TCP's checksum to hardware that there is none of.
        c.checksum.tcp = Checksum::Tx;
        c
    }
}

struct Connection {
    handle: SocketHandle,
    talk: Conversation,
    /// When something happened last.
    active: Instant,
}

/// A few connections to the metadata addresses. Its memory is bounded: [`MOST`] connections with their buffers and one
/// answer each.
pub struct Endpoint {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that listens. `seed` makes its sequence numbers hard to guess; `now` is the time since any fixed moment.
    pub fn new(seed: u64, now: Duration) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|list| {
            let all = [IpCidr::new(IpAddress::Ipv4(ADDRESS), 32)].into_iter();
            for a in all.chain(ADDRESSES6.map(|a| IpCidr::new(IpAddress::Ipv6(a), 128))) {
                // There is room for four (feature iface-max-addr-count-4).
                let _ = list.push(a);
            }
        });
        let mut sockets = SocketSet::new(vec![]);
        let connections = (0..MOST)
            .map(|_| {
                let buffer = |n| SocketBuffer::new(vec![0; n]);
                let handle = sockets.add(Socket::new(buffer(BUFFERS.0), buffer(BUFFERS.1)));
                Connection { handle, talk: Conversation::default(), active: instant(now) }
            })
            .collect();
        let mut this = Self { interface, wire, sockets, connections };
        this.serve(instant(now), &|_| unreachable_answer());
        this
    }

    /// Takes an IP packet of the guest.
    pub fn receive(&mut self, packet: &[u8]) {
        if self.wire.incoming.len() < WAITING {
            self.wire.incoming.push_back(packet.to_vec());
        }
    }

    /// Does what is due, and returns the packets for the guest.
    pub fn poll(&mut self, now: Duration, answer: &dyn Fn(&Request<'_>) -> Response) -> Vec<Vec<u8>> {
        let now = instant(now);
        // Bounded: every round but the last moves bytes of a bounded buffer.
        for _ in 0..WAITING {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            if !self.serve(now, answer) && self.wire.incoming.is_empty() {
                break;
            }
        }
        std::mem::take(&mut self.wire.outgoing)
    }

    /// How long nothing is due.
    pub fn wait(&mut self, now: Duration) -> Duration {
        let now = instant(now);
        let tcp = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
        let ends = self.connections.iter().filter(|c| !self.sockets.get::<Socket<'_>>(c.handle).is_listening());
        let ends = ends.map(|c| IDLE.saturating_sub((now - c.active).into()));
        ends.chain(tcp).min().unwrap_or(IDLE).max(Duration::from_millis(1))
    }

    /// Whether there is no connection.
    pub fn is_idle(&self) -> bool {
        self.connections.iter().all(|c| self.sockets.get::<Socket<'_>>(c.handle).is_listening())
    }

    /// Moves bytes between sockets and conversations. Says whether anything happened.
    fn serve(&mut self, now: Instant, answer: &dyn Fn(&Request<'_>) -> Response) -> bool {
        let mut moved = false;
        for c in &mut self.connections {
            moved |= c.serve(self.sockets.get_mut::<Socket<'_>>(c.handle), now, answer);
        }
        moved
    }
}

/// Nobody is connected before the first packet.
fn unreachable_answer() -> Response {
    Response { status: 404, content_type: "text/plain", body: String::new() }
}

fn instant(since: Duration) -> Instant {
    Instant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl Connection {
    fn serve(&mut self, socket: &mut Socket<'_>, now: Instant, answer: &dyn Fn(&Request<'_>) -> Response) -> bool {
        match socket.state() {
            State::Listen => {
                self.active = now;
                return false;
            }
            // All is said; who still has questions about the last segment is told by the next listener's reset.
            State::Closed | State::TimeWait => {
                socket.abort();
                self.talk = Conversation::default();
                self.active = now;
                return socket.listen(PORT).is_ok();
            }
            _ => {}
        }
        let mut moved = self.exchange(socket, answer);
        if self.talk.is_over()
            || (!socket.may_recv() && self.talk.pending().is_empty() && socket.state() != State::SynReceived)
        {
            let open = socket.may_send();
            socket.close();
            moved |= open;
        }
        if moved {
            self.active = now;
        } else if now - self.active > IDLE.into() {
            // A reset goes out with the next poll, and then it listens again.
            socket.abort();
            return true;
        }
        moved
    }

    fn exchange(&mut self, socket: &mut Socket<'_>, answer: &dyn Fn(&Request<'_>) -> Response) -> bool {
        let mut moved = false;
        let room = self.talk.room();
        if socket.can_recv() && room > 0 {
            let took = socket.recv(|bytes| {
                let n = bytes.len().min(room);
                self.talk.hear(&bytes[..n]);
                (n, n)
            });
            moved |= took.is_ok_and(|n| n > 0);
        }
        moved |= self.talk.step(answer);
        if socket.can_send() && !self.talk.pending().is_empty() {
            let n = socket.send_slice(self.talk.pending()).unwrap_or(0);
            self.talk.sent(n);
            moved |= n > 0;
        }
        moved
    }
}
