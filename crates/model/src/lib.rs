//! The resource types of Multihome, their defaults, and validation of one object alone.
//!
//! Every type here is what the API serves and what `kubectl explain` shows. Values that a user may get
//! wrong are kept as written and turned into checked types (see [`checked`]) at the door; the rest of the
//! program works with the checked ones. This crate does no I/O and knows no other crate of the project.

// kube's printcolumn attributes repeat their keys by design.
#![allow(clippy::duplicated_attributes)]

mod bandwidth;
pub mod checked;
mod claim;
mod cluster_network;
pub mod condition;
pub mod connectivity;
mod crd;
mod floating;
mod group;
pub mod kubevirt;
mod mirror;
mod nad;
pub mod names;
mod network;
mod nic;
pub mod quantity;
mod types;
mod violation;
mod vlan;
mod vpc;

pub use bandwidth::{Bandwidth, BandwidthSpec, BitRate};
pub use claim::{AddressClaim, AddressClaimSpec, OwnerRef};
pub use cluster_network::{
    Bond, BondMode, ClusterNetwork, ClusterNetworkNodeStatus, ClusterNetworkSpec, ClusterNetworkStatus, MGMT_FABRIC,
    Uplink,
};
pub use condition::Condition;
pub use connectivity::{Connectivity, FamilyConnectivity, ProbeResult};
pub use crd::{crds, served_types};
pub use floating::{
    Algorithm, Backend, FloatingIP, FloatingIPSpec, FloatingIPStatus, Health, HealthCheck, PortForward, Protocol,
};
pub use group::{
    DefaultInForce, DefaultPolicy, Direction, PolicyStatus, RuleAction, RulePeer, RuleStatus, SecurityGroup,
    SecurityGroupSpec, SecurityGroupStatus, SecurityRule,
};
pub use mirror::{MirrorDirection, MirrorSpec};
pub use nad::{NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec};
pub use network::{
    Addressing, DhcpMode, FamilyRoute, IpFamilySpec, Network, NetworkRoute, NetworkSpec, NetworkStatus, NetworkType,
    RouteMode, RouteStatus, Symmetric, TrunkRange, VlanSpec,
};
pub use nic::{
    Family, GuestView, LearntAddress, Lease6Status, LeaseStatus, LinkState, NetworkInterface, NetworkInterfaceSpec,
    NetworkInterfaceStatus, NicAddressSpec, NicAddressStatus, NicModel, OnChange, PortSecurity, SOURCE_CLAIM,
    SOURCE_FORMED, SOURCE_GUARD,
};
pub use types::{IfName, MacAddr, Mtu, ParseError, VlanId, Vni};
pub use violation::{Violation, Violations};
pub use vlan::VlanSet;
pub use vpc::{PolicyAction, PolicyRoute, StaticRoute, Vpc, VpcPeer, VpcPeerStatus, VpcSpec, VpcStatus};

/// The API group of Multihome's own kinds.
pub const GROUP: &str = "multihome.io";
/// The version of that group which this program serves.
pub const VERSION: &str = "v1alpha1";
/// Finalizer of the controllers: addresses and MACs are given back before the object goes.
pub const FINALIZER_CLAIMS: &str = "multihome.io/claims";
/// Finalizer of the node agent on a VirtualMachineInstance: the process is ended before the object goes.
pub const FINALIZER_AGENT: &str = "multihome.io/agent";
/// Annotation on a VirtualMachine: the name of the interface that is to hold the default route.
pub const ANNOTATION_PRIMARY: &str = "multihome.io/primary-interface";
/// Annotation on a Network of type Management: `pod` networks of KubeVirt manifests in its namespace mean this one.
pub const ANNOTATION_POD_NETWORK: &str = "multihome.io/pod-network";
/// Annotation on a VirtualMachine: the SecurityGroups of all its NICs, separated by commas.
pub const ANNOTATION_POLICIES: &str = "multihome.io/policies";
/// Begin of an annotation on a VirtualMachine: the interface's name follows, and the value is its SecurityGroups, separated by
/// commas, in place of those of all.
pub const ANNOTATION_POLICIES_OF: &str = "policies.multihome.io/";
/// Annotations on a VirtualMachine, as Kubernetes has them on pods: how much reaches the guest by each of its NICs, and how much leaves
/// it, as quantities of bits per second.
pub const ANNOTATIONS_BANDWIDTH: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];
/// Begins of annotations on a VirtualMachine: the interface's name follows, and the value is its own, in place of that of all.
pub const ANNOTATIONS_BANDWIDTH_OF: [&str; 2] = ["ingress-bandwidth.multihome.io/", "egress-bandwidth.multihome.io/"];
/// Annotation on a VirtualMachine: its NICs may share a network.
pub const ANNOTATION_ALLOW_SAME_NETWORK: &str = "multihome.io/allow-same-network";
