"""A guard and a zygote that start before the supervisor that will own them, and import beside it, on another core.

Runs in: supervisor, in the thread of the program that makes an Executor. Part of the seam. What is imported here is
imported before that start, one after the other with it: nothing that can wait.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

from killable.supervisor.linux import host_forks
from killable.supervisor.linux.guard_launch import ENVIRONMENT_DEFAULTS, start_guard
from killable.supervisor.linux.instance_id import MARKER, InstanceId, random_id
from killable.workers.protocol import control, fd_passing

LEAVE_S = 1.0
"""How long a guard that nobody needs may take to end what it has started; then it is killed."""


class StartedGuard(NamedTuple):
    """What a zygote host takes over."""

    process: subprocess.Popen[bytes]
    guard_socket: socket.socket
    zygote_socket: socket.socket
    marker: str


class EarlyGuard:
    """A guard with a zygote that waits for its Configure. A zygote host takes them over, or `close` ends them."""

    def __init__(self, pool: str, path: Sequence[str], modules: Sequence[str]) -> None:
        """Start them; the zygote imports `modules` at once, from `path`. Raise OSError."""
        self._started: list[StartedGuard] = []
        """One until it is taken, by one of two threads: `pop` is atomic."""
        owner = InstanceId.of(os.getpid())
        assert owner is not None
        marker = f"{owner.marker(random_id(), pool)}/0"
        with host_forks.forks_postponed:
            ours, theirs = fd_passing.open_pair()
            with theirs:
                try:
                    process, guard_socket = start_guard("", "", {**ENVIRONMENT_DEFAULTS, **os.environ, MARKER: marker})
                except BaseException:
                    ours.close()
                    raise
                started = StartedGuard(process, guard_socket, ours, marker)
                self._started.append(started)
                _waiting.add(self)
                try:
                    _ask_for_zygote(started, theirs, control.ImportAhead(list(path), list(modules)))
                except BaseException:
                    self.close()
                    raise

    def take(self) -> StartedGuard | None:
        """Hand the processes and sockets over to the caller; None if that was done, or in a fork of the program."""
        _waiting.discard(self)
        try:
            return self._started.pop()
        except IndexError:
            return None

    def close(self) -> None:
        """End the processes if nobody has taken them over; wait until they are gone."""
        started = self.take()
        if started is None:
            return
        started.zygote_socket.close()
        started.guard_socket.close()  # end-of-file: the guard ends the zygote and itself
        try:
            started.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait()

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process: they belong to the parent."""
        started = self.take()
        if started is not None:
            started.zygote_socket.close()
            started.guard_socket.close()


def _ask_for_zygote(started: StartedGuard, theirs: socket.socket, imports: control.ImportAhead) -> None:
    """Ask the guard for a zygote, and the zygote for its imports: neither has to run yet to be sent a message."""
    started.zygote_socket.setblocking(False)
    with suppress(fd_passing.MessageError):  # a path that is too long for one message: they are imported later
        fd_passing.send(started.zygote_socket, control.to_wire(imports))
    fd_passing.send(started.guard_socket, control.to_wire(control.StartZygote()), [theirs.fileno()])


_waiting: WeakSet[EarlyGuard] = WeakSet()


def _in_child() -> None:
    for each in list(_waiting):
        each.close_in_child()


host_forks.in_each_child(_in_child)
