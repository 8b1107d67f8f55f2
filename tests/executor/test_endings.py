"""Stopping: a running call, whatever it does, is ended wholly; each end has its type; the neighbours go on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import functools
import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.certificate_checks import was_killed
from support.executor_lanes import ready_workers
from support.supervisor_fixture import NEEDS_CGROUPS
from support.waiting import until

from killable import (
    Executor,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    OutOfMemory,
    Retry,
    WorkerCrashed,
    WorkerExited,
    WorkerKilled,
    stopped,
)


def arrived(path: Path) -> int:
    """Wait until the call is there; return its pid."""
    return int(until(lambda: path.exists() and path.read_text(), f"{path.name} is there"))


def is_gone(pid: int) -> bool:
    seen = processes.read_process(pid)
    return seen is None


@pytest.mark.parametrize(
    "what",
    [executor_tasks.loop, executor_tasks.hold_the_lock, executor_tasks.wait_natively, executor_tasks.ignore_sigterm],
)
def test_cancel_ends_what_runs(executor: Executor, tmp_path: Path, what: Callable[[str], Any]) -> None:
    future = executor.with_limits(grace_s=0.2, ack_s=0.1).submit(what, str(tmp_path / "in"))
    pid = arrived(tmp_path / "in")
    assert future.running() and not future.done()
    assert future.cancel() and future.cancel(), "accepted, and again"
    with pytest.raises(JobCancelled) as caught:
        future.result()
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    assert is_gone(pid) and future.pid == pid, "done means that it is gone"
    assert future.cancelled() and future.done() and not future.running()
    assert future.certificate is not None and future.certificate["proof"] and "tree_empty" in future.certificate
    assert (future.error, caught.value.by) == (caught.value, "user")
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()


def test_a_call_that_is_cancelled_cleans_up(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.clean_up, str(tmp_path / "in"), str(tmp_path / "cleaned"))
    arrived(tmp_path / "in")
    assert future.cancel()
    concurrent.futures.wait([future])
    assert (tmp_path / "cleaned").exists() and future.certificate is not None
    assert not was_killed(future.certificate)


def test_it_is_told_who_and_why(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.catch_stopping, str(tmp_path / "in"))
    arrived(tmp_path / "in")
    assert future.cancel(reason="enough")
    concurrent.futures.wait([future])
    assert future.cancelled(), "what it returned after it was stopped is no result"
    assert future.error is not None and future.error.reason == "enough"


@pytest.mark.parametrize("size", [3, 2 << 20], ids=["small", "large"])
def test_what_is_returned_in_the_grace_is_a_partial_result(executor: Executor, tmp_path: Path, size: int) -> None:
    future = executor.submit(executor_tasks.catch_stopping, str(tmp_path / "in"), b"x" * size)
    arrived(tmp_path / "in")
    future.cancel()
    concurrent.futures.wait([future])
    assert future.partial == b"x" * size == future.partial


def test_nothing_of_the_tree_is_left(own_executor: Executor, tmp_path: Path) -> None:
    before = {seen.pid for seen in processes.started_by_tests()}
    future = own_executor.submit(executor_tasks.fork_and_loop, str(tmp_path / "in"))
    arrived(tmp_path / "in")
    tree = {seen.pid for seen in processes.started_by_tests()} - before | {future.pid}  # the worker may be older
    assert len(tree) >= 3
    future.cancel(grace_s=0)
    with pytest.raises(JobCancelled):
        future.result()
    worker = future.pid
    assert worker is not None
    assert [seen for seen in processes.started_by_tests() if seen.pid not in before and seen.session == worker] == []
    assert future.certificate is not None and future.certificate["processes_swept"] >= 2


def test_what_has_not_begun_is_cancelled_at_once(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        running = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
        until(running.running, "it runs")
        waiting = executor.submit(executor_tasks.loop, str(tmp_path / "never"))
        assert waiting.cancel() and waiting.cancelled() and waiting.done()
        assert concurrent.futures.wait([waiting]).done == {waiting}
        with pytest.raises(JobCancelled):
            waiting.result()
        executor_tasks.say(str(tmp_path / "gate"))
        assert running.result() == str(os.getpid())
        assert not running.cancel(), "it is done"
    assert not (tmp_path / "never").exists()


def test_a_timeout_ends_it(executor: Executor, tmp_path: Path) -> None:
    future = executor.with_limits(run_s=0.1, grace_s=0).submit(executor_tasks.hold_the_lock, str(tmp_path / "in"))
    with pytest.raises(JobTimedOut, match=r"run_s of 0\.1 s is over") as caught:
        future.result()
    assert isinstance(caught.value, TimeoutError) and caught.value.code == "timeout.run"
    assert future.pid is not None and is_gone(future.pid)


def test_a_limit_of_memory_ends_it(executor: Executor) -> None:
    future = executor.with_limits(memory_bytes="64MiB", grace_s=1).submit(executor_tasks.grow)
    with pytest.raises(OutOfMemory, match="memory_bytes") as caught:
        future.result()
    assert (caught.value.code, caught.value.limit) == ("limit.memory", "memory_bytes")
    assert executor.submit(executor_tasks.square, 3).result() == 9


def test_limits_add_up(executor: Executor) -> None:
    view = executor.with_limits(run_s="1m").with_limits(memory_bytes="2GiB")
    assert view._limits == {"grace_s": 10, "run_s": 60, "memory_bytes": 2 << 30}
    assert view.submit(executor_tasks.square, 3).result() == 9
    with pytest.raises(TypeError, match="no limit 'seconds'"):
        executor.with_limits(seconds=1)


ENDS: dict[str, tuple[type[Exception], str]] = {
    "segfault": (WorkerCrashed, "crash"),
    "kill": (WorkerKilled, "killed_externally"),
    "exit 3": (WorkerExited, "exit"),
    "exit 0": (WorkerExited, "exit"),
    "sys.exit": (WorkerExited, "exit"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_bad_end_is_told_apart_and_hits_nobody_else(executor: Executor, tmp_path: Path, how: str) -> None:
    neighbour = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
    until(neighbour.running, "the neighbour runs")
    future = executor.submit(executor_tasks.end_badly, how)
    cls, code = ENDS[how]
    with pytest.raises(cls) as caught:
        future.result()
    assert type(caught.value) is cls and caught.value.code == code  # type: ignore[attr-defined]
    assert isinstance(caught.value, BrokenProcessPool)
    assert executor.submit(executor_tasks.square, 3).result() == 9
    executor_tasks.say(str(tmp_path / "gate"))
    assert neighbour.result() == str(os.getpid())


def test_what_ran_out_where_nothing_was_limited_is_the_functions_own_exception(executor: Executor) -> None:
    """And with a limit an OutOfMemory, which is a MemoryError too; files are the machine's to run out of."""
    for view, cls, code in (
        (executor, MemoryError, "exception"),
        (executor.with_limits(memory_bytes="1GiB"), OutOfMemory, "limit.memory"),
    ):
        future = view.submit(executor_tasks.end_badly, "memory")
        with pytest.raises(MemoryError) as caught:
            future.result()
        assert type(caught.value) is cls and future.error is not None and future.error.code == code
    opening = executor.submit(executor_tasks.end_badly, "files")
    with pytest.raises(OSError, match="Too many open files") as no_file:
        opening.result()
    assert no_file.value.errno == errno.EMFILE and "end_badly" in str(no_file.value.__cause__)
    assert opening.error is not None and opening.error.code == "limit.files"


