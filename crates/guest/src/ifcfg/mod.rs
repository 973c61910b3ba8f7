//! The two families of `ifcfg-` files, and the `.link` files that give devices the names in them.

pub(crate) mod rhel;
pub(crate) mod suse;

use crate::File;
use crate::view::Nic;

/// A `.link` file that gives a NIC its name by its MAC (systemd.link(5)): for dialects that know devices by name only. None
/// where the guest is known to use that name already.
pub(crate) fn link(nic: &Nic<'_>) -> Option<File> {
    let path = format!("/etc/systemd/network/10-multihome-{}.link", nic.device);
    let text = format!("[Match]\nMACAddress={}\nType=ether\n\n[Link]\nName={}\n", nic.plan.mac, nic.device);
    (!nic.known).then(|| File::new(path, 0o644, text))
}
