"""The queue: bounded in jobs and bytes, fair between tenants, ordered by priority, first in first out within one.

Runs in: supervisor. Pure.

A job may select its nodes. Jobs of one tenant with the same selector are one line; a tenant's lines share its turns. A
line whose nodes are all busy is closed until one of them is free: it keeps nobody waiting. What a turn costs grows with
the logarithm of the jobs, and with the number of lines that are opened or closed: of those whose nodes have a slot
again, no more than there are such slots. They are found in the order of their turns, past those that do not fit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from itertools import islice
from math import ceil

from killable.workers.named_tuples import NamedTuple

Selected = tuple[tuple[str, str], ...]
"""The selector of a job, as sorted pairs of a label and its condition; empty: it may run on any node."""

Place = tuple[int, int, str]
"""Sort key of a waiting job among those of its tenant: (-priority, arrival number, job id)."""

Head = tuple[int, int, int, str]
"""Sort key of a tenant among those of a pool: the round of its first job, and that job's place without its id."""

PRIORITY_MAX = 1000
"""The highest priority of a job; the lowest one is -1000."""

SERVED_MAX = 1000
"""Tenants without a waiting job that are remembered as served; without this bound nothing would forget them."""


class QueueFull(Exception):
    """The queue has reached a bound, whose setting is `bound`; `limit` has what an operator has more, too."""

    def __init__(self, bound: str, setting: int, more: int = 0) -> None:
        self.bound, self.limit = bound, setting + more
        super().__init__(f"{bound} of {setting}{f', and {more} more for an operator,' if more else ''} is reached")


class _TenantLines:
    """The jobs of one tenant that wait for one pool; at least one."""

    __slots__ = ("firsts", "lines", "round", "shut")

    def __init__(self, round: int) -> None:
        self.round = round
        """The round of its next job; each job behind it has the next one."""
        self.lines: dict[Selected, list[Place]] = {}
        """None is empty. Sorted, not heaps: positions are queried as often as jobs are taken, and moving a thousand
        pointers takes less than a microsecond.
        """
        self.firsts: list[tuple[Place, Selected]] = []
        """Sorted: the first job of each line that is open."""
        self.shut: list[tuple[Place, Selected]] = []
        """The same of those that are closed."""


