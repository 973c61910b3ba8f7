"""Row 5: throughput between two NICs of a bridge, with every protection on."""
import json, os, shutil, statistics, subprocess, time
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
    for _ in range(5):
        out = json.loads(run(*inside(guest, "iperf3", "-c", address, "-t", str(SECONDS), "-J"), timeout=60, check=False).stdout)
        if "error" not in out:
            return out["end"]["sum_received"]["bits_per_second"] / 1e9
        # The server may not have done with the last one.
        time.sleep(1)
    raise RuntimeError(f"iperf3: {out['error']}")


def vswitch(name):
    """A namespace with an Open vSwitch of its own, the namespace's name, and what its tools are told by."""
    host, d = namespace(f"{ID}{name}"), directory()
    env = dict(os.environ, OVS_RUNDIR=d, OVS_DBDIR=d, OVS_LOGDIR=d, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    database = os.path.join(d, "db.sock")
    run("ovsdb-tool", "create", os.path.join(d, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema", env=env)
    quiet = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    spawn(*inside(host, "ovsdb-server", os.path.join(d, "conf.db"), f"--remote=punix:{database}"), **quiet)
    wait_for("ovsdb-server", 10, lambda: os.path.exists(database))
    tell = lambda *args: run("ovs-vsctl", f"--db=unix:{database}", *args, env=env, timeout=20).stdout.strip()
    tell("--no-wait", "init")
    spawn(*inside(host, "ovs-vswitchd", "--pidfile", f"unix:{database}"), **quiet)
    wait_for("ovs-vswitchd", 10, lambda: os.path.exists(os.path.join(d, "ovs-vswitchd.pid")))
    return host, database, tell


def on_vswitch(switch, name, options):
    """Two hosts on a bridge of that switch: with protections, or, without options, as anybody would put them there."""
    host, database, tell = switch
    if options is None:
        plan = {"bridge": "bare0", "ports": [{**p, "address": p["address"].replace("10.5.", "10.6.")} for p in BARE["ports"]]}
        tell("add-br", plan["bridge"], "--", "set", "bridge", plan["bridge"], "datapath_type=netdev")
    else:
        command = [os.path.join(EXAMPLES, "protected_ports"), directory(), *options, "ovs", database]
        plan = json.loads(run(*inside(host, *command)).stdout)
    guests = []
    for i, port in enumerate(plan["ports"]):
        guest = namespace(f"{ID}{name}{i}")
        if options is not None:
            run("ip", "-n", host, "link", "del", port["name"])
            # Else it would go on listening on the tap. Flows know the port by its number.
            number = tell("get", "interface", port["name"], "ofport")
            tell("set", "interface", port["name"], "type=null")
            wait_for("the switch lets the tap go", 20, lambda: tell("get", "interface", port["name"], "ofport") in ("-1", "[]"))
            tell("set", "interface", port["name"], 'type=""', f"ofport_request={number}")
        run("ip", "-n", host, "link", "add", port["name"], "type", "veth", "peer", "name", "eth0", "netns", guest)
        run("ip", "-n", guest, "link", "set", "eth0", "address", port["mac"], "up")
        run("ip", "-n", guest, "addr", "add", f"{port['address']}/24", "dev", "eth0")
        # Frames cross it as they are on the wire.
        for at, device in ((guest, "eth0"), (host, port["name"])):
            run(*inside(at, "ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"))
        run("ip", "-n", host, "link", "set", port["name"], "up")
        if options is None:
            tell("add-port", plan["bridge"], port["name"])
        index = run("ip", "-n", host, "-o", "link", "show", port["name"]).stdout.split(":")[0]
        wait_for("the switch has the device", 20, lambda: tell("get", "interface", port["name"], "ifindex") == index)
        guests.append(guest)
    to = plan["ports"][1]["address"]
    spawn(*inside(guests[1], "iperf3", "-s", "-B", to), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("the server", 20, lambda: "error" not in json.loads(run(*inside(guests[0], "iperf3", "-c", to, "-t", "1", "-J"), check=False).stdout), pause=0.5)
    return guests[0], to


def compare(nodes, what, bare_name, promise):
    """Rounds in turn, so that each is beside the bare one of the same round: the machine has slow spells."""
    seen = {k: [] for k in nodes}
    for _ in range(ROUNDS):
        for name, at in nodes.items():
            seen[name].append(gbits(at))
    say(f"throughput: {seen}")
    bare = statistics.median(seen["bare"])
    for name, protection in (("protected", "port security"), ("policies", "port security and stateful policies")):
        ratio = statistics.median(a / b for a, b in zip(seen[name], seen["bare"]))
        row(f"5 TCP from NIC to NIC of one bridge, {what}{protection}, Gbit/s", f"{statistics.median(seen[name]):.2g}",
            f"{bare_name}: {bare:.2g}", f"{ratio:.2f}", f"at least {promise}" if promise else "–", ratio >= promise if promise else None)


def throughput():
    say(f"throughput: {ROUNDS} rounds of {SECONDS} s each, bare and protected in turn")
    compare({"bare": node("tb", None), "protected": node("tp", []), "policies": node("tq", ["policies"])}, "", "a bridge with no rules", 0.97)
    if not shutil.which("ovs-vswitchd", path="/usr/sbin:/usr/bin"):
        return row("5 by Open vSwitch", "–", "openvswitch-switch is not installed", "–", "–", None)
    # A switch for each: one process moves all frames of its own.
    nodes = {"bare": None, "protected": [], "policies": ["policies"]}
    nodes = {k: on_vswitch(vswitch(f"v{k[1]}"), f"v{k[1]}", options) for k, options in nodes.items()}
    compare(nodes, "Open vSwitch in user space, ", "its bridge with the flow NORMAL alone", None)
