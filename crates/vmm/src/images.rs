//! The local image store: what container image names in manifests stand for on this machine.
//!
//! Contents are files named by their SHA-256 under `blobs/`, manifests small JSON files under
//! `names/`. Everything is written beside and renamed, so that a reader, or a crash at any moment,
//! never sees half an image. Whether an image is in use is for the caller to know.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::spec::{Disk, DiskFormat, KernelBoot};

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Content {
    /// A kernel that is booted directly.
    Kernel {
        /// The kernel.
        kernel: Blob,
        /// Its initramfs.
        initramfs: Option<Blob>,
        /// Its command line, unless the VM says otherwise.
        cmdline: String,
    },
    /// A disk.
    Disk {
        /// The disk.
        disk: Blob,
        /// Its format.
        format: DiskFormat,
    },
}

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its full name, tag included: `quay.io/containerdisks/debian:12`.
    pub name: String,
    /// What it consists of.
    pub content: Content,
}

/// What to import.
#[derive(Debug, Clone)]
pub enum Source {
    /// A kernel, its initramfs, and a command line.
    Kernel {
        /// The kernel's file.
        kernel: PathBuf,
        /// The initramfs' file.
        initramfs: Option<PathBuf>,
        /// The command line; empty for the usual one.
        cmdline: String,
    },
    /// A disk, whose format is told from its first bytes: qcow2, or else raw.
    Disk(PathBuf),
}

/// The command line of a kernel that was imported without one: console on the serial port, quiet,
/// and a reset instead of a standstill after a panic.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 quiet panic=1";

/// The store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

/// A name with its tag: `debian` is `debian:latest`, as for container images.
///
/// # Errors
/// [`Error::Invalid`] if it cannot be a container image's name.
pub fn full_name(name: &str) -> Result<String> {
    let bad = |why: &str| Error::Invalid(format!("{name:?} is no image name: {why}"));
    let name = name.strip_prefix("docker://").unwrap_or(name);
    if name.is_empty() || name.len() > 200 {
        return Err(bad("it has 1 to 200 characters"));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:@".contains(c);
    let (path, tag) = split_tag(name);
    if !path.chars().all(allowed) {
        return Err(bad("small letters, digits, and . _ - / only"));
    }
    let word = |w: &str| w.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !path.split('/').all(word) {
        return Err(bad("every part begins with a letter or a digit"));
    }
    match tag {
        None => Ok(format!("{path}:latest")),
        Some(tag) if !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c)) => {
            Ok(name.to_owned())
        }
        Some(_) => Err(bad("a tag is made of letters, digits, and . _ -")),
    }
}

/// Splits off a tag or digest; a colon before a slash belongs to a registry's port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    if let Some((path, digest)) = name.split_once('@') {
        return (path, Some(digest));
    }
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    }
}

fn file_name(full: &str) -> String {
    let escaped = full.replace('/', "%2f").replace(':', "%3a").replace('@', "%40");
    format!("{escaped}.json")
}

impl ImageStore {
    /// A store in a directory, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Where a file of the store lies.
    pub fn path(&self, blob: &Blob) -> PathBuf {
        self.blobs().join(&blob.sha256)
    }