class _PoolQueue:
    """The queue of one pool. In each round, every tenant has one turn."""

    __slots__ = ("closed", "depth", "heads", "pinned", "round", "served", "shut", "startable", "tenants")

    def __init__(self) -> None:
        self.tenants: dict[str, _TenantLines] = {}
        """Each that is shown has a round of `round` or the one after it."""
        self.heads: list[Head] = []
        """Sorted; one for each tenant that is not held back and has an open line."""
        self.round = 0
        """Of the job that was taken last."""
        self.served: set[str] = set()
        """Tenants without a waiting job that have had their turn in this round."""
        self.depth = 0
        self.startable = 0
        """Jobs of tenants that are not held back."""
        self.pinned: dict[Selected, dict[str, None]] = {}
        """By selector, if a job waits that has one: the tenants of such jobs."""
        self.closed: set[Selected] = set()
        """Those of which no node has a free slot."""
        self.shut: dict[str, None] = {}
        """Tenants with such jobs."""

    def head(self, tenant: str) -> Head:
        lines = self.tenants[tenant]
        return (lines.round, *lines.firsts[0][0][:2], tenant)

    def show(self, tenant: str) -> None:
        """Give a tenant turns, if it has an open line. What it could not use before is no credit."""
        lines = self.tenants[tenant]
        if lines.firsts:
            lines.round = self.round_of(lines)
            insort(self.heads, self.head(tenant))

    def hide(self, tenant: str) -> None:
        if self.tenants[tenant].firsts:
            del self.heads[bisect_left(self.heads, self.head(tenant))]

    def round_of(self, lines: _TenantLines) -> int:
        """Return the round of a tenant's next job: what it could not use while it was held back is no credit."""
        return max(lines.round, self.round)

    def add(self, tenant: str, selected: Selected, place: Place) -> None:
        """Add a job of a tenant that is hidden."""
        lines = self.tenants[tenant]
        places = lines.lines.get(selected)
        if places is None:
            places = lines.lines[selected] = []
            if selected:
                self.pinned.setdefault(selected, {})[tenant] = None
        firsts = self._firsts(lines, selected)
        if places:
            _take_out(firsts, places, selected)
        insort(places, place)
        insort(firsts, (places[0], selected))
        self._note_shut(tenant, lines)
        self.depth += 1

    def drop(self, tenant: str, selected: Selected, place: Place) -> None:
        """Remove a job of a tenant that is hidden."""
        lines = self.tenants[tenant]
        places = lines.lines[selected]
        firsts = self._firsts(lines, selected)
        _take_out(firsts, places, selected)
        del places[bisect_left(places, place)]
        if places:
            insort(firsts, (places[0], selected))
        else:
            del lines.lines[selected]
            self._unpin(tenant, selected)
        self._note_shut(tenant, lines)
        self.depth -= 1

    def _note_shut(self, tenant: str, lines: _TenantLines) -> None:
        if lines.shut:
            self.shut[tenant] = None
        elif self.shut:
            self.shut.pop(tenant, None)

    def _firsts(self, lines: _TenantLines, selected: Selected) -> list[tuple[Place, Selected]]:
        """Return where the first job of a line is."""
        return lines.shut if selected in self.closed else lines.firsts

    def _unpin(self, tenant: str, selected: Selected) -> None:
        """Forget that a tenant has jobs with this selector; and the selector, if no other one has."""
        if selected:
            tenants = self.pinned[selected]
            del tenants[tenant]
            if not tenants:
                del self.pinned[selected]
                self.closed.discard(selected)

    def set_open(self, selected: Selected, held_back: set[str], *, is_open: bool) -> None:
        """Open or close the lines of a selector, which must be the other."""
        if is_open:
            self._catch_up(selected)
        for tenant in self.pinned[selected]:
            shown = tenant not in held_back
            if shown:
                self.hide(tenant)
            lines = self.tenants[tenant]
            places = lines.lines[selected]
            was, becomes = (lines.shut, lines.firsts) if is_open else (lines.firsts, lines.shut)
            _take_out(was, places, selected)
            insort(becomes, (places[0], selected))
            if shown:
                self.show(tenant)
            self._note_shut(tenant, lines)
        if is_open:
            self.closed.remove(selected)
        else:
            self.closed.add(selected)

    def first_closed(self, fit: Collection[AbstractSet[Selected]], held_back: set[str], most: int) -> set[Selected]:
        """Return the closed lines in one of these sets that have the first jobs of each tenant that is not held back,
        so many of each.
        """
        found: set[Selected] = set()
        for tenant in self.shut:
            if tenant not in held_back:
                found.update(self._first_closed(self.tenants[tenant], fit, most))
        return found

    def _first_closed(
        self, lines: _TenantLines, fit: Collection[AbstractSet[Selected]], most: int
    ) -> Iterable[Selected]:
        """Return those of one tenant. So many lines are looked at, twice at most, as there are, or as fit."""
        number = sum(map(len, fit))
        found: list[Selected] = []
        for _, selected in islice(lines.shut, number):
            if len(found) == most:
                return found
            if any(selected in each for each in fit):
                found.append(selected)
        if len(found) == most or number >= len(lines.shut):
            return found
        fitting = {selected for each in fit for selected in each if selected in self.closed and selected in lines.lines}
        return nsmallest(most, fitting, key=lambda selected: lines.lines[selected][0])

    def has_closed(self, fit: Collection[AbstractSet[Selected]]) -> bool:
        """Return whether a line in one of these sets is closed."""
        return any(not self.closed.isdisjoint(each) for each in fit)

    def _catch_up(self, selected: Selected) -> None:
        """Have tenants that had no open line begin in this round: those that had a turn last come after the others."""
        hidden = [lines for tenant in self.pinned[selected] if not (lines := self.tenants[tenant]).firsts]
        behind = max((self.round - lines.round for lines in hidden), default=0)
        for lines in hidden:
            lines.round = min(lines.round + behind, self.round + 1) if behind > 0 else lines.round

    def end_tenant(self, tenant: str) -> None:
        """Forget a tenant without a waiting job, except that it was served in this round."""
        if self.tenants.pop(tenant).round > self.round:
            if len(self.served) >= SERVED_MAX:
                self.served.clear()
            self.served.add(tenant)

    def ahead_in(self, tenant: str, selected: Selected, place: Place) -> int:
        """Return how many jobs of a tenant come before a place, in that line and in those that are open."""
        lines = self.tenants.get(tenant)
        return 0 if lines is None else sum(bisect_left(each, place) for each in self.lines_of(lines, selected))

    def lines_of(self, lines: _TenantLines, selected: Selected) -> Iterator[list[Place]]:
        """Yield the open lines of a tenant, and that of the selector."""
        for _, key in lines.firsts:
            yield lines.lines[key]
        if selected in self.closed and selected in lines.lines:
            yield lines.lines[selected]


