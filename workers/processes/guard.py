"""The guard process: it forks the zygote, and when its owner is gone it kills every process below and then ends.

Runs in: guard. Exec'd without site-packages, in a session of its own, single-threaded, a subreaper: it adopts every
orphan, and it imports no user code, so that no user code can hang or crash it.
"""

from __future__ import annotations

import _socket
import gc
import math
import os
import select
import signal
import time
from collections import deque

from killable.workers.exit_codes import ExitCode
from killable.workers.processes import child_reaper
from killable.workers.processes.descendants import stat_fields
from killable.workers.protocol import fd_passing, zygote_messages
from killable.workers.runtime import process_setup


def main(socket_fd: int, owner: int, packages: dict[str, str]) -> int:
    """Serve until the owner is gone. `owner` is the pid of the process that started this one."""
    process_setup.reset_signals()
    process_setup.ignore_stop_signals()
    process_setup.adopt_orphans()
    process_setup.title.find()
    process_setup.title.set(f"killable: guard of {owner}")
    process_setup.set_name("killable-guard")
    try:
        owner_pidfd = os.pidfd_open(owner)
    except ProcessLookupError:
        return ExitCode.PIPE_GONE
    if os.getppid() != owner:
        return ExitCode.PIPE_GONE  # it died before pidfd_open, which may have opened another process
    sock = _socket.socket(fileno=socket_fd)
    zygote_start = Guard(sock, owner_pidfd).serve()
    if zygote_start is not None:
        # This is the forked child, with the guard's stack unwound: it is the zygote now.
        gc.disable()  # until it runs code of others
        from killable.workers.processes import zygote

        return zygote.main(zygote_start, packages)
    return ExitCode.RETIRED


LOOK_AGAIN_S = 0.05
"""Interval of checks while the last processes die: SIGCHLD reports deaths, but nothing reports an adoption."""
DYING_S = 5.0
"""How long an owner may take to die. It closes its descriptors first, of which its workers end."""
_PF_EXITING = 0x4
"""In a process's flags (proc(5), linux/sched.h)."""


