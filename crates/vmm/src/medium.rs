//! The CD-ROM drive of a running VM: its medium is changed as by hand, so that the guest sees the new one.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::error::{Error, Result};
use crate::qmp::Event;
use crate::vm::Vm;

/// The drive's id.
pub(crate) const DRIVE: &str = "cdrom";
/// The two names that media take in turns: the new one is there before the old one goes.
pub(crate) const NODES: [&str; 2] = ["medium-a", "medium-b"];

/// The event of a tray that opens or closes.
const MOVED: &str = "DEVICE_TRAY_MOVED";
/// How long a guest may take to let go of its medium: systemd's guests lock every tray, look for requests every 2 s, and
/// refuse while the disk is mounted or read.
const LETTING_GO: Duration = Duration::from_secs(15);
/// A guest that has refused does not think again by itself: it is asked anew this often.
const ASK_AGAIN: Duration = Duration::from_millis(2500);

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
    /// Puts another medium into the CD-ROM drive. A guest that has locked the tray is asked to let go of it. If it does so
    /// later than this waits for, the tray stays open until this is called again, or [`Vm::close_tray`].
    ///
    /// # Errors
    /// [`Error::Timeout`] if the guest holds on to its medium; the old one stays in then. [`Error::Invalid`] if the VM has no
    /// such drive.
    pub async fn change_medium(&self, image: &File) -> Result<()> {
        let _turn = self.media.lock().await;
        let before = self.drive().await?.medium;
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
        self.open_tray().await?;
        self.qmp.execute("blockdev-remove-medium", drive.clone()).await?;
        self.qmp.execute("blockdev-insert-medium", json!({"id": DRIVE, "node-name": name})).await?;
        self.qmp.execute("blockdev-close-tray", drive).await.map(drop)
    }

    async fn open_tray(&self) -> Result<()> {
        let opened = async {
            loop {
                let mut events = self.events();
                self.qmp.execute("blockdev-open-tray", json!({"id": DRIVE})).await?;
                let asked = tokio::time::Instant::now();
                while !self.drive().await?.open {
                    match tokio::time::timeout_at(asked + ASK_AGAIN, events.recv()).await {
                        Ok(Err(RecvError::Closed)) => return Err(Error::Closed("QEMU")),
                        Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                        Err(_) => break,
                    }
                }
                if self.drive().await?.open {
                    return Ok(());
                }
            }
        };
        let late = || Error::Timeout { what: "the guest's letting go of its CD-ROM".into(), after: LETTING_GO };
        tokio::time::timeout(LETTING_GO, opened).await.map_err(|_| late())?
    }

    /// Closes the drive's tray, where a guest has opened it; nothing happens where it is closed.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn close_tray(&self) -> Result<()> {
        let _turn = self.media.lock().await;
        self.qmp.execute("blockdev-close-tray", json!({"id": DRIVE})).await.map(drop)
    }

    async fn drive(&self) -> Result<Drive> {
        let all = self.qmp.execute("query-block", json!({})).await?;
        let drive = all.as_array().into_iter().flatten().find(|d| {
            // The device's id, or the path that ends in it.
            d.get("qdev").and_then(Value::as_str).is_some_and(|q| q == DRIVE || q.ends_with(&format!("/{DRIVE}")))
        });
        let Some(drive) = drive else { return Err(Error::Invalid("the VM has no CD-ROM drive".into())) };
        Ok(Drive {
            medium: drive.pointer("/inserted/node-name").and_then(Value::as_str).map(str::to_owned),
            open: drive.get("tray_open").and_then(Value::as_bool) == Some(true),
        })
    }
}

/// The drive as QEMU has it.
struct Drive {
    /// The name of its medium; `None` where it is empty.
    medium: Option<String>,
    open: bool,
}

impl Event {
    /// Whether the guest, or somebody else, has opened the CD-ROM drive's tray.
    pub fn is_tray_opened(&self) -> bool {
        self.name == MOVED
            && self.data.get("id").and_then(Value::as_str) == Some(DRIVE)
            && self.data.get("tray-open").and_then(Value::as_bool) == Some(true)
    }
}
