"""The processes of one pool: start a zygote, request forks from it, and start another when it is lost.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial

from killable.supervisor import event_loops
from killable.supervisor.linux import program_forks
from killable.supervisor.linux.cgroup import Cgroup, CgroupRoot
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.environment_defaults import ENVIRONMENT_DEFAULTS
from killable.supervisor.linux.inherited_environment import inherited
from killable.supervisor.linux.oom_counter import OomCounter
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.linux.zygote_host import ZygoteHost
from killable.supervisor.linux.zygote_orders import NewWorker, configure_of, tmp_suffix
from killable.supervisor.ports import ProcessListener, SpawnerListener, ZygoteLost
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol import zygote_messages
from killable.workers.protocol.zygote_messages import staging_of
from killable.workers.runtime import leftover_memory

PREPARED_S = 0.1
"""How long a worker stays prepared that nobody asks for. The one that replaces a killed one mostly comes in 10 ms."""


class PoolSpawner:
    """Implements `ports.Spawner`: one zygote host that forks workers, and those stuck with an unkillable process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spec: PoolSpec,
        listener: SpawnerListener,
        *,
        cgroups: CgroupRoot | None,
        tmp: str,
        marker: str,
        patience_s: float,
        answer_s: float,
        oom: OomCounter,
        early_guard: EarlyGuard | None = None,
        generation: int = 1,
    ) -> None:
        """`early_guard`: the first guard, if it is started already. `generation`: how often the code of this pool was
        loaded; the spawners of others may still be there.
        """
        self._loop = loop
        self._spec = spec
        self._listener = listener
        self._cgroups = cgroups
        self._tmp = tmp
        self._oom = oom
        self._marker = marker
        self._patience_s = patience_s
        self._answer_s = answer_s
        self._early_guard = early_guard
        self._generation = generation
        self._configure: zygote_messages.Configure | None = None
        self._zygote_host: ZygoteHost | None = None
        self._stuck: list[ZygoteHost] = []
        self._zygote_hosts = 0
        self._closing = False
        self._lease: float | None = None
        self._prepared: dict[str, Cgroup] = {}
        """The cgroup of a worker that is still to be forked, by its id; made in a thread."""
        self._has_prepared = False
        self.proof = "descendants" if cgroups is None else "cgroup+descendants"

    @property
    def zygote_pid(self) -> int | None:
        return None if self._zygote_host is None else self._zygote_host.zygote_pid

    def start(self, start_method: str) -> None:
        os.makedirs(self._tmp, 0o700, exist_ok=True)  # a cleaner of /tmp may have removed it
        with program_forks.forks_postponed:
            if self._zygote_host is None:
                self._zygote_host = self._open_zygote_host()
                if self._lease is not None:
                    self._zygote_host.lease(self._lease)
            if not self._zygote_host.has_early_pool():
                self._configure = configure_of(self._spec, self._tmp, start_method, self._generation)
                self._zygote_host.start_zygote(self._configure)

    def _open_zygote_host(self) -> ZygoteHost:
        self._zygote_hosts += 1
        return ZygoteHost(
            self._loop,
            self,
            self._listener,
            python=self._spec.python,
            folder=self._spec.folder,
            environment={**ENVIRONMENT_DEFAULTS, **inherited(os.environ, self._spec.environment), **self._spec.env},
            marker=f"{self._marker}/{self._generation}/{self._zygote_hosts}",
            patience_s=self._patience_s,
            answer_s=self._answer_s,
            early_guard=self._early_guard,
        )

    def lease(self, until: float) -> None:
        self._lease = until
        for zygote_host in (*self._stuck, self._zygote_host):
            if zygote_host is not None:
                zygote_host.lease(until)

    def stop_zygote(self) -> None:
        if self._zygote_host is not None:
            self._zygote_host.stop_zygote()

    def prepare(self, worker_id: str) -> None:
        if self._cgroups is not None and worker_id not in self._prepared:
            self._has_prepared = True
            with suppress(RuntimeError):  # no thread can be started: it is made with the worker
                event_loops.in_order(self._loop, partial(self._make_cgroup, self._cgroups, worker_id))

    def _make_cgroup(self, root: CgroupRoot, worker_id: str) -> None:
        """Make the cgroup of a worker, behind the kills that are under way: the kernel holds all of this up while a
        process joins a cgroup. Then have the guard hasten the move.
        """
        with program_forks.forks_postponed, suppress(OSError):  # it is made with the worker, which reports the error
            self._prepared[worker_id] = cgroup = root.create(worker_id)
            event_loops.tell(self._loop, partial(self._hasten_move, root, worker_id, cgroup))

    def _hasten_move(self, root: CgroupRoot, worker_id: str, cgroup: Cgroup) -> None:
        if self._zygote_host is not None and worker_id in self._prepared:
            self._zygote_host.hasten_move(root, cgroup, PREPARED_S)
        self._loop.call_later(PREPARED_S, self._drop_prepared)

    def _drop_prepared(self) -> None:
        """Remove the cgroup that no worker was forked for, behind what makes it."""
        if not self._has_prepared:
            return
        self._has_prepared = False
        try:
            event_loops.in_order(self._loop, self._remove_prepared)
        except RuntimeError:  # no thread can be started
            self._remove_prepared()

    def _remove_prepared(self) -> None:
        with program_forks.forks_postponed:  # a fork may be about to take or make it
            while self._prepared:
                self._prepared.popitem()[1].remove()

    def fork(self, worker_id: str, listener: ProcessListener) -> WorkerProcess:
        with program_forks.forks_postponed:
            return self._fork(worker_id, listener)

    def _fork(self, worker_id: str, listener: ProcessListener) -> WorkerProcess:
        zygote_host = self._zygote_host
        if zygote_host is None:
            raise ZygoteLost
        tmp = os.path.join(self._tmp, worker_id + tmp_suffix(self._spec))
        new = zygote_host.take_early_worker(worker_id)
        is_ordered = new is not None
        if new is None:
            new = NewWorker.make(worker_id, self._spec, self._cgroups, self._prepared.pop(worker_id, None))
        process = None
        try:
            process = WorkerProcess(
                self._loop,
                listener,
                new.pipes.ours,
                new.pipes.line,
                new.cgroup,
                (tmp, self._spec.files and staging_of(self._spec.files, tmp)),
                self._oom,
                zygote_host.note_ending,
                since=new.since,
                is_program=bool(self._spec.setup),
            )
        finally:
            if process is None and not is_ordered:
                new.close_theirs()
        if not is_ordered:
            try:
                new.order(zygote_host.fork)
            except (OSError, ZygoteLost):
                process.abandon()
                raise
        zygote_host.add(worker_id, process)
        return process

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        for zygote_host in (*self._stuck, self._zygote_host):
            if zygote_host is not None:
                zygote_host.close_in_child()
        for cgroup in self._prepared.values():
            cgroup.close_in_child()

    async def close(self) -> None:
        self._closing = True
        zygote_hosts = [*self._stuck, *([] if self._zygote_host is None else [self._zygote_host])]
        async with asyncio.TaskGroup() as closing:
            for zygote_host in zygote_hosts:
                closing.create_task(zygote_host.close())
        self._drop_prepared()
        if self._configure is not None:
            log = leftover_memory.log_of(self._configure.zygote_folder)
            if os.path.exists(log):
                # Of the preloads. Nobody else has it: the pool of newer code has made its own.
                with suppress(OSError, RuntimeError):  # what is left is removed at the supervisor's end
                    await event_loops.in_thread(self._loop, partial(_remove_left_memory, log))

    @property
    def is_closed(self) -> bool:
        return self._closing and self._zygote_host is None and not self._stuck

    # ── ZygoteHostListener ──

    def on_zygote_lost(self, zygote_host: ZygoteHost, how: str) -> None:
        self._listener.on_zygote_lost(how)

    def on_stuck(self, zygote_host: ZygoteHost) -> None:
        assert self._zygote_host is zygote_host, "a zygote host reports this once"
        self._zygote_host = None
        self._stuck.append(zygote_host)
        self._listener.on_zygote_lost()

    def on_ended(self, zygote_host: ZygoteHost) -> None:
        if self._zygote_host is zygote_host:
            self._zygote_host = None
        elif zygote_host in self._stuck:
            self._stuck.remove(zygote_host)


def _remove_left_memory(log: str) -> None:
    leftover_memory.remove_named(log)
    os.unlink(log)
