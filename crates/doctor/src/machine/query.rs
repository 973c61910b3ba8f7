//! Questions that rules ask of an observation. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::observation::{Address, DhcpClient, Lease, Link, MAIN, MachineObservation, Route, Rule};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// An address that is nobody's neighbour: of a range for documentation (RFC 5737, RFC 3849).
    pub fn far_away(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
        }
    }
}

/// Kinds of links that belong to something else than the machine's own way out.
const OTHERS: [&str; 16] = [
    "dummy",
    "tun",
    "wireguard",
    "ipip",
    "sit",
    "gre",
    "gretap",
    "ip6tnl",
    "ip6gre",
    "vti",
    "xfrm",
    "ifb",
    "nlmon",
    "vrf",
    "vcan",
    "netkit",
];
/// Bridges that container engines and libvirt make, by the beginnings of their names.
const FOREIGN_BRIDGES: [&str; 10] =
    ["docker", "br-", "virbr", "cni", "podman", "lxcbr", "lxdbr", "incusbr", "mhb", "mhf"];

impl MachineObservation {
    /// The link of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// Addresses of a link, of one family, that others can reach: neither link-local nor the host's own.
    pub fn global(&self, link: &str, family: Family) -> Vec<&Address> {
        self.addresses.iter().filter(|a| a.link == link && Family::of(a.net.addr()) == family && is_global(a)).collect()
    }

    /// All addresses of a link.
    pub fn addresses_of<'a>(&'a self, link: &'a str) -> impl Iterator<Item = &'a Address> {
        self.addresses.iter().filter(move |a| a.link == link)
    }

    /// Whether any link has hardware: then a veth is not this machine's own NIC.
    fn has_hardware(&self) -> bool {
        self.links.iter().any(|l| l.hardware || (l.kind.is_empty() && !l.loopback && l.mac.is_some()))
    }

    /// Whether a link is a NIC: hardware, a hypervisor's, or in a container its end of a veth or a macvlan.
    pub fn is_nic(&self, l: &Link) -> bool {
        if l.loopback || l.mac.is_none() {
            return false;
        }
        match l.kind.as_str() {
            "" => true,
            _ if l.hardware => true,
            // Multihome's own legs and ways out of routing domains.
            "veth" if l.name.starts_with("mhe") || l.name.starts_with("mhl") => false,
            "veth" => {
                let named = ["eth", "en", "net"].iter().any(|p| l.name.starts_with(p));
                !self.has_hardware() && l.foreign_peer && l.master.is_none() && (named || self.has_global(&l.name))
            }
            "macvlan" | "ipvlan" => !self.has_hardware() && l.foreign_peer,
            _ => false,
        }
    }

    fn has_global(&self, link: &str) -> bool {
        self.addresses_of(link).any(is_global)
    }

    /// Whether a link leads out of the machine: a NIC, or what is built on one, and not a container
    /// engine's bridge, a tunnel or a virtual machine's tap.
    pub fn is_uplink(&self, l: &Link) -> bool {
        if self.is_nic(l) {
            return !self.is_enslaved(l);
        }
        if l.loopback || OTHERS.contains(&l.kind.as_str()) {
            return false;
        }
        match l.kind.as_str() {
            "bond" | "team" => true,
            "vlan" | "macvlan" | "ipvlan" => {
                l.parent.as_deref().and_then(|p| self.link(p)).is_none_or(|p| self.is_nic(p) || self.is_uplink(p))
            }
            "bridge" | "openvswitch" => {
                let ports: Vec<&Link> = self.links.iter().filter(|p| p.master.as_ref() == Some(&l.name)).collect();
                let carries_nic = ports.iter().any(|p| self.is_nic(p) || ["bond", "team", "vlan"].contains(&&*p.kind));
                carries_nic && !FOREIGN_BRIDGES.iter().any(|b| l.name.starts_with(b))
                    || ports.iter().any(|p| p.hardware)
            }
            _ => false,
        }
    }

    /// Whether a link is a port of a bridge, bond or team; a VRF leaves it a link of its own.
    pub fn is_enslaved(&self, l: &Link) -> bool {
        l.master.as_deref().is_some_and(|m| self.link(m).is_none_or(|m| m.kind != "vrf"))
    }

    /// The VRF that a link belongs to.
    pub fn vrf_of(&self, link: &str) -> Option<&str> {
        let master = self.link(link)?.master.as_deref()?;
        self.link(master).filter(|m| m.kind == "vrf").map(|m| m.name.as_str())
    }

    /// Links that lead out of the machine.
    pub fn uplinks(&self) -> Vec<&Link> {
        self.links.iter().filter(|l| self.is_uplink(l)).collect()
    }

    /// Default routes of the main table that are in use, the preferred one first.
    pub fn defaults(&self, family: Family) -> Vec<&Route> {
        let mut all: Vec<&Route> = self
            .routes
            .iter()
            .filter(|r| r.table == MAIN && is_default(r, family) && r.kind == "unicast" && !r.dead)
            .collect();
        all.sort_by_key(|r| r.metric);
        all
    }

