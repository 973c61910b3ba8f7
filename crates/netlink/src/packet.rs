//! Packet sockets: whole frames of one device, filtered in the kernel, in batches.
//!
//! A frame is seen before a bridge that the device is a port of sees it (packet(7): protocol
//! handlers run before `rx_handler`), whatever the bridge then does with it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::error::{Error, Result};
use crate::socket::set_int;

const PACKET_IGNORE_OUTGOING: i32 = 23;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// One instruction of a classic BPF program (linux/filter.h, `struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation code.
    pub code: u16,
    /// How many instructions to skip if the condition holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Filters for packet sockets. All but [`filter::all`] pass only what has no VLAN tag.
pub mod filter {
    use super::Insn;

    const LD_W: u16 = 0x20;
    const LD_H: u16 = 0x28;
    const LD_B: u16 = 0x30;
    const LDX_MSH: u16 = 0xb1;
    const LD_H_IND: u16 = 0x48;
    const JEQ: u16 = 0x15;
    const JSET: u16 = 0x45;
    const RET: u16 = 0x06;

    const fn load_half(at: u32) -> Insn {
        Insn { code: LD_H, jt: 0, jf: 0, k: at }
    }

    const fn load_word(at: u32) -> Insn {
        Insn { code: LD_W, jt: 0, jf: 0, k: at }
    }

    const fn load_byte(at: u32) -> Insn {
        Insn { code: LD_B, jt: 0, jf: 0, k: at }
    }

    const fn if_equal(k: u32, jt: u8, jf: u8) -> Insn {
        Insn { code: JEQ, jt, jf, k }
    }

    const fn take(k: u32) -> Insn {
        Insn { code: RET, jt: 0, jf: 0, k }
    }

    const ALL: u32 = 0x0004_0000;

    /// Every frame, with a VLAN tag or without.
    pub fn all() -> Vec<Insn> {
        vec![take(ALL)]
    }

    /// The kernel takes a frame's outer tag off before a socket sees it, so that what a trunk carries in a VLAN looks like
    /// what is said on the device itself; the filter can still tell (linux/filter.h, `SKF_AD_VLAN_TAG_PRESENT`).
    fn without_tag(program: &[Insn]) -> Vec<Insn> {
        const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
        let mut all = vec![load_word(VLAN_TAG_PRESENT), if_equal(0, 1, 0), take(0)];
        all.extend_from_slice(program);
        all
    }

    /// ARP.
    pub fn arp() -> Vec<Insn> {
        without_tag(&[load_half(12), if_equal(0x0806, 0, 1), take(ALL), take(0)])
    }

    /// ARP, ICMP and ICMPv6, where no extension header precedes it: what a prober waits for.
    pub fn arp_or_icmp() -> Vec<Insn> {
        without_tag(&[
            load_half(12),
            if_equal(0x0806, 6, 0),
            if_equal(0x0800, 0, 2),
            load_byte(23),
            if_equal(1, 3, 4),
            if_equal(0x86dd, 0, 3),
            load_byte(20),
            if_equal(58, 0, 1),
            take(ALL),
            take(0),
        ])
    }

    fn udp4(port: u32, arp: bool) -> Vec<Insn> {
        let arp_jump = if arp { 8 } else { 9 };
        without_tag(&[
            load_half(12),
            if_equal(0x0806, arp_jump, 0),
            if_equal(0x0800, 0, 8),
            load_byte(23),
            if_equal(17, 0, 6),
            load_half(20),
            // A fragment other than the first has no UDP header.
            Insn { code: JSET, jt: 4, jf: 0, k: 0x1fff },
            Insn { code: LDX_MSH, jt: 0, jf: 0, k: 14 },
            Insn { code: LD_H_IND, jt: 0, jf: 0, k: 16 },
            if_equal(port, 0, 1),
            take(ALL),
            take(0),
        ])
    }

    /// What DHCPv4 clients send: IPv4, UDP, destination port 67.
    pub fn dhcp4_requests() -> Vec<Insn> {
        udp4(67, false)
    }

    /// What DHCPv4 clients send, and ARP.
    pub fn dhcp4_requests_or_arp() -> Vec<Insn> {
        udp4(67, true)
    }

    /// What DHCPv4 servers send: IPv4, UDP, destination port 68.
    pub fn dhcp4_replies() -> Vec<Insn> {
        udp4(68, false)
    }

