"""How late each kind of deadline strikes with eight jobs at once, beside bare timers; native code; hostile trees.

Runs in: the benchmark.
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
from contextlib import closing, contextmanager
from typing import Any

import testbed
from deathwatch import DeathWatch
from figure import Figure, spread
from plan import Plan
from raw import RawForker
from samples import Samples

from killable.supervisor.supervisor import Supervisor

AT_ONCE = 8
DUE_S = 0.2
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "run_s": ("run", {}, {"run_s": DUE_S}),
    "first_token_s": ("run", {}, {"first_token_s": DUE_S}),
    "idle_s": ("idle", {}, {"idle_s": DUE_S}),
    "operation_s": ("operation", {}, {"operation_s": {"wait": DUE_S}}),
    "operation_s, raised": ("operation", {"raises": True}, {"operation_s": {"wait": DUE_S}}),
    "start_s": ("starts", {"slowly": {}}, {"start_s": DUE_S}),
    "total_s": ("run", {}, {"total_s": DUE_S}),
    "cpu_s": ("burn", {}, {"cpu_s": DUE_S}),
}
LONG_DUE_S = 10.0
UNWATCHED = {"memory_bytes": None, "processes_max": None}
"""Else their job is looked at 40 times a second, and the loop waits for nothing long."""
STATE = {"cpu_s": "failed"}
"""A limit, no deadline."""
SENT = "deadline → SIGTERM sent, late by, ms"
BARE_SENT = "a bare timer of the loop → SIGTERM sent, late by, ms"
LONG_SENT = "a deadline of 10 s → SIGTERM sent, late by, ms"
LONG_WAIT = "epoll_wait(2) of 10 s, late by, ms"
OVER = "cpu_s → told, over by, ms of processor time"
HEARD = "deadline → raised in the job, late by, ms"
NATIVE_RUN_S, ACK_S = 0.5, 0.5
NATIVE = "run_s 0.5 in native code → dead, ms"
TREES, GRACE_S = 32, 1.0
TREE = "32 hostile trees → the last one empty, over the grace, ms"


class Sent(logging.Handler):
    """Stamps the line that says that SIGTERM is out: it is written right behind the signal."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "term_sent":
            self.at[record.__dict__["job_id"]] = time.monotonic()


@contextmanager
def _noting_signals() -> Iterator[Sent]:
    sent, log = Sent(), logging.getLogger("killable.jobs")
    log.addHandler(sent)
    log.setLevel(logging.INFO)
    try:
        yield sent
    finally:
        log.removeHandler(sent)


async def measure_lateness(plan: Plan, results: Samples) -> None:
    pool = testbed.pool("punctual", workers=AT_ONCE, spares=AT_ONCE)
    with _noting_signals() as sent:
        async with testbed.supervising(pool) as supervisor:
            for _ in range(plan.kills):
                for name, (type, input, limits) in KINDS.items():
                    await testbed.warm(supervisor)
                    jobs = [await testbed.submit(supervisor, type, limits=limits, **input) for _ in range(AT_ONCE)]
                    for job in jobs:
                        await _note(supervisor, job.job_id, name, sent, results)


async def measure_long_lateness(plan: Plan, results: Samples) -> None:
    """A deadline that is far away, of jobs which leave the loop alone until then; and a bare wait as long, beside."""
    with _noting_signals() as sent:
        async with testbed.supervising(testbed.pool("punctual", workers=AT_ONCE)) as supervisor:
            bare = asyncio.create_task(asyncio.to_thread(_wait_bare))
            limits = {"run_s": LONG_DUE_S, **UNWATCHED}
            jobs = [await testbed.submit(supervisor, "run", limits=limits) for _ in range(AT_ONCE)]
            for job in jobs:
                record = await _ended(supervisor, job.job_id)
                if record.state != "timed_out" or record.partial is None:
                    raise RuntimeError(f"not ended by run_s: {record}")
                began, _ = json.loads(record.partial)
                results.add(LONG_SENT, (sent.at[job.job_id] - began - LONG_DUE_S) * 1000)
            results.add(LONG_WAIT, await bare)


def _wait_bare() -> float:
    """Return by how many milliseconds epoll_wait(2) was late."""
    due = time.monotonic() + LONG_DUE_S
    with select.epoll() as epoll:
        epoll.poll(LONG_DUE_S)
    return (time.monotonic() - due) * 1000


