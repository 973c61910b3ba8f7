//! The CD-ROM drive of a running VM: its medium is changed as by hand, so that the guest sees the new one.

use std::fs::File;
use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::vm::Vm;

/// The drive's id.
pub(crate) const DRIVE: &str = "cdrom";
/// The two names that media take in turns: the new one is there before the old one goes.
pub(crate) const NODES: [&str; 2] = ["medium-a", "medium-b"];

/// A medium as QEMU's block layer takes it.
pub(crate) fn node(name: &str, path: &str) -> Value {
    json!({
        "driver": "raw",
        "node-name": name,
        "read-only": true,
        "file": {"driver": "file", "filename": path, "read-only": true, "auto-read-only": false},
    })
}

impl Vm {
    /// Puts another medium into the CD-ROM drive. A guest that has locked the tray is asked to let go of it, and the call
    /// fails; it may be repeated.
    ///
    /// # Errors
    /// [`Error::Qmp`] if the VM has no such drive, or the guest holds on to its medium; the old one stays in then.
    pub async fn change_medium(&self, image: &File) -> Result<()> {
        let _turn = self.media.lock().await;
        let before = self.medium().await?;
        let next = if before.as_deref() == Some(NODES[0]) { NODES[1] } else { NODES[0] };
        // What a caller killed half way left behind.
        let _ = self.qmp.execute("blockdev-del", json!({"node-name": next})).await;
        let set = self.qmp.add_fd(image.as_fd()).await?;
        let added = self.qmp.execute("blockdev-add", node(next, &set.path())).await;
        self.qmp.remove_fd(set).await?;
        added?;
        let changed = self.insert(next).await;
        let gone = if changed.is_ok() { before.as_deref() } else { Some(next) };
        if let Some(name) = gone {
            let _ = self.qmp.execute("blockdev-del", json!({"node-name": name})).await;
        }
        changed
    }

    async fn insert(&self, name: &str) -> Result<()> {
        let drive = json!({"id": DRIVE});
        self.qmp.execute("blockdev-open-tray", drive.clone()).await?;
        // Refused where the tray is still closed, because the guest has locked it.
        self.qmp.execute("blockdev-remove-medium", drive.clone()).await?;
        self.qmp.execute("blockdev-insert-medium", json!({"id": DRIVE, "node-name": name})).await?;
        self.qmp.execute("blockdev-close-tray", drive).await.map(drop)
    }

    /// The name of the medium in the drive; `None` where it is empty.
    async fn medium(&self) -> Result<Option<String>> {
        let all = self.qmp.execute("query-block", json!({})).await?;
        let drive = all.as_array().into_iter().flatten().find(|d| {
            // The device's id, or the path that ends in it.
            d.get("qdev").and_then(Value::as_str).is_some_and(|q| q == DRIVE || q.ends_with(&format!("/{DRIVE}")))
        });
        let Some(drive) = drive else { return Err(Error::Invalid("the VM has no CD-ROM drive".into())) };
        Ok(drive.pointer("/inserted/node-name").and_then(Value::as_str).map(str::to_owned))
    }
}
