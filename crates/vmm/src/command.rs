//! QEMU's command line. Everything that QEMU needs from the file system is opened by us and handed
//! over as a descriptor, so that its user needs no access to anything.

use std::fs::{File, OpenOptions};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use multihome_netlink::process;

use crate::accel::Accelerator;
use crate::error::{Error, Result};
use crate::medium;
use crate::spec::{Disk, DiskFormat, VmSpec};
use crate::vm::{Files, VmmConfig};

/// Commas separate QEMU's options; a doubled one is a comma.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

/// Marks a QEMU as the one of a directory, where `/proc` shows it.
pub(crate) fn marker(dir: &Path) -> String {
    format!("multihome:{}", dir.display())
}

struct Builder {
    command: Command,
    sets: u32,
    dir_marker: String,
}

impl Builder {
    fn arg(&mut self, option: &str, value: impl AsRef<str>) {
        self.command.arg(option).arg(value.as_ref());
    }

    fn pass(&mut self, fd: impl Into<OwnedFd>) -> RawFd {
        process::inherit(&mut self.command, fd.into())
    }

    /// Puts descriptors of one file into a set; QEMU opens its path instead of the file's.
    fn set(&mut self, fds: Vec<File>) -> String {
        self.sets += 1;
        let set = self.sets;
        for fd in fds {
            let fd = self.pass(fd);
            let marker = escape(&self.dir_marker);
            self.arg("-add-fd", format!("fd={fd},set={set},opaque={marker}"));
        }
        format!("/dev/fdset/{set}")
    }

    fn listener(&mut self, id: &str, path: &Path, more: &str) -> Result<()> {
        let _ = std::fs::remove_file(path);
        let socket = UnixListener::bind(path).map_err(|e| Error::io("listen on", path.display(), e))?;
        let fd = self.pass(socket);
        self.arg("-chardev", format!("socket,id={id},fd={fd},server=on,wait=off{more}"));
        Ok(())
    }
}

fn open(path: &Path, write: bool) -> Result<File> {
    OpenOptions::new().read(true).write(write).open(path).map_err(|e| Error::io("open", path.display(), e))
}

/// Makes the command that starts QEMU for a VM, stopped before its first instruction.
pub(crate) fn build(config: &VmmConfig, spec: &VmSpec, files: &Files) -> Result<Command> {
    let mut command = Command::new(&config.qemu);
    let errors = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(files.stderr())
        .map_err(|e| Error::io("create", files.stderr().display(), e))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).current_dir("/").env_clear();
    if let Some(user) = config.user {
        command.gid(user.gid).uid(user.uid);
    }
    process::own_session(&mut command);
    let mut b = Builder { command, sets: 0, dir_marker: marker(&files.dir) };
    b.arg("-name", format!("guest={},debug-threads=on", escape(&spec.name)));
    b.command.args(["-nodefaults", "-no-user-config", "-display", "none", "-S"]);
    b.arg("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    machine(&mut b, config, spec);
    serial(&mut b, files)?;
    b.listener("qmp", &files.qmp(), "")?;
    b.arg("-mon", "chardev=qmp,mode=control");
    b.listener("qmp2", &files.spare_qmp(), "")?;
    b.arg("-mon", "chardev=qmp2,mode=control");
    b.arg("-device", "virtio-serial-pci,id=vserial,bus=pcie.0,addr=0x3");
    b.listener("agent", &files.agent(), "")?;
    b.arg("-device", "virtserialport,id=agentport,bus=vserial.0,chardev=agent,name=org.qemu.guest_agent.0");
    b.arg("-object", "rng-random,id=rng0,filename=/dev/urandom");
    b.arg("-device", "virtio-rng-pci,rng=rng0,bus=pcie.0,addr=0x4");
    ports(&mut b, spec.ports);
    for (at, disk) in spec.disks.iter().enumerate() {
        self::disk(&mut b, at, disk)?;
    }
    if let Some(path) = &spec.cdrom {
        cdrom(&mut b, path)?;
    }
    boot(&mut b, spec)?;
    Ok(b.command)
}