    /// The default route by which traffic leaves now.
    pub fn default_in_force(&self, family: Family) -> Option<&Route> {
        self.lookup(family.far_away(), None).filter(|r| is_default(r, family))
    }

    /// The route that a packet takes, as the rules and tables say (`ip route get`). Rules on marks,
    /// devices and VRFs are passed over.
    pub fn lookup(&self, to: IpAddr, from: Option<IpAddr>) -> Option<&Route> {
        let rules = self.rules.iter().filter(|r| Family::of(r.from.addr()) == Family::of(to) && r.action == "lookup");
        let mut rules: Vec<&Rule> = rules
            .filter(|r| r.iif.as_deref().is_none_or(|i| i == "lo") && r.oif.is_none() && r.mark.is_none() && !r.l3mdev)
            .collect();
        rules.sort_by_key(|r| r.priority);
        if rules.is_empty() {
            return self.best(to, MAIN, None).filter(|r| r.kind == "unicast" || r.kind == "local");
        }
        let found = rules.into_iter().find_map(|rule| {
            let source = rule.from.prefix_len() == 0 || from.is_some_and(|f| rule.from.contains(&f));
            let target = rule.to.is_none_or(|t| t.contains(&to));
            let asked = (source && target) != rule.invert;
            // A throw route has the next rule asked.
            self.best(to, rule.table, rule.suppress_prefix).filter(|r| asked && r.kind != "throw")
        });
        // A route that says «unreachable» ends the search and leads nowhere.
        found.filter(|r| !["unreachable", "blackhole", "prohibit"].contains(&r.kind.as_str()))
    }

    fn best(&self, to: IpAddr, table: u32, suppress: Option<u32>) -> Option<&Route> {
        let mut best: Option<&Route> = None;
        for r in self.routes.iter().filter(|r| r.table == table && !r.dead && r.to.contains(&to)) {
            let better = best.is_none_or(|b| {
                (r.to.prefix_len(), std::cmp::Reverse(r.metric)) > (b.to.prefix_len(), std::cmp::Reverse(b.metric))
            });
            if better {
                best = Some(r);
            }
        }
        best.filter(|b| suppress.is_none_or(|s| u32::from(b.to.prefix_len()) > s))
    }

    /// Whether any of some links is wireless: a laptop that is plugged in, too, has two ways on purpose.
    pub fn roams(&self, links: &[&str]) -> bool {
        links.iter().any(|l| self.link(l).is_some_and(|l| l.wireless))
    }

    /// A kernel parameter as a number.
    pub fn sysctl(&self, key: &str) -> Option<u32> {
        self.sysctls.get(key)?.trim().parse().ok()
    }

    /// An IPv4 parameter as it holds for a link: the larger of `all` and its own
    /// (Documentation/networking/ip-sysctl.rst, for rp_filter, arp_ignore, arp_announce).
    pub fn strictest(&self, link: &str, name: &str) -> u32 {
        ["all", link].iter().filter_map(|l| self.sysctl(&format!("net/ipv4/conf/{l}/{name}"))).max().unwrap_or(0)
    }

    /// The lease of a link, the one that matches an address of it first.
    pub fn lease(&self, link: &str) -> Option<&Lease> {
        let holds = |l: &&Lease| l.address.is_some_and(|ip| self.addresses_of(link).any(|a| a.net.addr() == ip));
        let mine = || self.leases.iter().filter(|l| l.link == link);
        mine().find(holds).or_else(|| mine().next_back())
    }

    /// DHCP clients of a family that work on a link.
    pub fn clients_of(&self, link: &str, ipv6: bool) -> Vec<&DhcpClient> {
        self.clients.iter().filter(|c| c.link.as_deref().is_none_or(|l| l == link) && c.ipv6 == ipv6).collect()
    }

    /// The gateway of a link for a family, with where it is known from.
    pub fn gateway(&self, link: &str, family: Family) -> Option<(IpAddr, String)> {
        let by_route = self
            .routes
            .iter()
            .filter(|r| is_default(r, family) && r.dev.as_deref() == Some(link))
            .find_map(|r| r.via.map(|v| (v, super::show::route(r))));
        let by_lease = || {
            let lease = self.lease(link).filter(|_| family == Family::V4)?;
            let ip = lease.routers.first().copied().or(lease.classless_default)?;
            Some((ip, format!("{}: router {ip}", lease.source)))
        };
        by_route.or_else(by_lease)
    }
}

/// Whether others can reach an address: neither link-local nor the host's own, nor given up.
pub fn is_global(a: &Address) -> bool {
    let ip = a.net.addr();
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    };
    !local && a.scope != "host"
}

/// Whether a route is the default route of a family.
pub fn is_default(r: &Route, family: Family) -> bool {
    r.to.prefix_len() == 0 && Family::of(r.to.addr()) == family
}

/// The subnet of an address.
pub fn subnet(a: &Address) -> IpNet {
    a.net.trunc()
}

/// The devices that a route leaves by.
pub fn devices(r: &Route) -> Vec<&str> {
    r.dev.iter().map(String::as_str).chain(r.hops.iter().map(|(d, _)| d.as_str())).collect()
}
