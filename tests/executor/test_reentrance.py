"""Finalizers and signal handlers of the program use an Executor where their thread is in the middle of its work."""

from __future__ import annotations

import concurrent.futures
import dis
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import executor_tasks
import pytest
from support.executor_lanes import wait_for_lanes
from support.waiting import until

from killable import Executor, JobCancelled
from killable.supervisor.executor import pending_tasks
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.pools import lane

CALLS = 5
MODULES = (pending_tasks.__name__, lane.__name__)


def tracer_of(
    executor: Executor, step: int, act: Callable[[], None], *, only_after_calls: bool = False
) -> Callable[..., Any]:
    """Return a trace function that acts once, at this instruction, counted from 1, of what its thread runs with the
    lock. `only_after_calls`: those before which the interpreter looks for signals in straight code.
    """
    lock = executor._tasks.lock
    steps = 0
    before: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal steps
        if frame.f_globals.get("__name__") not in MODULES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and only_after_calls:
            last, before[frame] = before.get(frame, ""), dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if last not in ("CALL", "CALL_FUNCTION_EX"):
                return trace
        if event == "opcode" and lock._is_owned():  # type: ignore[attr-defined]
            steps += 1
            if steps == step:
                act()
        return trace

    return trace


@contextmanager
def two_gates(folder: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Two files, each of which stops a call as long as it is locked here."""
    with open(folder / "first", "w") as first, open(folder / "second", "w") as second:
        yield first, second


def wait_for_turn(executor: Executor) -> None:
    """Wait until the supervisor's thread has done what it is about."""
    turned = threading.Event()
    executor._tasks.supervisor_thread.call(turned.set)
    assert turned.wait(20)


@contextmanager
def acting_here(
    executor: Executor, step: int, act: Callable[[], None], *, only_after_calls: bool = False
) -> Iterator[None]:
    """Act in this thread."""
    before = sys.gettrace()
    sys.settrace(tracer_of(executor, step, act, only_after_calls=only_after_calls))
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def acting_in_supervisors_thread(executor: Executor, step: int, act: Callable[[], None]) -> Iterator[None]:
    """Act in the supervisor's thread."""
    call = executor._tasks.supervisor_thread.call
    call(lambda: sys.settrace(tracer_of(executor, step, act)))
    try:
        yield
    finally:
        call(lambda: sys.settrace(None))


@pytest.mark.parametrize(
    ("acting", "steps"), [(acting_here, range(1, 120, 2)), (acting_in_supervisors_thread, range(1, 800, 17))]
)
def test_what_is_asked_for_in_the_middle_of_a_step_is_done_and_costs_no_other_call(
    acting: Callable[[Executor, int, Callable[[], None]], Any], steps: range, tmp_path: Path
) -> None:
    """The first call ends where the act is waited for, and the next one holds the worker until it had its time."""
    unwanted: list[JobFuture[int]] = []
    more: list[JobFuture[int]] = []

    def act() -> None:
        for future in unwanted:
            future.running()
            future.cancel(grace_s=0)
        more.extend(executor.submit(executor_tasks.square, number) for number in range(3))
        more[1].cancel()

    acted = acted_in_time = 0
    with Executor(max_workers=1, spares=2) as executor, two_gates(tmp_path) as gates:
        wait_for_lanes(executor, 1)
        for step in steps:
            more.clear()
            for gate in gates:
                fcntl.flock(gate, fcntl.LOCK_EX)
            first, held = [executor.submit(executor_tasks.pass_through, gate.name) for gate in gates]
            unwanted = [executor.submit(executor_tasks.square, 5) for _ in range(3)]
            with acting(executor, step, act):
                wanted = [executor.submit(executor_tasks.square, number) for number in range(CALLS)]
                fcntl.flock(gates[0], fcntl.LOCK_UN)
                first.result(20)
                wait_for_turn(executor)
                in_time = bool(more)
                fcntl.flock(gates[1], fcntl.LOCK_UN)
                assert [future.result(20) for future in wanted] == [number**2 for number in range(CALLS)]
                held.result(20)
            _, late = concurrent.futures.wait([*unwanted, *more], timeout=20)
            assert not late
            if more:
                assert (more[0].result(), more[2].result()) == (0, 4)
                acted += 1
            if in_time:
                assert all(future.cancelled() for future in unwanted), step
                acted_in_time += 1
    assert acted > 20 and acted_in_time > 5, (acted, acted_in_time)


@pytest.mark.parametrize("grace_s", [0, None])
def test_an_interrupted_cancel_costs_no_other_call(grace_s: float | None, tmp_path: Path) -> None:
    """A Ctrl-C anywhere in what it does with the lock: the others stand behind a call that runs."""
    unwanted, interrupts = 2, 0

    def act() -> None:
        raise KeyboardInterrupt

    with Executor(max_workers=1, spares=2) as executor, two_gates(tmp_path) as (gate, _):
        wait_for_lanes(executor, 1)
        while True:
            assert list(executor.map(executor_tasks.square, range(3))) == [0, 1, 4]
            fcntl.flock(gate, fcntl.LOCK_EX)
            first = executor.submit(executor_tasks.pass_through, gate.name)
            calls = [executor.submit(executor_tasks.square, number) for number in range(CALLS)]
            try:
                with acting_here(executor, interrupts + 1, act, only_after_calls=True):
                    calls[unwanted].cancel(grace_s=grace_s)
            except KeyboardInterrupt:
                interrupts += 1
            else:
                break
            finally:
                fcntl.flock(gate, fcntl.LOCK_UN)
            first.result(20)
            others = [number for number in range(CALLS) if number != unwanted]
            assert [calls[number].result(20) for number in others] == [number**2 for number in others]
            concurrent.futures.wait(calls, timeout=20)
            assert calls[unwanted].done()
        first.result(20)
    assert interrupts > 10, interrupts


def test_a_shutdown_in_the_middle_of_a_step_cancels_what_waits_and_waits_for_nothing() -> None:
    with Executor(max_workers=1) as executor:
        wait_for_lanes(executor, 1)
        first = executor.submit(time.sleep, 0.1)
        until(first.running, "it runs")
        waiting = [executor.submit(executor_tasks.square, 5) for _ in range(9)]
        with executor._tasks.lock:  # as in a finalizer that runs where it is held
            executor.shutdown(cancel_futures=True)
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(executor_tasks.square, 5)
            assert not first.done()
        assert first.result(20) is None
        _, late = concurrent.futures.wait(waiting, timeout=20)
        assert not late and all(future.cancelled() for future in waiting)


def test_a_stream_that_is_closed_in_the_middle_of_a_step_is_stopped() -> None:
    with Executor(max_workers=1, grace_s=0) as executor:
        stream = executor.stream(executor_tasks.count, 10**9)
        assert next(stream) == 0
        with executor._tasks.lock:
            stream.close()
        with pytest.raises(JobCancelled):
            stream.future.result(20)


@contextmanager
def held_by_another_thread(lock: threading.RLock) -> Iterator[None]:
    taken, go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        go.set()
        thread.join()


def test_what_is_dropped_waits_for_no_lock() -> None:
    """A collection runs anywhere, also where its thread has a lock for which the holder of this one waits."""
    executor = Executor(max_workers=1, grace_s=0)
    tasks = executor._tasks
    results = executor.map(executor_tasks.square, range(3), buffersize=2)
    assert next(results) == 0
    stream = executor.stream(executor_tasks.count, 10**9)
    assert next(stream) == 0
    future = stream.future
    with held_by_another_thread(tasks.lock):
        del stream, results
        assert not future.done()
        del executor
        assert not tasks.supervisor_thread.join(0.01)
    with pytest.raises(JobCancelled) as caught:
        future.result(20)
    assert caught.value.facts["reason"] == "the stream was dropped"
    assert tasks.supervisor_thread.join(20)


def test_a_descriptor_is_closed_with_no_lock_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`cancel(grace_s=0)` holds the lock of the lanes and waits for the one of the process that it kills."""
    owned: list[bool] = []
    close = os.close

    def noting(descriptor: int) -> None:
        caller = sys._getframe(1)
        if caller.f_code is WorkerProcess._close.__code__:
            owned.append(caller.f_locals["self"]._lock._is_owned())
        close(descriptor)

    with Executor(max_workers=1) as executor:
        future = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
        until((tmp_path / "in").exists, "it runs")
        monkeypatch.setattr(os, "close", noting)
        future.cancel(grace_s=0)
        concurrent.futures.wait([future], timeout=20)
    assert owned and not any(owned)
