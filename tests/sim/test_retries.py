"""Another attempt, when the one before ended by no fault of the job's; and the time that all of them have together."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from support.fake_world import NEVER, Script

from killable.supervisor.dispatch.retries import WAIT_S_MAX
from sim.scenario_helpers import FOREVER, NATIVE, ON_BOTH, near, refusal, simulate
from sim.simulation import Job, Simulation, answer, pool

THRICE = {"attempts_max": 3, "backoff_s": 2.0}


async def kill(sim: Simulation, job: Job) -> float:
    """Have a stranger kill the job's worker as soon as it runs; return when it was gone."""
    while job.number not in sim.world.truths or sim.truth(job).exited_at is not None or not sim.truth(job).entered:
        await asyncio.sleep(0.01)
    worker_id = sim.record(job).worker_id
    assert worker_id is not None
    pid = sim.record(job).pid
    next(process for process in sim.world.alive() if process.pid == pid).kill_from_outside()
    while sim.record(job).worker_id == worker_id and not sim.record(job).ended:
        await asyncio.sleep(0.0001)
    return sim.loop.time()


def starts(sim: Simulation, job: Job) -> list[float]:
    """Return when each attempt had its order."""
    return [float(line.split()[0]) for line in sim.world.trace if line.endswith(f"RUN {job.number}")]


@pytest.mark.row("D23")
def test_a_job_whose_worker_was_killed_is_run_again_after_a_wait_that_doubles() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=5.0), limits=THRICE)
        first = await kill(sim, job)
        waiting = sim.record(job)
        assert (waiting.state, waiting.attempts, waiting.pid, waiting.worker_id) == ("queued", 1, None, None)
        assert (waiting.error, waiting.certificate, waiting.started_at) == (None, None, None)
        assert waiting.queue is not None and waiting.queue["position"] is None
        second = await kill(sim, job)
        await sim.ended(job)
        assert job.state == "completed" and sim.record(job).attempts == 3
        assert job.names == ["started", "retrying", "started", "retrying", "started", "completed"]
        waits = [began - ended for began, ended in zip(starts(sim, job)[1:], (first, second), strict=True)]
        assert 1.0 <= waits[0] <= 2.0 and near(waits[1], 2 * waits[0]), waits
        told = job.retries
        assert [(each["attempt"], each["attempts_max"], each["error"]["code"]) for each in told] == [
            (1, 3, "killed_externally"), (2, 3, "killed_externally"),
        ]  # fmt: skip
        assert abs(waits[0] - told[0]["wait_s"]) < 0.003 and told[0]["certificate"]["tree_empty"] >= 0
        assert [json.loads(event.data)["attempt"] for event in job.events if event.name == "started"] == [1, 2, 3]

    simulate(main)


def test_it_is_run_no_more_often_than_it_may_and_then_its_last_end_is_its_own() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, limits=THRICE)
        for _ in range(3):
            await kill(sim, job)
        await sim.ended(job)
        assert job.code == "killed_externally" and len(starts(sim, job)) == 3 and sim.record(job).attempts == 3
        once = await sim.submit(FOREVER)
        await kill(sim, once)
        await sim.ended(once)
        assert once.code == "killed_externally" and len(starts(sim, once)) == 1, "once, if nobody says otherwise"

    simulate(main)


@pytest.mark.parametrize(
    "script, limits",
    [
        (Script(end="raises"), {}),
        (Script(end="exits", exit_code=3), {}),
        (Script(end="dies", signal=11), {}),
        (FOREVER, {"run_s": 0.5}),
    ],
    ids=["exception", "exit", "crash", "timeout.run"],
)
def test_what_a_job_brings_upon_itself_is_its_end(script: Script, limits: dict[str, Any]) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(script, limits={**THRICE, **limits})
        await sim.ended(job)
        assert job.state != "completed" and len(starts(sim, job)) == 1 and "retrying" not in job.names

    simulate(main)


