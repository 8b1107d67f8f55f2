"""The queue: order, fairness, bounds, and that it forgets."""

from __future__ import annotations

import pytest

from killable.supervisor.jobs.backlog import REMOVED_MAX, Backlog, QueueFull

BIG = 1 << 40


def backlog(jobs_max: int = 1000, bytes_max: int = BIG) -> Backlog:
    return Backlog(jobs_max, bytes_max)


def push(queue: Backlog, job_id: str, tenant: str = "ann", priority: int = 0, size: int = 0, pool: str = "p") -> None:
    queue.check(size)
    queue.push(job_id, pool=pool, tenant=tenant, priority=priority, input_bytes=size)


def drain(queue: Backlog, pool: str = "p") -> list[str]:
    popped = []
    while (job_id := queue.pop(pool)) is not None:
        popped.append(job_id)
    return popped


def test_first_in_first_out() -> None:
    queue = backlog()
    for job_id in "abc":
        push(queue, job_id)
    assert queue.jobs_of("p") == ["a", "b", "c"]
    assert [queue.position(job_id) for job_id in "abc"] == [0, 1, 2]
    assert drain(queue) == ["a", "b", "c"]
    assert queue.pop("p") is None and len(queue) == 0


@pytest.mark.row("B13")
def test_a_higher_priority_goes_first() -> None:
    queue = backlog()
    for job_id, priority in [("low", -5), ("usual", 0), ("high", 7), ("high too", 7)]:
        push(queue, job_id, priority=priority)
    assert drain(queue) == ["high", "high too", "usual", "low"]


def test_tenants_take_turns() -> None:
    queue = backlog()
    for number in range(4):
        push(queue, f"a{number}", "ann")
    push(queue, "b0", "bob")
    push(queue, "c0", "cay")
    push(queue, "b1", "bob")
    assert drain(queue) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_tenant_that_comes_late_waits_for_one_job_of_each_and_no_more() -> None:
    queue = backlog()
    for number in range(100):
        push(queue, f"a{number}", "ann")
    assert [queue.pop("p") for _ in range(50)] == [f"a{number}" for number in range(50)]
    push(queue, "b", "bob")
    assert drain(queue)[:2] == ["b", "a50"]


def test_a_tenant_with_one_job_at_a_time_does_not_keep_out_one_with_many() -> None:
    queue = backlog()
    for number in range(10):
        push(queue, f"b{number}", "bob")
    served = []
    for number in range(10):
        push(queue, f"a{number}", "ann")
        served += [queue.pop("p"), queue.pop("p")]
    assert [job_id for job_id in served if job_id and job_id[0] == "b"] == [f"b{number}" for number in range(10)]


def test_turns_are_taken_within_one_priority() -> None:
    """A hundred jobs that can wait do not put a tenant's urgent one behind those of another."""
    queue = backlog()
    for number in range(100):
        push(queue, f"slow{number}", "ann", priority=0)
    for number in range(3):
        push(queue, f"b{number}", "bob", priority=5)
    push(queue, "a", "ann", priority=5)
    assert [queue.pop("p") for _ in range(4)] == ["b0", "a", "b1", "b2"]
    push(queue, "new", "cay", priority=0)
    assert [queue.pop("p") for _ in range(2)] == ["slow0", "new"]


def test_pools_have_lines_of_their_own() -> None:
    queue = backlog()
    push(queue, "a", pool="p")
    push(queue, "b", pool="q")
    assert (queue.depth("p"), queue.depth("q"), queue.depth("none")) == (1, 1, 0)
    assert (queue.pop("q"), queue.pop("q"), queue.pop("none")) == ("b", None, None)
    assert queue.jobs_of("none") == [] and queue.jobs_of("p") == ["a"]


@pytest.mark.row("B11")
def test_the_number_of_jobs_is_bounded_over_all_pools() -> None:
    queue = backlog(jobs_max=2)
    push(queue, "a", pool="p")
    push(queue, "b", pool="q")
    with pytest.raises(QueueFull) as caught:
        push(queue, "c", pool="r")
    assert (caught.value.bound, caught.value.limit) == ("queue_jobs_max", 2)
    assert len(queue) == 2 and queue.depth("r") == 0
    queue.pop("p")
    push(queue, "c", pool="r")


