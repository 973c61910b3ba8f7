"""Row 6: the n-th NIC of a node. Row 7: the plans of a data centre. Row 9: the server alone."""
import json, os, shutil, statistics, time
from lib import *


def scale():
    say("scale: attaching 10,000 NICs, 5 times")
    seen = {}
    for _ in range(5):
        for line in run(os.path.join(EXAMPLES, "attach_many"), "10000", timeout=600).stdout.splitlines():
            n, us, floor = map(int, line.split())
            seen.setdefault(n, []).append((us, floor))
    # The machine has slow spells that are longer than twenty NICs; the best run is the one without.
    at = {n: [min(x) for x in zip(*all)] for n, all in seen.items()}
    say(f"scale: {seen}")
    first, least = at[10]
    for n, (us, floor) in at.items():
        if n != 10:
            row(f"6 attaching NIC {n:,}, µs (20 NICs, best of 5 runs)", f"{us}", f"NIC 10: {first}; a bare tap on a bridge: {floor}, at NIC 10: {least}",
                f"{us / first:.2f} (bare {floor / least:.2f})", "within 1.5", us <= 1.5 * first)


    scale_ovs()


def scale_ovs():
    """The same by Open vSwitch in user space, beside its own tool; ovs-vswitchd looks at every port for each change."""
    if not shutil.which("ovs-vswitchd", path="/usr/sbin:/usr/bin"):
        row("6 attaching by Open vSwitch", "–", "openvswitch-switch is not installed", "–", "–", None)
        return
    say("scale: attaching 1,000 NICs by Open vSwitch")
    for line in run(os.path.join(EXAMPLES, "attach_many"), "1000", "ovs", timeout=900).stdout.splitlines():
        n, us, floor = map(int, line.split())
        row(f"6 attaching NIC {n:,} by Open vSwitch in user space, ms (20 NICs)", f"{us / 1000:.0f}",
            f"`ovs-vsctl add-port` of a bare tap: {floor / 1000:.0f}", f"{us / floor:.2f} × ovs-vsctl", "–", None)


def plan():
    say("plan: 100,000 NICs in 1,000 networks on 200 nodes, 3 times")
    seen = [json.loads(run(os.path.join(EXAMPLES, "plan_scale"), timeout=900).stdout) for _ in range(3)]
    say(f"plan: {seen}")
    at = {k: min(s[k] for s in seen) for k in seen[0]}
    what = f"7 {at['nics']:,} NICs in {at['networks']:,} networks on {at['nodes']} nodes"
    row(f"{what}: memory, MiB", f"{at['memory_mib']:.0f}", "–", "–", "under 1,024", at["memory_mib"] < 1024)
    cold = at["read_s"] + at["planned_s"]
    row(f"{what}: all read and every node's plan computed, s", f"{cold:.1f}", f"read: {at['read_s']:.1f}; one node's plan: {at['whole_plan_ms'] / 1000:.2f}",
        "–", "under 10", cold < 10)
    worst = max(at["own_ms"], at["elsewhere_ms"], at["elsewhere_vpc_ms"])
    each = f"own node: {at['own_ms']:.2f}; another, overlay alone: {at['elsewhere_ms']:.2f}; in a Vpc: {at['elsewhere_vpc_ms']:.2f}"
    row(f"{what}: one NIC changed until a node's plan is out, ms", f"{worst:.2f}", each, "–", "under 10", worst < 10)


def start():
    say("start: the server alone, 5 times")
    ready, memory = [], []
    for _ in range(5):
        node = Node()
        time.sleep(1.5)
        ready.append(node.ready)
        memory.append(rss_mib(node.process.pid))
        node.close()
    r, m = statistics.median(ready), statistics.median(memory)
    try:
        peer, ratio = apiserver(r, m)
    except Exception as e:  # noqa: the peer is optional, our own figure is not
        peer, ratio = f"failed: {str(e)[:120]}", "–"
    row("9 `serve`, empty: ready, s; memory, MiB", f"{r:.2f}; {m:.0f}", peer, ratio, "0.3 s; 40 MB (38 MiB)", r < 0.3 and m * 1.048576 < 40)


def apiserver(r, m):
    """A kube-apiserver with etcd, where $MULTIHOME_KUBE_TOOLS names a directory with the scripts build, up and down."""
    tools = os.environ.get("MULTIHOME_KUBE_TOOLS") or os.path.join(ROOT, "..", "shared", "tools", "kube")
    if not os.path.exists(os.path.join(tools, "build")):
        return "not run: $MULTIHOME_KUBE_TOOLS names no scripts", "–"
    say("start: kube-apiserver with etcd (built once, some minutes)")
    run(os.path.join(tools, "build"), timeout=1800)
    ns, d = namespace(f"{ID}k"), directory()
    took, mem = [], []
    for i in range(3):
        at = os.path.join(d, str(i))
        os.mkdir(at)
        # Keys and certificates are made once and are no part of a start.
        if i:
            shutil.copytree(os.path.join(d, "0", "pki"), os.path.join(at, "pki"))
        began = time.monotonic()
        with open(os.path.join(d, "log"), "w") as log:
            p = spawn(*inside(ns, os.path.join(tools, "up"), at, "26443", "22379"), stdout=log, stderr=log)
            if p.wait(120) != 0:
                raise RuntimeError(tail(os.path.join(d, "log")))
        if i:
            took.append(time.monotonic() - began)
            time.sleep(1.5)
            mem.append(sum(rss_mib(int(open(os.path.join(at, f"{n}.pid")).read())) for n in ("etcd", "apiserver")))
        run(*inside(ns, os.path.join(tools, "down"), at), check=False)
    drop_namespace(ns)
    t, k = statistics.median(took), statistics.median(mem)
    return f"kube-apiserver and etcd: {t:.2f}; {k:.0f}", f"{r / t:.2f}; {m / k:.2f}"
