"""The queue: bounded in jobs and bytes, ordered by priority, fair between tenants, first in first out within one.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

Place = tuple[int, int, int, str]
"""Sort key of a waiting job: (-priority, round of its tenant, arrival number, job id)."""

REMOVED_MAX = 64
"""Turns are counted anew when the removed jobs outnumber the waiting ones by more than this."""


class QueueFull(Exception):
    """The queue has reached a bound, whose setting is `bound`."""

    def __init__(self, bound: str, limit: int) -> None:
        super().__init__(f"{bound} of {limit} is reached")
        self.bound, self.limit = bound, limit


@dataclass(slots=True)
class _Rounds:
    """The rounds of the jobs of one priority: in each, every tenant has one turn."""

    current: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def next_turn(self, tenant: str) -> int:
        turn = self.last[tenant] = max(self.current, self.last.get(tenant, -1) + 1)
        return turn

    def reach(self, turn: int) -> None:
        """Advance to the round of a job that is taken. Forget tenants that have no turn in it or later."""
        if turn > self.current:
            self.current = turn
            self.last = {tenant: last for tenant, last in self.last.items() if last >= turn}


@dataclass(slots=True)
class _PoolQueue:
    """The queue of one pool."""

    places: list[Place] = field(default_factory=list)
    """Sorted, not a heap: positions are queried as often as jobs are taken, and moving a thousand pointers takes less
    than a microsecond.
    """
    rounds: dict[int, _Rounds] = field(default_factory=dict)
    """By the first member of a place: -priority."""
    removed: int = 0
    """Jobs removed since the turns were last counted anew."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One job in the queue."""

    pool: str
    tenant: str
    bytes: int
    place: Place

    @property
    def job_id(self) -> str:
        return self.place[3]


class Backlog:
    """Jobs that wait for a worker. Within one priority, each round takes one job of each tenant (fair queuing)."""

    def __init__(self, jobs_max: int, bytes_max: int) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._lines: dict[str, _PoolQueue] = {}
        self._waiting: dict[str, Waiting] = {}
        self._arrivals = 0
        self._held = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._held

    def depth(self, pool: str) -> int:
        line = self._lines.get(pool)
        return len(line.places) if line else 0

    def check(self, input_bytes: int) -> None:
        """Raise QueueFull when there is no room for one more job with an input of this size."""
        if len(self) >= self._jobs_max:
            raise QueueFull("queue_jobs_max", self._jobs_max)
        if self.bytes + input_bytes > self._bytes_max:
            raise QueueFull("queue_bytes_max", self._bytes_max)

    def hold(self, input_bytes: int) -> None:
        """Reserve room for a job that is not queued yet."""
        self._held += 1
        self.bytes += input_bytes

    def release(self, input_bytes: int) -> None:
        """Release room that `hold` has reserved."""
        self._held -= 1
        self.bytes -= input_bytes

    def push(self, job_id: str, *, pool: str, tenant: str, priority: int, input_bytes: int) -> None:
        """Queue a job. The bounds apply to new jobs only (`check`): an accepted job always has room."""
        line = self._lines.setdefault(pool, _PoolQueue())
        turn = line.rounds.setdefault(-priority, _Rounds()).next_turn(tenant)
        place = (-priority, turn, self._arrivals, job_id)
        self._arrivals += 1
        insort(line.places, place)
        self._waiting[job_id] = Waiting(pool, tenant, input_bytes, place)
        self.bytes += input_bytes

    def pop(self, pool: str) -> str | None:
        """Remove the job whose turn it is and return its id; None: no job waits for this pool."""
        waiting = self.take(pool)
        return None if waiting is None else waiting.job_id

    def take(self, pool: str) -> Waiting | None:
        """Remove the job whose turn it is as `pop` does, and return what `put_back` needs."""
        line = self._lines.get(pool)
        if not line or not line.places:
            return None
        place = line.places.pop(0)
        waiting = self._waiting.pop(place[3])
        self.bytes -= waiting.bytes
        line.rounds[place[0]].reach(place[1])
        if not line.places:
            self._forget_turns(line)
        return waiting

    def put_back(self, waiting: Waiting) -> None:
        """Queue a job again, at the place that it had before `take` or `remove`."""
        line = self._lines[waiting.pool]
        rank, turn, _, job_id = waiting.place
        rounds = line.rounds.setdefault(rank, _Rounds(turn))
        rounds.last[waiting.tenant] = max(turn, rounds.last.get(waiting.tenant, turn))
        insort(line.places, waiting.place)
        self._waiting[job_id] = waiting
        self.bytes += waiting.bytes

    def remove(self, job_id: str) -> Waiting | None:
        """Remove a job (a cancel, a deadline) and return its place. None: it is not in the queue."""
        waiting = self._waiting.pop(job_id, None)
        if waiting is None:
            return None
        self.bytes -= waiting.bytes
        line = self._lines[waiting.pool]
        del line.places[bisect_left(line.places, waiting.place)]
        line.removed += 1
        if not line.places or line.removed > len(line.places) + REMOVED_MAX:
            self._forget_turns(line)
        return waiting

    def position(self, job_id: str) -> int | None:
        """Return how many jobs of its pool come before this one."""
        waiting = self._waiting.get(job_id)
        return None if waiting is None else bisect_left(self._lines[waiting.pool].places, waiting.place)

    def jobs_of(self, pool: str) -> list[str]:
        """Return the pool's jobs in the order in which they would be popped."""
        line = self._lines.get(pool)
        return [place[3] for place in line.places] if line else []

    def _forget_turns(self, line: _PoolQueue) -> None:
        """Forget the turns of removed jobs, and of tenants that have no waiting job."""
        line.removed = 0
        before, line.rounds = line.rounds, {}
        for rank, turn, _, job_id in line.places:
            rounds = line.rounds.setdefault(rank, _Rounds(before[rank].current))
            rounds.last[self._waiting[job_id].tenant] = turn  # places are sorted, so the latest turn stays
