"""Keep the kernel ready to move a process into another cgroup.

Runs in: guard, which has nothing else to do while its zygote imports.

A move waits for a grace period of RCU, mostly 4 to 16 ms in which no processor works for it, unless another one was
made within the grace period before: then it takes 0.04 ms (percpu_rwsem and rcu_sync in the kernel). Who moves to
where it is already changes nothing, and waits all the same.
"""

from __future__ import annotations

import os
import select
import time

PACE_MS = 3
"""Shorter than a grace period."""


def until_joined(own_procs: int, events: int, at_most_s: float, others: select.poll) -> None:
    """Move this process to where it is, again and again, until somebody is in the cgroup with these cgroup.events,
    until `others` has something to read, or until `at_most_s` are over. Close both descriptors.
    """
    until, wait_ms = time.monotonic() + at_most_s, 0
    try:
        while not others.poll(wait_ms) and time.monotonic() < until and b"populated 0" in os.pread(events, 256, 0):
            os.write(own_procs, b"0")
            wait_ms = PACE_MS
    except OSError:
        pass  # the cgroup is removed, or threads are managed in it: moves take as long as they take
    finally:
        os.close(own_procs)
        os.close(events)
