//! Which accelerator QEMU can use here, found out by running something on it once.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use multihome_netlink::process;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::user::User;

/// A machine on which KVM works prints a kernel's first line within a fraction of this.
const FIRST_WORD: Duration = Duration::from_secs(4);

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor runs them.
    Kvm,
    /// QEMU translates them: slower by an order of magnitude, and works everywhere.
    Tcg,
}

impl Accelerator {
    /// Its name as QEMU knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceleration {
    /// The one to use.
    pub accelerator: Accelerator,
    /// Why KVM cannot be used, if it cannot: QEMU's own words, or what was seen.
    pub no_kvm: Option<String>,
}

/// Runs a machine under KVM, as the user that VMs run as, until it has said its first word.
///
/// With a Linux kernel (any bzImage) that is the kernel's own, which is the only proof: there are
/// machines inside machines whose KVM runs the firmware and then stands still in the kernel. Without
/// one the firmware's word must do. Takes some 100 ms where KVM is missing or works, and 4 s where it
/// stands still; do not call it on an event loop.
///
/// # Errors
/// When there is no QEMU at all.
pub fn probe_accelerator(qemu: &Path, user: Option<User>, kernel: Option<&Path>) -> Result<Acceleration> {
    let no_kvm = match try_kvm(qemu, user, kernel)? {
        Ok(()) => return Ok(Acceleration { accelerator: Accelerator::Kvm, no_kvm: None }),
        Err(reason) => reason,
    };
    Ok(Acceleration { accelerator: Accelerator::Tcg, no_kvm: Some(no_kvm) })
}

fn try_kvm(qemu: &Path, user: Option<User>, kernel: Option<&Path>) -> Result<std::result::Result<(), String>> {
    let mut command = Command::new(qemu);
    command
        .args(["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-chardev", "stdio,id=out,signal=off"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let expected: &[u8] = match kernel {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::io("open", path.display(), e))?;
            let fd = process::inherit(&mut command, file.into());
            command
                .args(["-serial", "chardev:out", "-kernel", &format!("/proc/self/fd/{fd}")])
                .args(["-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1"]);
            b"Linux version"
        }
        // The port that SeaBIOS writes its log to.
        None => {
            command.args(["-device", "isa-debugcon,iobase=0x402,chardev=out"]);
            b"SeaBIOS"
        }
    };
    if let Some(user) = user {
        command.gid(user.gid).uid(user.uid);
    }
    let mut child = command.spawn().map_err(|e| Error::io("start", qemu.display(), e))?;
    // Held open, so that QEMU's console sees no end of file.
    let stdin = child.stdin.take();
    let heard = child.stdout.take().is_some_and(|out| hears(out, expected));
    let ended = child.try_wait().ok().flatten();
    let _ = child.kill();
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| Error::io("wait for", qemu.display(), e))?;
    if heard {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|l| !l.trim().is_empty());
    Ok(Err(match (first, ended) {
        (Some(line), _) => match line.split_once(": ") {
            Some((program, rest)) if program.starts_with("qemu") => rest.trim().to_owned(),
            _ => line.trim().to_owned(),
        },
        (None, Some(status)) => format!("QEMU with KVM ended at once ({status})"),
        (None, None) => {
            format!("KVM is there, but a guest on it stands still: it said nothing for {} s", FIRST_WORD.as_secs())
        }
    }))
}

/// Whether a text comes out of a stream in time.
fn hears(mut out: impl Read + Send + 'static, expected: &'static [u8]) -> bool {
    let (tell, told) = mpsc::channel();
    // The thread ends with the stream, which ends with QEMU.
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = out.read(&mut buf) {
            if tell.send(buf[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + FIRST_WORD;
    let mut all = Vec::new();
    while let Ok(part) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        all.extend(part);
        if all.windows(expected.len()).any(|w| w == expected) {
            return true;
        }
    }
    false
}
