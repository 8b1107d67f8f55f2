"""Many jobs at once, and jobs that are hard to hear: dead in time, or cleaned up for certain.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import encoding
import testbed
import workloads
from deathwatch import DeathWatch
from plan import Plan
from samples import Samples

from killable.supervisor.models import JobRecord
from killable.supervisor.settings import usable_cores
from killable.supervisor.supervisor import Supervisor

CROWD = 16
NATIVE_SETTLE_S = 0.1
QUOTA_PERIOD_US = 100_000
QUOTA_US = 5_000
ORDINARY_GRACE_S = 2.0
ORDINARY_DELAY_S_MAX = 0.010
"""The cancel comes at any moment of the work: between 0 and this after the first token."""

HELPERS_DEAD = "native call with helper threads, grace 5 s → dead, ms"
IGNORING_DEAD = "16 SIGTERM-ignoring jobs, grace 1 s → last one dead, ms"
QUOTA_JOBS = "16 Python jobs in a 5 % quota: jobs"
QUOTA_CLEANED = "16 Python jobs in a 5 % quota: cleaned up"
BARE_JOBS = "the same with a bare ack_s rule: jobs"
BARE_CLEANED = "the same with a bare ack_s rule: cleaned up"
ORDINARY_JOBS = "cancels of ordinary Python code: jobs"
ORDINARY_CLEANED = "cancels of ordinary Python code: finally ran"


def per_core_dead(workload: str) -> str:
    """Return the name of: cancelled with the default grace, one job per core, until each was dead."""
    return f"{workload}, grace 5 s, one job per core → dead, ms"


def crowd_dead(workload: str) -> str:
    """Return the name of: 16 of them cancelled with the default grace, until the last one was dead."""
    return f"16 × {workload}, grace 5 s → last one dead, ms"


async def measure_native(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    async with testbed.supervising(testbed.pool("workloads", workers=CROWD)) as supervisor:
        await _end_native_jobs(supervisor, watch, "native_loop", plan, results)


async def measure_encode(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    if encoding.IS_INSTALLED:
        async with testbed.supervising(testbed.pool("encoding", workers=CROWD)) as supervisor:
            await _end_native_jobs(supervisor, watch, "encode", plan, results)


async def measure_deaf(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    async with testbed.supervising(testbed.pool("workloads", workers=CROWD)) as supervisor:
        for _ in range(plan.crowds):
            results.add(HELPERS_DEAD, *await _end_together(supervisor, watch, "helper_threads", 1))
            dead_ms = await _end_together(supervisor, watch, "ignores_sigterm", CROWD, grace_s=1.0)
            results.add(IGNORING_DEAD, max(dead_ms))


async def _end_native_jobs(
    supervisor: Supervisor, watch: DeathWatch, workload: str, plan: Plan, results: Samples
) -> None:
    for _ in range(plan.crowds):
        results.add(per_core_dead(workload), *await _end_together(supervisor, watch, workload, usable_cores()))
        results.add(crowd_dead(workload), max(await _end_together(supervisor, watch, workload, CROWD)))


async def _end_together(
    supervisor: Supervisor, watch: DeathWatch, workload: str, jobs: int, grace_s: float | None = None
) -> list[float]:
    """Start jobs, cancel all in one turn of the loop, return for each the milliseconds until it was dead."""
    records = await asyncio.gather(*(testbed.start(supervisor, workload) for _ in range(jobs)))
    await asyncio.sleep(NATIVE_SETTLE_S)
    watched = [watch.watch(testbed.pid_of(record)) for record in records]
    asked_at = time.monotonic()
    ended = await asyncio.gather(*(supervisor.cancel(record.job_id, grace_s=grace_s) for record in records))
    for record in ended:
        if record.state != "cancelled":
            raise RuntimeError(f"not cancelled: {record}")
    dead_ms = [(watch.died_at(each) - asked_at) * 1000 for each in watched]
    await testbed.warm(supervisor)
    return dead_ms


# ── clean-up ──


async def measure_quota(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Give 16 computing jobs a twentieth of a processor and cancel them: all have to hear it and clean up."""
    try:
        with _quota() as procs:
            async with testbed.supervising(testbed.pool("workloads", workers=CROWD)) as supervisor:
                cleaned = await _count_cleaned(supervisor, procs, results)
                results.add(QUOTA_JOBS, CROWD)
                results.add(QUOTA_CLEANED, cleaned)
            bare = testbed.supervising(testbed.pool("workloads", workers=CROWD), ack_cpu_s=0.0)
            async with bare as supervisor:
                cleaned = await _count_cleaned(supervisor, procs, None)
                results.add(BARE_JOBS, CROWD)
                results.add(BARE_CLEANED, cleaned)
    except OSError as error:
        results.remarks.append(f"the processor quota was not measured: {error}")


async def _count_cleaned(supervisor: Supervisor, procs: Path, results: Samples | None) -> int:
    records = await asyncio.gather(*(testbed.start(supervisor, "cleans_up") for _ in range(CROWD)))
    for record in records:
        procs.write_text(str(testbed.pid_of(record)))
    await asyncio.sleep(2 * QUOTA_PERIOD_US / 1e6)  # the quota has begun to bite
    ended = await asyncio.gather(*(supervisor.cancel(record.job_id, grace_s=5.0) for record in records))
    for record in ended:
        if results is not None and not _has_cleaned(record):
            results.remarks.append(f"in the quota, no clean-up: {record.certificate}")
    return sum(map(_has_cleaned, ended))


@contextmanager
def _quota() -> Iterator[Path]:
    """Make a group of the v1 processor controller with a quota of 5 %; yield its cgroup.procs. Raise OSError."""
    group = _cpu_controller() / f"killable-bench-{uuid4().hex[:8]}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(QUOTA_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def _cpu_controller() -> Path:
    """Return where the v1 processor controller is mounted (proc(5), mountinfo). Raise FileNotFoundError."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup" and "cpu" in options.split()[-1].split(","):
            return Path(fields.split()[4])
    raise FileNotFoundError("no cgroup v1 processor controller is mounted")


async def measure_ordinary(plan: Plan, results: Samples, watch: DeathWatch) -> None:
    """Cancel ordinary code at random moments, on every core, and count whose `finally` ran."""
    cores = usable_cores()
    todo = iter(range(plan.ordinary_cancels))
    async with testbed.supervising(testbed.pool("workloads", workers=cores, spares=cores)) as supervisor:

        async def lane() -> None:
            for number in todo:
                record = await testbed.start(supervisor, workloads.ORDINARY[number % len(workloads.ORDINARY)])
                await asyncio.sleep(random.uniform(0, ORDINARY_DELAY_S_MAX))
                record = await supervisor.cancel(record.job_id, grace_s=ORDINARY_GRACE_S)
                results.add(ORDINARY_JOBS, 1)
                results.add(ORDINARY_CLEANED, _has_cleaned(record))
                if not _has_cleaned(record):
                    results.remarks.append(f"{record.type}: no clean-up: {record.certificate}")

        await asyncio.gather(*(lane() for _ in range(cores)))


def _has_cleaned(record: JobRecord) -> bool:
    """The first token said that it was in; the second one came from its `finally`."""
    return record.state == "cancelled" and record.tokens == 2


PARTS = {
    "native jobs together": measure_native,
    "real native jobs together": measure_encode,
    "jobs that do not hear": measure_deaf,
    "jobs in a processor quota": measure_quota,
    "cancels of ordinary code": measure_ordinary,
}
