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

from killable.workers.processes.descendants import kill_below, parent_of


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
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return (pid for pid in pids if parent_of(pid) == parent)


def is_zombie(pid: int) -> bool:
    """Tell whether our child has ended; it stays a zombie, so its pid stays pinned (waitid(2), WNOWAIT)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def kill_group(leader: int) -> None:
    """SIGKILL the process group of a zombie leader of ours: the zombie pins the number, so it can hit no stranger."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it never came to setsid, or only it is left


class Orphans:
    """The children of this process that it did not fork: killed, reaped, and told apart by whose they may be.

    One that does not go, whatever is sent to it, must hold up no more than the report on the attempt it came from.
    """

    def __init__(self) -> None:
        self._suspects: dict[int, frozenset[int]] = {}
        """By stranger: the dead of ours that may have left it. Its leader is always among them: the kernel hands
        children over and lets the leader end in one step (exit_notify, under the lock that a look takes, too).
        """

    def kill(self, known: Container[int], reaped: Callable[[int, int, object, frozenset[int]], None]) -> None:
        """SIGKILL and reap every child that is not `known`, until nothing more goes at once.

        Call again on SIGCHLD: killing one hands its own children to us. `reaped(pid, status, rusage, suspects)` is
        called for each that is gone.
        """
        while True:
            gone = 0
            present = children()
            fresh = [pid for pid in present if pid not in known and pid not in self._suspects]
            if fresh:
                suspects = frozenset(pid for pid in present if pid in known and _has_ended(pid))
                self._suspects.update((pid, suspects) for pid in fresh)
            for pid in list(self._suspects):
                # Our own unreaped child: the number cannot have been given to anyone else.
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
        """Return how many are still dying."""
        return len(self._suspects)

    def may_be_of(self, leader: int) -> bool:
        """Tell whether one that is still dying may come from this leader, which is a zombie."""
        return any(leader in suspects for suspects in self._suspects.values())


def _has_ended(pid: int) -> bool:
    """Tell whether our child's main thread has ended, of one whose last thread is on its way out, too: that hands over
    the children before waitid(2) shows the process as ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.readall().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def watch_children() -> tuple[int, int]:
    """Return a pipe, whose reading end is readable when a child changes state (signal.set_wakeup_fd)."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _note)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable, writable


def _note(_signum: int, _frame: object) -> None:
    """Do nothing: the wakeup descriptor has the byte."""


def drain_wakeups(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
