//! EC2's metadata as a tree of paths and values.
//!
//! Three things differ from EC2 on purpose (docs/decisions/0004):
//! - `device-number` is answered and not listed. cloud-init walks the lists; where it finds that number on a netplan guest
//!   (24.1 to 26.2 at least) it asks each secondary's DHCP server for a router and fails with a KeyError, because there is
//!   none. Without it, it leaves source routing alone, as on other EC2-like clouds. Programs that ask for it get it.
//! - `ipv6s` is listed only where a DHCPv6 server gives that address, because cloud-init asks one wherever it is.
//! - NICs that have no IPv4 address from a server are answered and not listed, because cloud-init asks for one by DHCP on
//!   all that are.

use std::collections::BTreeMap;
use std::fmt::Write;

use multihome_model::Family;

use crate::Guest;
use crate::view::{How, Nic};

/// A value, and whether lists name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub value: String,
    pub listed: bool,
}

/// Below `meta-data`: paths without a leading slash.
pub(crate) fn tree(guest: &Guest) -> BTreeMap<String, Leaf> {
    let mut out = BTreeMap::new();
    let mut put = |path: &str, value: String, listed| out.insert(path.to_owned(), Leaf { value, listed });
    put("instance-id", guest.instance_id.clone(), true);
    for key in ["hostname", "local-hostname"] {
        put(key, guest.name.clone(), true);
    }
    let nics = order(guest);
    if let Some(first) = nics.first() {
        put("mac", first.plan.mac.to_string(), true);
        if let Some(a) = first.plan.ipv4.as_ref().and_then(|p| p.address) {
            put("local-ipv4", a.addr().to_string(), true);
        }
        if let Some(a) = first.plan.ipv6.as_ref().and_then(|p| p.address) {
            put("ipv6", a.addr().to_string(), true);
        }
    }
    for (i, key) in guest.ssh_keys.iter().enumerate() {
        put(&format!("public-keys/{i}/openssh-key"), key.clone(), true);
    }
    for (number, nic) in nics.iter().enumerate() {
        let listed = nic.v4().is_dhcp();
        for (key, value) in interface(guest, nic, number) {
            let listed = listed && key != "device-number" && (key != "ipv6s" || nic.v6().is_dhcp());
            put(&format!("network/interfaces/macs/{}/{key}", nic.plan.mac), value, listed);
        }
    }
    out
}

/// The NIC with IPv4's default route first, as device 0 is on EC2; then the plan's order.
fn order(guest: &Guest) -> Vec<Nic<'_>> {
    let mut nics = guest.nics();
    let primary = guest.plan.primary(Family::IPv4).map(|n| n.name.clone());
    nics.sort_by_key(|n| (Some(&n.plan.name) != primary.as_ref(), n.index));
    nics
}

fn interface(guest: &Guest, nic: &Nic<'_>, number: usize) -> Vec<(&'static str, String)> {
    let mut out = vec![
        ("device-number", number.to_string()),
        ("interface-id", nic.plan.name.clone()),
        ("local-hostname", guest.name.clone()),
        ("mac", nic.plan.mac.to_string()),
    ];
    let keys = [("local-ipv4s", "subnet-ipv4-cidr-block"), ("ipv6s", "subnet-ipv6-cidr-blocks")];
    for (s, (addresses, subnet)) in nic.stacks().iter().zip(keys) {
        let known = nic.plan.family(s.family).filter(|_| s.how() != How::Nothing).and_then(|p| p.address);
        if let Some(a) = known {
            out.extend([(addresses, a.addr().to_string()), (subnet, a.trunc().to_string())]);
        }
    }
    out
}

/// The whole tree, one `PATH VALUE` a line, for people to read.
pub(crate) fn listing(guest: &Guest) -> String {
    let mut out = String::new();
    for (path, leaf) in tree(guest) {
        let _ = writeln!(out, "/latest/meta-data/{path} {}", leaf.value);
    }
    out
}
