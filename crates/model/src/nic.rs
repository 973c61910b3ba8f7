//! `NetworkInterface`: one NIC, which owns its MAC and addresses and outlives its VM.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BandwidthSpec, Condition, MirrorSpec, PolicyStatus};

/// One NIC. It owns its MAC and its addresses, outlives the VM that it is attached to, and can move to another.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[kube(
    group = "multihome.io",
    version = "v1alpha1",
    kind = "NetworkInterface",
    plural = "networkinterfaces",
    shortname = "nic",
    category = "multihome",
    namespaced,
    status = "NetworkInterfaceStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One NIC. It owns its MAC and its addresses, outlives the VM that it is attached to, and can move to another.",
    selectable = ".spec.network",
    selectable = ".spec.vm",
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.vm", description = "The VM that it belongs to"),
    printcolumn(
        name = "Network",
        type_ = "string",
        json_path = ".spec.network",
        description = "The network that it attaches to"
    ),
    printcolumn(name = "MAC", type_ = "string", json_path = ".status.mac", description = "MAC address"),
    printcolumn(name = "IPv4", type_ = "string", json_path = ".status.ipv4.address", description = "IPv4 address"),
    printcolumn(
        name = "Primary",
        type_ = "string",
        json_path = ".status.primaryFor",
        description = "Address families whose default route it holds"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the guest has what was planned"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not"
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.node",
        description = "Node that carries it",
        priority = 1
    ),
    printcolumn(
        name = "Device",
        type_ = "string",
        json_path = ".status.device",
        description = "Tap on the node",
        priority = 1
    ),
    printcolumn(
        name = "Guest",
        type_ = "string",
        json_path = ".status.guestName",
        description = "Name inside the guest",
        priority = 1
    ),
    printcolumn(
        name = "IPv6",
        type_ = "string",
        json_path = ".status.ipv6.address",
        description = "IPv6 address",
        priority = 1
    ),
    printcolumn(
        name = "Gateway",
        type_ = "string",
        json_path = ".status.ipv4.gateway",
        description = "Gateway that its network offers",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkInterfaceSpec {
    /// The Network that it attaches to: `NAME` in its own namespace, or `NAMESPACE/NAME`.
    pub network: String,
    /// The VirtualMachine that it belongs to, in its own namespace. Empty: detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Its place among the VM's NICs; the lowest whose network offers a gateway is primary where none is named.
    /// Default: 100. NICs that come with a VM are numbered 0, 1, 2 in the manifest's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<i32>,
    /// Whether it is to hold the VM's default route. At most one NIC of a VM says true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
    /// MAC address, unicast. Default: derived from the NIC's uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Wishes for its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<NicAddressSpec>,
    /// Wishes for its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NicAddressSpec>,
    /// The virtual hardware. Default: virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<NicModel>,
    /// Queue pairs of a virtio NIC, 1 to 16. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub queues: Option<u32>,
    /// Transmit queue length of its tap, in packets. Default: the kernel's (1000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub tx_queue_length: Option<u32>,
    /// Whether its cable is plugged in. Default: Up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_state: Option<LinkState>,
    /// How a running guest learns of a change that DHCPv4 tells it: another gateway, routes, MTU, or a default route that
    /// moved. Default: Renew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
    /// Strict: only its own MAC and addresses leave it, and no DHCP server or router answers from it. Promiscuous:
    /// anything does. Default: Strict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<PortSecurity>,
    /// The SecurityGroups that it is in, after those of its network: NAME in its own namespace, or NAMESPACE/NAME. Their rules are
    /// asked in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// How much it may carry. Default: what its network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthSpec>,
    /// To which NIC what it says and hears is copied. Default: to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorSpec>,
    /// It may share its network with another NIC of its VM. Default: false, because a guest with two addresses in one
    /// subnet answers from the wrong NIC.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_same_network: bool,
}

/// Wishes for a NIC's address in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NicAddressSpec {
    /// The address, without prefix length. Default: chosen from the network's pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Further addresses that the guest may use on this NIC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secondary: Vec<String>,
}

/// The virtual hardware of a NIC, by KubeVirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Paravirtual, fastest.
    #[default]
    Virtio,
    /// Intel 82540EM, for guests without virtio.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Realtek RTL8139.
    Rtl8139,
}

/// Whether a NIC's cable is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum LinkState {
    /// Carrier on.
    #[default]
    Up,
    /// Carrier off.
    Down,
}

