"""The supervisor: takes jobs, gives them to workers, ends them, and is the only one that stores their states.

Runs in: supervisor. Implements `engine.Engine` on this machine.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from killable.supervisor import lifecycle, limits, terminal
from killable.supervisor.attempt import Attempt
from killable.supervisor.backlog import Backlog, Full
from killable.supervisor.clock import Clock
from killable.supervisor.escalation import Rules
from killable.supervisor.eventlog import EventLog
from killable.supervisor.job import (
    Event,
    JobRecord,
    JobType,
    Outcome,
    PoolRecord,
    Submission,
    Verdict,
    WorkerId,
    WorkerRecord,
)
from killable.supervisor.jobtypes import DuplicateType, JobTypes
from killable.supervisor.lifecycle import DECIDED, Cause, State
from killable.supervisor.pool import Pool
from killable.supervisor.readiness import readiness
from killable.supervisor.registry import Entry, Registry
from killable.supervisor.seam import SpawnerFactory
from killable.supervisor.settings import Settings, usable_cores
from killable.supervisor.system import System
from killable.supervisor.waits import RunTimes
from killable.supervisor.worker import Stage, Worker
from killable.workers.errors import CODES, Refused

EVENTS_PER_BATCH = 4096
"""What one turn of a reader takes: enough to be cheap, short enough for the others."""

logger = logging.getLogger("killable.jobs")


class Supervisor:
    """One per process; everything runs in the event loop in which `start` was awaited."""

    def __init__(
        self, settings: Settings, *, open_spawner: SpawnerFactory | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.instance_id = uuid.uuid4().hex
        self.started_at = ""
        self._open_spawner = open_spawner
        self._given_clock = clock
        self._system: System | None = None
        self._pools: dict[str, Pool] = {}
        self._types = JobTypes(settings)
        self._backlog = Backlog(settings.queue_jobs_max, settings.queue_bytes_max)
        self._registry = Registry(keep_jobs=settings.keep_jobs, keep_bytes=settings.keep_bytes, keep_s=settings.keep_s)
        self._run_times: dict[str, RunTimes] = {}
        self._fences = 0
        self._worker_numbers = 0
        self._draining = False
        self._closed = asyncio.Event()
        self._cores = usable_cores()

    async def start(self) -> None:
        """Start every pool and wait until each is ready or broken. Raise OSError, StartRefused."""
        self._clock = self._given_clock or Clock(asyncio.get_running_loop())
        self.started_at = self._clock.wall()
        open_spawner = self._open_spawner
        if open_spawner is None:
            self._system = System.open(asyncio.get_running_loop(), self.settings, self.instance_id)
            open_spawner = self._system.open_spawner
        for spec in self.settings.pools:
            self._pools[spec.name] = Pool(spec, self._clock, open_spawner, self)
            self._run_times[spec.name] = RunTimes(spec.workers)
        for pool in self._pools.values():
            pool.start()
        for pool in self._pools.values():
            await pool.wait_started()
            if pool.startup_error is not None:
                await self.close()
                raise pool.startup_error

    async def close(self, grace_s: float | None = None) -> None:
        """Cancel what runs, each job with its own grace or this one, and return when nothing is left.

        May be called again, also meanwhile: a smaller `grace_s` then hurries what still runs.
        """
        first, self._draining = not self._draining, True
        verdict = Verdict("cancelled", by="shutdown", reason="the server is shutting down")
        active = self._registry.active()
        for entry in active:
            self._stop(entry, verdict, grace_s)
        if not first:
            await self._closed.wait()
            return
        for entry in active:
            await self._until(entry, None)
        async with asyncio.TaskGroup() as closing:
            for pool in self._pools.values():
                closing.create_task(pool.close())
        if self._system is not None:
            await self._system.close()
        self._closed.set()

    # ── Engine: jobs ──

    async def submit(self, submission: Submission) -> JobRecord:
        if self._draining:
            raise Refused("the server is shutting down and takes no new jobs", code="draining", retry_after_s=5)
        broken = (pool.spec.name for pool in self._pools.values() if pool.state == "broken")
        job_type = self._types.get(submission.type, broken)
        in_force = limits.limits_of_job(job_type.limits, job_type.caps, submission.limits)
        size = len(submission.input)
        self._registry.expire(self._clock.now())
        pool = self._pools[job_type.pool]
        try:
            self._backlog.check(size)
        except Full as full:
            raise Refused(
                f"the queue is full: {full}",
                code="queue_full",
                bound=full.bound,
                limit=full.limit,
                retry_after_s=max(1, round(self._run_times[job_type.pool].estimate_wait_s(len(self._backlog)) or 1)),
            ) from full
        entry = Entry(
            id=f"job-{uuid.uuid4()}",
            number=self._registry.next_number(),
            type=job_type,
            submission=submission,
            limits=in_force,
            log=EventLog(in_force.output_bytes),
            created_at=self._clock.wall(),
            created=self._clock.now(),
        )
        self._registry.add(entry)
        self._backlog.push(
            entry.id,
            pool=pool.spec.name,
            tenant=submission.tenant,
            priority=submission.priority,
            input_bytes=size,
        )
        if not job_type.available:
            self._decide_queued(entry, Verdict("spawn", facts={"message": job_type.unavailable_reason}))
        elif pool.state == "broken":
            self._decide_queued(entry, _spawn_verdict(pool))
        else:
            self._dispatch(pool)
            if entry.state is State.QUEUED and in_force.queue_s is not None:
                due = self._clock.now() + in_force.queue_s
                entry.queue_timer = self._clock.call_at(due, lambda: self._on_queue_deadline(entry))
        return self._record(entry)

    async def get(self, job_id: str) -> JobRecord:
        return self._record(self._registry.get(job_id))

    async def list(
        self, *, state: str | None = None, type: str | None = None, tag: tuple[str, str] | None = None,
        limit: int = 50, cursor: str | None = None,
    ) -> tuple[Sequence[JobRecord], str | None]:  # fmt: skip
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise Refused("this cursor is none of ours", code="invalid", parameter="cursor")
        before = None if cursor is None else int(cursor)
        page, following = self._registry.page(state=state, type=type, tag=tag, limit=limit, before=before)
        return [self._record(entry) for entry in page], None if following is None else str(following)

    async def events(self, job_id: str, after: int = -1) -> AsyncIterator[Sequence[Event]]:
        entry = self._registry.get(job_id)
        while True:
            batch = entry.log.read(after, EVENTS_PER_BATCH)
            if batch:
                after = batch[-1].id
                yield batch
            elif entry.is_over:
                return
            else:
                await entry.changed()

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        entry = self._registry.get(job_id)
        await self._until(entry, timeout_s)
        return self._record(entry)

    async def cancel(
        self, job_id: str, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0
    ) -> JobRecord:
        entry = self._registry.get(job_id)
        self._stop(entry, Verdict("cancelled", by=by, reason=reason), grace_s)
        await self._until(entry, wait_s)
        record = self._record(entry)
        if entry.is_over and record.state != "cancelled":
            raise Refused(f"the job had ended: {record.state}", code="already_ended", record=record)
        return record

    async def watch(self, job_id: str) -> None:
        self._registry.get(job_id).readers += 1

    async def unwatch(self, job_id: str) -> None:
        try:
            entry = self._registry.get(job_id)
        except Refused:
            return  # ended and dropped meanwhile
        entry.readers -= 1
        if entry.readers == 0 and entry.submission.stop_when_client_leaves and not entry.is_over:
            self._stop(
                entry, Verdict("cancelled", by="client_gone", reason="the last reader of the stream has left"), None
            )

    # ── Engine: workers, types, pools ──

    async def workers(self) -> Sequence[WorkerRecord]:
        workers = [worker for pool in self._pools.values() for worker in pool.workers.values()]
        return await asyncio.gather(*(self._worker_record(worker) for worker in workers))

    async def kill_worker(self, worker_id: str, *, reason: str = "", wait_s: float = 10.0) -> WorkerRecord:
        for pool in self._pools.values():
            worker = pool.workers.get(WorkerId(worker_id))
            if worker is None:
                continue
            if worker.attempt is None:
                if worker.stage is not Stage.QUARANTINED:
                    pool.kill_idle(worker)
            else:
                entry = worker.attempt.entry
                self._stop(entry, Verdict("cancelled", by="operator", reason=reason or "its worker was killed"), 0.0)
                await self._until(entry, wait_s)
            return await self._worker_record(worker)
        raise Refused(f"there is no worker {worker_id}", code="unknown_worker", worker_id=worker_id)

    async def job_types(self) -> Sequence[JobType]:
        return self._types.all()

    async def pools(self) -> Sequence[PoolRecord]:
        return [pool.record() for pool in self._pools.values()]

    async def ready(self) -> tuple[bool, Sequence[str]]:
        queue_full = ""
        try:
            self._backlog.check(0)
        except Full as full:
            queue_full = str(full)
        return readiness(await self.pools(), queue_full=queue_full, draining=self._draining)

    # ── jobs, inside ──

    def transition(self, entry: Entry, cause: Cause) -> None:
        """Store a job's next state: the only line that does."""
        entry.state = lifecycle.step(entry.state, cause)

    def _dispatch(self, pool: Pool) -> None:
        """Give waiting jobs to warm workers."""
        name = pool.spec.name
        while self._backlog.depth(name):
            worker = pool.take()
            if worker is None:
                break
            job_id = self._backlog.pop(name)
            assert job_id is not None
            self._assign(self._registry.get(job_id), worker)
        pool.fill_soon()

    def _assign(self, entry: Entry, worker: Worker) -> None:
        entry.leave_queue()
        self._fences = (self._fences % 0xFFFFFFFF) + 1
        entry.attempts += 1
        entry.worker_id, entry.pid = worker.id, worker.process.pid
        rules = Rules(
            entry.limits.grace_s,
            entry.limits.ack_s,
            self.settings.ack_cpu_s,
            self.settings.unkillable_s,
            self._cores,
        )
        attempt = Attempt(entry, worker, self._fences, clock=self._clock, owner=self, rules=rules)
        entry.attempt = attempt
        worker.take(attempt)
        self.transition(entry, Cause.ASSIGNED)
        attempt.begin()

    def _stop(self, entry: Entry, verdict: Verdict, grace_s: float | None) -> None:
        """End a job whatever its state is; harmless when it has ended or is ending."""
        if entry.state is State.QUEUED:
            self._decide_queued(entry, verdict)
        elif entry.attempt is not None and not entry.is_over:
            entry.attempt.stop(verdict, grace_s)

    def _decide_queued(self, entry: Entry, verdict: Verdict) -> None:
        """End a job that never had a worker."""
        self._backlog.remove(entry.id)
        entry.verdict = verdict
        facts = {name: value for name, value in verdict.facts.items() if name != "message"}
        if verdict.by:
            facts.update(by=verdict.by, reason=verdict.reason)
        message = verdict.facts.get("message") or CODES[verdict.code].title
        entry.certificate = {"requested": 0.0, "cause": verdict.code, "by": verdict.by, "reason": verdict.reason}
        self._end(entry, Outcome(lifecycle.terminal_state_of(verdict.code), verdict.code, message, facts))

    def _on_queue_deadline(self, entry: Entry) -> None:
        if entry.state is State.QUEUED:
            limit_s = entry.limits.queue_s
            facts = {"limit": "queue_s", "limit_s": limit_s, "message": f"queue_s of {limit_s:g} s is over"}
            self._decide_queued(entry, Verdict("timeout.queue", facts=facts))

    def on_entered(self, attempt: Attempt) -> None:
        entry = attempt.entry
        entry.started_at = self._clock.wall()
        entry.started = self._clock.now()
        entry.log.append("started", terminal.started_data(entry))

    def on_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """The attempt's tree is proven empty (or given up): publish, free the slot, go on."""
        entry, worker = attempt.entry, attempt.worker
        pool = self._pools[entry.type.pool]
        entry.certificate = attempt.certificate.as_json()
        if worker.stage is Stage.BUSY:
            worker.release()
        pool.when_warm(lambda: self._note_slot_ready(attempt))
        if entry.started is not None:
            self._run_times[pool.spec.name].note(self._clock.now() - entry.started)
        self._end(entry, outcome)

    def _note_slot_ready(self, attempt: Attempt) -> None:
        if attempt.entry.certificate is not None:
            attempt.entry.certificate["slot_ready"] = attempt.slot_ready_ms(self._clock.now())

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        """Decide once; the terminal event is the job's last and comes from what is recorded here."""
        entry.leave_queue()
        self.transition(entry, DECIDED[outcome.state])
        entry.outcome = outcome
        entry.attempt = None
        entry.ended_at, entry.ended = self._clock.wall(), self._clock.now()
        entry.log.append(outcome.state, terminal.terminal_data(entry))
        entry.forget_input()
        self._registry.note_end(entry, entry.ended)
        entry.wake()
        logger.info("%s %s %s %s", entry.id, entry.type.name, outcome.state, outcome.code or "")

    async def _until(self, entry: Entry, timeout_s: float | None) -> None:
        """Wait until a job has ended, at most `timeout_s`."""
        if entry.is_over or timeout_s == 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not entry.is_over:
                    await entry.changed()
        except TimeoutError:
            pass

    # ── pools, inside ──

    def on_types(self, pool: Pool, reported: Sequence[dict[str, Any]]) -> None:
        try:
            self._types.replace(pool.spec, reported)
        except DuplicateType as error:
            pool.startup_error = error

    def on_worker_available(self, pool: Pool) -> None:
        if not self._draining:
            self._dispatch(pool)

    def on_pool_broken(self, pool: Pool, errno: int | None) -> None:
        for job_id in self._backlog.jobs_of(pool.spec.name):
            self._decide_queued(self._registry.get(job_id), _spawn_verdict(pool, errno))

    def queued(self, pool: Pool) -> int:
        return self._backlog.depth(pool.spec.name)

    def next_worker_id(self) -> WorkerId:
        self._worker_numbers += 1
        return WorkerId(f"w-{self._worker_numbers}")

    # ── records ──

    def _record(self, entry: Entry) -> JobRecord:
        queue = None
        if entry.state is State.QUEUED:
            position = self._backlog.position(entry.id)
            wait_s = self._run_times[entry.type.pool].estimate_wait_s(position or 0)
            queue = {"position": position, "estimated_wait_s": wait_s}
        return entry.record(self.instance_id, queue)

    async def _worker_record(self, worker: Worker) -> WorkerRecord:
        usage = await worker.process.usage()
        return worker.record(self._clock.now(), usage)


def _spawn_verdict(pool: Pool, errno: int | None = None) -> Verdict:
    return Verdict("spawn", facts={"message": f"pool {pool.spec.name} is broken: {pool.detail}", "errno": errno})
