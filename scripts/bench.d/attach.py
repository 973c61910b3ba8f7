"""Row 4: one NIC into a running VM: by Multihome, by `virsh attach-interface` with libvirt's dnsmasq, and by QMP alone."""
import http.client, json, os, socket, statistics, subprocess, threading, time
from lib import *
from race import NETWORKS, bridge, qemu, vm

TIMES = int(os.environ.get("MULTIHOME_BENCH_ATTACHES", "10"))
NICS = "/apis/multihome.io/v1alpha1/namespaces/default/networkinterfaces"
INTERFACES = {"execute": "guest-network-get-interfaces"}


def mac(i):
    return f"52:54:00:00:01:{i:02x}"


def has_address(interfaces, mac, prefix):
    for i in interfaces:
        if i.get("hardware-address") == mac:
            return any(a["ip-address"].startswith(prefix) for a in i.get("ip-addresses", []))
    return False


def guest_up(agent):
    """Waits until the agent answers and the first NIC has its address, so that the guest is done booting."""
    def look():
        try:
            return any(a["ip-address"].startswith("10.") for i in agent() for a in i.get("ip-addresses", []))
        except (RuntimeError, OSError, ValueError):
            return False
    wait_for("the guest's first address", 120, look, 0.3)
    time.sleep(3)


def agent_of(path):
    """A fresh line to a guest agent, whatever was said on it before."""
    line = Qmp(path, agent=True)
    number = time.monotonic_ns() & 0xffffff
    while line("guest-sync", id=number) != number:
        pass
    return line


def addressed(ask, mac, prefix, began):
    wait_for(f"the address of {mac}", 60, lambda: has_address(ask(), mac, prefix), 0.002)
    return (time.monotonic() - began) * 1000


def by_qmp():
    """The floor: QEMU's own two commands, the tap prepared beforehand."""
    ns, d = namespace(f"{ID}q"), directory()
    servers = [bridge(ns, "br0", "10.100.0", ["tap0"]), bridge(ns, "br1", "10.101.0", ["tap1"])]
    process = qemu(ns, d, [("tap0", "52:54:00:00:00:10")], CONSOLE, ports=8)
    wait_for("QEMU's monitor", 20, lambda: os.path.exists(f"{d}/qmp.sock"))
    time.sleep(0.3)
    qmp = Qmp(f"{d}/qmp.sock")
    wait_for("the guest", 120, lambda: "multihome-guest: up" in open(f"{d}/serial.log", errors="replace").read(), 0.3)
    agent = agent_of(f"{d}/agent.sock")
    ask = lambda: agent("guest-network-get-interfaces")
    guest_up(ask)
    device, address = [], []
    for i in range(TIMES):
        began = time.monotonic()
        qmp("netdev_add", type="tap", id="hot", ifname="tap1", script="no", downscript="no")
        qmp("device_add", driver="virtio-net-pci", id="hotdev", netdev="hot", mac=mac(i), bus="rp4", romfile="")
        device.append((time.monotonic() - began) * 1000)
        address.append(addressed(ask, mac(i), "10.101.", began))
        qmp("device_del", id="hotdev")
        qmp.wait_event("DEVICE_DELETED")
        qmp("netdev_del", id="hot")
        time.sleep(1)
    for p in [process, *servers]:
        end(p)
    drop_namespace(ns)
    return device, address


DOMAIN = """<domain type='{type}'><name>web</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{guest}/vmlinuz</kernel><initrd>{guest}/initrd</initrd>
<cmdline>{console}</cmdline></os><features><acpi/></features>{cpu}<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='pci' model='pcie-root'/>{ports}<controller type='usb' model='none'/>
<interface type='network'><source network='one'/><mac address='52:54:00:00:00:10'/><model type='virtio'/><rom enabled='no'/></interface>
<serial type='file'><source path='{d}/serial.log'/><target port='0'/></serial>
<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='none'/></devices></domain>"""
NETWORK = """<network><name>{name}</name><forward mode='open'/><bridge name='virbr{n}' stp='off' delay='0'/><ip address='10.10{n}.0.1' netmask='255.255.255.0'>
<dhcp><range start='10.10{n}.0.50' end='10.10{n}.0.200'/></dhcp></ip></network>"""
# libvirtd sees directories of its own where it keeps its state, and the network namespace that it was started in.
LIBVIRTD = """set -e
mount --make-rprivate /
mkdir -p /run/libvirt
for d in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do mount -t tmpfs tmpfs $d; done
cp "$1/qemu.conf" /etc/libvirt/
exec libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"
"""


