"""List the children of this process, and kill and reap the orphans among them.

Runs in: guard | zygote.

Both are subreapers (PR_SET_CHILD_SUBREAPER, prctl(2)): the processes that a dead worker leaves become their children,
even after setsid and a double fork, and before the worker is seen as a zombie (exit_notify in the kernel reparents
first). A child that they did not fork themselves therefore comes from a dead attempt, and is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Container, Iterable

from killable.workers.processes.descendants import kill_below, parent_of


def children() -> list[int]:
    """Return the pids of this process's children, zombies included.

    Exact, although proc(5) calls the file unreliable: a child leaves the list only when this single-threaded process
    reaps it, and adopted ones are appended.
    """
    try:
        with open("/proc/thread-self/children", "rb", buffering=0) as file:
            return [int(pid) for pid in file.readall().split()]  # readall: one read(2) returns a page, 800 children
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return list(_scan_children(os.getpid()))


def _scan_children(parent: int) -> Iterable[int]:
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return (pid for pid in pids if parent_of(pid) == parent)


def is_zombie(pid: int) -> bool:
    """Return whether a child has ended. It stays a zombie, so its pid stays reserved (waitid(2), WNOWAIT)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def kill_group(leader: int) -> None:
    """Send SIGKILL to the process group of a zombie child, which reserves the number: no other group can have it."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it died before setsid, or the group has no other process


class Orphans:
    """Kills and reaps the children that this process did not fork, and tracks which worker each may come from.

    An orphan that cannot be killed must delay only the report on the attempt that it came from.
    """

    def __init__(self) -> None:
        self._suspects: dict[int, frozenset[int]] = {}
        """For each orphan, the dead known children that may have left it. Its leader is always among them: the kernel
        reparents and makes the leader a zombie in one step (exit_notify, under the lock that a reader takes, too).
        """

    def kill(self, known: Container[int], reaped: Callable[[int, int, object, frozenset[int]], None]) -> None:
        """Send SIGKILL to every child that is not `known`, and reap those that have died, until none dies at once.

        Call again on SIGCHLD: the children of a killed orphan become children of this process. `reaped(pid, status,
        rusage, suspects)` is called for each reaped orphan.
        """
        while True:
            gone = 0
            present = children()
            fresh = [pid for pid in present if pid not in known and pid not in self._suspects]
            if fresh:
                suspects = frozenset(pid for pid in present if pid in known and _has_ended(pid))
                self._suspects.update((pid, suspects) for pid in fresh)
            for pid in list(self._suspects):
                # An unreaped child: no other process can have its number.
                os.kill(pid, signal.SIGKILL)
                kill_below(pid)
                if is_zombie(pid):
                    kill_group(pid)
                done, status, usage = os.wait4(pid, os.WNOHANG)
                if done:
                    reaped(pid, status, usage, self._suspects.pop(pid))
                    gone += 1
            if not gone:
                return

    def __len__(self) -> int:
        """Return the number of orphans that have not been reaped."""
        return len(self._suspects)

    def may_be_of(self, leader: int) -> bool:
        """Return whether an orphan that has not been reaped may come from this leader, which is a zombie."""
        return any(leader in suspects for suspects in self._suspects.values())


def _has_ended(pid: int) -> bool:
    """Return whether a child's main thread has ended. waitid(2) would be too late: a process's last thread hands over
    the children before waitid(2) reports its end.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.readall().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def watch_children() -> tuple[int, int]:
    """Return a pipe (reading end, writing end) that becomes readable on SIGCHLD (signal.set_wakeup_fd)."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _note)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable, writable


def _note(_signum: int, _frame: object) -> None:
    """Do nothing: Python writes a byte to the wakeup descriptor only if a handler is set."""


def drain_wakeups(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
