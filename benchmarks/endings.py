"""One job at a time: cancel → dead → certificate → terminal SSE event, beside raw kills of like processes.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import encoding
import raw
import samples
import testbed
from deathwatch import DeathWatch
from plan import Plan
from samples import CERTIFICATE, DEAD, GRACE_0, GRACE_DEFAULT, RAW, RAW_LATE, SSE, Samples
from visitor import Visitor, visiting

from killable.supervisor.supervisor import Supervisor

SETTLE_S = 0.05
"""From the first token to the cancel: the job is deep in its call, and its memory has begun to grow."""
LATE_S = 0.5
"""`ack_s`: by then a native call has more memory, which takes longer to free."""
DELETED = "DELETE grace 0 → certificate, ms"


async def measure_loops(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Time the endings of what the standard library can do, and DELETE alone."""
    await _measure_module("workloads", ["python_loop", "native_loop", "ignores_sigterm"], plan, results, watch)


async def measure_encode(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Time the endings of the real native call."""
    if encoding.IS_INSTALLED:
        await _measure_module("encoding", ["encode"], plan, results, watch)


PARTS = {"one job at a time": measure_loops, "one real native job at a time": measure_encode}


async def _measure_module(module: str, workloads: list[str], plan: Plan, results: Samples, watch: DeathWatch) -> None:
    async with AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(testbed.supervising(testbed.pool(module, workers=2)))
        port = await stack.enter_async_context(testbed.serving(supervisor))
        visitor = await stack.enter_async_context(visiting(port))
        forker = stack.enter_context(raw.RawForker(module))
        if "native_loop" in workloads:
            await _delete(supervisor, visitor, "native_loop", plan, results)
        for workload in workloads:
            for _ in range(plan.kills):  # turn by turn: both see the same machine
                await _end_one(supervisor, visitor, watch, results, workload, 0.0)
                await testbed.warm(supervisor)
                victim = await asyncio.to_thread(forker.fork, workload)
                await asyncio.sleep(SETTLE_S)
                results.add(samples.ending(workload, RAW, DEAD), raw.kill(victim, watch))
            for _ in range(plan.graces):
                await _end_one(supervisor, visitor, watch, results, workload, None)
                victim = await asyncio.to_thread(forker.fork, workload)
                await asyncio.sleep(SETTLE_S + LATE_S)
                results.add(samples.ending(workload, RAW_LATE, DEAD), raw.kill(victim, watch))


async def _delete(supervisor: Supervisor, visitor: Visitor, workload: str, plan: Plan, results: Samples) -> None:
    for _ in range(plan.deletes):
        await testbed.warm(supervisor)
        record = await testbed.start(supervisor, workload)
        await asyncio.sleep(SETTLE_S)
        results.add(DELETED, await visitor.delete(record.job_id))


async def _end_one(
    supervisor: Supervisor, visitor: Visitor, watch: DeathWatch, results: Samples, workload: str, grace_s: float | None
) -> None:
    """Start a job, let a client follow its stream, cancel it, and note when each party knew of its end."""
    await testbed.warm(supervisor)
    record = await testbed.start(supervisor, workload)
    job_id = record.job_id
    await visitor.follow(job_id)
    await asyncio.sleep(SETTLE_S)
    watched = watch.watch(testbed.pid_of(record))
    asked_at = time.monotonic()
    record = await supervisor.cancel(job_id, grace_s=grace_s)
    certified_at = time.monotonic()
    seen_at = await visitor.saw_the_end_at()
    dead_at = watch.died_at(watched)  # blocks: after the event, which this loop had to send
    if record.state != "cancelled" or record.certificate is None:
        raise RuntimeError(f"not cancelled: {record}")
    mechanism = GRACE_DEFAULT if grace_s is None else GRACE_0
    for phase, at in ((DEAD, dead_at), (CERTIFICATE, certified_at), (SSE, seen_at)):
        results.add(samples.ending(workload, mechanism, phase), (at - asked_at) * 1000)
