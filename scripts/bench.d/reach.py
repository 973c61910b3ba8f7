"""How long a new NIC takes to be reached from another node: by Multihome, and the same made by hand with iproute2."""
import json, os, socket, statistics, struct, subprocess, sys, threading, time
from lib import *
from race import vm

TIMES = int(os.environ.get("MULTIHOME_BENCH_REACHES", "10"))
UNDERLAY = "192.0.2"
NETWORKS = """
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: blue}
spec: {type: Overlay, ipv4: {cidr: 10.120.0.0/24, gateway: 10.120.0.1}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: idle}
spec: {type: Management, ipv4: {cidr: 10.121.0.0/24, gateway: 10.121.0.1}}
---
"""


def mac(i):
    return f"52:54:00:00:02:{i:02x}"


def address(i):
    return f"10.120.0.{100 + i}"


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff


def question(source, destination):
    """An echo request as a frame; both are a MAC and an address."""
    (from_mac, from_ip), (to_mac, to_ip) = source, destination
    ether = bytes.fromhex((to_mac + from_mac).replace(":", "")) + b"\x08\x00"
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 7)
    echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(echo), 0, 0, 64, 1, 0, socket.inet_aton(from_ip), socket.inet_aton(to_ip))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return (ether + header + echo).ljust(60, b"\0")