class Virsh:
    """One virsh that stays, for questions; attaching starts one of its own, as a person would."""

    def __init__(self, ns, uri):
        self.process = spawn(*inside(ns, "stdbuf", "-oL", "virsh", "-q", "-c", uri), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, bufsize=1)

    def interfaces(self):
        self.process.stdin.write(f"qemu-agent-command web '{json.dumps(INTERFACES)}'\n")
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("virsh ended")
            if line.startswith("error:"):
                raise RuntimeError(line.strip())
            if "{\"return" in line:
                return json.loads(line[line.index("{\"return"):])["return"]


def by_libvirt():
    missing = [p for program, p in (("libvirtd", "libvirt-daemon-system"), ("virsh", "libvirt-clients"))
               if run("sh", "-c", f"command -v {program}", check=False).returncode != 0]
    if missing or not os.path.exists("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so"):
        say("installing libvirt")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "libvirt-daemon-system", "libvirt-clients",
            "libvirt-daemon-driver-qemu", timeout=600, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
    ns, d = namespace(f"{ID}v"), directory()
    os.chmod(d, 0o755)
    os.mkdir(f"{d}/run")
    with open(f"{d}/libvirtd.conf", "w") as f:
        f.write(f'unix_sock_dir = "{d}/run"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "3:file:{d}/libvirtd.log"\n')
    with open(f"{d}/qemu.conf", "w") as f:
        f.write('user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = "none"\n'
                'namespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n')
    daemon = spawn(*inside(ns, "unshare", "-m", "sh", "-c", LIBVIRTD, "sh", d), stdout=open(f"{d}/out", "w"), stderr=subprocess.STDOUT)
    uri = f"qemu+unix:///system?socket={d}/run/libvirt-sock"
    virsh = lambda *a, **kw: run(*inside(ns, "virsh", "-q", "-c", uri, *a), **kw)
    line = None
    try:
        def up():
            if daemon.poll() is not None:
                raise RuntimeError(f"libvirtd ended: {tail(d + '/out')} {tail(d + '/libvirtd.log')}")
            return virsh("list", check=False).returncode == 0
        wait_for("libvirtd's start", 30, up, 0.3)
        for n, name in enumerate(("one", "two")):
            with open(f"{d}/{name}.xml", "w") as f:
                f.write(NETWORK.format(n=n, name=name))
            virsh("net-create", f"{d}/{name}.xml")
        with open(f"{d}/web.xml", "w") as f:
            f.write(DOMAIN.format(type="kvm" if kvm_works() else "qemu", guest=GUEST, console=CONSOLE, d=d,
                                  cpu="<cpu mode='host-passthrough'/>" if kvm_works() else "<cpu mode='maximum'><feature policy='disable' name='la57'/></cpu>",
                                  ports="<controller type='pci' model='pcie-root-port'/>" * 12))
        virsh("create", f"{d}/web.xml")
        wait_for("the guest", 120, lambda: "multihome-guest: up" in open(f"{d}/serial.log", errors="replace").read(), 0.3)
        line = Virsh(ns, uri)
        guest_up(line.interfaces)
        device, address = [], []
        for i in range(TIMES):
            began = time.monotonic()
            virsh("attach-interface", "web", "network", "two", "--model", "virtio", "--mac", mac(i), "--live")
            device.append((time.monotonic() - began) * 1000)
            address.append(addressed(line.interfaces, mac(i), "10.101.", began))
            virsh("detach-interface", "web", "network", "--mac", mac(i), "--live")
            wait_for("the detachment", 30, lambda: mac(i) not in virsh("domiflist", "web").stdout, 0.2)
            time.sleep(1)
        return device, address
    except RuntimeError as e:
        raise RuntimeError(f"{e} {tail(d + '/libvirtd.log')}")
    finally:
        if line:
            end(line.process)
        if daemon.poll() is None:
            virsh("destroy", "web", check=False)
            for name in ("one", "two"):
                virsh("net-destroy", name, check=False)
        end(daemon)
        drop_namespace(ns)


class Api(http.client.HTTPConnection):
    """The server's unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Watch(threading.Thread):
    """Notes when each NIC's condition Attached became true, by the clock of whoever hears it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.at, self.macs = {}, {}
        self.api = Api(path)
        self.api.request("GET", f"{NICS}?watch=1")
        self.answer = self.api.getresponse()

    def run(self):
        for line in self.answer:
            now = time.monotonic()
            o = json.loads(line)["object"]
            name, status = o["metadata"]["name"], o.get("status", {})
            for c in status.get("conditions", []):
                if c["type"] == "Attached" and c["status"] == "True":
                    self.at.setdefault(name, now)
                    self.macs[name] = (status.get("mac") or o["spec"].get("mac") or "").lower()


