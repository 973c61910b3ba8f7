//! Reading Kubernetes' protobuf bodies for the few kinds that `kubectl create` sends that way: namespaces, secrets, config maps,
//! service accounts, and the questions about one's own rights. Other kinds are refused, and clients send them as JSON.
//!
//! Driven by tables of field numbers, which Kubernetes never changes; answers are always JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What Kubernetes puts in front of a protobuf object.
const MAGIC: &[u8] = b"k8s\0";

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// One field of a message: its number, its name in JSON, what it holds.
type Field = (u64, &'static str, Holds);

#[derive(Clone, Copy)]
enum Holds {
    Text,
    Bool,
    Integer,
    Time,
    Message(&'static [Field]),
    TextMap,
    BytesMap,
    Texts,
    Messages(&'static [Field]),
}

use Holds::{Bool, BytesMap, Integer, Message, Messages, Text, TextMap, Texts, Time};

const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Bool),
    (7, "blockOwnerDeletion", Bool),
];

const META: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Integer),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Integer),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", Messages(OWNER)),
    (14, "finalizers", Texts),
];

const REFERENCE: &[Field] = &[
    (1, "kind", Text),
    (2, "namespace", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "resourceVersion", Text),
    (7, "fieldPath", Text),
];

const ACCESS: &[Field] = &[
    (
        1,
        "resourceAttributes",
        Message(&[
            (1, "namespace", Text),
            (2, "verb", Text),
            (3, "group", Text),
            (4, "version", Text),
            (5, "resource", Text),
            (6, "subresource", Text),
            (7, "name", Text),
        ]),
    ),
    (2, "nonResourceAttributes", Message(&[(1, "path", Text), (2, "verb", Text)])),
];

/// apiVersion, kind, fields.
const KINDS: &[(&str, &str, &[Field])] = &[
    (
        "v1",
        "Namespace",
        &[
            (1, "metadata", Message(META)),
            (2, "spec", Message(&[(1, "finalizers", Texts)])),
            (3, "status", Message(&[(1, "phase", Text)])),
        ],
    ),
    (
        "v1",
        "Secret",
        &[
            (1, "metadata", Message(META)),
            (2, "data", BytesMap),
            (3, "type", Text),
            (4, "stringData", TextMap),
            (5, "immutable", Bool),
        ],
    ),
    (
        "v1",
        "ConfigMap",
        &[(1, "metadata", Message(META)), (2, "data", TextMap), (3, "binaryData", BytesMap), (4, "immutable", Bool)],
    ),
    (
        "v1",
        "ServiceAccount",
        &[
            (1, "metadata", Message(META)),
            (2, "secrets", Messages(REFERENCE)),
            (3, "imagePullSecrets", Messages(&[(1, "name", Text)])),
            (4, "automountServiceAccountToken", Bool),
        ],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &[(1, "metadata", Message(META)), (2, "spec", Message(ACCESS))],
    ),
    ("authentication.k8s.io/v1", "SelfSubjectReview", &[(1, "metadata", Message(META))]),
];

/// `runtime.Unknown`, without its raw payload.
const TYPE: &[Field] = &[(1, "apiVersion", Text), (2, "kind", Text)];

/// What a body is that is not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A kind without a table.
    Kind,
    /// Not a protobuf message.
    Malformed,
}

/// Decodes a body into the JSON that says the same.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Refused> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Refused::Malformed)?;
    let (mut kind, mut raw) = (Map::new(), &[][..]);
    for entry in Entries(envelope) {
        match entry.ok_or(Refused::Malformed)? {
            (1, Wire::Bytes(bytes)) => kind = message(bytes, TYPE).ok_or(Refused::Malformed)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let text = |field: &str| kind.get(field).and_then(Value::as_str).unwrap_or_default();
    let known = KINDS.iter().find(|(version, name, _)| *version == text("apiVersion") && *name == text("kind"));
    let (_, _, fields) = known.ok_or(Refused::Kind)?;
    kind.extend(message(raw, fields).ok_or(Refused::Malformed)?);
    Ok(Value::Object(kind))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Skipped,
}

/// The fields of a message, one after the other; None where it is cut short.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry)
    }
}