    /// What DHCP servers and routers send to guests: UDP over IPv4 to port 68, over IPv6 to port 546, and router
    /// advertisements (ICMPv6 type 134), the first fragment of such a packet included. IPv6 packets that begin with
    /// hop-by-hop or destination options pass, too, and are for the reader to judge.
    pub fn dhcp_replies_or_router_advertisements() -> Vec<Insn> {
        without_tag(&[
            load_half(12),
            if_equal(0x0800, 0, 7),
            load_byte(23),
            if_equal(17, 0, 26),
            load_half(20),
            Insn { code: JSET, jt: 24, jf: 0, k: 0x1fff },
            Insn { code: LDX_MSH, jt: 0, jf: 0, k: 14 },
            Insn { code: LD_H_IND, jt: 0, jf: 0, k: 16 },
            if_equal(68, 20, 21),
            if_equal(0x86dd, 0, 20),
            load_byte(20),
            if_equal(0, 17, 0),
            if_equal(60, 16, 0),
            if_equal(17, 0, 2),
            load_half(56),
            if_equal(546, 13, 14),
            if_equal(58, 0, 2),
            load_byte(54),
            if_equal(134, 10, 11),
            // A fragment (RFC 8200 section 4.5): the offset at 56, what it carries at 54, and that from 62 on.
            if_equal(44, 0, 10),
            load_half(56),
            Insn { code: JSET, jt: 8, jf: 0, k: 0xfff8 },
            load_byte(54),
            if_equal(17, 0, 2),
            load_half(64),
            if_equal(546, 3, 4),
            if_equal(58, 0, 3),
            load_byte(62),
            if_equal(134, 0, 1),
            take(ALL),
            take(0),
        ])
    }

    /// What a prober with this MAC waits for: frames to the MAC and to the group of its link-local address, probes of other
    /// nodes (EtherType 0x88b5), router advertisements, and what DHCPv4 servers send to all.
    pub fn probes(mac: [u8; 6]) -> Vec<Insn> {
        let [a, b, c, d, e, f] = mac.map(u32::from);
        vec![
            load_word(0),
            if_equal(a << 24 | b << 16 | c << 8 | d, 0, 2),
            load_half(4),
            if_equal(e << 8 | f, 16, 17),
            // 33:33:ff and the last three octets of the address, which are those of the MAC (RFC 4291 section 2.7.1).
            if_equal(0x3333_ff00 | d, 0, 2),
            load_half(4),
            if_equal(e << 8 | f, 13, 14),
            load_half(12),
            if_equal(0x88b5, 11, 0),
            if_equal(0x86dd, 0, 4),
            load_byte(20),
            if_equal(58, 0, 9),
            load_byte(54),
            if_equal(134, 6, 7),
            if_equal(0x0800, 0, 6),
            load_byte(23),
            if_equal(17, 0, 4),
            Insn { code: LDX_MSH, jt: 0, jf: 0, k: 14 },
            Insn { code: LD_H_IND, jt: 0, jf: 0, k: 16 },
            if_equal(68, 0, 1),
            take(ALL),
            take(0),
        ]
    }

    /// What guests send to the metadata service: ARP for 169.254.169.254 and IPv4 to it; IPv6 to, and ICMPv6 about, an
    /// address that ends like fe80::a9fe:a9fe or fd00:ec2::254, for the reader to judge.
    pub fn metadata() -> Vec<Insn> {
        const ADDRESS: u32 = 0xa9fe_a9fe;
        without_tag(&[
            load_half(12),
            if_equal(0x0806, 4, 0),
            if_equal(0x0800, 5, 0),
            if_equal(0x86dd, 0, 12),
            load_byte(20),
            if_equal(58, 4, 6),
            // ARP's target.
            load_word(38),
            if_equal(ADDRESS, 7, 8),
            // IPv4's destination.
            load_word(30),
            if_equal(ADDRESS, 5, 6),
            // The end of a solicitation's target.
            load_word(74),
            if_equal(ADDRESS, 3, 2),
            // The end of IPv6's destination.
            load_word(50),
            if_equal(ADDRESS, 1, 0),
            if_equal(0x0254, 0, 1),
            take(ALL),
            take(0),
        ])
    }

    /// What DHCPv6 clients send (UDP port 547), router solicitations (ICMPv6 type 133) and neighbour solicitations
    /// (135), where no extension header precedes them.
    pub fn dhcp6_requests_or_solicitations() -> Vec<Insn> {
        without_tag(&[
            load_half(12),
            if_equal(0x86dd, 0, 9),
            load_byte(20),
            if_equal(17, 0, 2),
            load_half(56),
            if_equal(547, 4, 5),
            if_equal(58, 0, 4),
            load_byte(54),
            if_equal(133, 1, 0),
            if_equal(135, 0, 1),
            take(ALL),
            take(0),
        ])
    }
}

/// A raw packet socket bound to one device.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([MaybeUninit<u8>; 64]);

/// `struct tpacket_auxdata` (linux/if_packet.h).
#[repr(C)]
struct AuxData {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// Room for a batch of frames, to be reused.
#[derive(Debug)]
pub struct FrameBatch {
    buf: Vec<u8>,
    size: usize,
    frames: Vec<(usize, u32, u16)>,
    capacity: usize,
}

/// One received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// From the destination MAC on, without VLAN tag.
    pub data: &'a [u8],
    /// The sender left the transport checksum to hardware that there is none of: it is not there
    /// yet and must not be checked (a virtio guest's UDP).
    pub checksum_pending: bool,
    /// The VLAN tag's control field, if the frame came tagged.
    pub vlan: Option<u16>,
}

