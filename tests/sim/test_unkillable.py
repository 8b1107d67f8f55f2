"""What SIGKILL does not end."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_world import NEVER, Script

from killable.supervisor.attempts.termination import LEAVE_S
from sim.scenario_helpers import job_began, near, simulate
from sim.simulation import Simulation, pool


@pytest.mark.row("D15")
def test_an_unkillable_job_ends_its_slot_is_quarantined_and_the_others_go_on() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=NEVER, acknowledge_s=NEVER, dies_s=NEVER))
        await asyncio.sleep(1)
        sim.cancel(job)
        await sim.ended(job)
        assert job.code == "unkillable" and job.state == "failed"
        assert near(sim.loop.time(), sim.truth(job).kill_at + sim.settings.unkillable_s)  # type: ignore[operator]
        assert not {"exited", "reaped", "tree_empty"} & set(job.certificate)
        assert (job.certificate["cause"], job.certificate["by"]) == ("cancelled", "user")  # who asked is not forgotten
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
        job = await sim.submit(Script(run_s=NEVER, acknowledge_s=NEVER, dies_s=30.0, tokens=3))
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
        its_job_was_over = not cancelled or grace_s > LEAVE_S
        assert job.certificate.get("lingered", False) == its_job_was_over
        assert job.certificate.get("grace_s") == (grace_s if cancelled else None), "it is the one that was in force"
        if not cancelled:
            assert near(truth.kill_at, job_began(sim, job) + 0.001 + 0.01 + LEAVE_S)
        assert (job.code == "unkillable") == (dies_s == NEVER)

    simulate(main)
