//! Networks, security groups and NICs on the command line.

use clap::{Args, Subcommand, ValueEnum};

use super::Format;

/// `network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List networks
    List(ListArgs),
    /// Create a network
    Create(Box<NetworkCreate>),
    /// Remove a network that no NIC uses
    Delete(NameArg),
}

/// `network create`
#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// Its name
    pub name: String,
    /// management, vlan, vlantrunk, untagged or overlay
    #[arg(long, default_value = "management")]
    pub r#type: String,
    /// IPv4 subnet, such as 10.10.0.0/24
    #[arg(long)]
    pub cidr: Option<String>,
    /// IPv4 gateway. Default: the subnet's first address
    #[arg(long)]
    pub gateway: Option<String>,
    /// Offer no gateway
    #[arg(long, conflicts_with = "gateway")]
    pub no_gateway: bool,
    /// VLAN id, 1 to 4094; of a trunk, the native VLAN
    #[arg(long)]
    pub vlan: Option<u32>,
    /// VLANs of a trunk: one id, or FIRST-LAST
    #[arg(long, value_delimiter = ',')]
    pub trunk: Vec<String>,
    /// Routing domain
    #[arg(long)]
    pub vpc: Option<String>,
    /// Fabric
    #[arg(long)]
    pub cluster_network: Option<String>,
    /// Where subnet and gateway come from. Default: auto on vlan and untagged networks without a subnet, else manual
    #[arg(long, value_enum, value_name = "HOW")]
    pub route: Option<RouteWish>,
    /// Name servers
    #[arg(long)]
    pub dns: Vec<String>,
    /// Largest packet in bytes
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Lease time in seconds
    #[arg(long)]
    pub lease: Option<u32>,
    /// Security group of every NIC in it; may be given several times
    #[arg(long = "policy", value_name = "GROUP")]
    pub policies: Vec<String>,
    /// How much reaches the guest of each NIC in it that says nothing itself, in bits per second, such as 1G
    #[arg(long, value_name = "RATE")]
    pub nic_ingress: Option<String>,
    /// How much leaves it, likewise
    #[arg(long, value_name = "RATE")]
    pub nic_egress: Option<String>,
    /// What becomes of what others open towards its NICs where no rule decides
    #[arg(long, value_enum, value_name = "WHAT")]
    pub default_ingress: Option<ActionWish>,
    /// What becomes of what its NICs open where no rule decides
    #[arg(long, value_enum, value_name = "WHAT")]
    pub default_egress: Option<ActionWish>,
}

/// Where a network's subnet and gateway come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouteWish {
    /// Learnt from the network's own DHCP server and router
    Auto,
    /// What is given here
    Manual,
    /// Not known, and nobody is asked
    None,
}

/// What becomes of what no rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActionWish {
    /// It passes
    Allow,
    /// It is dropped
    Deny,
}

/// `group …`
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List security groups
    List(ListArgs),
    /// Create a security group
    Create(GroupCreate),
    /// Remove a security group that nobody uses
    Delete(NameArg),
}

/// `group create`
#[derive(Debug, Args)]
pub struct GroupCreate {
    /// Its name
    pub name: String,
    /// What others may open: "[allow|deny] PROTOCOL [PORTS] [from PEERS]", such as "tcp 22,80 from 10.0.0.0/8,group:web"; may be
    /// given several times, the first that matches decides
    #[arg(long, value_name = "RULE")]
    pub ingress: Vec<String>,
    /// What its NICs may open: "[allow|deny] PROTOCOL [PORTS] [to PEERS]"; may be given several times
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,
}

/// How a list is printed.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// A name.
#[derive(Debug, Args)]
pub struct NameArg {
    /// Its name
    pub name: String,
}

