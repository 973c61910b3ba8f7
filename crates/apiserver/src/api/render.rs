//! Turning stored objects into what a client asked for: plain objects, Tables, metadata alone; one, a list, or a watch event.

use super::request::{Query, Shape};
use super::table;
use crate::convert;
use crate::error::ApiError;
use crate::meta;
use crate::registry::{Found, Registry, Served, api_version};
use crate::store::object::{Object, prefix};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How objects of one request are shown.
pub(crate) struct Render {
    registry: Arc<Registry>,
    found: Found,
    api_version: String,
    prefix: Vec<u8>,
    pub shape: Shape,
    include: Include,
}

/// What a Table's rows carry besides their cells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// What stands in the `metadata` of a list.
#[derive(Default)]
pub(crate) struct ListMeta {
    pub version: u64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        self.value_with(None)
    }

    /// `empty` stands for an absent continue token: custom kinds' lists say that there is none.
    fn value_with(&self, empty: Option<&str>) -> Value {
        let mut meta = Map::new();
        if self.version > 0 {
            meta.insert("resourceVersion".into(), self.version.to_string().into());
        }
        if let Some(next) = self.next.as_deref().or(empty) {
            meta.insert("continue".into(), next.into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(meta)
    }
}

impl Render {
    pub fn new(registry: &Arc<Registry>, found: &Found, shape: Shape, query: &Query) -> Result<Self, ApiError> {
        let include = match query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        let api_version = api_version(&found.group, &found.version);
        let prefix = prefix(&api_version, &registry.get(found.id).spec.kind);
        Ok(Self { registry: registry.clone(), found: found.clone(), api_version, prefix, shape, include })
    }

    pub fn served(&self) -> &Served {
        self.registry.get(self.found.id)
    }

    /// The object as a client of this group and version sees it.
    pub fn value(&self, object: &Object) -> Value {
        let mut value = object.typed_value(&self.api_version, &self.served().spec.kind);
        convert::outbound(&self.found.group, &mut value);
        value
    }

    /// Items of lists of built-in kinds come without `apiVersion` and `kind`, as from Kubernetes' typed lists.
    fn write_item(&self, object: &Object, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Plain if self.served().built_in => {
                if !convert::needed(&self.found.group) {
                    return out.extend_from_slice(&object.body);
                }
                let mut value = object.value();
                convert::outbound(&self.found.group, &mut value);
                write_json(&value, out);
            }
            _ => self.write_one(object, false, out),
        }
    }

    fn write_plain(&self, object: &Object, out: &mut Vec<u8>) {
        if convert::needed(&self.found.group) {
            write_json(&self.value(object), out);
        } else {
            out.extend_from_slice(&self.prefix);
            // the body is a JSON object with at least metadata: its first byte is the brace that the prefix already has
            out.extend_from_slice(object.body.get(1..).unwrap_or_default());
        }
    }

    /// One object.
    pub fn write_one(&self, object: &Object, headers: bool, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Plain => self.write_plain(object, out),
            Shape::Metadata => write_json(&partial(object), out),
            Shape::Table => {
                let meta = ListMeta { version: object.version, ..ListMeta::default() };
                write_json(&self.table(&meta, vec![self.row(object)], headers), out);
            }
        }
    }

    /// A list of objects.
    pub fn list(&self, meta: &ListMeta, objects: &[Arc<Object>]) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(objects.iter().map(|o| o.body.len() + self.prefix.len() + 1).sum::<usize>() + 256);
        match self.shape {
            Shape::Table => {
                write_json(&self.table(meta, objects.iter().map(|o| self.row(o)).collect(), true), &mut out)
            }
            shape => {
                let (api_version, kind) = match shape {
                    Shape::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadataList".to_owned()),
                    _ => (self.api_version.as_str(), format!("{}List", self.served().spec.kind)),
                };
                out.extend_from_slice(&prefix(api_version, &kind));
                out.extend_from_slice(b"\"metadata\":");
                let empty = (shape == Shape::Plain && !self.served().built_in).then_some("");
                write_json(&meta.value_with(empty), &mut out);
                out.extend_from_slice(b",\"items\":[");
                for (at, object) in objects.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    self.write_item(object, &mut out);
                }
                out.extend_from_slice(b"]}");
            }
        }
        out
    }

    /// One line of a watch.
    pub fn event(&self, kind: &str, object: &Object, headers: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        self.write_one(object, headers, out);
        out.extend_from_slice(b"}\n");
    }

    /// A line that says only how far the watch is. `initial` ends the initial objects of a streamed list.
    pub fn bookmark(&self, version: u64, initial: bool, out: &mut Vec<u8>) {
        let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Plain => json!({"kind": self.served().spec.kind, "apiVersion": self.api_version, "metadata": meta}),
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            Shape::Table => self.table(&ListMeta { version, ..ListMeta::default() }, Vec::new(), false),
        };
        write_json(&json!({"type": "BOOKMARK", "object": object}), out);
        out.push(b'\n');
    }

    fn table(&self, meta: &ListMeta, rows: Vec<Value>, headers: bool) -> Value {
        let columns = if headers { table::definitions(self.served()) } else { Vec::new() };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta.value(), "columnDefinitions": columns, "rows": rows})
    }

    fn row(&self, object: &Object) -> Value {
        // cells are computed from the stored shape
        let value = object.typed_value(&self.api_version, &self.served().spec.kind);
        let cells = table::cells(self.served(), &value, chrono::Utc::now());
        let carried = match self.include {
            Include::None => return json!({"cells": cells}),
            Include::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta::of(&value)})
            }
            Include::Object => self.value(object),
        };
        json!({"cells": cells, "object": carried})
    }
}

fn partial(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta::of(&object.value())})
}

/// The `ERROR` line of a watch.
pub(crate) fn error_event(error: &ApiError, out: &mut Vec<u8>) {
    write_json(&json!({"type": "ERROR", "object": error.status()}), out);
    out.push(b'\n');
}

pub(crate) fn write_json(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a JSON value always serializes, and a vector always takes it");
}
