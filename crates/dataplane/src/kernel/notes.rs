//! What was changed on the node's own devices and must be put back in the end: a file per device, written before the change,
//! so that a crash between the two puts back what was never changed.

use std::fs;
use std::path::PathBuf;

use super::Kernel;
use crate::error::{Error, Result};

fn failed(op: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { op, path, source }
}

impl Kernel {
    fn note_path(&self, what: &str, device: &str) -> PathBuf {
        self.config.state_dir.join(what).join(device)
    }

    /// Notes that `what` is about to be changed on a device.
    pub(crate) fn note(&self, what: &str, device: &str) -> Result<()> {
        self.note_as(what, device, "0")
    }

    /// The same with what it was; a note that is there is replaced.
    pub(crate) fn note_as(&self, what: &str, device: &str, text: &str) -> Result<()> {
        let path = self.note_path(what, device);
        let dir = self.config.state_dir.join(what);
        fs::create_dir_all(&dir).and_then(|()| fs::write(&path, text)).map_err(failed("write", &path))
    }

    /// What is noted for a device.
    pub(crate) fn note_text(&self, what: &str, device: &str) -> Option<String> {
        fs::read_to_string(self.note_path(what, device)).ok()
    }

    /// Whether `what` is noted for a device.
    pub(crate) fn noted(&self, what: &str, device: &str) -> bool {
        self.note_path(what, device).exists()
    }

    /// The devices for which `what` is noted.
    pub(crate) fn all_noted(&self, what: &str) -> Vec<String> {
        let entries = fs::read_dir(self.config.state_dir.join(what)).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Removes a note, and the directory with the last one.
    pub(crate) fn forget_note(&self, what: &str, device: &str) -> Result<()> {
        let path = self.note_path(what, device);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        let _ = fs::remove_dir(self.config.state_dir.join(what));
        Ok(())
    }
}
