"""`killable serve` in a process of its own, and a client of raw sockets, so that no library is measured with it.

Runs in: the benchmark (Server, Connection) | the server's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

JOBS = Path(__file__).parent / "streaming.py"
POOL = JOBS.stem.upper()
START_S = 60.0
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens."""

    port: int
    pid: int

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=READ_BYTES))

    @property
    def uss_mb(self) -> float:
        """Private memory of the server's own process, in MB (10⁶ bytes)."""
        return float(psutil.Process(self.pid).memory_full_info().uss) / 1e6


@asynccontextmanager
async def serving(*, workers: int = 2, jobs_per_worker_max: int = 0, **settings: Any) -> AsyncIterator[Server]:
    """Run the installed command; `settings` are keys of [server]. Jobs do not outlive it."""
    environ = os.environ | {
        f"KILLABLE_POOLS__{POOL}__WORKERS": str(workers),
        f"KILLABLE_POOLS__{POOL}__JOBS_PER_WORKER_MAX": str(jobs_per_worker_max),
        **{f"KILLABLE_SERVER__{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = (sys.executable, "-m", "killable.api.cli", "serve", str(JOBS), "--port", "0", "--json")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environ
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {await process.wait()}: {' '.join(command)}")
        yield Server(int(json.loads(line)["url"].rpartition(":")[2]), process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
        await process.wait()


class Connection:
    """One keep-alive connection that speaks as much HTTP/1.1 as is needed here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return the JSON of a 2xx answer. Raise RuntimeError for any other."""
        self.send(method, path, body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        content = await self.reader.readexactly(length)
        if head[9:10] != b"2":
            raise RuntimeError(f"{method} {path}: {head!r} {content!r}")
        members: dict[str, Any] = json.loads(content)
        return members

    def send(self, method: str, path: str, body: Any = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        kind = b"Content-Type: application/json\r\n" if content else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + kind
        self.writer.write(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)

    async def submit(self, type: str, **input: Any) -> str:
        accepted = await self.request("POST", "/v1/jobs", {"type": type, "input": input})
        return str(accepted["job_id"])

    def open_stream(self, job_id: str) -> None:
        """Ask for a job's events; from here on only `lines` and `read` make sense."""
        self.send("GET", f"/v1/jobs/{job_id}/stream")

    async def line_with(self, part: bytes) -> bytes:
        """Read on to a line that has this in it, and return it. Raise EOFError."""
        while line := await self.reader.readline():
            if part in line:
                return line
        raise EOFError(f"the stream ended before {part!r}")

    async def close(self) -> None:
        self.writer.transport.abort()
