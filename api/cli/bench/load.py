"""The load test: a steady stream, a burst, many streams at once, a slow reader. What is lost or late is counted.

Runs in: a benchmark (Linux). Each token has the time at which the job gave it, each event its number.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from itertools import pairwise
from urllib.parse import urlsplit

import psutil

from killable.api.cli.bench.plan import EVENTS_PER_S, Plan
from killable.api.cli.bench.raw_connection import READ_BYTES, Body, RawConnection
from killable.api.cli.bench.results import Results, Row
from killable.api.cli.bench.server_calls import BenchServer

MIB = 1 << 20
SLOW_CHARS = 1024
"""Of a token: what a slow reader has not taken is more than the buffers of a connection hold."""
SLOW_BYTES, SLOW_EVERY_S = 4096, 0.05
"""What the slow reader takes, and how often: a tenth of what is sent."""
MEMORY_EVERY_S = 0.1
_TOKEN = re.compile(rb'id: (\d+)\nevent: token\ndata: \{"text": ?"(\d+) *"')
_ENDS = (b"\nevent: completed\n", b"\nevent: failed\n", b"\nevent: cancelled\n", b"\nevent: timed_out\n")


class EventReader:
    """What one reader of a stream received: the numbers of events, and how late each was."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.ids: list[int] = []
        self.delays_ms: list[float] = []
        self.first_at = self.last_at = 0.0
        self.has_begun = asyncio.Event()
        self.ended = ""
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic_ns()
        text = self._rest + chunk
        whole = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        self._rest = text[whole:]
        if b"event: started\n" in text:
            self.has_begun.set()
        before = len(self.ids)
        for found in _TOKEN.finditer(text, 0, whole):
            self.ids.append(int(found[1]))
            self.delays_ms.append((now - int(found[2])) / 1e6)
        if len(self.ids) > before:
            self.first_at = self.first_at or now / 1e9
            self.last_at = now / 1e9
        for end in _ENDS:
            if end in text[:whole]:
                self.ended = end.decode().split()[1]

    def lost(self, sent: int) -> int:
        """Return how many of the sent tokens it did not get, got again, or got too late for their order."""
        distinct = len(set(self.ids))
        late = sum(later < earlier for earlier, later in pairwise(self.ids))
        return abs(sent - distinct) + len(self.ids) - distinct + late

    async def read(self, connection: RawConnection) -> None:
        """Read to the terminal event. Raise EOFError if the connection ends before."""
        async with aclosing(connection.body()) as body:
            async for chunk in body:
                self.feed(chunk)
                if self.ended:
                    return
        raise EOFError(f"the stream of {self.job_id} ended after {len(self.ids)} events, before the job's end")


async def measure_rate(server: BenchServer, plan: Plan, results: Results) -> None:
    """One job, one reader, so many events a second."""
    sent = int(EVENTS_PER_S * plan.load_s)
    row = results.row_of("load-rate", f"{EVENTS_PER_S:,} events/s in one stream".replace(",", " "), "ms")
    async with _watched(server, row):
        (reader,) = await _stream(server, [(sent, 1 / EVENTS_PER_S)])
    _note(row, [reader], sent, results)
    row.facts["events_per_s"] = len(reader.ids) / (reader.last_at - reader.first_at)


async def measure_burst(server: BenchServer, plan: Plan, results: Results) -> None:
    """Events as fast as a job can give them."""
    row = results.row_of("load-burst", f"a burst of {plan.burst:,} events".replace(",", " "), "ms")
    for _ in range(plan.bursts):
        async with _watched(server, row):
            (reader,) = await _stream(server, [(plan.burst, 0.0)])
        _note(row, [reader], plan.burst, results)
        row.facts["events_per_s"] = len(reader.ids) / max(1e-9, reader.last_at - reader.first_at)


async def measure_streams(server: BenchServer, plan: Plan, results: Results) -> None:
    """Many jobs at once, each with a reader, together as many events a second."""
    interval_s = plan.streams / EVENTS_PER_S
    each = max(1, int(plan.load_s / interval_s))
    row = results.row_of("load-streams", f"{plan.streams} streams at once", "ms")
    async with server.connected() as caller:
        await server.wait_until_warm(caller, plan.streams)  # streams are measured, and not the forks before them
    async with _watched(server, row):
        readers = await _stream(server, [(each, interval_s)] * plan.streams)
    _note(row, readers, each, results)


