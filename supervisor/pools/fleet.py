"""All pools of a supervisor: started and closed together, and found by job type or worker.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from killable.supervisor import event_loops
from killable.supervisor.clock import Clock
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.instance_id import host_name
from killable.supervisor.linux.program_forks import forks_postponed
from killable.supervisor.linux.supervisor_resources import SupervisorResources
from killable.supervisor.models import JobType, WorkerId
from killable.supervisor.pools.job_types import DuplicateType, JobTypes
from killable.supervisor.pools.pool import Pool
from killable.supervisor.pools.succession import Candidate, Elder, all_decided
from killable.supervisor.pools.wait_estimate import RunTimes
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import MeasuredWorker, PoolRecord, RetiredWorker, WorkerRecord
from killable.supervisor.settings import Settings
from killable.workers.errors import Refused
from killable.workers.protocol.zygote_messages import SourceFile

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import JobPool
    from killable.supervisor.pools.worker_uses import WorkerUses

P = TypeVar("P", bound="JobPool")


class LoadFailed(Exception):
    """The code of a pool does not load, as it is now."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(f"pool {pool.spec.name}: {pool.detail}")
        self.name = pool.spec.name
        self.detail = pool.detail
        """The traceback, or why its workers do not start."""


RETIRED_MAX = 20
"""How many retired workers are remembered, with the reason."""

