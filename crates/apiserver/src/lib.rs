//! An embedded Kubernetes-style API on SQLite.

mod error;
mod jsonpath;
mod meta;
mod patch;
mod resource;
mod schema;
mod selector;
mod store;

pub use error::Cause;
pub use jsonpath::PathError;
pub use resource::{Column, CrdError, ResourceType};
pub use schema::SchemaError;
