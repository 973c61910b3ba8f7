//! A guest of raw frames over a tap's descriptor, as QEMU holds one: answers neighbours and ping for its
//! addresses, 10.N.0.M and fd00:N::M, and keeps every frame that it is shown.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The length of `struct virtio_net_hdr`, which says: no offloads. Open vSwitch in user space takes frames as they are on the wire.
fn vnet() -> usize {
    if super::plain() { 0 } else { 10 }
}
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Long enough for a frame through the kernel, on a busy machine.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// How long silence must last to be believed.
pub const SILENCE: Duration = Duration::from_millis(250);

pub struct Guest {
    pub mac: [u8; 6],
    pub ip: Ipv4Addr,
    pub six: Ipv6Addr,
    tap: File,
    frames: Receiver<Vec<u8>>,
}

fn write(tap: &mut File, frame: &[u8]) -> std::io::Result<()> {
    let mut bytes = vec![0; vnet()];
    bytes.extend_from_slice(frame);
    tap.write_all(&bytes)
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

pub fn arp(op: u16, mac: [u8; 6], ip: Ipv4Addr, to: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend(op.to_be_bytes());
    p.extend(mac);
    p.extend(ip.octets());
    p.extend(if to == BROADCAST { [0; 6] } else { to });
    p.extend(target.octets());
    p
}

pub fn checksum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0];
    p.extend((20 + payload.len() as u16).to_be_bytes());
    p.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    p.extend(from.octets());
    p.extend(to.octets());
    let sum = checksum(&p).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
    p.extend_from_slice(payload);
    p
}

pub fn udp(from: u16, to: u16) -> Vec<u8> {
    let mut p = from.to_be_bytes().to_vec();
    p.extend(to.to_be_bytes());
    p.extend([0, 16, 0, 0]);
    p.extend(*b"payload!");
    p
}

/// A DHCPDISCOVER for a client of this hardware address (RFC 2131 section 2), as UDP.
pub fn discover(client: [u8; 6]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.resize(28, 0);
    message.extend(client);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let length = 8 + message.len() as u16;
    let mut p = [68u16, 67, length, 0].map(u16::to_be_bytes).concat();
    p.extend(message);
    p
}

pub fn echo(kind: u8, id: u16) -> Vec<u8> {
    let mut p = vec![kind, 0, 0, 0];
    p.extend(id.to_be_bytes());
    p.extend([0, 1]);
    p.extend(*b"multihome");
    let sum = checksum(&p).to_be_bytes();
    p[2..4].copy_from_slice(&sum);
    p
}

/// ICMPv6 with a target address, as in neighbour discovery; checksums are nobody's business here.
pub fn icmp6(from: [u8; 16], to: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    p.extend(from);
    p.extend(to);
    p.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    p.extend(target);
    p
}

/// ICMPv6 with its checksum right (RFC 4443 section 2.3), in IPv6.
pub fn icmp6_packet(from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = (message.len() as u16).to_be_bytes();
    message[2..4].fill(0);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    [&[0x60, 0, 0, 0][..], &length, &[58, 255], &from.octets(), &to.octets(), &message].concat()
}

/// Asks or tells a neighbour about an address (RFC 4861 sections 4.3 and 4.4), with the sender's MAC.
pub fn neighbour(kind: u8, target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let (flags, option) = if kind == 135 { (0, 1) } else { (0x60, 2) };
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), &[option, 1], &mac].concat()
}

fn six_at(frame: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?))
}

/// Whether two frames are the same but for padding, which the kernel's filters cut off.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let n = a.len().min(b.len());
    n >= 38 && a[..n] == b[..n]
}

