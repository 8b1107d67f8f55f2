"""End at once what a process that is killed had started, generation after generation.

Runs in: guard | zygote.
"""

from __future__ import annotations

import os
import signal

_DEPTH_MAX = 100
"""Each generation holds a descriptor; what is below becomes our child when those above have died."""


def kill_below(parent: int, parent_pidfd: int = -1, depth: int = 1) -> None:
    """SIGKILL what a process that is killed already had started, without waiting until that becomes our child.

    One generation after the other a fork bomb would outrun us: the children fork on until their parent has died. Their
    numbers are not pinned by us, so each is signalled through a pidfd, and only if it is the parent's child still, and
    the parent's number still the parent's. Without a `parent_pidfd` it is our own unreaped child.
    """
    for pid in _children_of(parent):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            is_below = parent_of(pid) == parent
            if parent_pidfd >= 0:
                signal.pidfd_send_signal(parent_pidfd, 0)
            if is_below:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if depth < _DEPTH_MAX:
                    kill_below(pid, pidfd, depth + 1)
        except OSError:
            pass  # it is gone, or its parent: then it is our child by now
        finally:
            os.close(pidfd)


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
    except OSError:
        pass  # it is gone; or a kernel without CONFIG_PROC_CHILDREN
    return found


def parent_of(pid: int) -> int:
    """Return the pid of its parent; 0: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])