/// How a running guest learns of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum OnChange {
    /// When its client renews the lease, which is at half of the network's leaseSeconds.
    #[default]
    Renew,
    /// At once: its cable is pulled for 2 seconds, after which clients that watch their link ask again. dhcpcd and
    /// systemd-networkd do; others learn of it as with Renew.
    BounceLink,
}

/// What may leave a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum PortSecurity {
    /// Its own MAC and addresses only.
    #[default]
    Strict,
    /// Anything.
    Promiscuous,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    /// Internet Protocol version 4.
    IPv4,
    /// Internet Protocol version 6.
    IPv6,
}

/// What is observed of a NIC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInterfaceStatus {
    /// Its MAC, for as long as it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its IPv4 address, for as long as it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<NicAddressStatus>,
    /// Its IPv6 address, for as long as it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NicAddressStatus>,
    /// The address families whose default route it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primary_for: Vec<Family>,
    /// What the guest is told as its largest packet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The node that carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its tap on that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The slot of the VM that it is plugged into; the same at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Its name inside the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_name: Option<String>,
    /// Addresses that the guest has beside its claimed ones, and that port security lets pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<LearntAddress>,
    /// What the guest was told by DHCP, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseStatus>,
    /// What the guest was told by DHCPv6, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease6: Option<Lease6Status>,
    /// What the guest reports of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestView>,
    /// What is enforced of what it opens and of what is opened towards it; missing where everything passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<PolicyStatus>,
    /// Ready, Attached, Leased, DefaultRouteCorrect; Policed: the SecurityGroups that it is in are enforced; PortSecured:
    /// False on a Promiscuous NIC, with what that opens; Mirrored: what it says and hears is copied as its mirror says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A NIC's address in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct NicAddressStatus {
    /// The address with the subnet's prefix length, such as 10.10.0.5/24.
    pub address: String,
    /// Further addresses of the NIC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secondary: Vec<String>,
    /// The gateway that the network offers, whether this NIC holds the default route or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Where the address comes from: Claim (ours) or Guard (a DHCP server of yours).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// An address that a guest has and that is not of its claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LearntAddress {
    /// The address.
    pub address: String,
    /// Where it comes from: Guard (a DHCP server of yours gave it) or Formed (the guest made it itself, RFC 4862, and
    /// nobody else had it).
    pub source: String,
    /// Until when a DHCP server of yours gave it (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The DHCP server that gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// What the guest was told by DHCPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Lease6Status {
    /// The address that was given.
    pub address: String,
    /// When it was given or extended last (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// How long it holds from then on, in seconds.
    #[serde(default)]
    pub seconds: u32,
    /// The client's DUID in hexadecimal: shown, never an identity (a cloned guest shares it with its template).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duid: String,
}

/// What the guest was told by DHCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// The address that was acknowledged.
    pub address: String,
    /// Whether a default route was among it.
    pub default_route: bool,
    /// When it was acknowledged last (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// How long it holds from then on, in seconds.
    #[serde(default)]
    pub seconds: u32,
    /// The name that the guest gave itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The server identifier that it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The router that it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The specific routes that it was told, as `DESTINATION via GATEWAY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// The MTU that it was told, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// What the guest reports of a NIC by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct GuestView {
    /// Addresses with prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Gateways of the default routes that leave by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_routes: Vec<String>,
    /// When it was reported last (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

/// The source of an address that is the NIC's claim.
pub const SOURCE_CLAIM: &str = "Claim";
/// The source of an address that somebody else's DHCP server gave, as the guard saw it.
pub const SOURCE_GUARD: &str = "Guard";
/// The source of an address that the guest formed itself.
pub const SOURCE_FORMED: &str = "Formed";

impl NetworkInterfaceSpec {
    /// The place of a NIC that names none.
    pub const DEFAULT_ORDER: i32 = 100;
    /// Its place among the VM's NICs.
    pub fn order(&self) -> i32 {
        self.order.unwrap_or(Self::DEFAULT_ORDER)
    }
    /// The VM that it belongs to; an empty name means none.
    pub fn vm(&self) -> Option<&str> {
        self.vm.as_deref().filter(|v| !v.is_empty())
    }
    /// The wishes of one family.
    pub fn family(&self, family: Family) -> Option<&NicAddressSpec> {
        match family {
            Family::IPv4 => self.ipv4.as_ref(),
            Family::IPv6 => self.ipv6.as_ref(),
        }
    }
}