    /// Copies files into the store under a name; an image of that name is replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or a disk that refers to other files; [`Error::Io`] when a
    /// file cannot be read or the store not be written.
    pub fn import(&self, name: &str, source: &Source) -> Result<Image> {
        let name = full_name(name)?;
        for dir in [self.blobs(), self.names()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&dir)
                .map_err(|e| Error::io("create", dir.display(), e))?;
        }
        let content = match source {
            Source::Kernel { kernel, initramfs, cmdline } => Content::Kernel {
                kernel: self.copy(kernel)?,
                initramfs: initramfs.as_deref().map(|p| self.copy(p)).transpose()?,
                cmdline: if cmdline.is_empty() { DEFAULT_CMDLINE } else { cmdline }.to_owned(),
            },
            Source::Disk(path) => {
                let format = detect(path)?;
                Content::Disk { disk: self.copy(path)?, format }
            }
        };
        let image = Image { name, content };
        let path = self.names().join(file_name(&image.name));
        let new = self.scratch(&self.names());
        let bytes = serde_json::to_vec_pretty(&image).map_err(|e| Error::io("write", path.display(), e.into()))?;
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| Error::io("write", path.display(), e))?;
        self.sweep()?;
        Ok(image)
    }

    fn scratch(&self, dir: &Path) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        dir.join(format!(".new-{}-{n}", std::process::id()))
    }

    fn copy(&self, from: &Path) -> Result<Blob> {
        let new = self.scratch(&self.blobs());
        let copy = || {
            fs::copy(from, &new)?;
            // QEMU's user reads kernels by their name; an image is no secret.
            fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
            let mut file = File::open(&new)?;
            let mut hash = Sha256::new();
            let size = io::copy(&mut file, &mut hash)?;
            file.sync_all()?;
            let blob = Blob { sha256: hex::encode(hash.finalize()), size };
            fs::rename(&new, self.path(&blob))?;
            Ok(blob)
        };
        copy().map_err(|e| {
            let _ = fs::remove_file(&new);
            Error::io("import", from.display(), e)
        })
    }

    /// All images, by name.
    ///
    /// # Errors
    /// When the store cannot be read; that there is none yet is no error.
    pub fn list(&self) -> Result<Vec<Image>> {
        let dir = self.names();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", dir.display(), e)),
        };
        let mut images = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "json") {
                images.extend(self.read(&path)?);
            }
        }
        images.sort_by(|a: &Image, b| a.name.cmp(&b.name));
        Ok(images)
    }

    fn read(&self, path: &Path) -> Result<Option<Image>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path.display(), e)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Malformed { from: "the image store", what: e.to_string() })
    }

    /// The image of a name.
    ///
    /// # Errors
    /// [`Error::ImageMissing`] if there is none, whose text has the command that imports it.
    pub fn lookup(&self, name: &str) -> Result<Image> {
        self.find(name, false)
    }

    /// As [`ImageStore::lookup`], where a disk is wanted: says so in the command.
    ///
    /// # Errors
    /// As [`ImageStore::lookup`].
    pub fn lookup_disk(&self, name: &str) -> Result<Image> {
        self.find(name, true)
    }

    fn find(&self, name: &str, disk: bool) -> Result<Image> {
        let full = full_name(name)?;
        self.read(&self.names().join(file_name(&full)))?.ok_or_else(|| Error::ImageMissing {
            name: full.clone(),
            command: if disk {
                format!("multihome image import {full} --disk FILE")
            } else {
                format!("multihome image import {full} --kernel FILE --initramfs FILE")
            },
        })
    }

    /// Removes an image and the files that no other image has. Running VMs keep what they opened.
    ///
    /// # Errors
    /// [`Error::ImageMissing`] if there is none of that name.
    pub fn remove(&self, name: &str) -> Result<Image> {
        let image = self.lookup(name)?;
        let path = self.names().join(file_name(&image.name));
        fs::remove_file(&path).map_err(|e| Error::io("remove", path.display(), e))?;
        self.sweep()?;
        Ok(image)
    }

    /// Removes files that no image has. Files that are being written (`.new-…`) are left alone
    /// while the process that writes them lives.
    fn sweep(&self) -> Result<()> {
        let images = self.list()?;
        let used: Vec<&str> = images.iter().flat_map(blobs_of).map(|b| b.sha256.as_str()).collect();
        let dir = self.blobs();
        let entries = fs::read_dir(&dir).map_err(|e| Error::io("list", dir.display(), e))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let writer = name.strip_prefix(".new-").and_then(|n| n.split('-').next());
            let busy = match writer {
                Some(pid) => Path::new("/proc").join(pid).exists(),
                None => used.contains(&name.as_str()),
            };
            if !busy {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// How a VM boots an image of a kernel; `None` for a disk.
    pub fn kernel_boot(&self, image: &Image) -> Option<KernelBoot> {
        let Content::Kernel { kernel, initramfs, cmdline } = &image.content else { return None };
        Some(KernelBoot {
            kernel: self.path(kernel),
            initramfs: initramfs.as_ref().map(|b| self.path(b)),
            cmdline: cmdline.clone(),
        })
    }

    /// The disk of an image for a VM: an overlay at `path`, made if it is not there, that takes what
    /// the VM writes; `None` for a kernel.
    ///
    /// # Errors
    /// [`Error::Program`] with `qemu-img`'s words.
    pub fn overlay(&self, image: &Image, path: &Path) -> Result<Option<Disk>> {
        let Content::Disk { disk, format } = &image.content else { return Ok(None) };
        let base = self.path(disk);
        if !path.exists() {
            let new = self.scratch(path.parent().unwrap_or(Path::new(".")));
            let output = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", format.name(), "-b"])
                .arg(&base)
                .arg(&new)
                .output()
                .map_err(|e| Error::io("start", "qemu-img (package qemu-utils)", e))?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Program { program: "qemu-img", text });
            }
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
                .and_then(|()| fs::rename(&new, path))
                .map_err(|e| Error::io("create", path.display(), e))?;
        }
        Ok(Some(Disk {
            path: path.to_owned(),
            format: DiskFormat::Qcow2,
            read_only: false,
            backing: Some((base, *format)),
        }))
    }
}

