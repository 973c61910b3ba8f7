//! What a VM is to be: plain data, kept beside the running VM so that a restarted caller finds it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How many NICs can be attached unless the VM says otherwise.
pub const DEFAULT_PORTS: u8 = 16;
/// PCIe root ports fit eight to a slot of the root bus, in slots 0x10 to 0x17.
pub const MAX_PORTS: u8 = 64;

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The name of its directory below the run root: 1 to 63 of `a-z`, `A-Z`, `0-9`, `.`, `-`, `_`,
    /// beginning with a letter or a digit.
    pub id: String,
    /// A readable name, shown in the process list.
    pub name: String,
    /// Its UUID as the firmware tells the guest; drawn by nobody but the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Processors, 1 to 255.
    pub vcpus: u32,
    /// Memory in MiB, at least 32.
    pub memory_mib: u32,
    /// A kernel to boot directly; otherwise the first disk is booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelBoot>,
    /// Disks, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// The first medium of a CD-ROM drive, see [`crate::Vm::change_medium`]; without one there is no drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<PathBuf>,
    /// How many root ports are reserved, one per NIC, 1 to 64.
    #[serde(default = "default_ports")]
    pub ports: u8,
}

fn default_ports() -> u8 {
    DEFAULT_PORTS
}

/// A kernel that is booted without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelBoot {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initramfs' file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The guest may not write to it.
    #[serde(default)]
    pub read_only: bool,
    /// The file that an overlay lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<(PathBuf, DiskFormat)>,
}

/// The format of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's own, with overlays.
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
}

impl DiskFormat {
    /// Its name as QEMU knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The kind of network card that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// virtio-net; the only one that learns its MTU and has several queues.
    #[default]
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82540EM.
    E1000,
    /// Realtek 8139C+.
    Rtl8139,
}

impl NicModel {
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000e => "e1000e",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// A NIC of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Its id within the VM: 1 to 48 of `a-z`, `A-Z`, `0-9`, `.`, `-`, `_`.
    pub id: String,
    /// Its MAC address, unicast.
    pub mac: [u8; 6],
    /// What the guest sees.
    #[serde(default)]
    pub model: NicModel,
    /// The MTU that virtio tells the guest, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the guest sees a carrier.
    pub link_up: bool,
    /// The root port that it sits in, 0 to `ports` - 1. A NIC that keeps its port keeps its name in
    /// the guest.
    pub slot: u8,
    /// The number that firmware gives it, 1 to 16383: systemd's guests name it `enoN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acpi_index: Option<u16>,
}

/// A NIC with the open queues of its tap, to be handed to QEMU.
#[derive(Debug)]
pub struct NicAttachment {
    /// What it is.
    pub spec: NicSpec,
    /// The tap's descriptors (opened with a virtio-net header), one per queue; 1 to 8.
    pub queues: Vec<OwnedFd>,
}

fn is_id(id: &str, longest: usize) -> bool {
    let mut chars = id.chars();
    id.len() <= longest
        && chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
}

impl VmSpec {
    /// Whether QEMU can be started with it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a sentence.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::Invalid(what));
        if !is_id(&self.id, 63) {
            return bad(format!("{:?} is no VM id: 1 to 63 letters, digits, dots and dashes", self.id));
        }
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return bad(format!("{:?} is no VM name", self.name));
        }
        if !(1..=255).contains(&self.vcpus) {
            return bad(format!("a VM has 1 to 255 processors, not {}", self.vcpus));
        }
        if self.memory_mib < 32 {
            return bad(format!("a VM has at least 32 MiB of memory, not {}", self.memory_mib));
        }
        if !(1..=MAX_PORTS).contains(&self.ports) {
            return bad(format!("a VM has 1 to {MAX_PORTS} NIC ports, not {}", self.ports));
        }
        if self.kernel.is_none() && self.disks.is_empty() {
            return bad("a VM needs a disk or a kernel to boot from".into());
        }
        if self.disks.len() > 8 {
            return bad(format!("a VM has at most 8 disks, not {}", self.disks.len()));
        }
        let uuid = |u: &String| u.len() == 36 && u.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if !self.uuid.as_ref().is_none_or(uuid) {
            return bad("the VM's UUID is none".into());
        }
        Ok(())
    }

    /// Whether a NIC fits the VM.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a sentence.
    pub fn check_nic(&self, nic: &NicAttachment) -> Result<()> {
        let spec = &nic.spec;
        let bad = |what: String| Err(Error::Invalid(what));
        if !is_id(&spec.id, 48) {
            return bad(format!("{:?} is no NIC id: 1 to 48 letters, digits, dots and dashes", spec.id));
        }
        if spec.mac[0] & 1 == 1 {
            return bad(format!("NIC {}: a multicast MAC address is nobody's own", spec.id));
        }
        if spec.slot >= self.ports {
            return bad(format!("NIC {}: port {} is beyond the VM's {}", spec.id, spec.slot, self.ports));
        }
        let queues = nic.queues.len();
        if !(1..=8).contains(&queues) || (queues > 1 && spec.model != NicModel::Virtio) {
            return bad(format!("NIC {}: {queues} queues; virtio has 1 to 8, others 1", spec.id));
        }
        Ok(())
    }
}
