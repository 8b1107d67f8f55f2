"""How many jobs that do nothing run in a second, over HTTP and in an Executor, and how many tokens one stream carries.

Runs in: a benchmark (Linux).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from killable import Executor
from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.raw_connection import RawConnection
from killable.api.cli.bench.results import Results
from killable.api.cli.bench.server_calls import BenchServer, run_job

CLIENTS = 8
"""Connections that submit at the same time."""
WARM_UP_JOBS = 20
_TOKEN = b"\nevent: token\n"
_END = b"\nevent: completed\n"


async def measure_reused(server: BenchServer, plan: Plan, results: Results) -> None:
    await _measure_jobs("no-op jobs over HTTP, workers reused", plan.jobs, server, plan, results)


async def measure_fresh(server: BenchServer, plan: Plan, results: Results) -> None:
    await _measure_jobs("no-op jobs over HTTP, a fresh process each", plan.fresh_jobs, server, plan, results)


async def _measure_jobs(what: str, jobs: int, server: BenchServer, plan: Plan, results: Results) -> None:
    """Submit jobs over several connections, each the next one when the one before has ended."""
    callers = [await server.connect() for _ in range(CLIENTS)]
    try:
        await server.wait_until_warm(callers[0])
        await run_jobs(callers, WARM_UP_JOBS)
        for _ in range(plan.rounds):
            began = time.monotonic()
            await run_jobs(callers, jobs)
            results.row_of("jobs-http", what, "/s").values.append(jobs / (time.monotonic() - began))
    finally:
        for caller in callers:
            await caller.close()


async def run_jobs(callers: list[RawConnection], jobs: int) -> None:
    """Run so many jobs that do nothing, one after the other over each connection."""
    left = iter(range(jobs))

    async def one_after_the_other(caller: RawConnection) -> None:
        for _ in left:
            await run_job(caller, "first_line")

    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(one_after_the_other(caller))


def measure_calls(plan: Plan, results: Results) -> None:
    """Submit calls to an Executor, and fetch all of their results."""
    with Executor() as executor:
        for future in [executor.submit(abs, -1) for _ in range(WARM_UP_JOBS)]:
            future.result()
        for _ in range(plan.rounds):
            began = time.monotonic()
            for future in [executor.submit(abs, -1) for _ in range(plan.calls)]:
                future.result()
            rate = plan.calls / (time.monotonic() - began)
            results.row_of("jobs-executor", "no-op calls, an Executor", "/s").values.append(rate)


async def measure_tokens(server: BenchServer, plan: Plan, results: Results) -> None:
    """Read one job's stream, from its first token to its last."""
    row = results.row_of("tokens", "tokens, one stream over HTTP", "/s")
    for _ in range(plan.rounds):
        async with server.connected() as caller:
            await server.wait_until_warm(caller)
            caller.open_stream(await caller.submit("yield_tokens", tokens=plan.tokens))
            tokens, took_s = await count_tokens(caller)
        row.count("lost", plan.tokens - tokens)
        row.values.append(tokens / took_s)
    if row.facts["lost"]:
        results.failures.append(f"tokens: {row.facts['lost']:.0f} were lost")


async def count_tokens(connection: RawConnection) -> tuple[int, float]:
    """Return the number of token events up to the terminal one, and the seconds from the first to the last."""
    tokens, rest, first_at, last_at = 0, b"", 0.0, 0.0
    async with aclosing(connection.body()) as body:
        async for chunk in body:
            text = rest + chunk
            arrived = text.count(_TOKEN)
            if arrived:
                last_at = time.monotonic()
                first_at = first_at or last_at
                tokens += arrived
            if _END in text:
                return tokens, last_at - first_at
            # Long enough for a name that is cut in two, and too short for a whole one, which would be counted again.
            rest = text[-(len(_TOKEN) - 1) :]
    raise EOFError("the stream ended before its terminal event")
