//! Forwarding-database entries of bridges and VXLAN devices, and IP neighbours.

use std::net::IpAddr;

use crate::error::Result;
use crate::msg::{self, Msg};
use crate::rtnl::Rtnl;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
const NTF_SELF: u8 = 0x02;
const NTF_MASTER: u8 = 0x04;
const NTF_STICKY: u8 = 0x40;
const NUD_PROBE: u16 = 0x10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// A forwarding-database entry: which port of a bridge, or which remote tunnel end, has a MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// The bridge port or VXLAN device, by index.
    pub index: u32,
    /// The address; all zeroes on a VXLAN device is the list that unknown addresses are flooded to.
    pub mac: [u8; 6],
    /// The remote tunnel end, of entries of a VXLAN device.
    pub remote: Option<IpAddr>,
    /// The entry is the device's own (`self`) and not its bridge's (`master`).
    pub own: bool,
    /// It was set, and neither ages nor moves to another port that sends from the address.
    pub permanent: bool,
}

/// An IP neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The device, by index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// The MAC address, if known.
    pub mac: Option<[u8; 6]>,
    /// It was set and does not age.
    pub permanent: bool,
}

/// `struct ndmsg`.
fn head(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut head = [0; 12];
    head[0] = family;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..10].copy_from_slice(&state.to_ne_bytes());
    head[10] = flags;
    head
}

fn put_ip(m: &mut Msg, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(a) => m.attr(kind, &a.octets()),
        IpAddr::V6(a) => m.attr(kind, &a.octets()),
    }
}

pub(crate) fn read_ip(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn fdb(kind: u16, flags: i32, op: &'static str, entry: &FdbEntry) -> Msg {
    // Without STICKY a frame that comes in elsewhere from a bridge's static address would move it there.
    let side = if entry.own { NTF_SELF } else { NTF_MASTER | NTF_STICKY };
    // A bridge reads PERMANENT as "an address of the bridge itself", NOARP as "static": a frame to
    // a static address is forwarded by that port (net/bridge/br_fdb.c, fdb_add_entry).
    let state = if entry.own { NUD_PERMANENT } else { NUD_NOARP };
    let subject = format!("{} on link {}", mac_text(entry.mac), entry.index);
    let mut m = Msg::new(kind, flags, op, subject).raw(&head(libc::AF_BRIDGE as u8, entry.index, state, side));
    m.attr(NDA_LLADDR, &entry.mac);
    if let Some(remote) = entry.remote {
        put_ip(&mut m, NDA_DST, remote);
    }
    m
}

impl Rtnl {
    /// Sets forwarding entries in one batch. Several remotes may share the all-zero address of a
    /// VXLAN device; otherwise an entry replaces the one of the same address.
    /// One result per entry; an entry that is there already is no fault.
    pub fn fdb_set(&mut self, entries: &[FdbEntry]) -> Vec<Result<()>> {
        let msgs = entries
            .iter()
            .map(|e| {
                let many = e.mac == [0; 6];
                let flags = if many { libc::NLM_F_APPEND } else { libc::NLM_F_REPLACE };
                fdb(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | flags, "set forwarding entry", e)
            })
            .collect();
        let settle = |r: Result<()>| match r {
            Err(e) if e.is_exists() => Ok(()),
            r => r,
        };
        self.socket.batch(msgs).into_iter().map(settle).collect()
    }

    /// Deletes forwarding entries in one batch; one result per entry, missing ones are reported.
    pub fn fdb_delete(&mut self, entries: &[FdbEntry]) -> Vec<Result<()>> {
        let msgs = entries.iter().map(|e| fdb(libc::RTM_DELNEIGH, 0, "delete forwarding entry", e)).collect();
        self.socket.batch(msgs)
    }

    /// Every forwarding entry of the namespace's bridges and VXLAN devices.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn fdb(&mut self) -> Result<Vec<FdbEntry>> {
        self.fdb_of(0)
    }

    /// The forwarding entries of one bridge port or VXLAN device, by index.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn fdb_of(&mut self, index: u32) -> Result<Vec<FdbEntry>> {
        let m = Msg::new(libc::RTM_GETNEIGH, 0, "list", "forwarding entries").raw(&head(
            libc::AF_BRIDGE as u8,
            index,
            0,
            0,
        ));
        self.socket.dump(m, |body| {
            let state = msg::u16_at(body, 8)?;
            let flags = *body.get(10)?;
            let attributes = body.get(12..)?;
            if msg::find(attributes, NDA_VLAN).is_some() {
                return None;
            }
            Some(FdbEntry {
                index: msg::u32_at(body, 4)?,
                mac: msg::find(attributes, NDA_LLADDR)?.try_into().ok()?,
                remote: msg::find(attributes, NDA_DST).and_then(read_ip),
                own: flags & NTF_SELF != 0 && msg::find(attributes, NDA_MASTER).is_none(),
                permanent: state & NUD_PERMANENT != 0 || state & NUD_NOARP != 0 && flags & (NTF_SELF | NTF_STICKY) != 0,
            })
        })
    }

    /// Sets permanent IP neighbours in one batch, replacing what is there; one result per entry.
    pub fn neighbours_set(&mut self, entries: &[(u32, IpAddr, [u8; 6])]) -> Vec<Result<()>> {
        let msgs = entries
            .iter()
            .map(|(index, ip, mac)| {
                let mut m = Msg::new(
                    libc::RTM_NEWNEIGH,
                    libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
                    "set neighbour",
                    format!("{ip} on link {index}"),
                )
                .raw(&head(family(*ip), *index, NUD_PERMANENT, 0));
                put_ip(&mut m, NDA_DST, *ip);
                m.attr(NDA_LLADDR, mac);
                m
            })
            .collect();
        self.socket.batch(msgs)
    }

    /// Makes the kernel ask a neighbour that it knows whether it is still there (RFC 4861 section 7.3.3, and the same for ARP).
    ///
    /// # Errors
    /// [`crate::Error::is_missing`] if it knows none.
    pub fn neighbour_ask(&mut self, index: u32, ip: IpAddr) -> Result<()> {
        let subject = format!("{ip} on link {index}");
        let m = Msg::new(libc::RTM_NEWNEIGH, libc::NLM_F_REPLACE, "ask", subject);
        let mut m = m.raw(&head(family(ip), index, NUD_PROBE, 0));
        put_ip(&mut m, NDA_DST, ip);
        self.socket.request(m)
    }

    /// Deletes an IP neighbour.
    ///
    /// # Errors
    /// [`crate::Error::is_missing`] if there is none.
    pub fn neighbour_delete(&mut self, index: u32, ip: IpAddr) -> Result<()> {
        let subject = format!("{ip} on link {index}");
        let mut m = Msg::new(libc::RTM_DELNEIGH, 0, "delete neighbour", subject).raw(&head(family(ip), index, 0, 0));
        put_ip(&mut m, NDA_DST, ip);
        self.socket.request(m)
    }

    /// Every IP neighbour of the namespace, both families.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let m = Msg::new(libc::RTM_GETNEIGH, 0, "list", "neighbours").raw(&head(0, 0, 0, 0));
        self.socket.dump(m, |body| {
            let attributes = body.get(12..)?;
            Some(Neighbour {
                index: msg::u32_at(body, 4)?,
                ip: read_ip(msg::find(attributes, NDA_DST)?)?,
                mac: msg::find(attributes, NDA_LLADDR).and_then(|d| d.try_into().ok()),
                permanent: msg::u16_at(body, 8)? & NUD_PERMANENT != 0,
            })
        })
    }
}

pub(crate) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}
