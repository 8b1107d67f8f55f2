"""What the processes of a worker's tree hold and have used, from /proc (proc(5)).

Runs in: supervisor. Part of the seam. Numbers of processes are only ever read here: one that has been given to a
stranger in the meantime costs a wrong sample, never a signal. The caller checks its pidfd afterwards.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator, Sequence

from killable.supervisor.clock import monotonic, process_cpu_s
from killable.supervisor.ports import Usage

_PAGE = resource.getpagesize()
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_READ_BYTES = 64 << 10


def members(pid: int, grouped: Iterable[int], at_most: int) -> list[int]:
    """Return the tree of a worker, itself first, zombies included; no more than `at_most` processes of it.

    `grouped` are the processes of its cgroup, so that one read finds them all. Its children are looked for too: those
    that have moved out, and the zombies that a group does not show. Without a group the whole tree is walked.
    """
    found = dict.fromkeys((pid, *grouped))
    if at_most <= 1:
        return [pid]
    walked = [pid]
    for parent in walked:
        for child in _children(parent):
            if len(found) >= at_most:
                return list(found)[:at_most]
            if child not in found:
                found[child] = None
                walked.append(child)
    return list(found)[:at_most]


def _children(pid: int) -> Iterator[int]:
    """Yield the children of every thread of a process. The kernel may leave out some while others end: see members."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        yield from map(int, (_read(f"/proc/{pid}/task/{thread}/children") or b"").split())


def private_bytes(pid: int) -> int | None:
    """Return the resident memory that no file backs (resident less shared), 0 for a zombie; 3 µs. None: see _read.

    A page that a fork has left to two processes counts in both, and memory that is shared on purpose in none.
    """
    statm = _read(f"/proc/{pid}/statm")
    if not statm:
        return None
    _, resident, shared, *_ = statm.split()
    return (int(resident) - int(shared)) * _PAGE


def exact_bytes(pid: int) -> tuple[int, int]:
    """Return the private memory that only this process has, and that with its share of what forks have left to it.

    From smaps_rollup, for which the kernel walks all of its pages.
    """
    lines = (_read(f"/proc/{pid}/smaps_rollup") or b"").splitlines()
    rows = {name: rest.split() for name, _, rest in (line.partition(b":") for line in lines)}
    alone, anonymous, proportional = (
        int(rows[name][0]) * 1024 if name in rows else 0 for name in (b"Private_Dirty", b"Anonymous", b"Pss_Anon")
    )
    return min(alone, anonymous), proportional  # what is dirty may be a file's


def cpu_s(pids: Sequence[int], in_group_s: float | None) -> float:
    """Return the processor time of a tree's processes, the worker's first, and of the children that they have waited
    for; that of its group, if it has one, counts what nobody waited for, too, but no worker that has moved out.
    """
    counted = pids if in_group_s is None else pids[:1]
    return max(in_group_s or 0.0, sum((process_cpu_s(pid) or 0.0) + _waited_s(pid) for pid in counted))


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) from the state on, which is the third there; none of a process that is
    gone.
    """
    return (_read(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal (state T or t of proc_pid_stat(5))."""
    return stat_fields(pid)[:1] in ([b"T"], [b"t"])


def _waited_s(pid: int) -> float:
    return sum(map(int, stat_fields(pid)[13:15])) / _TICKS_PER_S  # cutime, cstime


def usage(pid: int | None) -> Usage:
    """Measure one process. Not in the event loop: the kernel walks all of its pages."""
    import psutil  # only for those who look at workers

    if pid is None:
        return Usage()
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            memory = process.memory_full_info()
            times = process.cpu_times()
            age = monotonic() - (process.create_time() - psutil.boot_time())
    except (psutil.Error, OSError):  # it is gone, or /proc cannot be read: no descriptor is left
        return Usage()
    share = round((times.user + times.system) / age, 3) if age > 0 else None
    return Usage(share, memory.rss, memory.uss)


def _read(path: str) -> bytes | None:
    """Return a small file of /proc; None when its process has gone, or no descriptor is left."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
