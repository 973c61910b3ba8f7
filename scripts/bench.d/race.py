"""Row 2: on which NIC the default route of a two-NIC DHCP guest ends, by two dnsmasq servers and by Multihome; then the
same for all clients in namespaces, with something that delays the primary NIC."""
import glob, os, re, time
from lib import *

BOOTS = int(os.environ.get("MULTIHOME_BENCH_BOOTS", "10"))
CELLS = int(os.environ.get("MULTIHOME_RACE_BOOTS", "1"))
# Run by the guest on every boot: when both NICs have an address, its routes go to the serial console.
REPORT = "while+[+$(ip+-4+addr|grep+-c+global)+-lt+2+];do+sleep+1;done;sleep+1;ip+route|sed+s/^/ROUTE:/;echo+ROUTES-END"
CMDLINE = f"{CONSOLE} mh.cmd={REPORT}"
NETWORKS = """
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: %s}
spec: {type: Management, ipv4: {cidr: 10.%d.0.0/24, gateway: 10.%d.0.1}}
---
"""
VM = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: web}
spec:
  running: true
  template:
    spec:
      domain:
        cpu: {cores: 1}
        memory: {guest: 256Mi}
        firmware: {kernelBoot: {container: {image: bench/guest}}}
        devices:
          interfaces: [%s]
      networks: [%s]
"""


def vm(*networks):
    interfaces = ", ".join("{name: %s, bridge: {}}" % n for n in networks)
    return VM % (interfaces, ", ".join("{name: %s, multus: {networkName: %s}}" % (n, n) for n in networks))


def qemu(ns, d, nics, append, ports=0, log="serial.log"):
    """The demo guest as Multihome starts it, its taps in a namespace. `nics`: (tap, MAC) pairs."""
    args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", *machine(),
            "-smp", "1", "-m", "256M", "-serial", f"file:{d}/{log}", "-qmp", f"unix:{d}/qmp.sock,server=on,wait=off",
            "-device", "virtio-serial-pci,addr=0x3", "-chardev", f"socket,id=agent,path={d}/agent.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0,addr=0x4",
            "-kernel", f"{GUEST}/vmlinuz", "-initrd", f"{GUEST}/initrd", "-append", append]
    for i in range(max(ports, len(nics))):
        first = ",multifunction=on" if i == 0 else ""
        args += ["-device", f"pcie-root-port,id=rp{i},bus=pcie.0,addr=0x10.0x{i}{first},chassis={i + 1},slot={i},io-reserve=0"]
    for i, (tap, mac) in enumerate(nics):
        args += ["-netdev", f"tap,id=n{i},ifname={tap},script=no,downscript=no",
                 "-device", f"virtio-net-pci,netdev=n{i},mac={mac},bus=rp{i},romfile="]
    return spawn(*inside(ns, *args), stderr=open(os.path.join(d, "qemu.err"), "w"))


def bridge(ns, name, prefix, taps):
    """A bridge with taps and a dnsmasq that names itself as router, as dnsmasq does unless told otherwise."""
    run("ip", "-n", ns, "link", "add", name, "type", "bridge")
    run("ip", "-n", ns, "addr", "add", f"{prefix}.1/24", "dev", name)
    run("ip", "-n", ns, "link", "set", name, "up")
    for tap in taps:
        run("ip", "-n", ns, "tuntap", "add", tap, "mode", "tap")
        run("ip", "-n", ns, "link", "set", tap, "master", name, "up")
    return spawn(*inside(ns, "dnsmasq", "-d", "-p0", "-C", "/dev/null", "-i", name, "--bind-interfaces", "--no-ping",
                         f"--dhcp-range={prefix}.50,{prefix}.200,255.255.255.0,3600", "--dhcp-authoritative",
                         f"--dhcp-leasefile={directory()}/leases"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def reports(path):
    """What the guest said at each of its boots: its default routes' devices."""
    try:
        text = open(path, errors="replace").read().replace("\r", "")
    except OSError:
        return []
    boots = text.split("ROUTES-END")[:-1]
    return [re.findall(r"ROUTE:default.* dev (\S+)", b) for b in boots]


