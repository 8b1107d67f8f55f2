"""What waits for the journal's disk, and what does not: on virtual time, with commits of a named length."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.engines import ENGINE
from support.fake_disk import FakeDisk
from support.fake_world import Script

from killable.supervisor.jobs.durable_ends import READ_S, TELL_S
from killable.supervisor.models import Submission
from killable.workers.errors import Refused
from sim.scenario_helpers import FOREVER, LATENCY_S, job_began, near, simulate
from sim.simulation import Job, Simulation, pool

COMMIT_S = 1.0


def disk_of(sim: Simulation) -> FakeDisk:
    assert sim.disk is not None
    return sim.disk


async def until_idle(sim: Simulation) -> None:
    """Wait until nothing is on its way to the disk."""
    await asyncio.sleep(10 * COMMIT_S)


async def two_jobs(sim: Simulation) -> tuple[Job, Job]:
    """Return a job that runs and one that waits behind it, both on disk."""
    running, waiting = await sim.submit(FOREVER), await sim.submit(Script())
    await until_idle(sim)
    return running, waiting


@pytest.mark.row("B16")
def test_with_a_free_worker_acceptance_and_start_are_one_commit() -> None:
    async def test(sim: Simulation) -> None:
        asked = sim.loop.time()
        job = await sim.submit(Script())
        assert near(sim.loop.time(), asked + COMMIT_S)
        await sim.ended(job)
        assert near(job_began(sim, job), asked + COMMIT_S)

    simulate(test, commit_s=COMMIT_S)


@pytest.mark.row("B16")
def test_the_next_job_begins_when_its_start_is_on_disk_and_the_end_before_it_is_told_then() -> None:
    async def test(sim: Simulation) -> None:
        first = await sim.submit(Script(run_s=20.0))
        second = await sim.submit(Script(run_s=20.0))
        over = job_began(sim, first) + 20.0
        await asyncio.sleep(over + COMMIT_S / 2 - sim.loop.time())
        assert (first.state, sim.record(first).state, sim.record(first).durable) == ("", "completed", False)
        assert sim.record(second).state == "queued"  # though a worker has been free for long
        await sim.ended(first, second)
        assert near(job_began(sim, second), over + 0.001 + COMMIT_S)
        assert sim.record(first).durable is True

    simulate(test, pool(jobs_per_worker_max=0), commit_s=COMMIT_S)


@pytest.mark.row("B16")
def test_a_wait_tells_an_end_when_it_is_on_disk_a_record_soon_and_a_cancel_at_once() -> None:
    async def test(sim: Simulation) -> None:
        running, _ = await two_jobs(sim)
        asked = sim.loop.time()
        cancelled = await sim.supervisor.cancel(running.id, wait_s=10.0)
        assert (cancelled.state, cancelled.durable) == ("cancelled", False)
        assert sim.loop.time() < asked + 10 * LATENCY_S and sim.truth(running).tree_empty
        over = sim.loop.time()
        again = await sim.supervisor.cancel(running.id)
        assert (again.state, again.durable) == ("cancelled", False)
        got, (listed, _) = await asyncio.gather(sim.supervisor.get(running.id), sim.supervisor.list(state="cancelled"))
        assert {record.durable for record in (got, *listed)} == {False}
        assert near(sim.loop.time(), over + READ_S), "it takes longer than any commit: nobody waits for more"
        assert (await sim.supervisor.get(running.id)).durable is False and near(sim.loop.time(), over + READ_S)
        assert (await sim.supervisor.wait(running.id)).durable is True
        began = asked if ENGINE == "cluster" else over  # a head writes that it stops a job; the end goes with that
        assert near(sim.loop.time(), began + COMMIT_S) and "durable" not in running.end

    simulate(test, commit_s=COMMIT_S)


@pytest.mark.row("B16")
def test_a_record_waits_for_an_ordinary_commit() -> None:
    async def test(sim: Simulation) -> None:
        running, _ = await two_jobs(sim)
        assert (await sim.supervisor.cancel(running.id)).durable is False
        got, (listed, _) = await asyncio.gather(sim.supervisor.get(running.id), sim.supervisor.list(state="cancelled"))
        assert {record.durable for record in (got, *listed)} == {True}

    simulate(test, commit_s=READ_S / 2)


@pytest.mark.row("B16")
@pytest.mark.parametrize("how", ["cancel", "queue_s", "total_s", "drain", "shutdown"])
def test_a_job_whose_start_waits_for_the_disk_ends_at_once_and_never_runs(how: str) -> None:
    async def test(sim: Simulation) -> None:
        limits = {how: 25.0} if how.endswith("_s") else {}
        first = await sim.submit(Script(run_s=20.0), limits={"grace_s": 0.0})
        second = await sim.submit(FOREVER, limits=limits)
        asked = sim.loop.time()
        await asyncio.sleep(job_began(sim, first) + 15.0 - asked)
        disk_of(sim).commit_s = 1000.0  # from now on it hangs
        await asyncio.sleep(7.0)
        assert sim.record(second).state == "queued" and sim.record(first).state == "completed"
        now = sim.loop.time()
        if how == "cancel":
            record = await sim.supervisor.cancel(second.id)
            assert (record.state, record.durable, record.pid) == ("cancelled", False, None)
        elif how == "drain":
            await sim.supervisor.drain(deadline_s=1.0)
            await asyncio.sleep(1.0)
        elif how == "shutdown":
            closing = asyncio.create_task(sim.supervisor.close())
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(asked + 25.0 - now + LATENCY_S)
        record = sim.record(second)
        assert record.ended and record.certificate is not None
        assert record.certificate["cause"] == ("timeout.queue" if how.endswith("_s") else "cancelled")
        if how == "shutdown":
            await closing
        else:
            assert (await sim.supervisor.pools())[0].busy == 0  # its worker is another job's
            assert (await sim.supervisor.wait(second.id)).durable is False  # after TELL_S, as the disk hangs
            assert sim.loop.time() <= now + 25.0 + TELL_S

    simulate(test, pool(jobs_per_worker_max=0), commit_s=0.01)


@pytest.mark.row("B16")
def test_while_the_disk_is_full_nothing_starts_and_then_all_in_its_order() -> None:
    async def test(sim: Simulation) -> None:
        disk = disk_of(sim)
        running = await sim.submit(FOREVER)
        waiting = [await sim.submit(Script(run_s=1.0), priority=priority) for priority in (0, 0, 5)]
        timed = await sim.submit(FOREVER, limits={"queue_s": 30.0})
        await until_idle(sim)
        disk.is_full = True
        assert (await sim.supervisor.cancel(running.id)).state == "cancelled"
        await asyncio.sleep(10)
        assert {sim.record(job).state for job in (*waiting, timed)} == {"queued"}
        able, degraded = await sim.supervisor.ready()
        assert able and degraded == ["journal: full"]
        assert json.loads(running.events[-1].data)["durable"] is False  # whoever reads along has heard, after TELL_S
        got = await sim.supervisor.get(running.id)
        assert (got.state, got.durable) == ("cancelled", False)
        with pytest.raises(Refused) as caught:
            await sim.supervisor.submit(Submission("work-a", b'{"n":0}'))
        assert caught.value.code == "journal_failed"
        assert (await sim.supervisor.cancel(waiting[1].id)).state == "cancelled"
        await sim.ended(timed)
        assert timed.code == "timeout.queue"
        disk.is_full = False
        await sim.ended(waiting[0], waiting[2])
        assert job_began(sim, waiting[2]) < job_began(sim, waiting[0])
        assert (await sim.supervisor.get(running.id)).durable is True
        assert await sim.supervisor.ready() == (True, [])

    simulate(test, commit_s=0.01)


@pytest.mark.row("B16")
def test_a_worker_that_dies_while_it_is_kept_for_a_job_costs_only_the_wait() -> None:
    """Another one gets the job when its start is on disk in turn; the start that did not happen is taken back."""

    async def test(sim: Simulation) -> None:
        asked = asyncio.create_task(sim.submit(Script()))
        await asyncio.sleep(COMMIT_S / 2)
        kept, _ = await sim.supervisor.workers()  # the second one is the spare that took its place
        await sim.supervisor.kill_worker(kept.worker_id)
        job = await asked
        assert sim.record(job).state == "queued"
        await sim.ended(job)
        assert job.state == "completed" and sim.record(job).worker_id != kept.worker_id

    simulate(test, commit_s=COMMIT_S)
