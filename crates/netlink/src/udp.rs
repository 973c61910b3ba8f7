//! UDP sockets bound to a device, that say which address and device a datagram came in on.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::link::check_name;
use crate::socket::set_int;

/// Room for datagrams that wait to be read, in bytes.
const RECEIVE_BUFFER: i32 = 4 << 20;

#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; 128]);

/// Opens a non-blocking IPv4 UDP socket in the calling thread's namespace, with broadcast and
/// address reuse on and `IP_PKTINFO` set; bound to a device if one is named.
///
/// # Errors
/// When the address cannot be bound or there is no such device.
pub fn open(local: SocketAddrV4, device: Option<&str>) -> Result<UdpSocket> {
    let subject = || format!("UDP socket {local}");
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket() takes no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if raw < 0 {
        return Err(Error::last("open", subject()));
    }
    // SAFETY: raw is a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    for (level, option) in [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        (libc::SOL_SOCKET, libc::SO_BROADCAST),
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
    ] {
        set_int(fd.as_fd(), level, option, 1).map_err(|e| Error::io("configure", subject(), e))?;
    }
    // A burst of relayed requests waits here; what does not fit is lost and asked for again a second later. Without the
    // right to exceed the system's limit (net.core.rmem_max) the usual size stays.
    let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER);
    if let Some(device) = device {
        let name = check_name("bind UDP socket", device)?;
        // SAFETY: pointer and length describe the name's bytes.
        let r = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                name.as_ptr().cast(),
                name.len() as libc::socklen_t,
            )
        };
        if r < 0 {
            return Err(Error::last("bind UDP socket to device", name));
        }
    }
    let address = sockaddr(local);
    // SAFETY: pointer and length describe one live sockaddr_in.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
    if r < 0 { Err(Error::last("bind", subject())) } else { Ok(fd.into()) }
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Where a datagram came from and how it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Length in bytes; longer datagrams are cut to the buffer.
    pub len: usize,
    /// The sender.
    pub from: SocketAddrV4,
    /// The address that it was sent to, for example a broadcast address.
    pub to: Ipv4Addr,
    /// The device that it came in on, by index.
    pub ifindex: u32,
}

/// Receives one datagram of a socket made by [`open`].
///
/// # Errors
/// `WouldBlock` when there is none.
pub fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Arrival> {
    let mut control = Control([MaybeUninit::zeroed(); 128]);
    let mut from = sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of_val(&from) as u32;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<Control>() as _;
    // SAFETY: header points at live buffers of the lengths given.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let ip = |s_addr: u32| Ipv4Addr::from(s_addr.to_ne_bytes());
    let mut arrival = Arrival {
        len: n as usize,
        from: SocketAddrV4::new(ip(from.sin_addr.s_addr), u16::from_be(from.sin_port)),
        to: Ipv4Addr::UNSPECIFIED,
        ifindex: 0,
    };
    // SAFETY: the kernel filled the control buffer and its length; the macros stay inside it, and
    // an IP_PKTINFO message holds one in_pktinfo.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(&raw const header);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::IPPROTO_IP && (*cmsg).cmsg_type == libc::IP_PKTINFO {
                let info = libc::CMSG_DATA(cmsg).cast::<libc::in_pktinfo>().read_unaligned();
                arrival.to = ip(info.ipi_addr.s_addr);
                arrival.ifindex = info.ipi_ifindex as u32;
            }
            cmsg = libc::CMSG_NXTHDR(&raw const header, cmsg);
        }
    }
    Ok(arrival)
}

/// Sends one datagram from a chosen source address by a chosen device (index 0: any).
///
/// # Errors
/// The system's error; `WouldBlock` when the socket is full.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddrV4, source: Ipv4Addr, ifindex: u32) -> io::Result<()> {
    let mut control = Control([MaybeUninit::zeroed(); 128]);
    let to = sockaddr(to);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw const to).cast_mut().cast();
    header.msg_namelen = size_of_val(&to) as u32;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    const SIZE: u32 = size_of::<libc::in_pktinfo>() as u32;
    // SAFETY: CMSG_SPACE computes a size, 32 of our 128 bytes; the buffer is aligned and zeroed, so
    // the first header is not null and its data lies inside; the kernel only reads it all.
    let n = unsafe {
        header.msg_controllen = libc::CMSG_SPACE(SIZE) as _;
        let cmsg = libc::CMSG_FIRSTHDR(&raw const header);
        (*cmsg).cmsg_level = libc::IPPROTO_IP;
        (*cmsg).cmsg_type = libc::IP_PKTINFO;
        (*cmsg).cmsg_len = libc::CMSG_LEN(SIZE) as _;
        libc::CMSG_DATA(cmsg).cast::<libc::in_pktinfo>().write_unaligned(libc::in_pktinfo {
            ipi_ifindex: ifindex as i32,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        });
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL)
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