fn machine(b: &mut Builder, config: &VmmConfig, spec: &VmSpec) {
    b.arg("-machine", format!("q35,accel={},vmport=off,hpet=off", config.accelerator.name()));
    b.arg(
        "-cpu",
        match config.accelerator {
            Accelerator::Kvm => "host",
            // A fifth level of page tables costs emulation time in every miss and serves nobody.
            Accelerator::Tcg => "max,la57=off",
        },
    );
    b.arg("-smp", spec.vcpus.to_string());
    b.arg("-m", format!("{}M", spec.memory_mib));
    b.arg("-rtc", "base=utc");
    b.command.arg("-no-fd-bootchk").arg("-boot").arg("strict=on");
    // cloud-init looks for OpenStack's metadata where the product has this name, and nowhere else.
    b.arg("-smbios", "type=1,manufacturer=Multihome,product=OpenStack Compute,family=Virtual Machine");
    if let Some(uuid) = &spec.uuid {
        b.arg("-uuid", uuid);
    }
}

/// A console that somebody may connect to, and whose every byte is kept.
fn serial(b: &mut Builder, files: &Files) -> Result<()> {
    let path = files.serial_log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::io("create", path.display(), e))?;
    let log = b.set(vec![log]);
    b.listener("serial0", &files.console(), &format!(",logfile={log},logappend=on"))?;
    b.arg("-serial", "chardev:serial0");
    Ok(())
}

/// Root ports for NICs, eight functions to a slot. No I/O space is set aside behind them: there is
/// 64 KiB of it in all, 4 KiB per port, and modern virtio uses none.
fn ports(b: &mut Builder, count: u8) {
    for port in 0..count {
        let (slot, function) = (0x10 + port / 8, port % 8);
        let first = if function == 0 { ",multifunction=on" } else { "" };
        b.arg(
            "-device",
            format!(
                "pcie-root-port,id=rp{port},bus=pcie.0,addr={slot:#x}.{function:#x}{first},\
                 chassis={},slot={},io-reserve=0",
                port + 1,
                port
            ),
        );
    }
}

fn disk(b: &mut Builder, at: usize, disk: &Disk) -> Result<()> {
    let node = |b: &mut Builder, name: &str, path: &Path, format: DiskFormat, write, backing: &str| {
        let mut fds = vec![open(path, false)?];
        if write {
            fds.push(open(path, true)?);
        }
        let file = b.set(fds);
        let ro = if write { "off" } else { "on" };
        b.arg(
            "-blockdev",
            format!(
                "driver=file,node-name={name}-file,filename={file},read-only={ro},\
                 auto-read-only=off,discard=unmap"
            ),
        );
        let format = format.name();
        b.arg("-blockdev", format!("driver={format},node-name={name},file={name}-file,read-only={ro}{backing}"));
        Ok::<(), Error>(())
    };
    let name = format!("disk{at}");
    let backing = match (&disk.backing, disk.format) {
        (Some((path, format)), _) => {
            let base = format!("{name}-base");
            node(b, &base, path, *format, false, "")?;
            format!(",backing={base}")
        }
        // An overlay whose base was not named must not open one by a path of its own.
        (None, DiskFormat::Qcow2) => ",backing=".to_owned(),
        (None, DiskFormat::Raw) => String::new(),
    };
    node(b, &name, &disk.path, disk.format, !disk.read_only, &backing)?;
    b.arg(
        "-device",
        format!("virtio-blk-pci,id={name}-dev,drive={name},bus=pcie.0,addr={:#x},bootindex={}", 5 + at, at + 1),
    );
    Ok(())
}

/// A drive on virtio-scsi: what Debian's cloud kernels have drivers for, and AHCI is not.
fn cdrom(b: &mut Builder, path: &Path) -> Result<()> {
    let file = b.set(vec![open(path, false)?]);
    b.arg("-blockdev", medium::node(medium::NODES[0], &file).to_string());
    b.arg("-device", "virtio-scsi-pci,id=scsi,bus=pcie.0,addr=0xd");
    b.arg("-device", format!("scsi-cd,id={},bus=scsi.0,drive={}", medium::DRIVE, medium::NODES[0]));
    Ok(())
}

fn boot(b: &mut Builder, spec: &VmSpec) -> Result<()> {
    let Some(kernel) = &spec.kernel else { return Ok(()) };
    let fd = b.pass(open(&kernel.kernel, false)?);
    b.arg("-kernel", format!("/proc/self/fd/{fd}"));
    if let Some(initramfs) = &kernel.initramfs {
        let fd = b.pass(open(initramfs, false)?);
        b.arg("-initrd", format!("/proc/self/fd/{fd}"));
    }
    if !kernel.cmdline.is_empty() {
        b.arg("-append", &kernel.cmdline);
    }
    Ok(())
}
