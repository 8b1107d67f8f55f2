"""The children of this process, and how those that nobody may keep are ended.

Runs in: guard | zygote.

Both are subreapers (PR_SET_CHILD_SUBREAPER, prctl(2)): what a dead worker leaves, setsid and double fork included,
becomes their child before the worker is seen as a zombie (exit_notify in the kernel reparents first). A child that
they did not fork themselves therefore comes from a dead attempt, and is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from killable.workers.descendants import kill_below


def children() -> list[int]:
    """Return the pids of this process's children, zombies included.

    Exact, although proc(5) calls the file unreliable: an entry leaves the list only when this single-threaded
    process reaps it, and adopted ones are appended.
    """
    try:
        with open("/proc/thread-self/children", "rb", buffering=0) as file:
            return [int(pid) for pid in file.readall().split()]  # one read(2) gives one page: 800 children
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return list(_scan_children(os.getpid()))


def _scan_children(parent: int) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            if int(stat[stat.rindex(b")") + 2 :].split()[1]) == parent:
                yield int(entry.name)


def is_zombie(pid: int) -> bool:
    """Tell whether our child has ended; it stays a zombie, so its pid stays pinned (waitid(2), WNOWAIT)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def kill_group(leader: int) -> None:
    """SIGKILL the process group of a zombie leader of ours: the zombie pins the number, so it can hit no stranger."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it never came to setsid, or only it is left


def kill_strangers(known: Container[int], reaped: Callable[[int, int, object], None]) -> int:
    """SIGKILL and reap every child that is not `known`; return how many are still dying.

    Call again on SIGCHLD until it returns 0: killing one hands its own children to us. `reaped(pid, status, rusage)` is
    called for each that is gone.
    """
    while True:
        dying = gone = 0
        for pid in children():
            if pid in known:
                continue
            # Our own unreaped child: the number cannot have been given to anyone else.
            os.kill(pid, signal.SIGKILL)
            kill_below(pid)
            if is_zombie(pid):
                kill_group(pid)
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                reaped(pid, status, usage)
                gone += 1
            else:
                dying += 1
        if not gone:
            return dying


def watch_children() -> int:
    """Return a descriptor that becomes readable when a child changes state (signal.set_wakeup_fd)."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _note)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def _note(_signum: int, _frame: object) -> None:
    """Do nothing: the wakeup descriptor has the byte."""


def drain_wakeups(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
