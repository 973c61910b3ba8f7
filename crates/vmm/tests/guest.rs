//! With a real QEMU and a real guest. Needs root, QEMU, and what `scripts/guest/build` needs; a test
//! that cannot run says so.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use multihome_netlink::{LinkChange, Netns, Rtnl, Tap};
use multihome_vmm::images::{DEFAULT_CMDLINE, ImageStore, Source};
use multihome_vmm::{
    Accelerator, Ending, Error, GuestInterface, KernelBoot, NicAttachment, NicModel, NicSpec, Vm, VmSpec, VmmConfig,
    ensure_user, probe_accelerator, remove,
};

const QEMU: &str = "qemu-system-x86_64";

/// The demo guest, built once per machine.
fn guest() -> Result<PathBuf, String> {
    let out = std::env::temp_dir().join("multihome-test-guest");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest/build");
    let status = Command::new(script).arg(&out).output().map_err(|e| e.to_string())?;
    if status.status.success() {
        return Ok(out);
    }
    Err(String::from_utf8_lossy(&status.stderr).into_owned())
}

struct Bench {
    netns: Netns,
    config: VmmConfig,
    kernel: KernelBoot,
    _dir: tempfile::TempDir,
}

impl Drop for Bench {
    /// A test that fails leaves no QEMU behind.
    fn drop(&mut self) {
        let config = self.config.clone();
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for id in config.list().unwrap_or_default() {
                let _ = runtime.block_on(remove(&config.dir(&id)));
            }
        });
        let _ = cleaning.join();
    }
}

fn bench(test: &str) -> Option<Bench> {
    let skip = |why: String| {
        println!("SKIPPED {test}: {why}");
        None
    };
    let netns = match Netns::anonymous() {
        Ok(netns) => netns,
        Err(e) => return skip(e.to_string()),
    };
    if let Err(e) = Command::new(QEMU).arg("--version").output() {
        return skip(format!("{QEMU}: {e}"));
    }
    let guest = match guest() {
        Ok(guest) => guest,
        Err(e) => return skip(e),
    };
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::new(dir.path().join("images"));
    let source = Source::Kernel {
        kernel: guest.join("vmlinuz"),
        initramfs: Some(guest.join("initrd")),
        cmdline: format!("{DEFAULT_CMDLINE} mh.hostname=tested"),
    };
    let image = store.import("multihome/demo-guest", &source).unwrap();
    let kernel = store.kernel_boot(&image).unwrap();
    let user = ensure_user().unwrap();
    let started = Instant::now();
    let found = probe_accelerator(Path::new(QEMU), Some(user), Some(&kernel.kernel)).unwrap();
    println!(
        "accelerator {} ({}) found in {:?}",
        found.accelerator.name(),
        found.no_kvm.as_deref().unwrap_or("KVM works"),
        started.elapsed()
    );
    let config = VmmConfig {
        qemu: QEMU.into(),
        run_root: dir.path().join("run"),
        user: Some(user),
        accelerator: found.accelerator,
    };
    Some(Bench { netns, config, kernel, _dir: dir })
}

fn nic(bench: &Bench, n: u8, model: NicModel) -> NicAttachment {
    let name = format!("tap{n}");
    let queues = bench
        .netns
        .run(|| {
            let tap = Tap { name: &name, multi_queue: false, vnet_hdr: true };
            tap.create(None).unwrap();
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            Rtnl::open().unwrap().change_named(&name, &up).unwrap();
            vec![tap.open().unwrap()]
        })
        .unwrap();
    let spec = NicSpec {
        id: format!("n{n}"),
        mac: [0x52, 0x54, 0, 0, 0, n],
        model,
        mtu: (model == NicModel::Virtio).then_some(1400 + u16::from(n)),
        link_up: true,
        slot: n,
        acpi_index: None,
    };
    NicAttachment { spec, queues }
}

fn spec(bench: &Bench) -> VmSpec {
    VmSpec {
        id: "vm-1".into(),
        name: "tested, with a comma".into(),
        uuid: None,
        vcpus: 1,
        memory_mib: 256,
        kernel: Some(bench.kernel.clone()),
        disks: Vec::new(),
        cdrom: None,
        ports: 16,
    }
}

