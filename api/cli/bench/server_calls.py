"""The requests of the benchmark's parts to its own server.

Runs in: a benchmark.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from killable.api.cli.bench import jobs
from killable.api.cli.bench.raw_connection import RawConnection

WARM_S = 30.0
"""For a worker to be warm, which takes milliseconds."""
POLL_S = 0.001
RESULT_S = 60


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A server with the bench's job types, in a process of its own."""

    url: str
    pid: int

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[RawConnection]:
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def connect(self) -> RawConnection:
        port = urlsplit(self.url).port
        assert port is not None
        return await RawConnection.open(port)

    async def wait_until_warm(self, caller: RawConnection, idle: int = 1) -> None:
        """Return when so many workers are idle, at once for none. Raise TimeoutError."""
        async with asyncio.timeout(WARM_S):
            while (await caller.request("GET", "/v1/metrics"))["workers"]["idle"] < idle:
                await asyncio.sleep(POLL_S)

    async def start(self, caller: RawConnection, type: str, **input: Any) -> StartedJob:
        """Submit a job and return when it has given its first token. Raise RuntimeError if it ends before."""
        job_id = await caller.submit(type, **input)
        async with self.connected() as stream:
            stream.open_stream(job_id)
            try:
                await stream.line_with(b"event: started")
                started = await stream.line_with(b"data: ")
                await stream.line_with(b"event: token")
                token = json.loads((await stream.line_with(b"data: ")).partition(b": ")[2])
            except EOFError:
                raise RuntimeError(await why_ended(caller, job_id)) from None
        pid = json.loads(started.partition(b": ")[2])["pid"]
        told = token.get("value", token.get("text"))
        return StartedJob(job_id, [pid, *told] if isinstance(told, list) else [pid])


@dataclass(frozen=True, slots=True)
class StartedJob:
    job_id: str
    pids: list[int]
    """Of its process, and of the children that it tells of."""


def pool_settings(**settings: object) -> dict[str, object]:
    """Return settings of the pool of the bench's job types, by the names of their variables."""
    name = Path(jobs.__file__).stem.upper()
    return {f"POOLS__{name}__{key.upper()}": value for key, value in settings.items()}


async def why_ended(caller: RawConnection, job_id: str) -> str:
    """Return how a job ended that was to run on, in words."""
    record = await caller.request("GET", f"/v1/jobs/{job_id}")
    error = record.get("error") or {}
    return f"{record['type']} ended too early, as {error.get('code', record['state'])}: {error.get('message', '')}"


async def run_job(caller: RawConnection, type: str, **input: Any) -> dict[str, Any]:
    """Submit a job and return its record when it has ended. Raise RuntimeError if it did not complete."""
    body = {"type": type, "input": input}
    record = await caller.request("POST", "/v1/jobs", body, prefer=f"wait={RESULT_S}")
    if record["state"] != "completed":
        raise RuntimeError(f"{type} did not complete: {record}")
    return record