/// `nic …`
#[derive(Debug, Subcommand)]
pub enum NicCommand {
    /// List NICs
    List(ListArgs),
    /// Create a NIC, and plug it into a VM if one is named, running or not
    Create(NicCreate),
    /// Give a detached NIC to a VM
    Attach(NicAttach),
    /// Take a NIC out of its VM; it keeps MAC and addresses
    Detach(NameArg),
    /// Make this NIC hold its VM's default route
    SetPrimary(NameArg),
    /// Plug in or pull out the cable
    Link(NicLink),
    /// Put a NIC into these security groups and no others; without any, into none
    Policies(NicPolicies),
    /// Limit how much a NIC carries, at once and for as long as it says so
    Bandwidth(NicBandwidth),
    /// Copy what a NIC says and hears to another NIC, whose VM can capture it
    Mirror(NicMirror),
    /// Choose how the running guest learns of a changed default route, gateway, routes or MTU
    OnChange(NicOnChange),
    /// Remove a NIC, unplugging it first; its addresses become free
    Delete(NameArg),
}

/// `nic create`
#[derive(Debug, Args)]
pub struct NicCreate {
    /// Its name. Default: VM-NETWORK, or one made from the network's
    pub name: Option<String>,
    /// Network: NAME or NAMESPACE/NAME
    #[arg(long)]
    pub network: String,
    /// VM
    #[arg(long)]
    pub vm: Option<String>,
    /// MAC address. Default: derived
    #[arg(long)]
    pub mac: Option<String>,
    /// IPv4 address. Default: chosen from the network's pools
    #[arg(long)]
    pub address: Option<String>,
    /// Hold the VM's default route
    #[arg(long)]
    pub primary: bool,
    /// Let anything leave the port
    #[arg(long)]
    pub promiscuous: bool,
    /// Security group that it is in; may be given several times
    #[arg(long = "policy", value_name = "GROUP")]
    pub policies: Vec<String>,
    /// How much reaches the guest, in bits per second, such as 100M
    #[arg(long, value_name = "RATE")]
    pub ingress: Option<String>,
    /// How much leaves the guest, in bits per second, such as 100M
    #[arg(long, value_name = "RATE")]
    pub egress: Option<String>,
    /// Wait until the guest has its address, at most this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u64>,
}

/// `nic policies`
#[derive(Debug, Args)]
pub struct NicPolicies {
    /// NIC
    pub name: String,
    /// Security groups, in the order in which their rules are asked
    pub groups: Vec<String>,
}

/// `nic bandwidth`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("way").required(true).multiple(true).args(["ingress", "egress"])))]
pub struct NicBandwidth {
    /// NIC
    pub name: String,
    /// How much reaches the guest, in bits per second, such as 100M; default: what its network says
    #[arg(long, value_name = "RATE|default")]
    pub ingress: Option<String>,
    /// How much leaves the guest, likewise
    #[arg(long, value_name = "RATE|default")]
    pub egress: Option<String>,
}

/// `nic mirror`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["to", "off"])))]
pub struct NicMirror {
    /// NIC that is copied
    pub name: String,
    /// NIC that gets the copies: of the same namespace, on any network; both VMs run on one node
    #[arg(long, value_name = "NIC")]
    pub to: Option<String>,
    /// What is copied: what reaches the guest, what leaves it, or both
    #[arg(long, value_enum, default_value = "both", conflicts_with = "off")]
    pub direction: MirrorWish,
    /// Copy nothing any more
    #[arg(long)]
    pub off: bool,
}

/// What of a NIC is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MirrorWish {
    /// What reaches the guest and what leaves it
    Both,
    /// What reaches the guest
    Ingress,
    /// What leaves the guest
    Egress,
}

/// `nic attach`
#[derive(Debug, Args)]
pub struct NicAttach {
    /// NIC
    pub name: String,
    /// VM
    #[arg(long)]
    pub vm: String,
}

/// `nic link`
#[derive(Debug, Args)]
pub struct NicLink {
    /// NIC
    pub name: String,
    /// up or down
    #[arg(value_enum)]
    pub state: LinkWish,
}

/// A cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkWish {
    /// Plugged in
    Up,
    /// Pulled out
    Down,
}

/// `nic on-change`
#[derive(Debug, Args)]
pub struct NicOnChange {
    /// NIC
    pub name: String,
    /// renew or bounce-link
    #[arg(value_enum)]
    pub how: ChangeWish,
}

/// How a guest learns of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChangeWish {
    /// When its client renews the lease
    Renew,
    /// At once: the cable is pulled for 2 s, and clients that watch their link (dhcpcd, systemd-networkd) ask again
    BounceLink,
}
