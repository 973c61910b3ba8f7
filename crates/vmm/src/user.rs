//! The system user that QEMU runs as.

use std::fs;
use std::process::Command;

use crate::error::{Error, Result};

/// The user that QEMU runs as.
pub const USER: &str = "multihome-qemu";

/// A user by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id; `kvm`, where there is such a group.
    pub gid: u32,
}

fn lookup(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let mut next = || fields.next();
        if next()? != name {
            return None;
        }
        next()?;
        Some(User { uid: next()?.parse().ok()?, gid: next()?.parse().ok()? })
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// The user that QEMU runs as, made if it is not there: a system user without home and shell, in
/// the group `kvm` if there is one, else in a group of its own.
///
/// # Errors
/// When it is not there and `useradd` cannot make it.
pub fn ensure() -> Result<User> {
    if let Some(user) = lookup(&read("/etc/passwd")?, USER) {
        return Ok(user);
    }
    let kvm = read("/etc/group")?.lines().any(|line| line.starts_with("kvm:"));
    let group: &[&str] = if kvm { &["--gid", "kvm"] } else { &["--user-group"] };
    let output = Command::new("useradd")
        .args(["--system", "--no-create-home", "--home-dir", "/nonexistent"])
        .args(["--shell", "/usr/sbin/nologin", "--comment", "Multihome virtual machines"])
        .args(group)
        .arg(USER)
        .output()
        .map_err(|e| Error::io("start", "useradd", e))?;
    // Somebody else may have made it meanwhile; what counts is that it is there.
    lookup(&read("/etc/passwd")?, USER).ok_or_else(|| Error::Program {
        program: "useradd",
        text: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nmultihome-qemu-old:x:7:7::/:/\n\
                      multihome-qemu:x:998:106:Multihome:/nonexistent:/usr/sbin/nologin\nbroken\n";
        assert_eq!(lookup(passwd, USER), Some(User { uid: 998, gid: 106 }));
        assert_eq!(lookup("multihome-qemu:x:no:1", USER), None);
    }
}
