//! A VM that runs on this node, with its NICs as QEMU has them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use multihome_vmm::Vm;
use tokio::sync::Notify;

use crate::Error;
use crate::changes::Due;

/// A NIC as QEMU has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugged {
    /// The PCI slot that it is in.
    pub(crate) slot: u8,
    /// Whether its link is up; nobody knows after this process was started anew, because QEMU does not tell.
    pub(crate) link_up: Option<bool>,
}

/// A VM that runs on this node.
pub(crate) struct Running {
    pub(crate) vm: Vm,
    /// NICs by uid.
    plugged: Mutex<BTreeMap<String, Plugged>>,
    /// What the links of NICs were pulled for last, by uid.
    hastened: Mutex<BTreeMap<String, Due>>,
    /// Wakes whoever looks at the guest.
    pub(crate) look: Notify,
    /// The guest shut itself down, as opposed to QEMU ending for another reason.
    pub(crate) shut_down: AtomicBool,
}

impl Running {
    pub(crate) fn new(vm: Vm, plugged: BTreeMap<String, Plugged>) -> Self {
        let plugged = Mutex::new(plugged);
        Self { vm, plugged, hastened: Mutex::default(), look: Notify::new(), shut_down: AtomicBool::new(false) }
    }

    /// The NICs that QEMU has, by uid.
    pub(crate) fn plugged(&self) -> MutexGuard<'_, BTreeMap<String, Plugged>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the links of NICs were pulled for last, by uid.
    pub(crate) fn hastened(&self) -> MutexGuard<'_, BTreeMap<String, Due>> {
        self.hastened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plugs in or pulls out the cable of a NIC; false if the VM has no such NIC.
    pub(crate) async fn set_link(&self, uid: &str, up: bool) -> Result<bool, Error> {
        let Some(slot) = self.plugged().get(uid).map(|p| p.slot) else { return Ok(false) };
        // Whoever fails half way does not know.
        self.plugged().insert(uid.into(), Plugged { slot, link_up: None });
        self.vm.set_link(uid, up).await?;
        self.plugged().insert(uid.into(), Plugged { slot, link_up: Some(up) });
        Ok(true)
    }
}
