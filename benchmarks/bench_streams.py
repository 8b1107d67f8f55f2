"""Measure what open readers of the streams of jobs and of workers cost the server: processor time, as /proc counts it.

Runs in: the benchmark. The server is `killable serve` with 200 jobs that run, each of which emits a token a second, and
10,000 that have ended. A reader takes what comes, and does nothing with it. The jobs have no limits for which the
server would look at what they use: that takes ten times what is measured here, and varies.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import runner
from measurement import Figure, Samples
from servers import Server, serve_process
from trial_plan import QUICK, Plan

from killable.api.cli.bench.raw_connection import RawConnection

RUNNING = 200
KEPT = 10_000
WINDOW_S = 30.0
QUICK_WINDOW_S = 10.0
SUBMITTERS = 16
READERS = (1, 10)
EXTRA_MAX = 1.0
"""Percent of a core for each open reader."""
STREAMS = {
    "workers": ("/v1/workers/stream",),
    "jobs": ("/v1/jobs/stream",),
    "running jobs": ("/v1/jobs/stream?state=running&limit=200",),
    "words": ("/v1/jobs/stream?search=times+default&limit=50",),
    "a page: both": ("/v1/workers/stream", "/v1/jobs/stream"),
}


async def measure(plan: Plan, results: Samples) -> None:
    window_s = QUICK_WINDOW_S if plan.kills == QUICK.kills else WINDOW_S
    settings = {"keep_jobs": KEPT, "keep_bytes": 1 << 30, "connections_max": 400}
    async with serve_process(workers=RUNNING, jobs_per_worker_max=1_000_000, **settings) as server:
        await fill(server)
        for name, paths in STREAMS.items():
            without = await used_percent(server, window_s)
            results.add("without a reader, %", without)
            for readers in READERS:
                async with reading(server, paths * readers):
                    await asyncio.sleep(2.5)  # the list, and the counts after it
                    used = await used_percent(server, window_s)
                results.add(sample_name(name, readers), (used - without) / readers)


async def fill(server: Server) -> None:
    """End KEPT jobs and start RUNNING others."""
    left = iter(range(KEPT))

    async def submit_some() -> None:
        connection = await server.connect()
        for _ in left:
            await connection.request("POST", "/v1/jobs", {"type": "first_line", "input": {}}, prefer="wait=60")
        await connection.close()

    await asyncio.gather(*(submit_some() for _ in range(SUBMITTERS)))
    connection = await server.connect()
    for _ in range(RUNNING):
        await connection.submit("ticks")
    while (counts := (await connection.request("GET", "/v1/jobs?limit=1"))["counts"])["running"] < RUNNING:
        await asyncio.sleep(0.5)
    runner.progress.print(f"{counts}")
    await connection.close()


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


async def used_percent(server: Server, window_s: float) -> float:
    """Return the processor time of the server's own process over so many seconds, in percent of a core."""
    loop = asyncio.get_running_loop()
    began, before = loop.time(), cpu_s(server.pid)
    await asyncio.sleep(window_s)
    return (cpu_s(server.pid) - before) / (loop.time() - began) * 100


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sample_name(name: str, readers: int) -> str:
    return f"{name}, each of {readers}, % of a core"


def figures(results: Samples) -> list[Figure]:
    return [
        Figure(f"{name}, each of {readers}", EXTRA_MAX, results.median(sample_name(name, readers)), "%", False, 2)
        for name in STREAMS
        for readers in READERS
    ]


PARTS = {"streams": partial(measure)}

if __name__ == "__main__":
    runner.run(runner.command("streams", PARTS, figures, lambda _: []), __doc__ or "", examples=["--quick"])
