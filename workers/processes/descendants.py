"""Kill all descendants of a killed process at once, generation after generation.

Runs in: guard | zygote.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

DEPTH_MAX = 100
"""Each generation holds a descriptor. Deeper processes become children of this process once those above have died."""


def kill_below(parent: int, parent_pidfd: int = -1, depth: int = 1) -> None:
    """Send SIGKILL to the descendants of a killed process, without waiting until they become children of this process.

    A fork bomb would outrun killing one generation at a time, since children fork on while their parent dies. Their
    pids may be reused, so each gets its signal through a pidfd, and only if it is still the parent's child and the
    parent's pid is still valid (`parent_pidfd`; without it the parent must be an unreaped child of this process).
    """
    for pid in _children_of(parent):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            is_below = parent_of(pid) == parent
            if parent_pidfd >= 0:
                _send(parent_pidfd, 0)
            if is_below:
                _send(pidfd, signal.SIGKILL)
                if depth < DEPTH_MAX:
                    kill_below(pid, pidfd, depth + 1)
        except OSError:
            pass  # it is gone, or its parent is, and then it is a child of this process
        finally:
            os.close(pidfd)


def _send(pidfd: int, number: int) -> None:
    """Send a signal, as far as that is permitted. Raise OSError if the process is gone."""
    with suppress(PermissionError):  # a set-user-ID program: what is below it may be the user's own
        signal.pidfd_send_signal(pidfd, number)


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
    except OSError:
        pass  # the process is gone, or the kernel has no CONFIG_PROC_CHILDREN
    return found


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent; 0 if the process is gone."""
    try:
        return int(stat_fields(pid)[1])
    except OSError:
        return 0


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on. Raise OSError if the process is gone.

    The field before it is the name of the program, which may have spaces and parentheses.
    """
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.readall().rpartition(b")")[2].split()