class Waiting(NamedTuple):
    """One job in the queue."""

    pool: str
    tenant: str
    bytes: int
    place: Place
    selected: Selected = ()

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

    def check(self, input_bytes: int, *, more: float = 0.0) -> None:
        """Raise QueueFull when there is no room for one more job with an input of this size.

        There is more room by this share of it, rounded up.
        """
        more_jobs, more_bytes = (ceil(most * more) for most in (self._jobs_max, self._bytes_max))
        if len(self) >= self._jobs_max + more_jobs:
            raise QueueFull("queue_jobs_max", self._jobs_max, more_jobs)
        if self.bytes + input_bytes > self._bytes_max + more_bytes:
            raise QueueFull("queue_bytes_max", self._bytes_max, more_bytes)

    def hold(self, input_bytes: int) -> None:
        """Reserve room for a job that is not queued yet."""
        self._held += 1
        self.bytes += input_bytes

    def release(self, input_bytes: int) -> None:
        """Release room that `hold` has reserved."""
        self._held -= 1
        self.bytes -= input_bytes

    def push(
        self, job_id: str, *, pool: str, tenant: str, priority: int, input_bytes: int, selected: Selected = ()
    ) -> None:
        """Queue a job. The bounds apply to new jobs only (`check`): an accepted job always has room."""
        place = (-priority, self._arrivals, job_id)
        self._arrivals += 1
        self._add(Waiting(pool, tenant, input_bytes, place, selected))

    def _add(self, waiting: Waiting, turns: int = 0) -> None:
        """Queue a job, and give its tenant back so many turns."""
        tenant = waiting.tenant
        queue = self._pools.get(waiting.pool)
        if queue is None:
            queue = self._pools[waiting.pool] = _PoolQueue()
        shown = tenant not in self._held_back
        lines = queue.tenants.get(tenant)
        if lines is None:
            lines = queue.tenants[tenant] = _TenantLines(queue.round if turns else _next_round(queue, tenant))
            queue.served.discard(tenant)
        else:
            if shown:
                queue.hide(tenant)
            lines.round = max(queue.round, lines.round - turns) if turns else lines.round
        queue.add(tenant, waiting.selected, waiting.place)
        if shown:
            queue.startable += 1
            queue.show(tenant)
        self._waiting[waiting.job_id] = waiting
        self.bytes += waiting.bytes

    def pop(self, pool: str) -> str | None:
        """Remove the job whose turn it is and return its id; None: no job waits for this pool, or only jobs of tenants
        that are held back, and of closed lines.
        """
        waiting = self.take(pool)
        return None if waiting is None else waiting.job_id

    def take(self, pool: str) -> Waiting | None:
        """Remove the job whose turn it is as `pop` does, and return what `put_back` needs."""
        queue = self._pools.get(pool)
        if not queue or not queue.heads:
            return None
        round, _, _, tenant = queue.heads[0]
        if round > queue.round:
            queue.round = round
            queue.served.clear()
        lines = queue.tenants[tenant]
        waiting = self._waiting[lines.firsts[0][0][2]]
        self._drop(queue, waiting, turns=1)
        return waiting

    def _drop(self, queue: _PoolQueue, waiting: Waiting, turns: int = 0) -> None:
        """Remove a job, which takes so many turns of its tenant."""
        tenant = waiting.tenant
        shown = tenant not in self._held_back
        if shown:
            queue.hide(tenant)
            queue.startable -= 1
        queue.drop(tenant, waiting.selected, waiting.place)
        lines = queue.tenants[tenant]
        lines.round += turns
        if not lines.lines:
            queue.end_tenant(tenant)
        elif shown:
            queue.show(tenant)
        del self._waiting[waiting.job_id]
        self.bytes -= waiting.bytes

    def put_back(self, waiting: Waiting) -> None:
        """Queue a job again, before those of its tenant that came later, and give back the turn that it took."""
        self._add(waiting, turns=1)

    def remove(self, job_id: str) -> Waiting | None:
        """Remove a job (a cancel, a deadline) and return its place. None: it is not in the queue."""
        waiting = self._waiting.get(job_id)
        if waiting is not None:
            self._drop(self._pools[waiting.pool], waiting)
        return waiting

    # ── lines of selectors ──

    def waiting_by_selector(self, pool: str) -> Counter[Selected]:
        """Return how many jobs of a pool wait only for a worker, by their selectors."""
        waiting: Counter[Selected] = Counter()
        queue = self._pools.get(pool)
        for tenant, lines in queue.tenants.items() if queue else ():
            if tenant not in self._held_back:
                waiting.update({selected: len(places) for selected, places in lines.lines.items()})
        return waiting

    def next_selector(self, pool: str) -> Selected | None:
        """Return the selector of the job whose turn it is; None: there is none, as in `pop`."""
        queue = self._pools.get(pool)
        if not queue or not queue.heads:
            return None
        return queue.tenants[queue.heads[0][3]].firsts[0][1]

    def close_line(self, pool: str, selected: Selected) -> None:
        """Take no job with this selector until `open_lines`: others go past them."""
        self._pools[pool].set_open(selected, self._held_back, is_open=False)

    def open_lines(self, pool: str, fit: Collection[AbstractSet[Selected]], most: int) -> bool:
        """Open lines so that whoever has a turn finds its jobs for `most` free slots, whose nodes fit the selectors in
        one of these sets. Return whether another one of them stays closed.

        A tenant that is held back has no turn.
        """
        queue = self._pools.get(pool)
        if queue is None or not queue.closed:
            return False
        for selected in queue.first_closed(fit, self._held_back, most):
            queue.set_open(selected, self._held_back, is_open=True)
        return queue.has_closed(fit)

    def has_line(self, pool: str, selected: Selected) -> bool:
        """Return whether a job with this selector waits."""
        queue = self._pools.get(pool)
        return queue is not None and selected in queue.pinned

    def hold_back(self, tenant: str) -> None:
        """Take none of this tenant's jobs until `let_go`: others go past them."""
        if tenant in self._held_back:
            return
        for queue in self._pools.values():
            lines = queue.tenants.get(tenant)
            if lines is not None:
                queue.hide(tenant)
                queue.startable -= sum(map(len, lines.lines.values()))
        self._held_back.add(tenant)

    def let_go(self, tenant: str) -> list[str]:
        """Take this tenant's jobs again. Return the pools for which it has some."""
        if tenant not in self._held_back:
            return []
        self._held_back.remove(tenant)
        pools = []
        for name, queue in self._pools.items():
            lines = queue.tenants.get(tenant)
            if lines is not None:
                queue.show(tenant)
                queue.startable += sum(map(len, lines.lines.values()))
                pools.append(name)
        return pools

    def position(self, job_id: str) -> int | None:
        """Return how many jobs of its pool come before this one, if no tenant is held back. Jobs of other closed lines
        do not.
        """
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return None
        queue = self._pools[waiting.pool]
        ahead = queue.ahead_in(waiting.tenant, waiting.selected, waiting.place)
        return ahead + _ahead_of(queue, waiting, queue.round_of(queue.tenants[waiting.tenant]) + ahead)

    def position_of_new(self, pool: str, tenant: str, priority: int, selected: Selected = ()) -> int:
        """Return the position that a job would have if it came now."""
        queue = self._pools.get(pool)
        if queue is None:
            return 0
        waiting = Waiting(pool, tenant, 0, (-priority, self._arrivals, ""), selected)
        lines = queue.tenants.get(tenant)
        ahead = queue.ahead_in(tenant, selected, waiting.place)
        round = queue.round_of(lines) if lines else _next_round(queue, tenant)
        return ahead + _ahead_of(queue, waiting, round + ahead)

    def jobs_of(self, pool: str) -> list[str]:
        """Return the pool's jobs in the order in which they would be popped, if no tenant is held back and no line is
        closed.
        """
        queue = self._pools.get(pool)
        if queue is None:
            return []
        return [
            place[2]
            for _, place in sorted(
                (queue.round_of(lines) + at, place)
                for lines in queue.tenants.values()
                for at, place in enumerate(sorted(place for line in lines.lines.values() for place in line))
            )
        ]


def _take_out(firsts: list[tuple[Place, Selected]], places: list[Place], selected: Selected) -> None:
    """Remove the first job of a line from where the first jobs are."""
    del firsts[bisect_left(firsts, (places[0], selected))]


def _next_round(queue: _PoolQueue, tenant: str) -> int:
    """Return the round of the first job of a tenant that has none waiting."""
    return queue.round + (tenant in queue.served)


def _ahead_of(queue: _PoolQueue, waiting: Waiting, round: int) -> int:
    """Return how many jobs of other tenants come before a job that has this round."""
    ahead = 0
    for other, lines in queue.tenants.items():
        same_round = round - queue.round_of(lines)
        if other != waiting.tenant and same_round >= 0:
            each = list(queue.lines_of(lines, waiting.selected))
            ahead += min(same_round, sum(map(len, each)))
            ahead += sum(bisect_left(line, waiting.place) for line in each) > same_round
    return ahead