impl Guest {
    pub fn new(fd: OwnedFd, mac: [u8; 6], ip: Ipv4Addr) -> Self {
        let [_, n, _, m] = ip.octets();
        let six: Ipv6Addr = format!("fd00:{n}::{m}").parse().unwrap();
        let tap = File::from(fd);
        let mut own = tap.try_clone().unwrap();
        let (seen, frames) = channel();
        // Ends when the tap is deleted or the guest is forgotten.
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            loop {
                const EBADFD: i32 = 77;
                let n = match own.read(&mut buf) {
                    Ok(n) => n,
                    Err(e) if e.raw_os_error() == Some(EBADFD) => break,
                    // The device is down; it may come up again.
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    }
                };
                let frame = buf.get(vnet()..n).unwrap_or_default().to_vec();
                if let Some(answer) = answer(&frame, mac, ip).or_else(|| answer6(&frame, mac, six)) {
                    let _ = write(&mut own, &answer);
                }
                if seen.send(frame).is_err() {
                    break;
                }
            }
        });
        Self { mac, ip, six, tap, frames }
    }

    /// Sends a frame of which something is left to others to do, as its header says (`struct virtio_net_hdr`).
    pub fn send_offloaded(&mut self, header: &[u8], frame: &[u8]) {
        self.tap.write_all(&[header, frame].concat()).unwrap();
    }

    pub fn send(&mut self, frame: &[u8]) {
        write(&mut self.tap, frame).unwrap();
    }

    /// The first frame to come that is wanted.
    pub fn sees(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        while let Ok(f) = self.frames.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if wanted(&f) {
                return Some(f);
            }
        }
        None
    }

    pub fn forget(&self) {
        while self.frames.try_recv().is_ok() {}
    }

    pub fn resolve(&mut self, ip: Ipv4Addr, patience: Duration) -> Option<[u8; 6]> {
        let (mac, own) = (self.mac, self.ip);
        let request = ethernet(BROADCAST, mac, 0x0806, &arp(1, mac, own, BROADCAST, ip));
        self.send(&request);
        let answer =
            self.sees(patience, |f| f.len() >= 42 && f[12..14] == [8, 6] && f[21] == 2 && f[28..32] == ip.octets())?;
        answer[22..28].try_into().ok()
    }

    /// Asks for the MAC of an IPv6 neighbour.
    pub fn resolve6(&mut self, ip: Ipv6Addr, patience: Duration) -> Option<[u8; 6]> {
        let [.., x, y, z] = ip.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
        let packet = icmp6_packet(self.six, group, neighbour(135, ip, self.mac));
        self.send(&ethernet([0x33, 0x33, 0xff, x, y, z], self.mac, 0x86dd, &packet));
        let wanted = |f: &[u8]| f.len() >= 86 && f[20] == 58 && f[54] == 136 && six_at(f, 62) == Some(ip);
        self.sees(patience, wanted)?[6..12].try_into().ok()
    }

    /// Pings an IPv6 address by way of a next hop.
    pub fn ping6(&mut self, to: Ipv6Addr, via: Ipv6Addr, patience: Duration) -> bool {
        let Some(hop) = self.resolve6(via, patience) else { return false };
        let message = [&[128, 0, 0, 0][..], &next_id().to_be_bytes(), &[0, 1], b"multihome!"].concat();
        let packet = icmp6_packet(self.six, to, message);
        self.send(&ethernet(hop, self.mac, 0x86dd, &packet));
        let own = self.six;
        let wanted = |f: &[u8]| f.len() >= 62 && f[20] == 58 && f[54] == 129 && six_at(f, 22) == Some(to);
        self.sees(patience, |f| wanted(f) && six_at(f, 38) == Some(own)).is_some()
    }

    /// Pings an address by way of a next hop.
    pub fn ping(&mut self, to: Ipv4Addr, via: Ipv4Addr) -> bool {
        self.ping_for(to, via, PATIENCE)
    }

    pub fn ping_for(&mut self, to: Ipv4Addr, via: Ipv4Addr, patience: Duration) -> bool {
        self.ping_as(next_id(), to, via, patience)
    }

    /// A ping of a conversation, which the number tells from others.
    pub fn ping_as(&mut self, id: u16, to: Ipv4Addr, via: Ipv4Addr, patience: Duration) -> bool {
        let Some(hop) = self.resolve(via, patience) else { return false };
        let packet = ipv4(self.ip, to, 1, &echo(8, id));
        self.send(&ethernet(hop, self.mac, 0x0800, &packet));
        self.sees(patience, |f| {
            f.len() >= 42 && f[12..14] == [8, 0] && f[23] == 1 && f[26..30] == to.octets() && f[34] == 0
        })
        .is_some()
    }
}

/// A conversation of its own: one that the kernel remembers may be let through where a new one is not.
fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(77);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn answer6(f: &[u8], mac: [u8; 6], own: Ipv6Addr) -> Option<Vec<u8>> {
    if f.get(12..14)? != [0x86, 0xdd] || *f.get(20)? != 58 {
        return None;
    }
    let (from, asker): ([u8; 6], _) = (f.get(6..12)?.try_into().ok()?, six_at(f, 22)?);
    let length = usize::from(u16::from_be_bytes([f[18], f[19]]));
    let answer = match *f.get(54)? {
        135 if six_at(f, 62)? == own && !asker.is_unspecified() => neighbour(136, own, mac),
        128 if six_at(f, 38)? == own => {
            let mut echo = f.get(54..54 + length)?.to_vec();
            echo[0] = 129;
            echo
        }
        _ => return None,
    };
    Some(ethernet(from, mac, 0x86dd, &icmp6_packet(own, asker, answer)))
}

fn answer(f: &[u8], mac: [u8; 6], ip: Ipv4Addr) -> Option<Vec<u8>> {
    if f.len() < 42 {
        return None;
    }
    let from: [u8; 6] = f[6..12].try_into().ok()?;
    match (&f[12..14], f[23]) {
        ([8, 6], _) if f[21] == 1 && f[38..42] == ip.octets() => {
            let asker = Ipv4Addr::from(<[u8; 4]>::try_from(&f[28..32]).ok()?);
            Some(ethernet(from, mac, 0x0806, &arp(2, mac, ip, from, asker)))
        }
        ([8, 0], 1) if f[30..34] == ip.octets() && f[34] == 8 => {
            let asker = Ipv4Addr::from(<[u8; 4]>::try_from(&f[26..30]).ok()?);
            let total = usize::from(u16::from_be_bytes([f[16], f[17]]));
            let mut icmp = f.get(34..14 + total)?.to_vec();
            icmp[0] = 0;
            icmp[2..4].fill(0);
            let sum = checksum(&icmp).to_be_bytes();
            icmp[2..4].copy_from_slice(&sum);
            Some(ethernet(from, mac, 0x0800, &ipv4(ip, asker, 1, &icmp)))
        }
        _ => None,
    }
}
