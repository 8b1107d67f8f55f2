"""One submission twice, and many jobs cancelled by one request."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from support.fake_world import Script

from killable.supervisor.dispatch.bulk_stop import AT_ONCE
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


def test_a_key_whose_client_had_left_is_free_again() -> None:
    async def main(sim: Simulation) -> None:
        left = await sim.submit(DEAF, **KEY)
        sim.cancel(left, by="client_gone")
        await asyncio.sleep(0.001)
        again = await sim.submit(FOREVER, **KEY)
        assert again.id != left.id, "also while the first one still ends"
        await sim.ended(left)
        assert answer(sim.supervisor.submit(left.submission)).job_id == again.id, "its end takes no key from another"
        sim.cancel(again)
        await sim.ended(again)
        assert answer(sim.supervisor.submit(left.submission)).job_id == again.id, "who cancels it keeps the key"

    simulate(main, pool(workers=2))


def test_a_key_with_another_request_is_a_conflict_and_another_tenants_key_is_not() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(FOREVER, **KEY)
        conflict = await refusal(sim.supervisor.submit(job.submission._replace(body_digest="d2")))
        assert (conflict.code, conflict.job_id) == ("idempotency_conflict", job.id)
        other = await sim.submit(FOREVER, **KEY, tenant="another")
        assert other.id != job.id

    simulate(main, pool(workers=2))


async def flood(sim: Simulation, number: int, **fields: object) -> None:
    """Run trivial jobs, of which `sim` remembers nothing."""
    before = list(sim.jobs)
    for _ in range(number):
        sim.jobs[:] = []
        await sim.ended(await sim.submit(Script(run_s=0.001), watched=False, **fields))
    sim.jobs[:] = [job for job in before if job.id in sim.supervisor._registry._jobs]


def keys(sim: Simulation) -> int:
    return len(sim.supervisor._registry.idempotency_keys)  # bounded: not to be seen from outside


@pytest.mark.parametrize("tenant", ["another", "default"])
def test_a_flood_does_not_make_a_request_that_comes_again_a_second_job(tenant: str) -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=0.1), watched=False, **KEY)
        first = sim.record(job)
        await sim.ended(job)
        await flood(sim, 50, tenant=tenant)
        if tenant == "default":
            assert (await refusal(sim.supervisor.get(job.id))).code == "unknown_job"
        again = answer(sim.supervisor.submit(job.submission))
        assert again == first._replace(replayed=True)
        conflict = await refusal(sim.supervisor.submit(job.submission._replace(body_digest="d2")))
        assert conflict.code == "idempotency_conflict"

    simulate(main, keep_jobs=2)


def test_a_key_is_forgotten_when_its_time_is_over_and_its_job_is_not_kept() -> None:
    async def main(sim: Simulation) -> None:
        kept = await sim.submit(Script(run_s=0.001), watched=False, tenant="ann", **KEY)
        gone = await sim.submit(Script(run_s=0.001), watched=False, **KEY)
        await sim.ended(kept, gone)
        await flood(sim, 3)
        await asyncio.sleep(99)
        assert answer(sim.supervisor.submit(gone.submission)).replayed
        await asyncio.sleep(2)
        assert answer(sim.supervisor.submit(kept.submission)).replayed, "as long as its job is kept"
        assert (await sim.submit(FOREVER, **KEY)).id != gone.id

    simulate(main, keep_jobs=2, idempotency_s=100.0)


def test_keys_without_jobs_are_bounded_by_tenant_and_what_is_forgotten_is_said() -> None:
    async def main(sim: Simulation) -> None:
        other = await sim.submit(Script(run_s=0.001), watched=False, tenant="ann", **KEY)
        first = await sim.submit(Script(run_s=0.001), watched=False, **KEY)
        await sim.ended(other, first)
        for number in range(20):
            await flood(sim, 1, idempotency_key=f"k{number + 2}", body_digest="d1")
        assert answer(sim.supervisor.submit(other.submission)).replayed, "it has a bound of its own"
        latest = first.submission._replace(idempotency_key="k18")
        assert answer(sim.supervisor.submit(latest)).replayed
        (told,) = await sim.supervisor.tenants("default")
        assert told.idempotency_keys == 5 and keys(sim) == 5 + 2
        assert sim.supervisor._observer.metrics.keys_forgotten == 15
        assert (await sim.submit(FOREVER, **KEY)).id != first.id

    simulate(main, keep_jobs=2, idempotency_keys_max=5)


def test_a_key_whose_time_is_over_makes_room_when_the_next_job_is_dropped() -> None:
    async def main(sim: Simulation) -> None:
        await flood(sim, 4, **KEY | {"tenant": "ann"})
        for number in range(4):
            await flood(sim, 1, idempotency_key=f"k{number}", body_digest="d1")
        await asyncio.sleep(101)
        await flood(sim, 3)
        assert keys(sim) == 0
        assert sim.supervisor._observer.metrics.keys_forgotten == 0, "none before its time"

    simulate(main, keep_jobs=1, idempotency_s=100.0)


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
        await asyncio.sleep(1)  # readers hear of it after who has asked for it
        assert {job.certificate["reason"] for job in ours} == {"enough"}
        assert sim.record(theirs).state == "running"
        again = await sim.supervisor.cancel_matching(state="cancelled")
        assert len(again.jobs) == 4 and {status for _, status in again.jobs} == {"cancelled"}

    simulate(main)


def test_bulk_cancel_of_many_that_wait_lets_the_loop_turn_and_starts_none() -> None:
    async def main(sim: Simulation) -> None:
        ours = [await sim.submit(FOREVER, tags={"team": "a"}) for _ in range(10 * AT_ONCE)]
        other = await sim.submit(FOREVER)
        await asyncio.sleep(1)
        cancel = asyncio.ensure_future(sim.supervisor.cancel_matching(tag=("team", "a"), grace_s=0))
        left = [len(ours) - 1]  # the first one runs
        while left[-1]:
            await asyncio.sleep(0)
            left.append(sum(sim.record(job).state == "queued" for job in ours))
        assert max(before - after for before, after in pairwise(left)) <= AT_ONCE
        assert [("started" in job.names) for job in ours] == [True, *[False] * (len(ours) - 1)]
        assert {status for _, status in (await cancel).jobs} == {"cancelled"}
        await asyncio.sleep(1)
        assert sim.record(other).state == "running"

    simulate(main, queue_jobs_max=20 * AT_ONCE)


def test_bulk_cancel_waits_once_for_all_and_tells_who_is_still_stopping() -> None:
    async def main(sim: Simulation) -> None:
        slow = [await sim.submit(DEAF) for _ in range(2)]
        await asyncio.sleep(1)
        began = sim.loop.time()
        found = await sim.supervisor.cancel_matching(type="work-a", wait_s=0.5)
        assert sim.loop.time() - began == pytest.approx(0.5)
        assert found.jobs == tuple((job.id, "stopping") for job in reversed(slow))

    simulate(main, pool(workers=2))
