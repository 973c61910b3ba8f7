//! Frames that a flow hands to a program, which says whether they go on (ovs-actions(7), `controller` with `pause`).

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bridge::next;
use super::{HEADER, NICIRA, VERSION, kind, message};
use crate::error::{Error, Result};

/// `NXT_SET_PACKET_IN_FORMAT`, `NXT_RESUME` and `NXT_PACKET_IN2`.
const FORMAT: u32 = 16;
const RESUME: u32 = 28;
const PACKET_IN: u32 = 30;
/// Properties of the last (`NXPINT_…`).
const PACKET: u16 = 0;
const USERDATA: u16 = 7;
/// No bridge is silent for so long: it asks now and then whether we are alive.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A frame that waits for a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the flow said along with it ([`super::Actions::ask`]).
    pub said: Vec<u8>,
    /// The frame.
    pub frame: Vec<u8>,
    body: Vec<u8>,
}

/// A connection over which a bridge asks about frames.
#[derive(Debug)]
pub struct Paused {
    path: PathBuf,
    stream: UnixStream,
}

/// Ends a connection from elsewhere.
#[derive(Debug)]
pub struct Closer(UnixStream);

impl Closer {
    /// Ends it: whoever waits for a frame is told that it is gone.
    pub fn close(&self) {
        // One that is closed already is closed.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn experimenter(subtype: u32, body: &[u8]) -> Vec<u8> {
    [&NICIRA.to_be_bytes()[..], &subtype.to_be_bytes(), body].concat()
}

/// Reads what a bridge asks about; `None` for what makes no sense, or is something else.
fn held(body: &[u8]) -> Option<Held> {
    let (head, properties) = body.split_at_checked(8)?;
    if head != experimenter(PACKET_IN, &[]) {
        return None;
    }
    let (mut said, mut frame) = (vec![], None);
    let mut rest = properties;
    while let [a, b, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(4..length)?;
        match u16::from_be_bytes([a, b]) {
            PACKET => frame = Some(value.to_vec()),
            USERDATA => said = value.to_vec(),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Some(Held { said, frame: frame?, body: properties.to_vec() })
}

impl Paused {
    /// Connects to the bridge of a name, whose socket is in a directory. From then on it asks here, too.
    ///
    /// # Errors
    /// When it is not there, or does not take what is said within `timeout`.
    pub fn connect(directory: &Path, name: &str, timeout: Duration) -> Result<Self> {
        let path = directory.join(format!("{name}.mgmt"));
        let stream = UnixStream::connect(&path).map_err(|e| Error::gone(&path, e))?;
        stream.set_write_timeout(Some(timeout)).map_err(|e| Error::gone(&path, e))?;
        let mut this = Self { path, stream };
        this.send(&message(kind::HELLO, 1, &[0, 1, 0, 8, 0, 0, 0, 1 << VERSION]))?;
        // Whole frames (`miss_send_len`), in the one form that can be answered (`NXPIF_NXT_PACKET_IN2`).
        this.send(&message(kind::SET_CONFIG, 2, &[0, 0, 0xff, 0xff]))?;
        this.send(&message(kind::EXPERIMENTER, 3, &experimenter(FORMAT, &2u32.to_be_bytes())))?;
        Ok(this)
    }

    /// What ends this connection.
    ///
    /// # Errors
    /// When the system refuses another descriptor.
    pub fn closer(&self) -> Result<Closer> {
        self.stream.try_clone().map(Closer).map_err(|e| Error::gone(&self.path, e))
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn wait(&mut self) -> Result<Held> {
        loop {
            let heard = next(&mut self.stream, Instant::now() + LONGEST).map_err(|e| Error::gone(&self.path, e))?;
            match heard.kind {
                kind::ECHO_REQUEST => self.send(&message(kind::ECHO_REPLY, heard.xid, &heard.body))?,
                kind::EXPERIMENTER => {
                    if let Some(held) = held(&heard.body) {
                        return Ok(held);
                    }
                }
                _ => {}
            }
        }
    }

    /// Lets a frame go on. One that is not let is dropped.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn resume(&mut self, held: &Held) -> Result<()> {
        if held.body.len() + 2 * HEADER > usize::from(u16::MAX) {
            return Ok(());
        }
        self.send(&message(kind::EXPERIMENTER, 4, &experimenter(RESUME, &held.body)))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| Error::gone(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_comes_with_what_the_flow_said() {
        let properties = [&[0, 7, 0, 10, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 6, 8, 9, 0, 0]].concat();
        let seen = held(&experimenter(PACKET_IN, &properties)).unwrap();
        assert_eq!((seen.said, seen.frame, seen.body), (vec![1, 2, 3, 4, 5, 6], vec![8, 9], properties));
        assert_eq!(held(&experimenter(RESUME, &[])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), n in 0u8..40) {
            let _ = held(&bytes);
            let _ = held(&experimenter(PACKET_IN, &[&[0, 0, 0, n], bytes.as_slice()].concat()));
        }
    }
}
