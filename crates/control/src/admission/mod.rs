//! What is refused at the door because of what else exists, one sentence each, and what is filled in.
//!
//! One library: the embedded API calls it inside the transaction of the write, a webhook calls it beside a Kubernetes
//! API. It reads through [`Lookup`] and decides; it neither waits nor writes.

mod fabric;
mod floating;
mod group;
pub mod lookup;
mod mirror;
mod network;
mod nic;
pub mod review;
mod vm;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
use multihome_model::{
    AddressClaim, ClusterNetwork, FINALIZER_CLAIMS, FloatingIP, GROUP, Network, NetworkInterface, SecurityGroup,
    Violation, Violations, Vpc,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Key;

/// Read access to what is stored.
pub trait Lookup {
    /// One object.
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>>;
    /// All objects of a kind, in one namespace or in all.
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;
}

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A new object.
    Create,
    /// A changed spec or changed metadata.
    Update,
    /// A removal.
    Delete,
}

/// A write to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is about to happen.
    pub verb: Verb,
    /// API group.
    pub group: &'a str,
    /// Plural name of the kind.
    pub plural: &'a str,
    /// The object's namespace and name.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// The object as stored.
    pub old: Option<&'a Value>,
    /// The object as it would be.
    pub new: Option<&'a Value>,
}

/// Why a write is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Fields are wrong: 422 Invalid.
    Invalid(Vec<Violation>),
    /// It cannot be done as things are: 403 Forbidden.
    Forbidden(String),
}

impl From<Violations> for Refusal {
    fn from(v: Violations) -> Self {
        Self::Invalid(v.0)
    }
}

type Verdict = Result<(), Refusal>;

/// Looks up whether a node has an image; an error is the sentence that says how to import it.
pub type ImageCheck = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The rules.
#[derive(Clone, Default)]
pub struct Rules {
    /// Where the API and the only node are one process, images are looked up at the door.
    pub images: Option<Arc<ImageCheck>>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("images", &self.images.is_some()).finish()
    }
}

impl Rules {
    /// Fills in what the platform decides: the finalizer by which addresses are given back.
    pub fn fill_in(&self, verb: Verb, group: &str, plural: &str, object: &mut Value) {
        if verb != Verb::Create || group != GROUP || !matches!(plural, "networkinterfaces" | "floatingips") {
            return;
        }
        let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        let list = meta.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut()
            && !list.iter().any(|f| f == FINALIZER_CLAIMS)
        {
            list.push(json!(FINALIZER_CLAIMS));
        }
    }

    /// Judges a write.
    ///
    /// # Errors
    /// The refusal, with every reason that could be found.
    pub fn validate(&self, req: &Request<'_>, look: &dyn Lookup) -> Verdict {
        // What is on its way out may still change its finalizers.
        let leaving = req.new.and_then(|o| o.pointer("/metadata/deletionTimestamp")).is_some();
        if leaving {
            return Ok(());
        }
        match (req.group, req.plural) {
            (GROUP, "networks") => network::validate(req, look),
            (GROUP, "networkinterfaces") => nic::validate(req, look),
            (GROUP, "clusternetworks") => fabric::validate_fabric(req, look),
            (GROUP, "floatingips") => floating::validate(req, look),
            (GROUP, "securitygroups") => group::validate(req, look),
            (GROUP, "vpcs") => fabric::validate_vpc(req, look),
            ("kubevirt.io", "virtualmachines") => vm::validate_machine(self, req, look),
            ("kubevirt.io", "virtualmachineinstances") => vm::validate_instance(self, req, look),
            _ => Ok(()),
        }
    }
}

/// A stored kind, by its types.
trait Kind: DeserializeOwned {
    const GROUP: &'static str;
    const PLURAL: &'static str;
}

macro_rules! kind {
    ($type:ty, $group:expr, $plural:expr) => {
        impl Kind for $type {
            const GROUP: &'static str = $group;
            const PLURAL: &'static str = $plural;
        }
    };
}

kind!(Network, GROUP, "networks");
kind!(NetworkInterface, GROUP, "networkinterfaces");
kind!(AddressClaim, GROUP, "addressclaims");
kind!(ClusterNetwork, GROUP, "clusternetworks");
kind!(FloatingIP, GROUP, "floatingips");
kind!(SecurityGroup, GROUP, "securitygroups");
kind!(Vpc, GROUP, "vpcs");
kind!(Node, "", "nodes");
kind!(VirtualMachine, "kubevirt.io", "virtualmachines");
kind!(VirtualMachineInstance, "kubevirt.io", "virtualmachineinstances");

fn get<K: Kind>(look: &dyn Lookup, key: &Key) -> Option<K> {
    let ns = Some(key.namespace.as_str()).filter(|n| !n.is_empty());
    let v = look.get(K::GROUP, K::PLURAL, ns, &key.name)?;
    serde_json::from_value(Value::clone(&v)).ok()
}

fn list<K: Kind>(look: &dyn Lookup, namespace: Option<&str>) -> Vec<K> {
    look.list(K::GROUP, K::PLURAL, namespace)
        .iter()
        .filter_map(|v| serde_json::from_value(Value::clone(v)).ok())
        .collect()
}

fn parse<K: DeserializeOwned>(value: &Value) -> Result<K, Refusal> {
    serde_json::from_value(value.clone())
        .map_err(|e| Refusal::Invalid(vec![Violation { field: "spec".into(), message: e.to_string() }]))
}

/// Whether a spec differs between the stored object and the new one.
fn spec_changed(req: &Request<'_>) -> bool {
    req.old.and_then(|o| o.get("spec")) != req.new.and_then(|o| o.get("spec"))
}

/// Names for a sentence: all of them up to five, then how many more.
fn listing(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}
