"""Deadlines, and the queue: exact moments, whoever looks."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_world import NEVER, Script

from sim.scenario_helpers import DEAF, FOREVER, ON_BOTH, near, refusal, simulate
from sim.simulation import Simulation, pool

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


@ON_BOTH
def test_the_first_cause_stays_when_others_follow(engine: str) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF, limits={"run_s": 1.0})
        await asyncio.sleep(1.5)
        sim.cancel(job)
        await asyncio.sleep(0.1)
        sim.world.processes()[0].kill_from_outside()
        await sim.ended(job)
        assert job.code == "timeout.run" and job.certificate["cause"] == "timeout.run"
        assert sim.record(job).error["signal"] == "SIGKILL"  # type: ignore[index]

    simulate(main, pool(spares=0), engine=engine)


@pytest.mark.row("PEERS-A")
@pytest.mark.parametrize("late_s", [0.002, 0.02], ids=["on time", "late"])
def test_a_deadline_and_the_end_in_one_turn_never_hit_the_workers_next_job(late_s: float) -> None:
    """Its time is over and its last words lie unread: they are heard first, and SIGKILL goes to nobody."""

    async def main(sim: Simulation) -> None:
        first = await sim.submit(Script(run_s=0.003), limits={"run_s": 0.003, "grace_s": 0.0})
        following = await sim.submit(Script(run_s=0.1))
        while first.number not in sim.world.truths or sim.truth(first).closing is None:
            await asyncio.sleep(0.00001)
        sim.loop.jump(late_s)  # while something else held the loop
        await sim.ended(first, following)
        assert following.state == "completed"
        assert (first.state, sim.truth(first).kill_at) == ("completed", None)
        assert sim.record(first).pid == sim.record(following).pid

    for seed in range(50):
        simulate(main, pool(spares=0, jobs_per_worker_max=0), seed=seed)


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


@pytest.mark.row("B13")
def test_jobs_start_by_priority_and_tenants_take_turns() -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(FOREVER)]
        for tenant, priority in [("ann", 0), ("ann", 0), ("ann", 0), ("bob", 0), ("bob", 0), ("ann", 9), ("bob", -1)]:
            jobs.append(await sim.submit(Script(), tenant=tenant, priority=priority))
        sim.cancel(jobs[0])
        await sim.ended(*jobs)
        started = [int(line.split()[-1]) for line in sim.world.trace if " RUN " in line]
        assert started == [0, 6, 4, 1, 5, 2, 7, 3]

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


@pytest.mark.parametrize("seed", range(8))
def test_a_token_that_is_read_behind_the_exit_renews_no_deadline(seed: int) -> None:
    """Else that runs out, ends nothing, and is due again at once: the loop turns until the tree is empty, and for ever
    where it does not go, for whoever gives up is asked only then.
    """

    async def main(sim: Simulation) -> None:
        job = await sim.submit(
            Script(run_s=0.0005, tokens=1, end="dies", signal=11, sweep_s=2.0), limits={"idle_s": 0.02}
        )
        await sim.ended(job)
        assert job.code == "crash"

    simulate(main, seed=seed)
