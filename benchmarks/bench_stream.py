"""Measure streams from `killable serve`: throughput, first token, a single token, many jobs, many readers of one job.

    python benchmarks/bench_stream.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The server is a process of its own, the clients are raw sockets. The table goes to stdout,
progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import json
import time

import runner
import typer
from http_client import READ_BYTES, Connection
from measurement import Figure, Plan, Samples
from servers import Server, serve_process

TOKENS_PER_S = "one job through SSE to one client, tokens/s"
FIRST_TOKEN_MS = "POST → first SSE token of a trivial job, ms"
SINGLE_MS = "a single token: emitted → at the client, ms"
CONCURRENT_MS = "64 jobs at 100 tokens/s to 64 clients: delay, ms"
CONCURRENT_LOST = "64 jobs at 100 tokens/s to 64 clients: lost tokens"
READERS_TOKENS_PER_S = "64 readers of one job: tokens/s in all"

CONCURRENT = 64
CONCURRENT_INTERVAL_S = 0.01
SINGLE_INTERVAL_S = 0.02
READERS = 64
STAGGER_NS = 157_000
"""Between the first tokens of two jobs: a 64th of the interval."""
_TOKEN = b"\nevent: token\n"


async def measure_tokens(plan: Plan, results: Samples) -> None:
    """Read one job's stream with a raw socket, from its first token to its last."""
    async with serve_process(workers=1) as server:
        for _ in range(plan.streams):
            caller = await server.connect()
            job_id = await caller.submit("yield_tokens", tokens=plan.stream_tokens)
            caller.open_stream(job_id)
            tokens, took_s = await _count_tokens(caller)
            _require_tokens(tokens, plan.stream_tokens)
            results.add(TOKENS_PER_S, tokens / took_s)
            await caller.close()


async def _count_tokens(connection: Connection) -> tuple[int, float]:
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
        # Long enough for a name that is cut in two, and too short for a whole one, which would be counted again.
        rest = text[-(len(_TOKEN) - 1) :]
    raise EOFError("the stream ended before its terminal event")


def _require_tokens(tokens: int, expected: int) -> None:
    if tokens != expected:
        raise RuntimeError(f"received {tokens} of {expected} tokens")


async def measure_first_tokens(plan: Plan, results: Samples) -> None:
    """Post on an open connection, request the stream on it, and read up to the first token."""
    async with serve_process(workers=1) as server:
        for _ in range(plan.first_lines):
            caller = await server.connect()
            began = time.monotonic()
            job_id = await caller.submit("one_token")
            caller.open_stream(job_id)
            await caller.line_with(b"event: token")
            results.add(FIRST_TOKEN_MS, (time.monotonic() - began) * 1000)
            await caller.close()


async def measure_single_tokens(plan: Plan, results: Samples) -> None:
    """Compare the time in each token with the time at which it was read: CLOCK_MONOTONIC is the same in both."""
    async with serve_process(workers=1) as server:
        caller = await server.connect()
        job_id = await caller.submit("yield_times", tokens=plan.single_tokens, interval_s=SINGLE_INTERVAL_S)
        results.add(SINGLE_MS, *await _delays_ms(server, job_id, plan.single_tokens))
        await caller.close()


async def _delays_ms(server: Server, job_id: str, tokens: int) -> list[float]:
    """Read the stream of a job of type `yield_times` to its end."""
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


async def measure_concurrent(plan: Plan, results: Samples) -> None:
    """Run many slow jobs at once, each with a client of its own."""
    tokens = plan.concurrent_tokens
    async with serve_process(workers=CONCURRENT) as server:
        caller = await server.connect()
        begin_ns = time.monotonic_ns() + int(plan.concurrent_start_s * 1e9)
        ids = [
            await caller.submit(
                "yield_times", tokens=tokens, interval_s=CONCURRENT_INTERVAL_S, begin_ns=begin_ns + number * STAGGER_NS
            )
            for number in range(CONCURRENT)
        ]
        readers = await asyncio.gather(*(_delays_ms(server, job_id, tokens) for job_id in ids))
        results.add(CONCURRENT_MS, *(delay for delays in readers for delay in delays))
        results.add(CONCURRENT_LOST, CONCURRENT * tokens - sum(map(len, readers)))
        await caller.close()


async def measure_readers(plan: Plan, results: Samples) -> None:
    """Read one job's whole stream with many readers at once."""
    async with serve_process(workers=1) as server:
        caller = await server.connect()
        tokens = plan.stream_tokens // 20
        job_id = await caller.submit("yield_tokens", tokens=tokens)
        connections = [await server.connect() for _ in range(READERS)]
        began = time.monotonic()
        for connection in connections:
            connection.open_stream(job_id)
        counts = await asyncio.gather(*map(_count_tokens, connections))
        took_s = time.monotonic() - began
        for count, _ in counts:
            _require_tokens(count, tokens)
        results.add(READERS_TOKENS_PER_S, READERS * tokens / took_s)
        for connection in (caller, *connections):
            await connection.close()


PARTS = {
    "tokens through SSE": measure_tokens,
    "first tokens": measure_first_tokens,
    "single tokens": measure_single_tokens,
    "64 jobs, 64 clients": measure_concurrent,
    "64 readers of one job": measure_readers,
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value; medians unless stated otherwise."""
    return [
        Figure(
            "one job through SSE to one client, one id per emit",
            150_000, results.median(TOKENS_PER_S), "tokens/s", at_least=True, digits=0,
            note=results.spread(TOKENS_PER_S, 0),
        ),
        Figure(
            "POST → first SSE token of a trivial job", 8.0, results.median(FIRST_TOKEN_MS), "ms", digits=2,
            note=results.spread(FIRST_TOKEN_MS, 2, (99,)),
        ),
        Figure(
            "a single token: emitted → at the client", 2.0, results.median(SINGLE_MS), "ms", digits=2,
            note=results.spread(SINGLE_MS, 2, (99,)),
        ),
        Figure(
            "64 jobs at 100 tokens/s to 64 clients: lost", 0, results.total(CONCURRENT_LOST), "tokens", digits=0,
            target_text="none",
        ),
        Figure(
            "64 jobs at 100 tokens/s to 64 clients: delay, p99", 50.0, results.percentile(CONCURRENT_MS, 99), "ms",
            note=results.spread(CONCURRENT_MS, 2, (50,)),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the value without a target."""
    rate = results.median(READERS_TOKENS_PER_S)
    return [] if rate is None else [f"{READERS} readers of one job: {rate:,.0f} tokens/s in all"]


if __name__ == "__main__":
    typer.run(runner.command("bench_stream", PARTS, figures, notes))