impl FrameBatch {
    /// Room for `capacity` frames of at most `size` bytes; longer ones are cut.
    pub fn new(capacity: usize, size: usize) -> Self {
        let capacity = capacity.clamp(1, 1024);
        Self { buf: vec![0; capacity * size], size, frames: Vec::with_capacity(capacity), capacity }
    }

    /// The frames of the last receive.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames.iter().enumerate().map(|(i, (len, status, tci))| Frame {
            data: &self.buf[i * self.size..i * self.size + (*len).min(self.size)],
            checksum_pending: status & TP_STATUS_CSUMNOTREADY != 0,
            vlan: (status & TP_STATUS_VLAN_VALID != 0).then_some(*tci),
        })
    }

    /// How many frames the last receive got.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether the last receive got none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl PacketSocket {
    /// Opens a non-blocking socket in the calling thread's namespace, on a device of that
    /// namespace. It sees what comes in there and passes the filter, from the first frame on, and
    /// never what this machine itself sends out there.
    ///
    /// # Errors
    /// When the device is not there, or the kernel refuses the filter (root is needed).
    pub fn open(ifindex: u32, filter: &[Insn]) -> Result<Self> {
        let subject = || format!("packet socket on link {ifindex}");
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 receives nothing until bind, so no frame slips in before the filter.
        // SAFETY: socket() takes no pointers; the result is checked before it is owned.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(Error::last("open", subject()));
        }
        // SAFETY: raw is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        attach(&fd, filter).map_err(|e| Error::io("filter", subject(), e))?;
        for option in [PACKET_IGNORE_OUTGOING, libc::PACKET_AUXDATA] {
            set_int(fd.as_fd(), libc::SOL_PACKET, option, 1).map_err(|e| Error::io("configure", subject(), e))?;
        }
        // SAFETY: an all-zero sockaddr_ll is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        // SAFETY: pointer and length describe one live sockaddr_ll.
        let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
        if r < 0 { Err(Error::last("bind", subject())) } else { Ok(Self { fd }) }
    }

    /// Receives as many frames as are there and fit the batch; says how many.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `ENETDOWN` once after the device went down.
    pub fn receive(&self, batch: &mut FrameBatch) -> io::Result<usize> {
        batch.frames.clear();
        let n = batch.capacity;
        let mut controls = vec![Control([MaybeUninit::zeroed(); 64]); n];
        let mut iovs: Vec<libc::iovec> = batch
            .buf
            .chunks_exact_mut(batch.size.max(1))
            .take(n)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = iovs
            .iter_mut()
            .zip(&mut controls)
            .map(|(iov, control)| {
                // SAFETY: an all-zero mmsghdr is valid.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = iov;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_controllen = size_of::<Control>() as _;
                header
            })
            .collect();
        // SAFETY: every header points at one iovec and one control buffer that live across the call.
        let got = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        for header in &headers[..got as usize] {
            let (status, tci) = aux(&header.msg_hdr);
            batch.frames.push((header.msg_len as usize, status, tci));
        }
        Ok(got as usize)
    }

    /// Sends one frame, from the destination MAC on.
    ///
    /// # Errors
    /// The system's error; `WouldBlock` when the socket is full, `ENETDOWN` when the device is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe one live slice.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends frames in one system call; says how many of them, from the first on, went out.
    ///
    /// # Errors
    /// When not even the first could be sent.
    pub fn send_all(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut iovs: Vec<libc::iovec> =
            frames.iter().map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() }).collect();
        let mut headers: Vec<libc::mmsghdr> = iovs
            .iter_mut()
            .map(|iov| {
                // SAFETY: an all-zero mmsghdr is valid.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = iov;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        // SAFETY: every header points at one iovec over a live slice that the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, libc::MSG_DONTWAIT as _)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

fn attach(fd: &OwnedFd, filter: &[Insn]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: Insn has sock_filter's layout; the kernel copies the program during the call.
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as u32,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn aux(header: &libc::msghdr) -> (u32, u16) {
    // SAFETY: the kernel filled the control buffer and its length; the macros stay inside it, and a
    // PACKET_AUXDATA message holds one tpacket_auxdata.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(header);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_PACKET && (*cmsg).cmsg_type == libc::PACKET_AUXDATA {
                let data = libc::CMSG_DATA(cmsg).cast::<AuxData>().read_unaligned();
                return (data.status, data.vlan_tci);
            }
            cmsg = libc::CMSG_NXTHDR(header, cmsg);
        }
    }
    (0, 0)
}