def test_a_stranger_that_kills_a_worker_hits_its_call_only(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
    os.kill(arrived(tmp_path / "in"), signal.SIGKILL)
    with pytest.raises(WorkerKilled):
        future.result()
    assert executor.submit(executor_tasks.square, 3).result() == 9


def test_what_was_reached_and_printed_is_kept(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.checkpoint_and_loop, path=str(tmp_path / "in"))
    arrived(tmp_path / "in")
    future.cancel(grace_s=0)
    concurrent.futures.wait([future])
    assert future.partial == {"reached": {1, 2}}
    assert future.stdout == "on my way\n"


def test_what_cannot_be_unpickled_here_is_an_end_of_its_own(executor: Executor) -> None:
    future = executor.submit(executor_tasks.NotHere)
    concurrent.futures.wait([future])
    assert future.error is not None and future.error.code == "result.unserializable", "before anybody asks for it"
    future = executor.submit(executor_tasks.checkpoint_what_is_not_here)
    assert future.result() == "returned"
    with pytest.raises(JobFailed, match="partial result cannot be unpickled"):
        _ = future.partial


def test_an_item_that_cannot_be_unpickled_here_ends_its_stream(executor: Executor) -> None:
    stream = executor.stream(executor_tasks.yields_what_is_not_here)
    assert next(stream) == 1
    with pytest.raises(JobFailed, match="item cannot be unpickled") as caught:
        next(stream)
    assert caught.value.code == "result.unserializable"
    concurrent.futures.wait([stream.future])
    assert stream.future.cancelled()


async def test_a_timeout_of_asyncio_really_ends_it(executor: Executor, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    waiting = loop.run_in_executor(executor.with_limits(grace_s=0), executor_tasks.hold_the_lock, str(tmp_path / "in"))
    pid = await asyncio.to_thread(arrived, tmp_path / "in")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.01)
    await asyncio.to_thread(until, lambda: is_gone(pid), "it is gone")


async def test_stopped_waits_for_what_a_timeout_of_asyncio_does_not(executor: Executor, tmp_path: Path) -> None:
    future = executor.with_limits(grace_s=60, ack_s=60).submit(executor_tasks.hold_the_lock, str(tmp_path / "in"))
    pid = await asyncio.to_thread(arrived, tmp_path / "in")
    await asyncio.to_thread(until, processes.computes(pid), "it is inside its native call")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(future), 0.01)
    waiting, leaving = [asyncio.create_task(stopped(future)) for _ in range(2)]
    await asyncio.sleep(0)
    leaving.cancel()
    assert not is_gone(pid) and not future.done() and not waiting.done()
    future.cancel(grace_s=0)
    certificate = await waiting
    assert is_gone(pid) and future.done() and leaving.cancelled()
    assert certificate is not None and "tree_empty" in certificate and await stopped(future) == certificate


