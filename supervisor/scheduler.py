"""How many workers a pool should fork or retire now.

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


def forks_wanted(pool: Occupancy) -> int:
    """Return how many workers to fork: one for each job that could start now, and the spares beyond the busy ones."""
    wanted = min(pool.queued, pool.slots_free) + pool.spares
    room = pool.workers_max + pool.spares - pool.busy - pool.quarantined
    return max(0, min(wanted, room) - pool.idle - pool.spawning)


def retires_wanted(pool: Occupancy) -> int:
    """Return how many idle workers are too many: reused ones may all be idle at once, quarantined slots take room."""
    room = pool.workers_max + pool.spares - pool.busy - pool.quarantined
    return max(0, min(pool.idle, pool.idle + pool.spawning - room))
