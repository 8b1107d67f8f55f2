"""Measures what workers use: all of them together, in a thread, while somebody reads it.

Runs in: supervisor, the measurement in a thread. A measurement takes some 30 µs a worker: with hundreds of workers each
is measured every few seconds, so that a reader costs no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from killable.supervisor import event_loops
from killable.supervisor.linux.tree_usage import measure_all
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import Sample
from killable.supervisor.records import WorkerRecord, WorkerUse
from killable.workers.named_tuples import NamedTuple

COST_S_MAX = 0.0025
"""Processor seconds of one measurement, after which the workers take turns."""
AT_ONCE_MIN = 16
"""Workers that are measured each time, whatever that costs."""
MEMORY_S = 15.0
"""An older measurement is no base for what a worker uses now."""


class _Measured(NamedTuple):
    sample: Sample
    at: float
    percent: float | None
    """Of one core, since the measurement before."""
    share: float | None
    """The same over the worker's life, 1.0 being a core."""


class WorkerUses:
    """The latest measurement of each worker of a fleet."""

    def __init__(self) -> None:
        self._latest: dict[str, _Measured] = {}
        self._at_once = AT_ONCE_MIN

    async def measured(self, workers: Sequence[Worker], now: float) -> list[tuple[WorkerRecord, WorkerUse]]:
        """Measure the workers, or those whose turn it is, and return the records of all with what is known."""
        known = self._latest
        order = sorted(workers, key=lambda worker: known[worker.id].at if worker.id in known else 0.0)
        due = order[: self._at_once]
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
            self._note(worker, taken, now)
        there = {worker.id for worker in workers}
        self._latest = {id: measured for id, measured in self._latest.items() if id in there}
        return [self._shown(worker, now) for worker in workers]

    def _note(self, worker: Worker, taken: tuple[Sample, float] | None, now: float) -> None:
        before = self._latest.pop(worker.id, None)
        if taken is None:
            return
        sample, at = taken
        percent = None
        if before is not None and before.at < at <= before.at + MEMORY_S:
            percent = round(max(0.0, sample.cpu_s - before.sample.cpu_s) / (at - before.at) * 100, 1)
        self._latest[worker.id] = _Measured(sample, at, percent, worker.share(sample, now))

    def _shown(self, worker: Worker, now: float) -> tuple[WorkerRecord, WorkerUse]:
        measured = self._latest.get(worker.id)
        if measured is None:
            return worker.record(now, None, None), WorkerUse()
        sample = measured.sample
        record = worker.record(now, sample, measured.share)
        memory = sample.own_bytes + sample.others_bytes + sample.shared_bytes
        use = WorkerUse(measured.percent, memory, sample.processes, sample.threads)
        return record, use