def by_multihome():
    """Per attachment: until the device is there and until the address is, by the CLI; and the first of the two by the API alone."""
    node = Node()
    try:
        node.cli("image", "import", "bench/guest", "--kernel", f"{GUEST}/vmlinuz", "--initramfs", f"{GUEST}/initrd")
        node.apply(NETWORKS % ("one", 100, 100) + NETWORKS % ("two", 101, 101) + vm("one"))
        find = lambda: [os.path.join(p, "agent.sock") for p, _, files in os.walk(node.data) if "agent.sock" in files]
        path = wait_for("the VM", 60, find)[0]
        wait_for("the first NIC", 120, lambda: "Ready" in str([c for n in json.loads(node.cli("get", "nic", "-o", "json").stdout)["items"]
                 for c in n.get("status", {}).get("conditions", []) if c["type"] == "Ready" and c["status"] == "True"]), 0.5)
        def ask():
            line = agent_of(path)
            try:
                return line("guest-network-get-interfaces")
            finally:
                line.close()
        guest_up(ask)
        watch = Watch(os.path.join(node.data, "multihome.sock"))
        watch.start()
        api = Api(os.path.join(node.data, "multihome.sock"))
        device, address, alone, alone_address = [], [], [], []
        for i in range(2 * TIMES):
            name = f"hot{i}"
            began = time.monotonic()
            if i % 2 == 0:
                node.cli("nic", "create", name, "--network", "two", "--vm", "web")
            else:
                body = {"apiVersion": "multihome.io/v1alpha1", "kind": "NetworkInterface", "metadata": {"name": name},
                        "spec": {"network": "two", "vm": "web"}}
                api.request("POST", NICS, json.dumps(body), {"Content-Type": "application/json"})
                answer = api.getresponse()
                if answer.read() is None or answer.status != 201:
                    raise RuntimeError(f"the API answered {answer.status}")
            wait_for("the condition Attached", 30, lambda: name in watch.at, 0.001)
            # The guest is asked on one line for as long as this takes, as on the peers.
            line = agent_of(path)
            took = addressed(lambda: line("guest-network-get-interfaces"), watch.macs[name], "10.101.", began)
            line.close()
            (device if i % 2 == 0 else alone).append((watch.at[name] - began) * 1000)
            (address if i % 2 == 0 else alone_address).append(took)
            node.cli("delete", "nic", name)
            time.sleep(1)
        return device, address, alone, alone_address
    except RuntimeError as e:
        raise RuntimeError(f"{e}: {tail(node.log)}")
    finally:
        node.close()


def attach():
    build_guest()
    middle = statistics.median
    say(f"attach: {TIMES} NICs into a running VM by Multihome (CLI, API), by virsh, and by QMP alone")
    device, address, alone, alone_address = (middle(x) for x in by_multihome())
    floor_device, floor_address = (middle(x) for x in by_qmp())
    try:
        virsh_device, virsh_address = (middle(x) for x in by_libvirt())
        v = (f"virsh {virsh_device:.0f}", f"virsh {virsh_address:.0f}")
        ratio = lambda ours, peer: f"{ours / peer:.2f} × virsh"
    except Exception as e:
        say(f"attach: no libvirt: {e}")
        virsh_device = virsh_address = None
        why = f"virsh not run: {' '.join(str(e).split())[:150]}"
        v, ratio = (why, why), lambda *_: "–"
    kept = lambda ours, peer, share: None if peer is None else ours <= share * peer
    row("4 attach until the device is there, command included, ms", f"{device:.0f}", f"{v[0]}; QMP alone {floor_device:.1f}",
        ratio(device, virsh_device), "a third of virsh", kept(device, virsh_device, 1 / 3))
    row("4 the same by the API, no process started, ms", f"{alone:.0f}", f"{v[0]}; QMP alone {floor_device:.1f}",
        ratio(alone, virsh_device), "–", None)
    row("4 attach until the guest has its address, command included, ms", f"{address:.0f}", f"{v[1]}; QMP alone {floor_address:.0f}",
        ratio(address, virsh_address), "half of virsh", kept(address, virsh_address, 1 / 2))
    row("4 the same by the API, no process started, ms", f"{alone_address:.0f}", f"{v[1]}; QMP alone {floor_address:.0f}",
        ratio(alone_address, virsh_address), "–", None)