def test_map_that_runs_out_of_time_stops_the_rest(executor: Executor, tmp_path: Path) -> None:
    view = executor.with_limits(grace_s=0)
    results = view.map(executor_tasks.sleep_at, range(6), [str(tmp_path / "in")] * 6, timeout=2)
    pid = arrived(tmp_path / "in")  # however long its process takes to start
    with pytest.raises(TimeoutError):
        list(results)
    until(lambda: is_gone(pid), "it is gone")


def test_terminate_and_kill_workers(tmp_path: Path) -> None:
    for end in (Executor.terminate_workers, Executor.kill_workers):
        executor = Executor(max_workers=1)
        future = executor.submit(executor_tasks.loop, str(tmp_path / end.__name__))
        waiting = executor.submit(executor_tasks.square, 1)
        pid = arrived(tmp_path / end.__name__)
        end(executor)
        assert is_gone(pid) and future.cancelled() and waiting.cancelled()


@pytest.mark.parametrize("what", ["thread", "child", "handler", "mask", "timer", "cwd", "umask", "wakeup"])
def test_a_worker_is_used_again_only_as_it_was(what: str) -> None:
    with Executor(max_workers=1) as executor:
        first = executor.submit(executor_tasks.leave_something, "nothing").result()
        assert executor.submit(executor_tasks.leave_something, "nothing").result() == first
        assert executor.submit(executor_tasks.leave_something, what).result() == first
        assert executor.submit(executor_tasks.leave_something, "nothing").result() != first


@NEEDS_CGROUPS
def test_a_worker_that_has_made_a_child_of_its_parent_gets_no_other_call() -> None:
    """It has no child, but its cgroup has another process."""
    with Executor(max_workers=1) as executor:
        worker, child = executor.submit(executor_tasks.leave_child_of_parent).result()
        assert executor.submit(executor_tasks.leave_something, "nothing").result() != worker
        until(lambda: is_gone(child), "its worker has taken it along")


@pytest.mark.row("PEERS-K")
def test_a_kill_costs_the_next_call_nothing(tmp_path: Path) -> None:
    """A worker that was warm before takes it, and nothing is loaded again."""
    with Executor(max_workers=1, spares=1, preload=executor_tasks.make_ready, grace_s=0) as executor:
        for round in range(5):
            running = executor.submit(executor_tasks.hold_the_lock, str(tmp_path / f"in {round}"))
            pid = arrived(tmp_path / f"in {round}")
            seen = processes.read_process(pid)
            assert seen is not None
            zygote = seen.parent
            # Not only a child of the zygote: that may still be on its way.
            warm = until(lambda: ready_workers(executor) - {pid}, "a spare is ready")  # noqa: B023
            running.cancel()
            ready, next_pid, next_zygote = executor.submit(executor_tasks.tell_ready).result()
            assert next_pid in warm and (ready, next_zygote) == ({"preload": zygote}, zygote)


# ── streams ──


def test_yields_arrive_as_they_are_made(executor: Executor, tmp_path: Path) -> None:
    assert list(executor.stream(executor_tasks.count, 5000)) == list(range(5000))
    assert list(executor.stream(executor_tasks.as_list, 3)) == [0, 1, 2]
    stream = executor.stream(executor_tasks.count_for_ever, str(tmp_path / "in"))
    assert [next(stream) for _ in range(100)] == list(range(100))
    assert stream.future.running()
    stream.close()
    assert is_gone(arrived(tmp_path / "in"))


def test_an_error_comes_behind_what_was_yielded(executor: Executor) -> None:
    stream = executor.stream(executor_tasks.count_and_raise, 3)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no more"):
        next(stream)


def test_a_break_ends_the_job(executor: Executor, tmp_path: Path) -> None:
    for number in executor.with_limits(grace_s=0).stream(executor_tasks.count_for_ever, str(tmp_path / "in")):
        if number == 10:
            break
    pid = arrived(tmp_path / "in")
    until(lambda: is_gone(pid), "it is gone")


