//! The NetworkAttachmentDefinition that a Network publishes, such that Harvester's tools read it: they tell the type of a
//! network by the keys of the CNI configuration, its fabric by the name of the bridge, and the rest by labels and one
//! annotation (group `network.harvesterhci.io`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use multihome_model::checked::CheckedNetwork;
use multihome_model::{
    Network, NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec, NetworkStatus, NetworkType, RouteMode,
    VlanSet, Vni,
};
use serde_json::{Map, Value, json};

use crate::Key;

const NETWORK: &str = "multihome.io/network";
const TYPE: &str = "network.harvesterhci.io/type";
const FABRIC: &str = "network.harvesterhci.io/clusternetwork";
const VLAN_ID: &str = "network.harvesterhci.io/vlan-id";
const READY: &str = "network.harvesterhci.io/ready";
const ROUTE: &str = "network.harvesterhci.io/route";

/// The labels and annotations that are ours to set and to remove; what others put there stays.
const LABELS: [&str; 5] = [NETWORK, TYPE, FABRIC, VLAN_ID, READY];
const ANNOTATIONS: [&str; 1] = [ROUTE];

/// What a network publishes.
pub(super) fn definition(
    network: &Network,
    key: &Key,
    spec: &CheckedNetwork,
    mtu: u32,
    vni: Option<Vni>,
    ready: bool,
) -> NetworkAttachmentDefinition {
    let config = config(key, spec, mtu, vni).to_string();
    let mut nad = NetworkAttachmentDefinition::new(&key.name, NetworkAttachmentDefinitionSpec { config });
    nad.metadata.namespace = Some(key.namespace.clone());
    let mut labels = BTreeMap::from([(NETWORK.to_owned(), key.name.clone())]);
    if let Some(kind) = harvester_type(spec.kind) {
        labels.insert(TYPE.into(), kind.into());
        labels.insert(FABRIC.into(), spec.fabric.clone());
        labels.insert(READY.into(), ready.to_string());
    }
    if let Some(id) = spec.vlan.filter(|_| spec.kind == NetworkType::Vlan) {
        labels.insert(VLAN_ID.into(), id.get().to_string());
    }
    nad.metadata.labels = Some(labels);
    nad.metadata.annotations = route(network, spec).map(|r| BTreeMap::from([(ROUTE.to_owned(), r.to_string())]));
    nad.metadata.owner_references = Some(vec![OwnerReference {
        api_version: Network::api_version(&()).into_owned(),
        kind: Network::kind(&()).into_owned(),
        name: network.name_any(),
        uid: network.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }]);
    nad
}

/// What must be patched for `there` to be `wanted`, if anything.
pub(super) fn patch(there: &NetworkAttachmentDefinition, wanted: &NetworkAttachmentDefinition) -> Option<Value> {
    let changes = |keys: &[&str], there: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        let differ = keys.iter().filter(|k| there.get(**k) != wanted.get(**k));
        // A null removes (RFC 7396).
        differ.map(|k| ((*k).to_owned(), json!(wanted.get(*k)))).collect::<Map<String, Value>>()
    };
    let labels = changes(&LABELS, there.labels(), wanted.labels());
    let annotations = changes(&ANNOTATIONS, there.annotations(), wanted.annotations());
    let same = labels.is_empty() && annotations.is_empty() && there.spec == wanted.spec;
    (!same).then(|| json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": wanted.spec}))
}

fn harvester_type(kind: NetworkType) -> Option<&'static str> {
    match kind {
        NetworkType::Vlan => Some("L2VlanNetwork"),
        NetworkType::VlanTrunk => Some("L2VlanTrunkNetwork"),
        NetworkType::Untagged => Some("UntaggedNetwork"),
        NetworkType::Overlay => Some("OverlayNetwork"),
        NetworkType::Management | NetworkType::Cni => None,
    }
}

