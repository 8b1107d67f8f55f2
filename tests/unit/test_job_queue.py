"""The queue: order, fairness, bounds, and that it forgets."""

from __future__ import annotations

import pytest

from killable.supervisor.jobs.job_queue import SERVED_MAX, JobQueue, QueueFull, Selected

BIG = 1 << 40


def job_queue(jobs_max: int = 1000, bytes_max: int = BIG) -> JobQueue:
    return JobQueue(jobs_max, bytes_max)


def push(queue: JobQueue, job_id: str, tenant: str = "ann", priority: int = 0, size: int = 0, pool: str = "p") -> None:
    queue.check(size)
    queue.push(job_id, pool=pool, tenant=tenant, priority=priority, input_bytes=size)


def drain(queue: JobQueue, pool: str = "p") -> list[str]:
    popped = []
    while (job_id := queue.pop(pool)) is not None:
        popped.append(job_id)
    return popped


def test_first_in_first_out() -> None:
    queue = job_queue()
    for job_id in "abc":
        push(queue, job_id)
    assert queue.jobs_of("p") == ["a", "b", "c"]
    assert [queue.position(job_id) for job_id in "abc"] == [0, 1, 2]
    assert drain(queue) == ["a", "b", "c"]
    assert queue.pop("p") is None and len(queue) == 0


@pytest.mark.row("B13")
def test_a_higher_priority_goes_first() -> None:
    queue = job_queue()
    for job_id, priority in [("low", -5), ("usual", 0), ("high", 7), ("high too", 7)]:
        push(queue, job_id, priority=priority)
    assert drain(queue) == ["high", "high too", "usual", "low"]


def test_tenants_take_turns() -> None:
    queue = job_queue()
    for number in range(4):
        push(queue, f"a{number}", "ann")
    push(queue, "b0", "bob")
    push(queue, "c0", "cay")
    push(queue, "b1", "bob")
    assert drain(queue) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_tenant_that_comes_late_waits_for_one_job_of_each_and_no_more() -> None:
    queue = job_queue()
    for number in range(100):
        push(queue, f"a{number}", "ann")
    assert [queue.pop("p") for _ in range(50)] == [f"a{number}" for number in range(50)]
    push(queue, "b", "bob")
    assert drain(queue)[:2] == ["b", "a50"]


def test_a_tenant_with_one_job_at_a_time_does_not_keep_out_one_with_many() -> None:
    queue = job_queue()
    for number in range(10):
        push(queue, f"b{number}", "bob")
    served = []
    for number in range(10):
        push(queue, f"a{number}", "ann")
        served += [queue.pop("p"), queue.pop("p")]
    assert [job_id for job_id in served if job_id and job_id[0] == "b"] == [f"b{number}" for number in range(10)]


def test_a_tenants_urgent_job_goes_before_its_own_that_can_wait() -> None:
    queue = job_queue()
    for number in range(100):
        push(queue, f"slow{number}", "ann", priority=0)
    for number in range(3):
        push(queue, f"b{number}", "bob", priority=5)
    push(queue, "a", "ann", priority=5)
    assert [queue.pop("p") for _ in range(4)] == ["b0", "a", "b1", "slow0"]


def test_no_priority_puts_a_tenants_second_job_before_anothers_first() -> None:
    queue = job_queue()
    push(queue, "running", "ann")
    queue.pop("p")
    for number in range(500):
        push(queue, f"a{number}", "ann", priority=1000)
    push(queue, "b", "bob", priority=-1000)
    assert queue.position("b") == 0 == queue.position_of_new("p", "cay", -5)
    assert [queue.pop("p") for _ in range(3)] == ["b", "a0", "a1"]


def test_within_a_round_the_most_urgent_goes_first() -> None:
    queue = job_queue()
    for tenant, priority in (("ann", 0), ("bob", 7), ("cay", 3)):
        push(queue, f"{tenant} 1", tenant, priority=priority)
        push(queue, f"{tenant} 2", tenant, priority=priority)
    assert drain(queue) == ["bob 1", "cay 1", "ann 1", "bob 2", "cay 2", "ann 2"]


