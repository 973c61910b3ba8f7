//! The controllers and the admission rules.
//!
//! Every controller talks to a `kube::Client` and does not know what is behind it: the embedded API or a Kubernetes
//! cluster. What they decide comes from crate `plan`; here is the watching, the claiming and the telling.

pub mod admission;
pub mod backends;
pub mod connectivity;
pub mod controllers;
pub mod events;
pub mod fabric;
pub mod floating;
pub mod mirror;
pub mod node;
pub mod place;
pub mod policy;
pub mod queue;
pub mod status;
pub mod vm;
pub mod vpc;
pub mod world;

pub use controllers::run;
pub use world::{Change, World};

/// `NAMESPACE` and `NAME` of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace; empty for objects of the cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// What a reference `NAME` or `NAMESPACE/NAME` means, written in namespace `from`.
    pub fn reference(reference: &str, from: &str) -> Self {
        let (ns, name) = multihome_model::names::split_ref(reference, from);
        Self::new(ns, name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}
