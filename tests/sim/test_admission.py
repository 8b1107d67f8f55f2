"""One submission twice, and many jobs cancelled by one request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from support.fake_world import Script

from sim.scenario_helpers import DEAF, FOREVER, refusal, simulate
from sim.simulation import Simulation, answer, pool

KEY = {"idempotency_key": "k1", "body_digest": "d1"}


def test_a_submission_that_comes_again_is_the_same_job_with_the_first_answer() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=1.0), **KEY)
        await sim.ended(job)
        again = answer(sim.supervisor.submit(job.submission))
        assert (again.job_id, again.state, again.replayed) == (job.id, "running", True)
        assert sim.record(job).state == "completed" and not sim.record(job).replayed
        answer(sim.supervisor.drain())
        assert answer(sim.supervisor.submit(job.submission)).job_id == job.id  # it was accepted before the drain

    simulate(main)


def test_a_key_with_another_request_is_a_conflict_and_another_tenants_key_is_not() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, **KEY)
        conflict = await refusal(sim.supervisor.submit(replace(job.submission, body_digest="d2")))
        assert (conflict.code, conflict.job_id) == ("idempotency_conflict", job.id)
        other = await sim.submit(FOREVER, **KEY, tenant="another")
        assert other.id != job.id

    simulate(main, pool(workers=2))


def test_a_key_is_forgotten_with_its_job_and_jobs_without_one_are_never_the_same() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=0.1), watched=False, **KEY)
        await sim.ended(job)
        for _ in range(3):
            sim.jobs.clear()
            await sim.ended(await sim.submit(Script(run_s=0.1), watched=False))
        sim.jobs.clear()
        assert (await refusal(sim.supervisor.get(job.id))).code == "unknown_job"
        assert (await sim.submit(FOREVER, **KEY)).id != job.id
        assert len(sim.supervisor._registry.idempotency_keys) == 1  # bounded: not to be seen from outside

    simulate(main, keep_jobs=2)


@pytest.mark.row("G5")
def test_bulk_cancel_ends_those_that_match_and_never_starts_one_that_waits() -> None:
    async def main(sim: Simulation) -> None:
        ours = [await sim.submit(FOREVER, tags={"team": "a"}) for _ in range(4)]
        theirs = await sim.submit(FOREVER, tags={"team": "b"})
        await asyncio.sleep(1)
        dry = await sim.supervisor.cancel_matching(tag=("team", "a"), dry_run=True)
        assert dry.jobs == tuple((job.id, sim.record(job).state) for job in reversed(ours))
        done = await sim.supervisor.cancel_matching(tag=("team", "a"), reason="enough")
        assert done.jobs == tuple((job.id, "cancelled") for job in reversed(ours))
        assert [("started" in job.names) for job in ours] == [True, False, False, False]
        assert {job.certificate["reason"] for job in ours} == {"enough"}
        await asyncio.sleep(1)
        assert sim.record(theirs).state == "running"
        again = await sim.supervisor.cancel_matching(state="cancelled")
        assert len(again.jobs) == 4 and {status for _, status in again.jobs} == {"cancelled"}

    simulate(main)


def test_bulk_cancel_waits_once_for_all_and_tells_who_is_still_stopping() -> None:
    async def main(sim: Simulation) -> None:
        slow = [await sim.submit(DEAF) for _ in range(2)]
        await asyncio.sleep(1)
        began = sim.loop.time()
        found = await sim.supervisor.cancel_matching(type="work-a", wait_s=0.5)
        assert sim.loop.time() - began == pytest.approx(0.5)
        assert found.jobs == tuple((job.id, "stopping") for job in reversed(slow))

    simulate(main, pool(workers=2))
