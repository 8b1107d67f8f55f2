"""Streams over HTTP: throughput, first token, a token alone, many jobs with many readers, many readers of one job.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import time

from figure import Figure, spread
from plan import Plan
from samples import Samples
from server import READ_BYTES, Connection, Server, serving

TOKENS_PER_S = "one job through SSE to one client, tokens/s"
FIRST_TOKEN_MS = "POST → first SSE token of a trivial job, ms"
ALONE_MS = "a token emitted alone → at the client, ms"
CROWD_MS = "64 jobs at 100 tokens/s to 64 clients: delay, ms"
CROWD_LOST = "64 jobs at 100 tokens/s to 64 clients: lost tokens"
READERS_TOKENS_PER_S = "64 readers of one job: tokens/s in all"

CROWD = 64
CROWD_INTERVAL_S = 0.01
ALONE_INTERVAL_S = 0.02
READERS = 64
_TOKEN = b"\nevent: token\n"


async def measure_tokens(plan: Plan, results: Samples) -> None:
    """Read one job's stream with a raw socket, from its first token to its last."""
    async with serving(workers=1) as server:
        for _ in range(plan.streams):
            caller = await server.connect()
            job_id = await caller.submit("emits", tokens=plan.stream_tokens)
            caller.open_stream(job_id)
            tokens, took_s = await _count(caller)
            _expect(tokens, plan.stream_tokens)
            results.add(TOKENS_PER_S, tokens / took_s)
            await caller.close()


async def _count(connection: Connection) -> tuple[int, float]:
    """Return the number of token events up to the terminal one, and the seconds from the first to the last."""
    tokens, rest, first_at, last_at = 0, b"", 0.0, 0.0
    while chunk := await connection.reader.read(READ_BYTES):
        text = rest + chunk
        arrived = text.count(_TOKEN)
        if arrived:
            last_at = time.monotonic()
            first_at = first_at or last_at
            tokens += arrived
        if b"\nevent: completed\n" in text:
            return tokens, last_at - first_at
        # A name that is cut in two is counted with the next chunk, and a whole one is not counted again.
        rest = text[-(len(_TOKEN) - 1) :]
    raise EOFError("the stream ended before its terminal event")


def _expect(tokens: int, wanted: int) -> None:
    if tokens != wanted:
        raise RuntimeError(f"{tokens} of {wanted} tokens came")


async def measure_first_tokens(plan: Plan, results: Samples) -> None:
    """Post on a connection that stands, ask for the stream on it, and read up to the first token."""
    async with serving(workers=1) as server:
        for _ in range(plan.first_lines):
            caller = await server.connect()
            began = time.monotonic()
            job_id = await caller.submit("first_token")
            caller.open_stream(job_id)
            await caller.line_with(b"event: token")
            results.add(FIRST_TOKEN_MS, (time.monotonic() - began) * 1000)
            await caller.close()


async def measure_alone(plan: Plan, results: Samples) -> None:
    """Compare the moment in each token with the moment at which it was read: CLOCK_MONOTONIC is one for both."""
    async with serving(workers=1) as server:
        caller = await server.connect()
        job_id = await caller.submit("ticks", tokens=plan.alone_tokens, interval_s=ALONE_INTERVAL_S)
        results.add(ALONE_MS, *await _delays_ms(server, job_id, plan.alone_tokens))
        await caller.close()


async def _delays_ms(server: Server, job_id: str, tokens: int) -> list[float]:
    """Read a job of type `ticks` to its end."""
    connection = await server.connect()
    connection.open_stream(job_id)
    delays: list[float] = []
    while len(delays) < tokens:
        line = await connection.line_with(b'"text"')
        arrived_ns = time.monotonic_ns()
        emitted_ns = int(json.loads(line.partition(b": ")[2])["text"])
        delays.append((arrived_ns - emitted_ns) / 1e6)
    await connection.line_with(b"event: completed")
    await connection.close()
    return delays


async def measure_crowd(plan: Plan, results: Samples) -> None:
    """Run many slow jobs at once, each with a client of its own."""
    async with serving(workers=CROWD) as server:
        caller = await server.connect()
        begin_ns = time.monotonic_ns() + int(plan.crowd_start_s * 1e9)
        ids = [
            await caller.submit(
                "ticks", tokens=plan.crowd_tokens, interval_s=CROWD_INTERVAL_S, begin_ns=begin_ns + number * 157_000
            )
            for number in range(CROWD)
        ]
        readers = await asyncio.gather(*(_delays_ms(server, job_id, plan.crowd_tokens) for job_id in ids))
        results.add(CROWD_MS, *(delay for delays in readers for delay in delays))
        results.add(CROWD_LOST, CROWD * plan.crowd_tokens - sum(map(len, readers)))
        await caller.close()


async def measure_readers(plan: Plan, results: Samples) -> None:
    """Read one job's whole stream with many readers at once."""
    async with serving(workers=1) as server:
        caller = await server.connect()
        tokens = plan.stream_tokens // 20
        job_id = await caller.submit("emits", tokens=tokens)
        connections = [await server.connect() for _ in range(READERS)]
        began = time.monotonic()
        for connection in connections:
            connection.open_stream(job_id)
        counts = await asyncio.gather(*map(_count, connections))
        took_s = time.monotonic() - began
        for count, _ in counts:
            _expect(count, tokens)
        results.add(READERS_TOKENS_PER_S, READERS * tokens / took_s)
        for connection in (caller, *connections):
            await connection.close()


PARTS = {
    "tokens through SSE": measure_tokens,
    "first tokens": measure_first_tokens,
    "tokens alone": measure_alone,
    "64 jobs, 64 clients": measure_crowd,
    "64 readers of one job": measure_readers,
}


def figures(results: Samples) -> list[Figure]:
    """Return every asked value with its measured one; medians unless the line says otherwise."""
    lost = results.total(CROWD_LOST)
    return [
        Figure(
            "one job through SSE to one client, one id per emit",
            150_000, results.median(TOKENS_PER_S), "tokens/s", at_least=True, digits=0,
            note=spread(results, TOKENS_PER_S, 0),
        ),
        Figure(
            "POST → first SSE token of a trivial job", 8.0, results.median(FIRST_TOKEN_MS), "ms", digits=2,
            note=_with_p99(results, FIRST_TOKEN_MS),
        ),
        Figure(
            "a token emitted alone → at the client", 2.0, results.median(ALONE_MS), "ms", digits=2,
            note=_with_p99(results, ALONE_MS),
        ),
        Figure("64 jobs at 100 tokens/s to 64 clients: lost", 0, lost, "tokens", digits=0, asked_as="none"),
        Figure(
            "64 jobs at 100 tokens/s to 64 clients: delay, p99", 50.0, results.percentile(CROWD_MS, 99), "ms",
            note=f"p50 {results.median(CROWD_MS) or 0:.2f}; {spread(results, CROWD_MS, 2)}",
        ),
    ]  # fmt: skip


def remarks(results: Samples) -> list[str]:
    """Return what was measured without a bound."""
    rate = results.median(READERS_TOKENS_PER_S)
    return [] if rate is None else [f"{READERS} readers of one job: {rate:,.0f} tokens/s in all"]


def _with_p99(results: Samples, name: str) -> str:
    p99 = results.percentile(name, 99)
    return "" if p99 is None else f"p99 {p99:.2f}; {spread(results, name, 2)}"
