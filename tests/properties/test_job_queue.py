"""The queue against a model that is slow and obvious."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from killable.supervisor.jobs.job_queue import JobQueue, QueueFull, Selected

JOBS_MAX, BYTES_MAX = 12, 40
POOLS, TENANTS, PRIORITIES = "pppq", "abc", (0, 0, 0, -1, 5)
"""Most of it in one line, or no line would ever get long."""
SELECTED: tuple[Selected, ...] = ((), (), (), (("zone", "a"),), (("zone", "b"),))


@dataclass
class Waiting:
    id: str
    pool: str
    tenant: str
    priority: int
    size: int
    number: int
    selected: Selected

    def order(self) -> tuple[int, int]:
        return (-self.priority, self.number)


@dataclass
class Model:
    """By priority and first in, first out for one tenant; nothing else is said of the order, but the fairness below."""

    jobs: list[Waiting] = field(default_factory=list)

    def of(self, pool: str) -> list[Waiting]:
        return [job for job in self.jobs if job.pool == pool]


class Queue(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue(JOBS_MAX, BYTES_MAX)
        self.model = Model()
        self.number = 0
        self.passed: dict[str, dict[str, int]] = {}
        """Since a job came: how many jobs of each other tenant have gone before one of its own tenant's went."""
        self.held_back: set[str] = set()
        self.closed: set[tuple[str, Selected]] = set()

    @rule(
        pool=st.sampled_from(POOLS),
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(PRIORITIES),
        size=st.sampled_from((0, 0, 0, 3, 15)),
        selected=st.sampled_from(SELECTED),
    )
    def push(self, pool: str, tenant: str, priority: int, size: int, selected: Selected) -> None:
        jobs = self.model.jobs
        full = len(jobs) >= JOBS_MAX or sum(job.size for job in jobs) + size > BYTES_MAX
        job = Waiting(f"j{self.number}", pool, tenant, priority, size, self.number, selected)
        self.number += 1
        try:
            self.queue.check(size)
            self.queue.push(job.id, pool=pool, tenant=tenant, priority=priority, input_bytes=size, selected=selected)
        except QueueFull as error:
            assert full
            assert error.bound == ("queue_jobs_max" if len(jobs) >= JOBS_MAX else "queue_bytes_max")
        else:
            assert not full
            if not any(each.tenant == tenant for each in self.takeable(pool)):
                self.passed.pop(f"{pool} {tenant}", None)
            jobs.append(job)

    def takeable(self, pool: str) -> list[Waiting]:
        jobs = self.model.of(pool)
        return [job for job in jobs if job.tenant not in self.held_back and (pool, job.selected) not in self.closed]

    @rule(pool=st.sampled_from(POOLS))
    def pop(self, pool: str) -> None:
        waiting, selected = self.takeable(pool), self.queue.next_selector(pool)
        job_id = self.queue.pop(pool)
        if not waiting:
            assert job_id is None and selected is None
            return
        (job,) = [each for each in waiting if each.id == job_id]
        assert job.selected == selected
        assert job is min((each for each in waiting if each.tenant == job.tenant), key=Waiting.order)
        self.forget(job)
        self.passed[f"{pool} {job.tenant}"] = {}
        for tenant in {each.tenant for each in waiting} - {job.tenant}:
            counts = self.passed.setdefault(f"{pool} {tenant}", {})
            counts[job.tenant] = counts.get(job.tenant, 0) + 1
            # One in the round that is going on, and one in the next, before it has its own turn there.
            assert counts[job.tenant] <= 2, (job, tenant, counts)

    def forget(self, job: Waiting) -> None:
        """A line without a job is no longer closed."""
        self.model.jobs.remove(job)
        if not any(each.selected == job.selected for each in self.model.of(job.pool)):
            self.closed.discard((job.pool, job.selected))

    @rule(pool=st.sampled_from(POOLS))
    def close_next_line(self, pool: str) -> None:
        selected = self.queue.next_selector(pool)
        if selected:
            self.queue.close_line(pool, selected)
            self.closed.add((pool, selected))

    @rule(pool=st.sampled_from(POOLS), selected=st.sampled_from(SELECTED[-2:]))
    def open_line(self, pool: str, selected: Selected) -> None:
        """For tenants that have turns: a line in which only those wait that are held back stays closed."""
        line = [job for job in self.model.of(pool) if job.selected == selected]
        stays = (pool, selected) in self.closed and all(job.tenant in self.held_back for job in line)
        assert self.queue.open_lines(pool, [{selected}], 1) is stays
        if stays:
            return
        self.closed.discard((pool, selected))
        for tenant in TENANTS:
            self.passed.pop(f"{pool} {tenant}", None)

    @rule(tenant=st.sampled_from(TENANTS))
    def hold_back(self, tenant: str) -> None:
        self.queue.hold_back(tenant)
        self.held_back.add(tenant)

    @rule(tenant=st.sampled_from(TENANTS))
    def let_go(self, tenant: str) -> None:
        pools = {job.pool for job in self.model.jobs if job.tenant == tenant}
        assert set(self.queue.let_go(tenant)) == (pools if tenant in self.held_back else set())
        self.held_back.discard(tenant)
        for pool in POOLS:
            self.passed.pop(f"{pool} {tenant}", None)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if not self.model.jobs:
            assert not self.queue.remove("j-none")
            return
        job = data.draw(st.sampled_from(self.model.jobs))
        assert self.queue.remove(job.id) and not self.queue.remove(job.id)
        self.forget(job)

    @invariant()
    def it_counts_right(self) -> None:
        assert len(self.queue) == len(self.model.jobs)
        assert self.queue.bytes == sum(job.size for job in self.model.jobs)
        for pool in POOLS:
            waiting = {job.id for job in self.model.of(pool)}
            assert self.queue.depth(pool) == len(waiting)
            startable = [job for job in self.model.of(pool) if job.tenant not in self.held_back]
            assert self.queue.startable(pool) == len(startable)
            order = self.queue.jobs_of(pool)
            assert set(order) == waiting and len(order) == len(waiting)
            if not any(name == pool for name, _ in self.closed):
                assert [self.queue.position(job_id) for job_id in order] == list(range(len(order)))
            for selected in SELECTED[1:]:
                waits = any(job.selected == selected for job in self.model.of(pool))
                assert self.queue.has_line(pool, selected) is (waits and selected != ())

    @invariant()
    def its_heads_are_those_of_the_lines(self) -> None:
        for queue in self.queue._pools.values():
            shown = {
                tenant: lines
                for tenant, lines in queue.tenants.items()
                if lines.firsts and tenant not in self.held_back
            }
            assert queue.heads == sorted(map(queue.head, shown))
            for tenant, lines in queue.tenants.items():
                assert all(line == sorted(line) and line for line in lines.lines.values())
                is_open = {key: line[0] for key, line in lines.lines.items() if key not in queue.closed}
                assert lines.firsts == sorted((place, key) for key, place in is_open.items())
                assert all(tenant in queue.pinned[key] for key in lines.lines if key)
            assert set(queue.pinned) >= queue.closed
            assert not queue.served & set(queue.tenants)
            rounds = {lines.round - queue.round for lines in shown.values()}
            assert rounds <= {0, 1}, rounds


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=80, deadline=None)


