"""Measure what open readers of the streams of jobs and of workers cost the server: processor time.

Runs in: the benchmark. The server is `killable serve` with 200 jobs that run, each of which emits a token a second, and
10,000 that have ended (with --quick 2,000). A reader takes what comes, and does nothing with it. The jobs have no
limits for which the server would look at what they use: that takes ten times what is measured here, and varies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import runner
from measurement import Figure, Samples
from servers import Server, serve_process
from trial_plan import Plan

from killable.api.cli.bench.raw_connection import RawConnection

RUNNING = 200
READERS = (1, 10)
SETTLE_S = 1.5
"""From the list on, until the counts after it have come."""
EXTRA_MAX = 1.0
"""Percent of a core for each open reader."""
STREAMS = {
    "workers": ("/v1/workers/stream",),
    "no single worker": ("/v1/workers/stream?workers=false",),
    "jobs": ("/v1/jobs/stream",),
    "running jobs": ("/v1/jobs/stream?state=running&limit=200",),
    "words": ("/v1/jobs/stream?search=times+default&limit=50",),
    "a page: both": ("/v1/workers/stream?workers=false", "/v1/jobs/stream"),
}


async def measure(plan: Plan, results: Samples) -> None:
    settings = {
        "keep_jobs": plan.kept_jobs,
        "keep_bytes": 1 << 30,
        "connections_max": 400,
        "queue_jobs_max": 2 * plan.kept_jobs,
    }
    async with serve_process(workers=RUNNING, jobs_per_worker_max=1_000_000, **settings) as server:
        await server.start_jobs("ticks", RUNNING)
        await server.fill(plan.kept_jobs)
        for name, paths in STREAMS.items():
            runner.progress.print(f"  {name}")
            without = await server.used_percent(plan.window_s)
            results.add("without a reader, %", without)
            for readers in READERS:
                async with reading(server, paths * readers):
                    await asyncio.sleep(SETTLE_S)
                    used = await server.used_percent(plan.window_s)
                results.add(sample_name(name, readers), (used - without) / readers)


@asynccontextmanager
async def reading(server: Server, paths: tuple[str, ...]) -> AsyncIterator[None]:
    """Read each of these addresses, until the block is left."""
    connections = [await server.connect() for _ in paths]
    tasks = [asyncio.create_task(take(each, path)) for each, path in zip(connections, paths, strict=True)]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task, connection in zip(tasks, connections, strict=True):
            task.cancel()
            await connection.close()


async def take(connection: RawConnection, path: str) -> None:
    connection.send("GET", path)
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head, head
    while await connection.reader.read(1 << 20):
        pass
    raise EOFError(path)


def sample_name(name: str, readers: int) -> str:
    return f"{name}, each of {readers}, % of a core"


def figures(results: Samples) -> list[Figure]:
    return [
        Figure(f"{name}, each of {readers}", EXTRA_MAX, results.median(sample_name(name, readers)), "%", False, 2)
        for name in STREAMS
        for readers in READERS
    ]


PARTS = {"streams": measure}

if __name__ == "__main__":
    runner.run(runner.command("streams", PARTS, figures, lambda _: []), __doc__ or "", examples=["--quick"])