async def test_yields_for_a_coroutine(executor: Executor, tmp_path: Path) -> None:
    assert [number async for number in executor.astream(executor_tasks.count, 5000)] == list(range(5000))
    async with executor.astream(executor_tasks.count_for_ever, str(tmp_path / "in")) as stream:
        async for number in stream:
            if number == 100:
                break
    assert is_gone(arrived(tmp_path / "in"))
    with pytest.raises(ValueError, match="no more"):
        async for _ in executor.astream(executor_tasks.count_and_raise, 3):
            pass


# ── another attempt, and the time of all ──


@pytest.mark.row("D23")
@pytest.mark.parametrize("size", [10, 5 << 20], ids=["inline", "sealed"])
def test_a_call_whose_worker_was_killed_can_be_run_again(executor: Executor, tmp_path: Path, size: int) -> None:
    again = executor.with_limits(attempts_max=2, backoff_s=0)
    future = again.submit(executor_tasks.die_once, str(tmp_path), b"x" * size)
    assert future.result() == (2, size) and future.error is None
    assert future.certificate is not None and "cause" not in future.certificate
    for name in os.listdir(tmp_path):
        (tmp_path / name).unlink()
    with pytest.raises(WorkerKilled):
        executor.submit(executor_tasks.die_once, str(tmp_path)).result()


@pytest.mark.row("D25")
def test_a_call_may_ask_for_another_attempt(executor: Executor, tmp_path: Path) -> None:
    again = executor.with_limits(attempts_max=3)
    assert again.submit(executor_tasks.ask_again, 2, str(tmp_path)).result() == (3, {2})
    with pytest.raises(Retry, match="not yet"):
        again.submit(executor_tasks.ask_again, 9, str(tmp_path)).result()
    with pytest.raises(Retry, match="not yet"):
        executor.submit(executor_tasks.ask_again, 1, str(tmp_path)).result()
    assert list(again.stream(executor_tasks.yield_and_ask_again, 0)) == [2]
    seen = []
    with pytest.raises(Retry, match="not yet"):
        for item in again.stream(executor_tasks.yield_and_ask_again, 2):
            seen.append(item)
    assert seen == [0, 1], "a loop of the program has had them: none comes twice"
    with pytest.raises(TypeError, match="retry_on"):
        executor.with_limits(retry_on=ConnectionError)


def test_a_call_that_waits_to_be_run_again_is_running_and_can_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    future = executor.with_limits(attempts_max=2, backoff_s=1000).submit(executor_tasks.die_once, str(tmp_path))
    until(lambda: os.listdir(tmp_path) and future.running() and future.pid is None, "its first worker is gone")
    assert not future.done()
    assert future.cancel()
    with pytest.raises(JobCancelled):
        future.result()
    assert os.listdir(tmp_path) == ["1"]
    assert executor.submit(executor_tasks.die_once, str(tmp_path)).result() == (2, 0), "its slot is free"


def test_the_pid_of_a_call_is_that_of_the_attempt_that_runs(executor: Executor, tmp_path: Path) -> None:
    again = executor.with_limits(attempts_max=2, backoff_s=0)
    future = again.submit(executor_tasks.die_once, str(tmp_path), then=str(tmp_path / "second"))
    assert arrived(tmp_path / "second") == until(lambda: future.pid, "it is told who has it now")
    assert future.cancel()
    with pytest.raises(ValueError, match="at most 100"):
        executor.with_limits(attempts_max=101)


@pytest.mark.row("C8")
def test_the_whole_time_of_a_call_runs_while_its_processes_start(tmp_path: Path) -> None:
    ready = functools.partial(executor_tasks.wait_for, str(tmp_path / "gate"))
    with Executor(max_workers=1, initializer=ready) as executor:
        future = executor.with_limits(total_s=0.2).submit(executor_tasks.say, str(tmp_path / "never"))
        with pytest.raises(JobTimedOut) as caught:
            future.result()
        (tmp_path / "gate").touch()
        assert caught.value.limit == "total_s"
    assert not (tmp_path / "never").exists()


@pytest.mark.row("C8")
def test_the_whole_time_of_a_call_runs_while_it_waits_for_a_worker(tmp_path: Path) -> None:
    with Executor(max_workers=1, grace_s=0) as executor:
        executor.submit(executor_tasks.square, 3).result()  # its worker is ready
        running = executor.with_limits(total_s=5.0).submit(executor_tasks.notes, str(tmp_path / "in"))
        until((tmp_path / "in").exists, "it runs")
        waiting = executor.with_limits(total_s=0.1).submit(executor_tasks.say, str(tmp_path / "never"))
        for future, code in ((waiting, "timeout.queue"), (running, "timeout.run")):
            with pytest.raises(JobTimedOut) as caught:
                future.result()
            assert (caught.value.code, caught.value.limit) == (code, "total_s")
        assert not (tmp_path / "never").exists()