impl<'a> Entries<'a> {
    fn entry(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Skipped)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Skipped)?,
            _ => return None,
        };
        Some((tag >> 3, wire))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(Value::from)
}

fn message(bytes: &[u8], fields: &[Field]) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    for entry in Entries(bytes) {
        let (number, wire) = entry?;
        let Some((_, name, holds)) = fields.iter().find(|(n, _, _)| *n == number) else { continue };
        match (holds, wire) {
            (Bool, Wire::Number(n)) => {
                out.insert((*name).into(), (n != 0).into());
            }
            (Integer, Wire::Number(n)) => {
                out.insert((*name).into(), n.cast_signed().into());
            }
            (Text, Wire::Bytes(bytes)) => {
                // the encoder writes every string, also those that were left out
                if !bytes.is_empty() {
                    out.insert((*name).into(), text(bytes)?);
                }
            }
            (Time, Wire::Bytes(bytes)) => {
                if let Some(time) = time(bytes)? {
                    out.insert((*name).into(), time.into());
                }
            }
            (Message(inner), Wire::Bytes(bytes)) => {
                out.insert((*name).into(), Value::Object(message(bytes, inner)?));
            }
            (Texts, Wire::Bytes(bytes)) => push(&mut out, name, text(bytes)?),
            (Messages(inner), Wire::Bytes(bytes)) => push(&mut out, name, Value::Object(message(bytes, inner)?)),
            (TextMap, Wire::Bytes(bytes)) => entry_of_map(&mut out, name, bytes, text)?,
            (BytesMap, Wire::Bytes(bytes)) => entry_of_map(&mut out, name, bytes, |b| Some(STANDARD.encode(b).into()))?,
            _ => return None,
        }
    }
    Some(out)
}

fn push(out: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(items) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        items.push(value);
    }
}

fn entry_of_map(
    out: &mut Map<String, Value>,
    name: &str,
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Option<Value>,
) -> Option<()> {
    let (mut key, mut value) = (String::new(), read(&[])?);
    for entry in Entries(bytes) {
        match entry? {
            (1, Wire::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?.to_owned(),
            (2, Wire::Bytes(bytes)) => value = read(bytes)?,
            _ => {}
        }
    }
    if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
        map.insert(key, value);
    }
    Some(())
}

/// Seconds and nanoseconds since the epoch; nothing where neither is set.
fn time(bytes: &[u8]) -> Option<Option<String>> {
    let mut seconds = 0;
    for entry in Entries(bytes) {
        if let (1, Wire::Number(n)) = entry? {
            seconds = n.cast_signed();
        }
    }
    if seconds == 0 {
        return Some(None);
    }
    Some(chrono::DateTime::from_timestamp(seconds, 0).map(crate::meta::timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn a_secret() {
        let label = [field(1, b"a"), field(2, b"b")].concat();
        let meta = [field(1, b"s"), field(2, b""), field(3, b"ns"), field(11, &label), field(8, b"")].concat();
        let data = [field(1, b"k"), field(2, b"\xff\x00")].concat();
        let raw = [field(1, &meta), field(2, &data), field(3, b"Opaque"), vec![5 << 3, 1]].concat();
        let got = decode(&envelope("v1", "Secret", &raw)).unwrap();
        assert_eq!(
            got,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "ns", "labels": {"a": "b"}}, "data": {"k": "/wA="}, "type": "Opaque", "immutable": true})
        );
    }

    #[test]
    fn what_is_not_read() {
        assert_eq!(decode(&envelope("v1", "Pod", b"")), Err(Refused::Kind));
        assert_eq!(decode(b"{}"), Err(Refused::Malformed));
        assert_eq!(decode(&envelope("v1", "Secret", &[10, 100, 1])), Err(Refused::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode(&bytes);
            let _ = decode(&[MAGIC, &bytes[..]].concat());
            let _ = decode(&envelope("v1", "ServiceAccount", &bytes));
        }
    }
}
