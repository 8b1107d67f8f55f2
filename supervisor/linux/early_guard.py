"""A guard, a zygote and a first worker that start before the supervisor that will own them, on another core.

Runs in: supervisor, in the thread of the program that makes an Executor. Behind `ports`. What is imported here is
imported before that start, one after the other with it: nothing that can wait.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from killable.supervisor.linux import program_forks
from killable.supervisor.linux.environment_defaults import ENVIRONMENT_DEFAULTS
from killable.supervisor.linux.guard_launch import start_guard
from killable.supervisor.linux.instance_id import MARKER, InstanceId, random_id
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import fd_passing

if TYPE_CHECKING:
    from killable.supervisor.linux.cgroup import Cgroup, CgroupRoot
    from killable.supervisor.linux.zygote_orders import NewWorker
    from killable.supervisor.settings import PoolSpec

FIRST_WORKER = "w-1"
HASTEN_S = 0.3
"""How long the guard hastens the move of the first worker into its cgroup: a start takes less, without a preload."""
LEAVE_S = 5.0
"""How long a guard that nobody needs may take to end what it has started; then it is killed."""


class EarlyPool(NamedTuple):
    """A pool whose zygote has its Configure."""

    tmp: str
    """The supervisor's temporary folder."""
    cgroups: CgroupRoot | None
    worker: NewWorker | None
    """The first worker, which is ordered. None: somebody has it, or there is none."""

    def remove(self) -> None:
        """Remove the folder and the cgroups, when no process is left."""
        from killable.workers.runtime import leftover_memory
        from killable.workers.runtime.tmp_removal import remove_tree

        if self.worker is not None:
            self.worker.remove_cgroup()
        if self.cgroups is not None:
            self.cgroups.remove()
        leftover_memory.remove_all(self.tmp)
        remove_tree(self.tmp)


class StartedGuard(NamedTuple):
    """What a zygote host takes over."""

    process: subprocess.Popen[bytes]
    guard_socket: socket.socket
    zygote_socket: socket.socket
    marker: str
    pool: EarlyPool | None = None


class EarlyGuard:
    """A guard and a zygote, which has no Configure before `begin_pool`. A zygote host takes them over, or `close` ends
    them.
    """

    def __init__(self, pool: str, path: Sequence[str], modules: Sequence[str]) -> None:
        """Start them; the zygote imports `modules` at once, from `path`. Raise OSError."""
        self._started: list[StartedGuard] = []
        """One until it is taken, by one of two threads: `pop` is atomic."""
        self._has_folder = False
        """Whether the folder and the cgroups of the pool are still to be removed here."""
        owner = InstanceId.of(os.getpid())
        assert owner is not None
        marker = f"{owner.marker(random_id(), pool)}/0"
        with program_forks.forks_postponed:
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
                    _ask_for_zygote(started, theirs, list(path), list(modules))
                except BaseException:
                    self.close()
                    raise

    def begin_pool(self, spec: PoolSpec) -> None:
        """Make the supervisor's folder and cgroup, send the zygote its Configure, and order the first worker.

        What fails here the supervisor does later, and reports. Call it before anybody can take the guard.
        """
        from killable.supervisor.linux import cgroup, zygote_orders
        from killable.supervisor.linux.temporary_folder import make_folder
        from killable.workers.protocol import zygote_messages

        (started,) = self._started
        owner = InstanceId.of(os.getpid())
        assert owner is not None

        def send(order: zygote_messages.Fork, descriptors: list[int]) -> None:
            fd_passing.send(started.zygote_socket, zygote_messages.to_wire(order), descriptors)

        with program_forks.forks_postponed, suppress(OSError, fd_passing.MessageError):
            pool = EarlyPool(make_folder(owner.folder_prefix), cgroup.find_root(random_id()[:8]), None)
            try:
                configure = zygote_orders.configure_of(spec, pool.tmp, spec.start_method)
                fd_passing.send(started.guard_socket, zygote_messages.to_wire(zygote_messages.UseFolder(pool.tmp)))
                fd_passing.send(started.zygote_socket, zygote_messages.to_wire(configure))
            except BaseException:
                pool.remove()
                raise
            self._started[:] = [started._replace(pool=pool)]
            self._has_folder = True
            if spec.start_method == "fork":
                worker = zygote_orders.NewWorker.make(FIRST_WORKER, spec, pool.cgroups)
                try:
                    worker.order(send)
                except BaseException:  # nobody will fork it
                    worker.let_go()
                    worker.remove_cgroup()
                    raise
                self._started[:] = [started._replace(pool=pool._replace(worker=worker))]
                if pool.cgroups is not None and worker.cgroup is not None:
                    hasten_move(started.guard_socket, pool.cgroups, worker.cgroup, HASTEN_S)

    def take_folder(self) -> EarlyPool | None:
        """Hand the folder and the cgroups over to the caller; None: there are none."""
        pool = self._started[0].pool if self._started else None
        self._has_folder = False
        return pool

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
        worker = None if started.pool is None else started.pool.worker
        started.zygote_socket.close()
        started.guard_socket.close()  # end-of-file: the guard ends the zygote and itself
        if worker is not None:
            worker.let_go()
        try:
            started.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait()
        if started.pool is not None and self._has_folder:
            started.pool.remove()
        elif worker is not None:
            worker.remove_cgroup()

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process: they belong to the parent."""
        started = self.take()
        if started is not None:
            started.zygote_socket.close()
            started.guard_socket.close()
            if started.pool is not None and started.pool.worker is not None:
                started.pool.worker.close_in_child()


def _ask_for_zygote(started: StartedGuard, theirs: socket.socket, path: list[str], modules: list[str]) -> None:
    """Ask the guard for a zygote, and the zygote for its imports: neither has to run yet to be sent a message."""
    from killable.workers.protocol import zygote_messages  # here: the guard starts meanwhile

    imports = zygote_messages.ImportAhead(path, modules)
    started.zygote_socket.setblocking(False)
    with suppress(fd_passing.MessageError):  # a path that is too long for one message: they are imported later
        fd_passing.send(started.zygote_socket, zygote_messages.to_wire(imports))
    fd_passing.send(started.guard_socket, zygote_messages.to_wire(zygote_messages.StartZygote()), [theirs.fileno()])


def hasten_move(guard_socket: socket.socket, root: CgroupRoot, cgroup: Cgroup, at_most_s: float) -> None:
    """Have a guard hasten the move of a worker into its cgroup. Raise OSError."""
    from killable.workers.protocol import zygote_messages

    own_procs = root.open_own_procs()
    hasten = zygote_messages.HastenMove(at_most_s)
    try:
        fd_passing.send(guard_socket, zygote_messages.to_wire(hasten), [own_procs, cgroup.events])
    finally:
        os.close(own_procs)


_waiting: WeakSet[EarlyGuard] = WeakSet()


def _in_child() -> None:
    for each in list(_waiting):
        each.close_in_child()


program_forks.in_each_child(_in_child)