def send(device, frame):
    """Says a frame on a device, 500 times a second: what a VM does that waits for another one, without its own pace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((device, 0))
        print("sending", flush=True)
        while True:
            try:
                s.send(frame)
            except OSError:
                pass
            time.sleep(0.002)


class Ear:
    """When a line of tcpdump first says what is waited for, by the kernel's clock."""

    def __init__(self, ns, device, expression, word=""):
        self.word = word
        self.process = spawn(*inside(ns, "tcpdump", "-tt", "-n", "-l", "--immediate-mode", "-i", device, expression),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "listening" in line:
                return
        raise RuntimeError("tcpdump ended")

    def heard(self, seconds=60):
        limit = threading.Timer(seconds, self.process.terminate)
        limit.start()
        for line in self.process.stdout:
            if self.word in line:
                limit.cancel()
                end(self.process)
                return float(line.split()[0])
        raise RuntimeError(f"nothing was heard in {seconds} s")


def asks(ns, device, source, destination):
    frame = question(source, destination).hex()
    process = spawn(*inside(ns, sys.executable, os.path.abspath(__file__), device, frame), stdout=subprocess.PIPE, text=True)
    if "sending" not in process.stdout.readline():
        raise RuntimeError("nobody sends")
    return process


def probe(ns, bridge):
    """A port from which frames of another port's MAC can be said; answers go to that one."""
    run("ip", "-n", ns, "link", "add", "say0", "type", "veth", "peer", "name", "probe0")
    run("ip", "-n", ns, "link", "set", "probe0", "master", bridge, "up")
    run("bridge", "-n", ns, "link", "set", "dev", "probe0", "learning", "off")
    run("ip", "-n", ns, "link", "set", "say0", "up")


def cable(first, second):
    run("ip", "-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
    for ns, last in ((first, 1), (second, 2)):
        run("ip", "-n", ns, "addr", "add", f"{UNDERLAY}.{last}/24", "dev", "eth0")
        run("ip", "-n", ns, "link", "set", "eth0", "up")


def here(name, node, network):
    """The bench's VM, by another name and on a node."""
    text = vm(network).replace("name: web", f"name: {name}", 1)
    return text.replace("    spec:\n", f"    spec:\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n", 1) + "---\n"


def device_of(ns, alias):
    links = json.loads(run("ip", "-n", ns, "-j", "link").stdout)
    return next((l["ifname"] for l in links if l.get("ifalias", "").startswith(alias)), None)


def two_nodes():
    """A server and an agent that joins it, with a cable between them."""
    def plug(ns):
        run("ip", "-n", ns, "addr", "add", f"{UNDERLAY}.1/24", "dev", "lo")
    first = Node("serve", "--node-name", "node1", "--listen", f"{UNDERLAY}.1:7443", prepare=plug)
    def join(ns):
        run("ip", "-n", first.ns, "addr", "del", f"{UNDERLAY}.1/24", "dev", "lo")
        cable(first.ns, ns)
    second = Node("agent", "--node-name", "node2", prepare=join, kubeconfig=os.path.join(first.data, "join.kubeconfig"))
    return first, second


def by_multihome():
    first, second = two_nodes()
    try:
        for node in (first, second):
            node.cli("image", "import", "bench/guest", "--kernel", f"{GUEST}/vmlinuz", "--initramfs", f"{GUEST}/initrd")
        first.apply(NETWORKS + here("near", "node1", "blue") + here("stays", "node2", "blue") + here("far", "node2", "idle"))
        for nic in ("near-blue", "stays-blue", "far-idle"):
            wait_for(f"NIC {nic}", 180, lambda: first.condition(nic, "Ready"), 0.5)
        status = first.get("nic", "near-blue")["status"]
        near = (status["mac"], status["ipv4"]["address"].split("/")[0])
        tap = device_of(first.ns, "nic default/near-blue")
        probe(first.ns, device_of(first.ns, "net default/blue"))
        time.sleep(3)
        path, answer = [], []
        for i in range(TIMES):
            name = f"new{i}"
            sender = asks(first.ns, "say0", near, (mac(i), address(i)))
            arrives = Ear(second.ns, "any", f"icmp[icmptype] = icmp-echo and dst host {address(i)}", " mht")
            answers = Ear(first.ns, tap, f"icmp[icmptype] = icmp-echoreply and src host {address(i)}")
            began = time.time()
            first.cli("nic", "create", name, "--network", "blue", "--vm", "far", "--mac", mac(i), "--address", address(i))
            path.append((arrives.heard() - began) * 1000)
            answer.append((answers.heard() - began) * 1000)
            end(sender)
            first.cli("delete", "nic", name)
            time.sleep(1)
        return path, answer
    except RuntimeError as e:
        raise RuntimeError(f"{e}: {tail(first.log)} {tail(second.log)}")
    finally:
        second.close()
        first.close()


def by_hand():
    """The floor: two bridges with a VXLAN device each, told by iproute2 of one more port."""
    hosts = [namespace(f"{ID}h{i}") for i in (1, 2)]
    cable(*hosts)
    for i, ns in enumerate(hosts):
        # A MAC of its own: where it follows that of a port, a new port makes the kernel forget the bridge's neighbours.
        run("ip", "-n", ns, "link", "add", "br0", "address", f"02:00:00:00:01:0{i}", "type", "bridge", "forward_delay", "0")
        run("ip", "-n", ns, "link", "add", "vx0", "type", "vxlan", "id", "77", "dstport", "4789", "local", f"{UNDERLAY}.{i + 1}", "nolearning")
        run("ip", "-n", ns, "link", "set", "vx0", "master", "br0", "up")
        run("ip", "-n", ns, "link", "set", "br0", "up")
        run("bridge", "-n", ns, "link", "set", "dev", "vx0", "learning", "off", "flood", "off", "neigh_suppress", "on")
    near = ("02:00:00:00:00:01", "10.120.0.2")
    others = [guest(f"{ID}hn", hosts[0], "near0", *near)]
    # The second host knows the first one's NIC already.
    known(hosts[1], f"{UNDERLAY}.1", *near)
    probe(hosts[0], "br0")
    took = []
    for i in range(TIMES):
        new = namespace(f"{ID}hg{i}")
        others.append(new)
        sender = asks(hosts[0], "say0", near, (mac(i), address(i)))
        answers = Ear(hosts[0], "near0", f"icmp[icmptype] = icmp-echoreply and src host {address(i)}")
        began = time.time()
        port(hosts[1], f"port{i}", new, mac(i), address(i))
        known(hosts[0], f"{UNDERLAY}.2", mac(i), address(i))
        took.append((answers.heard() - began) * 1000)
        end(sender)
    for ns in others + hosts:
        drop_namespace(ns)
    return took


def batch(program, ns, *lines):
    run(program, "-n", ns, "-batch", "-", input="\n".join(lines) + "\n")


def port(host, name, ns, mac, ip):
    batch("ip", host, f"link add {name} type veth peer name eth0 address {mac} netns {ns}", f"link set {name} master br0 up")
    batch("ip", ns, f"addr add {ip}/24 dev eth0", "link set eth0 up")


def known(host, via, mac, ip):
    batch("bridge", host, f"fdb add {mac} dev vx0 dst {via} self static", f"fdb add {mac} dev vx0 master static")
    batch("ip", host, f"neigh replace {ip} lladdr {mac} dev br0 nud permanent")


def guest(name, host, device, mac, ip):
    ns = namespace(name)
    port(host, device, ns, mac, ip)
    # As a NIC's MAC is: whoever else says it, it is here.
    run("bridge", "-n", host, "fdb", "replace", mac, "dev", device, "master", "static", "sticky")
    return ns


def reach():
    build_guest()
    say(f"reach: {TIMES} NICs on one node, asked from another, by Multihome and by hand")
    path, answer = by_multihome()
    floor = by_hand()
    say(f"reach: path {path}, answer {answer}, by hand {floor}")
    path, answer, floor = (statistics.median(x) for x in (path, answer, floor))
    row("reach: from `nic create` until another node's frames are at the new tap, command included, ms", f"{path:.0f}",
        f"iproute2 by hand, answered: {floor:.1f}", f"{path / floor:.1f} × by hand", "–", None)
    row("reach: until a ping from another node is answered by the guest, ms", f"{answer:.0f}",
        f"a namespace in the guest's stead, by hand: {floor:.1f}", f"{answer / floor:.1f} × by hand", "–", None)


if __name__ == "__main__":
    send(sys.argv[1], bytes.fromhex(sys.argv[2]))
