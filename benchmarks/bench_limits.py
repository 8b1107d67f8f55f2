"""Measure limits: how late deadlines are, how fast trees end, how far memory goes over its limit, what polling costs.

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import runner
import servers
from measurement import Figure, Samples
from raw_kill import ForkServer
from trial_plan import Plan

from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.supervisor.clock import process_cpu_s
from killable.supervisor.supervisor import Supervisor

# ── deadlines ──

CONCURRENT = 8
DUE_S = 0.2
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "run_s": ("sleep", {}, {"run_s": DUE_S}),
    "first_token_s": ("sleep", {}, {"first_token_s": DUE_S}),
    "idle_s": ("sleep_after_token", {}, {"idle_s": DUE_S}),
    "operation_s": ("sleep_in_operation", {}, {"operation_s": {"wait": DUE_S}}),
    "operation_s, raised": ("sleep_in_operation", {"raises": True}, {"operation_s": {"wait": DUE_S}}),
    "start_s": ("take_slow_input", {"slow": {}}, {"start_s": DUE_S}),
    "total_s": ("sleep", {}, {"total_s": DUE_S}),
    "cpu_s": ("use_processor", {}, {"cpu_s": DUE_S}),
}
"""Job type, its input and its limits, by the deadline that ends it."""
LONG_DUE_S = 10.0
NO_POLLING = {"memory_bytes": None, "processes_max": None}
"""With these limits a job is polled 40 times a second, and the event loop never waits for long."""
END_STATE = {"cpu_s": "failed"}
"""Where it is not `timed_out`: cpu_s is a limit and no deadline."""
NATIVE_RUN_S, ACK_S = 0.5, 0.5
TREES, GRACE_S = 32, 1.0

SENT = "deadline → SIGTERM sent, lateness, ms"
BARE_SENT = "a bare timer of the event loop → SIGTERM sent, lateness, ms"
LONG_SENT = "a deadline of 10 s → SIGTERM sent, lateness, ms"
LONG_WAIT = "epoll_wait(2) of 10 s, lateness, ms"
CPU_OVER = "cpu_s → raised in the job, overrun, ms of processor time"
RAISED = "deadline → raised in the job, lateness, ms"
NATIVE = "run_s 0.5 in native code → dead, ms"
TREE = "32 hostile trees → the last one empty, over the grace, ms"


def sent_by(kind: str) -> str:
    """Return the sample name of: lateness of SIGTERM for one kind of deadline."""
    return f"{kind}: SIGTERM sent, lateness, ms"


class SignalTimes(logging.Handler):
    """Records when SIGTERM was sent, by job id: the log record `term_sent` is written right after the signal."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "term_sent":
            self.at[record.__dict__["job_id"]] = time.monotonic()


@contextmanager
def _recording_signals() -> Iterator[SignalTimes]:
    sent, log = SignalTimes(), logging.getLogger("killable.jobs")
    log.addHandler(sent)
    log.setLevel(logging.INFO)
    try:
        yield sent
    finally:
        log.removeHandler(sent)


async def measure_lateness(plan: Plan, results: Samples) -> None:
    pool = servers.pool("jobs", workers=CONCURRENT, spares=CONCURRENT)
    with _recording_signals() as sent:
        async with servers.running_supervisor(pool) as supervisor:
            for _ in range(plan.kills):
                for kind, (type, input, limits) in KINDS.items():
                    await servers.wait_until_warm(supervisor)
                    jobs = [await servers.submit(supervisor, type, limits=limits, **input) for _ in range(CONCURRENT)]
                    for job in jobs:
                        await _add_lateness(supervisor, job.job_id, kind, sent, results)


async def _add_lateness(supervisor: Supervisor, job_id: str, kind: str, sent: SignalTimes, results: Samples) -> None:
    record = await _ended(supervisor, job_id)
    if record.state != END_STATE.get(kind, "timed_out") or (record.partial is None and kind != "start_s"):
        raise RuntimeError(f"not ended by {kind}: {record}")
    began, raised = json.loads(record.partial or "[0.0, null]")
    if kind == "cpu_s":  # processor time, which the supervisor polls: no monotonic time at which it was used up
        results.add(CPU_OVER, (raised - began - DUE_S) * 1000)
        return
    job = supervisor._registry.get(job_id)  # the public record has no monotonic times
    began = {"start_s": job.assigned, "total_s": job.created}.get(kind) or began
    if raised is not None:
        results.add(RAISED, (raised - began - DUE_S) * 1000)
    if job_id in sent.at:  # an operation that ends with an exception in the job is not stopped by SIGTERM
        late_ms = (sent.at[job_id] - began - DUE_S) * 1000
        results.add(SENT, late_ms)
        results.add(sent_by(kind), late_ms)


async def _ended(supervisor: Supervisor, job_id: str) -> Any:
    async with asyncio.timeout(LONG_DUE_S + servers.WAIT_S):
        async for _ in supervisor.events(job_id):
            pass
    return await supervisor.get(job_id)