def test_who_reads_along_never_sees_a_beginning_twice() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, tokens=2), limits=THRICE)
        while "token" not in job.names:
            await asyncio.sleep(0.1)
        await kill(sim, job)
        await sim.ended(job)
        assert job.names == ["started", "token", "failed"] and job.code == "killed_externally"

    simulate(main)


def test_a_job_that_was_not_entered_in_time_gets_another_worker() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(enter_s=NEVER), limits={**THRICE, "start_s": 0.5, "backoff_s": 0.0})
        await sim.ended(job)
        assert job.code == "timeout.start" and job.names == ["retrying", "retrying", "timed_out"]
        assert len(starts(sim, job)) == 3

    simulate(main)


def test_a_job_that_returned_in_its_grace_is_not_run_again() -> None:
    """It began too late, and did what it was to do."""

    async def main(sim: Simulation) -> None:
        late = Script(enter_s=0.6, run_s=0.1, acknowledge_s=0.3, cleanup_returns=True)
        job = await sim.submit(late, limits={**THRICE, "start_s": 0.5, "ack_s": None})
        await sim.ended(job)
        assert job.code == "timeout.start" and sim.truth(job).closing is not None
        assert len(starts(sim, job)) == 1 and sim.record(job).partial is not None

    simulate(main)


@pytest.mark.row("D9")
def test_a_cancel_while_it_waits_ends_it_at_once_and_none_follows() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, limits=THRICE)
        await kill(sim, job)
        assert (await sim.supervisor.cancel(job.id)).state == "cancelled"
        await asyncio.sleep(10)
        assert len(starts(sim, job)) == 1 and job.names == ["started", "retrying", "cancelled"]

    simulate(main)


@ON_BOTH
def test_a_cancel_while_an_attempt_ends_is_the_end_of_the_job(engine: str) -> None:
    """Its own outcome had been decided: that stays, and nothing follows."""

    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, sweep_s=1.0, children=2), limits=THRICE)
        await asyncio.sleep(0.1)
        sim.world.alive()[0].kill_from_outside()
        await asyncio.sleep(0.1)
        assert sim.record(job).state == "running" and sim.truth(job).exited_at is not None
        sim.cancel(job)
        await sim.ended(job)
        assert job.code == "killed_externally" and len(starts(sim, job)) == 1

    simulate(main, pool(spares=0), engine=engine)


def test_a_shutdown_lets_no_further_attempt_begin() -> None:
    async def main(sim: Simulation) -> None:
        waiting = await sim.submit(FOREVER, limits=THRICE)
        await kill(sim, waiting)
        ending = await sim.submit(Script(run_s=NEVER, cleanup_s=1.0), limits={**THRICE, "start_s": None})
        await asyncio.sleep(0.1)
        drained = answer(sim.supervisor.drain())
        assert (drained.running, drained.queued) == (1, 1), "one that waits to be run again is queued"
        await sim.close()
        assert (waiting.code, ending.code) == ("cancelled", "cancelled")
        assert len(starts(sim, waiting)) == len(starts(sim, ending)) == 1

    simulate(main)


def test_waits_end_at_a_minute_and_those_of_neighbours_differ() -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(FOREVER, limits={"attempts_max": 9, "backoff_s": 1e6}) for _ in range(8)]
        for job in jobs:
            await kill(sim, job)
        waits = sorted(job.retries[0]["wait_s"] for job in jobs)
        assert waits[0] >= WAIT_S_MAX / 2 and waits[-1] <= WAIT_S_MAX
        gaps = [after - before for before, after in itertools.pairwise(waits)]
        assert min(gaps) > WAIT_S_MAX / 2 / 8 / 3, "they are spread, not heaped"

    simulate(main, pool(workers=8))


# ── the time that a job has, whatever it waits for ──


