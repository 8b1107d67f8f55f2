"""The queue: bounded in jobs and bytes, fair between tenants, ordered by priority, first in first out within one.

Runs in: supervisor. Pure.
"""

# Without the annotations of __future__: named tuples would compile each of them.

from bisect import bisect_left, insort
from typing import NamedTuple

Place = tuple[int, int, str]
"""Sort key of a waiting job among those of its tenant: (-priority, arrival number, job id)."""

Head = tuple[int, int, int, str]
"""Sort key of a tenant among those of a pool: the round of its first job, and that job's place without its id."""

SERVED_MAX = 1000
"""Tenants without a waiting job that are remembered as served; without this bound nothing would forget them."""

RESERVE = 10
"""The room that only operators have is this part of the queue: one job or byte for ten of the bound."""


class QueueFull(Exception):
    """The queue has reached a bound, whose setting is `bound`."""

    def __init__(self, bound: str, limit: int) -> None:
        super().__init__(f"{bound} of {limit} is reached")
        self.bound, self.limit = bound, limit


class _TenantLine:
    """The jobs of one tenant that wait for one pool; at least one."""

    __slots__ = ("places", "round")

    def __init__(self, round: int) -> None:
        self.round = round
        """The round of the first job; each job behind it has the next one."""
        self.places: list[Place] = []
        """Sorted, not a heap: positions are queried as often as jobs are taken, and moving a thousand pointers takes
        less than a microsecond.
        """


class _PoolQueue:
    """The queue of one pool. In each round, every tenant has one turn."""

    __slots__ = ("depth", "heads", "lines", "round", "served", "startable")

    def __init__(self) -> None:
        self.lines: dict[str, _TenantLine] = {}
        """By tenant. Each has a round of `round` or the one after it."""
        self.heads: list[Head] = []
        """Sorted; one for each tenant that is not held back."""
        self.round = 0
        """Of the job that was taken last."""
        self.served: set[str] = set()
        """Tenants without a waiting job that have had their turn in this round."""
        self.depth = 0
        self.startable = 0
        """Jobs of tenants that are not held back."""

    def head(self, tenant: str) -> Head:
        line = self.lines[tenant]
        return (line.round, *line.places[0][:2], tenant)

    def show(self, tenant: str) -> None:
        insort(self.heads, self.head(tenant))

    def hide(self, tenant: str) -> None:
        del self.heads[bisect_left(self.heads, self.head(tenant))]

    def round_of(self, line: _TenantLine) -> int:
        """Return the round of a tenant's first job: what it could not use while it was held back is no credit."""
        return max(line.round, self.round)

    def end_line(self, tenant: str, next_round: int) -> None:
        """Forget a tenant without a waiting job, except that it was served in this round."""
        del self.lines[tenant]
        if next_round > self.round:
            if len(self.served) >= SERVED_MAX:
                self.served.clear()
            self.served.add(tenant)


class Waiting(NamedTuple):
    """One job in the queue."""

    pool: str
    tenant: str
    bytes: int
    place: Place

    @property
    def job_id(self) -> str:
        return self.place[2]