async def measure_long_lateness(plan: Plan, results: Samples) -> None:
    """Measure a distant deadline of jobs that let the loop wait, beside an epoll_wait(2) of the same length."""
    with _recording_signals() as sent:
        async with servers.running_supervisor(servers.pool("jobs", workers=CONCURRENT)) as supervisor:
            bare = asyncio.create_task(asyncio.to_thread(_epoll_lateness_ms))
            limits = {"run_s": LONG_DUE_S, **NO_POLLING}
            jobs = [await servers.submit(supervisor, "sleep", limits=limits) for _ in range(CONCURRENT)]
            for job in jobs:
                record = await _ended(supervisor, job.job_id)
                if record.state != "timed_out" or record.partial is None:
                    raise RuntimeError(f"not ended by run_s: {record}")
                began, _ = json.loads(record.partial)
                results.add(LONG_SENT, (sent.at[job.job_id] - began - LONG_DUE_S) * 1000)
            results.add(LONG_WAIT, await bare)


def _epoll_lateness_ms() -> float:
    due = time.monotonic() + LONG_DUE_S
    with select.epoll() as epoll:
        epoll.poll(LONG_DUE_S)
    return (time.monotonic() - due) * 1000


async def measure_bare_lateness(plan: Plan, results: Samples) -> None:
    """Measure the limit: a timer of the loop sends SIGTERM to a process like a worker, which raises and ends."""
    with ForkServer("jobs") as fork_server:
        for _ in range(plan.kills * len(KINDS)):
            pids = [fork_server.fork("sleep_until_sigterm") for _ in range(CONCURRENT)]
            due = time.monotonic() + DUE_S
            async with asyncio.timeout(servers.WAIT_S):
                await asyncio.gather(*(_terminate_at(due, pid, results) for pid in pids))


async def _terminate_at(due: float, pid: int, results: Samples) -> None:
    def terminate() -> None:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        results.add(BARE_SENT, (time.monotonic() - due) * 1000)

    loop, ended, pidfd = asyncio.get_running_loop(), asyncio.Event(), os.pidfd_open(pid)
    loop.add_reader(pidfd, ended.set)
    try:
        loop.call_at(due, terminate)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def measure_native(plan: Plan, results: Samples) -> None:
    with PidfdWatcher() as watcher:
        async with servers.running_supervisor(servers.pool("jobs", workers=1)) as supervisor:
            for _ in range(plan.grace_cancels * 3):
                await servers.wait_until_warm(supervisor)
                limits = {"run_s": NATIVE_RUN_S, "ack_s": ACK_S}
                record = await servers.start(supervisor, "native_loop", limits=limits)
                watched = watcher.watch(servers.pid_of(record))
                started_at = await servers.first_token(supervisor, record.job_id)
                await _ended(supervisor, record.job_id)
                results.add(NATIVE, (watcher.died_at(watched) - started_at) * 1000)


async def measure_trees(plan: Plan, results: Samples) -> None:
    pool = servers.pool("jobs", workers=TREES, spares=TREES)
    async with servers.running_supervisor(pool, queue_jobs_max=100) as supervisor:
        for _ in range(plan.batches):
            jobs = [await servers.submit(supervisor, "hostile_tree") for _ in range(TREES)]
            pids = [pid for job in jobs for pid in await servers.first_token(supervisor, job.job_id)]
            before = sum(os.path.exists(f"/proc/{pid}") for pid in pids)
            ended = await asyncio.gather(*(supervisor.cancel(job.job_id, grace_s=GRACE_S, wait_s=30) for job in jobs))
            after = sum(os.path.exists(f"/proc/{pid}") for pid in pids)
            if (before, after) != (2 * TREES, 0):
                raise RuntimeError(f"of {len(pids)} processes {before} were alive before the cancel and {after} after")
            certificates = [record.certificate or {} for record in ended]
            results.add(TREE, max(each["tree_empty"] for each in certificates) - GRACE_S * 1000)


# ── memory, and the cost of polling ──

LIMIT_BYTES = 200_000_000
PEAK_MB_MAX = 300.0
"""Target for a job that allocates 50 MB every 10 ms."""
IDLE_WORKERS = 8
IDLE_PERCENT_MAX = 1.0
SPAN_S = 10.0
DEATHS = 5
"""Per pass."""

PEAK, OVER = "peak memory at death, MB", "peak memory over the limit, MB"
IDLE = "8 idle workers, percent of a core"
BUSY = "percent of a core with 2 busy workers"
LIMITS: dict[str, dict[str, Any]] = {
    "no limit": {"memory_bytes": None, "processes_max": None},
    "the default limits": {},
    "a limit of 200 MB, 8 processes, 1000 s": {"memory_bytes": LIMIT_BYTES, "processes_max": 8, "cpu_s": 1000},
}


def busy_name(limits: str) -> str:
    """Return the sample name of: processor time of the supervisor while two jobs with these limits compute."""
    return f"{BUSY}: {limits}"


