"""Measure limits: how far a job exceeds its memory limit, and the processor time of polling, busy and idle.

    python benchmarks/bench_limits.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import runner
import servers
import typer
from measurement import Figure, Plan, Samples

from killable.supervisor.clock import process_cpu_s

LIMIT_BYTES = 200_000_000
PEAK_MB_MAX = 300.0
"""Target for a job that allocates 50 MB every 10 ms."""
IDLE_WORKERS = 8
IDLE_PERCENT_MAX = 1.0
SPAN_S = 10.0
DEATHS = 5
"""Per pass."""

PEAK, OVER = "peak memory at death, MB", "peak memory over the limit, MB"
IDLE = "8 idle workers, percent of a core"
BUSY = "percent of a core with 2 busy workers"
LIMITS: dict[str, dict[str, Any]] = {
    "no limit": {"memory_bytes": None, "processes_max": None},
    "the default limits": {},
    "a limit of 200 MB, 8 processes, 1000 s": {"memory_bytes": LIMIT_BYTES, "processes_max": 8, "cpu_s": 1000},
}


def busy_name(limits: str) -> str:
    """Return the sample name of: processor time of the supervisor while two jobs with these limits compute."""
    return f"{BUSY}: {limits}"


async def measure_deaths(_plan: Plan, results: Samples) -> None:
    """End a job that allocates 50 MB every 10 ms at 200 MB. The peak is the kernel's value (getrusage(2))."""
    async with servers.running_supervisor(servers.pool("jobs", 1)) as supervisor:
        for _ in range(DEATHS):
            limits = {"memory_bytes": LIMIT_BYTES}
            record = await servers.start(supervisor, "allocate", limits=limits, mb=50, every_s=0.01)
            ended = await supervisor.wait(record.job_id, servers.WAIT_S)
            code, certificate = (ended.error or {}).get("code"), ended.certificate or {}
            if code != "limit.memory":
                raise RuntimeError(f"not ended by its memory limit: {ended}")
            results.add(PEAK, certificate["max_rss_bytes"] / 1e6)
            results.add(OVER, (certificate["max_rss_bytes"] - LIMIT_BYTES) / 1e6)
            await servers.wait_until_warm(supervisor)


async def measure_idle(_plan: Plan, results: Samples) -> None:
    """Measure everything that runs without a job: supervisor (in this process), guard, zygote, workers."""
    pool = servers.pool("jobs", IDLE_WORKERS, spares=IDLE_WORKERS)
    async with servers.running_supervisor(pool) as supervisor:
        async with asyncio.timeout(servers.WAIT_S):
            while (await supervisor.pools())[0].idle < IDLE_WORKERS:
                await asyncio.sleep(0.01)
        pids = [process.pid for process in psutil.Process().children(recursive=True)]
        results.add(IDLE, await _percent(lambda: time.process_time() + sum(process_cpu_s(pid) or 0.0 for pid in pids)))


async def measure_busy(_plan: Plan, results: Samples) -> None:
    """Measure the supervisor alone while two jobs compute without output, for several sets of limits."""
    for what, limits in LIMITS.items():
        async with servers.running_supervisor(servers.pool("jobs", 2, spares=0)) as supervisor:
            jobs = [await servers.start(supervisor, "python_loop", limits=limits) for _ in range(2)]
            results.add(busy_name(what), await _percent(time.process_time))
            for job in jobs:
                await supervisor.cancel(job.job_id, grace_s=0, wait_s=servers.WAIT_S)


async def _percent(used_s: Callable[[], float]) -> float:
    """Return the processor time used in the next SPAN_S, in percent of a core."""
    began, before = time.monotonic(), used_s()
    await asyncio.sleep(SPAN_S)
    return 100 * (used_s() - before) / (time.monotonic() - began)


PARTS: dict[str, Callable[[Plan, Samples], Awaitable[None]]] = {
    "memory limit": measure_deaths,
    "idle workers": measure_idle,
    "busy workers": measure_busy,
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value: the greatest peak, the median of the idle load."""
    return [
        Figure(
            "50 MB every 10 ms, limit 200 MB: greatest peak at death, the worker's own memory included",
            PEAK_MB_MAX, results.percentile(PEAK, 100), "MB", note=results.spread(PEAK),
        ),
        Figure(
            f"supervisor, guard, zygote and {IDLE_WORKERS} idle workers",
            IDLE_PERCENT_MAX, results.median(IDLE), "% of a core", digits=2, note=results.spread(IDLE, 2),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the cost of polling limits, which has no target."""
    return [
        f"supervisor with 2 busy workers, {what}: {results.median(busy_name(what)):.2f} % of a core"
        for what in LIMITS
        if busy_name(what) in results
    ]


if __name__ == "__main__":
    typer.run(runner.command("bench_limits", PARTS, figures, notes))
