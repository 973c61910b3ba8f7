//! Bodies: read within a limit, decoded from JSON or YAML with duplicate fields noticed; and the bodies of answers.

use super::protobuf;
use crate::error::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::fmt;

/// The body of an answer: whole, or a stream of watch events.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Kubernetes' own limit on a request's body.
pub(crate) const LIMIT: usize = 3 << 20;

/// Accepted formats of request bodies, as named in a refusal.
const ACCEPTED: &str = "application/json, application/yaml";

/// How deep JSON may be nested; it is read recursively.
const DEPTH: usize = 100;

/// What is too large is read to its end all the same, up to this: many clients look for an answer only after they have
/// sent everything.
const DRAINED: usize = 16 << 20;

pub(crate) async fn read<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let (mut whole, mut length) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body of the request could not be read"))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > DRAINED {
            break;
        }
        if length <= LIMIT {
            whole.extend_from_slice(&data);
        }
    }
    if length > LIMIT { Err(ApiError::too_large(LIMIT)) } else { Ok(whole.freeze()) }
}

/// A decoded body, with the paths of fields that occur twice.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Decodes an object by its content type.
pub(crate) fn decode(content_type: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    let decoded = match content_type {
        "" | "application/json" => json(body)?,
        "application/yaml" => {
            let value = serde_saphyr::from_slice::<Value>(body)
                .map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized: {e}")))?;
            Decoded { value, duplicates: Vec::new() }
        }
        protobuf::MEDIA_TYPE => match protobuf::decode(body) {
            Ok(value) => Decoded { value, duplicates: Vec::new() },
            Err(protobuf::Refused::Kind) => return Err(ApiError::unsupported_media_type(ACCEPTED)),
            Err(protobuf::Refused::Malformed) => {
                return Err(ApiError::bad_request(
                    "the object provided is unrecognized: it is not a protobuf message of Kubernetes",
                ));
            }
        },
        _ => return Err(ApiError::unsupported_media_type(ACCEPTED)),
    };
    match decoded.value {
        Value::Object(_) => Ok(decoded),
        _ => Err(ApiError::bad_request("the object provided is unrecognized: it must be a JSON object")),
    }
}

/// Decodes JSON, of two fields with one name keeping the last.
pub(crate) fn json(body: &[u8]) -> Result<Decoded, ApiError> {
    let mut duplicates = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Node { path: &mut String::new(), duplicates: &mut duplicates, depth: 0 };
    let value = seed.deserialize(&mut reader).and_then(|v| reader.end().map(|()| v));
    let value = value.map_err(|e| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized: couldn't get version/kind; json parse error: {e}"
        ))
    })?;
    Ok(Decoded { value, duplicates })
}

struct Node<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        check_depth::<A::Error>(self.depth)?;
        let length = self.path.len();
        loop {
            use fmt::Write;
            let _ = write!(self.path, "[{}]", items.len());
            let item =
                seq.next_element_seed(Node { path: self.path, duplicates: self.duplicates, depth: self.depth + 1 });
            self.path.truncate(length);
            match item? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        check_depth::<A::Error>(self.depth)?;
        let length = self.path.len();
        while let Some(name) = access.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&name);
            let value =
                access.next_value_seed(Node { path: self.path, duplicates: self.duplicates, depth: self.depth + 1 });
            if map.insert(name, value?).is_some() {
                self.duplicates.push(self.path.clone());
            }
            self.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

fn check_depth<E: serde::de::Error>(depth: usize) -> Result<(), E> {
    if depth > DEPTH { Err(E::custom("nested too deeply")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_noticed() {
        let d = decode("application/json", br#"{"a":1,"spec":{"l":[{"x":1,"x":2}],"a":1},"a":3}"#).unwrap();
        assert_eq!(d.value, json!({"a": 3, "spec": {"l": [{"x": 2}], "a": 1}}));
        assert_eq!(d.duplicates, ["spec.l[0].x", "a"]);
    }

    #[test]
    fn formats() {
        assert_eq!(decode("application/yaml", b"a: 1\nb: [x]").unwrap().value, json!({"a": 1, "b": ["x"]}));
        assert_eq!(decode("application/vnd.kubernetes.protobuf", b"k8s\0").unwrap_err().code, 415);
        assert_eq!(decode("application/cbor", b"").unwrap_err().code, 415);
        assert_eq!(decode("application/json", b"[1]").unwrap_err().code, 400);
        assert_eq!(decode("application/json", b"{} x").unwrap_err().code, 400);
        let deep = "[".repeat(5000);
        assert_eq!(json(deep.as_bytes()).unwrap_err().code, 400);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode("application/json", &bytes);
            let _ = decode("application/yaml", &bytes);
        }

        #[test]
        fn the_same_as_serde_json(text in r#"[\[\]{}:,"a0-9. e-]{0,24}"#) {
            let ours = json(text.as_bytes()).ok().map(|d| d.value);
            let theirs = serde_json::from_str::<Value>(&text).ok();
            prop_assert_eq!(ours, theirs);
        }
    }
}
