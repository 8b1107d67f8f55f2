"""How many workers a pool should fork now.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from typing import NamedTuple


class Occupancy(NamedTuple):
    """How many workers of each kind, and queued jobs, a pool has at one moment."""

    workers_max: int
    spares: int
    idle: int
    spawning: int
    busy: int
    """With a job, or still ending one: a slot is free when the process tree is empty."""
    quarantined: int
    queued: int

    @property
    def slots_free(self) -> int:
        """Return how many more jobs may start."""
        return max(0, self.workers_max - self.busy - self.quarantined)

    @property
    def room(self) -> int:
        """Return how many workers there may be that hold no slot."""
        return self.workers_max + self.spares - self.busy - self.quarantined


def forks_wanted(pool: Occupancy) -> int:
    """Return how many workers to fork: enough for each job that could start now, and for the spares."""
    wanted = min(pool.queued, pool.slots_free) + pool.spares
    return max(0, min(wanted, pool.room) - pool.idle - pool.spawning)
