"""How soon the next job runs after a kill of the only worker, and how soon there is a warm spare again.

Runs in: a benchmark (Linux).
"""

from __future__ import annotations

import time

from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.results import Results
from killable.api.cli.bench.server_calls import BenchServer, run_job


async def measure_with_spare(server: BenchServer, plan: Plan, results: Results) -> None:
    await _measure("next job starts, a spare was warm", 1, server, plan, results)


async def measure_without_spare(server: BenchServer, plan: Plan, results: Results) -> None:
    await _measure("next job starts, without a spare", 0, server, plan, results)


async def _measure(what: str, spares: int, server: BenchServer, plan: Plan, results: Results) -> None:
    """Kill the only busy worker, and run the next job at once."""
    async with server.connected() as caller:
        for _ in range(plan.recoveries):
            await server.wait_until_warm(caller, spares)
            job = await server.start(caller, "python_loop")
            await server.wait_until_warm(caller, spares)
            killed_at = time.monotonic()
            await caller.request("DELETE", f"/v1/jobs/{job.job_id}?grace_s=0")
            record = await run_job(caller, "first_line")
            results.row_of("recovery", what, "ms").values.append(record["result"] / 1e6 - killed_at * 1000)
            if spares:
                again = results.row_of("recovery", "a spare is warm again", "ms")
                await server.wait_until_warm(caller, spares)
                again.values.append((time.monotonic() - killed_at) * 1000)
