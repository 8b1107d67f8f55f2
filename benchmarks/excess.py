"""Jobs that meet their limits, and jobs that are only watched: what is held at death, and what watching costs.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import testbed
from figure import Figure, spread
from plan import Plan
from samples import Samples

from killable.supervisor.clock import process_cpu_s
from killable.supervisor.supervisor import Supervisor

LIMIT_BYTES = 200_000_000
HELD_MB_MAX = 300.0
"""Asked for a job that allocates 50 MB every 10 ms."""
IDLE_WORKERS = 8
IDLE_PERCENT_MAX = 1.0
SPAN_S = 10.0
DEATHS = 5
"""Per pass."""

HELD, LATE = "held at death, MB", "held over the limit, MB"
IDLE = "8 idle workers, percent of a core"
BUSY = "percent of a core with 2 busy workers"
WATCHED: dict[str, dict[str, Any]] = {
    "no limit": {"memory_bytes": None, "processes_max": None},
    "the default limits": {},
    "a limit of 200 MB, 8 processes, 1000 s": {"memory_bytes": LIMIT_BYTES, "processes_max": 8, "cpu_s": 1000},
}


async def measure_deaths(_plan: Plan, results: Samples) -> None:
    """End a job that allocates 50 MB every 10 ms at 200 MB; its peak is what the kernel noted (getrusage(2))."""
    async with testbed.supervising(testbed.pool("gluttons", 1)) as supervisor:
        for _ in range(DEATHS):
            record = await testbed.start(supervisor, "grow", limits={"memory_bytes": LIMIT_BYTES}, mb=50, every_s=0.01)
            ended = await supervisor.wait(record.job_id, testbed.WAIT_S)
            code, certificate = (ended.error or {}).get("code"), ended.certificate or {}
            if code != "limit.memory":
                raise RuntimeError(f"it ended otherwise: {ended}")
            results.add(HELD, certificate["max_rss_bytes"] / 1e6)
            results.add(LATE, (certificate["max_rss_bytes"] - LIMIT_BYTES) / 1e6)
            await testbed.warm(supervisor)


async def measure_idle(_plan: Plan, results: Samples) -> None:
    """All that runs when nothing does: supervisor (in this process), guard, zygote, workers."""
    async with testbed.supervising(testbed.pool("gluttons", IDLE_WORKERS, spares=IDLE_WORKERS)) as supervisor:
        async with asyncio.timeout(testbed.WAIT_S):
            while (await supervisor.pools())[0].idle < IDLE_WORKERS:
                await asyncio.sleep(0.01)
        below = [process.pid for process in psutil.Process().children(recursive=True)]
        results.add(IDLE, await _percent(lambda: time.process_time() + sum(process_cpu_s(pid) or 0.0 for pid in below)))


async def measure_busy(_plan: Plan, results: Samples) -> None:
    """The supervisor alone, by the limits of two jobs that compute and say nothing."""
    for what, limits in WATCHED.items():
        async with testbed.supervising(testbed.pool("gluttons", 2, spares=0)) as supervisor:
            jobs = [await testbed.start(supervisor, "compute", limits=limits) for _ in range(2)]
            results.add(f"{BUSY}: {what}", await _percent(time.process_time))
            await _cancel(supervisor, [record.job_id for record in jobs])


async def _percent(used_s: Callable[[], float]) -> float:
    began, before = time.monotonic(), used_s()
    await asyncio.sleep(SPAN_S)
    return 100 * (used_s() - before) / (time.monotonic() - began)


async def _cancel(supervisor: Supervisor, job_ids: list[str]) -> None:
    for job_id in job_ids:
        await supervisor.cancel(job_id, grace_s=0, wait_s=testbed.WAIT_S)


PARTS: dict[str, Callable[[Plan, Samples], Awaitable[None]]] = {
    "memory limit": measure_deaths,
    "idle workers": measure_idle,
    "busy workers": measure_busy,
}


def figures(results: Samples) -> list[Figure]:
    """Return what was asked with what was measured; the worst, where a bound is one."""
    return [
        Figure(
            "50 MB every 10 ms, limit 200 MB: most held at death, the worker's own included",
            HELD_MB_MAX, results.percentile(HELD, 100), "MB", note=spread(results, HELD),
        ),
        Figure(
            f"supervisor, guard, zygote and {IDLE_WORKERS} idle workers",
            IDLE_PERCENT_MAX, results.median(IDLE), "% of a core", digits=2, note=spread(results, IDLE, 2),
        ),
    ]  # fmt: skip


def remarks(results: Samples) -> list[str]:
    """Return what watching costs: nobody asked for a figure."""
    names = [f"{BUSY}: {what}" for what in WATCHED]
    return [f"supervisor, {name}: {results.median(name):.2f}" for name in names if name in results]
