"""The queue against a model that is slow and obvious."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from killable.supervisor.jobs import backlog
from killable.supervisor.jobs.backlog import Backlog, QueueFull

JOBS_MAX, BYTES_MAX = 12, 40
POOLS, TENANTS, PRIORITIES = "pppq", "abc", (0, 0, 0, -1, 5)
"""Most of it in one line, or no line would ever get long."""


@dataclass
class Waiting:
    id: str
    pool: str
    tenant: str
    priority: int
    size: int
    number: int


@dataclass
class Model:
    """First in, first out for one tenant and priority; nothing else is said of the order, but the fairness below."""

    jobs: list[Waiting] = field(default_factory=list)

    def of(self, pool: str) -> list[Waiting]:
        return [job for job in self.jobs if job.pool == pool]


class Queue(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = Backlog(JOBS_MAX, BYTES_MAX)
        self.model = Model()
        self.number = 0
        self.place: dict[str, int] = {}
        """Of a waiting job among those of its tenant, when it came: 1 is the first. Turns that removed ones had are
        remembered for a while, and count.
        """
        self.removed: Counter[tuple[str, str, int]] = Counter()
        """Of each tenant and priority in a pool, since that was empty."""
        self.passed: dict[str, dict[str, int]] = {}
        """How many jobs of each other tenant have gone before it since."""

    @rule(
        pool=st.sampled_from(POOLS),
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(PRIORITIES),
        size=st.sampled_from((0, 0, 0, 3, 15)),
    )
    def push(self, pool: str, tenant: str, priority: int, size: int) -> None:
        jobs = self.model.jobs
        full = len(jobs) >= JOBS_MAX or sum(job.size for job in jobs) + size > BYTES_MAX
        job = Waiting(f"j{self.number}", pool, tenant, priority, size, self.number)
        self.number += 1
        try:
            self.queue.check(size)
            self.queue.push(job.id, pool=pool, tenant=tenant, priority=priority, input_bytes=size)
        except QueueFull as error:
            assert full
            assert error.bound == ("queue_jobs_max" if len(jobs) >= JOBS_MAX else "queue_bytes_max")
        else:
            assert not full
            self.place[job.id] = len(same_line(self.model.of(pool), job)) + self.removed[line_of(job)] + 1
            self.passed[job.id] = {}
            jobs.append(job)

    @rule(pool=st.sampled_from(POOLS))
    def pop(self, pool: str) -> None:
        waiting = self.model.of(pool)
        job_id = self.queue.pop(pool)
        if not waiting:
            assert job_id is None
            return
        (job,) = [each for each in waiting if each.id == job_id]
        assert job.priority == max(each.priority for each in waiting)
        assert job is same_line(waiting, job)[0]
        self.model.jobs.remove(job)
        for each in waiting:
            if each is not job and each.priority == job.priority and each.tenant != job.tenant:
                counts = self.passed[each.id]
                counts[job.tenant] = counts.get(job.tenant, 0) + 1
                # One for each turn of its own tenant up to it, and one of the round that was going on.
                assert counts[job.tenant] <= self.place[each.id] + 1, (job, each, counts)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if not self.model.jobs:
            assert not self.queue.remove("j-none")
            return
        job = data.draw(st.sampled_from(self.model.jobs))
        assert self.queue.remove(job.id) and not self.queue.remove(job.id)
        self.model.jobs.remove(job)
        self.removed[line_of(job)] += 1

    @invariant()
    def an_empty_line_has_no_past(self) -> None:
        for pool in POOLS:
            if not self.model.of(pool):
                self.removed = Counter({line: n for line, n in self.removed.items() if line[0] != pool})

    @invariant()
    def it_counts_right(self) -> None:
        assert len(self.queue) == len(self.model.jobs)
        assert self.queue.bytes == sum(job.size for job in self.model.jobs)
        for pool in POOLS:
            waiting = {job.id for job in self.model.of(pool)}
            assert self.queue.depth(pool) == len(waiting)
            order = self.queue.jobs_of(pool)
            assert set(order) == waiting and len(order) == len(waiting)
            assert [self.queue.position(job_id) for job_id in order] == list(range(len(order)))

    @invariant()
    def it_remembers_no_more_than_it_holds(self) -> None:
        for line in self.queue._lines.values():
            assert line.removed <= JOBS_MAX + backlog.REMOVED_MAX
            assert line.places or not line.rounds
            assert line.places == sorted(line.places)


def line_of(job: Waiting) -> tuple[str, str, int]:
    return (job.pool, job.tenant, job.priority)


def same_line(waiting: list[Waiting], job: Waiting) -> list[Waiting]:
    return [each for each in waiting if (each.tenant, each.priority) == (job.tenant, job.priority)]


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)


@pytest.mark.row("B11")
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(PRIORITIES)), max_size=60))
def test_between_two_jobs_of_a_tenant_each_other_one_has_at_most_one_turn(jobs: list[tuple[str, int]]) -> None:
    """Of jobs that all wait together: in every round each tenant has one job, in the order in which they came."""
    queue = Backlog(1000, 1000)
    for number, (tenant, priority) in enumerate(jobs):
        queue.push(f"{number}", pool="p", tenant=tenant, priority=priority, input_bytes=0)
    popped = [jobs[int(job_id)] for job_id in queue.jobs_of("p")]
    assert [priority for _, priority in popped] == sorted((priority for _, priority in jobs), reverse=True)
    for wanted in set(PRIORITIES):
        line = [tenant for tenant, priority in popped if priority == wanted]
        counts: dict[str, int] = {}
        rounds = []
        for tenant in line:
            counts[tenant] = counts.get(tenant, 0) + 1
            rounds.append(counts[tenant])
        assert rounds == sorted(rounds)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 7)), max_size=12))
def test_nobody_who_comes_later_overtakes_by_more_than_one(history: list[tuple[str, int, int]]) -> None:
    """After any pushes and pops: before a tenant's i-th waiting job go at most i + 1 of each other tenant."""
    queue = Backlog(1000, 1000)
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


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=200), st.data())
def test_building_anew_changes_no_order(pushes: list[tuple[str, bool]], data: st.DataObject) -> None:
    """The same jobs, once with others beside them that were removed and once without."""
    with_others, alone = Backlog(10_000, 1), Backlog(10_000, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "REMOVED_MAX", data.draw(st.integers(0, 5)))
        for number, (tenant, stays) in enumerate(pushes):
            if stays:
                alone.push(f"{number}", pool="p", tenant=tenant, priority=0, input_bytes=0)
            name = tenant if stays else f"other {number}"
            with_others.push(f"{number}", pool="p", tenant=name, priority=0, input_bytes=0)
        for number, (_, stays) in enumerate(pushes):
            if not stays:
                with_others.remove(f"{number}")
    assert with_others.jobs_of("p") == alone.jobs_of("p")
