//! NICs of a running VM: plugged, unplugged, link set, listed. The same path at first boot (before
//! the guest runs) and later.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::error::{Error, Result};
use crate::qmp::Qmp;
use crate::spec::{NicAttachment, NicModel, NicSpec};
use crate::vm::Vm;

/// A guest that was booting when it was asked to release a device is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A NIC as QEMU really has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmNic {
    /// Its id within the VM.
    pub id: String,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// The root port that it sits in.
    pub slot: Option<u8>,
    /// What the guest sees, as QEMU names it, for example `virtio-net-pci`.
    pub driver: String,
}

fn device(id: &str) -> String {
    format!("nic-{id}")
}

fn netdev(id: &str) -> String {
    format!("net-{id}")
}

/// The name of a queue's descriptor while QEMU has it for no netdev yet.
fn tap_fd(id: &str, queue: usize) -> String {
    format!("tap-{id}-{queue}")
}

fn vhost_fd(id: &str, queue: usize) -> String {
    format!("vhost-{id}-{queue}")
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn device_arguments(nic: &NicSpec, queues: usize) -> Value {
    let mut arguments = json!({
        "driver": nic.model.driver(),
        "id": device(&nic.id),
        "netdev": netdev(&nic.id),
        "mac": mac_text(nic.mac),
        "bus": format!("rp{}", nic.slot),
        "addr": "0x0",
        // No network boot: the firmware would offer it for every NIC, for seconds.
        "romfile": "",
    });
    if nic.model == NicModel::Virtio {
        if let Some(mtu) = nic.mtu {
            arguments["host_mtu"] = mtu.into();
        }
        if queues > 1 {
            arguments["mq"] = true.into();
            // One vector for configuration, one for control, two per queue pair.
            arguments["vectors"] = (2 * queues + 2).into();
        }
    }
    if let Some(index) = nic.acpi_index {
        arguments["acpi-index"] = index.into();
    }
    arguments
}

impl Vm {
    /// Plugs a NIC into its root port, running guest or not. Plugging one that is there already
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Qmp`] if QEMU refuses, for example because the port is taken; nothing is left then.
    pub async fn plug_nic(&self, nic: NicAttachment) -> Result<()> {
        self.record_check(&nic)?;
        let _turn = self.nics.lock().await;
        let id = &nic.spec.id;
        match self.add_netdev(&nic).await {
            // A netdev without its device is what a caller killed half way left behind.
            Err(Error::Qmp { text, .. }) if text.contains("Duplicate ID") => {
                if self.nic(id).await?.is_some() {
                    return Ok(());
                }
                self.delete_netdev(id).await?;
                self.add_netdev(&nic).await?;
            }
            other => other?,
        }
        let arguments = device_arguments(&nic.spec, nic.queues.len());
        if let Err(e) = self.qmp.execute("device_add", arguments).await {
            let _ = self.delete_netdev(id).await;
            return Err(e);
        }
        if !nic.spec.link_up {
            self.set_link(id, false).await?;
        }
        Ok(())
    }

    /// Takes back what a caller that was killed half way through [`Vm::plug_nic`] left with QEMU: descriptors under their
    /// names, and a netdev without its device. They keep the tap from being opened again. Of a NIC that is there nothing
    /// is taken.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn clear_half_plugged(&self, id: &str, queues: usize) -> Result<()> {
        let _turn = self.nics.lock().await;
        if self.nic(id).await?.is_some() {
            return Ok(());
        }
        self.delete_netdev(id).await?;
        for i in 0..queues {
            for name in [tap_fd(id, i), vhost_fd(id, i)] {
                match self.qmp.execute("closefd", json!({ "fdname": name })).await {
                    // There is none of that name.
                    Ok(_) | Err(Error::Qmp { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn record_check(&self, nic: &NicAttachment) -> Result<()> {
        self.spec().check_nic(nic)
    }

    async fn add_netdev(&self, nic: &NicAttachment) -> Result<()> {
        let id = &nic.spec.id;
        let mut names = Vec::new();
        let mut vhost_names = Vec::new();
        let vhost = open_vhost(nic.queues.len());
        for (i, fd) in nic.queues.iter().enumerate() {
            let name = tap_fd(id, i);
            self.qmp.getfd(&name, fd.as_fd()).await?;
            names.push(name);
        }
        for (i, fd) in vhost.iter().enumerate() {
            let name = vhost_fd(id, i);
            self.qmp.getfd(&name, fd.as_fd()).await?;
            vhost_names.push(name);
        }
        let mut arguments = json!({ "type": "tap", "id": netdev(id), "fds": names.join(":") });
        if !vhost_names.is_empty() {
            arguments["vhost"] = true.into();
            arguments["vhostfds"] = vhost_names.join(":").into();
        }
        let added = self.qmp.execute("netdev_add", arguments).await;
        if added.is_err() {
            // A refused command leaves the descriptors with QEMU under their names.
            for name in names.iter().chain(&vhost_names) {
                let _ = self.qmp.execute("closefd", json!({ "fdname": name })).await;
            }
        }
        added.map(drop)
    }

    async fn delete_netdev(&self, id: &str) -> Result<()> {
        match self.qmp.execute("netdev_del", json!({ "id": netdev(id) })).await {
            Err(e) if !e.is_missing() => Err(e),
            _ => Ok(()),
        }
    }

    /// Unplugs a NIC and waits until the guest has released it. One that is not there is no fault.
    ///
    /// # Errors
    /// [`Error::UnplugIgnored`] if the guest has not within `timeout`; it is still plugged then, but
    /// may be released later, when the guest gets round to it.
    pub async fn unplug_nic(&self, id: &str, timeout: Duration) -> Result<()> {
        let _turn = self.nics.lock().await;
        let mut events = self.events();
        let release = async {
            loop {
                match self.qmp.execute("device_del", json!({ "id": device(id) })).await {
                    Err(e) if e.is_missing() => return Ok(()),
                    Err(e @ (Error::Closed(_) | Error::Timeout { .. })) => return Err(e),
                    // "already in the process of unplug": asked before, not yet done.
                    Err(_) | Ok(_) => {}
                }
                let deleted = async {
                    loop {
                        match events.recv().await {
                            Ok(e) if e.name == Qmp::CLOSED => return Err(Error::Closed("QEMU")),
                            Ok(e) if e.name == "DEVICE_DELETED" => {
                                if e.data.get("device").and_then(Value::as_str) == Some(&device(id)) {
                                    return Ok(());
                                }
                            }
                            Ok(_) => {}
                            // It may have been among those lost: look at the list.
                            Err(RecvError::Lagged(_)) => {
                                if self.nic(id).await?.is_none() {
                                    return Ok(());
                                }
                            }
                            Err(RecvError::Closed) => return Err(Error::Closed("QEMU")),
                        }
                    }
                };
                if let Ok(done) = tokio::time::timeout(ASK_AGAIN, deleted).await {
                    return done;
                }
            }
        };
        tokio::time::timeout(timeout, release)
            .await
            .map_err(|_| Error::UnplugIgnored { nic: id.to_owned(), after: timeout })??;
        self.delete_netdev(id).await
    }

    /// Gives the guest's NIC a carrier or takes it away.
    ///
    /// # Errors
    /// [`Error::Qmp`] of class `DeviceNotFound` if there is no such NIC.
    pub async fn set_link(&self, id: &str, up: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({ "name": device(id), "up": up })).await.map(drop)
    }

    /// The NICs that QEMU really has, sorted by id. QEMU does not tell whether a link is up.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn nics(&self) -> Result<Vec<VmNic>> {
        let all = self.qmp.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
        let mut nics = Vec::new();
        for entry in all.as_array().into_iter().flatten() {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or_default();
            if let Some(id) = name.strip_prefix("nic-") {
                nics.extend(self.nic(id).await?);
            }
        }
        nics.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nics)
    }

    /// One NIC as QEMU really has it.
    ///
    /// # Errors
    /// As any QMP command; that there is none is no error.
    pub async fn nic(&self, id: &str) -> Result<Option<VmNic>> {
        let path = format!("/machine/peripheral/{}", device(id));
        let get = |property: &'static str| {
            let arguments = json!({ "path": path, "property": property });
            async move {
                match self.qmp.execute("qom-get", arguments).await {
                    Ok(value) => Ok(value.as_str().map(str::to_owned)),
                    Err(Error::Qmp { .. }) => Ok(None),
                    Err(e) => Err(e),
                }
            }
        };
        let Some(driver) = get("type").await? else { return Ok(None) };
        let mac = get("mac").await?;
        let bus = get("parent_bus").await?;
        let slot = bus.and_then(|b| b.rsplit('/').next()?.strip_prefix("rp")?.parse().ok());
        Ok(Some(VmNic { id: id.to_owned(), mac: mac.and_then(|m| mac_of(&m)), slot, driver }))
    }
}

/// One descriptor per queue of the kernel's own virtio back end, or none where there is none.
fn open_vhost(queues: usize) -> Vec<OwnedFd> {
    let open = |_| OpenOptions::new().read(true).write(true).open("/dev/vhost-net").map(Into::into);
    (0..queues).map(open).collect::<std::io::Result<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back() {
        let mac = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];
        assert_eq!(mac_of(&mac_text(mac)), Some(mac));
        for bad in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "gg:54:00:ab:cd:ef"] {
            assert_eq!(mac_of(bad), None);
        }
    }

    #[test]
    fn queues_and_mtu_are_told_to_virtio_alone() {
        let mut nic = NicSpec {
            id: "a".into(),
            mac: [2, 0, 0, 0, 0, 1],
            model: NicModel::Virtio,
            mtu: Some(1450),
            link_up: true,
            slot: 3,
            acpi_index: Some(7),
        };
        let a = device_arguments(&nic, 2);
        assert_eq!((&a["host_mtu"], &a["vectors"], &a["bus"]), (&json!(1450), &json!(6), &json!("rp3")));
        nic.model = NicModel::E1000e;
        assert_eq!(device_arguments(&nic, 1).get("host_mtu"), None);
    }
}
