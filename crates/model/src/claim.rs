//! `AddressClaim`: one address or MAC in one network, held by one NIC or FloatingIP.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One address or MAC in one network, held by one NIC or FloatingIP. Its name is derived from network and address, so that the
/// store's own create-if-absent makes it unique. Made and removed by Multihome; not for editing.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "AddressClaim",
    plural = "addressclaims",
    shortname = "claim",
    category = "multihome",
    namespaced,
    derive = "PartialEq",
    doc = "One address or MAC in one network, held by one NIC or FloatingIP; its name makes it unique. Made and removed by Multihome.",
    selectable = ".spec.network",
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network", description = "The network"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address", description = "IP address or MAC"),
    printcolumn(
        name = "Holder",
        type_ = "string",
        json_path = ".spec.owner.name",
        description = "The NIC or FloatingIP that holds it"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressClaimSpec {
    /// The Network, in the claim's own namespace.
    pub network: String,
    /// The IP address or MAC.
    pub address: String,
    /// The NIC or FloatingIP that holds it.
    pub owner: OwnerRef,
}

/// The NIC or FloatingIP that holds a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerRef {
    /// Namespace of the holder.
    pub namespace: String,
    /// Name of the holder.
    pub name: String,
    /// Uid of the holder; a claim whose holder has another uid is stale.
    pub uid: String,
}
