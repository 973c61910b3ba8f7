//! Cables between a guest's NIC and a tap or another device, as QEMU and the world are them: frames one way and the
//! other, in order, and on demand late.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::Result;

/// The largest frame, in bytes: a jumbo frame.
const FRAME: usize = 9216;
/// Length of the header that a tap puts before every frame, in bytes (`struct virtio_net_hdr`, linux/virtio_net.h).
const VNET: usize = 10;
/// Its first byte where the checksum is still to be filled in.
const NEEDS_CHECKSUM: u8 = 1;

/// What a cable ends in.
#[derive(Debug)]
enum Plug {
    Tap(OwnedFd),
    Device(PacketSocket),
}

impl AsRawFd for Plug {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tap(fd) => fd.as_raw_fd(),
            Self::Device(s) => s.as_raw_fd(),
        }
    }
}

/// One end of a cable.
#[derive(Debug, Clone)]
pub struct End(Arc<AsyncFd<Plug>>);

impl End {
    /// A tap's descriptor, as QEMU holds it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn tap(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::new(Plug::Tap(fd))
    }

    /// A device of the calling thread's namespace.
    ///
    /// # Errors
    /// When it is not there.
    pub fn device(ifindex: u32) -> Result<Self> {
        Self::new(Plug::Device(PacketSocket::open(ifindex, &filter::all())?))
    }

    #[expect(deprecated, reason = "the replacement is unsafe, and both kinds keep their descriptor")]
    fn new(plug: Plug) -> Result<Self> {
        Ok(Self(Arc::new(AsyncFd::new(plug)?)))
    }

    /// The frames that are there, each with whether its checksum is still to be filled in. Empty: the other end is gone.
    async fn receive(&self, batch: &mut FrameBatch) -> Vec<(Vec<u8>, bool)> {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return vec![] };
            let got = ready.try_io(|plug| match plug.get_ref() {
                Plug::Tap(fd) => {
                    let mut buf = [0; FRAME];
                    let n = rustix::io::read(fd, &mut buf)?;
                    Ok(vec![(buf.get(VNET..n).unwrap_or_default().to_vec(), buf[0] & NEEDS_CHECKSUM != 0)])
                }
                Plug::Device(s) => {
                    s.receive(batch)?;
                    Ok(batch.iter().map(|f| (f.data.to_vec(), f.checksum_pending)).collect())
                }
            });
            match got {
                Err(_would_block) => {}
                Ok(Ok(frames)) if frames.is_empty() => {}
                Ok(Ok(frames)) => return frames,
                // Down; it may come up again.
                Ok(Err(e)) if e.raw_os_error() == Some(rustix::io::Errno::NETDOWN.raw_os_error()) => {}
                Ok(Err(_)) => return vec![],
            }
        }
    }

    fn send(&self, frame: &[u8], pending: bool) {
        // A cable loses what the other end does not take, as cables do.
        let _ = match self.0.get_ref() {
            Plug::Tap(fd) => {
                let mut bytes = header(frame, pending).to_vec();
                bytes.extend_from_slice(frame);
                rustix::io::write(fd, &bytes).map(drop).map_err(Into::into)
            }
            Plug::Device(s) if pending => s.send(&filled_in(frame)),
            Plug::Device(s) => s.send(frame),
        };
    }
}

/// Where a frame's transport checksum counts from, and where in that it is.
fn checksum_at(frame: &[u8]) -> Option<(usize, usize)> {
    let at = |i: usize| frame.get(i).copied().unwrap_or_default();
    let (start, protocol) = match (at(12), at(13)) {
        (8, 0) => (14 + usize::from(at(14) & 0xf) * 4, at(23)),
        (0x86, 0xdd) => (54, at(20)),
        _ => return None,
    };
    let offset = match protocol {
        6 => 16,
        17 => 6,
        58 => 2,
        _ => return None,
    };
    (frame.len() >= start + offset + 2).then_some((start, offset))
}

/// The header of a frame for a tap; a virtio guest leaves transport checksums to the host.
fn header(frame: &[u8], pending: bool) -> [u8; VNET] {
    let mut h = [0; VNET];
    if let Some((start, offset)) = checksum_at(frame).filter(|_| pending) {
        h[0] = NEEDS_CHECKSUM;
        h[6..8].copy_from_slice(&(start as u16).to_ne_bytes());
        h[8..10].copy_from_slice(&(offset as u16).to_ne_bytes());
    }
    h
}

/// A frame with the checksum that its sender left to hardware. The kernel left the sum of the pseudo header in its place
/// (include/linux/skbuff.h, CHECKSUM_PARTIAL).
fn filled_in(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    if let Some((start, offset)) = checksum_at(frame) {
        let word = |w: &[u8]| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b));
        let mut sum: u32 = frame[start..].chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        out[start + offset..start + offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    out
}

/// A cable in place. It is pulled when this is dropped.
#[derive(Debug)]
pub struct Cable([JoinHandle<()>; 2]);

impl Drop for Cable {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Cable {
    /// Connects a guest's NIC. What comes from the network arrives `late`.
    pub fn new(guest: End, network: End, late: Duration) -> Self {
        let out = tokio::spawn(carry(guest.clone(), network.clone(), Duration::ZERO));
        Self([out, tokio::spawn(carry(network, guest, late))])
    }
}

async fn carry(from: End, to: End, late: Duration) {
    let mut batch = FrameBatch::new(16, FRAME);
    let mut queue: VecDeque<(Instant, Vec<u8>, bool)> = VecDeque::new();
    loop {
        let due = queue.front().map(|(at, ..)| *at);
        tokio::select! {
            frames = from.receive(&mut batch) => {
                if frames.is_empty() {
                    return;
                }
                for (frame, pending) in frames {
                    if late.is_zero() {
                        to.send(&frame, pending);
                    } else {
                        queue.push_back((Instant::now() + late, frame, pending));
                    }
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, frame, pending)) = queue.pop_front() {
                    to.send(&frame, pending);
                }
            }
        }
    }
}
