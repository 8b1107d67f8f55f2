"""Drains of nodes with a deadline: over heads that die, and an operator's beside Ray's."""

from __future__ import annotations

import asyncio

import pytest
from support.virtual_loop import run

from killable.supervisor import clock as clocks
from sim.journaled_cluster import JournaledCluster, journaled_cluster

NODE = "n0000"


@pytest.fixture(autouse=True)
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the loop: a head that was killed comes back later."""
    monkeypatch.setattr(clocks, "realtime", lambda: asyncio.get_running_loop().time())


async def drain(sim: JournaledCluster, node: str, deadline_s: float | None) -> None:
    await sim.head.process.do(sim.head.supervisor.drain_node(node, deadline_s=deadline_s))  # type: ignore[attr-defined]


def test_a_drain_whose_deadline_passes_while_there_is_no_head_stops_what_the_next_one_takes_over() -> None:
    async def main() -> None:
        async with journaled_cluster(nodes=2) as sim:
            sim.is_drained = True
            job = await sim.submit(run_s=60.0, nodes={"node": NODE})
            other = await sim.submit(run_s=5.0, nodes={"node": "n0001"})
            await asyncio.sleep(1.0)
            await drain(sim, NODE, 2.0)
            await asyncio.sleep(0.1)  # it is on disk
            sim.down_s = lambda: 4.0
            sim.kill_head()
            await sim.ended(within_s=7.0)
            assert (job.code, other.code) == ("node_drained", None)

    run(main())
