"""All pools of a supervisor: started and closed together, and found by job type or worker.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from killable.supervisor.clock import Clock
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.instance_id import host_name
from killable.supervisor.linux.program_forks import forks_postponed
from killable.supervisor.linux.supervisor_resources import SupervisorResources
from killable.supervisor.models import JobType, WorkerId
from killable.supervisor.pools.job_types import DuplicateType, JobTypes
from killable.supervisor.pools.pool import Pool
from killable.supervisor.pools.wait_estimate import RunTimes
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import PoolRecord, RetiredWorker, WorkerRecord
from killable.supervisor.settings import Settings
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import JobPool

P = TypeVar("P", bound="JobPool")

RETIRED_MAX = 20
"""How many retired workers are remembered, with the reason."""


class FleetOwner(Protocol):
    """The dispatcher, as the pools see it."""

    def on_types(self, types: Sequence[JobType]) -> None: ...
    def on_worker_available(self, pool: Pool) -> None: ...
    def on_pool_broken(self, pool: Pool) -> None: ...
    def on_pool_changed(self) -> None: ...
    def on_early_output(self, data: bytes, stream: str) -> None: ...
    def queued(self, pool: Pool) -> int: ...


class PoolsByName(Generic[P]):
    """Pools, and what is known of each: how long its jobs run, and its job types. On this machine or on others."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[str, P] = {}
        self._run_times = {spec.name: RunTimes(spec.workers) for spec in settings.pools}
        self._types = JobTypes(settings)

    def __iter__(self) -> Iterator[P]:
        return iter(self._pools.values())

    def pool_of(self, job_type: JobType) -> P:
        return self._pools[job_type.pool]

    def run_times_of(self, job_type: JobType) -> RunTimes:
        return self._run_times[job_type.pool]

    def type(self, name: str) -> JobType:
        """Return a job type. Raise Refused: unknown_job_type."""
        return self._types.get(name, (pool.spec.name for pool in self if pool.state == "broken"))

    def types(self) -> Sequence[JobType]:
        return self._types.all()

    def pool_records(self) -> Sequence[PoolRecord]:
        return [pool.record() for pool in self]


class Fleet(PoolsByName[Pool]):
    """Every pool of `settings`. It owns the pools and does what concerns more than one of them."""

    def why_never(self, nodes: Mapping[str, str]) -> str:
        """Return why this machine does not fit; empty: it does. Its labels are its host name, twice."""
        from killable.supervisor.jobs.node_labels import HOST, NODE, fits, shown  # here: few jobs select nodes

        name = host_name()
        fault = f"this server is one machine, {name}, which does not fit nodes {shown(nodes)}"
        return "" if fits(nodes, {HOST: name, NODE: name}) else fault

    def __init__(self, settings: Settings, owner: FleetOwner) -> None:
        super().__init__(settings)
        self._owner = owner
        self._resources: SupervisorResources | None = None
        self._worker_numbers = 0
        self._retired: deque[RetiredWorker] = deque(maxlen=RETIRED_MAX)
        """Latest first."""
        self.swept: bool | None = None
        """Whether the orphan cleanup at the start was over in time; None: there was none."""

    async def start(
        self,
        clock: Clock,
        open_spawner: SpawnerFactory | None,
        instance_id: str,
        early_guard: EarlyGuard | None = None,
    ) -> None:
        """Start every pool and wait until each is ready or broken. After OSError or StartRefused call `close`."""
        self._clock = clock
        if open_spawner is None:
            with (
                forks_postponed
            ):  # it takes locks of the library (tempfile), which a concurrent fork would inherit locked
                self._resources = SupervisorResources.open(
                    asyncio.get_running_loop(), self._settings, instance_id, early_guard
                )
            open_spawner = self._resources.open_spawner
            if self._settings.sweep:
                self.swept = await self._resources.sweep_orphans()
        for spec in self._settings.pools:
            self._pools[spec.name] = Pool(spec, clock, open_spawner, self)
        for pool in self:
            pool.start()
        for pool in self:
            await pool.wait_started()
            if pool.startup_error is not None:
                raise pool.startup_error

    async def until_warm(self) -> None:
        for pool in self:
            if pool.spec.spares:
                await pool.until_warm()

    def lease(self, until: float) -> None:
        for pool in self:
            pool.lease(until)

    async def close(self) -> None:
        """End every worker and zygote; return when nothing is left."""
        async with asyncio.TaskGroup() as closing:
            for pool in self:
                closing.create_task(pool.close())
        if self._resources is not None:
            await self._resources.close()

    def close_in_child(self) -> None:
        """Close inherited descriptors in a fork of this process; the rest belongs to the parent."""
        for pool in self:
            for worker in pool.workers.values():
                worker.close_result_buffer()
        if self._resources is not None:
            self._resources.close_in_child()

    # ── workers ──

    def worker(self, worker_id: str) -> tuple[Pool, Worker]:
        """Return a worker and its pool. Raise Refused: unknown_worker."""
        for pool in self:
            worker = pool.workers.get(WorkerId(worker_id))
            if worker is not None:
                return pool, worker
        raise Refused(f"there is no worker {worker_id}", code="unknown_worker", worker_id=worker_id)

    async def worker_record(self, worker: Worker) -> WorkerRecord:
        usage = await worker.usage()
        return worker.record(self._clock.now(), usage)

    async def worker_records(self) -> Sequence[WorkerRecord]:
        workers = [worker for pool in self for worker in pool.workers.values()]
        return await asyncio.gather(*map(self.worker_record, workers))

    async def retired_workers(self) -> Sequence[RetiredWorker]:
        return tuple(self._retired)

    # ── PoolOwner ──

    def on_types(self, pool: Pool, reported: Sequence[dict[str, Any]]) -> None:
        try:
            self._types.replace(pool.spec, reported)
        except DuplicateType as error:
            pool.startup_error = error
        self._owner.on_types(self._types.all())

    def on_worker_available(self, pool: Pool) -> None:
        self._owner.on_worker_available(pool)

    def on_pool_broken(self, pool: Pool) -> None:
        self._owner.on_pool_broken(pool)

    def on_pool_changed(self) -> None:
        self._owner.on_pool_changed()

    def on_early_output(self, data: bytes, stream: str) -> None:
        self._owner.on_early_output(data, stream)

    def queued(self, pool: Pool) -> int:
        return self._owner.queued(pool)

    def on_worker_retired(self, retired: RetiredWorker) -> None:
        self._retired.appendleft(retired)

    def next_worker_id(self) -> WorkerId:
        self._worker_numbers += 1
        return WorkerId(f"w-{self._worker_numbers}")
