"""Helpers of the simulated scenarios: one simulation per test, a few jobs, exact times.

Runs in: the test process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.fake_world import NEVER, Script
from support.virtual_loop import run

from killable.workers.errors import Refused
from sim.simulation import Job, Simulation

LATENCY_S = 0.002
"""More than any latency of the fake kernel."""
FOREVER = Script(run_s=NEVER)
ON_BOTH = pytest.mark.parametrize("engine", ["local", "cluster"])
"""What differs between a supervisor of this machine and a head is tested with both, whatever ENGINE says."""
DEAF = Script(run_s=NEVER, acknowledge_s=NEVER, cpu=0.0)
"""It never acknowledges, and uses no processor: it keeps its whole grace."""
NATIVE = Script(run_s=NEVER, acknowledge_s=NEVER, cpu=1.0)
"""Inside one native call."""


def simulate(test: Callable[[Simulation], Awaitable[None]], *pools: Any, **settings: Any) -> None:
    async def main() -> None:
        async with Simulation(*pools, **settings) as sim:
            await asyncio.sleep(0.1)  # the workers are warm
            await test(sim)

    run(main())


def near(moment: float | None, expected: float) -> bool:
    return moment is not None and expected - 1e-6 <= moment <= expected + LATENCY_S


async def refusal(awaitable: Awaitable[Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value


def job_began(sim: Simulation, job: Job) -> float:
    return next(float(line.split()[0]) for line in sim.world.trace if line.endswith(f"RUN {job.number}"))