logger = logging.getLogger("killable.pool")


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

    def with_workers(self) -> Sequence[P]:
        """Return every pool that has workers, also those that were replaced."""
        return tuple(self)

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
        self._open_spawner: SpawnerFactory | None = None
        self._worker_numbers = 0
        self._candidates: list[Candidate] = []
        self._elders: list[Pool] = []
        """Pools that were replaced, and whose last jobs run."""
        self._closings: set[asyncio.Task[None]] = set()
        self._failed_files: Sequence[SourceFile] = ()
        """What the code that did not load was imported from."""
        self._retired: deque[RetiredWorker] = deque(maxlen=RETIRED_MAX)
        """Latest first."""
        self._uses: WorkerUses | None = None
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
        self._open_spawner = open_spawner
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
        for pool in self._all():
            pool.lease(until)

    def with_workers(self) -> Sequence[Pool]:
        return (*self, *self._elders)

    def _all(self) -> list[Pool]:
        """Return the pools in force, those that they have replaced, and those that may replace them."""
        return [*self.with_workers(), *(candidate.pool for candidate in self._candidates)]

    async def close(self) -> None:
        """End every worker and zygote; return when nothing is left."""
        async with asyncio.TaskGroup() as closing:
            for pool in self._all():
                closing.create_task(pool.close())
        if self._closings:
            await asyncio.wait(self._closings)
        if self._resources is not None:
            await self._resources.close()

    def close_in_child(self) -> None:
        """Close inherited descriptors in a fork of this process; the rest belongs to the parent."""
        for pool in self._all():
            for worker in pool.workers.values():
                worker.close_result_buffer()
        if self._resources is not None:
            self._resources.close_in_child()

    # ── new code ──

    async def load_candidates(self) -> None:
        """Start a pool with the code as it is now beside each. Return when all could take over; `drop_candidates` or
        `take_over` follows. Raise LoadFailed: the code of a pool does not load that has worked so far.
        """
        assert self._open_spawner is not None, "the fleet was not started"
        candidates = [Candidate(pool, self._clock, self._open_spawner, self) for pool in self]
        self._candidates = candidates
        await all_decided(candidates)
        for candidate in candidates:
            if candidate.is_broken and candidate.old.state != "broken":
                self._failed_files = candidate.pool.files
                raise LoadFailed(candidate.pool)
        self._failed_files = []
        self._new_types = self._types.with_new(
            {each.pool.spec.name: each.types for each in candidates if each.types is not None}
        )

    def new_types(self) -> Sequence[JobType]:
        """Return the job types of the candidates."""
        return self._new_types.all()

    def candidate_records(self) -> Sequence[PoolRecord]:
        return [candidate.pool.record() for candidate in self._candidates]

    def files(self) -> Sequence[SourceFile]:
        """Return the user's own files that the pools, and what failed to load last, were imported from."""
        loaded = {file.path: file for pool in self for file in pool.files}
        return [*loaded.values(), *(file for file in self._failed_files if file.path not in loaded)]

    async def changed_files(self, *, forget_compiled: bool = False) -> Sequence[str]:
        """Return the user's own files that are not as they were when they were loaded. With `forget_compiled`, have
        them compiled at the next import, whatever time they have.
        """
        from killable.supervisor.linux import source_files  # here: an Executor has no such files

        files = self.files()

        def look() -> Sequence[str]:
            found = source_files.changed(files)
            if forget_compiled:
                source_files.forget_compiled(found)
            return found

        return await event_loops.in_thread(asyncio.get_running_loop(), look)

    def drop_candidates(self) -> None:
        """End the candidates: the pools stay as they are."""
        candidates, self._candidates = self._candidates, []
        for candidate in candidates:
            self._close_aside(candidate.pool)

    def take_over(self) -> None:
        """Give the candidates the place of their pools: what runs there goes on."""
        candidates, self._candidates = self._candidates, []
        for candidate in candidates:
            old, new = candidate.old, candidate.pool
            self._pools[old.spec.name] = new
            self._elders.append(old)
            old.retire(Elder(self))
            elders = [pool.occupancy for pool in self._elders if pool.spec.name == old.spec.name]
            new.take_over(self, elders, old)
        self._types = self._new_types
        self._owner.on_types(self._types.all())  # before a job starts there
        for candidate in candidates:
            if candidate.is_broken:
                self._owner.on_pool_broken(candidate.pool)
            self.on_elder_changed(candidate.old)
        self._owner.on_pool_changed()

    def on_elder_changed(self, pool: Pool) -> None:
        if pool in self._elders and pool.is_done:
            self._elders.remove(pool)
            self._close_aside(pool)
        successor = self.successor(pool)
        successor.occupancy.elders = [each.occupancy for each in self._elders if each.spec.name == pool.spec.name]
        self._owner.on_worker_available(successor)

    def successor(self, pool: Pool) -> Pool:
        return self._pools[pool.spec.name]

    def _close_aside(self, pool: Pool) -> None:
        closing = asyncio.get_running_loop().create_task(pool.close())
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    # ── workers ──

    def worker(self, worker_id: str) -> tuple[Pool, Worker]:
        """Return a worker and its pool. Raise Refused: unknown_worker."""
        for pool in self.with_workers():
            worker = pool.workers.get(WorkerId(worker_id))
            if worker is not None:
                return pool, worker
        raise Refused(f"there is no worker {worker_id}", code="unknown_worker", worker_id=worker_id)

    async def worker_record(self, worker: Worker) -> WorkerRecord:
        sample, now = await worker.measured(alone=True), self._clock.now()
        return worker.record(now, sample, None if sample is None else worker.share(sample, now))

    async def worker_records(self) -> Sequence[WorkerRecord]:
        workers = [worker for pool in self.with_workers() for worker in pool.workers.values()]
        return await asyncio.gather(*map(self.worker_record, workers))

    async def measured_workers(self) -> tuple[Sequence[MeasuredWorker], Sequence[RetiredWorker]]:
        if self._uses is None:
            from killable.supervisor.pools.worker_uses import WorkerUses  # here: an Executor has no reader

            self._uses = WorkerUses()
        workers = [worker for pool in self.with_workers() for worker in pool.workers.values()]
        return await self._uses.measured(workers, self._clock.now()), tuple(self._retired)

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

    def on_pool_ready(self, pool: Pool) -> None:
        logger.info("pool_ready", extra={"pool": pool.spec.name, "start_method": pool.start_method})

    def on_pool_broken(self, pool: Pool) -> None:
        # `detail` of the pool's record has the whole traceback; `serve` prints it when no pool can start a job.
        logger.error("pool_broken", extra={"pool": pool.spec.name, "detail": pool.detail.rstrip().rpartition("\n")[2]})
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
