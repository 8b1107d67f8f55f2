"""How much memory the processes of a server use: the server, zygote and guard, a worker, a warm spare.

Runs in: a benchmark (Linux).

PSS counts a page that several processes have in shares, so that the sum is what all of them need. USS has only what no
other process has, which is what a kill gives back.
"""

from __future__ import annotations

import asyncio

import psutil

from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.results import OWN, SHARE, Results
from killable.api.cli.bench.server_calls import BenchServer

MIB = 1 << 20
SETTLE_S = 0.2
"""For a forked worker to have made its own what it writes to."""


async def measure(server: BenchServer, _plan: Plan, results: Results) -> None:
    """Look at each process once, with a job that waits in one worker."""
    async with server.connected() as caller:
        await server.wait_until_warm(caller)
        job = await server.start(caller, "wait_for_signal")
        await server.wait_until_warm(caller)
        await asyncio.sleep(SETTLE_S)
        workers = (await caller.request("GET", "/v1/workers"))["workers"]
        pids = {
            "a worker with a job": [each["pid"] for each in workers if each["state"] == "busy"],
            "a warm spare": [each["pid"] for each in workers if each["state"] == "idle"],
            "guard and zygote, each": _behind(server.pid, {each["pid"] for each in workers}),
            "the server itself": [server.pid],
        }
        for what, processes in pids.items():
            row, private = results.row_of("memory", what, SHARE), results.row_of("memory", what, OWN)
            for pid in processes:
                try:
                    found = psutil.Process(pid).memory_full_info()
                except psutil.AccessDenied:
                    results.remarks.append(f"only root may see the memory of {what}, which hides it from jobs")
                    continue
                row.values.append(found.pss / MIB)
                private.values.append(found.uss / MIB)
        await caller.request("DELETE", f"/v1/jobs/{job.job_id}?grace_s=0")


def _behind(server: int, workers: set[int]) -> list[int]:
    return [each.pid for each in psutil.Process(server).children(recursive=True) if each.pid not in workers]
