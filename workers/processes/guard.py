"""Owns the zygote and outlives nobody: when the owner is gone, everything below is killed until nothing is left.

Runs in: guard. Exec'd without site-packages, in a session of its own, single-threaded, a subreaper: it sees every
orphan and imports nothing of the user's, so nothing of the user's can hang or crash it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import Any

from killable.workers.exit_codes import ExitCode
from killable.workers.processes import child_reaper
from killable.workers.protocol import control, fd_passing
from killable.workers.runtime import process_setup


def main(socket_fd: int, owner: int, packages: dict[str, str]) -> int:
    """Serve until the owner is gone. `owner` is the pid of the process that started this one."""
    process_setup.reset_signals()
    process_setup.outlast_requests()
    process_setup.adopt_orphans()
    try:
        owner_pidfd = os.pidfd_open(owner)
    except ProcessLookupError:
        return ExitCode.PIPE_GONE
    if os.getppid() != owner:
        return ExitCode.PIPE_GONE  # it died between the fork and our pidfd, which may be a stranger's
    sock = socket.socket(fileno=socket_fd)
    zygote_start = Guard(sock, owner_pidfd).serve()
    if zygote_start is not None:
        # In a fresh fork, with the guard's stack unwound: this process is the zygote now.
        from killable.workers.processes import zygote

        return zygote.main(zygote_start, packages)
    return ExitCode.RETIRED


LOOK_AGAIN_S = 0.05
"""While the last of them die: a death is told by SIGCHLD, but not that a stranger was adopted."""


class Guard:
    """One zygote at most, and whatever a dead one has left."""

    def __init__(self, sock: socket.socket, owner_pidfd: int) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._owner_pidfd = owner_pidfd
        self._zygote: int | None = None
        self._dead_zygote = ""
        """How it ended; empty when none is waited for."""
        self._orphans = child_reaper.Orphans()
        self._wakeups, _ = child_reaper.watch_children()

    def serve(self) -> socket.socket | None:
        """Return None when the owner is gone and all is dead, or, in a forked child, the zygote's socket."""
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._owner_pidfd, self._wakeups):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeups in ready:
                child_reaper.drain_wakeups(self._wakeups)
                self._settle()
            if self._owner_pidfd in ready:
                break
            if self._sock.fileno() in ready:
                received = fd_passing.receive(self._sock)
                if received is None:
                    break
                message, descriptors = received
                assert isinstance(control.from_wire(message), control.StartZygote), message
                zygote_end = self._start_zygote(descriptors[0])
                if zygote_end is not None:
                    return zygote_end
        self._end_everything()
        return None

    def _start_zygote(self, descriptor: int) -> socket.socket | None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # fork(2), EAGAIN: right behind a fork bomb, say
            os.close(descriptor)
            self._tell(control.ZygoteGone(f"fork failed: {error.strerror}"))
            return None
        if pid == 0:
            process_setup.reset_signals()
            process_setup.outlast_requests()
            os.setsid()
            process_setup.adopt_orphans()
            process_setup.die_with(parent)
            self._sock.detach()  # or the object's finalizer would close whatever has its number by then
            process_setup.close_descriptors_except([descriptor])
            return socket.socket(fileno=descriptor)
        os.close(descriptor)
        self._zygote = pid
        return None

    def _settle(self) -> None:
        """Note a dead zygote, then sweep what it left; say so when the last of it is gone."""
        if self._zygote is not None and child_reaper.is_zombie(self._zygote):
            child_reaper.kill_group(self._zygote)
            _, status = os.waitpid(self._zygote, 0)
            code = os.waitstatus_to_exitcode(status)
            self._dead_zygote = f"exit code {code}" if code >= 0 else f"signal {-code}"
            self._zygote = None
        self._orphans.kill(() if self._zygote is None else (self._zygote,), self._note_orphan)
        if self._dead_zygote and not self._orphans:
            self._tell(control.ZygoteGone(self._dead_zygote))
            self._dead_zygote = ""

    def _note_orphan(self, pid: int, status: int, usage: Any, suspects: frozenset[int]) -> None:
        self._tell(control.OrphanReaped(pid, control.ProcessEnding.from_wait(status, usage, time.monotonic())))

    def _tell(self, message: control.Message) -> None:
        """Never wait for an owner that does not read: a copy of its descriptors may keep the socket open for ever."""
        poll = select.poll()
        poll.register(self._owner_pidfd, select.POLLIN)
        poll.register(self._sock, select.POLLOUT)
        while True:
            try:
                fd_passing.send(self._sock, control.to_wire(message))
            except BlockingIOError:
                if self._owner_pidfd in dict(poll.poll()):
                    return
            except OSError:
                return  # the owner is going; the next poll says so
            else:
                return

    def _end_everything(self) -> None:
        """Kill the zygote first, so that nothing new is forked; then its orphans, wave after wave, until no child is
        left.
        """
        if self._zygote is not None:
            os.kill(self._zygote, signal.SIGKILL)  # our unreaped child: the number is pinned
        while True:
            self._orphans.kill((), lambda pid, status, usage, suspects: None)
            if not self._orphans:
                return
            select.select([self._wakeups], [], [], LOOK_AGAIN_S)
            child_reaper.drain_wakeups(self._wakeups)
