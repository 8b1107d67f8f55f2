"""Drains and shutdowns: no new jobs, the accepted ones may end, and what is left at the deadline is ended."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_world import Script

from sim.scenario_helpers import DEAF, FOREVER, refusal, simulate
from sim.simulation import LIMITS, Simulation, answer, pool

SHORT = Script(run_s=1.0)


@pytest.mark.row("A17")
def test_a_drain_takes_nothing_new_and_lets_accepted_jobs_run_to_their_end() -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(SHORT) for _ in range(3)]
        await asyncio.sleep(0.1)
        standing = answer(sim.supervisor.drain())
        assert (standing.draining, standing.shutting_down, standing.deadline_s) == (True, False, None)
        assert (standing.running, standing.queued) == (1, 2)
        assert (await refusal(sim.supervisor.submit(jobs[0].submission))).code == "draining"
        assert answer(sim.supervisor.ready()) == (False, ["draining"])
        await sim.ended(*jobs)
        assert [job.state for job in jobs] == ["completed"] * 3
        assert answer(sim.supervisor.undrain()).draining is False
        await sim.ended(await sim.submit(SHORT))

    simulate(main)


@pytest.mark.row("A17")
def test_at_its_deadline_a_drain_cancels_what_is_left_queued_or_not() -> None:
    async def main(sim: Simulation) -> None:
        jobs = [await sim.submit(FOREVER) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert answer(sim.supervisor.drain(deadline_s=5.0)).deadline_s == 5.0
        await asyncio.sleep(3)
        assert answer(sim.supervisor.drained()).deadline_s == pytest.approx(2.0)
        assert [sim.record(job).state for job in jobs] == ["running", "queued", "queued"]
        await sim.ended(*jobs, within_s=2.0 + LIMITS["grace_s"])
        assert {job.certificate["by"] for job in jobs} == {"shutdown"}
        assert "started" not in jobs[1].names

    simulate(main)


def test_a_drain_that_is_taken_back_cancels_nobody() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        answer(sim.supervisor.drain(deadline_s=5.0))
        answer(sim.supervisor.undrain())
        await asyncio.sleep(20)
        assert sim.record(job).state == "running"

    simulate(main)


def test_a_later_drain_sets_the_deadline_anew() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER)
        answer(sim.supervisor.drain(deadline_s=5.0))
        answer(sim.supervisor.drain(deadline_s=50.0))
        await asyncio.sleep(20)
        assert sim.record(job).state == "running"
        assert answer(sim.supervisor.drain()).deadline_s is None
        await asyncio.sleep(60)
        assert sim.record(job).state == "running"

    simulate(main)


@pytest.mark.row("A17")
def test_a_shutdown_is_due_at_once_or_when_the_last_job_has_ended_or_at_its_deadline() -> None:
    async def main(sim: Simulation) -> None:
        short, long = await sim.submit(SHORT), await sim.submit(FOREVER)
        await asyncio.sleep(0.1)
        due = asyncio.create_task(sim.supervisor.until_shutdown())
        began = sim.loop.time()
        answer(sim.supervisor.shutdown(deadline_s=10.0))
        assert (await refusal(sim.supervisor.submit(short.submission))).code == "draining"
        assert (await refusal(sim.supervisor.undrain())).code == "draining"
        await due
        assert sim.loop.time() - began == pytest.approx(10.0)
        assert (short.state, sim.record(long).state) == ("completed", "running")

    simulate(main, pool(workers=2))

    async def nothing_left(sim: Simulation) -> None:
        job = await sim.submit(SHORT)
        await asyncio.sleep(0.1)
        due = asyncio.create_task(sim.supervisor.until_shutdown())
        began = sim.loop.time()
        answer(sim.supervisor.shutdown(deadline_s=1000.0))
        await due
        assert sim.record(job).state == "completed" and sim.loop.time() - began < 2.0

    simulate(nothing_left)

    async def asked_again(sim: Simulation) -> None:
        await sim.submit(FOREVER)
        began = sim.loop.time()
        answer(sim.supervisor.shutdown(deadline_s=10.0))
        await asyncio.sleep(4.0)
        assert answer(sim.supervisor.shutdown(deadline_s=3600.0)).deadline_s == pytest.approx(6.0), "it only hurries"
        await sim.supervisor.until_shutdown()
        assert sim.loop.time() - began == pytest.approx(10.0)

    simulate(asked_again)

    async def at_once(sim: Simulation) -> None:
        await sim.submit(FOREVER)
        assert answer(sim.supervisor.shutdown()).shutting_down
        answer(sim.supervisor.until_shutdown())

    simulate(at_once)


def test_a_shutdowns_grace_shortens_that_of_every_job() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF, limits={"grace_s": 60.0})
        await asyncio.sleep(1)
        answer(sim.supervisor.shutdown(grace_s=0.5, reason="new release"))
        began = sim.loop.time()
        await sim.supervisor.close()
        certificate = sim.record(job).certificate
        assert certificate is not None and sim.loop.time() - began < 0.7
        assert (certificate["grace_s"], certificate["by"], certificate["reason"]) == (0.5, "shutdown", "new release")

    simulate(main)


def test_a_second_shutdown_hurries_a_close_that_is_under_way() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(DEAF, limits={"grace_s": 60.0})
        await asyncio.sleep(1)
        closing = asyncio.create_task(sim.supervisor.close())
        await asyncio.sleep(1)
        assert sim.record(job).state == "stopping"
        sim.world.shortened(job.number, sim.loop.time())
        answer(sim.supervisor.shutdown(grace_s=0.0))
        began = sim.loop.time()
        await closing
        assert sim.loop.time() - began < 0.1

    simulate(main)
