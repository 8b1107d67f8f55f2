"""What must not hang or go wrong: readers of a stream that never began, callbacks that raise, a preload without end, a
supervisor's thread that is lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.executor_lanes import stalled_supervisor_thread, wait_for_lanes
from support.waiting import until

from killable import Executor, JobCancelled, WorkerCrashed
from killable.supervisor.executor.pending_tasks import PendingTasks
from killable.supervisor.pools.fleet import Fleet
from killable.supervisor.pools.lane import Lane, LaneCall
from killable.supervisor.pools.pool import Pool
from killable.supervisor.supervisor import Supervisor


def in_thread(act: Any) -> concurrent.futures.Future[Any]:
    """Do something in a thread of its own."""
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(act())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


@contextmanager
def busy(tmp_path: Path) -> Iterator[Executor]:
    """An executor whose only worker has a call that does not end by itself."""
    with Executor(max_workers=1, grace_s=0) as executor:
        running = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
        until((tmp_path / "in").exists, "it runs")
        yield executor
        running.cancel()


def test_the_reader_of_a_stream_that_waits_hears_of_its_end(tmp_path: Path) -> None:
    with busy(tmp_path) as executor:
        stream = executor.stream(executor_tasks.count, 3)
        reading = in_thread(lambda: next(stream))
        until(lambda: bool(stream.future._waiting._waiters), "it is read")  # type: ignore[attr-defined]
        assert stream.future.cancel()
        with pytest.raises(JobCancelled):
            reading.result(60)


def test_the_reader_of_a_stream_that_cannot_start_hears_why() -> None:
    with Executor(max_workers=1, preload=["no_such_module"]) as executor:
        reading = in_thread(lambda: next(executor.stream(executor_tasks.count, 3)))
        with pytest.raises(WorkerCrashed, match="no_such_module"):
            reading.result(30)


class Odd(BaseException):
    """No Exception: as a test's failure or a cancelled task."""


def raise_odd(_: object) -> None:
    raise Odd


def test_whatever_a_callback_raises_the_executor_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Of a call that runs through, one that fails, one that is a job, and one that never begins."""
    told: list[str] = []
    with Executor(max_workers=1) as executor:
        calls = [
            executor.submit(executor_tasks.square, 2),
            executor.submit(executor_tasks.raise_value_error, "wrong"),
            executor.with_limits(run_s=60).submit(executor_tasks.square, 3),
        ]
        for call in calls:
            call.add_done_callback(lambda call: raise_odd(call) if call.done() else None)
            call.add_done_callback(lambda call: told.append(call.job_id))
        concurrent.futures.wait(calls)
        assert executor.submit(executor_tasks.square, 4).result() == 16
    assert sorted(told) == sorted(call.job_id for call in calls)
    assert "Odd" in caplog.text
    with Executor(max_workers=1, preload=["no_such_module"]) as broken:
        failed = broken.submit(executor_tasks.square, 2)
        failed.add_done_callback(raise_odd)
        with pytest.raises(BrokenProcessPool):
            failed.result()


class FullDisk(logging.Handler):
    """A handler of the program that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(28, "no space left")


