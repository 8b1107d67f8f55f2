"""The simulated side of the ports, on virtual time: guard, zygote and workers that follow scripts.

Runs in: the test process. Implements `ports.Spawner` here and `ports.Process` in `fake_process`. Everything above them
is the real supervisor. Frames, orders and notifications go through the real codec. They are split and delayed as in
pipes. All randomness comes from one seeded generator, so a seed is one history. `fake_process_checks` has the rules
that the supervisor must keep.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from support.fake_process import FakeProcess
from support.fake_world import Life, World

from killable.supervisor.ports import ProcessListener, SpawnerListener, ZygoteLost
from killable.supervisor.settings import PoolSpec

GUARD_EXIT_S = 10.0
"""How long a close waits for what cannot be killed; the real spawner has `unkillable_s` for that."""


class FakeSpawner:
    """Implements `ports.Spawner`."""

    def __init__(self, world: World, spec: PoolSpec, listener: SpawnerListener) -> None:
        self.world, self.spec, self.listener = world, spec, listener
        self.zygote: int | None = None
        """As it is; `zygote_pid` is what was told of it."""
        self.guard_is_lost = False
        self._reported_pid: int | None = None
        self.proof = "cgroup+descendants"
        self.processes: dict[str, FakeProcess] = {}
        self._gone = asyncio.Event()
        self._closing = False
        self._preloaded = False
        self._waiting: list[FakeProcess] = []
        """Asked for before their zygote has preloaded: it forks them then."""
        world.spawners.append(self)

    @property
    def zygote_pid(self) -> int | None:
        """From a while after its start, when it tells of itself, to the word of its loss."""
        return self._reported_pid

    def start(self, start_method: str) -> None:
        self.world.check(self.zygote is None, f"pool {self.spec.name}: a second zygote beside the first")
        self.world.check(not self._closing, f"pool {self.spec.name}: a zygote is started after the close")
        if self.world.happens(self.world.faults.start_raises):
            raise OSError(errno.EAGAIN, "no process for the zygote")
        self._gone.clear()
        self.zygote = pid = self.world.next_pid()
        self._preloaded = self.guard_is_lost = False
        self.world.note(self.spec.name, "zygote", pid, start_method)
        self.world.soon(lambda: self._report_pid(pid, start_method), 0.002)

    def _report_pid(self, pid: int, start_method: str) -> None:
        if self.zygote == pid:
            self._reported_pid = pid
            self.world.soon(lambda: self._preload(pid, start_method), 0.02)

    def _preload(self, pid: int, start_method: str) -> None:
        if self.zygote != pid or self._closing:
            return
        if self.world.faults.preload_fails:
            self.listener.on_preload_failed("Traceback: no such module", self.world.faults.declaration)
            self.zygote_dies(exit_code=78)
            return
        self.listener.on_type(_type_report(f"work-{self.spec.name}"))
        self.listener.on_preloaded(self.world.faults.preload_threads if start_method == "fork" else 1)
        self._preloaded = True
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self.world.soon(process.fork, 0.01)

    def lease(self, until: float) -> None:
        self.world.note(self.spec.name, "lease", until)

    def stop_zygote(self) -> None:
        self.zygote_dies(exit_code=0)

    def prepare(self, worker_id: str) -> None:
        self.world.note(worker_id, "prepared")

    def fork(self, worker_id: str, listener: ProcessListener) -> FakeProcess:
        self.world.check(not self._closing, f"{worker_id} is forked after the close")
        if self.zygote is None:
            raise ZygoteLost
        if self.world.happens(self.world.faults.fork_raises):
            raise OSError(errno.EMFILE, "too many open files")
        process = FakeProcess(self.world, self, worker_id, listener)
        self.processes[worker_id] = process
        living = [each for each in self.processes.values() if each.takes_room]
        room = self.spec.workers + self.spec.spares
        self.world.check(len(living) <= room, lambda: f"{len(living)} workers live where {room} may: {living}")
        self.world.note(worker_id, "fork")
        if self._preloaded:
            self.world.soon(process.fork, 0.01)
        else:
            self._waiting.append(process)
        return process

    def zygote_dies(self, exit_code: int | None = None, signal: int | None = None) -> None:
        """Its workers follow (PDEATHSIG); the guard sweeps what is left, then tells."""
        if self.zygote is None:
            return
        self.world.note(self.spec.name, "zygote dies", signal or exit_code)
        self.zygote = None
        self._waiting.clear()
        self._how = f"exit code {exit_code}" if signal is None else f"signal {signal}"
        self.world.soon(self._report_ending)
        for process in self.processes.values():
            process.lose_zygote()
        self.look()

    def guard_dies(self) -> None:
        """The zygote follows it, and nobody can tell how anything ended; of descendants nobody answers for any more."""
        if self.zygote is not None:
            self.guard_is_lost = True
            self.zygote_dies(signal=9)
            self._how = "with its guard: signal 9"
            for process in self.processes.values():
                process.drop_descendants_proof()

    def look(self) -> None:
        """The guard looks whether the last child of a dead zygote is gone."""
        if self.zygote is None and not any(each.life is Life.RUNNING for each in self.processes.values()):
            self.world.soon(self._report_gone, 0.002)

    def _report_ending(self) -> None:
        if not self._gone.is_set() and self.zygote is None and not self._closing:
            self.listener.on_zygote_ending()

    def _report_gone(self) -> None:
        if self._gone.is_set() or self.zygote is not None:
            return
        self._gone.set()
        self._reported_pid = None
        for process in list(self.processes.values()):
            process.settle_without_zygote()
        if not self._closing:
            self.listener.on_zygote_lost(self._how)

    async def close(self) -> None:
        self._closing = True
        if self.zygote is None and not self.processes:
            return
        self.zygote_dies(exit_code=0)
        try:
            async with asyncio.timeout(GUARD_EXIT_S):
                await self._gone.wait()
        except TimeoutError:
            self.world.note(self.spec.name, "guard killed")
            for process in list(self.processes.values()):
                if process.life is Life.ZOMBIE:
                    process.settle_without_zygote()
        for process in self.processes.values():
            process.abandon()


def _type_report(name: str) -> dict[str, Any]:
    return {
        "name": name, "description": "", "input_schema": {}, "limits": {}, "streams": True,
        "available": True, "unavailable_reason": None, "operations": [],
    }  # fmt: skip
