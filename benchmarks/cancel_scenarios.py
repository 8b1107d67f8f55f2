"""What `bench_cancel.py` measures: cancels of one job and of many, clean-up under load, starts, streams and memory.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import jobs
import raw_kill
import servers
import tokenizer_jobs
from http_client import ClientProcess, client_process
from measurement import CERTIFICATE, DEAD, GRACE_0, GRACE_DEFAULT, RAW, RAW_LATE, SSE, Samples, phase_name
from trial_plan import Plan

from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import usable_cores
from killable.supervisor.supervisor import Supervisor


class Scenario(Protocol):
    def __call__(self, plan: Plan, results: Samples, watcher: PidfdWatcher) -> Awaitable[None]: ...


SETTLE_S = 0.05
"""From the first token to the cancel: the job is deep in its call, and its memory has begun to grow."""
LATE_S = 0.5
"""`ack_s`: by then a native call has more memory, which takes longer to free."""

DELETED = "DELETE grace 0 → certificate, ms"


# ── one job at a time, in turn with raw kills of processes that are like a worker ──


async def measure_loops(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Measure jobs of the standard library, and DELETE alone."""
    await _measure_ends("jobs", ["python_loop", "native_loop", "ignores_sigterm"], plan, results, watcher)


async def measure_encode(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Measure the real native call."""
    if tokenizer_jobs.IS_INSTALLED:
        await _measure_ends("tokenizer_jobs", ["encode"], plan, results, watcher)


async def _measure_ends(module: str, workloads: list[str], plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    async with AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(servers.running_supervisor(servers.pool(module, workers=2)))
        port = await stack.enter_async_context(servers.serving_http(supervisor))
        client = await stack.enter_async_context(client_process(port))
        fork_server = stack.enter_context(raw_kill.ForkServer(module))
        if "native_loop" in workloads:
            await _delete(supervisor, client, "native_loop", plan, results)
        for workload in workloads:
            for _ in range(plan.kills):  # in turn: both kinds see the same machine
                await _end_one(supervisor, client, watcher, results, workload, 0.0)
                await servers.wait_until_warm(supervisor)
                pid = await asyncio.to_thread(fork_server.fork, workload)
                await asyncio.sleep(SETTLE_S)
                results.add(phase_name(workload, RAW, DEAD), raw_kill.kill(pid, watcher))
            for _ in range(plan.grace_cancels):
                await _end_one(supervisor, client, watcher, results, workload, None)
                pid = await asyncio.to_thread(fork_server.fork, workload)
                await asyncio.sleep(SETTLE_S + LATE_S)
                results.add(phase_name(workload, RAW_LATE, DEAD), raw_kill.kill(pid, watcher))


async def _delete(supervisor: Supervisor, client: ClientProcess, workload: str, plan: Plan, results: Samples) -> None:
    for _ in range(plan.deletes):
        await servers.wait_until_warm(supervisor)
        record = await servers.start(supervisor, workload)
        await asyncio.sleep(SETTLE_S)
        results.add(DELETED, await client.delete(record.job_id))


async def _end_one(
    supervisor: Supervisor,
    client: ClientProcess,
    watcher: PidfdWatcher,
    results: Samples,
    workload: str,
    grace_s: float | None,
) -> None:
    """Start a job, let a client follow its stream, cancel it, and add the time of each phase of its end."""
    await servers.wait_until_warm(supervisor)
    record = await servers.start(supervisor, workload)
    await client.follow(record.job_id)
    await asyncio.sleep(SETTLE_S)
    watched = watcher.watch(servers.pid_of(record))
    cancelled_at = time.monotonic()
    record = await supervisor.cancel(record.job_id, grace_s=grace_s)
    certified_at = time.monotonic()
    received_at = await client.terminal_event_at()
    dead_at = watcher.died_at(watched)  # blocks: only after the event, which this loop has to send
    if record.state != "cancelled" or record.certificate is None:
        raise RuntimeError(f"not cancelled: {record}")
    mechanism = GRACE_DEFAULT if grace_s is None else GRACE_0
    for phase, at in ((DEAD, dead_at), (CERTIFICATE, certified_at), (SSE, received_at)):
        results.add(phase_name(workload, mechanism, phase), (at - cancelled_at) * 1000)


# ── many jobs at once, and jobs that handle no signal ──

CONCURRENT = 16
NATIVE_SETTLE_S = 0.1

HELPERS_DEAD = "native call with helper threads, grace 5 s → dead, ms"
IGNORING_DEAD = "16 SIGTERM-ignoring jobs, grace 1 s → last one dead, ms"


def per_core_dead(workload: str) -> str:
    """Return the sample name of: one job per core cancelled with the default grace, until each is dead."""
    return f"{workload}, grace 5 s, one job per core → dead, ms"


def last_dead(workload: str) -> str:
    """Return the sample name of: 16 jobs cancelled with the default grace, until the last one is dead."""
    return f"16 × {workload}, grace 5 s → last one dead, ms"


async def measure_native(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    async with servers.running_supervisor(servers.pool("jobs", workers=CONCURRENT)) as supervisor:
        await _end_native_jobs(supervisor, watcher, "native_loop", plan, results)


async def measure_many_encodes(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    if tokenizer_jobs.IS_INSTALLED:
        async with servers.running_supervisor(servers.pool("tokenizer_jobs", workers=CONCURRENT)) as supervisor:
            await _end_native_jobs(supervisor, watcher, "encode", plan, results)


async def measure_unresponsive(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    async with servers.running_supervisor(servers.pool("jobs", workers=CONCURRENT)) as supervisor:
        for _ in range(plan.batches):
            results.add(HELPERS_DEAD, *await _end_together(supervisor, watcher, "helper_threads", 1))
            dead_ms = await _end_together(supervisor, watcher, "ignores_sigterm", CONCURRENT, grace_s=1.0)
            results.add(IGNORING_DEAD, max(dead_ms))


async def _end_native_jobs(
    supervisor: Supervisor, watcher: PidfdWatcher, workload: str, plan: Plan, results: Samples
) -> None:
    for _ in range(plan.batches):
        results.add(per_core_dead(workload), *await _end_together(supervisor, watcher, workload, usable_cores()))
        results.add(last_dead(workload), max(await _end_together(supervisor, watcher, workload, CONCURRENT)))


async def _end_together(
    supervisor: Supervisor, watcher: PidfdWatcher, workload: str, number: int, grace_s: float | None = None
) -> list[float]:
    """Start jobs, cancel all of them in one turn of the loop; return the milliseconds until each was dead."""
    records = await asyncio.gather(*(servers.start(supervisor, workload) for _ in range(number)))
    await asyncio.sleep(NATIVE_SETTLE_S)
    watched = [watcher.watch(servers.pid_of(record)) for record in records]
    cancelled_at = time.monotonic()
    ended = await asyncio.gather(*(supervisor.cancel(record.job_id, grace_s=grace_s) for record in records))
    for record in ended:
        if record.state != "cancelled":
            raise RuntimeError(f"not cancelled: {record}")
    dead_ms = [(watcher.died_at(each) - cancelled_at) * 1000 for each in watched]
    await servers.wait_until_warm(supervisor)
    return dead_ms


# ── clean-up ──

QUOTA_PERIOD_US = 100_000
QUOTA_US = 5_000
ORDINARY_GRACE_S = 2.0
ORDINARY_DELAY_S_MAX = 0.010
"""A cancel comes at a random moment of the work, at most this long after the first token."""

QUOTA_JOBS = "16 Python jobs in a 5 % quota: jobs"
QUOTA_CLEANED = "16 Python jobs in a 5 % quota: cleaned up"
BARE_JOBS = "the same with a bare ack_s rule: jobs"
BARE_CLEANED = "the same with a bare ack_s rule: cleaned up"
ORDINARY_JOBS = "cancels of ordinary Python code: jobs"
ORDINARY_CLEANED = "cancels of ordinary Python code: finally ran"


async def measure_quota(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Give 16 computing jobs a twentieth of a processor and cancel them: all have to handle SIGTERM and clean up."""
    try:
        with _cpu_quota() as procs:
            async with servers.running_supervisor(servers.pool("jobs", workers=CONCURRENT)) as supervisor:
                cleaned = await _count_cleaned(supervisor, procs, results)
                results.add(QUOTA_JOBS, CONCURRENT)
                results.add(QUOTA_CLEANED, cleaned)
            bare = servers.running_supervisor(servers.pool("jobs", workers=CONCURRENT), ack_cpu_s=0.0)
            async with bare as supervisor:
                cleaned = await _count_cleaned(supervisor, procs, None)
                results.add(BARE_JOBS, CONCURRENT)
                results.add(BARE_CLEANED, cleaned)
    except OSError as error:
        results.remarks.append(f"the processor quota was not measured: {error}")


async def _count_cleaned(supervisor: Supervisor, procs: Path, results: Samples | None) -> int:
    records = await asyncio.gather(*(servers.start(supervisor, "cleans_up") for _ in range(CONCURRENT)))
    for record in records:
        procs.write_text(str(servers.pid_of(record)))
    await asyncio.sleep(2 * QUOTA_PERIOD_US / 1e6)  # until the quota takes effect
    ended = await asyncio.gather(*(supervisor.cancel(record.job_id, grace_s=5.0) for record in records))
    for record in ended:
        if results is not None and not _has_cleaned(record):
            results.remarks.append(f"no clean-up in the quota: {record.certificate}")
    return sum(map(_has_cleaned, ended))


@contextmanager
def _cpu_quota() -> Iterator[Path]:
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
        filesystem, _, options = rest.split(" ", 2)
        if filesystem == "cgroup" and "cpu" in options.split()[-1].split(","):
            return Path(fields.split()[4])
    raise FileNotFoundError("no cgroup v1 processor controller is mounted")


async def measure_ordinary(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Cancel ordinary code at random moments, on every core, and count how often its `finally` ran."""
    cores = usable_cores()
    trials = iter(range(plan.ordinary_cancels))
    async with servers.running_supervisor(servers.pool("jobs", workers=cores, spares=cores)) as supervisor:

        async def run_trials() -> None:
            for number in trials:
                record = await servers.start(supervisor, jobs.ORDINARY[number % len(jobs.ORDINARY)])
                await asyncio.sleep(random.uniform(0, ORDINARY_DELAY_S_MAX))
                record = await supervisor.cancel(record.job_id, grace_s=ORDINARY_GRACE_S)
                results.add(ORDINARY_JOBS, 1)
                results.add(ORDINARY_CLEANED, _has_cleaned(record))
                if not _has_cleaned(record):
                    results.remarks.append(f"{record.type}: no clean-up: {record.certificate}")

        await asyncio.gather(*(run_trials() for _ in range(cores)))


def _has_cleaned(record: JobRecord) -> bool:
    """Return whether there is a second token, which the job's `finally` emits."""
    return record.state == "cancelled" and record.tokens == 2


# ── beside a flood ──

IDLE_CANCEL = "cancel → certificate, nothing else runs, ms"
FLOODED_CANCEL = "cancel → certificate, another job floods, ms"
FLOODED_DEAD = "cancel → dead, another job floods, ms"

FLOOD_SETTLE_S = 0.02
FLOOD_TOKEN_CHARS = 32
FLOOD_EVENTS_MAX = 2_000_000
"""Then another job floods: the supervisor keeps the events of a job."""
FLOOD_OUTPUT_BYTES = 1 << 30


async def measure_flooded(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Cancel while nothing else runs, then while another job floods a client that does not read."""
    trials = plan.flooded_cancels
    pool = servers.pool("jobs", workers=2)
    supervisor_context = servers.running_supervisor(pool, keep_bytes=64 << 20)
    async with supervisor_context as supervisor, servers.serving_http(supervisor) as port:
        for _ in range(trials):
            certified_ms, _ = await _cancel(supervisor, watcher)
            results.add(IDLE_CANCEL, certified_ms)
        while trials:
            async with _flood(supervisor, port) as flood_id:
                while trials and (await supervisor.get(flood_id)).events < FLOOD_EVENTS_MAX:
                    trials -= 1
                    certified_ms, dead_ms = await _cancel(supervisor, watcher)
                    results.add(FLOODED_CANCEL, certified_ms)
                    results.add(FLOODED_DEAD, dead_ms)


@asynccontextmanager
async def _flood(supervisor: Supervisor, port: int) -> AsyncIterator[str]:
    """Run a job that floods its stream, whose only client requests it and then reads nothing; yield its id."""
    record = await servers.start(
        supervisor, "yield_for_ever", limits={"output_bytes": FLOOD_OUTPUT_BYTES}, chars=FLOOD_TOKEN_CHARS
    )
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    try:
        writer.write(f"GET /v1/jobs/{record.job_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        yield record.job_id
    finally:
        writer.transport.abort()
        await supervisor.cancel(record.job_id, grace_s=0)


async def _cancel(supervisor: Supervisor, watcher: PidfdWatcher) -> tuple[float, float]:
    """Start and cancel a job, grace 0; return the milliseconds to its certificate and to its death."""
    await servers.wait_until_warm(supervisor)
    record = await servers.start(supervisor, "python_loop")
    await asyncio.sleep(FLOOD_SETTLE_S)
    watched = watcher.watch(servers.pid_of(record))
    cancelled_at = time.monotonic()
    await supervisor.cancel(record.job_id, grace_s=0)
    certified_at = time.monotonic()
    return (certified_at - cancelled_at) * 1000, (watcher.died_at(watched) - cancelled_at) * 1000


# ── jobs that are not cancelled: start, stream ──

FRESH = "fresh"
REUSED = "reused"
TOKENS_PER_S = "one job, one emit per token → reader, tokens/s"

PAUSES_S = (0.0, 0.02)
"""Between two jobs: none, and one in which the processors' caches go cold and the cores to sleep."""


def first_line(worker: str, pause_s: float) -> str:
    """Return the sample name of: from the submission to the job's first line, on an idle worker."""
    return f"submit → first line, {worker} worker, after {pause_s * 1000:g} ms without a job, ms"


async def measure_first_lines(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    for worker, jobs_per_worker_max in ((FRESH, 1), (REUSED, 0)):
        pool = servers.pool("jobs", workers=1, jobs_per_worker_max=jobs_per_worker_max)
        async with servers.running_supervisor(pool) as supervisor:
            for pause_s in PAUSES_S:
                for _ in range(plan.first_lines):
                    await servers.wait_until_warm(supervisor, pause_s)
                    submitted_ns = time.monotonic_ns()
                    record = await servers.submit(supervisor, "first_line")
                    record = await supervisor.wait(record.job_id)
                    assert record.result is not None, record
                    results.add(first_line(worker, pause_s), (int(record.result) - submitted_ns) / 1e6)


async def measure_tokens(plan: Plan, results: Samples, watcher: PidfdWatcher) -> None:
    """Read a job's tokens as they come, from its first to its last."""
    async with servers.running_supervisor(servers.pool("jobs", workers=1)) as supervisor:
        for _ in range(plan.streams):
            await servers.wait_until_warm(supervisor)
            record = await servers.submit(supervisor, "emit_tokens", tokens=plan.stream_tokens)
            tokens = 0
            first_at = last_at = 0.0
            async for batch in supervisor.events(record.job_id):
                arrived = sum(event.name == "token" for event in batch)
                if arrived:
                    last_at = time.monotonic()
                    first_at = first_at or last_at
                    tokens += arrived
            if tokens != plan.stream_tokens:
                raise RuntimeError(f"received {tokens} of {plan.stream_tokens} tokens")
            results.add(TOKENS_PER_S, tokens / (last_at - first_at))


PARTS: dict[str, Scenario] = {
    "one job at a time": measure_loops,
    "one real native job at a time": measure_encode,
    "submit to first line": measure_first_lines,
    "tokens": measure_tokens,
    "cancels beside a flood": measure_flooded,
    "native jobs together": measure_native,
    "real native jobs together": measure_many_encodes,
    "unresponsive jobs": measure_unresponsive,
    "jobs in a processor quota": measure_quota,
    "cancels of ordinary code": measure_ordinary,
}
