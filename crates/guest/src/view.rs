//! What the renderers need to know of each NIC, asked of the plan in one place so that no two dialects differ.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{Addressing, Family};
use multihome_plan::primary::FAMILIES;
use multihome_plan::route::{FamilyPlan, Method, NicPlan, PlannedRoute};

use crate::Guest;

/// A rule's priority is its table's number and this: table 101 has priority 1001, ahead of the main table (32766).
const PRIORITY_OVER_TABLE: u32 = 900;

/// How a guest gets an address of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It asks a DHCP server: Multihome's own, or one behind the guard.
    Dhcp,
    /// It follows router advertisements, and forms its address itself (RFC 4862).
    Router {
        /// Whether a DHCPv6 server is there that tells name servers and the like, and no address (RFC 8415 section 6.1).
        info: bool,
    },
    /// It is told by its configuration.
    Static(IpNet),
    /// Not at all.
    Nothing,
}

/// The table for replies that must leave by the NIC of their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnTable {
    pub id: u32,
    pub priority: u32,
    pub from: IpAddr,
    pub prefix: IpNet,
    pub gateway: IpAddr,
}

/// One NIC.
#[derive(Debug, Clone)]
pub(crate) struct Nic<'a> {
    pub plan: &'a NicPlan,
    /// The device's name in the guest.
    pub device: String,
    /// Whether that name was seen in the guest, rather than given by us.
    pub known: bool,
    /// Its place in the plan.
    pub index: usize,
}

/// One family of one NIC. `plan` is none where the network has no such subnet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack<'a> {
    pub family: Family,
    plan: Option<&'a FamilyPlan>,
}

impl Guest {
    /// The name of a NIC's device in the guest: what the guest is known to use; else the NIC's own name, without the VM's
    /// in front and with a digit at its end; else, where that is no good name, `nic` and the last three octets of its MAC. It changes with nothing but
    /// the NIC itself. Names of the kernel's own kind (`eth0`) are never given out, because two devices that swap such
    /// names stand in each other's way (systemd.link(5), `Name=`).
    pub fn device(&self, nic: &NicPlan) -> String {
        if let Some(known) = self.known_device(nic) {
            return known.to_owned();
        }
        let wish = own_name(&self.name, &nic.name);
        let others: BTreeSet<&str> = self.devices.values().map(String::as_str).collect();
        let twice = self.plan.nics.iter().filter(|n| own_name(&self.name, &n.name) == wish).count() > 1;
        match wish {
            Some(n) if !twice && !others.contains(n.as_str()) => n,
            _ => format!("nic{}", &nic.mac.hex()[6..]),
        }
    }

    /// What the guest says that it calls a device is believed only where it is a plain name: it ends up in paths and scripts.
    fn known_device(&self, nic: &NicPlan) -> Option<&str> {
        let plain = |n: &&str| {
            let characters = n.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            characters && (1..=15).contains(&n.len()) && !n.starts_with(['.', '-'])
        };
        self.devices.get(&nic.name).map(String::as_str).filter(plain)
    }

    pub(crate) fn nics(&self) -> Vec<Nic<'_>> {
        let one = |(index, plan)| {
            let plan: &NicPlan = plan;
            Nic { plan, device: self.device(plan), known: self.known_device(plan).is_some(), index }
        };
        self.plan.nics.iter().enumerate().map(one).collect()
    }
}

/// A NIC's name where it can be a device's: no name of the kernel's own kind, and none that sysctl gives a meaning. It ends
/// in a digit, because iproute2 takes words like `a` or `up` for its own (`ip link set a up` sets an address).
fn own_name(vm: &str, nic: &str) -> Option<String> {
    let name = nic.strip_prefix(vm).and_then(|n| n.strip_prefix('-')).unwrap_or(nic);
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let device = if stem == name { format!("{name}0") } else { name.to_owned() };
    let characters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let taken = ["eth", "lo", "all", "default", "wlan", "bond", "br", "docker", "dummy", "tun", "tap", "veth", "virbr"];
    // Predictable names of systemd: eno1, ens3, enp1s0, enx525400000010.
    let predictable = name.starts_with("en") && name.bytes().any(|b| b.is_ascii_digit());
    (starts && characters && device.len() <= 15 && !taken.contains(&stem) && !predictable).then_some(device)
}

impl<'a> Nic<'a> {
    pub fn stack(&self, family: Family) -> Stack<'a> {
        Stack { family, plan: self.plan.family(family) }
    }
    pub fn v4(&self) -> Stack<'a> {
        self.stack(Family::IPv4)
    }
    pub fn v6(&self) -> Stack<'a> {
        self.stack(Family::IPv6)
    }
    /// IPv4, then IPv6.
    pub fn stacks(&self) -> [Stack<'a>; 2] {
        FAMILIES.map(|f| self.stack(f))
    }
    /// Whether it holds the default route of a family.
    pub fn is_primary(&self) -> bool {
        self.stacks().iter().any(Stack::is_primary)
    }
    /// Name servers that the configuration must name, because no server tells them.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.stacks().iter().flat_map(Stack::dns).collect()
    }
    /// Search domains that the configuration must name, the own domain first.
    pub fn search(&self) -> Vec<String> {
        let mut out: Vec<String> = vec![];
        for d in self.stacks().iter().flat_map(Stack::search) {
            if !out.contains(&d) {
                out.push(d);
            }
        }
        out
    }
}

