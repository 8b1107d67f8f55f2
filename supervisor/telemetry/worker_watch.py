"""The state of the server, for the readers of the stream of workers: measured once a second for all of them.

Runs in: supervisor. While nobody reads, nothing is measured and no timer runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from killable.supervisor.clock import Clock, Timer, realtime
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import JobEvent
from killable.supervisor.records import REPLACED, MeasuredWorker, RetiredWorker, WorkerRecord, WorkerUse
from killable.supervisor.telemetry import loop_turns
from killable.supervisor.telemetry.metrics import Metrics
from killable.supervisor.telemetry.waiting_readers import WaitingReaders
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import JobPools
    from killable.supervisor.records import NodeRecord

PERIOD_S = 1.0
ENCODINGS_MIN = 64
_AGE = WorkerRecord._fields.index("age_s")
TURNS = "/v1/workers/stream"
"""For `wakeup_turns`, which know readers by job."""
MS = 0.001


class _Measurement(NamedTuple):
    """What one event is made of, for any reader."""

    number: int
    workers: Sequence[MeasuredWorker]
    retired: Sequence[RetiredWorker]
    active: Sequence[Job]
    """The jobs that have not ended."""
    common: Mapping[str, Any]
    """What all readers see."""


class _Used:
    """What the workers of a pool use together; None: none of them was measured."""

    __slots__ = ("cpu_percent", "memory_bytes", "starting")

    def __init__(self) -> None:
        self.cpu_percent: float | None = None
        self.memory_bytes: int | None = None
        self.starting = 0

    def add(self, record: WorkerRecord, use: WorkerUse) -> None:
        self.starting += record.state == "spawning"
        if use.cpu_percent is not None:
            self.cpu_percent = use.cpu_percent + (self.cpu_percent or 0.0)
        if use.memory_bytes is not None:
            self.memory_bytes = use.memory_bytes + (self.memory_bytes or 0)


class WorkerWatch:
    """Of one supervisor."""

    def __init__(
        self, pools: JobPools, job_queue: JobQueue, registry: Registry, metrics: Metrics, clock: Clock,
        *, started: float, is_draining: Callable[[], bool], nodes: Callable[[], Sequence[NodeRecord]],
        own_use: Callable[[], tuple[float, int]], node: str,
    ) -> None:  # fmt: skip
        """`started` is when the supervisor was, in monotonic seconds; `own_use` what its process uses: processor
        seconds, and bytes in memory; `node` is its machine.
        """
        self._pools = pools
        self._job_queue = job_queue
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._started = started
        self._is_draining = is_draining
        self._nodes = nodes
        self._own_use = own_use
        self._node = node
        self._version = version("killable")
        self._readers = 0
        self._waiting = WaitingReaders(TURNS)
        self._timer: Timer | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._latest: _Measurement | None = None
        self._events: dict[tuple[str | None, bool], JobEvent] = {}
        """The latest event for each tenant that reads it, with and without workers; None: who sees all jobs."""
        self._encodings: dict[tuple[str, bool], tuple[MeasuredWorker, bytes]] = {}
        """Each worker as it was told last, without its age; and as those see it who may not see its job."""
        self._measured_at = -PERIOD_S
        self._cpu: tuple[float, float] | None = None
        """The processor seconds of this process, and when."""
        self._number = 0
        self._is_closed = False

    async def read(self, tenant: str | None = None, *, workers: bool = True) -> AsyncGenerator[list[JobEvent], None]:
        """Yield the latest state, then the next one each second. A slow reader gets the latest; with `tenant`, no job
        of others; without `workers` none of them, but what they use together.
        """
        self._readers += 1
        self._arm()
        is_old = self._clock.now() > self._measured_at + PERIOD_S
        seen = self._number if is_old else -1  # nobody has read for a while: the next one comes at once
        try:
            while not self._is_closed:
                if self._latest is not None and self._latest.number != seen:
                    event = self._event(self._latest, tenant, workers=workers)
                    seen = event.id
                    yield [event]
                else:
                    await self._waiting.changed()
            yield [JobEvent(self._number, "end", b'{"reason":"shutdown"}')]
        finally:
            self._readers -= 1
            if not self._readers:
                self._stop()

    def close(self) -> None:
        """End the streams."""
        self._is_closed = True
        self._stop()
        self._waiting.wake()

    # ── measuring ──

    def _arm(self) -> None:
        """Have the next measurement made when it is due: readers that come and go get no more of them."""
        if self._timer is None and self._measuring is None and self._readers and not self._is_closed:
            self._timer = self._clock.call_at(max(self._clock.now(), self._measured_at + PERIOD_S), self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        self._measured_at = self._clock.now()
        self._measuring = asyncio.ensure_future(self._measure_and_tell())

    async def _measure_and_tell(self) -> None:
        try:
            self._latest = await self._measure()
            self._events.clear()
            if len(self._encodings) > 2 * len(self._latest.workers) + ENCODINGS_MIN:
                self._encodings.clear()  # of workers and jobs that are gone
            self._waiting.wake()
        finally:
            self._measuring = None
            self._arm()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _measure(self) -> _Measurement:
        workers, retired = await self._pools.measured_workers()
        self._number += 1
        used: dict[str, _Used] = defaultdict(_Used)
        for record, use, _ in workers:
            used[record.pool].add(record, use)
        common = {
            "pools": [self._pool(record._asdict(), used[record.name]) for record in self._pools.pool_records()],
            "server": self._server(),
            "nodes": [each._asdict() for each in self._nodes()],
        }
        return _Measurement(self._number, workers, retired, self._registry.active(), common)

    def _pool(self, record: Mapping[str, Any], used: _Used) -> dict[str, Any]:
        name = record["name"]
        recovery = self._metrics.recovery_of.get(name)
        p50 = None if recovery is None else recovery.percentiles(MS)["p50"]
        members = ("name", "state", "start_method", "spares", "idle", "busy", "quarantined", "generation")
        return {member: record[member] for member in members} | {
            "workers": record["workers_max"],
            "starting": used.starting,
            "restarts": record["zygote_restarts"],
            "replaced": {why: record["replaced"].get(why, 0) for why in REPLACED},
            "recovery_ms": {"last": None if recovery is None else recovery.last(MS), "p50": p50},
            "queued": self._job_queue.depth(name),
            "cpu_percent": None if used.cpu_percent is None else round(used.cpu_percent, 1),
            "memory_bytes": used.memory_bytes,
        }

    def _server(self) -> dict[str, Any]:
        now, (cpu_s, resident) = self._clock.now(), self._own_use()
        percent = None
        if self._cpu is not None and now - self._cpu[1] < 15 * PERIOD_S:
            percent = round((cpu_s - self._cpu[0]) / max(MS, now - self._cpu[1]) * 100, 1)
        self._cpu = cpu_s, now
        return {
            "cpu_percent": percent,
            "memory_bytes": resident,
            "loop_stall_worst_ms": round(loop_turns.longest_s() * 1000, 3),
            "uptime_s": round(now - self._started, 3),
            "version": self._version,
            "draining": self._is_draining(),
            "node": self._node,
        }

    # ── what a reader sees ──

    def _event(self, latest: _Measurement, tenant: str | None, *, workers: bool) -> JobEvent:
        event = self._events.get((tenant, workers))
        if event is None:
            data = self._shown(latest, tenant, workers=workers)
            event = self._events[tenant, workers] = JobEvent(latest.number, "now", data)
        return event

    def _shown(self, latest: _Measurement, tenant: str | None, *, workers: bool) -> bytes:
        def is_hidden(job_id: str | None) -> bool:
            return tenant is not None and job_id is not None and self._registry.tenant_of(job_id) != tenant

        told = {
            "at": round(realtime(), 3), "seq": latest.number, **latest.common, **self._jobs(latest.active, tenant)
        }  # fmt: skip
        if not workers:
            return dump_json(told | {"workers": None, "retired": None})
        told["retired"] = [each._asdict() for each in latest.retired if not is_hidden(each.job_id)]
        now = self._clock.now()
        rows = b",".join(self._encoded(each, now, is_hidden=is_hidden(each.record.job_id)) for each in latest.workers)
        return b'%b,"workers":[%b]}' % (dump_json(told)[:-1], rows)

    def _encoded(self, worker: MeasuredWorker, now: float, *, is_hidden: bool) -> bytes:
        """Return a worker as JSON. Most are what they were but for their age, and encoding takes most of an event."""
        record = worker.record
        key = record.worker_id, is_hidden
        known = self._encodings.get(key)
        if known is None or (known[0] is not worker and _but_for_age(known[0]) != _but_for_age(worker)):
            members = record._asdict() | worker.use._asdict()
            del members["age_s"]
            if is_hidden:
                members.update(job_id=None, type=None, attempt=None)
            known = self._encodings[key] = worker, dump_json(members)[:-1]
        return b'%b,"age_s":%.3f}' % (known[1], worker.age_s(now))

    def _jobs(self, every: Sequence[Job], tenant: str | None) -> dict[str, Any]:
        """Return the queue and the jobs, of one tenant or of all."""
        active = every if tenant is None else [job for job in every if job.submission.tenant == tenant]
        each_state = [job.public_state for job in active]
        states = Counter(each_state)
        waiting = [job for job, state in zip(active, each_state, strict=True) if state == "queued"]
        oldest = min((job.queued for job in waiting), default=None)
        return {
            "queue": {
                "depth": len(waiting),
                "bytes": sum(len(job.submission.input) for job in waiting),
                "oldest_s": None if oldest is None else round(max(0.0, self._clock.now() - oldest), 3),
                "by_type": dict(Counter(job.type.name for job in waiting)),
            },
            "jobs": {
                **{state: states[state] for state in ("running", "stopping", "queued")},
                # Of one tenant these are not counted.
                "ended": self._metrics.ends_by_code() if tenant is None else None,
                "ended_last_minute": self._metrics.ends.number(self._clock.now()) if tenant is None else None,
            },
        }


def _but_for_age(worker: MeasuredWorker) -> tuple[Any, ...]:
    record = worker.record
    return record[:_AGE], record[_AGE + 1 :], worker.use
