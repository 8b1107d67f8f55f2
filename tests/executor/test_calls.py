"""Drop-in: what a user of `concurrent.futures` expects of an executor of processes, on real processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import executor_tasks
import numpy as np
import pytest
from support.waiting import until

from killable import Executor, JobFailed
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import Kind


def test_a_call_runs_in_another_process_and_its_result_comes_back(executor: Executor) -> None:
    future = executor.submit(executor_tasks.add, 1, two=2)
    assert isinstance(future, concurrent.futures.Future) and isinstance(executor, concurrent.futures.Executor)
    assert future.result() == 3 and future.exception() is None and future.done() and not future.cancelled()
    assert executor.submit(os.getpid).result() != os.getpid()
    assert future.error is None and future.certificate is not None
    assert repr(future) == f"<JobFuture {future.job_id} finished pid={future.pid}>"
    assert repr(executor.with_limits(run_s=5)) == "<Executor of 2 workers grace_s=10.0 run_s=5.0>"


def test_what_has_no_name_to_import_is_sent_by_value(executor: Executor) -> None:
    offset = 40

    def closure(number: int) -> int:
        return number + offset

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    assert executor.submit(lambda: offset).result() == 40
    assert executor.submit(closure, 2).result() == 42
    assert executor.submit(functools.partial(closure, 3)).result() == 43
    made = executor.submit(Local, 5).result()
    assert type(made) is Local and made.value == 5
    assert executor.submit(Local(6).__class__, 7).result().value == 7


def test_an_exception_comes_back_as_it_was_with_the_workers_traceback(executor: Executor) -> None:
    future = executor.submit(executor_tasks.raise_value_error, "no luck")
    with pytest.raises(ValueError, match="no luck") as caught:
        future.result()
    told = str(caught.value.__cause__)
    assert "in raise_value_error" in told
    assert told.count("  File ") == 1, "the frames of its own are not the author's"
    assert future.exception() is caught.value
    assert future.error is not None and (future.error.code, future.error.type) == ("exception", "ValueError")


def test_what_cannot_be_pickled_fails_its_own_future_only(executor: Executor) -> None:
    unsendable = executor.submit(executor_tasks.add, threading.Lock(), 1)
    with pytest.raises(TypeError, match="lock"):
        unsendable.result()
    assert unsendable.error is not None and unsendable.error.code == "input.invalid"
    result = executor.submit(executor_tasks.return_a_lock)
    unreadable = executor.submit(executor_tasks.return_what_cannot_be_unpickled)
    exception = executor.submit(executor_tasks.raise_unpicklable)
    with pytest.raises(JobFailed, match="lock") as caught:
        result.result()
    assert caught.value.code == "result.unserializable"
    assert str(caught.value).startswith("lock cannot be sent: ")
    with pytest.raises(JobFailed, match="cannot be unpickled here: ValueError: not here") as caught:
        unreadable.result()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(JobFailed, match="Unpicklable: lost") as caught:
        exception.result()
    assert "in raise_unpicklable" in caught.value.traceback and isinstance(caught.value.__cause__, ValueError)
    assert executor.submit(executor_tasks.add, 1, 2).result() == 3


def test_wait_as_completed_and_callbacks(executor: Executor, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    waiting = executor.submit(executor_tasks.wait_for, gate)
    quick = executor.submit(executor_tasks.add, 1, 2)
    told: list[Any] = []
    waiting.add_done_callback(told.append)
    done, pending = concurrent.futures.wait([waiting, quick], return_when="FIRST_COMPLETED")
    assert (done, pending) == ({quick}, {waiting})
    executor_tasks.say(gate)
    assert set(concurrent.futures.as_completed([waiting, quick])) == {waiting, quick}
    until(lambda: told, "the callback was called")
    assert told == [waiting]


def test_result_waits_no_longer_than_asked_and_the_call_goes_on(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    executor_tasks.say(str(tmp_path / "gate"))
    assert future.result() == str(os.getpid())


async def test_with_asyncio(executor: Executor) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, executor_tasks.add, 1, 2) == 3
    assert await asyncio.wrap_future(executor.submit(executor_tasks.square, 3)) == 9
    with pytest.raises(ValueError, match="no luck"):
        await loop.run_in_executor(executor, executor_tasks.raise_value_error, "no luck")


def test_map(executor: Executor) -> None:
    assert list(executor.map(executor_tasks.square, range(5))) == [0, 1, 4, 9, 16]
    assert list(executor.map(executor_tasks.add, [1, 2], [10, 20, 30])) == [11, 22]
    assert list(executor.map(executor_tasks.add, iter([1, 2, 3]), [10, 20], chunksize=9)) == [11, 22]
    assert list(executor.map(executor_tasks.square, range(10), chunksize=3)) == [
        number * number for number in range(10)
    ]
    assert list(executor.map(executor_tasks.square, [])) == list(executor.map(executor_tasks.square)) == []
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(executor_tasks.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(executor_tasks.square, [1], buffersize=0)
    with pytest.raises(TypeError, match="buffersize"):
        executor.map(executor_tasks.square, [1], buffersize="2")  # type: ignore[arg-type]


def test_map_takes_no_more_than_its_buffer(executor: Executor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = executor.map(executor_tasks.square, numbers(), chunksize=2, buffersize=3)
    assert len(taken) == 6
    assert next(results) == 0 and len(taken) == 8
    assert list(results) == [number * number for number in range(1, 1000)]


def test_map_lets_go_of_what_it_has_yielded(executor: Executor) -> None:
    for made in executor.map(executor_tasks.NotHeld, range(6), chunksize=3):
        told = weakref.ref(made)
        del made
        assert told() is None


def test_large_values_go_both_ways(executor: Executor) -> None:
    data = os.urandom(1 << 20) * 20
    assert executor.submit(bytes, data).result() == data
    array = np.arange(2_000_000)
    back = executor.submit(np.flip, array).result()
    assert (back == array[::-1]).all()
    back[0] = 7  # it is the caller's own
    several = executor.submit(lambda *given: list(reversed(given)), array, data, array + 1).result()
    assert (several[0] == array + 1).all() and several[1] == data and (several[2] == array).all()
    for _ in range(3):  # each on a worker that has given its file for large results away
        assert len(executor.submit(bytes, data).result()) == len(data)


def test_shutdown_finishes_what_was_submitted_and_takes_nothing_more(tmp_path: Path) -> None:
    executor = Executor(max_workers=1)
    futures = [executor.submit(executor_tasks.square, number) for number in range(5)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == [0, 1, 4, 9, 16]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(executor_tasks.square, 1)
    executor.shutdown()


def test_shutdown_can_leave_out_what_has_not_begun(tmp_path: Path) -> None:
    executor = Executor(max_workers=1)
    running = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
    until(running.running, "it runs")
    waiting = [executor.submit(executor_tasks.square, number) for number in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    executor_tasks.say(str(tmp_path / "gate"))
    assert running.result() == str(os.getpid())
    executor.shutdown()


def test_an_executor_that_is_forgotten_finishes_its_calls(tmp_path: Path) -> None:
    executor = Executor(max_workers=1)
    thread = executor._tasks.supervisor_thread._thread
    future = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
    del executor
    executor_tasks.say(str(tmp_path / "gate"))
    assert future.result() == str(os.getpid())
    thread.join()


def test_made_ready_once_in_the_zygote_and_once_in_each_worker() -> None:
    options: dict[str, Any] = {"initializer": executor_tasks.make_ready, "initargs": ("initializer",)}
    with Executor(max_workers=2, preload=executor_tasks.make_ready, max_tasks_per_child=1, **options) as executor:
        told = [executor.submit(executor_tasks.tell_ready).result() for _ in range(3)]
    assert len({pid for _, pid, _ in told}) == 3, "a fresh process for each"
    assert len({zygote for _, _, zygote in told}) == 1
    assert all(ready == {"preload": zygote, "initializer": pid} for ready, pid, zygote in told)


def test_modules_are_preloaded_by_name() -> None:
    with Executor(max_workers=1, preload=["colorsys"]) as executor:
        import sys

        assert executor.submit(lambda: "colorsys" in sys.modules).result()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_each_start_method(start_method: Any) -> None:
    options: dict[str, Any] = {"initializer": executor_tasks.make_ready, "initargs": ("initializer",)}
    with Executor(max_workers=1, start_method=start_method, preload=executor_tasks.make_ready, **options) as executor:
        ready, pid, zygote = executor.submit(executor_tasks.tell_ready).result()
        assert ready == {"preload": zygote if start_method == "fork" else pid, "initializer": pid}
        assert executor.submit(lambda: 1).result() == 1


def test_an_initializer_that_fails_breaks_the_pool_with_its_reason() -> None:
    with Executor(max_workers=1, initializer=executor_tasks.raise_value_error, initargs=("not ready",)) as executor:
        future = executor.submit(executor_tasks.square, 1)
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="not ready"):
            future.result()
        with pytest.raises(
            concurrent.futures.process.BrokenProcessPool, match=r"ValueError: not ready\nTraceback"
        ) as got:
            executor.submit(executor_tasks.square, 1).result()
    told = str(got.value)
    assert told.count('File "') == 1 and "executor_tasks.py" in told, "nothing of the library"
    assert told.endswith("ValueError: not ready\nin the executor's initializer")


def test_what_cannot_be_sent_is_named(executor: Executor) -> None:
    lock = threading.Lock()

    def guarded(number: int) -> int:
        with lock:
            return number

    def calls_guarded(number: int) -> int:
        return guarded(number) if number else not_yet(number)

    for call, blamed in (
        ((guarded, 1), r"In .*guarded the variable 'lock'"),
        ((calls_guarded, 1), r"In .*guarded the variable 'lock'"),
        ((pow, 2, lock), "Argument 2"),
        ((executor_tasks.Guarded().run,), "The object of the method run"),
        ((functools.partial(pow, lock),), "Argument 1"),
        ((lambda number=lock: number,), "In .* a default"),
    ):
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            executor.submit(*call).result()
        (note,) = (note for note in caught.value.__notes__ if "worker" in note)
        assert re.match(f"{blamed} cannot be sent to a worker: make it there", note), note
    with pytest.raises(TypeError) as caught:
        list(executor.map(pow, [1, 2], [1, lock], chunksize=2))
    assert caught.value.__notes__[-1].startswith("Argument 2 cannot be sent")

    def not_yet(number: int) -> int:
        return number


def test_a_coroutine_that_nobody_would_run_is_an_error_that_says_so(executor: Executor) -> None:
    with pytest.raises(TypeError, match=r"run it inside the function: asyncio\.run"):
        executor.submit(executor_tasks.asynchronous).result()


def test_what_is_preloaded_is_shared_also_when_the_collector_has_looked_at_it() -> None:
    """`gc.freeze` in the zygote: else a collection writes into each object, and each worker gets its own copy."""
    with Executor(max_workers=1, preload=executor_tasks.make_many) as executor:
        assert executor.submit(executor_tasks.collect_and_measure).result() < 12 << 20


def test_what_cannot_be_streamed_says_what_can(executor: Executor) -> None:
    with pytest.raises(TypeError, match="'int' object is not iterable: stream takes a function that yields"):
        next(executor.stream(executor_tasks.square, 2))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_preload_may_end_helpers_of_its_own(start_method: str) -> None:
    """Its process outlasts SIGTERM; what that forks does not."""
    with Executor(max_workers=1, start_method=start_method, preload=executor_tasks.end_helpers) as executor:
        assert executor.submit(executor_tasks.square, 4).result() == 16


def test_it_is_told_why_its_workers_are_not_forked(caplog: pytest.LogCaptureFixture) -> None:
    with Executor(max_workers=1, preload=executor_tasks.start_a_thread) as executor:
        assert executor.submit(executor_tasks.square, 4).result() == 16
        assert "2 threads" in executor.detail and "exec'd" in executor.detail
    (record,) = (record for record in caplog.records if record.getMessage() == "start_method_changed")
    assert "2 threads" in record.detail  # type: ignore[attr-defined]
    with Executor(max_workers=1) as executor:
        assert executor.detail == ""
        assert executor.submit(executor_tasks.square, 4).result() == 16 and executor.detail == ""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_takes_as_many_calls_as_it_may(start_method: Literal["fork", "spawn"]) -> None:
    with Executor(max_workers=1, max_tasks_per_child=3, start_method=start_method) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(9)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]


@pytest.mark.parametrize(("method", "expected"), [("fork", "fork"), ("spawn", "spawn"), ("forkserver", "fork")])
def test_a_context_of_multiprocessing_says_how_workers_begin(method: str, expected: str) -> None:
    context = multiprocessing.get_context(method)
    with Executor(max_workers=1, mp_context=context, preload=executor_tasks.make_ready) as executor:
        ready, pid, zygote = executor.submit(executor_tasks.tell_ready).result()
    assert ready["preload"] == (zygote if expected == "fork" else pid), "whose memory it is"


def test_a_preload_that_fails_breaks_the_pool_with_its_reason() -> None:
    with Executor(max_workers=1, preload=["there_is_no_such_module"]) as executor:
        future = executor.submit(executor_tasks.square, 1)
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="there_is_no_such_module"):
            future.result()


@pytest.mark.parametrize("data", [b"garbage" * 100, encode(Kind.READY, 0, 0, b"[]")])
def test_workers_that_say_what_makes_no_sense_before_they_are_ready_break_the_pool(data: bytes) -> None:
    with Executor(max_workers=1, initializer=executor_tasks.write_to_frames, initargs=(data,)) as executor:
        future = executor.submit(executor_tasks.square, 1)
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="sent an invalid message"):
            future.result()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "max_workers"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child"),
        ({"initializer": "load"}, TypeError, "initializer must be a callable"),
        ({"preload": "numpy"}, TypeError, "preload"),
        ({"preload": 5}, TypeError, "preload must be"),
        ({"spares": -1}, ValueError, "spares must not be negative"),
        ({"spares": 1.5}, TypeError, "spares must be an integer"),
        ({"nice": "low"}, TypeError, "nice must be an integer"),
        ({"nice": 100}, ValueError, "nice must be from -20 to 19"),
        ({"start_method": "forkserver"}, ValueError, "'fork' or 'spawn'"),
        ({"run": 5}, TypeError, "no argument or limit 'run'"),
        ({"mp_contxt": None}, TypeError, "did you mean mp_context"),
        ({"run_s": "5 parsecs"}, ValueError, "run_s"),
        ({"grace_s": None}, ValueError, "grace_s cannot be None"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Executor(**options)