@pytest.mark.row("B11")
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(PRIORITIES)), max_size=60))
def test_between_two_jobs_of_a_tenant_each_other_one_has_at_most_one_turn(jobs: list[tuple[str, int]]) -> None:
    """Of jobs that all wait together, whatever their priorities: in every round each tenant has one job."""
    queue = JobQueue(1000, 1000)
    for number, (tenant, priority) in enumerate(jobs):
        queue.push(f"{number}", pool="p", tenant=tenant, priority=priority, input_bytes=0)
    popped = [jobs[int(job_id)] for job_id in queue.jobs_of("p")]
    counts: Counter[str] = Counter()
    rounds = []
    for tenant, _ in popped:
        counts[tenant] += 1
        rounds.append(counts[tenant])
    assert rounds == sorted(rounds)
    for wanted in set(rounds):
        turn = [priority for (_, priority), number in zip(popped, rounds, strict=True) if number == wanted]
        assert turn == sorted(turn, reverse=True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 7)), max_size=12))
def test_nobody_who_comes_later_overtakes_by_more_than_one(history: list[tuple[str, int, int]]) -> None:
    """After any pushes and pops: before a tenant's i-th waiting job go at most i + 1 of each other tenant."""
    queue = JobQueue(1000, 1000)
    tenants: dict[str, str] = {}
    for tenant, pushes, pops in history:
        for _ in range(pushes):
            job_id = f"{len(tenants)}"
            tenants[job_id] = tenant
            queue.push(job_id, pool="p", tenant=tenant, priority=0, input_bytes=0)
        for _ in range(pops):
            queue.pop("p")
        gone_before: dict[str, int] = {}
        for job_id in queue.jobs_of("p"):
            own = tenants[job_id]
            gone_before[own] = gone_before.get(own, 0) + 1
            for other, count in gone_before.items():
                assert other == own or count <= gone_before[own] + 1, queue.jobs_of("p")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=200))
def test_removed_jobs_change_no_order(pushes: list[tuple[str, bool]]) -> None:
    """The same jobs, once with others beside them that were removed and once without."""
    with_others, alone = JobQueue(10_000, 1), JobQueue(10_000, 1)
    for number, (tenant, stays) in enumerate(pushes):
        if stays:
            alone.push(f"{number}", pool="p", tenant=tenant, priority=0, input_bytes=0)
        with_others.push(f"{number}", pool="p", tenant=tenant, priority=0, input_bytes=0)
    for number, (_, stays) in enumerate(pushes):
        if not stays:
            with_others.remove(f"{number}")
    assert with_others.jobs_of("p") == alone.jobs_of("p")