@pytest.mark.row("B11")
def test_the_bytes_are_bounded() -> None:
    queue = backlog(bytes_max=100)
    push(queue, "a", size=60)
    with pytest.raises(QueueFull) as caught:
        queue.check(41)
    assert (caught.value.bound, caught.value.limit) == ("queue_bytes_max", 100)
    push(queue, "b", size=40)
    assert queue.bytes == 100
    queue.remove("a")
    queue.pop("p")
    assert queue.bytes == 0


def test_a_removed_job_does_not_come_up() -> None:
    queue = backlog()
    for job_id in "abcd":
        push(queue, job_id)
    assert queue.remove("b") and queue.remove("d")
    assert not queue.remove("b") and not queue.remove("never there")
    assert (queue.position("b"), queue.position("c"), queue.depth("p")) == (None, 1, 2)
    assert queue.jobs_of("p") == drain(queue) == ["a", "c"]


def test_an_id_that_comes_back_has_its_new_place() -> None:
    queue = backlog()
    for job_id in "ab":
        push(queue, job_id)
    queue.remove("a")
    push(queue, "a")
    assert drain(queue) == ["b", "a"]


def kept(queue: Backlog) -> int:
    """How many things the queue remembers."""
    lines = queue._lines.values()
    return sum(len(line.places) + sum(1 + len(rounds.last) for rounds in line.rounds.values()) for line in lines)


def test_tenants_that_are_served_are_forgotten_though_the_line_never_gets_empty() -> None:
    queue = backlog()
    for number in range(10):
        push(queue, f"ever{number}", "ever")
    for number in range(10_000):
        push(queue, f"j{number}", f"tenant {number}")
        push(queue, f"more{number}", "ever")
        queue.pop("p")
        queue.pop("p")
    assert len(queue) == 10
    assert kept(queue) < 100


def test_removed_jobs_are_forgotten_though_nothing_is_ever_popped() -> None:
    queue = backlog()
    push(queue, "stuck")
    for number in range(10_000):
        push(queue, f"j{number}", f"tenant {number}", priority=number % 2001)
        assert queue.remove(f"j{number}")
    assert queue.jobs_of("p") == ["stuck"]
    assert kept(queue) <= 2 * (REMOVED_MAX + 5) + REMOVED_MAX


def test_building_anew_keeps_the_order_and_the_turns() -> None:
    queue, small = backlog(), backlog()
    for number in range(300):
        push(queue, f"gone{number}", "dan")
        for each in (queue, small):
            if number % 30 == 0:
                push(each, f"a{number}", "ann")
                push(each, f"b{number}", "bob" if number % 60 else "ann")
    for number in range(300):
        queue.remove(f"gone{number}")
    assert queue.jobs_of("p") == small.jobs_of("p")
    for each in (queue, small):
        push(each, "late", "bob")
        push(each, "new", "cay")
    assert drain(queue) == drain(small)


def test_an_empty_queue_remembers_nothing() -> None:
    queue = backlog()
    for number in range(100):
        push(queue, f"j{number}", f"tenant {number}", priority=number)
    for number in range(0, 100, 2):
        queue.remove(f"j{number}")
    drain(queue)
    assert kept(queue) == 0
    push(queue, "x")
    queue.remove("x")
    assert kept(queue) == 0


@pytest.mark.row("B16")
def test_room_can_be_kept_for_a_job_that_is_not_queued_yet() -> None:
    queue = backlog(jobs_max=2, bytes_max=10)
    queue.hold(8)
    push(queue, "a", size=2)
    assert (len(queue), queue.bytes, queue.depth("p")) == (2, 10, 1)
    with pytest.raises(QueueFull):
        push(queue, "b")
    queue.release(8)
    push(queue, "b", size=8)
    assert drain(queue) == ["a", "b"] and queue.bytes == 0


@pytest.mark.row("B16")
def test_a_job_that_was_accepted_before_is_queued_over_the_bounds() -> None:
    queue = backlog(jobs_max=1, bytes_max=1)
    for job_id in "abc":
        queue.push(job_id, pool="p", tenant="ann", priority=0, input_bytes=5)
    with pytest.raises(QueueFull):
        push(queue, "d")
    assert drain(queue) == ["a", "b", "c"]
