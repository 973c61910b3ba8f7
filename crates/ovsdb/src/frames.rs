//! Cuts a stream of JSON texts into texts: JSON-RPC over a socket has nothing between its messages (RFC 7047 section 4).

use serde_json::Value;

/// The longest message that is read, in bytes: a database with 100,000 ports takes less.
const LONGEST: usize = 256 << 20;

/// What was received and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// How far it was looked at; a message is looked at once, however many pieces it comes in.
    seen: usize,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Frames {
    /// Takes in what was received.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until there is one.
    ///
    /// # Errors
    /// What is wrong with it. Nothing that comes after it means anything.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, String> {
        while self.seen < self.bytes.len() {
            let byte = self.bytes[self.seen];
            self.seen += 1;
            if self.step(byte)? {
                let rest = self.bytes.split_off(self.seen);
                let text = std::mem::replace(&mut self.bytes, rest);
                self.seen = 0;
                return serde_json::from_slice(&text).map(Some).map_err(|e| format!("no JSON: {e}"));
            }
        }
        match self.bytes.len() > LONGEST {
            true => Err(format!("a message of more than {LONGEST} bytes")),
            false => Ok(None),
        }
    }

    /// Whether a message ends with this byte.
    fn step(&mut self, byte: u8) -> Result<bool, String> {
        if self.quoted {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' if self.depth > 0 => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.depth == 0 => return Err(format!("a message that begins with byte {byte:#04x}")),
            _ => {}
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn messages_are_cut_wherever_they_come_apart() {
        let sent = [json!({"a": "}\"\\"}), json!([1, [2]]), json!({"method": "echo", "params": []})];
        let text: String = sent.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for size in 1..text.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                frames.push(piece);
                while let Some(value) = frames.next().unwrap() {
                    got.push(value);
                }
            }
            assert_eq!(got, sent, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_said() {
        for bad in ["x", "{x}", "]"] {
            let mut frames = Frames::default();
            frames.push(bad.as_bytes());
            assert!(frames.next().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut frames = Frames::default();
            for piece in pieces {
                frames.push(&piece);
                while let Ok(Some(_)) = frames.next() {}
            }
        }
    }
}
