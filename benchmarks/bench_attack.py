"""Measure what a victim gets of `killable serve` while other clients attack it, beside the same without attackers.

Runs in: the benchmark. Server and attackers are processes of their own. Both measurements of a part are made on one
server, in turns: quiet, attacked.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import runner
from attackers import CONNECTIONS
from measurement import Figure, Samples
from servers import HERE, Server, serve_process
from trial_plan import Plan

from killable.api.cli.bench.raw_connection import RawConnection

QUIET = "quiet"
BODIES = "beside three posters of large bodies"
CROWD = f"beside {CONNECTIONS:,} connections"
KILL_MS = "kill, grace 0, ms"
LATE_MS = "run_s 0.3 late by, ms"
STARTS = "first job of another tenant: others that started before it"
ADDED_MB = "server's memory above quiet, MB"
RUN_S = 0.3
CANCEL_EVERY_S = 0.6
"""In a crowd, which needs some seconds to be at its worst: 40 cancels take 25 s."""
POLL_S = 0.005
PART_S = 120.0
"""Bound of one part: a server that does not answer is a failure, not a wait."""
SETTLE_S = 2.0
"""The attackers' first bodies have then been taken, and the processes that check them are started."""
KEYS = {"victim": "submit", "attacker": "submit", "operator": "operate"}
VICTIM = "v" * 40
ATTACKER = "a" * 40
OPERATOR = "o" * 40


@contextmanager
def key_file() -> Iterator[str]:
    """Yield the path of a file with the three keys, in clear text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "keys")
        path.touch(0o600)
        lines = zip(KEYS.items(), (VICTIM, ATTACKER, OPERATOR), strict=True)
        path.write_text("".join(f"{name} {role} {key}\n" for (name, role), key in lines))
        yield str(path)


@asynccontextmanager
async def attacked(kind: str, server: Server) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run attackers beside what the caller does. What a flood says of its answers is there to be read."""
    command = (sys.executable, str(HERE / "attackers.py"), kind, str(server.port), ATTACKER)
    stdout = subprocess.PIPE if kind == "flood" else subprocess.DEVNULL  # a full pipe would stop the attack
    process = await asyncio.create_subprocess_exec(*command, stdout=stdout)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def measure_bodies(plan: Plan, results: Samples) -> None:
    """Kill jobs, and let others meet their deadline, while three clients post what costs most to check."""
    with key_file() as keys:
        async with serve_process(workers=3, jobs_per_worker_max=1, api_keys_file=keys) as server:
            victim = await server.connect(VICTIM)
            await _kill_and_expire(victim, server, plan, results, QUIET)
            before_mb = server.uss_mb
            async with attacked("bodies", server):
                await asyncio.sleep(SETTLE_S)
                await _kill_and_expire(victim, server, plan, results, BODIES)
                results.add(ADDED_MB, server.uss_mb - before_mb)
            await victim.close()


async def _kill_and_expire(victim: RawConnection, server: Server, plan: Plan, results: Samples, when: str) -> None:
    for _ in range(plan.deletes):
        job_id = await victim.submit("wait_for_signal")
        stream = await server.connect(VICTIM)
        stream.open_stream(job_id)
        await stream.line_with(b"event: token")
        await stream.close()
        began = time.monotonic()
        await victim.request("DELETE", f"/v1/jobs/{job_id}?grace_s=0")
        results.add(f"{KILL_MS} · {when}", (time.monotonic() - began) * 1000)
        limits = {"run_s": RUN_S, "grace_s": 0}
        ended = await victim.request(
            "POST", "/v1/jobs", {"type": "wait_for_signal", "limits": limits}, prefer="wait=30"
        )
        started, over = (datetime.fromisoformat(ended[name]) for name in ("started_at", "ended_at"))
        results.add(f"{LATE_MS} · {when}", ((over - started).total_seconds() - RUN_S) * 1000)