impl<'a> Stack<'a> {
    pub fn how(&self) -> How {
        let Some(p) = self.plan else { return How::Nothing };
        match (p.method, p.addressing, p.address) {
            (Method::Server | Method::Guard, Some(Addressing::Slaac), _) => How::Router { info: false },
            (Method::Server | Method::Guard, Some(Addressing::Stateless), _) => How::Router { info: true },
            (Method::Server | Method::Guard, Some(Addressing::Stateful) | None, _) => How::Dhcp,
            (Method::Static, _, Some(a)) => How::Static(a),
            (Method::Static | Method::None, ..) => How::Nothing,
        }
    }
    /// Whether a DHCP server gives it its address.
    pub fn is_dhcp(&self) -> bool {
        self.how() == How::Dhcp
    }
    /// Whether the network tells it what it needs: by DHCP, or by router advertisements.
    pub fn is_served(&self) -> bool {
        matches!(self.how(), How::Dhcp | How::Router { .. })
    }
    pub fn address(&self) -> Option<IpNet> {
        match self.how() {
            How::Static(a) => Some(a),
            _ => None,
        }
    }
    pub fn is_primary(&self) -> bool {
        self.plan.is_some_and(|p| p.default_route)
    }
    pub fn metric(&self) -> u32 {
        self.plan.map_or(0, |p| p.metric)
    }
    /// The next hop of a default route that the configuration must hold, because no server tells it.
    pub fn default_via(&self) -> Option<IpAddr> {
        let p = self.plan.filter(|p| p.default_route && self.address().is_some())?;
        p.gateway
    }
    /// Specific routes. None where the NIC gets no address: their next hop could not be reached.
    pub fn routes(&self) -> &'a [PlannedRoute] {
        match (self.how(), self.plan) {
            (How::Nothing, _) | (_, None) => &[],
            (_, Some(p)) => &p.routes,
        }
    }
    pub fn own_table(&self) -> Option<OwnTable> {
        let p = self.plan.filter(|_| self.how() != How::Nothing)?;
        let (id, gateway, address) = (p.table?, p.gateway?, p.address?);
        Some(OwnTable {
            id,
            priority: id + PRIORITY_OVER_TABLE,
            from: address.addr(),
            prefix: address.trunc(),
            gateway,
        })
    }
    /// Whether it should have a table of its own, and cannot, because its address is not known before its server gives it.
    pub fn lacks_rule(&self) -> bool {
        self.is_served() && self.plan.is_some_and(|p| p.table.is_some() && p.address.is_none())
    }
    /// Whether the NIC's server may tell name servers here.
    pub fn wants_dns(&self) -> bool {
        self.is_primary() || self.plan.is_some_and(|p| !p.dns.is_empty())
    }
    fn told(&self) -> Option<&'a FamilyPlan> {
        self.plan.filter(|_| self.address().is_some())
    }
    fn dns(&self) -> Vec<IpAddr> {
        self.told().map(|p| p.dns.clone()).unwrap_or_default()
    }
    fn search(&self) -> Vec<String> {
        self.told().map_or(vec![], |p| p.domain.iter().chain(&p.search_domains).cloned().collect())
    }
    /// 4 or 6.
    pub fn digit(&self) -> u8 {
        match self.family {
            Family::IPv4 => 4,
            Family::IPv6 => 6,
        }
    }
    /// Length of a host's own prefix: 32 or 128.
    pub fn host_bits(&self) -> u8 {
        match self.family {
            Family::IPv4 => 32,
            Family::IPv6 => 128,
        }
    }
    /// The default destination.
    pub fn any(&self) -> &'static str {
        match self.family {
            Family::IPv4 => "0.0.0.0/0",
            Family::IPv6 => "::/0",
        }
    }
}

/// The sentence that every dialect puts where a rule is missing.
pub(crate) fn no_rule(device: &str, stack: &Stack<'_>) -> String {
    format!(
        "{device}, IPv{}: no table of its own, because its address is known only once its DHCP server gave it",
        stack.digit()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{guest, three};

    #[test]
    fn devices_are_named_after_their_nics_unless_the_guest_is_known_to_call_them_otherwise() {
        let mut g = guest(three());
        let names = |g: &Guest| g.nics().iter().map(|n| n.device.clone()).collect::<Vec<_>>();
        assert_eq!(names(&g), ["mgmt0", "storage0", "lab0"]);
        g.devices.insert("web-storage".into(), "ens4".into());
        assert_eq!(names(&g), ["mgmt0", "ens4", "lab0"]);
        g.devices.insert("web-storage".into(), "../etc/x".into());
        assert_eq!(names(&g), ["mgmt0", "storage0", "lab0"]);
    }

    #[test]
    fn names_of_the_kernels_kind_are_not_given_out() {
        for bad in
            ["web-eth1", "eth0", "lo", "web-default", "enp1s0", "a-name-of-sixteen", "Upper", "1st", "bond0", "web-"]
        {
            assert_eq!(own_name("web", bad), None, "{bad}");
        }
        assert_eq!(own_name("web", "web-storage"), Some("storage0".into()));
        assert_eq!(own_name("web", "entry"), Some("entry0".into()));
        assert_eq!(own_name("web", "web-lan7"), Some("lan7".into()));
    }

    #[test]
    fn two_nics_that_would_have_one_name_get_others() {
        let mut g = guest(three());
        g.plan.nics[1].name = "mgmt".into();
        let names: Vec<String> = g.nics().iter().map(|n| n.device.clone()).collect();
        assert_eq!(names, ["nic000010", "nic000011", "lab0"]);
    }
}