def test_a_handler_that_raises_for_every_record_costs_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told as the standard library tells of its own handlers (`logging.raiseExceptions`)."""
    handler = FullDisk()
    caplog.set_level(logging.INFO)
    logging.root.addHandler(handler)
    try:
        with Executor(max_workers=1) as executor:
            assert executor.submit(executor_tasks.square, 4).result() == 16
            assert executor.with_limits(run_s=60).submit(executor_tasks.square, 3).result() == 9
            with pytest.raises(WorkerCrashed):
                executor.submit(executor_tasks.end_badly, "segfault").result()
    finally:
        logging.root.removeHandler(handler)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_what_raises_behind_the_end_of_a_call_costs_no_other_call_and_no_shutdown() -> None:
    """Of calls that run through together, one that fails, and one that is a job."""
    log, handler = logging.getLogger("concurrent.futures"), FullDisk()
    executor = Executor(max_workers=1)
    assert list(executor.map(executor_tasks.square, range(200))) == [number**2 for number in range(200)]
    wait_for_lanes(executor, 1)
    log.addHandler(handler)
    try:
        with stalled_supervisor_thread(executor):
            calls = [executor.submit(executor_tasks.square, 2) for _ in range(5)]
            calls.append(executor.submit(executor_tasks.raise_value_error, "wrong"))
            calls.append(executor.with_limits(run_s=60).submit(executor_tasks.square, 2))
            for call in calls:
                call.add_done_callback(raise_odd)
        _, late = concurrent.futures.wait(calls, timeout=20)
        assert not late
        in_thread(executor.shutdown).result(20)
    finally:
        log.removeHandler(handler)


def test_a_call_that_was_sent_is_not_given_to_a_second_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes right behind that, in another submit."""
    line_up, runs = Lane.line_up, tmp_path / "runs"

    def interrupted(lane: Lane, call: LaneCall) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return line_up(lane, call)
        assert line_up(lane, call)
        until(lambda: runs.exists() and runs.read_text(), "it runs")
        raise KeyboardInterrupt

    with Executor(max_workers=2, spares=0) as executor:
        gates = [str(tmp_path / name) for name in ("one", "other")]
        calls = [executor.submit(executor_tasks.wait_for, gate) for gate in gates]
        until(lambda: all(call.running() for call in calls), "both have a worker")
        for gate in gates:
            executor_tasks.say(gate)
        concurrent.futures.wait(calls)
        wait_for_lanes(executor, 2)  # of one that comes later it would be the supervisor's thread that is patched
        with monkeypatch.context() as patched:
            patched.setattr(PendingTasks, "_match", lambda calls: None)
            first = executor.with_limits(run_s=60, grace_s=20).submit(executor_tasks.notes, str(runs))
            seen = threading.Event()
            executor._tasks.supervisor_thread.call(seen.set)
            assert seen.wait(60), "the supervisor's thread has looked for whom to give it to"
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Lane, "line_up", interrupted)
            executor.submit(executor_tasks.square, 3)
        assert first.running(), "it is not that one's caller who was interrupted"
        first.cancel(grace_s=0)
        with pytest.raises(JobCancelled):
            first.result(60)
        assert runs.read_text() == "once\n"
        assert executor.submit(executor_tasks.square, 4).result() == 16


def test_a_shutdown_that_cancels_what_waits_lets_what_runs_end(tmp_path: Path) -> None:
    """However many begin while it goes through those that wait."""
    for _ in range(8):
        executor = Executor(max_workers=2)
        calls = [executor.submit(executor_tasks.square, number) for number in range(300)]
        calls[0].result()
        executor.shutdown(cancel_futures=True)
        for number, call in enumerate(calls):
            assert call.cancelled() or call.result() == number**2
            assert not call.cancelled() or call.pid is None, "it had begun"


def test_an_executor_whose_preload_has_no_end_can_be_ended(tmp_path: Path) -> None:
    path = str(tmp_path / "in")
    executor = Executor(max_workers=1, preload=lambda: executor_tasks.loop(path))
    call = executor.submit(executor_tasks.square, 2)
    stream = executor.stream(executor_tasks.count, 3)
    until((tmp_path / "in").exists, "it preloads")
    zygote = int((tmp_path / "in").read_text())
    assert call.cancel()
    concurrent.futures.wait([call], timeout=60)
    assert call.cancelled() and not stream.future.done()
    in_thread(executor.kill_workers).result(20)
    assert stream.future.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(zygote, 0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(executor_tasks.square, 2)


def test_calls_that_wait_for_a_preload_run_after_it(tmp_path: Path) -> None:
    path = str(tmp_path / "gate")
    with Executor(max_workers=2, preload=lambda: executor_tasks.wait_for(path)) as executor:
        timed = executor.with_limits(queue_s=60).submit(executor_tasks.square, 2)
        calls = [executor.submit(executor_tasks.square, number) for number in range(5)]
        assert calls[3].cancel()
        executor_tasks.say(path)
        assert timed.result(30) == 4
        assert [call.result(30) for call in calls if not call.cancelled()] == [0, 1, 4, 16]


def test_of_a_start_that_fails_half_way_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a defect of ours: what it had started by then would live as long as the program."""
    start = Fleet.start

    async def start_and_fail(fleet: Fleet, *arguments: Any) -> None:
        await start(fleet, *arguments)
        raise LookupError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(Fleet, "start", start_and_fail)
        patched.setattr(Pool, "fill", lambda pool: None)  # else a worker may be leased to a call before that fails
        with Executor(max_workers=1) as executor:
            error = executor.submit(executor_tasks.square, 2).exception(60)
            started = processes.descendants(os.getpid())
    assert isinstance(error, WorkerCrashed) and "a defect" in str(error)
    assert started and not [seen for seen in started if processes.read_process(seen.pid) is not None]


def test_an_executor_without_a_descriptor_for_its_loop_says_so(tmp_path: Path) -> None:
    program = """
        import os, resource
        from killable import Executor

        with Executor(max_workers=1):
            pass  # what an Executor imports takes descriptors, too
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        executor = Executor(max_workers=1)
        executor._tasks.supervisor_thread.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        try:
            executor.submit(pow, 2, 2)
        except RuntimeError as error:
            print(error)
        executor.shutdown()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, timeout=240
    )
    assert "Too many open files" in done.stdout