async def _note(supervisor: Supervisor, job_id: str, name: str, sent: Sent, results: Samples) -> None:
    record = await _ended(supervisor, job_id)
    if record.state != STATE.get(name, "timed_out") or (record.partial is None and name != "start_s"):
        raise RuntimeError(f"not ended by {name}: {record}")
    began, told = json.loads(record.partial) if record.partial else (0.0, None)
    entry = supervisor._registry.get(job_id)  # no record has monotonic times
    if name == "cpu_s":  # its time is the job's own, and looked at: when it was over nobody can say
        results.add(OVER, (told - began - DUE_S) * 1000)
        return
    began = {"start_s": entry.assigned, "total_s": entry.created}.get(name, began)
    if told is not None:
        results.add(HEARD, (told - began - DUE_S) * 1000)
    if job_id in sent.at:  # an end that is raised in the job is no stop, and has no such line
        late_ms = (sent.at[job_id] - began - DUE_S) * 1000
        results.add(SENT, late_ms)
        results.add(f"{name} late by, ms", late_ms)


async def _ended(supervisor: Supervisor, job_id: str) -> Any:
    async with asyncio.timeout(LONG_DUE_S + testbed.WAIT_S):
        async for _ in supervisor.events(job_id):
            pass
    return await supervisor.get(job_id)


async def measure_bare_lateness(plan: Plan, results: Samples) -> None:
    """The limit: processes like workers, of which each is sent SIGTERM by a timer, raises, and ends; nothing else."""
    with RawForker("punctual") as forker:
        for _ in range(plan.kills * len(KINDS)):
            pids = [forker.fork("alone").pid for _ in range(AT_ONCE)]
            due = time.monotonic() + DUE_S
            async with asyncio.timeout(testbed.WAIT_S):
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
    with closing(DeathWatch()) as watch:
        async with testbed.supervising(testbed.pool("punctual", workers=1)) as supervisor:
            for _ in range(plan.graces * 3):
                await testbed.warm(supervisor)
                limits = {"run_s": NATIVE_RUN_S, "ack_s": ACK_S}
                record = await testbed.start(supervisor, "native", limits=limits)
                watched = watch.watch(testbed.pid_of(record))
                entered = await _first_value(supervisor, record.job_id)
                await _ended(supervisor, record.job_id)
                results.add(NATIVE, (watch.died_at(watched) - entered) * 1000)


async def _first_value(supervisor: Supervisor, job_id: str) -> Any:
    async for batch in supervisor.events(job_id):
        for event in batch:
            if event.name == "token":
                return json.loads(event.data)["value"]
    raise RuntimeError(f"no token of {job_id}")


async def measure_trees(plan: Plan, results: Samples) -> None:
    pool = testbed.pool("punctual", workers=TREES, spares=TREES)
    async with testbed.supervising(pool, queue_jobs_max=100) as supervisor:
        for _ in range(plan.crowds):
            jobs = [await testbed.submit(supervisor, "family") for _ in range(TREES)]
            families = [pid for job in jobs for pid in await _first_value(supervisor, job.job_id)]
            alive = sum(os.path.exists(f"/proc/{pid}") for pid in families)
            ended = await asyncio.gather(*(supervisor.cancel(job.job_id, grace_s=GRACE_S, wait_s=30) for job in jobs))
            left = sum(os.path.exists(f"/proc/{pid}") for pid in families)
            if (alive, left) != (2 * TREES, 0):
                raise RuntimeError(f"of {len(families)} processes {alive} were there before and {left} after")
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
    kinds = [name for name in KINDS if f"{name} late by, ms" in results]
    each = ", ".join(f"{name} {results.percentile(f'{name} late by, ms', 99) or 0:.1f}" for name in kinds)
    return [
        Figure(
            "deadline → SIGTERM sent, late by, p99 over all kinds, 8 jobs at once", 10,
            results.percentile(SENT, 99), "ms", note=f"p50 {results.median(SENT) or 0:.1f}; bare timers: "
            f"p50 {results.median(BARE_SENT) or 0:.1f}, p99 {results.percentile(BARE_SENT, 99) or 0:.1f}; p99: {each}; "
            f"raised in the job p50 {results.median(HEARD) or 0:.1f}, p99 {results.percentile(HEARD, 99) or 0:.1f}; "
            f"cpu_s: over by p50 {results.median(OVER) or 0:.1f}, p99 {results.percentile(OVER, 99) or 0:.1f} ms of "
            "processor time when told",
        ),
        Figure(
            f"the same with a deadline of {LONG_DUE_S:g} s, p99", 10, results.percentile(LONG_SENT, 99), "ms",
            note=f"{spread(results, LONG_SENT)}; epoll_wait(2) of {LONG_DUE_S:g} s: {spread(results, LONG_WAIT)}",
        ),
        Figure(
            "run_s 0.5 on a native call that holds the GIL → dead", (NATIVE_RUN_S + ACK_S) * 1000 + 20,
            results.median(NATIVE), "ms", note=spread(results, NATIVE),
        ),
        Figure(
            "32 hostile trees (setsid + double fork) cancelled together → the last one empty, over grace_s", 300,
            results.median(TREE), "ms", note=spread(results, TREE),
        ),
    ]  # fmt: skip


def remarks(results: Samples) -> list[str]:
    return []
