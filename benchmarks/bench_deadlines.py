"""Measure how late deadlines send SIGTERM, how long a native job takes to die then, and how fast process trees end.

    python benchmarks/bench_deadlines.py [--quick] [--json] [--repeat N] [--patience S]

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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import runner
import servers
import typer
from measurement import Figure, Plan, Samples
from pidfd_watcher import PidfdWatcher
from raw_kill import ForkServer

from killable.supervisor.supervisor import Supervisor

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


PARTS = {
    "deadlines": measure_lateness,
    "bare timers": measure_bare_lateness,
    "long deadlines": measure_long_lateness,
    "native code": measure_native,
    "hostile trees": measure_trees,
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
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the values without a target."""
    named = {
        "a bare timer of a bare event loop → SIGTERM sent, lateness in ms": BARE_SENT,
        **{f"{kind} → SIGTERM sent, lateness in ms": sent_by(kind) for kind in KINDS},
        "deadline → raised in the job, lateness in ms": RAISED,
        "cpu_s → raised in the job, overrun in ms of processor time": CPU_OVER,
    }
    return [f"{what}: {results.spread(name, 1, (50, 99))}" for what, name in named.items() if name in results]


if __name__ == "__main__":
    typer.run(runner.command("bench_deadlines", PARTS, figures, notes))