@pytest.mark.parametrize("limits", [{}, {"run_s": 600}], ids=["in a lane", "a job"])
def test_calls_end_when_the_thread_of_their_supervisor_is_lost(tmp_path: Path, limits: dict[str, Any]) -> None:
    """A defect of ours, say: nothing of them is left."""
    executor = Executor(max_workers=1)
    running = executor.with_limits(**limits).submit(executor_tasks.loop, str(tmp_path / "in"))
    waiting = executor.submit(executor_tasks.square, 2)
    until((tmp_path / "in").exists, "it runs")
    worker = int((tmp_path / "in").read_text())
    executor._tasks.supervisor_thread.call(lambda: sys.exit("of a thread"))
    for call in (running, waiting):
        with pytest.raises(WorkerCrashed, match="of a thread") as lost:
            call.result(60)
        assert lost.value.code == "supervisor_lost"
    end = running.certificate
    assert end is not None and end["cause"] == "supervisor_lost" and end["tree_empty"] is not None
    assert not os.path.exists(f"/proc/{worker}")
    with pytest.raises(RuntimeError, match="of a thread"):
        executor.submit(executor_tasks.square, 2)
    executor.shutdown()


@pytest.mark.parametrize("turns", range(5))
def test_a_thread_that_is_lost_before_it_knows_of_its_start_says_why(
    turns: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first worker may have its first call some turns of the loop before the supervisor's start is over."""
    start, on_lane, submitted, has_lane = Supervisor.start, PendingTasks.on_lane, threading.Event(), asyncio.Event()

    async def slow_start(supervisor: Supervisor) -> None:
        await start(supervisor)
        await has_lane.wait()

    def then_lost(tasks: PendingTasks, lane: Lane) -> None:
        submitted.wait()
        on_lane(tasks, lane)
        has_lane.set()
        lose_after(turns)

    def lose_after(turns: int) -> None:
        if turns == 0:
            sys.exit("of a thread")
        asyncio.get_running_loop().call_soon(lose_after, turns - 1)

    monkeypatch.setattr(Supervisor, "start", slow_start)
    monkeypatch.setattr(PendingTasks, "on_lane", then_lost)
    executor = Executor(max_workers=1)
    calls = [executor.submit(executor_tasks.loop, str(tmp_path / "in")), executor.submit(executor_tasks.square, 2)]
    submitted.set()
    assert executor._tasks.supervisor_thread.join(60)
    for call in calls:
        with pytest.raises(WorkerCrashed, match="of a thread") as lost:
            call.result(60)
        assert lost.value.code == "supervisor_lost"
    with pytest.raises(WorkerCrashed, match="of a thread"):
        executor.submit(executor_tasks.square, 2)


def test_an_interrupt_while_a_large_result_is_unpickled_costs_nothing() -> None:
    with Executor(max_workers=1) as executor:
        call = executor.submit(executor_tasks.large_and_slow)
        call.add_done_callback(lambda _: None)
        concurrent.futures.wait([call])
        before, signal_was = executor_tasks.interrupted, signal.getsignal(signal.SIGINT)
        assert not before and signal_was is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            call.result()
        assert len(call.result().content) == 4 << 20


class Alarm(Exception):
    """What a program's handler of SIGALRM raises, to end what takes too long."""


def sound(*_: object) -> None:
    raise Alarm


def test_an_alarm_while_something_is_unpickled_is_its_callers_and_costs_nothing(executor: Executor) -> None:
    before = signal.signal(signal.SIGALRM, sound)
    try:
        call, stream = executor.submit(executor_tasks.rings), executor.stream(executor_tasks.yields_what_rings)
        for ask, answer in ((call.result, "rung"), (lambda: call.partial, "rung"), (lambda: next(stream), "rung")):
            executor_tasks.rang = False
            with pytest.raises(Alarm):
                ask()
            assert ask() == answer
        assert list(stream) == [2]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_fork_after_an_executor_is_over_leaves_the_others_too() -> None:
    ended = Executor(max_workers=1)
    ended.submit(executor_tasks.square, 1).result()
    ended.shutdown()
    with Executor(max_workers=1) as living:
        assert living.submit(executor_tasks.square, 2).result() == 4
        pid = os.fork()
        if pid == 0:
            outcome = living.submit(executor_tasks.square, 5).result()
            living.shutdown()
            os._exit(outcome)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 25
        assert living.submit(executor_tasks.square, 3).result() == 9
    assert ended._tasks is not None  # it lived until now
