"""Drains of nodes with a deadline: over heads that die, and an operator's beside Ray's."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.virtual_loop import run

from killable.supervisor.cluster.node_drain import LEAVE_EARLY_S
from killable.workers.errors import Refused
from sim.cluster_simulation import ClusterSimulation
from sim.journaled_cluster import journaled_cluster

NODE = "n0000"


@pytest.fixture(autouse=True)
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the loop: a head that was killed comes back later."""
    monkeypatch.setattr(time, "time", lambda: asyncio.get_running_loop().time())


def test_a_drain_whose_deadline_passes_while_there_is_no_head_stops_what_the_next_one_takes_over() -> None:
    async def main() -> None:
        async with journaled_cluster(nodes=2) as sim:
            sim.is_drained = True
            job = await sim.submit(run_s=60.0, nodes={"node": NODE})
            other = await sim.submit(run_s=5.0, nodes={"node": "n0001"})
            await asyncio.sleep(1.0)
            await sim.head.process.do(sim.head.supervisor.drain_node(NODE, deadline_s=2.0))  # type: ignore[attr-defined]
            sim.down_s = lambda: 4.0
            sim.kill_head()
            await sim.ended(within_s=7.0)
            assert (job.code, other.code) == ("node_drained", None)

    run(main())


def test_a_drained_job_that_may_be_tried_again_is_also_if_its_head_dies_within_its_grace() -> None:
    async def main() -> None:
        async with journaled_cluster(nodes=2) as sim:
            sim.is_drained = True
            again = {"attempts_max": 3, "backoff_s": 0.0}
            job, streams = [await sim.submit(run_s=20.0, stop_s=3.0, tokens=n, limits=again) for n in range(2)]
            await asyncio.sleep(15.0)
            supervisor, head = sim.head.supervisor, sim.head.process  # type: ignore[attr-defined]
            for node in ("n0000", "n0001"):
                await head.do(supervisor.drain_node(node, deadline_s=0.0))
                await asyncio.sleep(0.1)  # what runs there is stopped; the next head does not know why
                await head.do(supervisor.drain_node(node, drains=False))
            await asyncio.sleep(0.1)
            sim.kill_head()
            await sim.ended()
            assert [(each.code, each.attempts) for each in (job, streams)] == [(None, 2), ("node_drained", 1)]
            assert [attempt.how for attempt in sim.runs.of(job.id)] == ["stopped", "returned"]

    run(main())


def test_of_an_operators_drain_and_rays_the_earlier_deadline_counts_whichever_came_first() -> None:
    async def main() -> None:
        async with ClusterSimulation(nodes=3) as sim:
            sim.is_drained = True
            supervisor = sim.head.supervisor
            by_ray, by_operator, kept = [await sim.submit(run_s=60.0, nodes={"node": f"n000{n}"}) for n in range(3)]
            assert by_ray and by_operator and kept
            began = sim.loop.time()
            await supervisor.drain_node("n0001", deadline_s=20.0)
            for machine in sim.network.machines.values():
                machine.leaves_at = began + 30.0 + LEAVE_EARLY_S
            await asyncio.sleep(5.0)
            left = {node.name: node.deadline_s for node in await supervisor.nodes()}
            assert left == {"n0000": 25.0, "n0001": 15.0, "n0002": 25.0}
            await supervisor.drain_node("n0000", deadline_s=1000.0)
            assert (await supervisor.drain_node("n0002")).deadline_s == 25.0
            sim.network.machines["n0002"].leaves_at = None  # Ray keeps it after all
            await sim.ended()
            assert [job.code for job in (by_ray, by_operator, kept)] == ["node_drained", "node_drained", None]
            ended = [sim.runs.of(job.id)[0].ended for job in (by_ray, by_operator)]
            assert ended == [pytest.approx(began + 30.0, abs=0.1), pytest.approx(began + 20.0, abs=0.1)]
            assert [node.state for node in await supervisor.nodes()] == ["draining"] * 3
            assert (await supervisor.drain_node("n0000", drains=False)).state == "live"

    run(main())


def test_a_drain_that_cannot_be_written_is_refused_and_holds_as_long_as_its_head() -> None:
    async def main() -> None:
        async with journaled_cluster(nodes=2) as sim:
            head = sim.head
            journal = head.journals[0]  # type: ignore[attr-defined]
            disk, journal._file.write = journal._file.write, _full
            with pytest.raises(Refused) as refused:
                await head.process.do(head.supervisor.drain_node(NODE))  # type: ignore[attr-defined]
            assert (refused.value.code, refused.value.facts["node"]) == ("journal_failed", NODE)
            assert (await head.supervisor.nodes())[0].state == "draining"
            journal._file.write = disk
            await asyncio.sleep(3.0)
            record = await head.process.do(head.supervisor.drain_node(NODE))  # type: ignore[attr-defined]
            assert record.state == "draining"
            sim.kill_head()
            await asyncio.sleep(3.0)
            assert (await sim.head.supervisor.nodes())[0].state == "draining"

    run(main())


def _full(notes: object) -> None:
    raise OSError("no space left on device")
