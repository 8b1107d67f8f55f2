"""When a busy worker is looked at, and what a sample decides."""

from __future__ import annotations

import pytest

from killable.supervisor.attempts.measuring_pace import (
    BYTES_PER_S,
    COST_SHARE,
    LOOK_S,
    PROOF_SHARE,
    step_s,
)
from killable.supervisor.attempts.resource_limits import ResourceWatch
from killable.supervisor.jobs.effective_limits import is_watched
from killable.supervisor.linux.oom_counter import counted, own_limit_struck
from killable.supervisor.ports import UNCOUNTED_S_MAX, Sample
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.headroom_over_limits import HARD_FACTOR, hard_limit_bytes

MB = 1_000_000
BASE = Sample(own_bytes=50 * MB, cpu_s=7.0)
WATCHED = ("memory_bytes", "cpu_s", "processes_max", "threads_max", "tmp_bytes")
NONE = over(DEFAULT_LIMITS, dict.fromkeys(WATCHED))


def watch(**limits: object) -> ResourceWatch:
    return ResourceWatch(over(NONE, limits), BASE, cores=2)


def grown(own: int, others: int = 0, processes: int = 1, *, proven: bool = False) -> Sample:
    return Sample(BASE.own_bytes + own * MB, others * MB, processes, proven=proven)


def test_nothing_is_watched_without_a_limit() -> None:
    assert not is_watched(NONE)
    for limit in WATCHED:
        assert is_watched(over(NONE, {limit: 1}))
    assert is_watched(DEFAULT_LIMITS)


def test_the_growth_counts_and_not_what_was_there() -> None:
    one = watch(memory_bytes=100 * MB)
    assert one.look(grown(100), 0.0).verdict is None
    look = one.look(grown(101), 0.0)
    assert look.verdict is not None and not look.beyond and not look.prove
    facts = dict(look.verdict.facts)
    assert facts.pop("message") == "memory_bytes of 95 MiB was reached: its process had grown by 96 MiB"
    assert facts == {"limit": "memory_bytes", "limit_bytes": 100 * MB, "measured_bytes": 101 * MB, "processes": 1}
    assert (look.verdict.code, look.verdict.by) == ("limit.memory", "supervisor")


def test_no_machine_fills_what_is_left_before_the_next_look() -> None:
    one = watch(memory_bytes=1000 * MB)
    waits = [one.look(grown(used), 10.0).next_at - 10.0 for used in (0, 500, 990, 1000)]
    assert waits == sorted(waits, reverse=True)
    soonest = 1000 * MB / (2 * BYTES_PER_S)
    assert soonest - LOOK_S < waits[0] <= soonest
    assert waits[-1] == waits[-2] == pytest.approx(LOOK_S)
    assert one.look(grown(1001), 10.0).next_at == pytest.approx(10.0 + LOOK_S)


def test_jobs_with_the_same_limits_are_measured_as_often_and_as_their_limits_and_the_cost_allow() -> None:
    of = [watch(memory_bytes=1000 * MB).look(grown(used), 10.0).holds_s for used in (0, 30, 970)]
    assert None not in of
    steps = [step_s(holds_s or 0.0, 0.0) for holds_s in of]
    assert steps[0] == steps[1] > LOOK_S and 0 < steps[0] <= (of[1] or 0.0)
    assert steps[2] == LOOK_S, "so near to its limit it is looked at as often as may be, also with many processors"
    assert step_s(of[0] or 0.0, steps[0] / COST_SHARE + 0.0001) == 0.0, "a measurement that takes long is not repeated"


def test_a_sum_that_may_count_pages_twice_is_no_verdict_but_asks_for_a_proof() -> None:
    one = watch(memory_bytes=100 * MB)
    look = one.look(grown(60, 60, 2), 0.0)
    assert (look.verdict, look.prove) == (None, True)
    assert one.look(grown(60, 60, 2, proven=True), 0.0).verdict is not None
    assert one.look(grown(60, 30, 2, proven=True), 0.0).verdict is None
    # What the worker alone has is sure.
    assert one.look(grown(101, 60, 2), 0.0).verdict is not None


def test_a_proof_is_not_repeated_before_it_can_come_out_otherwise() -> None:
    one = watch(memory_bytes=100 * MB).proven(grown(60, 20, 2, proven=True)._replace(cost_s=0.01), now=5.0)
    assert one.prove_at == pytest.approx(5.0 + PROOF_SHARE * 0.01)
    early = one.look(grown(60, 60, 2), 5.01)
    assert (early.verdict, early.prove, early.next_at) == (None, False, pytest.approx(one.prove_at))
    assert one.look(grown(60, 60, 2), one.prove_at).prove