async fn until<T>(what: &str, seconds: u64, mut f: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = f().await {
            println!("{what}: {:?}", started.elapsed());
            return value;
        }
        assert!(started.elapsed().as_secs() < seconds, "{what} did not come within {seconds} s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answers(vm: &Vm) -> bool {
    vm.agent_open().await.unwrap() && vm.agent().ping().await
}

fn of(all: &[GuestInterface], n: u8) -> Option<&GuestInterface> {
    all.iter().find(|i| i.mac == Some([0x52, 0x54, 0, 0, 0, n]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_lives_through_everything() {
    let Some(bench) = bench("a_guest_lives_through_everything") else { return };
    let started = Instant::now();
    let nics = vec![nic(&bench, 0, NicModel::Virtio), nic(&bench, 1, NicModel::Virtio)];
    let vm = Vm::start(&bench.config, &spec(&bench), nics).await.unwrap();
    println!("QEMU runs, with its NICs: {:?}", started.elapsed());
    let started_again = Vm::start(&bench.config, &spec(&bench), Vec::new()).await;
    assert!(matches!(started_again, Err(Error::Running(_))));

    until("guest agent answers", 60, async || answers(&vm).await.then_some(())).await;
    println!("from the start until the agent answers: {:?}", started.elapsed());
    let seen = vm.agent().interfaces().await.unwrap();
    assert!(of(&seen, 0).is_some() && of(&seen, 1).is_some(), "{seen:?}");
    assert_eq!(of(&seen, 0).unwrap().name, "eth0");
    let info = vm.agent().info().await.unwrap();
    assert!(info.commands.iter().any(|c| c == "guest-exec"), "{info:?}");
    let out = vm.agent().run("/bin/cat", &["/sys/class/net/eth1/mtu"], Duration::from_secs(5)).await;
    assert_eq!(String::from_utf8_lossy(&out.unwrap().stdout).trim(), "1401");
    let out = vm.agent().run("/bin/sh", &["-c", "hostname; echo oops >&2; exit 3"], Duration::from_secs(5));
    let out = out.await.unwrap();
    assert_eq!((out.status, &out.stdout[..], &out.stderr[..]), (Some(3), &b"tested\n"[..], &b"oops\n"[..]));

    // QEMU is nobody's but its user's, and survives its maker.
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let uid = bench.config.user.unwrap().uid;
    assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");

    hot_plug(&bench, &vm).await;
    routes(&vm).await;

    // A caller that is gone and comes back finds the VM again.
    let (dir, pid) = (vm.files().dir.clone(), vm.pid());
    let socket = vm.files().qmp();
    drop(vm);
    assert_eq!(bench.config.list().unwrap(), ["vm-1"]);
    // It was killed half way through plugging two NICs: one descriptor is in a netdev, the other not even there.
    let (with_netdev, bare) = (nic(&bench, 12, NicModel::Virtio), nic(&bench, 13, NicModel::Virtio));
    let raw = multihome_vmm::Qmp::connect(&socket, Duration::from_secs(5)).await.unwrap();
    for n in [&with_netdev, &bare] {
        raw.getfd(&format!("tap-{}-0", n.spec.id), n.queues[0].as_fd()).await.unwrap();
    }
    raw.execute("netdev_add", serde_json::json!({ "type": "tap", "id": "net-n12", "fds": "tap-n12-0" })).await.unwrap();
    drop((raw, with_netdev, bare));
    let began = Instant::now();
    let vm = Vm::attach(&dir).await.unwrap();
    println!("attached again: {:?}", began.elapsed());
    for n in [12, 13] {
        let name = format!("tap{n}");
        let open = || bench.netns.run(|| Tap { name: &name, multi_queue: false, vnet_hdr: true }.open()).unwrap();
        assert!(open().is_err_and(|e| e.is_busy()), "QEMU holds tap{n}");
        vm.clear_half_plugged(&format!("n{n}"), 1).await.unwrap();
        assert!(open().is_ok(), "QEMU has let go of tap{n}");
    }
    assert_eq!((vm.pid(), vm.spec()), (pid, &spec(&bench)));
    assert_eq!(vm.status().await.unwrap(), "running");
    assert!(vm.agent().ping().await);
    let console = std::fs::read_to_string(vm.files().serial_log()).unwrap();
    assert!(console.contains("multihome-guest: up after"), "{console}");

    let began = Instant::now();
    let rebooted = vm.reboot(Duration::from_secs(20)).await;
    let said = || std::fs::read_to_string(vm.files().stderr()).unwrap_or_default();
    assert!(matches!(rebooted, Ok(true)), "{rebooted:?}; QEMU said: {}", said());
    println!("guest rebooted by itself: {:?}", began.elapsed());
    until("agent after the reboot", 60, async || answers(&vm).await.then_some(())).await;
    vm.reset().await.unwrap();
    until("agent after the reset", 60, async || answers(&vm).await.then_some(())).await;
    assert_eq!(vm.nics().await.unwrap().len(), 3);

    let began = Instant::now();
    assert_eq!(vm.stop(Duration::from_secs(30)).await.unwrap(), Ending::Guest);
    println!("stopped by its power button: {:?}", began.elapsed());
    assert!(!vm.is_running());
    assert!(matches!(Vm::attach(&dir).await, Err(Error::NotRunning(_))));
    assert!(bench.config.list().unwrap().is_empty());
    remove(&dir).await.unwrap();
    assert!(!dir.exists());
    remove(&dir).await.unwrap();
}

async fn hot_plug(bench: &Bench, vm: &Vm) {
    let began = Instant::now();
    vm.plug_nic(nic(bench, 2, NicModel::Virtio)).await.unwrap();
    println!("hot-plug until QEMU has it: {:?}", began.elapsed());
    until("hot-plugged NIC seen in the guest", 30, async || of(&vm.agent().interfaces().await.unwrap(), 2).map(|_| ()))
        .await;
    vm.plug_nic(nic(bench, 3, NicModel::E1000e)).await.unwrap();
    let nics = vm.nics().await.unwrap();
    let all: Vec<_> = nics.iter().map(|n| (n.id.as_str(), n.slot, n.mac.unwrap()[5])).collect();
    assert_eq!(all, [("n0", Some(0), 0), ("n1", Some(1), 1), ("n2", Some(2), 2), ("n3", Some(3), 3)]);
    // A port that is taken is refused, and nothing is left of the attempt.
    let mut wrong = nic(bench, 4, NicModel::Virtio);
    wrong.spec.slot = 2;
    assert!(matches!(vm.plug_nic(wrong).await, Err(Error::Qmp { .. })));
    assert_eq!(vm.nics().await.unwrap().len(), 4);

    let client = "cat /run/udhcpc/eth2.pid && kill -0 $(cat /run/udhcpc/eth2.pid)";
    until("a DHCP client runs on it", 20, async || {
        let out = vm.agent().run("/bin/sh", &["-c", client], Duration::from_secs(5)).await;
        (out.unwrap().status == Some(0)).then_some(())
    })
    .await;
    for (up, carrier) in [(false, "0"), (true, "1")] {
        vm.set_link("n2", up).await.unwrap();
        until("carrier follows", 20, async || {
            let out = vm.agent().run("/bin/cat", &["/sys/class/net/eth2/carrier"], Duration::from_secs(5));
            (String::from_utf8_lossy(&out.await.unwrap().stdout).trim() == carrier).then_some(())
        })
        .await;
    }
    assert!(vm.set_link("none", true).await.unwrap_err().is_missing());
    for id in ["n3", "n2"] {
        let began = Instant::now();
        vm.unplug_nic(id, Duration::from_secs(30)).await.unwrap();
        println!("unplugged {id}: {:?}", began.elapsed());
    }
    vm.unplug_nic("n2", Duration::from_secs(5)).await.unwrap();
    until("gone from the guest", 20, async || of(&vm.agent().interfaces().await.unwrap(), 2).is_none().then_some(()))
        .await;
    until("and its DHCP client", 20, async || {
        let out = vm.agent().run("/bin/sh", &["-c", "ps | grep '[u]dhcpc -b .*eth2'"], Duration::from_secs(5));
        (out.await.unwrap().status != Some(0)).then_some(())
    })
    .await;
    let again = bench.netns.run(|| Tap { name: "tap2", multi_queue: false, vnet_hdr: true }.open().unwrap()).unwrap();
    let spec = NicSpec { slot: 2, ..nic_spec(2) };
    vm.plug_nic(NicAttachment { spec, queues: vec![again] }).await.unwrap();
    until("plugged in again", 30, async || of(&vm.agent().interfaces().await.unwrap(), 2).map(|_| ())).await;
}

fn nic_spec(n: u8) -> NicSpec {
    NicSpec {
        id: format!("n{n}"),
        mac: [0x52, 0x54, 0, 0, 0, n],
        model: NicModel::Virtio,
        mtu: None,
        link_up: true,
        slot: n,
        acpi_index: None,
    }
}

async fn routes(vm: &Vm) {
    let script = "ip addr add 10.9.0.2/24 dev eth0; ip route add default via 10.9.0.1 metric 5; \
                  ip -6 addr add fd09::2/64 dev eth0; ip -6 route add default via fd09::1 dev eth0";
    vm.agent().run("/bin/sh", &["-c", script], Duration::from_secs(10)).await.unwrap();
    let began = Instant::now();
    let routes = vm.agent().routes().await.unwrap();
    println!("routes read from the guest: {:?}", began.elapsed());
    let defaults: Vec<_> = routes.iter().filter(|r| r.is_default()).collect();
    assert_eq!(defaults.len(), 2, "{routes:#?}");
    assert_eq!(defaults[0].gateway, Some("10.9.0.1".parse().unwrap()));
    assert_eq!((defaults[0].metric, defaults[0].interface.as_str()), (5, "eth0"));
    assert_eq!(defaults[1].gateway, Some("fd09::1".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_keeps_what_is_written_and_its_image_does_not() {
    let test = "a_disk_keeps_what_is_written_and_its_image_does_not";
    let Some(bench) = bench(test) else { return };
    if let Err(e) = Command::new("qemu-img").arg("--version").output() {
        println!("SKIPPED {test}: qemu-img: {e}");
        return;
    }
    let dir = bench._dir.path();
    let raw = dir.join("raw");
    let mut content = vec![0; 1 << 20];
    content[..9].copy_from_slice(b"original\n");
    std::fs::write(&raw, &content).unwrap();
    let converted = dir.join("converted");
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    assert!(Command::new("qemu-img").args(convert).arg(&raw).arg(&converted).status().unwrap().success());
    let store = ImageStore::new(dir.join("images"));
    let mut spec = spec(&bench);
    for (name, source) in [("raw", &raw), ("qcow2", &converted)] {
        let image = store.import(name, &Source::Disk(source.clone())).unwrap();
        let overlay = dir.join(format!("{name}.overlay"));
        let disk = store.overlay(&image, &overlay).unwrap().unwrap();
        assert_eq!(store.overlay(&image, &overlay).unwrap().unwrap(), disk);
        spec.disks.push(disk);
    }
    let read = async |vm: &Vm, disk: &str| {
        let script = format!("dd if=/dev/{disk} bs=512 count=1 2>/dev/null | head -n 1");
        let out = vm.agent().run("/bin/sh", &["-c", &script], Duration::from_secs(10)).await.unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let vm = Vm::start(&bench.config, &spec, Vec::new()).await.unwrap();
    until("agent", 60, async || answers(&vm).await.then_some(())).await;
    for disk in ["vda", "vdb"] {
        assert_eq!(read(&vm, disk).await, "original");
        let script = format!("echo changed | dd of=/dev/{disk} conv=notrunc && sync");
        let out = vm.agent().run("/bin/sh", &["-c", &script], Duration::from_secs(10)).await.unwrap();
        assert_eq!(out.status, Some(0));
    }
    vm.stop(Duration::from_secs(20)).await.unwrap();
    let vm = Vm::start(&bench.config, &spec, Vec::new()).await.unwrap();
    until("agent of the second start", 60, async || answers(&vm).await.then_some(())).await;
    assert_eq!((read(&vm, "vda").await, read(&vm, "vdb").await), ("changed".into(), "changed".into()));
    // Even with its directory gone it is found and ended.
    std::fs::remove_dir_all(&vm.files().dir).unwrap();
    remove(&vm.files().dir).await.unwrap();
    assert!(!vm.is_running());
    let multihome_vmm::images::Content::Disk { disk, .. } = store.lookup("raw").unwrap().content else {
        panic!("a disk is no kernel")
    };
    assert_eq!(std::fs::read(store.path(&disk)).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let Some(bench) = bench("what_cannot_start_says_why_and_leaves_nothing") else { return };
    let mut huge = spec(&bench);
    huge.vcpus = 255;
    huge.id = "huge".into();
    let mut config = bench.config.clone();
    config.accelerator = Accelerator::Tcg;
    huge.memory_mib = 400_000_000;
    let e = Vm::start(&config, &huge, Vec::new()).await.unwrap_err().to_string();
    assert!(e.starts_with("QEMU ended at its start: qemu-system-x86_64:"), "{e}");
    assert!(config.list().unwrap().is_empty());
    let mut bad = spec(&bench);
    bad.id = "../x".into();
    assert!(matches!(Vm::start(&config, &bad, Vec::new()).await, Err(Error::Invalid(_))));
    // A guest that does not listen to its power button is told to end all the same.
    let mut deaf = spec(&bench);
    deaf.kernel.as_mut().unwrap().cmdline += " rdinit=/bin/false";
    let vm = Vm::start(&config, &deaf, Vec::new()).await.unwrap();
    assert!(!vm.agent().ping().await);
    assert_eq!(vm.stop(Duration::from_millis(100)).await.unwrap(), Ending::Quit);
}

/// A CD-ROM image that begins with a word.
fn medium(bench: &Bench, word: &str, sectors: usize) -> std::fs::File {
    let path = bench._dir.path().join(word);
    let mut bytes = word.as_bytes().to_vec();
    bytes.resize(sectors * 2048, b'.');
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::open(path).unwrap()
}

/// The first word of the guest's CD-ROM, and its size in sectors of 512 bytes.
async fn seen(vm: &Vm) -> (String, String) {
    let script = "head -c 5 /dev/sr0; cat /sys/block/sr0/size";
    let out = vm.agent().run("/bin/sh", &["-c", script], Duration::from_secs(5)).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (word, size) = text.split_at_checked(5).unwrap_or_default();
    (word.into(), size.trim().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_the_medium_that_was_changed() {
    let Some(bench) = bench("a_guest_sees_the_medium_that_was_changed") else { return };
    let _first = medium(&bench, "first", 16);
    let spec = VmSpec { cdrom: Some(bench._dir.path().join("first")), ..spec(&bench) };
    let vm = Vm::start(&bench.config, &spec, vec![]).await.unwrap();
    until("guest agent answers", 60, async || answers(&vm).await.then_some(())).await;
    assert_eq!(seen(&vm).await, ("first".into(), "64".into()));

    vm.change_medium(&medium(&bench, "other", 512)).await.unwrap();
    assert_eq!(seen(&vm).await, ("other".into(), "2048".into()));

    // A caller that came back knows which medium is in; a guest that reads the old one keeps it.
    let dir = vm.files().dir.clone();
    drop(vm);
    let vm = Vm::attach(&dir).await.unwrap();
    let third = medium(&bench, "third", 16);
    let holding = async |seconds: u32| {
        let busy = format!("exec 3</dev/sr0; echo open >/tmp/held{seconds}; exec sleep {seconds}");
        vm.agent().execute("guest-exec", serde_json::json!({"path": "/bin/sh", "arg": ["-c", busy]})).await.unwrap();
        let held = format!("/tmp/held{seconds}");
        until("the guest holds its medium", 5, async || vm.agent().read_file(&held).await.ok()).await;
    };
    holding(60).await;
    assert!(matches!(vm.change_medium(&third).await, Err(Error::Timeout { .. })));
    let end = vm.agent().run("/bin/sh", &["-c", "killall sleep"], Duration::from_secs(5)).await.unwrap();
    assert_eq!(end.status, Some(0));
    // One that lets go a little later is asked again.
    holding(4).await;
    vm.change_medium(&third).await.unwrap();
    assert_eq!(seen(&vm).await, ("third".into(), "64".into()));

    // A tray that somebody else opened is seen, and closed.
    let mut events = vm.events();
    vm.qmp().execute("blockdev-open-tray", serde_json::json!({"id": "cdrom"})).await.unwrap();
    while !events.recv().await.unwrap().is_tray_opened() {}
    vm.close_tray().await.unwrap();
    vm.close_tray().await.unwrap();
    assert_eq!(seen(&vm).await.0, "third");

    // Nothing is left of the media before.
    let nodes = vm.qmp().execute("query-named-block-nodes", serde_json::json!({})).await.unwrap();
    let media = nodes.as_array().unwrap().iter().filter(|n| n["node-name"].as_str().unwrap().starts_with("medium-"));
    assert_eq!(media.count(), 1, "{nodes}");
    let sets = vm.qmp().execute("query-fdsets", serde_json::json!({})).await.unwrap();
    assert!(sets.as_array().unwrap().len() <= 3, "{sets}");
    vm.kill().await.unwrap();
}
