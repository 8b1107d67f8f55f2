"""Measure what a head costs beside a supervisor of this machine: starts, cancels, tokens, no-op jobs.

Runs in: the benchmark. All are measured in turns, in one run: what disturbs one disturbs all. `head` has its node in
the same event loop, over a way that takes no time. `head over Ray` has it in an actor of a Ray cluster of this machine,
through a driver: with the Python of `.venv/cluster` only (make smoke-cluster).
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import runner
import servers
from measurement import Figure, Samples
from trial_plan import Plan

from killable.supervisor.cluster.direct_carrier import DirectCarrier
from killable.supervisor.cluster.driver_launcher import DriverLauncher
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.models import ACTIVE_STATES
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "cluster"), str(TESTS)]

from support.engines import Cluster  # noqa: E402

AT_ONCE = 16
WORKERS = 4
LOCAL, HEAD, RAY = "local", "head", "head over Ray"
HEADS = (HEAD, RAY)
STARTED = "submit → first line, ms"
PYTHON, NATIVE = "cancel of a Python loop, grace 1 s, ms", "cancel of a native loop, grace 0, ms"
TOKENS = "tokens/s, one stream"
NOOPS = "no-op jobs/s, 16 at once"
NOOP_CPU = "processor time of the server's process for a no-op job, µs"
RAY_CARRIER = "killable.supervisor.cluster.ray_launcher:RayLauncher"


def settings() -> Settings:
    return Settings(pools=(servers.pool("jobs", workers=WORKERS, jobs_per_worker_max=0),), sweep=False)


@asynccontextmanager
async def engines() -> AsyncIterator[dict[str, Supervisor]]:
    """Give the supervisors to compare, started."""
    found = {LOCAL: Supervisor(settings()), HEAD: Cluster(("a",), Times()).head(settings())}
    async with AsyncExitStack() as stack:
        if importlib.util.find_spec("ray") is not None:
            from ray_cluster import ENVIRONMENT, RayCluster

            os.environ.update(ENVIRONMENT)
            with socket.socket() as free:
                free.bind(("127.0.0.2", 0))
                port = free.getsockname()[1]
            cluster = RayCluster(port, nodes=1)
            stack.callback(cluster.close)
            of_ray = dataclasses.replace(settings(), sweep=True)
            carrier = DirectCarrier(DriverLauncher(RAY_CARRIER, (cluster.address, of_ray)))
            found[RAY] = Supervisor(of_ray, remote_pools=NodePools(of_ray, carrier, Times()))
        for engine in found.values():
            stack.push_async_callback(engine.close, 0)
            await engine.start()
        yield found


async def measure(plan: Plan, results: Samples) -> None:
    async with engines() as found:
        for round_ in range(2 * plan.kills):
            for name, engine in found.items():
                await _measure_single(engine, name, results if round_ else Samples())
        for _ in range(plan.streams):
            for name, engine in found.items():
                await _measure_tokens(engine, name, plan.stream_tokens // 4, results)
                await _measure_noops(engine, name, plan.ordinary_cancels, results)


async def _measure_single(engine: Supervisor, name: str, results: Samples) -> None:
    submitted_ns = time.monotonic_ns()
    record = await engine.wait((await servers.submit(engine, "first_line")).job_id)
    assert record.result is not None, record
    results.add(sample_name(STARTED, name), (int(record.result) - submitted_ns) / 1e6)
    for what, job_type, grace_s in ((PYTHON, "python_loop", 1.0), (NATIVE, "native_loop", 0.0)):
        job_id = (await servers.submit(engine, job_type)).job_id
        async for batch in engine.events(job_id):
            if any(event.name == "token" for event in batch):
                break
        began = time.perf_counter()
        record = await engine.cancel(job_id, grace_s=grace_s, wait_s=60)
        results.add(sample_name(what, name), (time.perf_counter() - began) * 1000)
        assert record.state not in ACTIVE_STATES, record


async def _measure_tokens(engine: Supervisor, name: str, tokens: int, results: Samples) -> None:
    job_id = (await servers.submit(engine, "yield_tokens", tokens=tokens)).job_id
    began, received = 0.0, 0
    async for batch in engine.events(job_id):
        began = began or time.perf_counter()
        received += sum(event.name == "token" for event in batch)
    results.add(sample_name(TOKENS, name), received / (time.perf_counter() - began))


async def _measure_noops(engine: Supervisor, name: str, jobs: int, results: Samples) -> None:
    left = iter(range(jobs))

    async def one_after_the_other() -> None:
        for _ in left:
            await engine.wait((await servers.submit(engine, "first_line")).job_id)

    used, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    results.add(sample_name(NOOPS, name), jobs / (time.perf_counter() - began))
    results.add(sample_name(NOOP_CPU, name), (time.process_time() - used) / jobs * 1e6)


def sample_name(what: str, engine: str) -> str:
    return f"{engine} · {what}"


def figures(results: Samples) -> list[Figure]:
    found = []
    for engine in HEADS:
        for percent, bound in ((50, 5.0), (99, 15.0)):
            measured = results.percentile(sample_name(STARTED, engine), percent)
            found.append(Figure(f"{engine}: submit → first line, p{percent}", bound, measured, "ms"))
        for what in (PYTHON, NATIVE):
            for percent in (50, 99):
                ours, local = (results.percentile(sample_name(what, each), percent) for each in (engine, LOCAL))
                ratio = None if ours is None or not local else ours / local
                found.append(Figure(f"{engine}: {what.removesuffix(', ms')}, p{percent} to local", 3.0, ratio, "x"))
        for what, least in ((TOKENS, 250_000.0), (NOOPS, 1000.0)):
            found.append(Figure(f"{engine}: {what}", least, results.median(sample_name(what, engine)), "1/s", True, 0))
        cpu = results.median(sample_name(NOOP_CPU, engine))
        found.append(Figure(f"{engine}: {NOOP_CPU.removesuffix(', µs')}", 1000.0, cpu, "µs", False, 0))
    return found


def notes(results: Samples) -> list[str]:
    return [
        f"{name}: {results.spread(name, 1, (50, 99))}"
        for engine in (LOCAL, *HEADS)
        for what in (STARTED, PYTHON, NATIVE, TOKENS, NOOPS, NOOP_CPU)
        if (name := sample_name(what, engine)) in results
    ]


PARTS = {"local, head and head over Ray": measure}

if __name__ == "__main__":
    runner.run(runner.command("relay", PARTS, figures, notes), __doc__ or "")
