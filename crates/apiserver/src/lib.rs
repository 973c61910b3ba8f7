//! An embedded Kubernetes-style API on SQLite.
//!
//! [`ApiServer`] serves the kinds that are handed to it, and the few built-in ones that clients expect, with the semantics
//! of a Kubernetes API server: discovery, OpenAPI, validation, watches, finalizers, garbage collection. It knows nothing of
//! Multihome: what its kinds mean is decided by the [`Admission`] that is handed in.
//!
//! A write is on disk before it is answered.

mod admission;
mod api;
mod builtin;
mod convert;
mod error;
mod gc;
mod jsonpath;
mod meta;
mod patch;
mod registry;
mod resource;
mod rules;
mod schema;
mod selector;
mod serve;
mod server;
mod store;

pub use admission::{Admission, AdmissionRequest, AdmitAll, Denied, Operation, View};
pub use api::body::ResponseBody;
pub use error::Cause;
pub use jsonpath::PathError;
pub use registry::RegistryError;
pub use resource::{Column, CrdError, ResourceType};
pub use schema::SchemaError;
pub use serve::{Endpoint, ServeError, ServeOptions, Serving, endpoint, serve};
pub use server::{ApiServer, Error};
pub use store::db::OpenError;
