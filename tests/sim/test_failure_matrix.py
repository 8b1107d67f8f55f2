"""What happens to a machine, to its jobs, and by when: each row of the table in docs/explanation/cluster.md.

The same over a real Ray cluster: tests/cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.fake_network import FakeMachine
from support.virtual_loop import run

from killable.supervisor.cluster.lease import Times, end_of_node
from sim.cluster_simulation import ClusterSimulation, Submitted

LEASE_S = Times().lease_s
LATEST_S = end_of_node(0.0, LEASE_S) + 0.1
"""After it was heard last: 11.2 s with the defaults."""
NOTICED_S = Times().poll_s + Times().patience_s + 0.5
"""A way that says nothing of the death of a process: Ray's says it at once."""
RUN_S = 60.0


async def two_jobs(sim: ClusterSimulation) -> tuple[Submitted, Submitted, FakeMachine]:
    """Return two jobs that run on one of three machines, which it is; the second may be tried again."""
    jobs = []
    for number in range(6):
        again = {"attempts_max": 1 + number // 3, "backoff_s": 0.0}
        job = await sim.submit(run_s=RUN_S, limits=again)
        assert job is not None
        jobs.append(job)
    await asyncio.sleep(1.0)
    once, twice = jobs[0], jobs[3]
    (node,) = {each.node for job in (once, twice) for each in sim.runs.of(job.id)}
    return once, twice, sim.network.machines[node]


def cut_off(machine: FakeMachine) -> None:
    machine.is_cut_off = True


@pytest.mark.parametrize(
    ("disaster", "fenced", "within_s"),
    [
        pytest.param(FakeMachine.kill, "swept", NOTICED_S, id="the node's process is killed"),
        pytest.param(FakeMachine.turn_off, "lease", LATEST_S, id="the machine is off"),
        pytest.param(lambda machine: machine.freeze(jobs=False), "lease", LATEST_S, id="its supervisor stands still"),
        pytest.param(lambda machine: machine.freeze(jobs=True), "lease", LATEST_S, id="the whole machine stands still"),
        pytest.param(cut_off, "lease", LATEST_S, id="it is cut off for longer than the lease"),
    ],
)
def test_what_runs_on_a_machine_that_fails_is_told_in_time_and_runs_elsewhere(
    disaster: Callable[[FakeMachine], None], fenced: str, within_s: float
) -> None:
    async def main() -> None:
        async with ClusterSimulation(nodes=3) as sim:
            once, twice, machine = await two_jobs(sim)
            sim.has_lost_nodes = True
            began = sim.loop.time()
            disaster(machine)
            while not once.end:
                await asyncio.sleep(0.01)
                assert sim.loop.time() <= began + within_s
            error = once.end["error"]
            assert (error["code"], error["node"], error["fenced"]) == ("node_lost", machine.name, fenced)
            assert once.attempts == 1 and once.end["certificate"]["unproven"]
            machine.is_off = machine.is_cut_off = False
            machine.thaw()
            await sim.ended()
            first, second = sim.runs.of(twice.id)
            assert twice.code is None and first.how in ("killed", "stopped") and second.how == "returned"
            assert sim.counts() == {"completed": 5, "node_lost": 1}

    run(main())


@pytest.mark.parametrize("away_s", [4.0, 0.7 * LEASE_S], ids=["shortly", "until its next poll just comes in time"])
def test_a_machine_that_is_cut_off_for_less_than_the_lease_loses_nothing(away_s: float) -> None:
    async def main() -> None:
        async with ClusterSimulation(nodes=3, times=Times(poll_s=0.5)) as sim:
            _, _, machine = await two_jobs(sim)
            cut_off(machine)
            await asyncio.sleep(away_s)
            state = {node.name: node.state for node in await sim.head.supervisor.nodes()}[machine.name]
            assert state == "suspect"
            machine.is_cut_off = False
            await sim.ended()
            assert sim.counts() == {"completed": 6} and all(job.attempts == 1 for job in sim.jobs)

    run(main())


def test_a_second_head_has_all_nodes_and_the_first_one_ends() -> None:
    async def main() -> None:
        async with ClusterSimulation(nodes=3) as sim:
            _, _, _ = await two_jobs(sim)
            sim.has_lost_nodes = True
            first = sim.head
            await sim.new_head()
            assert first.serving is not None
            await asyncio.wait_for(first.serving, LATEST_S)
            assert all(job.end for job in sim.jobs), "nothing of the first head runs on"
            assert (await sim.submit(run_s=1.0)) is not None
            await sim.ended()

    run(main())
