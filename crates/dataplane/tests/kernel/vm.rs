//! With a real VM on the engine's taps. Needs QEMU and the demo guest besides root.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use multihome_vmm::{KernelBoot, NicAttachment, NicModel, NicSpec, Vm, VmSpec, VmmConfig};
use multihome_vmm::{ensure_user, probe_accelerator};

use super::*;

const QEMU: &str = "qemu-system-x86_64";

fn built() -> Result<std::path::PathBuf, String> {
    Command::new(QEMU).arg("--version").output().map_err(|e| format!("{QEMU}: {e}"))?;
    let out = std::env::temp_dir().join("multihome-test-guest");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest/build");
    let built = Command::new(script).arg(&out).output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    if built.status.success() { Ok(out) } else { Err(said) }
}

fn attachment(engine: &AnyEngine, n: u8, m: u8, slot: u8) -> NicAttachment {
    let tap = name(names::TAP, &format!("nic{n}.{m}"));
    let spec = NicSpec {
        id: format!("n{m}"),
        mac: mac(m).0,
        model: NicModel::Virtio,
        mtu: Some(1450),
        link_up: true,
        slot,
        acpi_index: None,
    };
    NicAttachment { spec, queues: engine.open_tap(&tap, 1).unwrap() }
}

async fn sh(vm: &Vm, script: &str) -> (bool, String) {
    let out = vm.agent().run("/bin/sh", &["-c", script], Duration::from_secs(30)).await.unwrap();
    (out.status == Some(0), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_reaches_the_world_and_cannot_lie() {
    let test = "a_vm_reaches_the_world_and_cannot_lie";
    let Some(host) = host(test) else { return };
    // Kept until QEMU has ended, whatever becomes of the test.
    let run = tempfile::tempdir().unwrap();
    let files = match built() {
        Ok(files) => files,
        Err(e) => return println!("SKIPPED {test}: {e}"),
    };
    let mut engine = host.engine();
    let mut desired = plan();
    reach(&mut engine, &desired);
    let user = ensure_user().unwrap();
    let kernel = files.join("vmlinuz");
    let found = probe_accelerator(Path::new(QEMU), Some(user), Some(&kernel)).unwrap();
    let config = VmmConfig {
        qemu: QEMU.into(),
        run_root: run.path().to_owned(),
        user: Some(user),
        accelerator: found.accelerator,
    };
    let spec = VmSpec {
        id: "vm".into(),
        name: "vm".into(),
        uuid: None,
        vcpus: 1,
        memory_mib: 256,
        kernel: Some(KernelBoot {
            kernel,
            initramfs: Some(files.join("initrd")),
            cmdline: multihome_vmm::images::DEFAULT_CMDLINE.into(),
        }),
        disks: Vec::new(),
        cdrom: None,
        ports: 16,
    };
    let vm = Vm::start(&config, &spec, vec![attachment(&engine, 1, 10, 0)]).await.unwrap();
    let verdict = tokio::spawn(async move {
        let started = Instant::now();
        while !(vm.agent_open().await.unwrap() && vm.agent().ping().await) {
            assert!(started.elapsed().as_secs() < 90, "no agent");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut neighbour = guest(&host, &engine, 1, 11);
        let setup = "killall udhcpc; ip addr add 10.1.0.10/24 dev eth0; ip route add default via 10.1.0.1";
        sh(&vm, setup).await;
        for there in ["10.1.0.1", "10.1.0.11", "10.3.0.1", "198.51.100.1"] {
            let (answered, said) = sh(&vm, &format!("ping -c 2 -W 2 {there}")).await;
            assert!(answered, "{there}: {said}");
        }
        assert!(neighbour.ping(ip("10.1.0.10"), ip("10.1.0.10")));
        // A whole TCP conversation through offloads, two translations and the checks.
        let listen = || std::net::TcpListener::bind("198.51.100.1:8080").unwrap();
        let listener = host.outside.run(listen).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let receive = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap()
        };
        let send = sh(&vm, "dd if=/dev/zero bs=64k count=160 2>/dev/null | nc -w 5 198.51.100.1 8080");
        let both = async { tokio::join!(receive, send) };
        let (bytes, said) = tokio::time::timeout(Duration::from_secs(40), both).await.unwrap();
        assert_eq!(bytes, 10 << 20, "{said:?}");

        let lie = "ip addr add 10.1.0.77/24 dev eth0; ip addr del 10.1.0.10/24 dev eth0; ping -c 1 -W 1 10.1.0.11";
        assert!(!sh(&vm, lie).await.0, "a borrowed address answers");
        let back = "ip addr add 10.1.0.10/24 dev eth0; ip addr del 10.1.0.77/24 dev eth0; ping -c 2 -W 2 10.1.0.11";
        assert!(sh(&vm, back).await.0, "its own address again");
        let lie = "ip link set eth0 down; ip link set eth0 address 52:54:00:00:00:99; ip link set eth0 up; \
                   ping -c 1 -W 1 10.1.0.11";
        assert!(!sh(&vm, lie).await.0, "another MAC answers");

        // A NIC more, on the running VM: from the plan to the device.
        nic(&mut desired, 3, 31, false);
        let began = Instant::now();
        let failed = engine.apply(&diff(&plan(), &desired));
        assert!(failed.is_empty(), "{failed:#?}");
        let nic = attachment(&engine, 3, 31, 1);
        let network = began.elapsed();
        vm.plug_nic(nic).await.unwrap();
        println!("hot-plug: network {network:?}, and the device is there after {:?}", began.elapsed());
        loop {
            let seen = vm.agent().interfaces().await.unwrap();
            if seen.iter().any(|i| i.mac == Some(mac(31).0)) {
                break;
            }
            assert!(began.elapsed().as_secs() < 30, "the guest does not see its NIC");
        }
        println!("the guest sees it after {:?}", began.elapsed());
        assert!(engine.teardown().is_empty());
        assert_eq!(host.links().iter().filter(|l| l.starts_with("mh")).count(), 0);
    });
    let verdict = verdict.await;
    multihome_vmm::remove(&config.dir("vm")).await.unwrap();
    verdict.unwrap();
}
