//! KubeVirt's VirtualMachine and VirtualMachineInstance: the part of `kubevirt.io/v1` that Multihome acts on.
//!
//! Fields that are not named here are kept as written, so that a manifest goes in and comes out whole. Field names
//! and rules follow KubeVirt's API reference, "Interfaces and Networks" and "Disks and Volumes".

mod check;
mod seed;

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::{NetworkSource, check_instance, check_machine, network_source};
pub use seed::{CloudInitNoCloud, SecretName, Source};

use crate::Condition;

/// Whatever else a manifest says; kept as written.
pub type Rest = BTreeMap<String, Value>;

/// The versions of `kubevirt.io` that are served; the first is the one that is told to clients.
pub const VERSIONS: [&str; 3] = ["v1", "v1alpha3", "v1alpha2"];

/// A virtual machine, running or not.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    shortname = "vm",
    shortname = "vms",
    category = "all",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A virtual machine, running or not.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.printableStatus",
        description = "What it is doing"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it runs"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Whether it is to run. Excludes `runStrategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Always, Halted, Manual, RerunOnFailure or Once. Excludes `running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<String>,
    /// What each instance of it is made from.
    pub template: InstanceTemplate,
    /// The rest of the spec.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What an instance is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTemplate {
    /// Labels and annotations of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub metadata: Option<Value>,
    /// Its spec.
    pub spec: VirtualMachineInstanceSpec,
}

/// What is observed of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Whether an instance exists.
    #[serde(default)]
    pub created: bool,
    /// Whether the instance runs.
    #[serde(default)]
    pub ready: bool,
    /// What it is doing, in a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub printable_status: String,
    /// Ready, Failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The rest of the status.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One run of a virtual machine.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachineInstance",
    plural = "virtualmachineinstances",
    shortname = "vmi",
    shortname = "vmis",
    category = "all",
    namespaced,
    status = "VirtualMachineInstanceStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One run of a virtual machine.",
    selectable = ".status.nodeName",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "What it is doing"),
    printcolumn(
        name = "IP",
        type_ = "string",
        json_path = ".status.interfaces[0].ipAddress",
        description = "Address of its primary NIC"
    ),
    printcolumn(
        name = "NodeName",
        type_ = "string",
        json_path = ".status.nodeName",
        description = "Node that runs it"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it runs"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceSpec {
    /// Hardware.
    #[serde(default)]
    pub domain: Domain,
    /// What its interfaces attach to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<VmNetwork>,
    /// What its disks hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// The name that the guest is told (DHCP option 12). Default: the VM's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Labels of the nodes that may run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// How long the guest may take to shut down, in seconds. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
    /// The rest of the spec.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Hardware of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Requests and limits, as for a pod; `requests.memory` counts where `memory.guest` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Disks and interfaces.
    #[serde(default)]
    pub devices: Devices,
    /// How it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Processors of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Cores per socket. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub cores: Option<u32>,
    /// Sockets. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub sockets: Option<u32>,
    /// Threads per core. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub threads: Option<u32>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Memory of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What the guest sees, as a quantity such as 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity")]
    pub guest: Option<Value>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Requests and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What it needs at least: `memory` and `cpu` as quantities.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Value>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a virtual machine boots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// Boot a kernel directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_boot: Option<KernelBoot>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A kernel that is booted directly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// Where kernel and initramfs come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<KernelBootContainer>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The image that holds a kernel and an initramfs; looked up in the node's image store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct KernelBootContainer {
    /// Name of the image.
    pub image: String,
    /// The rest: the paths inside a container image, which the image store does not need.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Devices of a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Disks; each names a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Interfaces; each names a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<Interface>>,
    /// Give each virtio interface as many queues as there are processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_interface_multiqueue: Option<bool>,
    /// Add an interface on the pod network where the manifest names none. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_pod_interface: Option<bool>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The volume's name.
    pub name: String,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A NIC of a virtual machine. Exactly one binding is given; Multihome connects all of them to the network's bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The network's name.
    pub name: String,
    /// e1000, e1000e, rtl8139 or virtio. Default: virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MAC address. Default: derived, and kept for as long as the VM exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// up, down or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// On the network's bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub bridge: Option<Value>,
    /// Behind the pod's address; here: on the bridge of the management network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub masquerade: Option<Value>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What an interface attaches to: exactly one of `pod` and `multus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VmNetwork {
    /// The interface's name.
    pub name: String,
    /// The management network of the VM's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod: Option<Value>,
    /// A NetworkAttachmentDefinition, which has its Network's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multus: Option<Multus>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A NetworkAttachmentDefinition by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Multus {
    /// `NAME` or `NAMESPACE/NAME`.
    pub network_name: String,
    /// It takes the pod network's place: this interface is primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// An image of the node's image store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_disk: Option<ContainerDisk>,
    /// The same, by the name that kubevirt.io/v1alpha2 used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_disk: Option<ContainerDisk>,
    /// A disk of the node's file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_disk: Option<HostDisk>,
    /// A NoCloud seed for cloud-init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init_no_cloud: Option<CloudInitNoCloud>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// An image of the node's image store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ContainerDisk {
    /// Name of the image.
    pub image: String,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A disk of the node's file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct HostDisk {
    /// Path on the node, or the name of an image in the node's image store.
    pub path: String,
    /// Disk or DiskOrCreate.
    #[serde(default)]
    pub r#type: String,
    /// The rest.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What is observed of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceStatus {
    /// The node that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Pending, Scheduled, Running, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Why it is in that phase, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its interfaces, primary first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceStatus>,
    /// Ready, AgentConnected, DefaultRouteCorrect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The rest of the status.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What is observed of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// The network's name in the spec; the NIC's name for one that was attached on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// All its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<String>,
    /// Its name inside the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Who says so: domain, guest-agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_source: Option<String>,
    /// Queue pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_count: Option<u32>,
    /// up or down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_state: Option<String>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn quantity(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true})
}

fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true}})
}
