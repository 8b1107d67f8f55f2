"""A zygote with its spare and busy workers: kept warm, kept within the limit, restarted when lost.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from killable.supervisor.clock import Clock, Timer
from killable.supervisor.jobs.job_queue import Selected
from killable.supervisor.models import StartRefused, WorkerId
from killable.supervisor.pools import start_failures
from killable.supervisor.pools.backoff import Backoff
from killable.supervisor.pools.pool_sizing import Occupancy, forks_wanted
from killable.supervisor.pools.worker import Worker, WorkerStage
from killable.supervisor.ports import Spawner, SpawnerFactory, ZygoteLost
from killable.supervisor.records import PoolRecord, RetiredWorker
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol.zygote_messages import SourceFile

REFILL_S = 0.003
"""Delay before the next spare is forked. The token of a trivial job has been read within 2 ms."""

logger = logging.getLogger("killable.pool")


class ZygoteState(Enum):
    """The state of a pool's zygote."""

    NONE = "none"
    PRELOADING = "preloading"
    READY = "ready"
    LEAVING = "leaving"
    """Asked to leave, to be replaced by a zygote with another start method."""
    FAILED = "failed"
    """Its modules do not import."""


class PoolOwner(Protocol):
    """The fleet, as a pool sees it."""

    def on_types(self, pool: Pool, reported: Sequence[dict[str, Any]]) -> None: ...
    def on_worker_available(self, pool: Pool) -> None: ...
    def on_pool_ready(self, pool: Pool) -> None: ...
    def on_pool_broken(self, pool: Pool) -> None: ...
    def on_pool_changed(self) -> None:
        """A pool has another state, or its first worker."""
        ...

    def queued(self, pool: Pool) -> int: ...
    def next_worker_id(self) -> WorkerId: ...
    def on_worker_retired(self, retired: RetiredWorker) -> None: ...
    def on_early_output(self, data: bytes, stream: str) -> None: ...
    def successor(self, pool: Pool) -> Pool:
        """Return the pool that has taken the place of a retired one."""
        ...