async def measure_slow_reader(server: BenchServer, plan: Plan, results: Results) -> None:
    """Two jobs with a reader each; then the same with one reader more, who is slow."""
    sent = int(EVENTS_PER_S * plan.load_s / 2)
    jobs = [(sent, 2 / EVENTS_PER_S)] * 2
    alone = results.row_of("load-slow-reader", "two streams, nobody slow", "ms")
    beside = results.row_of("load-slow-reader", "two streams, and a slow reader", "ms")
    slow_row = results.row_of("load-slow-reader", "the slow reader itself", "ms")
    async with _watched(server, alone):
        readers = await _stream(server, jobs, chars=SLOW_CHARS)
    _note(alone, readers, sent, results)
    async with _watched(server, beside):
        readers = await _stream(server, jobs, chars=SLOW_CHARS, with_slow=True)
    _note(beside, readers[:2], sent, results)
    _note(slow_row, readers[2:], sent, results)


async def _stream(
    server: BenchServer, jobs: list[tuple[int, float]], *, chars: int = 0, with_slow: bool = False
) -> list[EventReader]:
    """Run jobs of so many tokens at such intervals, each with a reader; `with_slow`: the first has a slow one more.

    No job begins before every reader has seen that its job is started.
    """
    async with server.connected() as caller:
        with _gate() as gate:
            readers = []
            for number, (tokens, interval_s) in enumerate(jobs):
                after_s = number * interval_s / len(jobs)
                job_id = await caller.submit(
                    "yield_times", tokens=tokens, interval_s=interval_s, gate=gate.path, after_s=after_s, chars=chars
                )
                readers.append(EventReader(job_id))
            slow = [EventReader(readers[0].job_id)] if with_slow else []
            try:
                async with asyncio.TaskGroup() as group:
                    for reader in readers:
                        group.create_task(_read(server, reader))
                    for reader in slow:
                        group.create_task(_read_slowly(server, reader, readers[0]))
                    for reader in (*readers, *slow):
                        await reader.has_begun.wait()
                    gate.open()
            finally:
                for reader in readers:
                    if not reader.ended:
                        with suppress(RuntimeError, OSError, EOFError):
                            await caller.request("DELETE", f"/v1/jobs/{reader.job_id}?grace_s=0")
    return [*readers, *slow]


class _Gate:
    """A named pipe: who opens it for reading waits until `open`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1
        os.mkfifo(path)

    def open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR)  # Linux does not let this wait for a reader

    def close(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)


@contextmanager
def _gate() -> Iterator[_Gate]:
    with tempfile.TemporaryDirectory(prefix="killable-bench-") as folder, closing(_Gate(f"{folder}/gate")) as gate:
        yield gate


async def _read(server: BenchServer, reader: EventReader) -> None:
    async with server.connected() as connection:
        connection.open_stream(reader.job_id)
        await reader.read(connection)


async def _read_slowly(server: BenchServer, slow: EventReader, other: EventReader) -> None:
    """Take little, and late, until the other one has all; then the rest."""
    url = urlsplit(server.url)
    loop = asyncio.get_running_loop()
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
        narrow.setblocking(False)
        await loop.sock_connect(narrow, (url.hostname, url.port))
        asked = f"GET /v1/jobs/{slow.job_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        await loop.sock_sendall(narrow, asked.encode())
        body = Body()
        while not slow.ended:
            chunk = await loop.sock_recv(narrow, READ_BYTES if other.ended else SLOW_BYTES)
            if not chunk:
                raise EOFError(f"the slow reader of {slow.job_id} was disconnected after {len(slow.ids)} events")
            slow.feed(body.feed(chunk))
            if not other.ended:
                await asyncio.sleep(SLOW_EVERY_S)


def _note(row: Row, readers: list[EventReader], sent: int, results: Results) -> None:
    """Add what readers received to a row, and what is missing to the failures."""
    lost = sum(reader.lost(sent) for reader in readers)
    row.values.extend(delay for reader in readers for delay in reader.delays_ms)
    row.count("events", sum(len(reader.ids) for reader in readers))
    row.count("lost", lost)
    if lost:
        results.failures.append(
            f"{row.part}: {lost} of {sent * len(readers)} events were lost or out of order ({row.what})"
        )
    for reader in readers:
        if reader.ended != "completed":
            results.failures.append(f"{row.part}: {reader.job_id} ended as {reader.ended}")


@asynccontextmanager
async def _watched(server: BenchServer, row: Row) -> AsyncIterator[None]:
    """Note the server's memory (RSS) before, and the greatest of now and then meanwhile, in MiB."""
    process = psutil.Process(server.pid)
    row.facts.setdefault("server_mib_before", process.memory_info().rss / MIB)

    async def watch() -> None:
        while True:
            rss = process.memory_info().rss / MIB
            row.facts["server_mib_most"] = max(row.facts.get("server_mib_most", 0.0), rss)
            await asyncio.sleep(MEMORY_EVERY_S)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