@pytest.mark.row("C8")
def test_the_whole_time_of_a_job_runs_while_it_waits_and_while_it_runs() -> None:
    async def main(sim: Simulation) -> None:
        began = sim.loop.time()
        first = await sim.submit(FOREVER, limits={"total_s": 3.0, "queue_s": 60.0})
        second = await sim.submit(FOREVER, limits={"total_s": 5.0, "run_s": 60.0})
        third = await sim.submit(FOREVER, limits={"total_s": 4.0, "queue_s": 60.0})
        await sim.ended(first, second, third)
        assert (first.code, second.code, third.code) == ("timeout.run", "timeout.run", "timeout.queue")
        assert near(sim.truth(first).term_at, began + 3.0) and near(sim.truth(second).term_at, began + 5.0)
        assert third.number not in sim.world.truths
        for job, total_s in ((first, 3.0), (second, 5.0), (third, 4.0)):
            assert (job.end["error"]["limit"], job.end["error"]["limit_s"]) == ("total_s", total_s)
        # What the second was told it has, was what the first had left of it.
        assert 1.9 < sim.truth(second).limits["run_s"] < 2.0 and sim.record(second).limits["run_s"] == 60.0

    simulate(main)


def test_it_runs_before_the_function_is_entered_too() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(enter_s=NEVER), limits={"total_s": 1.0})
        await sim.ended(job)
        assert (job.code, job.end["error"]["limit"]) == ("timeout.start", "total_s")
        shorter = await sim.submit(FOREVER, limits={"total_s": 9.0, "run_s": 1.0})
        await sim.ended(shorter)
        assert shorter.end["error"]["limit"] == "run_s"

    simulate(main)


def test_no_attempt_begins_that_its_time_would_not_last_for() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, limits={"attempts_max": 9, "backoff_s": 4.0, "total_s": 6.0})
        await kill(sim, job)
        assert sim.record(job).state == "queued"
        await kill(sim, job)  # the next wait would be twice as long
        await sim.ended(job)
        assert job.code == "killed_externally" and len(starts(sim, job)) == 2

    simulate(main)


@pytest.mark.row("C8")
def test_a_job_that_could_not_start_in_time_is_refused_at_once() -> None:
    async def main(sim: Simulation) -> None:
        assert (await sim.submit(Script(run_s=10.0), limits={"total_s": 0.5})).code is None, "nobody knows yet"
        await asyncio.sleep(1)
        for _ in range(3):
            await sim.ended(await sim.submit(Script(run_s=10.0)))
        running = await sim.submit(NATIVE)
        waiting = await sim.submit(FOREVER)
        marked_lost = await refusal(sim.submit(FOREVER, within_s=15.0))
        assert (marked_lost.code, marked_lost.retryable, marked_lost.total_s) == ("deadline_unmeetable", True, 15.0)
        assert 15.0 < marked_lost.estimated_wait_s < 20.1 and marked_lost.retry_after_s >= 1
        sim.world.scripts.pop()
        in_time = await sim.submit(FOREVER, within_s=25.0)
        assert sim.record(in_time).limits["total_s"] == 25.0
        for job in (running, waiting, in_time):
            sim.cancel(job, 0.0)
        await sim.ended(running, waiting, in_time)
        idle = await sim.submit(Script(run_s=0.1), within_s=0.2)
        await sim.ended(idle)
        assert idle.state == "completed", "a free worker takes it, however long others took"

    simulate(main)


def test_what_its_caller_says_is_under_no_cap_and_only_lowers() -> None:
    async def main(sim: Simulation) -> None:
        longer = await sim.submit(FOREVER, within_s=100.0)
        assert sim.record(longer).limits["total_s"] == 30.0
        shorter = await sim.submit(FOREVER, within_s=3.0, limits={"total_s": 20.0})
        assert sim.record(shorter).limits["total_s"] == 3.0
        over = await refusal(sim.submit(FOREVER, limits={"total_s": 100.0}))
        assert (over.code, over.limit) == ("limit_over_cap", "total_s")

    simulate(main, caps={"total_s": 30.0})
