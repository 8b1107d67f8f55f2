"""The supervisor as a whole: what it keeps, and how it closes."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from itertools import pairwise

import pytest
from support.engines import ENGINE
from support.fake_world import Script

from sim.scenario_helpers import DEAF, FOREVER, NATIVE, refusal, simulate
from sim.simulation import LIMITS, Simulation, answer, pool


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
        # Not to be seen from outside, and it would not be counted: an input may be larger than all that is kept.
        assert sim.supervisor._registry.get(ids[-1]).submission.input == b""
        records, following = await sim.supervisor.list(limit=1000)
        assert [record.job_id for record in records] == ids[:-51:-1] and following is None
        refused = await refusal(sim.supervisor.get(ids[0]))
        assert (refused.code, refused.dropped_by, refused.limit) == ("unknown_job", "keep_jobs", 50)

    simulate(main, pool(jobs_per_worker_max=0), keep_jobs=50)


@pytest.mark.row("B9")
def test_a_flood_of_large_jobs_leaves_bounded_bytes_and_time_takes_the_rest() -> None:
    async def main(sim: Simulation) -> None:
        resting = sim.loop.timers()
        assert not resting or ENGINE == "cluster"  # a head that polls its nodes always has some
        for _ in range(300):
            await sim.submit(Script(run_s=0.0, enter_s=0.0001, tokens=20, lines=5), watched=False)
            await asyncio.sleep(0.01)
        sim.jobs.clear()
        await asyncio.sleep(1)
        kept, _ = await sim.supervisor.list(limit=1000)
        assert 10 <= len(kept) <= 30
        await asyncio.sleep(700)  # nobody submits anything, and nothing ends
        assert await sim.supervisor.list(limit=1000) == ([], None)
        assert len(sim.loop.timers()) == len(resting)
        refused = await refusal(sim.supervisor.get(kept[0].job_id))
        assert refused.dropped_by == "keep_s" and refused.state == "completed"

    simulate(main, pool(jobs_per_worker_max=0), keep_bytes=100_000, keep_s=600.0)


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
        assert sim.loop.time() - began < (LIMITS["grace_s"] if grace_s is None else grace_s) + 0.1

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
            sim.supervisor.drained(),
        ):
            answer(question)

    simulate(main)


@pytest.mark.parametrize("step_s", [-86400.0, 86400.0])
def test_a_clock_that_is_set_meanwhile_changes_no_duration(step_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=2.0))
        await asyncio.sleep(1.0)
        set_clock = time.time() + step_s
        monkeypatch.setattr(time, "time", lambda: set_clock)
        await sim.ended(job)
        record = await sim.supervisor.get(job.id)
        times = [datetime.fromisoformat(each or "") for each in (record.created_at, record.started_at, record.ended_at)]
        waited_s, ran_s = ((after - before).total_seconds() for before, after in pairwise(times))
        assert 0 <= waited_s < 0.5 and 2.0 <= ran_s < 2.5

    simulate(main)