class Pool:
    """One pool. `state` is starting, ready, restarting or broken."""

    def __init__(
        self, spec: PoolSpec, clock: Clock, open_spawner: SpawnerFactory, owner: PoolOwner, generation: int = 1
    ) -> None:
        self.spec = spec
        self.generation = generation
        """How often its code was loaded anew, from 1: each time by another pool of this name (`succession`)."""
        self.state = "starting"
        self.detail = self._note = ""
        self._why_no_start = ""
        """Why the last workers did not start, while others work."""
        self.errno: int | None = None
        self.start_method: str = spec.start_method
        self.zygote_restarts = 0
        self.replaced: Counter[str] = Counter()
        """Its workers that have ended, by `records.REPLACED`. All pools of its name have one."""
        self.workers: dict[WorkerId, Worker] = {}
        self.occupancy = Occupancy(spec.workers, spec.spares)
        self._idle: list[Worker] = []
        self._clock = clock
        self._owner = owner
        self._spawner: Spawner = open_spawner(spec, self)
        self._reported: list[dict[str, Any]] = []
        self._files: list[SourceFile] = []
        self._decided = asyncio.Event()
        self._warm_or_broken = asyncio.Event()
        self._backoff = Backoff(clock, self._try_again)
        self._zygote = ZygoteState.NONE
        self._was_ready = False
        """The pool was ready once."""
        self._has_worked = False
        """A worker was ready once: the code can be loaded."""
        self._closing = False
        self._retired = False
        self.files: list[SourceFile] = []
        """What its code was imported from."""
        self._ready_waiters: list[Callable[[], None]] = []
        self._refill: Timer | None = None
        self._prepared: WorkerId | None = None
        """The id of the next worker, whose start is prepared."""
        self.startup_error: Exception | None = None
        """Why the supervisor cannot start with this pool."""

    def start(self) -> None:
        """Start the zygote. `wait_started` waits until it is ready or the pool is broken."""
        try:
            self._spawner.start(self.start_method)
        except OSError as error:
            self._backoff.failures += 1
            self._give_up(f"the guard cannot be started: {error}", error.errno)
            if self._was_ready or start_failures.is_temporary(error.errno):
                self._backoff.wait()
        else:
            self._zygote = ZygoteState.PRELOADING

    def lease(self, until: float) -> None:
        """Have everything end at this time, in CLOCK_BOOTTIME seconds, also if this process is frozen."""
        self._spawner.lease(until)

    async def wait_started(self) -> None:
        await self._decided.wait()

    async def until_warm(self) -> None:
        """Wait until a worker has been idle or the pool was broken: only then it is known whether its preloads work."""
        await self._warm_or_broken.wait()

    def take_over(self, owner: PoolOwner, elders: Sequence[Occupancy], old: Pool) -> None:
        """Be the pool of this name from here on, in the place of `old`, whose counts it continues: `owner` is told of
        its workers, and `elders` have some of its slots.
        """
        self._owner = owner
        self.occupancy.elders = elders
        self.zygote_restarts += old.zygote_restarts
        old.replaced += self.replaced
        self.replaced = old.replaced  # what still ends there counts, too

    def retire(self, owner: PoolOwner) -> None:
        """Get no more jobs: another pool has this one's place. What is busy goes on. `owner` is told when it is not."""
        self._owner = owner
        self._retired = True
        self.occupancy.elders = ()  # they are the successor's
        self._backoff.stop()
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.leave()
        self.on_worker_idle(None)

    @property
    def is_done(self) -> bool:
        """Whether no job runs here, and no slot is lost."""
        return not self.occupancy.busy and not self.occupancy.quarantined

    async def close(self) -> None:
        self._closing = True
        self._backoff.stop()
        if self._refill is not None:
            self._refill.cancel()
        await self._spawner.close()
        for worker in self.workers.values():  # abandoned: their ends were not reported
            worker.close_result_buffer()

    # ── workers ──

    def _is_full(self) -> bool:
        """Return whether no worker can be wanted. A pool that is not ready may want one more, as a probe."""
        return self.state == "ready" and self.occupancy.is_full

    def on_stage(self, was: WorkerStage, stage: WorkerStage) -> None:
        self.occupancy.move(was, stage)

    def take(self, selected: Selected = ()) -> Worker | None:
        """Return a warm worker whose slot is free; None: there is none. The caller gives it an attempt. All fit
        `selected`: a job that does not fit this machine is not accepted.
        """
        while self._idle and self.occupancy.slots_free > 0:
            # One with a lane first, so that lanes never outnumber the free slots, and one without a call before the
            # others; else the one that was busy last: its memory is the warmest.
            lanes = sorted((worker for worker in self._idle if worker.lane is not None), key=Worker.calls)
            worker = lanes[0] if lanes else self._idle[-1]
            worker.revoke_lane()
            self.withdraw(worker)
            if worker.stage is WorkerStage.IDLE and not worker.process.look_for_exit():  # else it had a call
                return worker
        return None

    def open_lines(self) -> None:
        """Nothing waits for another machine than this one."""

    def pass_over(self, selected: Selected) -> bool:
        return False

    def withdraw(self, worker: Worker) -> None:
        """Remove a worker from the idle ones; harmless when it is not among them."""
        if worker in self._idle:
            self._idle.remove(worker)

    def give_back(self, worker: Worker) -> None:
        """Put back a worker from `take` whose job is gone."""
        self._idle.append(worker)

    def without_lane(self) -> list[tuple[Worker, bool]]:
        """Return idle workers to open a lane to, one for each free slot, each with the `quiet` of its lane."""
        lanes = quiet = 0
        others: list[Worker] = []
        for worker in self._idle:
            if worker.lane is not None:
                lanes += 1
                quiet += worker.lane.quiet
            elif worker.stage is WorkerStage.IDLE:
                others.append(worker)
        chosen = others[::-1][: max(0, self.occupancy.slots_free - lanes)]
        may_be_quiet = len(chosen) if self._is_full() else self._slack() - quiet
        return [(worker, number < may_be_quiet) for number, worker in enumerate(chosen)]

    def _slack(self) -> int:
        """Return how many idle workers may become busy before one is missing, as a spare or for a queued job."""
        return 0 if self._owner.queued(self) else self.occupancy.slack

    def _limit_quiet_lanes(self) -> None:
        """Let no more lanes be quiet than there is slack for."""
        quiet = [worker for worker in self._idle if worker.lane is not None and worker.lane.quiet]
        for worker in quiet[max(0, self._slack()) :]:
            worker.announce_busy()

    def fill(self) -> None:
        """Fork the missing workers, one per turn of the loop.

        Eight forks in one turn took up to 27 ms, in which no frame was read and no signal sent: each creates a cgroup
        while the zygote is still forking into the last one.
        """
        if self._closing or self._retired or self._zygote is not ZygoteState.READY:
            return
        if self._backoff.is_waiting or self._is_full():
            return
        self._limit_quiet_lanes()
        occupancy = self.occupancy
        wanted = forks_wanted(occupancy, self._owner.queued(self))
        if self.state != "ready" and occupancy.room and not occupancy.idle + occupancy.spawning:
            wanted = max(1, wanted)  # a probe: no job can queue here while the pool is broken
        if wanted and self._fork() and wanted > 1 and self._refill is None:
            self._refill = self._clock.call_at(self._clock.now(), self._fill_now)

    def fill_soon(self) -> None:
        """Fill once the job that was just assigned has begun to stream: the fork of the next spare would take its core,
        and that of who reads.
        """
        if self._retired or self._is_full():
            return
        if self._owner.queued(self):
            self.fill()  # a job waits for it
            return
        self._limit_quiet_lanes()
        wanted = forks_wanted(self.occupancy, self._owner.queued(self))
        if (wanted or self.state != "ready") and self._refill is None and not self._closing:
            self._refill = self._clock.call_at(self._clock.now() + REFILL_S, self._fill_now)

    def _fill_now(self) -> None:
        self._refill = None
        self.fill()

    def kill_idle(self, worker: Worker) -> None:
        """Kill a worker that holds no attempt; another one takes its place."""
        self.withdraw(worker)
        worker.kill()

    def when_warm(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a worker is idle: at once, or when the next one becomes idle."""
        if self._retired:
            self._owner.successor(self).when_warm(callback)
        elif any(not worker.calls() for worker in self._idle):
            callback()
        else:
            self._ready_waiters.append(callback)

    def _fork(self) -> bool:
        worker_id, self._prepared = self._prepared or self._owner.next_worker_id(), None
        born = self._clock.now()
        worker = Worker(
            worker_id, self, self.spec, start_method=self.start_method, born=born, generation=self.generation
        )
        try:
            worker.process = self._spawner.fork(worker_id, worker)
        except ZygoteLost:
            return False  # `on_zygote_lost` follows
        except OSError as error:
            self._count_failure(f"a worker cannot be started: {error}", error.errno, of_code=False)
            return False
        self.workers[worker_id] = worker
        self.occupancy.add()
        return True

    def on_worker_ready(self, worker: Worker) -> None:
        if self._retired:
            worker.leave()
            return
        self._backoff.failures = 0
        self._has_worked = True
        self._note_starts("")
        logger.debug("worker_started", extra={"pool": self.spec.name, "worker_id": worker.id})
        if self.state != "ready":
            self._become_ready()
        self._add_idle(worker)
        if worker.stage is WorkerStage.IDLE and worker.lane is None:  # it has no order, and can get none meanwhile
            worker.process.note_base(cpu=False)

    def _become_ready(self) -> None:
        self._set_state("ready", self._note, None)
        self._owner.on_pool_ready(self)

    def on_worker_free(self, worker: Worker) -> None:
        self._add_idle(worker)

    def on_worker_idle(self, worker: Worker | None) -> None:
        waiters, self._ready_waiters = self._ready_waiters, []
        for callback in waiters:
            if self._retired:
                self.when_warm(callback)
            else:
                callback()

    def _add_idle(self, worker: Worker) -> None:
        if self._retired:
            worker.leave()
            self._owner.on_worker_available(self)
            return
        self._idle.append(worker)
        if not self._warm_or_broken.is_set():
            self._warm_or_broken.set()
            self._owner.on_pool_changed()
        self.on_worker_idle(worker)
        self._owner.on_worker_available(self)

    def on_early_output(self, data: bytes, stream: str) -> None:
        self._owner.on_early_output(data, stream)

    def on_worker_failed(self, worker: Worker, why: str, errno: int | None, *, of_code: bool) -> None:
        if not self._closing and not self._retired and self._zygote is ZygoteState.READY:
            self._count_failure(why, errno, of_code=of_code)

    def on_worker_retired(self, worker: Worker, job_id: str, why: str) -> None:
        logger.info("worker_retired", extra={"pool": self.spec.name, "worker_id": worker.id, "detail": why})
        self._owner.on_worker_retired(RetiredWorker(worker.id, self.spec.name, job_id, why, self._clock.wall()))

    def on_worker_ending(self) -> None:
        """Prepare the start of the worker that replaces it, if no other one is there for the next job."""
        is_wanted = self._zygote is ZygoteState.READY and not (self._closing or self._retired)
        if is_wanted and not self.occupancy.idle + self.occupancy.spawning:
            self._prepared = self._prepared or self._owner.next_worker_id()
            self._spawner.prepare(self._prepared)

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        self.replaced[why] += 1
        self.workers.pop(worker.id, None)
        logger.debug("worker_gone", extra={"pool": self.spec.name, "worker_id": worker.id})
        self.withdraw(worker)
        self._owner.on_worker_available(self)  # its slot is free

    def on_worker_quarantined(self, worker: Worker) -> None:
        fields = {"pool": self.spec.name, "worker_id": worker.id, "pid": worker.process.pid}
        logger.error("slot_quarantined", extra=fields)  # its job ends `unkillable`

    def _count_failure(self, why: str, errno: int | None, *, of_code: bool) -> None:
        """Count a worker that did not start. `of_code`: what it runs at its start has failed, by its own report."""
        if self._backoff.is_waiting:
            return  # workers that were forked together fail together, and count once
        self._backoff.failures += 1
        logger.warning("worker_failed", extra={"pool": self.spec.name, "detail": why})
        alive = (WorkerStage.IDLE, WorkerStage.RESERVED, WorkerStage.BUSY)
        works = any(worker.stage in alive for worker in self.workers.values())
        if start_failures.are_too_many(self._backoff.failures):
            if works:
                self._note_starts(why)
            else:
                self._give_up(why, errno, of_code=of_code)
        self._backoff.wait()

    def _note_starts(self, why: str) -> None:
        """Note why workers that are missing do not start; "": they do."""
        if why != self._why_no_start:
            self._why_no_start = why
            self._owner.on_pool_changed()

    def _give_up(self, why: str, errno: int | None = None, *, of_code: bool = False) -> None:
        is_starting = self.occupancy.spawning > 0
        if start_failures.is_broken(errno, of_code=of_code, has_worked=self._has_worked, is_starting=is_starting):
            self._break(why, errno)
        else:
            self._set_state("restarting", why, errno)

    def _set_state(self, state: str, detail: str, errno: int | None) -> None:
        self.state, self.detail, self.errno = state, detail, errno
        self._owner.on_pool_changed()

    def _try_again(self) -> None:
        if self._zygote is ZygoteState.NONE:
            self.start()
        else:
            self.fill()

    def _break(self, why: str, errno: int | None = None) -> None:
        self._set_state("broken", why, errno)
        self._decided.set()
        self._warm_or_broken.set()
        self._owner.on_pool_broken(self)

    # ── the zygote ──

    def on_type(self, reported: dict[str, Any]) -> None:
        self._reported.append(reported)

    def on_files(self, files: Sequence[SourceFile]) -> None:
        self._files.extend(files)

    def on_preloaded(self, threads: int) -> None:
        reported, self._reported = self._reported, []
        self.files, self._files = self._files, []
        if threads > 1 and self.start_method == "fork":
            # fork(2) copies one thread, but every lock. Exec'd workers import the modules themselves.
            self.start_method = "spawn"
            told = f"its preload left {threads} threads, so workers are exec'd (start_method spawn), not forked"
            self.detail = self._note = told
            fields = {"pool": self.spec.name, "threads": threads, "start_method": "spawn", "detail": self.detail}
            logger.warning("start_method_changed", extra=fields)
            self._zygote = ZygoteState.LEAVING
            self._spawner.stop_zygote()
            return
        self._zygote = ZygoteState.READY
        self._was_ready = True
        self._become_ready()
        self._owner.on_types(self, reported)
        self._decided.set()
        self.fill()

    def on_preload_failed(self, traceback: str, declaration: str) -> None:
        """Break the pool: its modules do not import. It is retried now and then if it ever worked, else never."""
        if declaration:
            self.startup_error = StartRefused(f"pool {self.spec.name}: {declaration}", pool=self.spec.name)
        self.files, self._files = self._files, []
        self._zygote = ZygoteState.FAILED
        self._break(traceback)

    def on_zygote_ending(self) -> None:
        for worker in tuple(self.workers.values()):  # a copy: promoting a task may fork a worker
            worker.mark_lost()

    def on_zygote_lost(self, how: str = "") -> None:
        was, self._zygote = self._zygote, ZygoteState.NONE
        self._reported.clear()
        self._files.clear()
        if self._closing or self._retired:
            return
        if was is ZygoteState.FAILED:
            self._backoff.failures += 1
            if self._was_ready:
                self._backoff.wait()
            return
        if was is ZygoteState.LEAVING:
            self.start()
            return
        self._backoff.failures += 1
        self.zygote_restarts += 1
        how = how or "for an unknown reason"
        logger.error("zygote_gone", extra={"pool": self.spec.name, "ending": how})
        if was in (ZygoteState.PRELOADING, ZygoteState.READY) and start_failures.are_too_many(self._backoff.failures):
            self._give_up(f"{self._backoff.failures} zygotes in a row ended before a worker was ready; the last: {how}")
        else:
            self._set_state("restarting", self.detail, self.errno)
        if self._backoff.failures == 1:
            self.start()
        else:
            self._backoff.wait()

    def record(self) -> PoolRecord:
        occupancy = self.occupancy
        why_no_start = "" if self._is_full() or self.state != "ready" else self._why_no_start
        return PoolRecord(
            name=self.spec.name,
            state=self.state,
            start_method=self.start_method,
            workers_max=self.spec.workers,
            spares=self.spec.spares,
            idle=occupancy.idle,
            busy=occupancy.busy,
            quarantined=occupancy.quarantined,
            zygote_pid=self._spawner.zygote_pid,
            zygote_restarts=self.zygote_restarts,
            replaced=dict(self.replaced),
            proof=self._spawner.proof,
            detail=why_no_start or self.detail,
            starts_fail=bool(why_no_start),
            sandbox=str(self.spec.sandbox),
            generation=self.generation,
            is_short=start_failures.is_short(self.errno),
        )