def test_a_tenant_that_is_held_back_lets_others_go_past_and_gets_no_credit_for_it() -> None:
    queue = job_queue()
    for number in range(5):
        push(queue, f"a{number}", "ann", priority=9)
    queue.hold_back("ann")
    assert (queue.depth("p"), queue.startable("p"), queue.pop("p")) == (5, 0, None)
    for number in range(5):
        push(queue, f"b{number}", "bob")
    push(queue, "a5", "ann", priority=10)
    assert (queue.depth("p"), queue.startable("p")) == (11, 5)
    assert [queue.pop("p") for _ in range(3)] == ["b0", "b1", "b2"]
    assert queue.let_go("ann") == ["p"] and queue.let_go("ann") == []
    assert queue.startable("p") == queue.depth("p") == 8
    assert drain(queue) == ["a5", "a0", "b3", "a1", "b4", "a2", "a3", "a4"]


def test_a_job_of_a_tenant_that_is_held_back_can_be_removed() -> None:
    queue = job_queue()
    for job_id in "abc":
        push(queue, job_id)
    queue.hold_back("ann")
    assert queue.remove("a") and queue.remove("c") and queue.startable("p") == 0
    queue.let_go("ann")
    assert drain(queue) == ["b"] and (queue.depth("p"), queue.startable("p")) == (0, 0)
    queue.hold_back("ann")
    push(queue, "d")
    assert queue.remove("d") and queue.let_go("ann") == []


@pytest.mark.row("B11")
def test_an_operator_has_a_tenth_more_room() -> None:
    queue = job_queue(jobs_max=10, bytes_max=100)
    for number in range(10):
        push(queue, f"j{number}", size=10)
    with pytest.raises(QueueFull):
        queue.check(0)
    queue.check(10, more=0.1)
    with pytest.raises(QueueFull) as caught:
        queue.check(11, more=0.1)
    assert (caught.value.bound, caught.value.limit) == ("queue_bytes_max", 110), "which holds"
    push_over(queue, "operator's")
    with pytest.raises(QueueFull, match="of 10, and 1 more for an operator, is reached"):
        queue.check(0, more=0.1)


def push_over(queue: JobQueue, job_id: str) -> None:
    queue.push(job_id, pool="p", tenant="oncall", priority=0, input_bytes=0)


def test_pools_have_lines_of_their_own() -> None:
    queue = job_queue()
    push(queue, "a", pool="p")
    push(queue, "b", pool="q")
    assert (queue.depth("p"), queue.depth("q"), queue.depth("none")) == (1, 1, 0)
    assert (queue.pop("q"), queue.pop("q"), queue.pop("none")) == ("b", None, None)
    assert queue.jobs_of("none") == [] and queue.jobs_of("p") == ["a"]


@pytest.mark.row("B11")
def test_the_number_of_jobs_is_bounded_over_all_pools() -> None:
    queue = job_queue(jobs_max=2)
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
    queue = job_queue(bytes_max=100)
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
    queue = job_queue()
    for job_id in "abcd":
        push(queue, job_id)
    assert queue.remove("b") and queue.remove("d")
    assert not queue.remove("b") and not queue.remove("never there")
    assert (queue.position("b"), queue.position("c"), queue.depth("p")) == (None, 1, 2)
    assert queue.jobs_of("p") == drain(queue) == ["a", "c"]


def test_an_id_that_comes_back_has_its_new_place() -> None:
    queue = job_queue()
    for job_id in "ab":
        push(queue, job_id)
    queue.remove("a")
    push(queue, "a")
    assert drain(queue) == ["b", "a"]


def kept(queue: JobQueue) -> int:
    """How many things the queue remembers."""
    pools = queue._pools.values()
    members = ("tenants", "pinned", "heads", "served")
    return sum(len(getattr(pool, name)) for pool in pools for name in members) + len(queue._waiting)


def test_tenants_that_are_served_are_forgotten_though_the_line_never_gets_empty() -> None:
    queue = job_queue()
    for number in range(10):
        push(queue, f"ever{number}", "ever")
    for number in range(10_000):
        push(queue, f"j{number}", f"tenant {number}")
        push(queue, f"more{number}", "ever")
        queue.pop("p")
        queue.pop("p")
    assert len(queue) == 10
    assert kept(queue) < 100


def test_tenants_that_come_once_are_forgotten_though_the_line_is_often_empty() -> None:
    queue = job_queue()
    for number in range(3 * SERVED_MAX):
        push(queue, f"j{number}", f"tenant {number}")
        queue.pop("p")
    assert kept(queue) <= SERVED_MAX


