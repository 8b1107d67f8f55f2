"""How jobs end, one way at a time: the real supervisor, exact moments, nothing but the fake seam below it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.fake_world import NEVER, Faults, Script
from support.virtual_loop import run

from killable.supervisor.attempt import LEAVE_S
from killable.supervisor.escalation import DUMP_S, RING_AGAIN_S
from killable.supervisor.job import PHASES
from killable.workers.errors import Refused
from sim.simulation import LIMITS, Job, Simulation, answer, pool

LATENCY_S = 0.002
"""More than any latency of the fake kernel."""
FOREVER = Script(run_s=NEVER)
DEAF = Script(run_s=NEVER, hears_s=NEVER, cpu=0.0)
"""It never acknowledges, and uses no processor: it keeps its whole grace."""
NATIVE = Script(run_s=NEVER, hears_s=NEVER, cpu=1.0)
"""Inside one native call."""


def simulate(test: Callable[[Simulation], Awaitable[None]], *pools: Any, **settings: Any) -> None:
    async def main() -> None:
        async with Simulation(*pools, **settings) as sim:
            await asyncio.sleep(0.1)  # the workers are warm
            await test(sim)

    run(main())


def near(moment: float | None, expected: float) -> bool:
    return moment is not None and expected - 1e-6 <= moment <= expected + LATENCY_S


async def refusal(awaitable: Awaitable[Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value


# ── cancelling ──


@pytest.mark.row("D6")
@pytest.mark.parametrize("callers", [1, 2, 3])
def test_a_cancel_whose_callers_go_away_still_ends_in_sigkill(callers: int) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF)
        await asyncio.sleep(1)
        for _ in range(callers):
            sim.cancel(job, wait_s=60)
            await asyncio.sleep(0.1)
        for caller in list(sim.callers):
            sim.cancel_caller(caller)
        await asyncio.sleep(0.01)
        assert all(task.done() for task in sim.readers[1:])
        assert sim.record(job).state == "stopping"
        await sim.ended(job)
        truth = sim.truth(job)
        assert near(truth.kill_at, truth.term_at + LIMITS.grace_s + DUMP_S)
        assert job.state == "cancelled"

    simulate(main)


@pytest.mark.row("D4")
def test_a_second_cancel_shortens_the_grace_and_never_lengthens_it() -> None:
    async def main(sim: Simulation) -> None:
        hurried, patient, killed = [await sim.submit(DEAF) for _ in range(3)]
        await asyncio.sleep(1)
        began = sim.loop.time()
        for job in (hurried, patient, killed):
            sim.cancel(job)
        await asyncio.sleep(0.5)
        sim.cancel(hurried, grace_s=0.25)
        sim.cancel(patient, grace_s=30.0)
        sim.cancel(killed, grace_s=0.0)
        await sim.ended(hurried, patient, killed)
        assert near(sim.truth(hurried).kill_at, began + 0.75 + DUMP_S)
        assert near(sim.truth(patient).kill_at, began + LIMITS.grace_s + DUMP_S)
        assert near(sim.truth(killed).kill_at, began + 0.5)
        assert [job.certificate["grace_s"] for job in (hurried, patient, killed)] == [0.25, LIMITS.grace_s, 0]

    simulate(main, pool(workers=3))


@pytest.mark.row("D9")
def test_a_queued_job_that_is_cancelled_is_never_given_to_a_worker() -> None:
    async def main(sim: Simulation) -> None:
        running = await sim.submit(FOREVER)
        queued = [await sim.submit(Script()) for _ in range(3)]
        for job in queued:
            sim.cancel(job)
        await sim.ended(*queued)
        sim.cancel(running)
        await sim.ended(running)
        await asyncio.sleep(5)
        for job in queued:
            assert job.names == ["cancelled"]
            assert job.number not in sim.world.truths
            assert job.certificate["cause"] == "cancelled" and not set(PHASES) & set(job.certificate)

    simulate(main)


@pytest.mark.row("D10")
@pytest.mark.row("A11")
def test_an_ended_job_cannot_be_cancelled_and_an_unknown_one_is_unknown() -> None:
    async def main(sim: Simulation) -> None:
        completed, failed = await sim.submit(Script()), await sim.submit(Script(end="raises"))
        await sim.ended(completed, failed)
        for job in (completed, failed):
            before = sim.record(job)
            error = await refusal(sim.supervisor.cancel(job.id))
            assert error.code == "already_ended" and error.record == before == sim.record(job)
        assert (await refusal(sim.supervisor.cancel("job-that-never-was"))).code == "unknown_job"

    simulate(main, pool(workers=2))


@pytest.mark.row("H10")
@pytest.mark.row("A12")
def test_cancelling_again_is_harmless_and_answers_the_same() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(sim.supervisor.cancel(job.id) for _ in range(5)))
        await asyncio.sleep(1)
        answers += [await sim.supervisor.cancel(job.id) for _ in range(3)]
        assert {answer.state for answer in answers} == {"cancelled"}
        assert answers[-1] == answers[-2] == sim.record(job)
        assert len([line for line in sim.world.trace if line.endswith("SIGTERM")]) == 1

    simulate(main)


@pytest.mark.row("B5")
@pytest.mark.parametrize("jobs_per_worker_max", [0, 1], ids=["reused", "fresh"])
def test_a_cancel_that_races_the_end_gives_one_outcome(jobs_per_worker_max: int) -> None:
    length_s = 0.02
    outcomes: list[str] = []

    async def main(sim: Simulation) -> None:
        for step in range(101):
            job = await sim.submit(Script(run_s=length_s - 0.001, tokens=2))
            await asyncio.sleep(2 * length_s * step / 100)
            sim.cancel(job)
            await sim.ended(job)
            await asyncio.sleep(0.05)
            outcomes.append(job.state)

    simulate(main, pool(jobs_per_worker_max=jobs_per_worker_max))
    assert {outcome: outcomes.count(outcome) >= 15 for outcome in outcomes} == {"cancelled": True, "completed": True}


def test_what_a_job_returns_in_its_grace_is_kept_as_partial() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, cleanup_s=0.5, cleanup_tokens=2, cleanup_returns=True))
        await asyncio.sleep(0.1)
        sim.cancel(job)
        await sim.ended(job)
        assert job.state == "cancelled" and job.end["result"] is None
        assert job.end["partial"] == "cleaned" and sim.record(job).partial == b'"cleaned"'
        assert job.names == ["started", "token", "token", "cancelled"]
        assert sim.truth(job).kill_at is None and "kill_sent" not in job.certificate

    simulate(main)


@pytest.mark.row("D11")
def test_the_last_reader_leaving_cancels_a_job_that_asked_for_it() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, stop_when_client_leaves=True)
        other = await sim.submit(FOREVER)
        for each in (job, job, other):
            await sim.supervisor.watch(each.id)
        await sim.supervisor.unwatch(job.id)
        await sim.supervisor.unwatch(other.id)
        await asyncio.sleep(1)
        assert sim.record(job).state == "running"
        await sim.supervisor.unwatch(job.id)
        await sim.ended(job)
        assert job.code == "cancelled" and job.certificate["by"] == "client_gone"
        assert sim.record(other).state == "running"

    simulate(main, pool(workers=2))


# ── the escalation as a process meets it ──


def test_native_code_that_cannot_hear_is_killed_before_its_grace_is_over() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(NATIVE)
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.delivered_at is not None and truth.acknowledged_at is None
        assert near(truth.kill_at, truth.delivered_at + 0.5 + DUMP_S) and LIMITS.grace_s > 0.5 + DUMP_S
        assert "ack_s" in job.certificate["early_kill"]
        assert "native" in job.certificate["stack"]
        assert job.state == "cancelled"

    simulate(main)


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        (DEAF, {}),
        (NATIVE, {"ack_s": None}),
        (NATIVE, {"ack_s": 2.0}),
        (Script(run_s=NEVER, hears_s=NEVER, rings=False), {}),
        (Script(run_s=NEVER, replaces=True, cleanup_s=NEVER), {}),
    ],
    ids=["starved", "ack_s none", "ack_s is the grace", "no delivery byte", "a handler of its own"],
)
def test_what_may_still_hear_keeps_its_whole_grace(script: Script, limits: dict[str, Any]) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(script, limits=limits)
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.term_at is not None
        assert near(truth.kill_at, truth.term_at + LIMITS.grace_s + DUMP_S)
        assert "early_kill" not in job.certificate

    simulate(main)


def test_a_job_that_cleans_up_is_killed_when_its_grace_is_over_and_is_never_dumped() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, cleanup_s=NEVER))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.dump_at is None and truth.term_at is not None
        assert near(truth.kill_at, truth.term_at + LIMITS.grace_s)
        assert "python" in job.certificate["stack"]

    simulate(main)


def test_a_swallowed_stop_is_rung_again_and_not_at_once() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, swallows=3, cleanup_s=0.1))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        rung = [float(line.split()[0]) for line in sim.world.trace if line.endswith("SIGTERM")]
        assert len(rung) == 4
        assert all(later - sooner >= RING_AGAIN_S for sooner, later in itertools.pairwise(rung))
        assert sim.truth(job).kill_at is None and job.state == "cancelled"

    simulate(main)


def test_no_grace_is_sigkill_at_once() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        await asyncio.sleep(1)
        sim.cancel(job, grace_s=0.0)
        await sim.ended(job)
        assert sim.truth(job).term_at is None and sim.truth(job).dump_at is None
        assert job.certificate["kill_sent"] == 0 and "term_sent" not in job.certificate

    simulate(main)


# ── time ──


@pytest.mark.row("C1")
@pytest.mark.row("C2")
@pytest.mark.row("C10")
@pytest.mark.parametrize("watched", [True, False], ids=["with a reader", "without a reader"])
def test_a_run_is_stopped_at_its_deadline(watched: bool) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, watched=watched, limits={"run_s": 3.0})
        submitted = sim.loop.time()
        await sim.ended(job)
        assert near(sim.truth(job).term_at, submitted + 0.001 + 3.0)
        record = sim.record(job)
        assert record.state == "timed_out" and record.error is not None
        assert (record.error["code"], record.error["limit"], record.error["limit_s"]) == ("timeout.run", "run_s", 3.0)

    simulate(main)


@pytest.mark.row("C3")
@pytest.mark.row("C4")
def test_a_type_has_its_own_deadline_and_its_cap() -> None:
    from killable.supervisor.settings import JobSettings

    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        began = sim.loop.time()
        await sim.ended(job)
        assert job.code == "timeout.run" and near(sim.truth(job).term_at, began + 0.001 + 2.0)
        over = await refusal(sim.submit(FOREVER, limits={"run_s": 5.5}))
        assert (over.code, over.limit, over.cap, over.asked) == ("limit_over_cap", "run_s", 5.0, 5.5)

    simulate(main, jobs={"work-a": JobSettings({"run_s": 2.0}, {"run_s": 5.0})}, caps={"run_s": 50.0})


def test_a_job_that_is_not_entered_in_time_is_stopped() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(enter_s=NEVER), limits={"start_s": 1.0})
        began = sim.loop.time()
        await sim.ended(job)
        assert job.code == "timeout.start" and job.names == ["timed_out"]
        assert near(sim.truth(job).term_at, began + 1.0)

    simulate(main)


@pytest.mark.row("B12")
@pytest.mark.row("C5")
@pytest.mark.row("C10")
@pytest.mark.parametrize("watched", [True, False], ids=["with a reader", "without a reader"])
def test_a_job_that_waits_too_long_ends_on_time_and_never_starts(watched: bool) -> None:
    async def main(sim: Simulation) -> None:
        running = await sim.submit(FOREVER)
        waiting = [await sim.submit(Script(), watched=watched, limits={"queue_s": wait}) for wait in (1.0, 2.0, None)]
        await asyncio.sleep(0.999)
        assert [sim.record(job).state for job in waiting] == ["queued"] * 3
        await asyncio.sleep(0.002)
        assert [sim.record(job).state for job in waiting] == ["timed_out", "queued", "queued"]
        await asyncio.sleep(1)
        sim.cancel(running)
        await sim.ended(*waiting)
        assert [sim.record(job).state for job in waiting] == ["timed_out", "timed_out", "completed"]
        error = sim.record(waiting[0]).error
        assert error is not None and (error["code"], error["limit_s"]) == ("timeout.queue", 1.0)
        assert [job.number in sim.world.truths for job in waiting] == [False, False, True]

    simulate(main)


def test_the_first_cause_stays_when_others_follow() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF, limits={"run_s": 1.0})
        await asyncio.sleep(1.5)
        sim.cancel(job)
        await asyncio.sleep(0.1)
        sim.world.processes()[0].killed_by_stranger()
        await sim.ended(job)
        assert job.code == "timeout.run" and job.certificate["cause"] == "timeout.run"
        assert sim.record(job).error["signal"] == "SIGKILL"  # type: ignore[index]

    simulate(main, pool(spares=0))


# ── the queue ──


@pytest.mark.row("B11")
@pytest.mark.row("A28")
@pytest.mark.parametrize("bound", ["queue_jobs_max", "queue_bytes_max"])
def test_a_full_queue_refuses_and_has_room_again(bound: str) -> None:
    async def main(sim: Simulation) -> None:
        running = await sim.submit(FOREVER)
        queued = [await sim.submit(Script(), padding=200) for _ in range(3)]
        for _ in range(3):
            error = await refusal(sim.submit(Script(), padding=200))
            assert (error.code, error.bound, error.retry_after_s) == ("queue_full", bound, 1)
            sim.world.scripts.pop()
        assert len((await sim.supervisor.list())[0]) == 4
        able, degraded = await sim.supervisor.ready()
        assert able and any("queue is full" in line for line in degraded) == (bound == "queue_jobs_max")
        sim.cancel(queued[1])
        await sim.ended(queued[1])
        last = await sim.submit(Script(), padding=200)
        sim.cancel(running)
        await sim.ended(*queued, last)
        assert [job.state for job in (*queued, last)] == ["completed", "cancelled", "completed", "completed"]

    simulate(
        main,
        **{"queue_jobs_max": 3, "queue_bytes_max": 800, bound: {"queue_jobs_max": 3}.get(bound, 700)}
        | ({"queue_jobs_max": 50} if bound == "queue_bytes_max" else {"queue_bytes_max": 1 << 20}),
    )


def test_jobs_start_by_priority_and_tenants_take_turns() -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(FOREVER)]
        for tenant, priority in [("ann", 0), ("ann", 0), ("ann", 0), ("bob", 0), ("bob", 0), ("ann", 9), ("bob", -1)]:
            jobs.append(await sim.submit(Script(), tenant=tenant, priority=priority))
        sim.cancel(jobs[0])
        await sim.ended(*jobs)
        started = [int(line.split()[-1]) for line in sim.world.trace if " RUN " in line]
        assert started == [0, 6, 1, 4, 2, 5, 3, 7]

    simulate(main)


@pytest.mark.row("D22")
@pytest.mark.parametrize("cancelled", [False, True], ids=["stuck", "stuck and being cancelled"])
def test_a_stuck_job_does_not_block_the_others(cancelled: bool) -> None:
    async def main(sim: Simulation) -> None:
        stuck = await sim.submit(DEAF, limits={"grace_s": 60.0})
        await asyncio.sleep(0.1)
        if cancelled:
            sim.cancel(stuck)
        others = [await sim.submit(Script(run_s=0.1)) for _ in range(10)]
        began = sim.loop.time()
        await sim.ended(*others)
        assert [job.state for job in others] == ["completed"] * 10
        assert sim.loop.time() - began < 1.5
        assert sim.record(stuck).state == ("stopping" if cancelled else "running")
        sim.cancel(stuck, grace_s=0.0)

    simulate(main, pool(workers=2))


# ── what cannot be killed ──


@pytest.mark.row("D15")
def test_an_unkillable_job_ends_its_slot_is_quarantined_and_the_others_go_on() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, hears_s=NEVER, dies_s=NEVER))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        assert job.code == "unkillable" and job.state == "failed"
        assert near(sim.loop.time(), sim.truth(job).kill_at + sim.settings.unkillable_s)  # type: ignore[operator]
        assert not {"exited", "reaped", "tree_empty"} & set(job.certificate)
        (record,) = await sim.supervisor.pools()
        assert record.quarantined == 1
        able, degraded = await sim.supervisor.ready()
        assert able and any("quarantined" in line for line in degraded)
        others = [await sim.submit(Script()) for _ in range(5)]
        await sim.ended(*others)
        assert [other.state for other in others] == ["completed"] * 5
        assert len(sim.events(job)) == 2

    simulate(main, pool(workers=2))


@pytest.mark.row("D15")
def test_a_slot_comes_back_when_what_was_unkillable_goes_after_all() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, hears_s=NEVER, dies_s=30.0, tokens=3))
        await asyncio.sleep(1.5)
        sim.cancel(job, grace_s=0.0)
        await sim.ended(job)
        before = sim.record(job), sim.events(job)
        waiting = await sim.submit(Script())
        assert (await sim.supervisor.ready())[0] is False
        await asyncio.sleep(20)
        assert sim.record(waiting).state == "queued"
        await sim.ended(waiting)
        assert waiting.state == "completed" and (await sim.supervisor.ready())[0]
        assert (sim.record(job), sim.events(job)) == before

    simulate(main)


def test_a_tree_that_does_not_get_empty_ends_its_job_as_unkillable() -> None:
    """Whatever is read after the exit: its entry may be one of the last words."""

    async def main(sim: Simulation) -> None:
        for _ in range(20):
            script = Script(enter_s=0.001, run_s=0.0, end="dies", sweep_s=NEVER)
            job = await sim.submit(script, limits={"run_s": 0.5})
            await sim.ended(job)
            assert job.code == "unkillable", job.end

    simulate(main, pool(workers=25))


@pytest.mark.parametrize("grace_s", [0.0, 0.5, 60.0])
@pytest.mark.parametrize("dies_s", [0.0005, NEVER])
@pytest.mark.parametrize("end", ["returns", "closes and stays"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_worker_that_does_not_leave_after_its_job_is_killed(
    end: str, dies_s: float, grace_s: float, cancelled: bool
) -> None:
    async def main(sim: Simulation) -> None:
        script = Script(end=end, lingers_s=NEVER, dies_s=dies_s, run_s=NEVER if cancelled else 0.01)
        job = await sim.submit(script, limits={"grace_s": grace_s})
        await asyncio.sleep(0.1)
        if cancelled:
            sim.cancel(job)
        await sim.ended(job)
        truth = sim.truth(job)
        assert truth.kill_at is not None and job.certificate["last_signal"] == "SIGKILL"
        if not cancelled:
            assert near(truth.kill_at, job_began(sim, job) + 0.001 + 0.01 + LEAVE_S)
        assert (job.code == "unkillable") == (dies_s == NEVER)

    simulate(main)


def job_began(sim: Simulation, job: Job) -> float:
    return next(float(line.split()[0]) for line in sim.world.trace if line.endswith(f"RUN {job.number}"))


# ── workers and zygotes ──


def test_a_zygote_that_dies_takes_its_jobs_and_the_queue_goes_on() -> None:
    async def main(sim: Simulation) -> None:
        running = [await sim.submit(Script(run_s=NEVER, tokens=2)) for _ in range(2)]
        queued = [await sim.submit(Script()) for _ in range(3)]
        await asyncio.sleep(1)
        sim.world.spawners[0].zygote_dies(signal=9)
        await sim.ended(*running, *queued)
        assert [job.code for job in running] == ["worker_lost"] * 2
        assert [job.names for job in running] == [["started", "token", "token", "failed"]] * 2
        assert [job.state for job in queued] == ["completed"] * 3
        (record,) = await sim.supervisor.pools()
        assert (record.state, record.zygote_restarts) == ("ready", 1)

    simulate(main, pool(workers=2))


def test_a_zygote_that_dies_while_workers_are_forked_fails_no_queued_job() -> None:
    async def main() -> None:
        async with Simulation(pool(workers=6, spares=2)) as sim:
            jobs = [await sim.submit(Script()) for _ in range(8)]
            sim.world.spawners[0].zygote_dies(signal=11)
            await sim.ended(*jobs)
            assert [job.state for job in jobs] == ["completed"] * 8

    run(main())


def test_a_job_is_never_given_to_an_idle_worker_that_has_just_died() -> None:
    async def main(sim: Simulation) -> None:
        for process in sim.world.alive():
            process.killed_by_stranger()
        await asyncio.sleep(0.001)  # the exit is seen, the reap is not
        jobs = [await sim.submit(Script(sweep_s=0.5)) for _ in range(3)]
        await sim.ended(*jobs)
        assert {job.code for job in jobs} <= {None, "killed_externally"}

    simulate(main, pool(workers=3, spares=3))


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("jobs_per_worker_max", [0, 1])
@pytest.mark.parametrize("fault", ["fork_fails", "fork_raises", "dies_at_start", "broken_at_start"])
def test_a_pool_that_cannot_start_workers_says_so_and_recovers(
    fault: str, jobs_per_worker_max: int, spares: int
) -> None:
    async def main(sim: Simulation) -> None:
        sim.world.faults = Faults(**{fault: 1.0})
        for process in sim.world.alive():
            process.killed_by_stranger()
        await asyncio.sleep(LATENCY_S)
        jobs = [await sim.submit(Script()) for _ in range(3)]
        await sim.ended(*jobs)
        assert [job.code for job in jobs] == ["spawn"] * 3
        assert not (await sim.supervisor.ready())[0]
        sim.world.faults = Faults()
        await asyncio.sleep(10)
        last = await sim.submit(Script())
        await sim.ended(last)
        assert last.state == "completed" and (await sim.supervisor.ready()) == (True, [])

    simulate(main, pool(spares=spares, jobs_per_worker_max=jobs_per_worker_max))


def test_a_pool_whose_spares_cannot_be_forked_still_uses_the_workers_that_it_has() -> None:
    async def main(sim: Simulation) -> None:
        running = [await sim.submit(Script(run_s=1.0)) for _ in range(2)]
        await asyncio.sleep(0.1)
        sim.world.faults = Faults(fork_fails=1.0)
        for process in sim.world.alive():
            if process.cpu_s() == 0.0:
                process.killed_by_stranger()
        await sim.ended(*running)
        await asyncio.sleep(20)
        later = await sim.submit(Script())
        await sim.ended(later)
        assert later.state == "completed", later.end

    simulate(main, pool(workers=2, jobs_per_worker_max=0))


def test_modules_that_do_not_import_break_the_pool() -> None:
    async def main(sim: Simulation) -> None:
        (record,) = await sim.supervisor.pools()
        assert record.state == "broken" and "no such module" in record.detail
        assert (await refusal(sim.submit(Script()))).code == "unknown_job_type"
        sim.world.scripts.clear()
        await asyncio.sleep(100)
        assert len([line for line in sim.world.trace if " zygote " in line]) == 2  # started once, died once

    simulate(main, faults=Faults(preload_fails=True))


def test_a_preload_that_leaves_threads_makes_the_workers_exec() -> None:
    async def main(sim: Simulation) -> None:
        (record,) = await sim.supervisor.pools()
        assert (record.start_method, record.state, record.zygote_restarts) == ("spawn", "ready", 0)
        assert "3 threads" in record.detail
        job = await sim.submit(Script())
        await sim.ended(job)
        assert job.state == "completed"

    simulate(main, faults=Faults(preload_threads=3))


def test_no_worker_is_used_before_its_pidfd_is_here() -> None:
    async def main() -> None:
        async with Simulation(pool(workers=4, spares=0), faults=Faults(told_s=0.05)) as sim:
            jobs = [await sim.submit(FOREVER) for _ in range(4)]
            for _ in range(60):
                await asyncio.sleep(0.001)
                for job in jobs:
                    if sim.record(job).state == "running":
                        assert sim.record(job).pid is not None
                        sim.cancel(job)
            await sim.ended(*jobs)

    run(main())


@pytest.mark.row("G3")
def test_killing_a_worker_cancels_its_job_and_another_takes_its_place() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF)
        await asyncio.sleep(0.1)
        workers = {worker.worker_id: worker for worker in await sim.supervisor.workers()}
        busy = next(worker for worker in workers.values() if worker.job_id == job.id)
        idle = next(worker for worker in workers.values() if worker.state == "idle")
        sim.world.shortened(job.number, sim.loop.time())
        await sim.supervisor.kill_worker(busy.worker_id, reason="in the way")
        await sim.supervisor.kill_worker(idle.worker_id)
        await sim.ended(job)
        certificate = job.certificate
        assert (job.state, certificate["by"], certificate["reason"]) == ("cancelled", "operator", "in the way")
        await asyncio.sleep(1)
        now = await sim.supervisor.workers()
        assert [worker.state for worker in now] == ["idle"] and now[0].worker_id not in workers
        assert (await refusal(sim.supervisor.kill_worker("w-999"))).code == "unknown_worker"

    simulate(main)


# ── what a worker says ──


@pytest.mark.parametrize("end", ["garbage", "gap", "enters twice", "closes twice"])
def test_nonsense_ends_the_job_at_once_and_only_that_job(end: str) -> None:
    async def main(sim: Simulation) -> None:
        job, other = await sim.submit(Script(end=end, tokens=2)), await sim.submit(Script(run_s=1.0, tokens=2))
        await sim.ended(job, other)
        assert job.code == "protocol" and job.certificate["kill_sent"] == 0
        assert job.names == ["started", "token", "token", "failed"]
        assert other.state == "completed"

    simulate(main, pool(workers=2))


@pytest.mark.row("B18")
def test_a_late_frame_of_another_attempt_is_no_event_of_this_one() -> None:
    async def main(sim: Simulation) -> None:
        for _ in range(3):
            job = await sim.submit(Script(late_frame=True, tokens=2))
            await sim.ended(job)
            assert job.names == ["started", "token", "token", "completed"]
            assert [event.data for event in job.events[1:3]] == [b'{"text":"0"}', b'{"text":"1"}']

    simulate(main, pool(jobs_per_worker_max=0))


@pytest.mark.row("B19")
def test_output_over_its_bound_stops_the_job_and_an_exact_prefix_stays() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=1.0, tokens=50), limits={"output_bytes": 120})
        await sim.ended(job)
        assert job.code == "limit.output"
        assert [event.data for event in job.events[1:-1]] == [b'{"text":"%d"}' % number for number in range(10)]

    simulate(main)


@pytest.mark.row("B4")
@pytest.mark.row("D20")
@pytest.mark.parametrize(
    ("script", "code", "facts"),
    [
        (Script(end="dies", signal=11), "crash", {"signal": "SIGSEGV", "core_dumped": True}),
        (Script(end="dies", signal=6), "crash", {"signal": "SIGABRT", "core_dumped": False}),
        (Script(end="dies", signal=9), "killed_externally", {"signal": "SIGKILL", "oom": "unknown"}),
        (Script(end="exits", exit_code=3), "exit", {"exit_code": 3}),
        (Script(end="exits", exit_code=0), "exit", {"exit_code": 0}),
        (Script(end="torn"), "protocol", {"exit_code": 0}),
        (Script(end="raises"), "exception", {"type": "ValueError"}),
        (Script(enters=False, end="exits", exit_code=71), "spawn", {"exit_code": 71}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crash_is_told_as_what_it_was(script: Script, code: str, facts: dict[str, Any]) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(script)
        await sim.ended(job)
        error = job.end["error"]
        assert error["code"] == code and {name: error[name] for name in facts} == facts
        assert "requested" not in job.certificate and "cause" not in job.certificate

    simulate(main)


# ── the supervisor ──


@pytest.mark.row("B9")
def test_a_thousand_jobs_leave_a_bounded_history() -> None:
    async def main(sim: Simulation) -> None:
        ids = []
        for _ in range(1000):
            job = await sim.submit(Script(run_s=0.0, enter_s=0.0001), watched=False)
            ids.append(job.id)
            await asyncio.sleep(0.01)
        sim.jobs.clear()
        await asyncio.sleep(1)
        records, following = await sim.supervisor.list(limit=1000)
        assert [record.job_id for record in records] == ids[:-51:-1] and following is None
        assert (await refusal(sim.supervisor.get(ids[0]))).code == "unknown_job"

    simulate(main, pool(jobs_per_worker_max=0), keep_jobs=50)


@pytest.mark.row("A17")
@pytest.mark.parametrize("grace_s", [None, 0.0, 0.5])
def test_a_shutdown_cancels_everything_and_takes_nothing_new(grace_s: float | None) -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(script) for script in (DEAF, FOREVER, NATIVE, DEAF, FOREVER)]
        await asyncio.sleep(1)
        began = sim.loop.time()
        closing = asyncio.create_task(sim.supervisor.close(grace_s))
        await asyncio.sleep(0)
        assert (await refusal(sim.supervisor.submit(jobs[0].submission))).code == "draining"
        assert (await sim.supervisor.ready())[0] is False
        await closing
        sim.check_ends()
        assert {job.code for job in jobs} == {"cancelled"}
        assert {job.certificate["by"] for job in jobs} == {"shutdown"}
        assert sim.loop.time() - began < (LIMITS.grace_s if grace_s is None else grace_s) + 0.1

    simulate(main, pool(workers=3))


def test_a_second_shutdown_hurries_the_first_and_both_wait_for_the_end() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF, limits={"grace_s": 60.0})
        await asyncio.sleep(1)
        first = asyncio.create_task(sim.supervisor.close())
        await asyncio.sleep(1)
        assert not first.done() and sim.record(job).state == "stopping"
        began = sim.loop.time()
        sim.world.shortened(job.number, began)
        await sim.supervisor.close(grace_s=0.0)
        assert first.done() and sim.loop.time() - began < 0.1

    simulate(main)


def test_every_question_is_answered_at_once() -> None:
    async def main(sim: Simulation) -> None:
        await sim.submit(FOREVER)
        for question in (
            sim.supervisor.list(),
            sim.supervisor.pools(),
            sim.supervisor.ready(),
            sim.supervisor.job_types(),
        ):
            answer(question)

    simulate(main)
