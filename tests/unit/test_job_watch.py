"""The stream of jobs: what counting costs, however many filters its readers have."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from support.registered_jobs import add, registry
from support.virtual_loop import run

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.records import JobCounts
from killable.supervisor.telemetry.job_watch import COUNT_SHARE_OF_ALL, JobWatch

FILTERS = 100
COUNT_S = 0.005
"""Of one filter, over ten thousand jobs."""
SECONDS = 60


class Working(Clock):
    """A clock that also goes on by work."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.worked_s = 0.0

    def now(self) -> float:
        return super().now() + self.worked_s


async def share_of_counting(filters: int) -> float:
    """Let readers with so many filters read while jobs come; return which share of a processor counting takes. Each
    reader gets counts of the jobs that have come.
    """
    clock, jobs = Working(), registry(keep_jobs=10_000)

    class SlowRegistry:
        def __getattr__(self, name: str) -> Any:
            return getattr(jobs, name)

        def count(self, wanted: JobFilter) -> JobCounts:
            clock.worked_s += COUNT_S
            return jobs.count(wanted)

    watch = JobWatch(cast("Registry", SlowRegistry()), clock, None, cast("Any", None), lambda _watching: None)
    told = [0] * filters

    async def read(number: int) -> None:
        async for batch in watch.read(JobFilter.of(state="failed", search=f"job-{number or ''}"), 1, -1):
            told[number] += any(event.name == "counts" for event in batch)

    readers = [asyncio.create_task(read(number)) for number in range(filters)]
    await asyncio.sleep(0.5)
    before = clock.worked_s
    for _ in range(SECONDS):
        watch.note(add(jobs, tenant="nobody's"))
        await asyncio.sleep(1)
    share = (clock.worked_s - before) / SECONDS
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert told[0] and all(told[:9]), "each is counted now and then"
    return share


@pytest.mark.row("A27")
@pytest.mark.parametrize("filters", [1, FILTERS])
def test_counting_for_many_filters_takes_its_share_of_a_processor(filters: int) -> None:
    assert run(share_of_counting(filters)) <= COUNT_SHARE_OF_ALL + COUNT_S * filters / SECONDS
