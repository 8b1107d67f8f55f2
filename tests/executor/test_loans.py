"""Idle workers that a caller's thread gives its call itself: at once, never two, never more than there are slots."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import work
from support import processes
from support.waiting import Pending, until

from killable import Executor, JobCancelled, WorkerCrashed


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(max_workers=2, spares=2, grace_s=10) as made:
        yield made


@contextmanager
def standing_still(executor: Executor) -> Iterator[None]:
    """Let the supervisor's thread do nothing."""
    reached, go = threading.Event(), threading.Event()

    def stand(_: object) -> None:
        reached.set()
        go.wait()

    executor._calls.hosting.call(stand)
    reached.wait()
    try:
        yield
    finally:
        go.set()


def lent(executor: Executor, count: int) -> list[int]:
    """Wait until so many workers are lent; return their pids."""

    def found() -> list[int] | Pending:
        loans = [loan for loan in executor._calls._loans if loan.worker.loan is loan]
        return [loan.worker.process.pid or 0 for loan in loans] if len(loans) == count else Pending(loans)

    return until(found, f"{count} workers are lent")


def test_a_call_begins_while_the_supervisors_thread_does_nothing(executor: Executor, tmp_path: Path) -> None:
    lent(executor, 2)
    with standing_still(executor):
        future = executor.submit(work.clean_up, str(tmp_path / "in"), str(tmp_path / "cleaned"))
        until((tmp_path / "in").exists, "it runs")
        assert future.running()
        future.cancel()
    with pytest.raises(JobCancelled):
        future.result()
    assert (tmp_path / "cleaned").exists()


def test_no_more_calls_run_than_there_are_workers(executor: Executor, tmp_path: Path) -> None:
    lent(executor, 2)
    gates = [str(tmp_path / f"gate {number}") for number in range(4)]
    with standing_still(executor):
        futures = [executor.submit(work.wait_for, gate) for gate in gates]
        assert [future.running() for future in futures] == [True, True, False, False]
    for gate, future in zip(gates, futures, strict=True):
        work.say(gate)
        assert future.result() == str(os.getpid())
    lent(executor, 2)


def test_a_lent_worker_that_dies_takes_one_call_at_most(executor: Executor, tmp_path: Path) -> None:
    pids = lent(executor, 2)
    with standing_still(executor):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all((seen := processes.look(pid)) is None or seen.state == "Z" for pid in pids), "they are dead")
        futures = [executor.submit(work.square, number) for number in range(4)]
    for future in futures[:2]:
        with pytest.raises(WorkerCrashed):
            future.result()
    assert [future.result() for future in futures[2:]] == [4, 9]
    assert executor.submit(work.square, 5).result() == 25


def test_an_executor_that_is_left_at_once(tmp_path: Path) -> None:
    with Executor(max_workers=2, spares=2) as executor:
        lent(executor, 2)
    with Executor(max_workers=2, spares=2) as executor:
        lent(executor, 2)
        future = executor.submit(work.square, 3)
    assert future.result(timeout=0) == 9


def test_many_threads_cancel_crash_and_compute_beside_each_other(tmp_path: Path) -> None:
    """Each call ends once, as it should; and there are never more at once than workers."""
    slots = [tmp_path / f"slot {number}" for number in range(3)]
    for slot in slots:
        slot.touch()
    seed = random.randrange(1 << 30)

    def ask(executor: Executor, thread: int) -> list[str]:
        chance = random.Random(seed + thread)
        wrong = []
        for number in range(60):
            kind = chance.choice(["compute", "compute", "compute", "cancel", "crash"])
            argument = thread * 1000 + number
            if kind == "crash":
                future = executor.submit(work.end_badly, "exit 3")
                ended = type(future.exception()).__name__
                expected = {"WorkerExited"}
            else:
                future = executor.submit(work.alone_in, [str(slot) for slot in slots], argument)
                if kind == "cancel":
                    future.cancel(grace_s=0)
                concurrent.futures.wait([future])
                ended = "JobCancelled" if future.cancelled() else repr(future.result())
                expected = {repr(argument), "JobCancelled"} if kind == "cancel" else {repr(argument)}
            if ended not in expected:
                wrong.append(f"{kind} {argument}: {ended}")
        return wrong

    with Executor(max_workers=3) as executor, concurrent.futures.ThreadPoolExecutor(6) as threads:
        wrong = [each for found in threads.map(lambda thread: ask(executor, thread), range(6)) for each in found]
    assert wrong == [], seed