class JobQueue:
    """Jobs that wait for a worker. Each round takes one job of each tenant, its most urgent one (fair queuing).

    Within a round, the job with the highest priority goes first: a tenant's priority puts none of its other jobs before
    another tenant's first.
    """

    def __init__(self, jobs_max: int, bytes_max: int) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._pools: dict[str, _PoolQueue] = {}
        self._waiting: dict[str, Waiting] = {}
        self._held_back: set[str] = set()
        """Tenants whose jobs are not taken now."""
        self._arrivals = 0
        self._held = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._held

    def depth(self, pool: str) -> int:
        queue = self._pools.get(pool)
        return queue.depth if queue else 0

    def startable(self, pool: str) -> int:
        """Return how many jobs of a pool wait only for a worker, and not for another job of their tenant to end."""
        queue = self._pools.get(pool)
        return queue.startable if queue else 0

    def check(self, input_bytes: int, *, reserve: bool = False) -> None:
        """Raise QueueFull when there is no room for one more job with an input of this size.

        With `reserve` (an operator's job) there is a tenth more room.
        """
        jobs_max, bytes_max = self._jobs_max, self._bytes_max
        if reserve:
            jobs_max += -(-jobs_max // RESERVE)
            bytes_max += -(-bytes_max // RESERVE)
        if len(self) >= jobs_max:
            raise QueueFull("queue_jobs_max", self._jobs_max)
        if self.bytes + input_bytes > bytes_max:
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
        queue = self._pools.get(pool)
        if queue is None:
            queue = self._pools[pool] = _PoolQueue()
        place = (-priority, self._arrivals, job_id)
        self._arrivals += 1
        shown = tenant not in self._held_back
        line = queue.lines.get(tenant)
        if line is None:
            line = queue.lines[tenant] = _TenantLine(_next_round(queue, tenant))
            queue.served.discard(tenant)
        elif shown and place < line.places[0]:
            queue.hide(tenant)
        insort(line.places, place)
        queue.depth += 1
        if shown:
            queue.startable += 1
            if line.places[0] is place:
                queue.show(tenant)
        self._waiting[job_id] = Waiting(pool, tenant, input_bytes, place)
        self.bytes += input_bytes

    def pop(self, pool: str) -> str | None:
        """Remove the job whose turn it is and return its id; None: no job waits for this pool, or only jobs of tenants
        that are held back.
        """
        waiting = self.take(pool)
        return None if waiting is None else waiting.job_id

    def take(self, pool: str) -> Waiting | None:
        """Remove the job whose turn it is as `pop` does, and return what `put_back` needs."""
        queue = self._pools.get(pool)
        if not queue or not queue.heads:
            return None
        round, _, _, tenant = queue.heads.pop(0)
        if round > queue.round:
            queue.round = round
            queue.served.clear()
        line = queue.lines[tenant]
        place = line.places.pop(0)
        line.round += 1
        queue.depth -= 1
        queue.startable -= 1
        if line.places:
            queue.show(tenant)
        else:
            queue.end_line(tenant, line.round)
        waiting = self._waiting.pop(place[2])
        self.bytes -= waiting.bytes
        return waiting

    def put_back(self, waiting: Waiting) -> None:
        """Queue a job again, before those of its tenant that came later, and give back the turn that it took."""
        queue, tenant, place = self._pools[waiting.pool], waiting.tenant, waiting.place
        shown = tenant not in self._held_back
        line = queue.lines.get(tenant)
        if line is None:
            line = queue.lines[tenant] = _TenantLine(queue.round)
            queue.served.discard(tenant)
        else:
            if shown:
                queue.hide(tenant)
            line.round = max(queue.round, line.round - 1)
        insort(line.places, place)
        queue.depth += 1
        if shown:
            queue.startable += 1
            queue.show(tenant)
        self._waiting[waiting.job_id] = waiting
        self.bytes += waiting.bytes

    def remove(self, job_id: str) -> Waiting | None:
        """Remove a job (a cancel, a deadline) and return its place. None: it is not in the queue."""
        waiting = self._waiting.pop(job_id, None)
        if waiting is None:
            return None
        self.bytes -= waiting.bytes
        queue, tenant = self._pools[waiting.pool], waiting.tenant
        line, shown = queue.lines[tenant], tenant not in self._held_back
        index = bisect_left(line.places, waiting.place)
        if shown and index == 0:
            queue.hide(tenant)
        del line.places[index]
        queue.depth -= 1
        queue.startable -= shown
        if not line.places:
            queue.end_line(tenant, line.round)
        elif shown and index == 0:
            queue.show(tenant)
        return waiting

    def hold_back(self, tenant: str) -> None:
        """Take none of this tenant's jobs until `let_go`: others go past them."""
        if tenant in self._held_back:
            return
        for queue in self._pools.values():
            line = queue.lines.get(tenant)
            if line is not None:
                queue.hide(tenant)
                queue.startable -= len(line.places)
        self._held_back.add(tenant)

    def let_go(self, tenant: str) -> list[str]:
        """Take this tenant's jobs again. Return the pools for which it has some."""
        if tenant not in self._held_back:
            return []
        self._held_back.remove(tenant)
        pools = []
        for name, queue in self._pools.items():
            line = queue.lines.get(tenant)
            if line is not None:
                line.round = queue.round_of(line)
                queue.show(tenant)
                queue.startable += len(line.places)
                pools.append(name)
        return pools

    def position(self, job_id: str) -> int | None:
        """Return how many jobs of its pool come before this one, if no tenant is held back."""
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return None
        queue = self._pools[waiting.pool]
        line = queue.lines[waiting.tenant]
        ahead = bisect_left(line.places, waiting.place)
        return ahead + _ahead_of(queue, waiting.tenant, queue.round_of(line) + ahead, waiting.place)

    def position_of_new(self, pool: str, tenant: str, priority: int) -> int:
        """Return the position that a job would have if it came now."""
        queue = self._pools.get(pool)
        if queue is None:
            return 0
        place = (-priority, self._arrivals, "")
        line = queue.lines.get(tenant)
        ahead = bisect_left(line.places, place) if line else 0
        round = queue.round_of(line) if line else _next_round(queue, tenant)
        return ahead + _ahead_of(queue, tenant, round + ahead, place)

    def jobs_of(self, pool: str) -> list[str]:
        """Return the pool's jobs in the order in which they would be popped, if no tenant is held back."""
        queue = self._pools.get(pool)
        if queue is None:
            return []
        lines = queue.lines.values()
        return [
            place[2]
            for _, place in sorted(
                (queue.round_of(line) + at, place) for line in lines for at, place in enumerate(line.places)
            )
        ]


def _next_round(queue: _PoolQueue, tenant: str) -> int:
    """Return the round of the first job of a tenant that has none waiting."""
    return queue.round + (tenant in queue.served)


def _ahead_of(queue: _PoolQueue, tenant: str, round: int, place: Place) -> int:
    """Return how many jobs of other tenants come before the place in the round."""
    ahead = 0
    for other, line in queue.lines.items():
        same_round = round - queue.round_of(line)
        if other != tenant and same_round >= 0:
            ahead += min(same_round, len(line.places))
            ahead += same_round < len(line.places) and line.places[same_round] < place
    return ahead
