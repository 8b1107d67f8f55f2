"""What holds the limits of jobs on this machine: the watch, and the kernel behind it; and what is missing for more.

Runs in: any machine; what it looks at is Linux's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `advice` says what to do about it."""

    name: str
    status: Status
    found: str
    advice: str = ""


DELEGATE = (
    "the group of the server has to hand the controller on (cgroup.subtree_control), which needs all controllers on "
    "cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1), and which the kernel allows to a group with processes "
    "at the root only (cgroups(7), no internal processes)"
)


def limit_backstops() -> Iterator[Check]:
    """Yield what holds each limit: the watch, which every machine has, and the kernel's own behind it."""
    yield _memory_watch()
    yield _memory_limit()
    handed_on = _handed_on()
    yield _controller(
        "memory",
        handed_on,
        "memory.max bounds a job's group, shared memory and tmpfs too",
        "memory_bytes is kept by the watch and RLIMIT_DATA: memory that is shared on purpose does not count",
    )
    yield _controller(
        "pids",
        handed_on,
        "pids.max bounds a job's group",
        "processes_max is kept by the watch, which a fork bomb passes for some milliseconds",
    )
    yield _out_of_memory()
    yield _accounts()


def _memory_watch() -> Check:
    name, found = "resource watch", "memory, processes and processor time of a job's whole tree"
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return Check(name, "warn", "only the worker itself", "a kernel with CONFIG_PROC_CHILDREN shows its children")
    if not os.path.exists("/proc/self/smaps_rollup"):
        advice = "Linux 4.14 or later has smaps_rollup: without it what forked processes hold is never proven"
        return Check(name, "warn", "memory of the worker itself only", advice)
    return Check(name, "ok", found)


def _memory_limit() -> Check:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY:
        return Check("memory limit", "ok", "RLIMIT_DATA may be anything: it is the backstop of memory_bytes")
    advice = "memory_bytes above it is lowered to it: start the server with `ulimit -Hd unlimited`"
    return Check("memory limit", "warn", f"RLIMIT_DATA is at most {hard} bytes", advice)


def _handed_on() -> set[str]:
    """Return the controllers that groups of workers would have."""
    from killable.supervisor.linux.cgroup import own_directory

    own = own_directory()
    try:
        return set() if own is None else set((own / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _controller(controller: str, handed_on: set[str], active: str, without: str) -> Check:
    name = f"{controller} controller"
    if controller in handed_on:
        return Check(name, "ok", active)
    return Check(name, "warn", "not handed on to groups of workers on cgroup v2", f"{without}; {DELEGATE}")


def _out_of_memory() -> Check:
    """Read the counter that tells an out-of-memory kill from a stranger's."""
    from killable.supervisor.linux.oom_counter import VICTIMS, OomCounter, counted

    counter = OomCounter()
    try:
        count = counted(VICTIMS, counter.read())
    finally:
        counter.close()
    if count is not None:
        return Check("out-of-memory proof", "ok", f"the memory cgroup of this process counts its victims ({count})")
    advice = (
        "a SIGKILL of the out-of-memory killer will be told as one from outside, oom unknown: mount the memory cgroup"
    )
    return Check("out-of-memory proof", "warn", "no memory cgroup can be read", advice)


def _accounts() -> Check:
    if os.geteuid() == 0:
        return Check("other users", "ok", "workers can become another user (user, group in [pools.NAME])")
    entry = Path("/proc/self/status").read_text().partition("Uid:")[2].split()[0]
    advice = "jobs run as the server's user; only a server that is started by root can give pools users of their own"
    return Check("other users", "ok", f"not possible: this is uid {entry}", advice)
