"""Starts, streams, memory: what a job costs while nobody cancels it, and a cancel while another job floods.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import testbed
from deathwatch import DeathWatch
from plan import Plan
from samples import Samples

from killable.supervisor.supervisor import Supervisor

FRESH = "fresh"
REUSED = "reused"
IDLE_CANCEL = "cancel → certificate, nothing else runs, ms"
FLOODED_CANCEL = "cancel → certificate, another job floods, ms"
FLOODED_DEAD = "cancel → dead, another job floods, ms"
TOKENS_PER_S = "one job, one emit per token → reader, tokens/s"
PRIVATE_MB = "private memory of a fork worker, 200 MB preloaded, MB"

PAUSES_S = (0.0, 0.02)
"""One job after another, and after a pause in which the processors' caches went cold and their cores to sleep."""
VICTIM = "python_loop"
SETTLE_S = 0.02
FLOOD_TOKEN_CHARS = 32
FLOOD_EVENTS_MAX = 2_000_000
"""Then another job takes over: the supervisor keeps what a job has said."""
FLOOD_OUTPUT_BYTES = 1 << 30


def first_line(worker: str, pause_s: float) -> str:
    """Return the name of: from the submission to the job's first line, on an idle worker."""
    return f"submit → first line, {worker} worker, after {pause_s * 1000:g} ms without a job, ms"


async def measure_first_lines(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    for worker, jobs_per_worker_max in ((FRESH, 1), (REUSED, 0)):
        pool = testbed.pool("workloads", workers=1, jobs_per_worker_max=jobs_per_worker_max)
        async with testbed.supervising(pool) as supervisor:
            for pause_s in PAUSES_S:
                for _ in range(plan.first_lines):
                    await testbed.warm(supervisor, pause_s)
                    asked_ns = time.monotonic_ns()
                    record = await testbed.submit(supervisor, "first_line")
                    record = await supervisor.wait(record.job_id)
                    assert record.result is not None, record
                    results.add(first_line(worker, pause_s), (int(record.result) - asked_ns) / 1e6)


async def measure_tokens(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Read a job's tokens as they come, from its first to its last."""
    async with testbed.supervising(testbed.pool("workloads", workers=1)) as supervisor:
        for _ in range(plan.streams):
            await testbed.warm(supervisor)
            record = await testbed.submit(supervisor, "emits", tokens=plan.stream_tokens)
            tokens = 0
            first_at = last_at = 0.0
            async for batch in supervisor.events(record.job_id):
                arrived = sum(event.name == "token" for event in batch)
                if arrived:
                    last_at = time.monotonic()
                    first_at = first_at or last_at
                    tokens += arrived
            if tokens != plan.stream_tokens:
                raise RuntimeError(f"{tokens} of {plan.stream_tokens} tokens came")
            results.add(TOKENS_PER_S, tokens / (last_at - first_at))


async def measure_flooded(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Cancel while nothing else runs, then while another job floods a reader that does not read."""
    trials = plan.flooded_cancels
    pool = testbed.pool("workloads", workers=2)
    async with testbed.supervising(pool, keep_bytes=64 << 20) as supervisor, testbed.serving(supervisor) as port:
        for _ in range(trials):
            certified_ms, _ = await _cancel(supervisor, watch)
            results.add(IDLE_CANCEL, certified_ms)
        while trials:
            async with _flood(supervisor, port) as flood_id:
                while trials and (await supervisor.get(flood_id)).events < FLOOD_EVENTS_MAX:
                    trials -= 1
                    certified_ms, dead_ms = await _cancel(supervisor, watch)
                    results.add(FLOODED_CANCEL, certified_ms)
                    results.add(FLOODED_DEAD, dead_ms)


@asynccontextmanager
async def _flood(supervisor: Supervisor, port: int) -> AsyncIterator[str]:
    """Run a job that floods its stream, whose only reader asked for it and then reads nothing."""
    record = await testbed.start(
        supervisor, "floods", limits={"output_bytes": FLOOD_OUTPUT_BYTES}, chars=FLOOD_TOKEN_CHARS
    )
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    try:
        writer.write(f"GET /v1/jobs/{record.job_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        yield record.job_id
    finally:
        writer.transport.abort()
        await supervisor.cancel(record.job_id, grace_s=0)


async def _cancel(supervisor: Supervisor, watch: DeathWatch) -> tuple[float, float]:
    """Run and cancel a job, grace 0; return the milliseconds to its certificate and to its death."""
    await testbed.warm(supervisor)
    record = await testbed.start(supervisor, VICTIM)
    await asyncio.sleep(SETTLE_S)
    watched = watch.watch(testbed.pid_of(record))
    asked_at = time.monotonic()
    await supervisor.cancel(record.job_id, grace_s=0)
    certified_at = time.monotonic()
    return (certified_at - asked_at) * 1000, (watch.died_at(watched) - asked_at) * 1000


async def measure_memory(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    async with testbed.supervising(testbed.pool("ballast", workers=1)) as supervisor:
        await testbed.warm(supervisor)
        record = await testbed.start(supervisor, "holds")
        for worker in await supervisor.workers():
            if worker.job_id == record.job_id and worker.uss_bytes is not None:
                results.add(PRIVATE_MB, worker.uss_bytes / 1e6)


PARTS = {
    "submit to first line": measure_first_lines,
    "tokens": measure_tokens,
    "cancels beside a flood": measure_flooded,
    "private memory": measure_memory,
}
