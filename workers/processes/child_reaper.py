"""List the children of this process, and kill and reap the orphans among them.

Runs in: guard | zygote.

Both are subreapers (PR_SET_CHILD_SUBREAPER, prctl(2)): the processes that a dead worker leaves become their children,
even after setsid and a double fork, and before the worker is seen as a zombie (exit_notify in the kernel reparents
first). A child that they did not fork themselves therefore comes from a dead attempt, and is killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress

from killable.workers.processes.descendants import DEPTH_MAX, kill_below, parent_of, stat_fields
from killable.workers.protocol.zygote_messages import ProcessEnding

MARKER = "KILLABLE_INSTANCE"
"""The variable in which the processes of a pool have the name of their supervisor's run, then their pool's
(`supervisor/linux/instance_id`).
"""


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


def kept_ending(pid: int) -> ProcessEnding | None:
    """Return how a child ended that is not waitable, as another process traces it (ptrace(2)); None: it is not so.

    A tracer may keep what it traces as a zombie for as long as it likes, and this process hears of nothing. No thread
    of such a child runs, nor ever will.
    """
    try:
        fields = stat_fields(pid)
        if fields[0] != b"Z" or len(os.listdir(f"/proc/{pid}/task")) > 1 or is_zombie(pid):
            return None  # alive, or with threads that are (its first one may end before them), or to be reaped
    except (OSError, IndexError):
        return None
    status, ticks = int(fields[49]), os.sysconf("SC_CLK_TCK")
    is_signalled = os.WIFSIGNALED(status)
    return ProcessEnding(
        exit_code=None if is_signalled else os.waitstatus_to_exitcode(status),
        signal=os.WTERMSIG(status) if is_signalled else None,
        core_dumped=os.WCOREDUMP(status),
        max_rss_bytes=None,
        user_s=int(fields[11]) / ticks,
        system_s=int(fields[12]) / ticks,
        reaped_at=time.monotonic(),
    )


def end_tracer(pid: int, *, was_killed: bool = False) -> None:
    """Kill the process of a job that keeps a killed child stopped at its exit (PTRACE_O_TRACEEXIT): one below this
    process, or of another pool of the same supervisor.

    No other signal ends that stop. A tracer elsewhere, such as a person's debugger, is left alone.

    `was_killed`: this process has sent SIGKILL to it, which ends every other stop. Otherwise that is seen by the signal
    that is pending; one of `cgroup.kill` is not when the process has come to its exit.
    """
    tracer = _stopper(pid, was_killed)
    if tracer and (_is_below(tracer, os.getpid()) or _is_of_another_pool(tracer)):
        try:
            pidfd = os.pidfd_open(tracer)
        except OSError:
            return  # it has gone
        try:
            if _stopper(pid, was_killed) == tracer:  # so it has not ended before it was opened
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def _stopper(pid: int, was_killed: bool) -> int:
    """Return the tracer in whose stop a process is that SIGKILL has reached; 0: it is in none."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            members = dict(line.partition(b":\t")[::2] for line in file.readall().splitlines())
    except OSError:
        return 0
    pending = int(members[b"ShdPnd"], 16) | int(members[b"SigPnd"], 16)
    is_killed = was_killed or bool(pending >> (signal.SIGKILL - 1) & 1)
    return int(members[b"TracerPid"]) if is_killed and members[b"State"].startswith(b"t") else 0


def _is_below(pid: int, ancestor: int) -> bool:
    for _ in range(DEPTH_MAX):
        pid = parent_of(pid)
        if pid in (0, 1, ancestor):
            break
    return pid == ancestor


def _is_of_another_pool(pid: int) -> bool:
    """Return whether a process is below a guard of this one's supervisor: a child of that which has the mark of its run
    from the start, as a program's own children have not.
    """
    supervisor = parent_of(os.getppid())
    run = os.environ.get(MARKER, "").split("/")[:2]
    above = pid
    for _ in range(DEPTH_MAX):
        pid, above = above, parent_of(above)
        if above in (0, 1, supervisor):
            break
    if supervisor in (0, 1) or above != supervisor or len(run) < 2:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            environment = file.readall()
    except OSError:
        return False
    return os.fsencode(f"{MARKER}={'/'.join(run)}/") in environment


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
        self._kept: set[int] = set()
        """Those that have ended, and that a tracer keeps from being reaped."""

    def kill(
        self, known: Container[int], ended: Callable[[int, ProcessEnding, frozenset[int]], None], *, closely: bool
    ) -> None:
        """Send SIGKILL to every child that is not `known`, and reap those that have died, until none dies at once.

        Call again on SIGCHLD: the children of a killed orphan become children of this process. `ended(pid, ending,
        suspects)` is called for each orphan that is gone. `closely`: look for tracers, too, which takes 60 µs for each
        orphan that is left: a fork bomb leaves thousands, and mostly they die at once.
        """
        self._kept = {pid for pid in self._kept if not os.wait4(pid, os.WNOHANG)[0]}
        while True:
            gone = 0
            present = children()
            fresh = [pid for pid in present if not (pid in known or pid in self._suspects or pid in self._kept)]
            if fresh:
                suspects = frozenset(pid for pid in present if pid in known and _has_ended(pid))
                self._suspects.update((pid, suspects) for pid in fresh)
            for pid in self._suspects:  # all of them first: what follows takes longer, and they die meanwhile
                with suppress(PermissionError):  # a set-user-ID program: it is waited for as for what does not die
                    os.kill(pid, signal.SIGKILL)  # an unreaped child: no other process can have its number
            for pid in list(self._suspects):
                kill_below(pid)
                if closely:
                    end_tracer(pid, was_killed=True)
                if is_zombie(pid):
                    kill_group(pid)
                ending = self._ending(pid, closely=closely)
                if ending is not None:
                    ended(pid, ending, self._suspects.pop(pid))
                    gone += 1
            if not gone:
                return

    def _ending(self, pid: int, *, closely: bool) -> ProcessEnding | None:
        """Reap an orphan if it has ended, and return how; None: it has not."""
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return ProcessEnding.from_wait(status, usage, time.monotonic())
        ending = kept_ending(pid) if closely else None
        if ending is not None:
            self._kept.add(pid)
        return ending

    def __len__(self) -> int:
        """Return the number of orphans that have not ended."""
        return len(self._suspects)

    def may_be_of(self, leader: int) -> bool:
        """Return whether an orphan that has not ended may come from this leader, which is a zombie."""
        return any(leader in suspects for suspects in self._suspects.values())


def _has_ended(pid: int) -> bool:
    """Return whether a child's main thread has ended. waitid(2) would be too late: a process's last thread hands over
    the children before waitid(2) reports its end.
    """
    try:
        return stat_fields(pid)[0] in (b"Z", b"X")
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