async def measure_share(plan: Plan, results: Samples) -> None:
    """Submit a first job while another tenant has filled its share of the queue, with the highest priority."""
    with key_file() as keys:
        async with serve_process(workers=1, jobs_per_worker_max=1, api_keys_file=keys) as server:
            victim, operator = await server.connect(VICTIM), await server.connect(OPERATOR)
            async with attacked("flood", server) as attackers:
                assert attackers.stdout is not None
                while (line := await attackers.stdout.readline()).strip() != b"429":
                    if not line:
                        raise RuntimeError("the attackers have ended")
                for _ in range(max(1, plan.deletes // 10)):
                    results.add(STARTS, await _others_before(victim, operator))
            await victim.close()
            await operator.close()


async def _others_before(victim: RawConnection, operator: RawConnection) -> int:
    """Return how many jobs of others started after this one was submitted and before it started."""
    job_id = await victim.submit("one_token")
    others = 0
    while (await victim.request("GET", f"/v1/jobs/{job_id}"))["state"] == "queued":
        running = (await operator.request("GET", "/v1/jobs?state=running"))["jobs"]
        if running:
            with suppress(RuntimeError):  # it has ended by itself, as the victim's does
                await operator.request("DELETE", f"/v1/jobs/{running[0]['job_id']}?grace_s=0")
                others += 1
    return max(0, others - 1)  # the one that ran when it was submitted does not count


async def measure_crowd(plan: Plan, results: Samples) -> None:
    """Cancel as the operator, through the operator's socket, beside connections that want all there are."""
    with key_file() as keys:
        socket = str(Path(keys).with_name("operator.sock"))
        async with serve_process(workers=2, api_keys_file=keys, operator_socket=socket) as server:
            operator = await RawConnection.open_unix(socket)
            await _cancel(operator, plan, results, QUIET)
            before_mb = server.uss_mb
            async with attacked("connections", server):
                await asyncio.sleep(2 * SETTLE_S)
                fresh = await RawConnection.open_unix(socket)  # it gets in although no place is left
                await _cancel(fresh, plan, results, CROWD)
                results.add(ADDED_MB, server.uss_mb - before_mb)
                await fresh.close()
            await operator.close()


async def _cancel(operator: RawConnection, plan: Plan, results: Samples, when: str) -> None:
    for _ in range(plan.deletes):
        job_id = await operator.submit("wait_for_signal")
        while (await operator.request("GET", f"/v1/jobs/{job_id}"))["state"] != "running":
            await asyncio.sleep(POLL_S)
        began = time.monotonic()
        await operator.request("DELETE", f"/v1/jobs/{job_id}?grace_s=0")
        results.add(f"operator's {KILL_MS} · {when}", (time.monotonic() - began) * 1000)
        if when == CROWD:
            await asyncio.sleep(CANCEL_EVERY_S)


def bounded(part: runner.Part) -> runner.Part:
    """Return a part that raises TimeoutError after PART_S."""

    async def measured(plan: Plan, results: Samples) -> None:
        async with asyncio.timeout(PART_S):
            await part(plan, results)

    return measured


PARTS = {
    "large bodies": bounded(measure_bodies),
    "a share of the queue": bounded(measure_share),
    "a crowd": bounded(measure_crowd),
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value. The bound under attack is three times quiet and 10 ms."""
    found = []
    for name in (KILL_MS, LATE_MS):
        quiet = results.percentile(f"{name} · {QUIET}", 99)
        attacked_name = f"{name} · {BODIES}"
        found.append(
            Figure(
                f"another tenant's {name.removesuffix(', ms')} {BODIES}, p99",
                0.0 if quiet is None else 3 * quiet + 10,
                results.percentile(attacked_name, 99),
                "ms",
                target_text="≤ 3 × quiet + 10 ms" if quiet is None else f"≤ {3 * quiet + 10:.1f} ms (3 × quiet + 10)",
                note=results.spread(attacked_name, 1, (50,)),
            )
        )
    crowd = f"operator's {KILL_MS} · {CROWD}"
    return [
        *found,
        Figure(ADDED_MB.removesuffix(", MB"), 300, results.total(ADDED_MB) and max(results.values[ADDED_MB]), "MB"),
        Figure(STARTS, 0, results.total(STARTS), "jobs", digits=0, target_text="it starts next"),
        Figure(
            f"operator's cancel {CROWD}, p99", 50, results.percentile(crowd, 99), "ms",
            note=results.spread(crowd, 1, (50,)),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the values without a target."""
    names = [f"{name} · {QUIET}" for name in (KILL_MS, LATE_MS, f"operator's {KILL_MS}")]
    return [f"{name}: {results.spread(name, 1, (50, 99))}" for name in names if name in results]


if __name__ == "__main__":
    runner.run(runner.command("bench_attack", PARTS, figures, notes), __doc__, examples=["--quick --only bodies"])
