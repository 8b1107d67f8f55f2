"""A pool that is broken on one machine and works on another one, which is away for a moment, or for good."""

from __future__ import annotations

import asyncio

import pytest
from support.virtual_loop import run

from killable.supervisor.cluster.lease import Times, end_of_node
from killable.supervisor.cluster.node_pools import MACHINES_S
from sim.cluster_simulation import ClusterSimulation, Submitted
from sim.journaled_cluster import journaled_cluster

LEASE_S = Times().lease_s
AWAY_S = end_of_node(0.0, LEASE_S) + 0.1
WHY = "no GPU here"


async def jobs_of(sim: ClusterSimulation) -> list[Submitted]:
    """Break the pool on the first machine. Return jobs: as many as run on the other one, which may be tried again, and
    three that wait.
    """
    sim.tell_pools("n0000", state="broken", detail=WHY)
    await asyncio.sleep(0.1)
    again = {"attempts_max": 3, "backoff_s": 0.0}
    jobs = [await sim.submit(run_s=3.0, limits=again) for _ in range(sim.settings.pools[0].workers)]
    jobs += [await sim.submit(run_s=1.0) for _ in range(3)]
    await asyncio.sleep(1.0)
    sim.has_lost_nodes = True
    return [job for job in jobs if job is not None]


def test_a_pool_that_works_on_a_machine_that_is_away_is_not_broken() -> None:
    """Also if the machine on which it is broken tells something new meanwhile."""

    async def main() -> None:
        async with ClusterSimulation(nodes=2, workers=2) as sim:
            await jobs_of(sim)
            other = sim.network.machines["n0001"]
            other.is_cut_off = True
            await asyncio.sleep(AWAY_S)
            (pool,) = await sim.head.supervisor.pools()
            assert (pool.state, pool.detail) == ("restarting", WHY)
            sim.tell_pools("n0000", zygote_restarts=9)
            await sim.submit(run_s=1.0)
            await asyncio.sleep(1.0)
            other.is_cut_off = False
            await sim.ended(within_s=60.0)
            assert sim.counts() == {"completed": 6} and [job.attempts for job in sim.jobs] == [2, 2, 1, 1, 1, 1]

    run(main())


def test_a_pool_that_is_broken_on_every_machine_that_there_is_ends_what_waits() -> None:
    async def main() -> None:
        async with ClusterSimulation(nodes=2, workers=2) as sim:
            jobs = await jobs_of(sim)
            sim.network.machines["n0001"].turn_off()  # Ray does not list it any more
            await asyncio.sleep(LEASE_S - 1.0)
            assert not any(job.end for job in jobs)
            sim.has_broken_pools = True
            await sim.ended(within_s=AWAY_S)
            assert sim.counts() == {"spawn": 5}
            assert jobs[0].end["error"]["message"] == f"pool a is broken: {WHY}"

    run(main())


@pytest.mark.parametrize("comes", [True, False], ids=["which comes", "which does not come"])
def test_a_restarted_head_waits_for_the_machine_on_which_a_pool_works(*, comes: bool) -> None:
    """Ray has it in its list again a moment later than the one on which the pool is broken."""

    async def main() -> None:
        async with journaled_cluster(nodes=2, workers=2) as sim:
            broken, works = sim.network.machines.values()
            sim.tell_pools(broken.name, state="broken", detail=WHY)
            await asyncio.sleep(0.1)
            jobs = [await sim.submit(run_s=5.0) for _ in range(4)]
            sim.has_lost_nodes = True
            works.turn_off()
            sim.kill_head()
            await asyncio.sleep(0.8 * MACHINES_S)
            new = asyncio.create_task(sim.submit(run_s=5.0))
            await asyncio.sleep(1.0)
            waiting = [job for job in jobs if not job.end]
            assert len(waiting) == 2 and {job.code for job in jobs if job.end} == {"node_lost"} and not (await new).end
            sim.has_broken_pools = not comes
            if comes:
                works.turn_on()
            await sim.ended(within_s=0.2 * MACHINES_S + 20.0)
            assert {job.code for job in (*waiting, await new)} == {None if comes else "spawn"}

    run(main())


@pytest.mark.parametrize("comes", [True, False], ids=["which comes", "which does not come"])
def test_a_restarted_head_waits_for_the_machine_that_knows_the_type_of_a_job(*, comes: bool) -> None:
    """No other one can import it: until then nobody knows whether the type is gone."""

    async def main() -> None:
        async with journaled_cluster(nodes=2, workers=1) as sim:
            broken, works = sim.network.machines.values()
            jobs = [await sim.submit(run_s=60.0) for _ in range(2)]
            waiting = await sim.submit(run_s=1.0)
            await asyncio.sleep(1.0)
            sim.has_lost_nodes = True
            sim.kill_head()
            for machine in (broken, works):
                machine.turn_off()
            broken.has_jobs = False
            broken.turn_on()
            await asyncio.sleep(0.8 * MACHINES_S)
            assert not waiting.end and not sim.is_served, "its lease is over, and what it ran is lost"
            sim.has_broken_pools = not comes
            if comes:
                works.turn_on()
            await sim.ended(within_s=0.2 * MACHINES_S + 5.0)
            assert [job.code for job in (*jobs, waiting)] == ["node_lost", "node_lost", None if comes else "spawn"]

    run(main())


def test_what_a_machine_has_counted_stays_counted_when_it_is_gone() -> None:
    """A counter that falls is taken for a restarted server's by whoever reads metrics."""

    async def main() -> None:
        async with ClusterSimulation(nodes=2, workers=2) as sim:

            async def restarts(of_second: int) -> int:
                sim.tell_pools("n0001", zygote_restarts=of_second)
                await asyncio.sleep(0.1)
                (pool,) = await sim.head.supervisor.pools()
                return pool.zygote_restarts

            sim.tell_pools("n0000", zygote_restarts=3)
            assert [await restarts(1), await restarts(2)] == [4, 5]
            sim.network.machines["n0000"].turn_off()
            await asyncio.sleep(AWAY_S)
            (pool,) = await sim.head.supervisor.pools()
            assert pool.workers_max == 2, "of the other one"
            assert [await restarts(2), await restarts(4)] == [5, 7]

    run(main())
