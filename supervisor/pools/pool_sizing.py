"""How many workers a pool has in each stage, how many more jobs may start, and how many workers to fork now.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from killable.supervisor.pools.worker import WorkerStage


class Occupancy:
    """The workers of a pool, counted by stage, so that no scan of them is needed."""

    def __init__(self, workers_max: int, spares: int, counts: Mapping[WorkerStage, int] | None = None) -> None:
        self.workers_max = workers_max
        self.spares = spares
        self._counts = dict.fromkeys(WorkerStage, 0) | dict(counts or {})
        self.elders: Sequence[Occupancy] = ()
        """Of the pools whose place this one has taken, and whose last jobs still run: their slots are these."""

    def add(self) -> None:
        """Count a worker that was forked."""
        self._counts[WorkerStage.SPAWNING] += 1

    def move(self, was: WorkerStage, stage: WorkerStage) -> None:
        self._counts[was] -= 1
        self._counts[stage] += 1

    @property
    def idle(self) -> int:
        return self._counts[WorkerStage.IDLE]

    @property
    def spawning(self) -> int:
        return self._counts[WorkerStage.SPAWNING]

    @property
    def busy(self) -> int:
        """With a job or kept for one, or still ending one: a slot is free when the process tree is empty."""
        own = self._counts[WorkerStage.BUSY] + self._counts[WorkerStage.RESERVED]
        return own + sum(elder.busy for elder in self.elders) if self.elders else own

    @property
    def quarantined(self) -> int:
        own = self._counts[WorkerStage.QUARANTINED]
        return own + sum(elder.quarantined for elder in self.elders) if self.elders else own

    @property
    def slots_free(self) -> int:
        """Return how many more jobs may start."""
        return max(0, self.workers_max - self.busy - self.quarantined)

    @property
    def room(self) -> int:
        """Return how many workers there may be that hold no slot."""
        return self.workers_max + self.spares - self.busy - self.quarantined

    @property
    def is_full(self) -> bool:
        """Return whether each slot and spare has a worker: then one job more or less changes nothing."""
        return self.idle + self.spawning == self.room

    @property
    def slack(self) -> int:
        """Return how many idle workers may become busy before a spare is missing."""
        return self.idle + self.spawning - self.spares


def forks_wanted(pool: Occupancy, queued: int) -> int:
    """Return how many workers to fork: enough for each job that could start now, and for the spares."""
    wanted = min(queued, pool.slots_free) + pool.spares
    return max(0, min(wanted, pool.room) - pool.idle - pool.spawning)
