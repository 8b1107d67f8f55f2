"""Heads and nodes on virtual time, between which some messages come as something else: all ends, typed, and goes on.

By hand with more seeds: KILLABLE_SIM_SEEDS=2000 pytest tests/sim/test_garbled_messages.py.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

from support.fake_network import Trouble
from support.virtual_loop import run

from killable.supervisor.cluster.lease import Times
from sim.cluster_simulation import ClusterSimulation

SEEDS = int(os.environ.get("KILLABLE_SIM_SEEDS", "6"))
JOBS = 25


def test_whatever_comes_in_place_of_a_message_every_job_ends_and_the_nodes_are_used_again() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            counts += run(_history(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert counts["completed"] > SEEDS * JOBS / 4 and counts["protocol"], counts


async def _history(seed: int) -> Counter[str]:
    dice = random.Random(seed)
    async with ClusterSimulation(nodes=2, workers=2, seed=seed, times=Times(5.0, 1.0, 1.0)) as sim:
        sim.has_lost_nodes = sim.has_garbled_messages = True
        sim.network.trouble = Trouble(garbled=dice.choice((0.02, 0.1, 0.5)))
        for _ in range(JOBS):
            job = await sim.submit(run_s=dice.choice((0.1, 2.0)), tokens=dice.choice((0, 3)))
            await asyncio.sleep(dice.choice((0.0, 0.3)))
            if job is not None and dice.randrange(4) == 0:
                await sim.cancel(job)
        await asyncio.sleep(20)
        sim.network.trouble = Trouble()
        await sim.ended(within_s=60)
        last = await sim.submit(run_s=0.1)
        await sim.ended(within_s=60)
        assert last is not None and last.code is None, last
    return sim.counts()
