"""Streams that are faster than their pipe: nothing that a yield has returned from is lost, whatever happens."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from executor import executor_tasks, streaming_tasks
from support import processes
from support.executor_lanes import stalled_supervisor_thread
from support.waiting import Pending, until

from killable import Executor, JobError, WorkerCrashed
from killable.supervisor.executor.streams import Stream
from killable.workers.protocol.token_ring import TOKENS_MAX

KILLS = 120


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[tuple[str, memoryview]]:
    """A page that the test shares with its task, and its name."""
    path = str(tmp_path / "page")
    Path(path).write_bytes(bytes(4096))
    page = streaming_tasks.shared(path)
    words = memoryview(page).cast("Q")
    yield path, words
    words.release()
    page.close()


def rest_of(stream: Stream[Any]) -> tuple[list[Any], JobError | None]:
    """Read a stream to its end; return its items and its error."""
    items: list[Any] = []
    try:
        items.extend(stream)
    except JobError as error:
        return items, error
    return items, None


def test_a_kill_at_any_moment_loses_nothing_that_a_yield_has_returned_from(noted: tuple[str, memoryview]) -> None:
    """The moments are random: somewhere between the first tokens and a ring and a pipe that are full."""
    path, words = noted
    choose = random.Random(5)
    in_ring = 0
    with Executor(max_workers=1) as executor:
        for _ in range(KILLS):
            words[0] = 0
            stream = executor.stream(streaming_tasks.count_and_note, path)
            first = list(itertools.islice(stream, choose.choice((1, 10, 300, 3000))))
            for _ in range(choose.randrange(3000)):  # some of a millisecond: it goes on, and is not read
                pass
            assert stream.future.pid is not None
            os.kill(stream.future.pid, signal.SIGKILL)
            rest, error = rest_of(stream)
            assert isinstance(error, WorkerCrashed)
            received = first + rest
            assert received == list(range(len(received)))
            assert words[0] <= len(received) <= words[0] + 1  # the last one may be there before its yield returned
            in_ring += len(received)
    assert in_ring > KILLS * 100


def test_a_reader_that_falls_asleep_is_woken_by_the_next_token(noted: tuple[str, memoryview]) -> None:
    """Bursts of any length, so that the last token of one comes in every moment of falling asleep."""
    path, words = noted
    choose = random.Random(3)
    sizes = [choose.randrange(9, 250) for _ in range(500)]
    with Executor(max_workers=1) as executor:
        stream = executor.stream(streaming_tasks.wait_for_answers, path, sizes)
        for number, size in enumerate(sizes, 1):
            assert list(itertools.islice(stream, size)) == list(range(size))
            words[0] = number
        assert list(stream) == []


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_all_items_come_in_order_among_other_reports(start_method: Literal["fork", "spawn"]) -> None:
    with Executor(max_workers=1, start_method=start_method) as executor:
        stream = executor.stream(streaming_tasks.count_and_report, 100_000)
        assert list(stream) == list(range(100_000))
        assert stream.future.progress is not None and stream.future.progress.done == 99_000
        assert executor.submit(executor_tasks.square, 3).result() == 9  # the same worker


def test_while_nobody_reads_the_job_waits_and_then_all_of_it_comes(
    noted: tuple[str, memoryview], executor: Executor
) -> None:
    """The supervisor's thread stands still until ring and pipe are full."""
    path, words = noted
    stream = executor.with_limits(grace_s=0).stream(streaming_tasks.count_and_note, path)
    next(stream)

    def stands() -> bool | Pending:
        before = words[0]
        for _ in range(100_000):
            pass
        return (words[0] == before and before > 1000) or Pending((before, words[0]))  # there is room for more

    for _ in range(3):
        with stalled_supervisor_thread(executor):
            until(stands, "the job waits in its write")
            count = words[0]
        items = list(itertools.islice(stream, count))
        assert items == list(range(items[0], items[0] + count))
    with stalled_supervisor_thread(executor):
        until(stands, "the job waits in its write")
        assert stream.future.cancel()  # ends the process from this thread
    rest, _ = rest_of(stream)
    assert rest == list(range(items[-1] + 1, items[-1] + 1 + len(rest)))


def test_what_a_job_yields_in_its_grace_comes_last(executor: Executor) -> None:
    for read in (1, 1000, 20_000):
        stream = executor.stream(streaming_tasks.count_until_stopped)
        first = list(itertools.islice(stream, read))
        stream.future.cancel()
        rest, error = rest_of(stream)
        assert isinstance(error, JobError)
        assert rest[-2:] == ["last", "words"]
        numbers = first + rest[:-2]
        assert numbers == list(range(len(numbers)))


def test_a_job_that_writes_into_the_ring_at_random_hurts_itself_only(executor: Executor) -> None:
    other = executor.stream(executor_tasks.count, 100_000)
    for seed in range(10):
        items, error = rest_of(executor.stream(streaming_tasks.scribble, seed))
        assert items[:20_000] == list(range(20_000)) or error is not None
    assert list(other) == list(range(100_000))
    assert executor.submit(executor_tasks.square, 3).result() == 9


def test_tokens_that_no_wake_up_came_with_are_found_with_the_end(executor: Executor) -> None:
    """More than one turn takes, and behind them nothing but the end."""
    items = list(executor.stream(streaming_tasks.wake_writer_only, 20_000, 5000))
    assert len(items) >= 25_000 and items == list(range(len(items)))


def test_a_ring_that_is_not_empty_after_a_job_is_used_by_no_other(executor: Executor) -> None:
    tokens = TOKENS_MAX // 2  # with what it claims they fit into the ring, also if none of them was read before
    for _ in range(4):
        items, _ = rest_of(executor.stream(streaming_tasks.publish_more_at_the_end, tokens))
        assert items[:tokens] == list(range(tokens))
        assert list(executor.stream(executor_tasks.count, 50_000)) == list(range(50_000))


def test_items_that_come_with_the_end_do_not_wait_for_it(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's end takes longer to work out than its items take to be read."""
    seen: list[tuple[int, bool]] = []
    with stalled_supervisor_thread(executor):
        stream = executor.stream(executor_tasks.count, 3)
        future = stream.future
        monkeypatch.setattr(future, "wake", lambda: seen.append((len(future.items), future.done())))
        assert future.pid is not None
        until(lambda: processes.unread_bytes(future.pid, os.getpid()) > 0, "the job has said something")
        until(processes.is_in_state(future.pid, "S"), "the worker has said all")
    future.result()
    assert seen[0] == (3, False) and seen[-1] == (3, True)


def test_a_fork_of_the_program_reads_nothing_of_a_stream(executor: Executor) -> None:
    stream = executor.stream(executor_tasks.count, 200_000)
    first = list(itertools.islice(stream, 1000))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert first + list(stream) == list(range(200_000))
