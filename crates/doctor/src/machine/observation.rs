//! A Linux machine as it was observed: the kernel's state, the configuration files, DHCP clients and
//! what was heard on the wire. Plain data that can be saved and sent to somebody else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The version of the observation's format that this program writes.
pub const FORMAT: u32 = 1;
/// The main routing table.
pub const MAIN: u32 = 254;

/// Everything that was seen of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineObservation {
    /// Version of this format, [`FORMAT`].
    pub format: u32,
    /// Host name.
    pub host: String,
    /// Directory below which the files were read; `/` on the machine itself.
    pub root: String,
    /// Links in the order of their indexes.
    pub links: Vec<Link>,
    /// Addresses of all links.
    pub addresses: Vec<Address>,
    /// Routes of all tables and both families, in the kernel's order.
    pub routes: Vec<Route>,
    /// Routing policy rules, in the order in which they are asked, IPv4 first.
    pub rules: Vec<Rule>,
    /// IP neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Kernel parameters by their path below `/proc/sys`, such as `net/ipv4/conf/all/rp_filter`.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the kernel has VRF devices, built in or as a module; none if it cannot be told.
    pub kernel_vrf: Option<bool>,
    /// Name servers in use.
    pub resolvers: Vec<Resolver>,
    /// Running DHCP clients.
    pub clients: Vec<DhcpClient>,
    /// Leases that were found.
    pub leases: Vec<Lease>,
    /// Network managers that run: `NetworkManager`, `systemd-networkd`, `wickedd`, `dhcpcd`, `connmand`.
    pub managers: Vec<String>,
    /// Configuration files of the network, as text. Secrets are left out.
    pub configs: Vec<ConfigFile>,
    /// What was heard on the wire, per NIC; empty if nothing was sent.
    pub probes: Vec<Probe>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind (`bridge`, `veth`, `vxlan`, …); empty for hardware and loopback.
    pub kind: String,
    /// Driver, where it says so.
    pub driver: String,
    /// Whether there is hardware, or a hypervisor's, behind it: a PCI, virtio, USB or Xen device.
    pub hardware: bool,
    /// Whether it is wireless: WLAN or a mobile network.
    pub wireless: bool,
    /// Whether it is loopback.
    pub loopback: bool,
    /// Administrative state.
    pub up: bool,
    /// Whether there is a carrier.
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address in lower case, if it has one of six bytes.
    pub mac: Option<String>,
    /// The hardware's own MAC address, where it differs or is known.
    pub permanent_mac: Option<String>,
    /// Bridge, bond, team or VRF that it belongs to, by name.
    pub master: Option<String>,
    /// Device below (VLAN, VXLAN, macvlan) in the same namespace, by name.
    pub parent: Option<String>,
    /// Its other end or device below is in another namespace.
    pub foreign_peer: bool,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Link, by name.
    pub link: String,
    /// The address with its prefix length.
    pub net: IpNet,
    /// `global`, `link`, `host` or `site`.
    pub scope: String,
    /// It has a lifetime.
    pub dynamic: bool,
    /// An additional IPv4 address of its subnet, or a temporary IPv6 one.
    pub secondary: bool,
    /// Duplicate detection is not finished.
    pub tentative: bool,
    /// Duplicate detection found another holder.
    pub dad_failed: bool,
    /// Past its preferred lifetime.
    pub deprecated: bool,
    /// Seconds that it stays valid; none is forever.
    pub valid_seconds: Option<u32>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Destination; of length 0 it is the default route.
    pub to: IpNet,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Device, by name; none of a blackhole.
    pub dev: Option<String>,
    /// Next hops of a multipath route: device and gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<(String, Option<IpAddr>)>,
    /// Routing table.
    pub table: u32,
    /// Metric; the lowest wins.
    pub metric: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Who installed it (`RTPROT_…`): 2 kernel, 3 boot, 4 static, 9 router advertisement, 16 DHCP.
    pub protocol: u8,
    /// `unicast`, `local`, `broadcast`, `blackhole`, `unreachable`, `prohibit`, …
    pub kind: String,
    /// It is on the link although no address says so.
    #[serde(default)]
    pub onlink: bool,
    /// Its own MTU in bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its device is down, so that it is not used.
    #[serde(default)]
    pub dead: bool,
}