fn config(key: &Key, spec: &CheckedNetwork, mtu: u32, vni: Option<Vni>) -> Value {
    let mut config = json!({
        "cniVersion": "0.3.1",
        "name": key.name,
        "type": "multihome",
        "network": key.to_string(),
        "mtu": mtu,
        "ipam": {},
    });
    if spec.kind.rides_on_uplink() {
        config["bridge"] = json!(format!("{}-br", spec.fabric));
        config["promiscMode"] = json!(true);
    }
    match (spec.kind, spec.vlan) {
        (NetworkType::Vlan, Some(id)) => config["vlan"] = json!(id.get()),
        // A trunk is told by there being no `vlan`.
        (NetworkType::VlanTrunk, native) => {
            config["vlanTrunk"] = ranges(&spec.trunk);
            if let Some(id) = native {
                config["nativeVlan"] = json!(id.get());
            }
        }
        _ => {}
    }
    if let Some(vni) = vni {
        config["vni"] = json!(vni.get());
    }
    config
}

/// As the bridge plugin of the CNI project has them.
fn ranges(set: &VlanSet) -> Value {
    let range = |(first, last): (multihome_model::VlanId, multihome_model::VlanId)| match first == last {
        true => json!({"id": first.get()}),
        false => json!({"minID": first.get(), "maxID": last.get()}),
    };
    set.ranges().map(range).collect()
}

/// Where guests of a VLAN network find their way, and whether the gateway was reached.
fn route(network: &Network, spec: &CheckedNetwork) -> Option<Value> {
    if spec.kind != NetworkType::Vlan {
        return None;
    }
    let mode = match network.spec.route {
        Some(RouteMode::None) => return None,
        Some(RouteMode::Auto) => "auto",
        Some(RouteMode::Manual) => "manual",
        None if spec.ipv4.is_some() => "manual",
        None => "auto",
    };
    let subnet = spec.ipv4.as_ref();
    // What was learnt, where it is not written down.
    let learnt = network.status.as_ref().and_then(|s| s.route.as_ref()?.ipv4.clone()).unwrap_or_default();
    let cidr = subnet.map(|s| s.cidr.to_string()).or(learnt.cidr);
    let gateway = if subnet.is_some() { subnet.and_then(|s| s.gateway).map(|g| g.to_string()) } else { learnt.gateway };
    Some(json!({
        "mode": mode,
        "serverIPAddr": learnt.server.unwrap_or_default(),
        "cidr": cidr.unwrap_or_default(),
        "gateway": gateway.unwrap_or_default(),
        "connectivity": connectivity(network.status.as_ref()),
        "outdated": false,
    }))
}

/// `true` where every node that looked reached the gateway, `false` where one did not, nothing where none looked.
fn connectivity(status: Option<&NetworkStatus>) -> &'static str {
    let probes =
        || status.into_iter().flat_map(|s| s.connectivity.values()).filter_map(|c| c.ipv4.as_ref()?.gateway.as_ref());
    match probes().next() {
        None => "",
        Some(_) if probes().all(|p| p.ok) => "true",
        Some(_) => "false",
    }
}

#[cfg(test)]
mod tests {
    use multihome_model::checked::check_network;
    use multihome_model::{Connectivity, FamilyConnectivity, ProbeResult};

    use super::*;

    fn published(spec: Value, status: Option<NetworkStatus>, ready: bool) -> NetworkAttachmentDefinition {
        let mut network = Network::new("n", serde_json::from_value(spec).unwrap());
        network.status = status;
        let checked = check_network("n", &network.spec).unwrap();
        let vni = (checked.kind == NetworkType::Overlay).then(|| Vni::new(77).unwrap());
        definition(&network, &Key::new("ns", "n"), &checked, 1500, vni, ready)
    }

    fn config_of(nad: &NetworkAttachmentDefinition) -> Value {
        serde_json::from_str(&nad.spec.config).unwrap()
    }

