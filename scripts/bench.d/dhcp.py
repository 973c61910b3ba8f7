"""Row 1: DHCPv4 four-way exchanges, our server beside Kea and dnsmasq."""
import json, os, re, subprocess, time
from lib import *


class Pair:
    """Two namespaces with a veth between them: a server's 10.77.0.1 and perfdhcp's 10.77.0.2."""

    def __enter__(self):
        self.server, self.client = namespace(f"{ID}s"), namespace(f"{ID}c")
        run("ip", "-n", self.server, "link", "add", "gw", "type", "veth", "peer", "name", "c0", "netns", self.client)
        for ns, dev, addr in ((self.server, "gw", "10.77.0.1/8"), (self.client, "c0", "10.77.0.2/8")):
            run("ip", "-n", ns, "addr", "add", addr, "dev", dev)
            run("ip", "-n", ns, "link", "set", dev, "up")
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        drop_namespace(self.server)
        drop_namespace(self.client)


def perfdhcp(pair, rate, clients, seconds):
    """Exchanges a second that were completed, share of drops, mean delay of both halves in ms, exchanges in all."""
    out = run(*inside(pair.client, "perfdhcp", "-4", "-l", "c0", "-r", str(rate), "-R", str(clients), "-p", str(seconds),
                      "-d", "1", "-W", "1000000", "-t", "60", "-g", "multi", "10.77.0.1"), check=False, timeout=seconds + 30)
    parts = out.stdout.split("***Statistics for: ")[1:]
    if len(parts) < 2:
        raise RuntimeError(f"perfdhcp: {out.stderr.strip()[-300:] or out.stdout[-300:]}")
    def number(text, key):
        found = re.search(key + r":\s*([\d.]+)", text)
        return float(found[1]) if found else 0.0
    # The drops that count are those of the whole exchange: an OFFER that is lost has no REQUEST.
    sent, got = number(parts[0], "sent packets"), number(parts[1], "received packets")
    if got == 0:
        raise RuntimeError("perfdhcp completed no exchange")
    delay = [number(p, "avg delay") for p in parts[:2]]
    # perfdhcp that cannot keep its own pace sends less than it was told to.
    return got / seconds, 1 - got / sent, sum(delay) / 2, got


def start_ours(pair, count):
    p = spawn(*[os.path.join(EXAMPLES, "serve_load"), pair.server, "gw", "10.77.0.1", "10.77.0.2", str(count)],
              stdout=subprocess.PIPE, text=True)
    if p.stdout.readline().strip() != "ready":
        raise RuntimeError("serve_load did not start")
    return p


def start_kea(pair, _):
    d = directory()
    conf = {"Dhcp4": {"interfaces-config": {"interfaces": ["gw"], "dhcp-socket-type": "udp"},
                      "lease-database": {"type": "memfile", "persist": False}, "valid-lifetime": 3600,
                      "multi-threading": {"enable-multi-threading": False},
                      "subnet4": [{"id": 1, "subnet": "10.0.0.0/8", "pools": [{"pool": "10.78.0.1 - 10.90.0.1"}],
                                   "option-data": [{"name": "routers", "data": "10.77.0.1"},
                                                   {"name": "domain-name-servers", "data": "10.77.0.1"}]}],
                      "loggers": [{"name": "kea-dhcp4", "severity": "ERROR"}]}}
    path = os.path.join(d, "kea.json")
    with open(path, "w") as f:
        json.dump(conf, f)
    p = spawn(*inside(pair.server, "kea-dhcp4", "-c", path), env=dict(os.environ, KEA_PIDFILE_DIR=d, KEA_LOCKFILE_DIR=d),
              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    return p


def start_dnsmasq(pair, _):
    d = directory()
    p = spawn(*inside(pair.server, "dnsmasq", "-d", "-p0", "-C", "/dev/null", "-i", "gw", "--no-ping",
                      "--dhcp-range=10.78.0.1,10.90.0.1,255.0.0.0,3600", f"--dhcp-leasefile={d}/leases",
                      "--dhcp-lease-max=1000000", "-q"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    return p


class Figures:
    """`rate`: exchanges a second at the highest rate with under 1 % drops; `delay`: the mean at half of it, in ms;
    `cpu`, `user`: µs an exchange (all of it, and that outside the kernel), at a rate that all compared servers keep."""


def measure(name, start, rates, clients, steady, seconds=6):
    f = Figures()
    with Pair() as pair:
        process = start(pair, clients)
        try:
            perfdhcp(pair, min(min(rates), 2000), clients, max(2, clients // 5000))
            for rate in rates:
                f.rate, f.drops, _, _ = perfdhcp(pair, rate, clients, seconds)
                say(f"dhcp: {name} at {rate}/s: {f.rate:.0f}/s done, {f.drops:.1%} dropped")
                if f.drops < 0.01:
                    break
            _, _, f.delay, _ = perfdhcp(pair, max(rate // 2, 1), clients, seconds)
            before = cpu_seconds(process.pid), user_seconds(process.pid)
            _, _, f.steady_delay, exchanges = perfdhcp(pair, steady, clients, seconds)
            f.cpu = (cpu_seconds(process.pid) - before[0]) / exchanges * 1e6
            f.user = (user_seconds(process.pid) - before[1]) / exchanges * 1e6
            say(f"dhcp: {name} at {steady}/s: {f.cpu:.1f} µs CPU an exchange, {f.user:.1f} of it outside the kernel")
            return f
        finally:
            end(process)


def dhcp():
    high = [16000, 14000, 12000, 10000, 8000, 6000, 4000, 2000]
    steady = 2000
    ours = measure("Multihome", start_ours, high, 1000, steady)
    kea = measure("Kea", start_kea, high, 1000, steady)
    dns = measure("dnsmasq", start_dnsmasq, [2000, 1000, 700, 400, 200, 100], 1000, 100)
    many = measure("Multihome with 100,000 NICs", start_ours, high, 100000, steady)
    row("1 DHCPv4 exchanges/s, under 1 % drops", f"{ours.rate:.0f}", f"Kea {kea.rate:.0f}, dnsmasq {dns.rate:.0f}",
        f"{ours.rate / kea.rate:.2f} × Kea", "perfdhcp's own limit, 12,000 to 14,000", ours.rate >= 11500 and ours.drops < 0.01)
    row(f"1 CPU per exchange at {steady}/s, µs (outside the kernel)", f"{ours.cpu:.1f} ({ours.user:.1f})",
        f"Kea {kea.cpu:.1f} ({kea.user:.1f}); dnsmasq at 100/s {dns.cpu:.0f}", f"{ours.cpu / kea.cpu:.2f} × Kea", "0.20 × Kea",
        ours.cpu <= 0.2 * kea.cpu)
    row("1 mean delay at half its own rate, ms", f"{ours.delay:.3f}", f"Kea {kea.delay:.3f}, dnsmasq {dns.delay:.3f}",
        f"{ours.delay / kea.delay:.2f} × Kea", "under 0.1", ours.delay < 0.1)
    row("1 with 100,000 NICs: exchanges/s; CPU, µs", f"{many.rate:.0f}; {many.cpu:.1f}",
        f"with 1,000: {ours.rate:.0f}; {ours.cpu:.1f}", f"{many.rate / ours.rate:.2f}; {many.cpu / ours.cpu:.2f}", "the same (within 1.25)",
        many.cpu <= 1.25 * ours.cpu and many.rate >= 0.8 * ours.rate)