/// A routing policy rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Order.
    pub priority: u32,
    /// Source prefix; of length 0 it is every source of its family.
    pub from: IpNet,
    /// Destination prefix; none is every destination.
    pub to: Option<IpNet>,
    /// Name of the device that a packet came in on.
    pub iif: Option<String>,
    /// Name of the device that the socket is bound to.
    pub oif: Option<String>,
    /// Firewall mark.
    pub mark: Option<u32>,
    /// Routing table.
    pub table: u32,
    /// `lookup`, or what else it does.
    pub action: String,
    /// It holds for what does not match.
    pub invert: bool,
    /// It asks the table of the packet's VRF.
    pub l3mdev: bool,
    /// Routes of this prefix length or shorter are passed over.
    pub suppress_prefix: Option<u32>,
    /// Who installed it.
    pub protocol: u8,
}

/// An IP neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    /// Link, by name.
    pub link: String,
    /// The address.
    pub ip: IpAddr,
    /// The MAC address, if known.
    pub mac: Option<String>,
    /// `REACHABLE`, `STALE`, `FAILED`, …
    pub state: String,
}

/// A name server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolver {
    /// Its address.
    pub ip: IpAddr,
    /// The link that it is used on alone, where the resolver keeps them apart.
    pub link: Option<String>,
    /// File and line.
    pub source: String,
}

/// A running DHCP client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DhcpClient {
    /// Process number.
    pub pid: u32,
    /// `dhclient`, `udhcpc`, `dhcpcd`, `NetworkManager`, `systemd-networkd`, …
    pub program: String,
    /// The link that it works on; none for all.
    pub link: Option<String>,
    /// Whether it does IPv6.
    pub ipv6: bool,
    /// Its command line.
    pub command: String,
}

/// A DHCPv4 lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lease {
    /// Link, by name.
    pub link: String,
    /// The client that took it.
    pub client: String,
    /// The file that it was read from.
    pub source: String,
    /// The address.
    pub address: Option<IpAddr>,
    /// Server identifier (option 54).
    pub server: Option<IpAddr>,
    /// Routers (option 3).
    pub routers: Vec<IpAddr>,
    /// Gateway of the default route in option 121 or 249.
    pub classless_default: Option<IpAddr>,
    /// Name servers (option 6).
    pub dns: Vec<IpAddr>,
    /// MTU in bytes (option 26).
    pub mtu: Option<u32>,
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFile {
    /// Path on the machine.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
}

/// What was heard on one NIC after asking.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Link, by name.
    pub link: String,
    /// Gateways that were asked by ARP or neighbour solicitation, and the MAC that answered.
    pub gateways: Vec<(IpAddr, Option<String>)>,
    /// Own addresses for which another MAC answered (RFC 5227).
    pub duplicates: Vec<(IpAddr, String)>,
    /// Frames of others that carried this NIC's own MAC as their source, one described.
    pub own_mac_seen: Option<String>,
    /// Largest packet in bytes that a gateway answered, and the largest that was sent.
    pub path_mtu: Option<PathMtu>,
}

/// The outcome of echo requests of several sizes that must not be fragmented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathMtu {
    /// Who was asked.
    pub gateway: IpAddr,
    /// The largest packet that was answered, in bytes.
    pub answered: u32,
    /// The smallest packet that was not, in bytes.
    pub lost: Option<u32>,
}

/// Words in keys of configuration files whose values are nobody else's business.
const SECRETS: [&str; 6] = ["psk", "password", "secret", "passphrase", "private-key", "wep-key"];

impl MachineObservation {
    /// The same without passwords and keys in configuration files, to be given to somebody else.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut clean = self.clone();
        for file in &mut clean.configs {
            let lines = file.text.lines().map(|l| {
                let (key, _) = l.split_once(['=', ':']).unwrap_or((l, ""));
                let low = key.to_lowercase().replace('_', "-");
                let secret = SECRETS.iter().any(|s| low.contains(s));
                if secret { format!("{key}# left out\n") } else { format!("{l}\n") }
            });
            file.text = lines.collect();
        }
        clean
    }
}

/// What the person at the keyboard says about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The link that is to hold the default routes.
    pub primary: Option<String>,
    /// Sets of links that share a subnet on purpose.
    pub bound: Vec<Vec<String>>,
}
