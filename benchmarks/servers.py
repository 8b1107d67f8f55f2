"""A supervisor and its HTTP server inside the benchmark's process, and `killable serve` in a process of its own.

Runs in: the benchmark | the server's process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil
import uvicorn

from killable.api.app import create_app
from killable.api.cli.bench import speed
from killable.api.cli.bench.raw_connection import RawConnection
from killable.api.cli.bench.server_calls import BenchServer
from killable.api.cli.server.bounded_protocol import protocol_of
from killable.api.cli.server.own_server import OwnServer
from killable.api.http.app_settings import HttpSettings
from killable.supervisor.clock import process_cpu_s
from killable.supervisor.linux import own_interpreter
from killable.supervisor.models import Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.protocol.messages import dump_json

HERE = Path(__file__).parent
WAIT_S = 30.0
"""Limit for anything that takes milliseconds; the benchmark fails after it."""
SUBMITTERS = 16
"""Connections over which jobs are run that are only to be there."""
SETTLE_S = 0.005
"""After the fork of a spare worker: its copied pages, its warm-up."""


# ── in this process, as `killable serve` runs them ──


def pool(module: str, workers: int, **spec: Any) -> PoolSpec:
    """Return a pool of one of the benchmark's job modules."""
    return PoolSpec(module, (str(HERE / f"{module}.py"),), workers=workers, **spec)


@asynccontextmanager
async def running_supervisor(*pools: PoolSpec, **settings: Any) -> AsyncIterator[Supervisor]:
    """Start a supervisor, and close it with all its processes. Raise RuntimeError for a broken pool."""
    supervisor = Supervisor(Settings(pools=pools, **settings))
    await supervisor.start()
    try:
        for record in await supervisor.pools():
            if record.state != "ready":
                raise RuntimeError(f"pool {record.name} is {record.state}: {record.detail}")
        own_interpreter.freeze_collector()
        yield supervisor
    finally:
        await supervisor.close(grace_s=0)


@asynccontextmanager
async def serving_http(supervisor: Supervisor) -> AsyncIterator[int]:
    """Serve HTTP on a free loopback port; yield the port.

    On exit all jobs are ended before the server stops, so that streams end by themselves.
    """
    protocol = protocol_of(HttpSettings())
    config = uvicorn.Config(
        create_app(supervisor), http=protocol, host="127.0.0.1", port=0, lifespan="off", log_config=None,
        access_log=False,
    )  # fmt: skip
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
    """Submit a job and return its record after its first token. Raise RuntimeError if it ends before."""
    record = await submit(supervisor, type, limits=limits, **input)
    await first_token(supervisor, record.job_id)
    return await supervisor.get(record.job_id)


async def first_token(supervisor: Supervisor, job_id: str) -> Any:
    """Wait for a job's first token and return its value, or its text. Raise RuntimeError if the job ends before."""
    async with aclosing(cast("AsyncGenerator[Any, None]", supervisor.events(job_id))) as batches:
        async for batch in batches:
            for event in batch:
                if event.name == "token":
                    token = json.loads(event.data)
                    return token.get("value", token.get("text"))
    raise RuntimeError(f"it ended without a token: {await supervisor.get(job_id)}")


async def wait_until_warm(supervisor: Supervisor, settle_s: float = SETTLE_S) -> None:
    """Return when every pool has an idle worker, and `settle_s` later."""
    async with asyncio.timeout(WAIT_S):
        while any(not record.idle for record in await supervisor.pools()):
            await asyncio.sleep(0.001)
    await asyncio.sleep(settle_s)


def pid_of(record: JobRecord) -> int:
    assert record.pid is not None, record
    return record.pid


# ── in a process of its own ──


class Server(BenchServer):
    """A server that accepts connections."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def connect(self, key: str = "") -> RawConnection:
        return await RawConnection.open(self.port, key)

    @property
    def uss_mb(self) -> float:
        """Private memory of the server's own process, in MB (10⁶ bytes)."""
        return float(psutil.Process(self.pid).memory_full_info().uss) / 1e6

    async def used_percent(self, window_s: float) -> float:
        """Return the processor time of the server's own process over so many seconds, in percent of a core."""
        return await used_percent(self.pid, window_s)

    async def end_jobs(self, number: int) -> None:
        """Run so many jobs that do nothing to their end."""
        callers = [await self.connect() for _ in range(SUBMITTERS)]
        await speed.run_jobs(callers, number)
        for caller in callers:
            await caller.close()

    async def fill(self, number: int) -> None:
        """Have so many more jobs that have ended. They wait in the queue behind those that have all workers, and are
        cancelled there: to run them would take ten times as long.
        """
        left = iter(range(number))

        async def submit_some() -> None:
            async with self.connected() as caller:
                for _ in left:
                    await caller.submit("first_line")

        await asyncio.gather(*(submit_some() for _ in range(SUBMITTERS)))
        async with self.connected() as caller:
            await caller.request("POST", "/v1/jobs/cancel", {"type": "first_line"})
            while (await caller.request("GET", "/v1/jobs?limit=1"))["counts"]["queued"]:
                await asyncio.sleep(0.1)

    async def start_jobs(self, type: str, number: int) -> None:
        """Submit so many, and return when they run."""
        async with self.connected() as caller:
            for _ in range(number):
                await caller.submit(type)
            while (await caller.request("GET", "/v1/jobs?limit=1"))["counts"]["running"] < number:
                await asyncio.sleep(0.1)


async def used_percent(pid: int, window_s: float) -> float:
    """Return the processor time of a process over so many seconds, in percent of a core."""
    began, before = time.monotonic(), process_cpu_s(pid) or 0.0
    await asyncio.sleep(window_s)
    return ((process_cpu_s(pid) or 0.0) - before) / (time.monotonic() - began) * 100


async def first_token_s(server: Server, caller: RawConnection) -> float:
    """Return the seconds from a POST to the first token of a trivial job."""
    reader = await server.connect()
    began = time.monotonic()
    reader.open_stream(await caller.submit("one_token"))
    await reader.line_with(b"event: token")
    took_s = time.monotonic() - began
    await reader.close()
    return took_s


async def kill_s(server: Server, caller: RawConnection) -> float:
    """Start a job that computes and kill it; return the seconds until the response that it is dead."""
    job = await server.start(caller, "python_loop")
    began = time.monotonic()
    answer = await caller.request("DELETE", f"/v1/jobs/{job.job_id}?grace_s=0")
    took_s = time.monotonic() - began
    if answer["status"] != "cancelled":
        raise RuntimeError(f"not dead: {answer}")
    return took_s


@asynccontextmanager
async def serve_process(
    *, workers: int = 2, jobs_per_worker_max: int = 0, more: Mapping[str, object] | None = None,
    module: Path = HERE / "jobs.py", **settings: Any,
) -> AsyncIterator[Server]:  # fmt: skip
    """Run the installed command with a pool of a module; `settings` are keys of [server], `more` others, by their
    variable. Ends its jobs with it.
    """
    pool = {"WORKERS": workers, "JOBS_PER_WORKER_MAX": jobs_per_worker_max}
    own = OwnServer(
        module,
        {f"POOLS__{module.stem.upper()}__{name}": value for name, value in pool.items()}
        | {f"SERVER__{name.upper()}": value for name, value in settings.items()}
        | dict(more or {}),
    )
    with own:
        try:
            yield Server(own.url, own.pid)
        finally:
            await asyncio.to_thread(own.stop, at_once=True)  # the loop still closes the connections to it
