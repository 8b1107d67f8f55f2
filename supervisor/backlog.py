"""The queue: bounded in jobs and bytes, by priority, fair between tenants, first in first out within one.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

Entry = tuple[int, int, int, str]
"""(-priority, the tenant's round, arrival, job id)"""

STALE_MAX = 64
"""Places of removed jobs in a heap, beyond one for each waiting job, before it is built anew."""


class Full(Exception):
    """The queue has reached a bound: `bound` names which."""

    def __init__(self, bound: str, limit: int) -> None:
        super().__init__(f"{bound} of {limit} is reached")
        self.bound, self.limit = bound, limit


@dataclass(slots=True)
class _Rounds:
    """The turns of the tenants, among the jobs of one priority."""

    current: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def next_turn(self, tenant: str) -> int:
        turn = self.last[tenant] = max(self.current, self.last.get(tenant, -1) + 1)
        return turn

    def reach(self, turn: int) -> None:
        """A job of that round has its turn. Who has none in it or later begins anew: forget him, or he would stay."""
        if turn > self.current:
            self.current = turn
            self.last = {tenant: last for tenant, last in self.last.items() if last >= turn}


@dataclass(slots=True)
class _Line:
    """The queue of one pool."""

    heap: list[Entry] = field(default_factory=list)
    rounds: dict[int, _Rounds] = field(default_factory=dict)
    """By the first member of an entry."""
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    pool: str
    tenant: str
    bytes: int
    entry: Entry


class Backlog:
    """Jobs that wait for a worker. A job of each tenant takes its turn per round (fair queuing), within one
    priority.
    """

    def __init__(self, jobs_max: int, bytes_max: int) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._lines: dict[str, _Line] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._arrivals = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def depth(self, pool: str) -> int:
        line = self._lines.get(pool)
        return line.waiting if line else 0

    def check(self, input_bytes: int) -> None:
        """Raise Full when one more job of that size has no room."""
        if len(self._waiting) >= self._jobs_max:
            raise Full("queue_jobs_max", self._jobs_max)
        if self.bytes + input_bytes > self._bytes_max:
            raise Full("queue_bytes_max", self._bytes_max)

    def push(self, job_id: str, *, pool: str, tenant: str, priority: int, input_bytes: int) -> None:
        """Queue a job. Raise Full."""
        self.check(input_bytes)
        line = self._lines.setdefault(pool, _Line())
        turn = line.rounds.setdefault(-priority, _Rounds()).next_turn(tenant)
        entry = (-priority, turn, self._arrivals, job_id)
        self._arrivals += 1
        heapq.heappush(line.heap, entry)
        line.waiting += 1
        self._waiting[job_id] = _Waiting(pool, tenant, input_bytes, entry)
        self.bytes += input_bytes

    def pop(self, pool: str) -> str | None:
        """Take the job whose turn it is, or None."""
        line = self._lines.get(pool)
        while line and line.heap:
            entry = heapq.heappop(line.heap)
            if self._forget(entry[3], entry):
                line.rounds[entry[0]].reach(entry[1])
                if not line.waiting:
                    self._rebuild(line)
                return entry[3]
        return None

    def remove(self, job_id: str) -> bool:
        """Take a job out (a cancel, a deadline). Its place in the heap is dropped when it comes up, or when there are
        too many of them.
        """
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return False
        self._forget(job_id, waiting.entry)
        line = self._lines[waiting.pool]
        if not line.waiting or len(line.heap) > 2 * line.waiting + STALE_MAX:
            self._rebuild(line)
        return True

    def position(self, job_id: str) -> int | None:
        """Return how many jobs of its pool come before this one."""
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return None
        line = self._lines[waiting.pool]
        return sum(1 for entry in line.heap if entry < waiting.entry and self._stands(entry))

    def jobs_of(self, pool: str) -> list[str]:
        """Return the pool's jobs in the order in which they would be popped."""
        line = self._lines.get(pool)
        return [entry[3] for entry in sorted(line.heap) if self._stands(entry)] if line else []

    def _rebuild(self, line: _Line) -> None:
        """Forget removed jobs, and the turns of tenants that have none waiting."""
        line.heap = sorted(entry for entry in line.heap if self._stands(entry))
        before, line.rounds = line.rounds, {}
        for rank, turn, _, job_id in line.heap:
            rounds = line.rounds.setdefault(rank, _Rounds(before[rank].current))
            rounds.last[self._waiting[job_id].tenant] = turn  # the last one stays: they are sorted

    def _stands(self, entry: Entry) -> bool:
        waiting = self._waiting.get(entry[3])
        return waiting is not None and waiting.entry == entry

    def _forget(self, job_id: str, entry: Entry) -> bool:
        if not self._stands(entry):
            return False
        waiting = self._waiting.pop(job_id)
        self._lines[waiting.pool].waiting -= 1
        self.bytes -= waiting.bytes
        return True
