//! The kinds by all the names that users know them by.

use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;

use crate::CliError;

/// A kind that can be asked for.
#[derive(Debug, Clone)]
pub struct Kind {
    /// What kube-rs needs.
    pub resource: ApiResource,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    names: Vec<String>,
}

/// Every kind that the server has.
pub fn all() -> Vec<Kind> {
    let mut kinds = vec![
        core("", "v1", "Namespace", "namespaces", &["ns"], false),
        core("", "v1", "Node", "nodes", &["no"], false),
        core("", "v1", "Event", "events", &["ev"], true),
        core("", "v1", "Secret", "secrets", &[], true),
        core("", "v1", "ConfigMap", "configmaps", &["cm"], true),
        core("coordination.k8s.io", "v1", "Lease", "leases", &[], true),
    ];
    for crd in multihome_model::crds() {
        let text = |p: &str| crd.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        let short = crd.pointer("/spec/names/shortNames").and_then(Value::as_array).cloned().unwrap_or_default();
        let short: Vec<String> = short.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let short: Vec<&str> = short.iter().map(String::as_str).collect();
        kinds.push(core(
            &text("/spec/group"),
            &text("/spec/versions/0/name"),
            &text("/spec/names/kind"),
            &text("/spec/names/plural"),
            &short,
            text("/spec/scope") == "Namespaced",
        ));
    }
    kinds
}

fn core(group: &str, version: &str, kind: &str, plural: &str, short: &[&str], namespaced: bool) -> Kind {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut names = vec![plural.to_owned(), kind.to_lowercase()];
    names.extend(short.iter().map(|s| (*s).to_owned()));
    Kind {
        resource: ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: kind.into(),
            plural: plural.into(),
        },
        namespaced,
        names,
    }
}

/// The kind that a user's word means: plural, singular or short name.
pub fn by_name(word: &str) -> Result<Kind, CliError> {
    let lower = word.to_lowercase();
    let bare = lower.split('.').next().unwrap_or_default();
    let single = bare.strip_suffix("s").unwrap_or(bare);
    all().into_iter().find(|k| k.names.iter().any(|n| *n == lower || n == bare || n == single)).ok_or_else(|| {
        CliError::new(format!("there is no kind {word:?}"))
            .hint("use one of net, nic, vm, vmi, vpc, sg, cn, claim, net-attach-def, node, ns, events")
    })
}

/// The kind of a manifest.
pub fn by_type(api_version: &str, kind: &str) -> Result<Kind, CliError> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let mut found =
        all().into_iter().find(|k| k.resource.group == group && k.resource.kind == kind).ok_or_else(|| {
            CliError::new(format!("kind {kind:?} of {api_version:?} is not served"))
                .hint("«kubectl api-resources» lists what is")
        })?;
    found.resource.version = version.into();
    found.resource.api_version = api_version.into();
    Ok(found)
}

impl Kind {
    /// The API of this kind in a namespace.
    pub fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
    /// The path of its collection.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.resource.group.is_empty() {
            "/api/v1".into()
        } else {
            format!("/apis/{}", self.resource.api_version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(ns) => format!("{root}/namespaces/{ns}/{}", self.resource.plural),
            None => format!("{root}/{}", self.resource.plural),
        }
    }
    /// How the kind is named in messages: `network.multihome.io`.
    pub fn label(&self) -> String {
        let kind = self.resource.kind.to_lowercase();
        if self.resource.group.is_empty() { kind } else { format!("{kind}.{}", self.resource.group) }
    }
}
