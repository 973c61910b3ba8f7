"""Row 2: what the guard adds to a DHCP exchange of somebody else's server, beside a bridge of the kernel."""
import os
from lib import *

ANSWERS = 5000


def guard():
    say(f"guard: {ANSWERS} answers through the guard, and as many through a bridge")
    out = run(os.path.join(EXAMPLES, "guard_latency"), str(ANSWERS), timeout=120).stdout.split()
    median, late, plain, plain_late = (float(out[i]) for i in (1, 2, 4, 5))
    # An exchange has two answers: the offer and the acknowledgement.
    added = 2 * (median - plain) / 1000
    row("2 what the guard adds to an exchange, ms (99th percentile of an answer)", f"{added:.3f} ({late / 1000:.3f})",
        f"an answer over a bridge {plain / 1000:.3f} ({plain_late / 1000:.3f})", f"{median / plain:.1f} × per answer", "under 1", added < 1)
