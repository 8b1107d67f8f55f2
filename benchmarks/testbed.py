"""The real supervisor, and the real HTTP server around it, in this process, as `killable serve` runs them.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn

from killable.api.cli.server import gc_freeze
from killable.api.http.app import create_app
from killable.supervisor.models import JobRecord, Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.protocol.messages import dump_json

HERE = Path(__file__).parent
WAIT_S = 30.0
"""For anything that takes milliseconds: then the benchmark fails."""
QUIET_S = 0.005
"""After the last fork of a spare: its copied pages, its rehearsal."""


def pool(module: str, workers: int, **spec: Any) -> PoolSpec:
    """Return a pool of one of the benchmark's job modules."""
    return PoolSpec(module, (str(HERE / f"{module}.py"),), workers=workers, **spec)


@asynccontextmanager
async def supervising(*pools: PoolSpec, **settings: Any) -> AsyncIterator[Supervisor]:
    """Start a supervisor; leave nothing of it. Raise RuntimeError for a pool that is broken."""
    supervisor = Supervisor(Settings(pools=pools, **settings))
    await supervisor.start()
    try:
        for record in await supervisor.pools():
            if record.state != "ready":
                raise RuntimeError(f"pool {record.name} is {record.state}: {record.detail}")
        gc_freeze.settle()
        yield supervisor
    finally:
        await supervisor.close(grace_s=0)


@asynccontextmanager
async def serving(supervisor: Supervisor) -> AsyncIterator[int]:
    """Serve HTTP on a free loopback port, yield the port; jobs are ended first, so that streams end by themselves."""
    config = uvicorn.Config(
        create_app(supervisor), host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(WAIT_S):
            while not server.started:
                await asyncio.sleep(0.001)
        yield server.servers[0].sockets[0].getsockname()[1]
        await supervisor.close(grace_s=0)
    finally:
        server.should_exit = server.force_exit = True
        await task


async def submit(supervisor: Supervisor, type: str, *, limits: dict[str, Any] | None = None, **input: Any) -> JobRecord:
    return await supervisor.submit(Submission(type, dump_json(input), limits=limits or {}))


async def start(supervisor: Supervisor, type: str, *, limits: dict[str, Any] | None = None, **input: Any) -> JobRecord:
    """Submit a job and return its record when its first token is here. Raise RuntimeError when it ended before."""
    record = await submit(supervisor, type, limits=limits, **input)
    await first_token(supervisor, record.job_id)
    return await supervisor.get(record.job_id)


async def first_token(supervisor: Supervisor, job_id: str) -> None:
    async with aclosing(cast("AsyncGenerator[Any, None]", supervisor.events(job_id))) as batches:
        async for batch in batches:
            if any(event.name == "token" for event in batch):
                return
    raise RuntimeError(f"it ended without a token: {await supervisor.get(job_id)}")


async def warm(supervisor: Supervisor, quiet_s: float = QUIET_S) -> None:
    """Return when every pool has an idle worker, and has had it for a moment."""
    async with asyncio.timeout(WAIT_S):
        while any(not record.idle for record in await supervisor.pools()):
            await asyncio.sleep(0.001)
    await asyncio.sleep(quiet_s)


def pid_of(record: JobRecord) -> int:
    assert record.pid is not None, record
    return record.pid