def test_beyond_the_hard_limit_there_is_no_grace() -> None:
    one = watch(memory_bytes=200 * MB)
    assert hard_limit_bytes(200 * MB) == 250 * MB and hard_limit_bytes(20 * MB) > 50 * MB
    assert not one.look(grown(250), 0.0).beyond
    assert one.look(grown(251), 0.0).beyond
    # In the grace the others' share has to be proven, too.
    look = one.look(grown(210, 100, 2), 0.0)
    assert look.verdict is not None and (look.beyond, look.prove) == (False, True)
    assert one.look(grown(210, 100, 2, proven=True), 0.0).beyond
    many = watch(processes_max=8)
    assert [many.look(Sample(0, 0, n), 0.0).beyond for n in (8, 9, 10, 11)] == [False, False, False, True]


def test_processor_time_of_earlier_jobs_does_not_count_and_all_cores_do() -> None:
    one = watch(cpu_s=10.0)
    assert one.look(Sample(0, cpu_s=7.0), 0.0).next_at == 5.0
    assert one.look(Sample(0, cpu_s=16.999), 0.0).next_at == LOOK_S
    look = one.look(Sample(0, 0, 3, cpu_s=17.0), 0.0)
    assert look.verdict is not None and not look.beyond
    assert look.verdict.code == "limit.cpu"
    assert look.verdict.facts["message"] == (
        "cpu_s of 10 s was reached: its 3 processes had used 10 s of processor time"
    )
    assert (look.verdict.facts["limit_s"], look.verdict.facts["measured_s"]) == (10.0, 10.0)


def test_as_many_processes_as_allowed_are_allowed() -> None:
    one = watch(processes_max=8)
    assert one.look(Sample(0, 0, 8), 0.0).verdict is None
    look = one.look(Sample(0, 0, 9), 0.0)
    assert look.verdict is not None and look.verdict.code == "limit.processes"
    assert (look.verdict.facts["limit_processes"], look.verdict.facts["processes"]) == (8, 9)
    assert one.at_most > 8 * HARD_FACTOR + 1  # as many have to be counted to know that there is no time for a grace


def test_as_many_threads_as_allowed_are_allowed() -> None:
    one = watch(threads_max=100)
    assert one.look(Sample(0, threads=100), 0.0).verdict is None
    look = one.look(Sample(0, 0, 3, threads=101), 0.0)
    assert look.verdict is not None and not look.beyond and one.look(Sample(0, threads=126), 0.0).beyond
    assert (look.verdict.code, look.verdict.facts) == (
        "limit.threads",
        {
            "limit": "threads_max", "limit_threads": 100, "threads": 101, "processes": 3,
            "message": "threads_max of 100 was reached: its 3 processes had 101 at once",
        },
    )  # fmt: skip


def test_who_starts_no_process_is_measured_as_its_own_use_requires() -> None:
    counted = watch(processes_max=512, threads_max=1000).look(grown(0), 10.0)
    assert (counted.next_at, counted.alone_at) == (pytest.approx(10.025, abs=1e-3), 10.0 + UNCOUNTED_S_MAX)
    both = watch(processes_max=512, threads_max=1000, memory_bytes=2 << 30).look(grown(0), 10.0)
    assert both.next_at == counted.next_at
    assert both.alone_at == pytest.approx(10.0625)
    for one in (watch(memory_bytes=100 * MB), watch(cpu_s=0.01), watch(processes_max=2, memory_bytes=100 * MB)):
        look = one.look(grown(90), 10.0)
        assert look.alone_at == pytest.approx(look.next_at), "its own use can reach a limit as soon"
    stopped = watch(processes_max=2, memory_bytes=2 << 30).look(grown(0, processes=3), 10.0)
    assert stopped.verdict is not None and stopped.alone_at == stopped.next_at


def test_a_look_that_took_long_is_not_repeated_at_once() -> None:
    assert watch(memory_bytes=1).look(grown(0)._replace(cost_s=0.02), 0.0).next_at == pytest.approx(0.2)


V1 = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = b"low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"


def test_the_kernels_counts_of_victims() -> None:
    assert (counted("oom_kill", V1), counted("oom_kill", V2), counted("oom", V2)) == (3, 1, 2)
    assert counted("oom_kill", b"oom_kill_disable 0\nunder_oom 0\n") is None


def test_only_the_groups_own_limit_is_the_jobs() -> None:
    assert own_limit_struck(b"oom 1\noom_kill 0\n", b"oom 2\noom_kill 1\n")
    assert not own_limit_struck(b"oom 1\noom_kill 0\n", b"oom 1\noom_kill 1\n")  # the machine's
    assert not own_limit_struck(b"oom 1\noom_kill 0\n", b"oom 2\noom_kill 0\n")  # nobody was killed
    assert not own_limit_struck(b"", b"")
