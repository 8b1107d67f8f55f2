"""How many workers a pool should fork now.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from typing import NamedTuple


class Occupancy(NamedTuple):
    """A pool at one moment, in numbers of workers (and of queued jobs)."""

    workers_max: int
    spares: int
    idle: int
    spawning: int
    busy: int
    """With a job, or still ending one: a slot is free when its tree is empty."""
    quarantined: int
    queued: int

    @property
    def slots_free(self) -> int:
        """How many more jobs may start."""
        return max(0, self.workers_max - self.busy - self.quarantined)

    @property
    def room(self) -> int:
        """How many workers there may be that hold no slot."""
        return self.workers_max + self.spares - self.busy - self.quarantined


def forks_wanted(pool: Occupancy) -> int:
    """Return how many workers to fork: one for each job that could start now, and the spares beyond the busy ones."""
    wanted = min(pool.queued, pool.slots_free) + pool.spares
    return max(0, min(wanted, pool.room) - pool.idle - pool.spawning)
