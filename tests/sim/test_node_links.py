"""A head and single nodes of it, on virtual time: what is kept of one, and what becomes of it when something is odd."""

from __future__ import annotations

import asyncio

from support.virtual_loop import run

from sim.cluster_simulation import ClusterSimulation


def test_a_machine_that_is_gone_is_forgotten_by_who_carries_calls_to_it() -> None:
    run(_gone())


async def _gone() -> None:
    async with ClusterSimulation(nodes=2) as sim:
        sim.has_lost_nodes = True
        sim.network.machines["n0001"].turn_off()
        await asyncio.sleep(5)
        assert sim.head.carrier.forgotten == [], "it may come back within its lease"
        await asyncio.sleep(15)
        assert sim.head.carrier.forgotten == ["n0001"] and len(await sim.head.supervisor.nodes()) == 1
