//! What the server serves, in Kubernetes' two ways of saying it: group by group, and all at once.

use super::reply::Reply;
use super::review::REVIEWS;
use crate::error::ApiError;
use crate::registry::{Registry, Served};
use serde_json::{Value, json};

/// The Kubernetes release whose behaviour is followed; kubectl warns where it is too far from its own.
const MINOR: u32 = 32;

pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR.to_string(), "gitVersion": format!("v1.{MINOR}.0+multihome"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Every path that answers GET.
pub(crate) fn root(registry: &Registry) -> Value {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(Into::into).into();
    for (group, versions) in all_groups(registry) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|(version, _)| format!("/apis/{group}/{version}")));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(Into::into));
    json!({"paths": paths})
}

/// One served kind, as discovery describes it.
struct Entry<'a> {
    plural: &'a str,
    singular: &'a str,
    kind: &'a str,
    short_names: &'a [String],
    categories: &'a [String],
    namespaced: bool,
    verbs: &'static [&'static str],
    subresources: Vec<(&'static str, &'static [&'static str])>,
}

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list", "watch"];
const STATUS: &[&str] = &["get", "patch", "update"];

impl<'a> Entry<'a> {
    fn of(served: &'a Served) -> Self {
        let spec = &served.spec;
        let mut subresources: Vec<(&str, &[&str])> = Vec::new();
        if served.is_core("Namespace") {
            subresources.push(("finalize", &["update"]));
        }
        if served.has_status() && !served.rules.read_only {
            subresources.push(("status", STATUS));
        }
        Self {
            plural: &spec.plural,
            singular: &spec.singular,
            kind: &spec.kind,
            short_names: &spec.short_names,
            categories: &spec.categories,
            namespaced: spec.namespaced,
            verbs: if served.rules.read_only { READ } else { ALL },
            subresources,
        }
    }

    fn review(plural: &'a str, kind: &'a str) -> Self {
        Self {
            plural,
            singular: "",
            kind,
            short_names: &[],
            categories: &[],
            namespaced: false,
            verbs: &["create"],
            subresources: Vec::new(),
        }
    }

    fn legacy(&self, out: &mut Vec<Value>) {
        let mut entry = json!({"name": self.plural, "singularName": self.singular, "namespaced": self.namespaced, "kind": self.kind, "verbs": self.verbs});
        if !self.short_names.is_empty() {
            entry["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            entry["categories"] = json!(self.categories);
        }
        out.push(entry);
        for (name, verbs) in &self.subresources {
            out.push(json!({"name": format!("{}/{name}", self.plural), "singularName": "", "namespaced": self.namespaced, "kind": self.kind, "verbs": verbs}));
        }
    }

    fn aggregated(&self, group: &str, version: &str) -> Value {
        let kind = json!({"group": group, "version": version, "kind": self.kind});
        let mut entry = json!({
            "resource": self.plural, "responseKind": kind, "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": self.singular, "verbs": self.verbs,
        });
        if !self.short_names.is_empty() {
            entry["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            entry["categories"] = json!(self.categories);
        }
        if !self.subresources.is_empty() {
            entry["subresources"] = self
                .subresources
                .iter()
                .map(|(name, verbs)| json!({"subresource": name, "responseKind": kind, "verbs": verbs}))
                .collect();
        }
        entry
    }
}

type Versions<'a> = Vec<(String, Vec<Entry<'a>>)>;

/// All groups but the core one.
fn all_groups(registry: &Registry) -> Vec<(String, Versions<'_>)> {
    let mut groups: Vec<(String, Versions)> = registry
        .groups()
        .into_iter()
        .map(|(group, versions)| {
            (group, versions.into_iter().map(|(v, types)| (v, types.into_iter().map(Entry::of).collect())).collect())
        })
        .collect();
    for (group, version, plural, kind) in REVIEWS {
        groups.push(((*group).into(), vec![((*version).into(), vec![Entry::review(plural, kind)])]));
    }
    groups
}

fn core(registry: &Registry) -> Vec<Entry<'_>> {
    registry.core().into_iter().map(Entry::of).collect()
}

pub(crate) fn core_versions(registry: &Registry, aggregated: Option<&'static str>) -> Reply {
    if let Some(format) = aggregated {
        let groups = vec![aggregated_group("", &[("v1".to_owned(), core(registry))])];
        return aggregated_list(format, &groups);
    }
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]);
    Reply::value(200, &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}))
}

pub(crate) fn groups(registry: &Registry, aggregated: Option<&'static str>) -> Reply {
    let all = all_groups(registry);
    if let Some(format) = aggregated {
        let groups: Vec<Value> = all.iter().map(|(group, versions)| aggregated_group(group, versions)).collect();
        return aggregated_list(format, &groups);
    }
    let groups: Vec<Value> = all.iter().map(|(group, versions)| legacy_group(group, versions)).collect();
    Reply::value(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

fn legacy_group(group: &str, versions: &Versions) -> Value {
    let list: Vec<Value> =
        versions.iter().map(|(v, _)| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    json!({"name": group, "versions": list, "preferredVersion": list.first()})
}

pub(crate) fn group(registry: &Registry, name: &str) -> Result<Reply, ApiError> {
    let all = all_groups(registry);
    let (group, versions) = all.iter().find(|(group, _)| group == name).ok_or_else(ApiError::no_such_path)?;
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Value::Object(map), Value::Object(rest)) = (&mut value, legacy_group(group, versions)) {
        map.extend(rest);
    }
    Ok(Reply::value(200, &value))
}

pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Result<Reply, ApiError> {
    let entries = if group.is_empty() {
        (version == "v1").then(|| core(registry))
    } else {
        let found = all_groups(registry).into_iter().find(|(g, _)| g == group);
        found.and_then(|(_, versions)| versions.into_iter().find(|(v, _)| v == version)).map(|(_, entries)| entries)
    };
    let mut list = Vec::new();
    entries.ok_or_else(ApiError::no_such_path)?.iter().for_each(|e| e.legacy(&mut list));
    let gv = crate::registry::api_version(group, version);
    Ok(Reply::value(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": list}),
    ))
}

fn aggregated_group(group: &str, versions: &[(String, Vec<Entry>)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, entries)| {
            let resources: Vec<Value> = entries.iter().map(|e| e.aggregated(group, version)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_list(format: &'static str, groups: &[Value]) -> Reply {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{format}"), "metadata": {}, "items": groups});
    Reply::value(200, &list).typed(match format {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    })
}
