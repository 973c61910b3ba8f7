"""What all parts of the bench share: namespaces, processes, the table, and a server in a namespace of its own."""
import atexit, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
BIN = os.path.join(TARGET, "release", "multihome")
EXAMPLES = os.path.join(TARGET, "release", "examples")
GUEST = os.path.join(TARGET, "guest")
ID = f"b{os.getpid()}"


CONSOLE = "console=ttyS0 quiet panic=1"


def kvm_works():
    """As Multihome looks: there are machines whose KVM takes a guest and lets it stand still, so a kernel has to speak."""
    global _kvm
    if _kvm is None:
        p = subprocess.Popen(["timeout", "6", "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35,accel=kvm",
                              "-cpu", "host", "-m", "256", "-no-reboot", "-serial", "stdio", "-kernel", f"{GUEST}/vmlinuz",
                              "-append", "console=ttyS0 earlyprintk=ttyS0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        _processes.append(p)
        _kvm = b"Linux version" in b"".join(iter(p.stdout.readline, b"")) if os.path.exists("/dev/kvm") else False
        end(p)
    return _kvm


def machine():
    """QEMU's arguments for the machine, as Multihome gives them."""
    return ["-machine", f"q35,accel={'kvm' if kvm_works() else 'tcg'},vmport=off,hpet=off",
            "-cpu", "host" if kvm_works() else "max,la57=off"]


_kvm = None
rows = []
_processes, _namespaces, _directories, _nodes = [], [], [], []
_serial = 0


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def row(what, ours, peer, ratio, promise, kept):
    """`kept`: True, False, or None where nothing is promised."""
    verdict = "–" if kept is None else "kept" if kept else "MISSED"
    rows.append((what, ours, peer, ratio, promise, verdict, f"{os.getloadavg()[0]:.1f}"))
    say(" | ".join(rows[-1]))


def failed(what, why):
    why = " ".join(str(why).split()).replace("|", "/")
    rows.append((what, f"failed: {why[:200]}", "", "", "", "failed", f"{os.getloadavg()[0]:.1f}"))
    say(" | ".join(rows[-1]))


def run(*args, check=True, timeout=120, **kw):
    out = subprocess.run(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, **kw)
    if check and out.returncode != 0:
        raise RuntimeError(f"{' '.join(args[:8])}: {(out.stderr or out.stdout).strip()[-400:]}")
    return out


def inside(ns, *args):
    """Not `ip netns exec`: that makes a mount namespace, in which namespaces made by the child are lost to all others."""
    return ["nsenter", f"--net=/run/netns/{ns}", "--", *args]


def spawn(*args, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    p = subprocess.Popen(args, **kw)
    _processes.append(p)
    return p


def end(process, patience=5):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in _processes:
        _processes.remove(process)


def namespace(name):
    run("ip", "netns", "add", name)
    _namespaces.append(name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    return name


def drop_namespace(name):
    run("ip", "netns", "del", name, check=False)
    if name in _namespaces:
        _namespaces.remove(name)


def directory():
    d = tempfile.mkdtemp(prefix=f"{ID}-", dir="/tmp")
    _directories.append(d)
    return d


@atexit.register
def clean():
    for node in list(_nodes):
        node.close()
    for p in list(_processes):
        end(p)
    for ns in list(_namespaces):
        drop_namespace(ns)
    while _directories:
        shutil.rmtree(_directories.pop(), ignore_errors=True)


def wait_for(what, seconds, look, pause=0.05):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = look()
        if value:
            return value
        time.sleep(pause)
    raise RuntimeError(f"{what} did not happen in {seconds} s")


def cpu_seconds(pid):
    user, system = times(pid)
    return user + system


def user_seconds(pid):
    return times(pid)[0]


def times(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return [int(n) / os.sysconf("SC_CLK_TCK") for n in fields[11:13]]


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1]) / 1024


def tail(path, size=300):
    try:
        return open(path, errors="replace").read()[-size:]
    except OSError as e:
        return str(e)


def build_guest():
    cache = os.environ.get("MULTIHOME_CACHE", os.path.join(TARGET, "cache"))
    run(os.path.join(ROOT, "scripts", "guest", "build"), GUEST, timeout=600, env=dict(os.environ, MULTIHOME_CACHE=cache))


class Node:
    """A Multihome server in a network namespace of its own, or another role of the program; `prepare` is done in the namespace before."""

    def __init__(self, *role, prepare=lambda ns: None, kubeconfig=None):
        global _serial
        _serial += 1
        self.ns = namespace(f"{ID}n{_serial}")
        self.dir = directory()
        self.data = os.path.join(self.dir, "data")
        self.env = dict(os.environ, MULTIHOME_DATA_DIR=self.data, MULTIHOME_NETNS_PREFIX=f"{self.ns}-")
        self.env.pop("KUBECONFIG", None)
        if kubeconfig:
            self.env["KUBECONFIG"] = kubeconfig
        role = role or ("serve", "--node-name", "bench")
        prepare(self.ns)
        self.log = os.path.join(self.dir, "serve.log")
        _nodes.append(self)
        with open(self.log, "w") as log:
            began = time.monotonic()
            self.process = spawn(*inside(self.ns, BIN, *role), env=self.env, stdout=log, stderr=log)
        def up():
            if self.process.poll() is not None:
                raise RuntimeError(f"{role[0]} ended: {tail(self.log)}")
            return ("kubeconfig:" if role[0] == "serve" else " joins ") in open(self.log).read()
        wait_for("the server's start", 20, up, 0.002)
        self.ready = time.monotonic() - began

    def cli(self, *args, check=True, timeout=120):
        return run(*inside(self.ns, BIN, *args), env=self.env, check=check, timeout=timeout)

    def get(self, kind, name):
        out = self.cli("get", kind, name, "-o", "json", check=False)
        return json.loads(out.stdout) if out.returncode == 0 else {}

    def apply(self, text):
        path = os.path.join(self.dir, "manifest.yaml")
        with open(path, "w") as f:
            f.write(text)
        self.cli("apply", "-f", path)

    def condition(self, nic, kind):
        for c in self.get("nic", nic).get("status", {}).get("conditions", []):
            if c["type"] == kind:
                return c["status"] == "True"
        return False

    def close(self):
        if self in _nodes:
            _nodes.remove(self)
        end(self.process)
        out = self.cli("teardown", "--purge", check=False)
        if out.returncode != 0:
            say(f"teardown: {out.stderr.strip()[-300:]}")
        drop_namespace(self.ns)


class Qmp:
    """QEMU's monitor or guest agent on a unix socket: one command at a time."""

    def __init__(self, path, agent=False):
        self.agent = agent
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.file = self.socket.makefile("r")
        if not agent:
            self.file.readline()
            self("qmp_capabilities")

    def __call__(self, name, **arguments):
        message = {"execute": name}
        if arguments:
            message["arguments"] = arguments
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            line = self.file.readline()
            if not line:
                raise RuntimeError("the monitor hung up")
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def wait_event(self, name):
        while True:
            line = self.file.readline()
            if not line:
                raise RuntimeError("the monitor hung up")
            if json.loads(line).get("event") == name:
                return

    def close(self):
        self.file.close()
        self.socket.close()
