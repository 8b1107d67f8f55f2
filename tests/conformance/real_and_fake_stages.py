"""The two implementations of the ports: the real one on the machine, the simulated one on virtual time.

Runs in: the test process. A scenario is a coroutine function that takes a stage; `on_both_sides` makes a test of it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from spawner_stage import ACTS, SpawnerReports, Stage, Worker
from support import processes, virtual_loop
from support.fake_process import FakeProcess
from support.fake_spawner import FakeSpawner
from support.fake_world import Faults, Life, World
from support.waiting import Pending, until, until_async

from killable.supervisor import event_loops
from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.supervisor_resources import SupervisorResources
from killable.supervisor.settings import PoolSpec, Settings

Scenario = Callable[[Any], Awaitable[None]]

BREAKS = {
    "": ((), Faults()),
    "preload": (("no_such_module_anywhere",), Faults(preload_fails=True)),
    "declaration": (
        (str(Path(__file__).parent / "invalid_declaration_module.py"),),
        Faults(preload_fails=True, declaration="async"),
    ),
    "fork": ((str(Path(__file__).parent / "leftover_thread_module.py"),), Faults(preload_threads=2, fork_fails=1.0)),
}
"""What is wrong with a pool: modules of the real one, faults of the fake one."""

POOL = PoolSpec(
    name="stage",
    modules=(
        "support.hostile_jobs",
        "support.forking_jobs",
        "support.output_jobs",
        "support.cooperative_jobs",
        "support.resource_hungry_jobs",
    ),
    folder=str(Path(processes.__file__).parent.parent),
    workers=4,
    jobs_per_worker_max=0,
)


class RealStage(Stage):
    spawner: PoolSpawner

    def job(self, act: str) -> tuple[str, dict[str, Any]]:
        return ACTS[act].type, ACTS[act].input

    async def wait_until_stopped(self, worker: Worker) -> None:
        pid = worker.process.pid
        assert pid is not None
        await self.until(
            lambda: (seen := processes.read_process(pid)) and seen.state == "T", worker, "has stopped itself"
        )

    def kill_zygote(self) -> None:
        assert self.spawner.zygote_pid is not None
        os.kill(self.spawner.zygote_pid, signal.SIGKILL)

    def kill_guard(self) -> None:
        assert self.spawner.zygote_pid is not None
        zygote = processes.read_process(self.spawner.zygote_pid)
        assert zygote is not None
        os.kill(zygote.parent, signal.SIGKILL)

    @contextmanager
    def reaping_nothing(self) -> Iterator[None]:
        assert self.spawner.zygote_pid is not None
        os.kill(self.spawner.zygote_pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.spawner.zygote_pid, signal.SIGCONT)

    @contextmanager
    def lacking_descriptors(self) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def await_exit(self, worker: Worker) -> None:
        pid = worker.process.pid
        assert pid is not None
        until(
            lambda: (seen := processes.read_process(pid)) is None or seen.state == "Z" or Pending(seen), "it has exited"
        )

    def lives(self, worker: Worker) -> bool:
        assert worker.process.pid is not None
        return processes.read_process(worker.process.pid) is not None

    def kill_from_outside(self, worker: Worker) -> None:
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGKILL)


class FakeStage(Stage):
    spawner: FakeSpawner

    def job(self, act: str) -> tuple[str, dict[str, Any]]:
        scripts = self.spawner.world.scripts
        scripts.append(ACTS[act].script)
        return "work-stage", {"n": len(scripts) - 1}

    def kill_zygote(self) -> None:
        self.spawner.zygote_dies(signal=9)

    def kill_guard(self) -> None:
        self.spawner.guard_dies()

    def reaping_nothing(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def lacking_descriptors(self) -> Iterator[None]:
        world = self.spawner.world
        faults, world.faults = world.faults, Faults(fork_raises=1.0)
        try:
            yield
        finally:
            world.faults = faults

    def await_exit(self, worker: Worker) -> None: ...

    def lives(self, worker: Worker) -> bool:
        assert isinstance(worker.process, FakeProcess)
        return worker.process.life is not Life.REAPED

    def kill_from_outside(self, worker: Worker) -> None:
        assert isinstance(worker.process, FakeProcess)
        worker.process.kill_from_outside()


class RealSide:
    """One event loop, one system and, for the scenarios that leave it as it was, one spawner."""

    def __init__(self, proof: str) -> None:
        self._proof = proof
        self._runner = asyncio.Runner()
        self._system = self._runner.run(self._open())
        self._shared: RealStage | None = None
        self._pools = 0

    async def _open(self) -> SupervisorResources:
        return SupervisorResources.open(
            asyncio.get_running_loop(), Settings(pools=(), proof=self._proof), uuid.uuid4().hex
        )  # type: ignore[arg-type]

    def play(self, scenario: Scenario, fresh: bool, broken: str) -> None:
        self._runner.run(self._play(scenario, fresh, broken))

    async def _play(self, scenario: Scenario, fresh: bool, broken: str) -> None:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        if fresh:
            stage = RealStage(self._system.open_spawner(self._spec(broken), reports := SpawnerReports()), reports)
            try:
                await scenario(stage)
            finally:
                await stage.spawner.close()
        else:
            if self._shared is None:
                reports = SpawnerReports()
                self._shared = RealStage(self._system.open_spawner(self._spec(""), reports), reports)
                await started(self._shared)
            try:
                await scenario(self._shared)
            finally:
                await self._shared.clear()
        assert not unhandled, unhandled

    def _spec(self, broken: str) -> PoolSpec:
        # A name of its own: what a spawner sweeps it finds by it.
        self._pools += 1
        return POOL._replace(name=f"stage-{self._pools}", modules=BREAKS[broken][0] or POOL.modules)

    def warm(self) -> None:
        """Start the shared spawner outside of any test."""

        async def nothing(_: Stage) -> None:
            event_loops.in_order(asyncio.get_running_loop(), lambda: None)  # the first kill starts its thread

        self.play(nothing, False, "")

    def close(self) -> None:
        async def close() -> None:
            if self._shared is not None:
                await self._shared.spawner.close()
            await self._system.close()

        self._runner.run(close())
        self._runner.close()


class FakeSide:
    def play(self, scenario: Scenario, fresh: bool, broken: str) -> None:
        async def main() -> None:
            world = World(0, BREAKS[broken][1])
            reports = SpawnerReports()
            stage = FakeStage(FakeSpawner(world, POOL, reports), reports)
            try:
                if not fresh:
                    await started(stage)
                await scenario(stage)
                await stage.spawner.close()
            finally:
                world.stop()

        virtual_loop.run(main())

    def warm(self) -> None: ...

    def close(self) -> None: ...


Side = RealSide | FakeSide


async def started(stage: Stage, start_method: str = "fork") -> None:
    """Start the zygote of a stage and wait until it has preloaded."""
    before = stage.zygote.calls.count("preloaded")
    stage.spawner.start(start_method)
    await until_async(
        lambda: stage.zygote.calls.count("preloaded") > before or Pending((stage.zygote.calls, stage.zygote.lost)),
        "the zygote has preloaded",
    )


def on_both_sides(*, fresh: bool = False, broken: str = "") -> Callable[[Scenario], Callable[[Side], None]]:
    """Make a test of a scenario; `fresh`: with a spawner of its own, which it starts; `broken`: one of BREAKS."""

    def decorate(scenario: Scenario) -> Callable[[Side], None]:
        def test(side: Side) -> None:
            side.play(scenario, fresh, broken)

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__  # type: ignore[attr-defined]
        return test

    return decorate
