//! What the rules read where they are a webhook: first what was watched, then the API itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;

use super::Lookup;
use crate::Key;
use crate::world::{Table, Tables, World};

/// What was watched. It may lag behind the API by a moment: what it lets pass is settled by claims, and what it refuses is asked of
/// the API again ([`Asked`]).
#[derive(Debug)]
pub struct Seen<'a>(pub &'a World);

fn value<K: Serialize>(object: &Arc<K>) -> Option<Arc<Value>> {
    serde_json::to_value(&**object).ok().map(Arc::new)
}

/// Does something with the table of a kind that the rules read, as values.
macro_rules! with_table {
    ($tables:expr, $plural:expr, $f:expr) => {
        match $plural {
            "networks" => $f(&$tables.networks),
            "networkinterfaces" => $f(&$tables.nics),
            "addressclaims" => $f($tables.claims()),
            "clusternetworks" => $f(&$tables.fabrics),
            "floatingips" => $f(&$tables.floating),
            "securitygroups" => $f(&$tables.groups),
            "vpcs" => $f(&$tables.vpcs),
            "nodes" => $f(&$tables.nodes),
            "virtualmachines" => $f(&$tables.vms),
            "virtualmachineinstances" => $f(&$tables.vmis),
            _ => Default::default(),
        }
    };
}

fn one(tables: &Tables, plural: &str, key: &Key) -> Option<Arc<Value>> {
    fn get<K: Serialize>(key: &Key) -> impl FnOnce(&Table<K>) -> Option<Arc<Value>> + '_ {
        move |table| table.get(key).and_then(value)
    }
    with_table!(tables, plural, |t| get(key)(t))
}

fn many(tables: &Tables, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
    fn all<K: Serialize>(namespace: Option<&str>) -> impl FnOnce(&Table<K>) -> Vec<Arc<Value>> + '_ {
        move |table| {
            let of = |k: &Key| namespace.is_none_or(|n| k.namespace == n);
            table.iter().filter(|(k, _)| of(k)).filter_map(|(_, o)| value(o)).collect()
        }
    }
    with_table!(tables, plural, |t| all(namespace)(t))
}

impl Lookup for Seen<'_> {
    fn get(&self, _: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        one(&self.0.read(), plural, &Key::new(namespace.unwrap_or_default(), name))
    }

    fn list(&self, _: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        many(&self.0.read(), plural, namespace)
    }
}

type Listed = HashMap<(String, Option<String>), Vec<Arc<Value>>>;

/// The API itself, each list asked for once. To be used on a thread that may block.
pub struct Asked {
    client: Client,
    runtime: Handle,
    lists: Mutex<Listed>,
    failed: Mutex<Option<String>>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Asked {
    /// From within a runtime.
    pub fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current(), lists: Mutex::default(), failed: Mutex::default() }
    }

    /// Why something could not be read, if so. What was decided then stands on nothing.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn api(&self, group: &str, plural: &str, namespace: Option<&str>) -> Option<Api<DynamicObject>> {
        let resource = resource(group, plural)?;
        Some(match namespace {
            Some(n) => Api::namespaced_with(self.client.clone(), n, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }

    fn keep<T>(&self, result: kube::Result<T>) -> Option<T> {
        match result {
            Ok(t) => Some(t),
            Err(e) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
                None
            }
        }
    }
}

/// A kind that the rules read as kube-rs needs it.
fn resource(group: &str, plural: &str) -> Option<ApiResource> {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    use k8s_openapi::api::core::v1::Node;
    use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
    use multihome_model::{AddressClaim, ClusterNetwork, FloatingIP, Network, NetworkInterface, SecurityGroup, Vpc};
    let all = [
        of::<Network>(),
        of::<NetworkInterface>(),
        of::<AddressClaim>(),
        of::<ClusterNetwork>(),
        of::<FloatingIP>(),
        of::<SecurityGroup>(),
        of::<Vpc>(),
        of::<Node>(),
        of::<VirtualMachine>(),
        of::<VirtualMachineInstance>(),
    ];
    all.into_iter().find(|r| r.group == group && r.plural == plural)
}

impl Lookup for Asked {
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let api = self.api(group, plural, namespace)?;
        let object = self.keep(self.runtime.block_on(api.get_opt(name)))??;
        value(&Arc::new(object))
    }

    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let key = (plural.to_owned(), namespace.map(str::to_owned));
        if let Some(known) = self.lists.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let Some(api) = self.api(group, plural, namespace) else { return vec![] };
        let list = self.keep(self.runtime.block_on(api.list(&ListParams::default())));
        let values: Vec<Arc<Value>> =
            list.into_iter().flat_map(|l| l.items).filter_map(|o| value(&Arc::new(o))).collect();
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).insert(key, values.clone());
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_the_rules_read_can_be_read() {
        for plural in ["networks", "networkinterfaces", "addressclaims", "clusternetworks", "floatingips", "vpcs"] {
            assert!(resource(multihome_model::GROUP, plural).is_some(), "{plural}");
        }
        assert!(resource("kubevirt.io", "virtualmachines").is_some() && resource("", "nodes").is_some());
        assert!(resource("kubevirt.io", "networks").is_none());
    }

    #[test]
    fn what_was_watched_is_found_by_kind_namespace_and_name() {
        let mut tables = Tables::default();
        let spec = multihome_model::NetworkSpec::default();
        for (namespace, name) in [("lab", "lan"), ("other", "lan")] {
            let mut network = multihome_model::Network::new(name, spec.clone());
            network.metadata.namespace = Some(namespace.into());
            tables.put_network(network);
        }
        assert_eq!(many(&tables, "networks", None).len(), 2);
        assert_eq!(many(&tables, "networks", Some("lab")).len(), 1);
        assert_eq!(one(&tables, "networks", &Key::new("lab", "lan")).unwrap()["metadata"]["namespace"], "lab");
        assert!(one(&tables, "vpcs", &Key::new("lab", "lan")).is_none());
    }
}