def by_dnsmasq():
    ns, seen = namespace(f"{ID}r"), []
    servers = [bridge(ns, f"br{i}", f"10.10{i}.0", [f"tap{i}"]) for i in (0, 1)]
    for boot in range(BOOTS):
        d = directory()
        p = qemu(ns, d, [("tap0", "52:54:00:00:00:10"), ("tap1", "52:54:00:00:00:11")], CMDLINE)
        try:
            def look():
                if p.poll() is not None:
                    raise RuntimeError("QEMU ended")
                return reports(f"{d}/serial.log")
            seen += wait_for("the guest's report", 120, look, 0.2)
        except RuntimeError as e:
            raise RuntimeError(f"{e}: {tail(d + '/qemu.err')} {tail(d + '/serial.log')}")
        finally:
            end(p)
        say(f"race: dnsmasq, boot {boot + 1}: default by {seen[-1]}")
    for s in servers:
        end(s)
    drop_namespace(ns)
    return seen


def by_multihome():
    node, seen = Node(), []
    try:
        node.cli("image", "import", "bench/guest", "--kernel", f"{GUEST}/vmlinuz", "--initramfs", f"{GUEST}/initrd",
                 "--cmdline", CMDLINE)
        node.apply(NETWORKS % ("one", 100, 100) + NETWORKS % ("two", 101, 101) + vm("one", "two"))
        find = lambda: glob.glob(f"{node.data}/**/serial.log", recursive=True)
        log = wait_for("the guest's console", 60, find)[0]
        for boot in range(BOOTS):
            if boot:
                node.cli("vm", "reset", "web")
            seen = wait_for("the guest's report", 120, lambda: (r := reports(log)) if len(reports(log)) > boot else None, 0.2)
            say(f"race: Multihome, boot {boot + 1}: default by {seen[boot]}")
    except RuntimeError as e:
        raise RuntimeError(f"{e}: {tail(node.log)}")
    finally:
        node.close()
    return seen[:BOOTS]


def race():
    build_guest()
    say(f"race: booting a guest with two NICs {BOOTS} times on two dnsmasq servers, and {BOOTS} times on Multihome")
    ours, peer = by_multihome(), by_dnsmasq()
    def count(seen):
        first = sum(1 for s in seen if s[:1] == ["eth0"])
        second = sum(1 for s in seen if s[:1] == ["eth1"])
        routes = sorted({len(s) for s in seen})
        return f"{first} on NIC 1, {second} on NIC 2 (default routes per boot: {', '.join(map(str, routes))})"
    good = len(ours) == BOOTS and all(s == ["eth0"] for s in ours)
    wrong = lambda seen: sum(1 for s in seen if s != ["eth0"])
    row(f"2 default route of a two-NIC DHCP guest, {BOOTS} boots", count(ours), f"two dnsmasq: {count(peer)}",
        f"{wrong(ours)} : {wrong(peer)} wrong", "0 wrong or doubled", good)
    clients()


def clients():
    """crates/race: every client in every scenario, served by Multihome, by its guard before dnsmasq, and by dnsmasq alone."""
    say(f"race: {CELLS} boots of every client in every scenario on every kind of server")
    # It says itself whether all was right, by its exit status; what it prints is counted here.
    out = run(os.path.join(TARGET, "release", "race"), "--boots", str(CELLS), "--results", directory(), check=False,
              timeout=600 + 60 * 63 * CELLS)
    found = {}
    for line in out.stdout.splitlines():
        name, *numbers = line.split()
        found[name] = [int(n) for n in numbers]
    if len(found) != 3:
        raise RuntimeError(f"race: {out.stderr.strip()[-300:]}")
    def text(name):
        boots, *counts, lost = found[name]
        wrong, doubled, missing = (a + b for a, b in zip(counts[:3], counts[3:]))
        return f"{wrong} wrong, {doubled} doubled, {missing} missing of {2 * boots}" + (f", {lost} boots not judged" if lost else "")
    bad = lambda name: sum(found[name][1:])
    ours = bad("Multihome") + bad("guarded")
    row(f"2 seven clients, three scenarios, {CELLS} boots and renewals each", f"{text('Multihome')}; guarded: {text('guarded')}",
        f"two dnsmasq: {text('dnsmasq')}", f"{ours} : {bad('dnsmasq')}", "0 wrong, doubled or missing", ours == 0)
