"""A process that is killed gets its share of the processors back, so that its death does not wait for others.

Runs in: supervisor. Behind `ports`.

The kernel shares the processors between sessions where it has autogroup (sched(7)), and workers lower their own
session (`nice` of a pool). A process has to run once more to die: on a busy machine that took 10 ms longer.
"""

from __future__ import annotations

import os


def open_session(pid: int | None) -> int:
    """Return a descriptor of the nice level of a process's session; -1: there is none, or no descriptor is left.

    Open it before the process is signalled: if the signal arrives, it is not that of a later process with this pid.
    """
    try:
        return -1 if pid is None else os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def raise_session(descriptor: int) -> None:
    """Set the session to nice level 0. For users other than root the kernel takes one such write in 0.1 s."""
    try:
        os.write(descriptor, b"0")
    except OSError:
        pass  # a write too many, or the process has gone
