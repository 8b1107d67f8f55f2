"""What enforces the limits of jobs on this machine: the resource watch and the kernel; and what is missing.

Runs in: any machine; what it looks at is Linux's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from killable.api.cli.diagnosis.check_result import Check

DELEGATE = (
    "to enable it, boot with systemd.unified_cgroup_hierarchy=1 and add it to cgroup.subtree_control of the server's "
    "cgroup; while that holds processes, the kernel allows this at the root only (cgroups(7), no internal processes)"
)


def limit_checks() -> Iterator[Check]:
    """Yield what enforces each limit: the resource watch, on every machine, and the kernel as a backstop."""
    yield _memory_watch()
    yield _memory_limit()
    delegated = _delegated_controllers()
    yield _controller(
        "memory",
        delegated,
        "memory.max bounds a job's group, including shared memory and tmpfs",
        "only the watch and RLIMIT_DATA enforce memory_bytes: files on tmpfs do not count, nor does shared "
        "memory that no process has mapped",
    )
    yield _controller(
        "pids",
        delegated,
        "pids.max bounds a job's group",
        "only the watch enforces processes_max and threads_max: a fork bomb exceeds them for some milliseconds",
    )
    yield _out_of_memory()
    yield _accounts()


def _memory_watch() -> Check:
    name, found = "resource watch", "memory, processes and processor time of a job's whole tree"
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return Check(
            name, "warn", "only the worker itself", "its children are listed by a kernel with CONFIG_PROC_CHILDREN"
        )
    if not os.path.exists("/proc/self/smaps_rollup"):
        advice = "without smaps_rollup (Linux 4.14 or later) the memory of forked processes cannot be measured"
        return Check(name, "warn", "memory of the worker itself only", advice)
    return Check(name, "ok", found)


def _memory_limit() -> Check:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY:
        return Check("memory limit", "ok", "RLIMIT_DATA is not capped: it is the backstop of memory_bytes")
    advice = "a larger memory_bytes is lowered to it: start the server with `ulimit -Hd unlimited`"
    return Check("memory limit", "warn", f"RLIMIT_DATA is at most {hard} bytes", advice)


def _delegated_controllers() -> set[str]:
    """Return the controllers that the cgroups of workers would have."""
    from killable.supervisor.linux.cgroup import controllers_of, home_of, own_directory

    own = own_directory()
    try:
        if own is None:
            return set()
        home = home_of(own)
        return set(controllers_of(home) if home != own else (own / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _controller(controller: str, delegated: set[str], active: str, without: str) -> Check:
    name = f"{controller} controller"
    if controller in delegated:
        return Check(name, "ok", active)
    return Check(name, "warn", "not delegated to the cgroups of workers", f"{without}; {DELEGATE}")


def _out_of_memory() -> Check:
    """Read the counter that distinguishes an out-of-memory kill from a SIGKILL by another process."""
    from killable.supervisor.linux.oom_counter import VICTIMS, OomCounter, counted

    counter = OomCounter()
    try:
        count = counted(VICTIMS, counter.read())
    finally:
        counter.close()
    if count is not None:
        return Check(
            "out-of-memory proof", "ok", f"the memory cgroup of this process counts the killed processes ({count})"
        )
    advice = (
        "a SIGKILL by the out-of-memory killer is reported as one from outside, oom unknown: mount the memory cgroup"
    )
    return Check("out-of-memory proof", "warn", "no memory cgroup can be read", advice)


def _accounts() -> Check:
    if os.geteuid() == 0:
        return Check("other users", "ok", "workers can run as another user (user, group in [pools.NAME])")
    entry = Path("/proc/self/status").read_text().partition("Uid:")[2].split()[0]
    advice = "jobs run as the server's user; only a server started as root can run pools as other users"
    return Check("other users", "ok", f"not possible: this is uid {entry}", advice)
