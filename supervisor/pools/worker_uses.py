"""Measures what workers use: all of them together, in a thread, while somebody reads it.

Runs in: supervisor, the measurement in a thread. A measurement takes some 30 µs a worker: with hundreds of workers each
is measured every few seconds, so that a reader costs no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from killable.supervisor import event_loops
from killable.supervisor.linux.tree_usage import measure_all
from killable.supervisor.models import WorkerId
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import Sample
from killable.supervisor.records import MeasuredWorker, WorkerUse

COST_S_MAX = 0.0025
"""Processor seconds of one measurement, after which the workers take turns."""
AT_ONCE_MIN = 16
"""Workers that are measured each time, whatever that costs."""
MEMORY_S = 15.0
"""An older measurement is no base for what a worker uses now."""


class _Known:
    """What is known of one worker."""

    __slots__ = ("at", "measured", "percent", "sample", "share", "told")

    def __init__(self) -> None:
        self.at = 0.0
        """When it was measured last; 0: not yet."""
        self.sample: Sample | None = None
        self.percent: float | None = None
        """Of one core, since the measurement before."""
        self.share: float | None = None
        """The same over the worker's life, 1.0 being a core."""
        self.told: tuple[object, ...] = ()
        """What `measured` was made of."""
        self.measured: MeasuredWorker | None = None

    def note(self, worker: Worker, taken: tuple[Sample, float] | None, now: float) -> None:
        before, was_at = self.sample, self.at
        self.percent = self.share = None
        if taken is None:
            self.sample, self.at = None, 0.0
            return
        self.sample, self.at = taken
        self.share = worker.share(self.sample, now)
        if before is not None and was_at < self.at <= was_at + MEMORY_S:
            self.percent = round(max(0.0, self.sample.cpu_s - before.cpu_s) / (self.at - was_at) * 100, 1)

    def shown(self, worker: Worker, now: float) -> MeasuredWorker:
        """Return what readers are told: most workers are what they were, and making a record of each took a third of
        what a reader cost.
        """
        attempt, process, sample = worker.attempt, worker.process, self.sample
        job_id = None if attempt is None else attempt.job.id
        used: tuple[Any, ...] = ()
        if sample is not None:
            memory = sample.own_bytes + sample.others_bytes + sample.shared_bytes
            used = self.percent, memory, sample.processes, sample.threads, sample.resident_bytes
        told = worker.state, job_id, worker.served, process.pid, process.proof, self.share, used
        if self.measured is None or told != self.told:
            record = worker.record(now, sample, self.share)
            self.told, self.measured = told, MeasuredWorker(record, WorkerUse(*used[:4]), now)
        return self.measured


class WorkerUses:
    """The latest measurement of each worker of a fleet."""

    def __init__(self) -> None:
        self._known: dict[WorkerId, _Known] = {}
        self._at_once = AT_ONCE_MIN

    async def measured(self, workers: Sequence[Worker], now: float) -> list[MeasuredWorker]:
        """Measure the workers, or those whose turn it is, and return the records of all with what is known."""
        before = self._known
        self._known = known = {worker.id: before.get(worker.id) or _Known() for worker in workers}
        due = workers
        if len(workers) > self._at_once:
            due = sorted(workers, key=lambda worker: known[worker.id].at)[: self._at_once]
        try:
            loop = asyncio.get_running_loop()
            samples, cost_s = await event_loops.in_bounded_threads(
                loop, partial(measure_all, [each.process for each in due])
            )
        except RuntimeError:  # no thread can be started
            samples, cost_s = [None] * len(due), 0.0
        if cost_s > 0:
            self._at_once = max(AT_ONCE_MIN, int(COST_S_MAX / cost_s * len(due)))
        for worker, taken in zip(due, samples, strict=True):
            known[worker.id].note(worker, taken, now)
        return [known[worker.id].shown(worker, now) for worker in workers]