    fn labels(nad: &NetworkAttachmentDefinition) -> String {
        let short = |(k, v): (&String, &String)| format!("{}={v}", k.rsplit('/').next().unwrap_or_default());
        nad.labels().iter().map(short).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_type_is_told_as_harvester_tells_it() {
        let base = |name: &str| json!({"cniVersion": "0.3.1", "name": name, "type": "multihome", "network": "ns/n", "mtu": 1500, "ipam": {}});
        let with = |more: Value| {
            let mut all = base("n");
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        #[rustfmt::skip]
        let types = [
            (
                json!({"type": "Vlan", "clusterNetwork": "data", "vlan": {"id": 100}}),
                with(json!({"bridge": "data-br", "promiscMode": true, "vlan": 100})),
                "network=n clusternetwork=data ready=true type=L2VlanNetwork vlan-id=100",
            ),
            (
                json!({"type": "VlanTrunk", "clusterNetwork": "data",
                    "vlan": {"id": 5, "trunk": [{"first": 100, "last": 200}, {"first": 150, "last": 250}, {"first": 300}]}}),
                with(json!({"bridge": "data-br", "promiscMode": true, "nativeVlan": 5,
                    "vlanTrunk": [{"minID": 100, "maxID": 250}, {"id": 300}]})),
                "network=n clusternetwork=data ready=true type=L2VlanTrunkNetwork",
            ),
            (
                json!({"type": "Untagged"}),
                with(json!({"bridge": "mgmt-br", "promiscMode": true})),
                "network=n clusternetwork=mgmt ready=true type=UntaggedNetwork",
            ),
            (
                json!({"type": "Overlay"}),
                with(json!({"vni": 77})),
                "network=n clusternetwork=mgmt ready=true type=OverlayNetwork",
            ),
            (json!({"type": "Management"}), base("n"), "network=n"),
        ];
        for (spec, config, said) in types {
            let nad = published(spec.clone(), None, true);
            assert_eq!((config_of(&nad), labels(&nad).as_str()), (config, said), "{spec}");
            assert_eq!(nad.annotations().contains_key(ROUTE), spec["type"] == "Vlan", "{spec}");
        }
    }

    #[test]
    fn a_vlan_says_its_route_and_whether_its_gateway_was_reached() {
        let spec = json!({"type": "Vlan", "vlan": {"id": 9}, "ipv4": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}});
        let seen = |results: &[Option<bool>]| {
            let node = |(i, ok): (usize, &Option<bool>)| {
                let gateway = ok.map(|ok| ProbeResult { ok, ..Default::default() });
                let ipv4 = Some(FamilyConnectivity { gateway, ..Default::default() });
                (format!("node{i}"), Connectivity { ipv4, ..Default::default() })
            };
            NetworkStatus { connectivity: results.iter().enumerate().map(node).collect(), ..Default::default() }
        };
        for (results, connectivity) in
            [(&[][..], ""), (&[None], ""), (&[None, Some(true)], "true"), (&[Some(true), Some(false)], "false")]
        {
            let nad = published(spec.clone(), Some(seen(results)), true);
            let route: Value = serde_json::from_str(&nad.annotations()[ROUTE]).unwrap();
            assert_eq!(
                route,
                json!({"mode": "manual", "serverIPAddr": "", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1",
                    "connectivity": connectivity, "outdated": false})
            );
        }
        let auto = published(json!({"type": "Vlan", "vlan": {"id": 9}}), None, true);
        assert!(auto.annotations()[ROUTE].contains(r#""mode":"auto""#));
        let none = published(json!({"type": "Vlan", "vlan": {"id": 9}, "route": "None"}), None, true);
        assert!(!none.annotations().contains_key(ROUTE));
    }

    #[test]
    fn what_is_no_more_is_removed_and_what_is_others_stays() {
        let mut there = published(json!({"type": "Vlan", "vlan": {"id": 9}}), None, true);
        there.labels_mut().insert("team".into(), "red".into());
        let same = published(json!({"type": "Vlan", "vlan": {"id": 9}}), None, true);
        assert_eq!(patch(&there, &same), None);
        let trunk = published(json!({"type": "VlanTrunk", "vlan": {"trunk": [{"first": 9}]}}), None, false);
        let patch = patch(&there, &trunk).unwrap();
        assert_eq!(
            patch["metadata"],
            json!({"labels": {TYPE: "L2VlanTrunkNetwork", READY: "false", VLAN_ID: null}, "annotations": {ROUTE: null}})
        );
        assert_eq!(patch["spec"]["config"], json!(trunk.spec.config));
    }
}
