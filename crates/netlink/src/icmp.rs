//! Raw ICMP sockets that hear echo replies alone: what programs named `ping` use.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::error::{Error, Result};

/// Types of messages (RFC 792, RFC 4443 section 4.2).
const ECHO_REPLY: u32 = 0;
const ECHO_REPLY6: u32 = 129;
/// Options that name the types that are kept back, a bit for each (linux/icmp.h and linux/icmpv6.h).
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;

/// A non-blocking socket for ICMP or ICMPv6, by which whole messages are sent by the ordinary routing of its namespace.
#[derive(Debug)]
pub struct IcmpSocket {
    /// The standard library's calls of a UDP socket pass bytes and addresses on, and ask nothing about ports of the kernel.
    socket: UdpSocket,
}

impl IcmpSocket {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// Without the right to (`CAP_NET_RAW`), and where the kernel lacks the family.
    pub fn open(ipv6: bool) -> Result<Self> {
        let (name, family, protocol) = if ipv6 {
            ("raw ICMPv6 socket", libc::AF_INET6, libc::IPPROTO_ICMPV6)
        } else {
            ("raw ICMP socket", libc::AF_INET, libc::IPPROTO_ICMP)
        };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket() takes no pointers; the result is checked before it is owned.
        let raw = unsafe { libc::socket(family, kind, protocol) };
        if raw < 0 {
            return Err(Error::last("open", name));
        }
        // SAFETY: raw is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let set = if ipv6 {
            let mut kept_back = [u32::MAX; 8];
            kept_back[(ECHO_REPLY6 / 32) as usize] &= !(1 << (ECHO_REPLY6 % 32));
            keep_back(fd.as_fd(), libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &kept_back)
        } else {
            keep_back(fd.as_fd(), libc::SOL_RAW, ICMP_FILTER, &[!(1 << ECHO_REPLY)])
        };
        set.map_err(|e| Error::io("configure", name, e))?;
        Ok(Self { socket: fd.into() })
    }

    /// Sends one message. The kernel puts the IP header before it, and into one of ICMPv6 the checksum (RFC 3542 section 3.1).
    ///
    /// # Errors
    /// The system's error, for example where no route leads to the address.
    pub fn send(&self, message: &[u8], to: IpAddr) -> io::Result<()> {
        self.socket.send_to(message, (to, 0)).map(drop)
    }

    /// Receives one message, and says its length and from whom it is; what is longer than `buf` is cut. ICMP comes with the IP
    /// header before it and an unchecked checksum, ICMPv6 without the header, its checksum found right.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        self.socket.recv_from(buf).map(|(len, from)| (len, from.ip()))
    }
}

fn keep_back(fd: BorrowedFd<'_>, level: i32, option: i32, types: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe one live slice.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, types.as_ptr().cast(), size_of_val(types) as libc::socklen_t)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl AsFd for IcmpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for IcmpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
