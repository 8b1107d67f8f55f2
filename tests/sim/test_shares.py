"""Shares of tenants: what one may have at the same time, and that it has that whatever the others do."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from support.fake_world import Script
from support.virtual_loop import run

from sim.scenario_helpers import FOREVER, refusal, simulate
from sim.simulation import Job, Simulation, answer, pool

URGENT = {"tenant": "ann", "priority": 1000}


def running(sim: Simulation) -> Counter[str]:
    return Counter(sim.record(job).tenant for job in sim.jobs if sim.record(job).state == "running")


async def submits(sim: Simulation, number: int, script: Script = FOREVER, **fields: Any) -> list[Job]:
    return [await sim.submit(script, **fields) for _ in range(number)]


@pytest.mark.row("B13")
def test_a_tenants_first_job_starts_next_while_another_has_filled_its_share_of_the_queue() -> None:
    async def main(sim: Simulation) -> None:
        first, *_ = await submits(sim, 501, **URGENT)
        full = await refusal(sim.submit(FOREVER, **URGENT))
        assert (full.code, full.bound, full.limit, full.tenant) == ("tenant_queue_full", "queue_jobs_max", 500, "ann")
        sim.world.scripts.pop()
        new = await sim.submit(FOREVER, tenant="bob", priority=-1000)
        assert sim.record(new).queue["position"] == 0
        sim.cancel(first, 0.0)
        await asyncio.sleep(0.1)
        assert running(sim) == {"bob": 1}

    simulate(main)


def test_a_deadline_is_measured_against_the_place_that_the_job_gets_and_not_the_whole_queue() -> None:
    async def main(sim: Simulation) -> None:
        await sim.ended(await sim.submit(Script(run_s=2.0), tenant="ann"))
        await submits(sim, 50, Script(run_s=2.0), tenant="ann")
        refused = await refusal(sim.submit(Script(), tenant="ann", limits={"total_s": 10.0}))
        assert refused.code == "deadline_unmeetable"
        sim.world.scripts.pop()
        job = await sim.submit(Script(run_s=0.1), tenant="bob", limits={"total_s": 10.0})
        await sim.ended(job)
        assert job.state == "completed"
        for each in sim.jobs:
            sim.cancel(each)

    simulate(main)


def test_a_tenant_at_its_share_of_workers_waits_and_others_go_past() -> None:
    async def main(sim: Simulation) -> None:
        ann = await submits(sim, 5, **URGENT)
        await asyncio.sleep(0.5)
        assert running(sim) == {"ann": 2}
        bob = await submits(sim, 1, tenant="bob")
        await asyncio.sleep(0.5)
        assert running(sim) == {"ann": 2, "bob": 1}
        idle = (await sim.supervisor.pools())[0].idle
        assert idle <= 2, "no worker is forked for a job that may not start"
        sim.cancel(ann[0], 0.0)
        await sim.ended(ann[0])
        await asyncio.sleep(0.5)
        assert [sim.record(job).state for job in ann] == ["cancelled", "running", "running", "queued", "queued"]
        await submits(sim, 3, tenant="bob")
        await asyncio.sleep(0.5)
        assert running(sim) == {"ann": 2, "bob": 2}
        sim.cancel(bob[0], 0.0)
        await sim.ended(bob[0])
        await asyncio.sleep(0.5)
        assert running(sim) == {"ann": 2, "bob": 2}

    simulate(main, pool(workers=4), tenants={"ann": {"running_max": 2}})


def test_a_share_of_workers_is_over_all_pools_and_an_end_in_one_lets_a_job_of_the_other_start() -> None:
    async def main(sim: Simulation) -> None:
        first = await sim.submit(FOREVER, kind="work-a", tenant="ann")
        second = await sim.submit(Script(run_s=0.1), kind="work-b", tenant="ann")
        await asyncio.sleep(1)
        assert sim.record(second).state == "queued"
        sim.cancel(first, 0.0)
        await sim.ended(first, second)
        assert second.state == "completed"

    simulate(main, pool("a"), pool("b"), tenants={"ann": {"running_max": 1}})


def test_a_job_whose_start_is_being_written_counts_as_one_that_runs() -> None:
    async def main(sim: Simulation) -> None:
        first = [asyncio.create_task(sim.submit(FOREVER, tenant="ann")) for _ in range(3)]
        await asyncio.sleep(1)
        assert running(sim) == {"ann": 1}
        sim.cancel(next(job for job in sim.jobs if sim.record(job).state == "running"), 0.0)
        await asyncio.sleep(1)
        assert running(sim) == {"ann": 1}
        assert all(task.done() for task in first)

    simulate(main, pool(workers=3, spares=3), tenants={"ann": {"running_max": 1}}, commit_s=0.02)


def test_a_retry_waits_for_its_tenants_share() -> None:
    async def main(sim: Simulation) -> None:
        crashes = Script(end="dies", signal=9, run_s=0.1)
        job = await sim.submit(crashes, tenant="ann", limits={"attempts_max": 2, "backoff_s": 1.0})
        await asyncio.sleep(0.5)
        assert (sim.record(job).state, running(sim)) == ("queued", {})
        other = await sim.submit(Script(run_s=5.0), tenant="ann")
        await asyncio.sleep(3)
        assert (sim.record(job).state, sim.record(other).state) == ("queued", "running")
        await sim.ended(job, other)
        assert len(job.retries) == 1

    simulate(main, pool(workers=3), tenants={"ann": {"running_max": 1}})


def test_an_operator_gets_into_a_full_queue_and_is_not_bound_by_the_table_for_all() -> None:
    async def main(sim: Simulation) -> None:
        operator = {"tenant": "oncall", "operator": True}
        await submits(sim, 11, tenant="default")
        assert (await refusal(sim.submit(FOREVER))).code == "queue_full"
        sim.world.scripts.pop()
        job = await sim.submit(FOREVER, priority=1000, **operator)
        assert sim.record(job).queue["position"] == 0
        assert (await refusal(sim.submit(FOREVER, **operator))).code == "queue_full", "the reserve has a bound, too"
        sim.world.scripts.pop()

    simulate(main, queue_jobs_max=10, tenants={"default": {"priority_max": 5, "queue_jobs_max": None}})


def test_without_keys_everybody_has_the_whole_server() -> None:
    async def main(sim: Simulation) -> None:
        await submits(sim, 11, priority=1000)
        assert running(sim) == {"default": 1}
        assert (await refusal(sim.submit(FOREVER))).code == "queue_full"
        sim.world.scripts.pop()

    simulate(main, queue_jobs_max=10)


def test_the_bytes_of_a_tenants_waiting_jobs_are_bounded_and_freed() -> None:
    async def main(sim: Simulation) -> None:
        await sim.submit(FOREVER, tenant="ann")
        waiting = await sim.submit(FOREVER, tenant="ann", padding=600)
        full = await refusal(sim.submit(FOREVER, tenant="ann", padding=600))
        assert (full.code, full.bound, full.limit) == ("tenant_queue_full", "queue_bytes_max", 1000)
        sim.world.scripts.pop()
        await sim.submit(FOREVER, tenant="bob", padding=600)
        sim.cancel(waiting)
        await sim.ended(waiting)
        await sim.submit(FOREVER, tenant="ann", padding=600)

    simulate(main, queue_bytes_max=2000)


def test_a_priority_over_the_tenants_highest_is_refused() -> None:
    async def main(sim: Simulation) -> None:
        refused = await refusal(sim.submit(FOREVER, tenant="ann", priority=6))
        assert (refused.code, refused.priority_max, refused.asked) == ("priority_over_max", 5, 6)
        sim.world.scripts.pop()
        await sim.submit(FOREVER, tenant="ann", priority=5)
        await sim.submit(FOREVER, tenant="bob", priority=1000)

    simulate(main, tenants={"default": {"priority_max": 5}, "bob": {"priority_max": None}})


def test_a_tenants_caps_lower_limits_and_refuse_what_is_over_them() -> None:
    async def main(sim: Simulation) -> None:
        job = await sim.submit(Script(run_s=0.1), tenant="ann")
        other = await sim.submit(Script(run_s=0.1), tenant="bob", limits={"run_s": 60.0})
        assert (sim.record(job).limits["run_s"], sim.record(other).limits["run_s"]) == (30.0, 60.0)
        refused = await refusal(sim.submit(FOREVER, tenant="ann", limits={"run_s": 60.0}))
        assert (refused.code, refused.cap) == ("limit_over_cap", 30.0)
        sim.world.scripts.pop()

    simulate(main, tenants={"ann": {"caps": {"run_s": 30.0}}})


def test_submissions_a_second_are_a_token_bucket() -> None:
    async def main(sim: Simulation) -> None:
        engine = sim.supervisor
        left = [answer(engine.count_submission("ann")) for _ in range(20)]
        assert [quota.remaining for quota in left] == list(range(19, -1, -1))
        assert (left[-1].quota, left[-1].window_s, left[-1].reset_s) == (20, 10, 10)
        refused = await refusal(engine.count_submission("ann"))
        assert (refused.code, refused.limit, refused.retry_after_s) == ("too_many_submissions", 2.0, 1)
        assert answer(engine.count_submission("bob")) is None
        await asyncio.sleep(0.4)
        assert (await refusal(sim.submit(FOREVER, tenant="ann"))).code == "too_many_submissions"
        sim.world.scripts.pop()
        await asyncio.sleep(0.2)
        await sim.submit(Script(), tenant="ann")
        await asyncio.sleep(3600)
        assert answer(engine.count_submission("ann")).remaining == 19, "it does not save up more than its window"

    simulate(main, tenants={"ann": {"submissions_per_s": 2.0}})


def test_streams_are_bounded_by_the_readers_tenant() -> None:
    async def main(sim: Simulation) -> None:
        job, engine = await sim.submit(FOREVER, tenant="bob"), sim.supervisor
        for _ in range(2):
            await engine.reader_came(job.id, "ann")
        refused = await refusal(engine.reader_came(job.id, "ann"))
        assert (refused.code, refused.limit, refused.tenant) == ("too_many_streams", 2, "ann")
        await engine.reader_came(job.id, "bob")
        await engine.reader_left(job.id, "ann")
        await engine.reader_came(job.id, "ann")
        assert {told.tenant: told.streams for told in await engine.tenants()} == {"ann": 2, "bob": 1}

    simulate(main, tenants={"default": {"streams_max": 2}})


def test_a_tenants_results_push_out_its_own() -> None:
    async def main(sim: Simulation) -> None:
        precious = await sim.submit(Script(run_s=0.001), watched=False, tenant="bob")
        await sim.ended(precious)
        for _ in range(30):
            sim.jobs[:] = []
            await sim.ended(await sim.submit(Script(run_s=0.001), watched=False, tenant="ann"))
        assert answer(sim.supervisor.get(precious.id)).state == "completed"
        assert {told.tenant: told.kept for told in await sim.supervisor.tenants()} == {"ann": 9, "bob": 1}
        sim.jobs[:] = [precious]

    simulate(main, keep_jobs=10)


def history(seed: int) -> None:
    """Tenants submit and cancel at random. None has more than its share, and none waits for nothing."""
    dice = random.Random(seed)
    shares = {name: {"running_max": dice.choice((1, 2, 3, None))} for name in ("ann", "bob", "cay")}
    workers = dice.choice((1, 2, 4))

    async def main() -> None:
        async with Simulation(pool(workers=workers), seed=seed, tenants=shares) as sim:
            await asyncio.sleep(0.1)
            for _ in range(60):
                tenant = dice.choice(("ann", "ann", "ann", "bob", "cay"))
                if dice.random() < 0.7:
                    script = Script(run_s=dice.choice((0.01, 0.3, 2.0)))
                    await sim.submit(script, watched=False, tenant=tenant, priority=dice.choice((0, 9)))
                elif sim.jobs:
                    sim.cancel(dice.choice(sim.jobs), 0.0)
                await asyncio.sleep(dice.choice((0.0, 0.01, 0.1)))
                sim.check_shares()
            await asyncio.sleep(0.1)
            while waiting := [sim.record(job) for job in sim.jobs if sim.record(job).state == "queued"]:
                now = running(sim)
                free = {
                    each.tenant for each in waiting if now[each.tenant] < (shares[each.tenant]["running_max"] or 99)
                }
                idle = workers - (await sim.supervisor.pools())[0].busy
                assert not (free and idle), f"{free} wait while {idle} workers are free: {now}"
                await asyncio.sleep(0.5)
            await sim.ended(*sim.jobs)
            sim.check_shares()

    run(main())


def test_no_history_breaks_a_share_or_lets_a_job_wait_for_nothing() -> None:
    for seed in range(28):
        history(seed)