def test_removed_jobs_leave_no_trace() -> None:
    queue = job_queue()
    push(queue, "stuck")
    before = kept(queue)
    for number in range(1000):
        push(queue, f"j{number}", f"tenant {number}", priority=number % 2001)
        assert queue.remove(f"j{number}")
    assert queue.jobs_of("p") == ["stuck"] and kept(queue) == before


@pytest.mark.row("B16")
def test_room_can_be_kept_for_a_job_that_is_not_queued_yet() -> None:
    queue = job_queue(jobs_max=2, bytes_max=10)
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
    queue = job_queue(jobs_max=1, bytes_max=1)
    for job_id in "abc":
        queue.push(job_id, pool="p", tenant="ann", priority=0, input_bytes=5)
    with pytest.raises(QueueFull):
        push(queue, "d")
    assert drain(queue) == ["a", "b", "c"]


A, B = (("zone", "a"),), (("zone", "b"),)


def pin(queue: JobQueue, job_id: str, selected: Selected, tenant: str = "ann", priority: int = 0) -> None:
    queue.push(job_id, pool="p", tenant=tenant, priority=priority, input_bytes=0, selected=selected)


def test_a_closed_line_keeps_nobody_waiting_and_is_in_its_place_when_it_is_opened() -> None:
    queue = job_queue()
    pin(queue, "a0", A, priority=9)
    pin(queue, "a1", A)
    pin(queue, "any", ())
    pin(queue, "b", B)
    assert queue.next_selector("p") == A
    queue.close_line("p", A)
    assert queue.pop("p") == "any" and queue.next_selector("p") == B
    assert queue.startable("p") == queue.depth("p") == 3
    queue.open_lines("p", [{A}], 1)
    queue.open_lines("p", [{A}], 1)
    assert drain(queue) == ["a0", "a1", "b"]


def test_the_lines_of_a_tenant_share_its_turns() -> None:
    queue = job_queue()
    for number in range(3):
        pin(queue, f"a{number}", A)
        pin(queue, f"b{number}", B)
        pin(queue, f"{number}", ())
    for number in range(4):
        pin(queue, f"bob{number}", B, tenant="bob")
    assert drain(queue) == ["a0", "bob0", "b0", "bob1", "0", "bob2", "a1", "bob3", "b1", "1", "a2", "b2", "2"]


def test_turns_that_a_tenant_could_not_use_while_its_line_was_closed_are_no_credit() -> None:
    queue = job_queue()
    for number in range(3):
        pin(queue, f"a{number}", A)
        pin(queue, f"bob{number}", (), tenant="bob")
        pin(queue, f"cy{number}", (), tenant="cy")
    queue.close_line("p", A)
    assert [queue.pop("p") for _ in range(4)] == ["bob0", "cy0", "bob1", "cy1"]
    queue.open_lines("p", [{A}], 1)
    assert drain(queue) == ["a0", "a1", "bob2", "cy2", "a2"]


def test_tenants_of_a_line_have_turns_also_when_others_have_some_between_its_openings() -> None:
    queue = job_queue()
    for number in range(3):
        pin(queue, f"a{number}", A)
        pin(queue, f"bob{number}", A, tenant="bob")
    for number in range(20):
        pin(queue, f"cy{number}", (), tenant="cy")
    taken = []
    for _ in range(6):
        queue.open_lines("p", [{A}], 1)
        taken.append(next(job_id for _ in range(4) if not (job_id := queue.pop("p") or "").startswith("cy")))
        if queue.has_line("p", A):
            queue.close_line("p", A)
        assert [(queue.pop("p") or "")[:2] for _ in range(2)] == ["cy", "cy"]
    assert taken == ["a0", "bob0", "a1", "bob1", "a2", "bob2"]


def test_positions_count_no_jobs_of_other_closed_lines() -> None:
    queue = job_queue()
    for number in range(5):
        pin(queue, f"a{number}", A, tenant="bob" if number % 2 else "ann")
    pin(queue, "b", B)
    queue.close_line("p", A)
    assert queue.position("b") == 0 and queue.position_of_new("p", "ann", 0) == 1
    assert queue.position_of_new("p", "ann", 0, A) == 6 and queue.position("a2") == 2


def test_a_line_without_jobs_is_open_again() -> None:
    queue = job_queue()
    pin(queue, "a0", A)
    queue.close_line("p", A)
    assert queue.has_line("p", A) and queue.pop("p") is None
    queue.remove("a0")
    assert not queue.has_line("p", A)
    pin(queue, "a1", A)
    assert queue.pop("p") == "a1"