async def measure_deaths(_plan: Plan, results: Samples) -> None:
    """End a job that allocates 50 MB every 10 ms at 200 MB. The peak is the kernel's value (getrusage(2))."""
    async with servers.running_supervisor(servers.pool("jobs", 1)) as supervisor:
        for _ in range(DEATHS):
            limits = {"memory_bytes": LIMIT_BYTES}
            record = await servers.start(supervisor, "allocate", limits=limits, mb=50, every_s=0.01)
            ended = await supervisor.wait(record.job_id, servers.WAIT_S)
            code, certificate = (ended.error or {}).get("code"), ended.certificate or {}
            if code != "limit.memory":
                raise RuntimeError(f"not ended by its memory limit: {ended}")
            results.add(PEAK, certificate["max_rss_bytes"] / 1e6)
            results.add(OVER, (certificate["max_rss_bytes"] - LIMIT_BYTES) / 1e6)
            await servers.wait_until_warm(supervisor)


async def measure_idle(_plan: Plan, results: Samples) -> None:
    """Measure everything that runs without a job: supervisor (in this process), guard, zygote, workers."""
    pool = servers.pool("jobs", IDLE_WORKERS, spares=IDLE_WORKERS)
    async with servers.running_supervisor(pool) as supervisor:
        async with asyncio.timeout(servers.WAIT_S):
            while (await supervisor.pools())[0].idle < IDLE_WORKERS:
                await asyncio.sleep(0.01)
        pids = [process.pid for process in psutil.Process().children(recursive=True)]
        results.add(IDLE, await _percent(lambda: time.process_time() + sum(process_cpu_s(pid) or 0.0 for pid in pids)))


async def measure_busy(_plan: Plan, results: Samples) -> None:
    """Measure the supervisor alone while two jobs compute without output, for several sets of limits."""
    for what, limits in LIMITS.items():
        async with servers.running_supervisor(servers.pool("jobs", 2, spares=0)) as supervisor:
            jobs = [await servers.start(supervisor, "python_loop", limits=limits) for _ in range(2)]
            results.add(busy_name(what), await _percent(time.process_time))
            for job in jobs:
                await supervisor.cancel(job.job_id, grace_s=0, wait_s=servers.WAIT_S)


async def _percent(used_s: Callable[[], float]) -> float:
    """Return the processor time used in the next SPAN_S, in percent of a core."""
    began, before = time.monotonic(), used_s()
    await asyncio.sleep(SPAN_S)
    return 100 * (used_s() - before) / (time.monotonic() - began)


# ── the command ──

PARTS: dict[str, runner.Part] = {
    "deadlines": measure_lateness,
    "bare timers": measure_bare_lateness,
    "long deadlines": measure_long_lateness,
    "native code": measure_native,
    "hostile trees": measure_trees,
    "memory limit": measure_deaths,
    "idle workers": measure_idle,
    "busy workers": measure_busy,
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value; medians unless stated otherwise."""
    bare = results.percentile(BARE_SENT, 99)
    return [
        Figure(
            "deadline → SIGTERM sent, lateness, p99 over all kinds, 8 jobs at once", 10,
            results.percentile(SENT, 99), "ms",
            note=results.spread(SENT, 1, (50,)) + ("" if bare is None else f"; bare timers p99 {bare:.1f}"),
        ),
        Figure(
            f"the same with a deadline of {LONG_DUE_S:g} s, p99", 10, results.percentile(LONG_SENT, 99), "ms",
            note=f"{results.spread(LONG_SENT)}; epoll_wait(2) of {LONG_DUE_S:g} s: {results.spread(LONG_WAIT)}",
        ),
        Figure(
            "run_s 0.5 on a native call that holds the GIL → dead", (NATIVE_RUN_S + ACK_S) * 1000 + 20,
            results.median(NATIVE), "ms", note=results.spread(NATIVE),
        ),
        Figure(
            "32 hostile trees (setsid + double fork) cancelled together → the last one empty, over grace_s", 300,
            results.median(TREE), "ms", note=results.spread(TREE),
        ),
        Figure(
            "50 MB every 10 ms, limit 200 MB: greatest peak at death, the worker's own memory included",
            PEAK_MB_MAX, results.percentile(PEAK, 100), "MB", note=results.spread(PEAK),
        ),
        Figure(
            f"supervisor, guard, zygote and {IDLE_WORKERS} idle workers",
            IDLE_PERCENT_MAX, results.median(IDLE), "% of a core", digits=2, note=results.spread(IDLE, 2),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the values without a target."""
    named = {
        "a bare timer of a bare event loop → SIGTERM sent, lateness in ms": BARE_SENT,
        **{f"{kind} → SIGTERM sent, lateness in ms": sent_by(kind) for kind in KINDS},
        "deadline → raised in the job, lateness in ms": RAISED,
        "cpu_s → raised in the job, overrun in ms of processor time": CPU_OVER,
    }
    found = [f"{what}: {results.spread(name, 1, (50, 99))}" for what, name in named.items() if name in results]
    for what in LIMITS:
        percent = results.median(busy_name(what))
        if percent is not None:
            found.append(f"supervisor with 2 busy workers, {what}: {percent:.2f} % of a core")
    return found


if __name__ == "__main__":
    runner.run(
        runner.command("bench_limits", PARTS, figures, notes), __doc__, examples=["--only deadlines --only memory"]
    )
