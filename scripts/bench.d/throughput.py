"""Row 5: throughput between two NICs of a bridge, with every protection on."""
import json, os, statistics, time
from lib import *

SECONDS = 5
ROUNDS = 5
# A bridge with nothing else: the same names and addresses, and no table of rules.
BARE = {"bridge": "bare0", "ports": [{"name": f"port{i}", "mac": f"02:00:00:00:00:0{i}", "address": f"10.5.0.{i}"} for i in (1, 2)]}


def node(name, options):
    """A namespace with a bridge and two hosts on it, which have namespaces of their own."""
    host = namespace(f"{ID}{name}")
    if options is None:
        plan = BARE
        run("ip", "-n", host, "link", "add", plan["bridge"], "type", "bridge", "forward_delay", "0")
        run("ip", "-n", host, "link", "set", plan["bridge"], "up")
    else:
        plan = json.loads(run(*inside(host, os.path.join(EXAMPLES, "protected_ports"), directory(), *options)).stdout)
    guests = []
    for i, port in enumerate(plan["ports"]):
        guest = namespace(f"{ID}{name}{i}")
        run("ip", "-n", host, "link", "add", port["name"], "type", "veth", "peer", "name", "eth0", "netns", guest)
        run("ip", "-n", guest, "link", "set", "eth0", "address", port["mac"], "up")
        run("ip", "-n", guest, "addr", "add", f"{port['address']}/24", "dev", "eth0")
        run("ip", "-n", host, "link", "set", port["name"], "master", plan["bridge"], "up")
        guests.append(guest)
    spawn(*inside(guests[1], "iperf3", "-s", "-B", plan["ports"][1]["address"]), stdout=subprocess.DEVNULL)
    time.sleep(1)
    return guests[0], plan["ports"][1]["address"]


def gbits(at):
    guest, address = at
    out = json.loads(run(*inside(guest, "iperf3", "-c", address, "-t", str(SECONDS), "-J"), timeout=60).stdout)
    return out["end"]["sum_received"]["bits_per_second"] / 1e9


def throughput():
    say(f"throughput: {ROUNDS} rounds of {SECONDS} s each, bare and protected in turn")
    nodes = {"bare": node("tb", None), "protected": node("tp", []), "policies": node("tq", ["policies"])}
    seen = {k: [] for k in nodes}
    for _ in range(ROUNDS):
        for name, at in nodes.items():
            seen[name].append(gbits(at))
    say(f"throughput: {seen}")
    # Each round beside the bare bridge of the same round: the machine has slow spells.
    ratio = {k: statistics.median(a / b for a, b in zip(seen[k], seen["bare"])) for k in ("protected", "policies")}
    bare = statistics.median(seen["bare"])
    for name, what in (("protected", "port security"), ("policies", "port security and stateful policies")):
        row(f"5 TCP from NIC to NIC of one bridge, {what}, Gbit/s", f"{statistics.median(seen[name]):.1f}", f"a bridge with no rules: {bare:.1f}",
            f"{ratio[name]:.2f}", "at least 0.97", ratio[name] >= 0.97)