class Guard:
    """Has at most one zygote, and the orphans of dead ones."""

    def __init__(self, sock: _socket.socket, owner_pidfd: int) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._owner_pidfd = owner_pidfd
        self._zygote: int | None = None
        self._dead_zygote = ""
        """How the last zygote ended, until its orphans are gone; empty otherwise."""
        self._folder = ""
        self._lease = math.inf
        """When to end everything, in CLOCK_BOOTTIME seconds."""
        self._since = time.time()
        self._ended: list[int] = []
        """The pids of the workers and of what they started, which were reaped when the owner was gone."""
        self._told: deque[tuple[float, int]] = deque(maxlen=4096)
        """The orphans of which the owner was told last, and when: it may have been dying already."""
        self._orphans = child_reaper.Orphans()
        self._wakeups, _ = child_reaper.watch_children()

    def serve(self) -> _socket.socket | None:
        """Return None when the owner and all processes below are gone; in a forked child, the zygote's socket."""
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._owner_pidfd, self._wakeups):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poll.poll(self._lease_ms()))
            if self._is_lease_over():
                break
            if self._owner_pidfd in ready or ready.get(self._sock.fileno(), 0) & select.POLLHUP:
                break  # first: whose memory is left is known by the pids of what is reaped behind this
            if self._wakeups in ready:
                child_reaper.drain_wakeups(self._wakeups)
                self._settle()
            if self._sock.fileno() in ready:
                received = fd_passing.receive(self._sock)
                if received is None:
                    break
                message, descriptors = received
                order = zygote_messages.from_wire(message)
                if isinstance(order, zygote_messages.UseFolder):
                    self._folder = order.path
                    continue
                if isinstance(order, zygote_messages.HastenMove):
                    from killable.workers.processes import cgroup_moves  # here: the zygote does not wait for it

                    own_procs, events = descriptors
                    cgroup_moves.until_joined(own_procs, events, order.at_most_s, poll)
                    continue
                if isinstance(order, zygote_messages.Lease):
                    self._lease = order.until
                    continue
                assert isinstance(order, zygote_messages.StartZygote), message
                zygote_end = self._start_zygote(descriptors[0])
                if zygote_end is not None:
                    return zygote_end
        self._end_everything()
        if self._folder and self._is_owner_gone():
            self._remove_memory(self._folder)
        return None

    def _lease_ms(self) -> int | None:
        """Return how long to wait at most. poll(2) stands still while the machine is suspended, and is late then."""
        if self._lease == math.inf:
            return None
        return max(0, math.ceil((self._lease - _boottime()) * 1000))

    def _is_lease_over(self) -> bool:
        return self._lease != math.inf and _boottime() >= self._lease

    def _is_owner_gone(self) -> bool:
        """Return whether the owner is dead, and has not just closed this pool. One that dies closes its descriptors
        first: it is waited for.
        """
        poll = select.poll()
        poll.register(self._owner_pidfd, select.POLLIN)
        return bool(poll.poll(1000 * DYING_S if _is_dying(os.getppid()) else 0))

    def _remove_memory(self, folder: str) -> None:
        """Remove what the workers have left in memory. A living owner does so itself, and may have other pools."""
        from killable.workers.runtime import leftover_memory  # here: mostly nobody needs it

        leftover_memory.remove_all(folder)
        since = time.monotonic() - DYING_S
        ended = [*self._ended, *(pid for at, pid in self._told if at >= since)]
        if segments := leftover_memory.segments_of(ended, self._since):
            leftover_memory.remove_segments(segments)

    def _start_zygote(self, descriptor: int) -> _socket.socket | None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # fork(2), EAGAIN: for example right after a fork bomb
            os.close(descriptor)
            self._tell(zygote_messages.ZygoteGone(f"fork failed: {error.strerror}"))
            return None
        if pid == 0:
            process_setup.reset_signals()
            process_setup.ignore_stop_signals()
            os.setsid()
            process_setup.adopt_orphans()
            process_setup.die_with(parent)
            process_setup.die_before_owner(process_setup.ZYGOTE_OOM_SCORE)
            self._sock.detach()  # else the object's finalizer would close a later descriptor of the same number
            process_setup.close_descriptors_except([descriptor])
            return _socket.socket(fileno=descriptor)
        os.close(descriptor)
        self._zygote = pid
        return None

    def _settle(self) -> None:
        """Reap a dead zygote, kill its orphans, and send ZygoteGone once the last one is gone."""
        if self._zygote is not None and child_reaper.is_zombie(self._zygote):
            child_reaper.kill_group(self._zygote)
            _, status = os.waitpid(self._zygote, 0)
            code = os.waitstatus_to_exitcode(status)
            self._dead_zygote = f"exit code {code}" if code >= 0 else f"signal {-code}"
            self._zygote = None
        self._orphans.kill(() if self._zygote is None else (self._zygote,), self._note_orphan, closely=True)
        if self._dead_zygote and not self._orphans:
            self._tell(zygote_messages.ZygoteGone(self._dead_zygote))
            self._dead_zygote = ""

    def _note_orphan(self, pid: int, ending: zygote_messages.ProcessEnding, suspects: frozenset[int]) -> None:
        self._told.append((time.monotonic(), pid))
        self._tell(zygote_messages.OrphanReaped(pid, ending))

    def _tell(self, message: zygote_messages.Message) -> None:
        """Send a message; stop waiting when the owner dies: a copy of its descriptors may keep the socket open."""
        poll = select.poll()
        poll.register(self._owner_pidfd, select.POLLIN)
        poll.register(self._sock, select.POLLOUT)
        while True:
            try:
                fd_passing.send(self._sock, zygote_messages.to_wire(message))
            except BlockingIOError:
                if self._owner_pidfd in dict(poll.poll()):
                    return
            except OSError:
                return  # the owner is gone; the next poll reports it
            else:
                return

    def _end_everything(self) -> None:
        """Kill the zygote first, so that it forks no more, then orphans until no child is left."""
        if self._zygote is not None:
            os.kill(self._zygote, signal.SIGKILL)  # an unreaped child: no other process can have its number
        while True:
            self._orphans.kill((), lambda pid, ending, suspects: self._ended.append(pid), closely=True)
            if not self._orphans:
                return
            select.select([self._wakeups], [], [], LOOK_AGAIN_S)
            child_reaper.drain_wakeups(self._wakeups)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_dying(pid: int) -> bool:
    """Return whether a process has begun to die. Its descriptors are closed after that."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return True
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)
