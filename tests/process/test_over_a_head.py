"""Tests of other modules again, over the head of a cluster whose messages come late, twice, and out of order.

These are a few that show how jobs end. All: ENGINE=cluster pytest tests/process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from support.engines import LASTING, Cluster
from support.in_process_carrier import Faults
from support.supervisor_fixture import StartSupervisor
from test_grace import test_a_job_that_cleans_up_in_python_is_not_taken_for_stuck as test_cleanup
from test_output import test_output_stops_at_its_bound_and_what_came_before_is_kept as test_bound
from test_output import test_tokens_before_a_crash_are_all_there as test_crash

from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

__all__ = ["test_bound", "test_cleanup", "test_crash"]


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[StartSupervisor]:
    started: list[tuple[Cluster, Supervisor]] = []

    async def start(*pools: PoolSpec, **settings: Any) -> Supervisor:
        cluster = Cluster(("a",), LASTING, seed=31)
        head = cluster.head(Settings(pools=pools, **settings))
        started.append((cluster, head))
        await head.start()
        cluster.carrier.faults = Faults(doubled=0.2, late=0.2, late_s=0.005)
        return head

    yield start
    for cluster, head in started:
        cluster.carrier.faults = Faults()
        await head.close(grace_s=0)