fn blobs_of(image: &Image) -> impl Iterator<Item = &Blob> {
    let (a, b) = match &image.content {
        Content::Kernel { kernel, initramfs, .. } => (kernel, initramfs.as_ref()),
        Content::Disk { disk, .. } => (disk, None),
    };
    std::iter::once(a).chain(b)
}

/// Tells a disk's format from its header (qemu's docs/interop/qcow2.txt). A disk that names other
/// files of the machine it is used on would show them to its guest, so it is refused.
fn detect(path: &Path) -> Result<DiskFormat> {
    let mut header = Vec::new();
    File::open(path)
        .and_then(|file| file.take(104).read_to_end(&mut header))
        .map_err(|e| Error::io("read", path.display(), e))?;
    let bad = |why: &str| Err(Error::Invalid(format!("{} {why}", path.display())));
    let be64 = |at: usize| header.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    match header.get(..4) {
        None => bad("is too short for a disk"),
        Some(b"QFI\xfb") => {
            if be64(8) != 0 {
                return bad("is an overlay on another file; flatten it with `qemu-img convert -O qcow2`");
            }
            const EXTERNAL_DATA: u64 = 4;
            let version = header.get(4..8).map(|v| v == [0, 0, 0, 3]);
            if version == Some(true) && be64(72) & EXTERNAL_DATA != 0 {
                return bad("keeps its data in another file; convert it with `qemu-img convert -O qcow2`");
            }
            Ok(DiskFormat::Qcow2)
        }
        Some(b"KDMV" | b"conn" | b"vhdx" | b"QED\0" | b"COWD") => {
            bad("is in a format of another hypervisor; convert it with `qemu-img convert -O qcow2`")
        }
        Some(_) => Ok(DiskFormat::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_container_images() {
        for (name, full) in [
            ("debian", "debian:latest"),
            ("multihome/demo-guest:latest", "multihome/demo-guest:latest"),
            ("quay.io/x/y:v1.2_3", "quay.io/x/y:v1.2_3"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("docker://quay.io/x/y", "quay.io/x/y:latest"),
            ("x@sha256:0123", "x@sha256:0123"),
        ] {
            assert_eq!(full_name(name).unwrap(), full);
        }
        for bad in ["", "../etc", "a b", "UPPER", "a//b", "a:", "/a", "a/../b", "a:b c", ".hidden"] {
            assert!(full_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_is_imported_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let store = ImageStore::new(dir.path().join("store"));
        assert!(store.list().unwrap().is_empty());
        let error = store.lookup("multihome/demo-guest").unwrap_err();
        assert!(error.is_missing());
        assert!(
            error
                .to_string()
                .contains("`multihome image import multihome/demo-guest:latest --kernel FILE --initramfs FILE`"),
            "{error}"
        );
        let error = store.lookup_disk("debian:12").unwrap_err().to_string();
        assert!(error.contains("`multihome image import debian:12 --disk FILE`"), "{error}");

        let pair = Source::Kernel {
            kernel: file("k", b"kernel"),
            initramfs: Some(file("i", b"initramfs")),
            cmdline: String::new(),
        };
        let image = store.import("multihome/demo-guest", &pair).unwrap();
        assert_eq!(store.lookup("multihome/demo-guest:latest").unwrap(), image);
        let boot = store.kernel_boot(&image).unwrap();
        assert_eq!(fs::read(&boot.kernel).unwrap(), b"kernel");
        assert_eq!(fs::read(boot.initramfs.unwrap()).unwrap(), b"initramfs");
        assert_eq!(boot.cmdline, DEFAULT_CMDLINE);

        // The same kernel under another name is one file; it stays until its last name goes.
        let other = Source::Kernel { kernel: dir.path().join("k"), initramfs: None, cmdline: "x".into() };
        store.import("other", &other).unwrap();
        assert_eq!(store.list().unwrap().len(), 2);
        store.remove("multihome/demo-guest").unwrap();
        assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 1);
        store.remove("other").unwrap();
        assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 0);
        assert!(store.remove("other").unwrap_err().is_missing());
    }

    #[test]
    fn disks_that_point_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
        header.resize(104, 0);
        fs::write(&path, &header).unwrap();
        assert_eq!(detect(&path).unwrap(), DiskFormat::Qcow2);
        header[15] = 104;
        fs::write(&path, &header).unwrap();
        assert!(detect(&path).unwrap_err().to_string().contains("overlay"));
        header[15] = 0;
        header[79] = 4;
        fs::write(&path, &header).unwrap();
        assert!(detect(&path).unwrap_err().to_string().contains("another file"));
        fs::write(&path, b"KDMV....").unwrap();
        assert!(detect(&path).is_err());
        fs::write(&path, [0; 512]).unwrap();
        assert_eq!(detect(&path).unwrap(), DiskFormat::Raw);
        fs::write(&path, b"").unwrap();
        assert!(detect(&path).is_err());
    }
}
