"""`map` and `map_unordered` whose items fail, whose tasks die, and that give results as they come."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from executor_tasks import fail_at
from support import processes
from support.waiting import until

from killable import Executor, JobCancelled, JobFailed, JobTimedOut, WorkerCrashed


def told(results: Iterator[int | BaseException]) -> list[int | str]:
    return [type(each).__name__ if isinstance(each, BaseException) else each for each in results]


MAPS: dict[str, Callable[..., Callable[..., Iterator[Any]]]] = {
    "map": lambda executor: executor.map,
    "map_unordered": lambda executor: executor.map_unordered,
}


def test_exceptions_stand_in_the_place_of_their_items(executor: Executor) -> None:
    failing = {2: "raise", 3: "time out", 5: "unpicklable"}
    results = list(executor.map(fail_at, range(7), itertools.repeat(failing), return_exceptions=True))
    assert told(iter(results)) == [0, 1, "ValueError", "TimeoutError", 16, "JobFailed", 36]
    raised, lost = results[2], results[5]
    assert isinstance(raised, ValueError) and str(raised) == "not 2"
    assert "in fail_at" in str(raised.__cause__) and str(raised.__cause__).count("  File ") == 1
    assert isinstance(lost, JobFailed) and lost.code == "exception" and str(lost).endswith("Unpicklable: lost")


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_task_that_dies_costs_the_items_of_its_chunk_only(executor: Executor, chunksize: int) -> None:
    """The results of the others in its chunk are unknown."""
    bounded = executor.with_limits(run_s=1, grace_s=0)
    failing = {1: "raise", 4: "crash", 7: "loop", 10: "exit"}
    results = bounded.map(
        fail_at, range(12), itertools.repeat(failing), chunksize=chunksize, buffersize=2, return_exceptions=True
    )
    dead = {4: "WorkerKilled", 7: "JobTimedOut", 10: "WorkerExited"}
    expected: list[int | str] = [number * number for number in range(12)]
    expected[1] = "ValueError"
    for number, name in dead.items():
        first = number - number % chunksize
        expected[first : first + chunksize] = [name] * chunksize
    assert told(results) == expected


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("how", "error"), [("raise", ValueError), ("crash", WorkerCrashed), ("loop", JobTimedOut)])
def test_without_it_the_first_failure_ends_the_iterator(
    executor: Executor, name: str, how: str, error: type[Exception]
) -> None:
    results = MAPS[name](executor.with_limits(run_s=1, grace_s=0))(fail_at, range(3), [{1: how}] * 3)
    with pytest.raises(error):
        list(results)
    assert list(results) == []


def test_what_cannot_be_sent_stands_in_its_place(executor: Executor) -> None:
    lock = threading.Lock()
    first, second, third = executor.map(pow, [2, 2, 2], [1, lock, 3], return_exceptions=True)
    assert (first, third) == (2, 8)
    assert isinstance(second, TypeError) and second.__notes__[-1].startswith("Argument 2 cannot be sent")


@pytest.mark.parametrize("name", MAPS)
def test_tasks_that_are_cancelled_are_items_too(tmp_path: Path, name: str) -> None:
    executor = Executor(max_workers=1, grace_s=0)
    results = MAPS[name](executor)(
        executor_tasks.sleep_at, [1, 3, 5], [str(tmp_path / "in")] * 3, return_exceptions=True
    )
    assert next(results) == 1
    until((tmp_path / "in").exists, "the second one runs")
    executor.kill_workers()
    left = list(results)
    assert [type(each) for each in left] == [JobCancelled, JobCancelled]


@pytest.mark.parametrize("name", MAPS)
def test_the_time_of_the_whole_iteration_is_no_item(executor: Executor, tmp_path: Path, name: str) -> None:
    results = MAPS[name](executor.with_limits(grace_s=0))(
        executor_tasks.sleep_at, range(6), [str(tmp_path / "in")] * 6, timeout=2, return_exceptions=True
    )
    until((tmp_path / "in").exists, "the call that never ends runs")  # however long its process takes to start
    with pytest.raises(TimeoutError):
        list(results)
    pid = int((tmp_path / "in").read_text())
    until(lambda: processes.read_process(pid) is None, "it was stopped")


def test_unordered_results_come_as_they_are_done(executor: Executor, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abcd"]
    results = executor.map_unordered(executor_tasks.wait_for, paths)
    for name in ("b", "a", "d", "c"):
        (tmp_path / "new").write_text(name)  # the task may look between the file's creation and the writing of it
        (tmp_path / "new").rename(paths["abcd".index(name)])
        assert next(results) == name
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("buffersize", [None, 2])
def test_unordered_results_are_those_of_map(executor: Executor, chunksize: int, buffersize: int | None) -> None:
    results = executor.map_unordered(
        executor_tasks.add, range(50), iter(range(60)), chunksize=chunksize, buffersize=buffersize
    )
    assert sorted(results) == [2 * number for number in range(50)]
    assert list(executor.map_unordered(executor_tasks.square, [])) == []
    with pytest.raises(ValueError, match="buffersize"):
        executor.map_unordered(executor_tasks.square, [1], buffersize=0)


def test_unordered_items_fail_one_by_one(executor: Executor) -> None:
    failing = {1: "raise", 5: "crash"}
    results = executor.map_unordered(fail_at, range(8), [failing] * 8, chunksize=2, return_exceptions=True)
    assert sorted(map(str, told(results))) == sorted(
        ["0", "ValueError", "4", "9", "WorkerKilled", "WorkerKilled", "36", "49"]
    )


def test_unordered_takes_no_more_than_its_buffer(executor: Executor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = executor.map_unordered(executor_tasks.square, numbers(), chunksize=2, buffersize=3)
    assert len(taken) == 6
    next(results)
    assert len(taken) == 8


def test_leaving_an_unordered_iterator_stops_the_rest(executor: Executor, tmp_path: Path) -> None:
    results = executor.with_limits(grace_s=0).map_unordered(executor_tasks.sleep_at, [3, 1], [str(tmp_path / "in")] * 2)
    assert next(results) == 1
    until((tmp_path / "in").exists, "the other one runs")
    pid = int((tmp_path / "in").read_text())
    del results
    until(lambda: processes.read_process(pid) is None, "it was stopped")
