"""A job's events: gapless, in order, an exact prefix of what was written."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest

from killable.supervisor.jobs import event_log
from killable.supervisor.jobs.event_log import RECENT_MAX, EventLog
from killable.supervisor.jobs.job import EVENT_BYTES
from killable.supervisor.models import JobEvent


def test_ids_are_positions() -> None:
    log = EventLog(1000)
    for name, data in [("started", b"{}"), ("token", b'{"text":"a"}'), ("completed", b"{}")]:
        assert log.append(name, data)
    events = log.read(-1, 10)
    assert [(event.id, event.name, event.data) for event in events] == [
        (0, "started", b"{}"),
        (1, "token", b'{"text":"a"}'),
        (2, "completed", b"{}"),
    ]
    assert (len(log), log.tokens, log.bytes, log.output_bytes) == (3, 1, 16, 12)


@pytest.mark.parametrize(
    ("after", "limit", "ids"),
    [(-1, 3, [0, 1, 2]), (2, 3, [3, 4, 5]), (8, 3, [9]), (9, 3, []), (1000, 3, []), (-1, 0, [])],
)
def test_reading_goes_on_from_any_place(after: int, limit: int, ids: list[int]) -> None:
    log = EventLog(1000)
    for number in range(10):
        log.append("token", b"%d" % number)
    assert [event.id for event in log.read(after, limit)] == ids
    assert [event.data for event in log.read(after, limit)] == [b"%d" % number for number in ids]


@pytest.mark.parametrize("first", [0, 5])
def test_the_data_of_one_kind_of_event_is_read_in_steps_across_blocks(first: int) -> None:
    log = EventLog(1 << 20, first)
    wanted = []
    for number in range(3 * RECENT_MAX):
        if number % 3:
            wanted.append(b"%d" % number)
        log.append("token" if number % 3 else "log", b"%d" % number)
    after, found = -1, []
    while after < len(log) - 1:
        after, data = log.read_data("token", after, 1000)
        found += data
    assert found == wanted and after == len(log) - 1


@pytest.mark.row("B19")
def test_output_over_the_bound_is_counted_and_dropped() -> None:
    log = EventLog(10)
    assert log.append("token", b"x" * 6) and log.append("log", b"y" * 4)
    assert not log.append("token", b"z")
    assert (log.overflowed, log.output_bytes, log.tokens) == (1, 10, 1)


@pytest.mark.row("B19")
def test_after_the_first_drop_nothing_more_is_taken_even_if_it_fits() -> None:
    log = EventLog(10)
    assert log.append("token", b"x" * 6)
    assert not log.append("token", b"y" * 7)
    assert not log.append("token", b"z")
    assert not log.append_output([("token", b"a")], 1)
    assert [event.data for event in log.read(-1, 10)] == [b"x" * 6]
    assert log.overflowed == 9


@pytest.mark.parametrize("name", ["token", "log", "progress", "checkpoint"])
def test_whatever_a_job_can_write_without_end_is_bounded(name: str) -> None:
    log = EventLog(10)
    assert [log.append(name, b"1234") for _ in range(4)] == [True, True, False, False]
    assert len(log) == 2


def test_what_the_supervisor_says_itself_always_fits() -> None:
    log = EventLog(0)
    assert not log.append("token", b"x")
    assert log.append("limit", b"y" * 1000) and log.append("failed", b"{}")
    assert [event.name for event in log.read(-1, 10)] == ["limit", "failed"]


@pytest.mark.parametrize("bound", range(13))
@pytest.mark.parametrize("batches", [[4, 4], [1, 2, 5], [8], [1] * 8])
def test_tokens_that_came_together_are_cut_as_if_they_had_come_one_by_one(bound: int, batches: list[int]) -> None:
    tokens = [b"%d" % number for number in range(8)]
    together, single = EventLog(bound), EventLog(bound)
    one_by_one = [single.append("token", token) for token in tokens]
    position, results = 0, []
    for size in batches:
        batch = [("token", token) for token in tokens[position : position + size]]
        results.append(together.append_output(batch, size))
        position += size
    assert together.read(-1, 10) == single.read(-1, 10)
    assert (together.tokens, together.bytes, together.output_bytes, together.overflowed) == (
        single.tokens,
        single.bytes,
        single.output_bytes,
        single.overflowed,
    )
    assert all(results) == all(one_by_one)


@pytest.mark.parametrize("sealed", [False, True])
def test_older_events_are_packed_and_read_as_they_were(sealed: bool) -> None:
    log = EventLog(1 << 30)
    written: list[tuple[str, bytes]] = []
    for number in range(3 * RECENT_MAX):
        event = ("log" if number % 1000 == 7 else "token", b"%d" % number * (number % 5))
        log.append(*event)
        written.append(event)
    batch = [("token", b"x" * size) for size in range(RECENT_MAX + 10)]
    log.append_output(batch, sum(len(data) for _, data in batch))
    written += batch
    if sealed:
        log.seal()
        log.seal()  # harmless
    expected = [(id, name, data) for id, (name, data) in enumerate(written)]
    assert len(log) == len(expected)
    edges = {-1, 0, RECENT_MAX // 2 - 2, RECENT_MAX // 2 - 1, RECENT_MAX - 1, RECENT_MAX, len(expected) - 2}
    for after in edges:
        for limit in (1, 2, RECENT_MAX, 10 * RECENT_MAX):
            assert log.read(after, limit) == expected[after + 1 : after + 1 + limit]
    assert log.read(len(expected) - 1, 10) == []


def test_a_kept_token_costs_little_more_than_its_bytes() -> None:
    log = EventLog(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, 100_000, 250):
            batch = [("token", b'{"text":" %05d"}' % number) for number in range(start, start + 250)]
            log.append_output(batch, 250 * 17)
        log.seal()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used < 100_000 * (17 + EVENT_BYTES)


def at_line(number: int, act: Callable[[], None]) -> Callable[[FrameType, str, object], object]:
    """Return a trace function that does something at the n-th line that the log runs, as another thread might."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal left
        if frame.f_code.co_filename != event_log.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                act()
        return trace

    return trace


@pytest.mark.parametrize("beside", ["a read while it packs", "packing while it is read"])
def test_another_thread_may_read_at_any_moment(beside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`JobFuture.stdout` is asked for in the program's threads.

    The log packs a few events at a time: the lines that it runs for each of them are the same for the thousandth.
    """
    recent_max = 32
    monkeypatch.setattr(event_log, "RECENT_MAX", recent_max)
    traced = sys.gettrace()
    for line in itertools.count(1):
        log = EventLog(1 << 20)
        for number in range(recent_max - 1):
            log.append("log", b"%d" % number)
        found: list[bytes] = []
        happened = False

        def read(log: EventLog = log, found: list[bytes] = found) -> None:
            found += [event.data for event in log.read(-1, 2 * recent_max)]

        def append(log: EventLog = log) -> None:
            log.append("log", b"%d" % (recent_max - 1))

        this, other = (append, read) if beside.startswith("a read") else (read, append)

        def note(other: Callable[[], None] = other) -> None:
            nonlocal happened
            happened = True
            other()

        sys.settrace(at_line(line, note))
        try:
            this()
        finally:
            sys.settrace(traced)
        if not happened:
            break
        assert found == [b"%d" % number for number in range(len(found))]
        assert len(found) >= recent_max - 1
    assert line > 8


def test_a_sealed_log_survives_its_bytes() -> None:
    log = EventLog(1 << 20, first=7)
    log.append("started", b"{}")
    for number in range(3 * RECENT_MAX):
        log.append("token", b"%d" % number)
    log.append("log", b"words")
    log.append("completed", b"")
    log.seal()
    encoded = b"".join(log.encoded())
    again = EventLog.decode(encoded, 1 << 20, first=7)
    assert again.read(-1, 1 << 20) == log.read(-1, 1 << 20)
    assert (len(again), again.tokens, again.bytes) == (len(log), log.tokens, log.bytes)
    assert again.output_bytes == log.output_bytes < log.bytes, "what the server says itself is no output"
    assert again.read(RECENT_MAX, 3) == log.read(RECENT_MAX, 3)
    for cut in (1, len(encoded) // 2):
        with pytest.raises(ValueError):
            EventLog.decode(encoded[:-cut], 1 << 20)


def test_a_log_may_begin_behind_events_that_are_lost() -> None:
    log = EventLog(1000, first=100)
    assert (len(log), log.read(-1, 10), log.read(99, 10)) == (100, [], [])
    log.append("failed", b"{}")
    log.seal()
    for after in (-1, 17, 99):
        assert [event.id for event in log.read(after, 10)] == [100]
    assert log.read(100, 10) == [] and len(log) == 101


def test_what_is_read_at_once_is_bounded_in_bytes_too() -> None:
    log = EventLog(1 << 20)
    for size in [100] * (RECENT_MAX + 10):  # of these some are packed
        log.append("token", b"x" * size)
    log.append("token", b"y" * 5000)
    log.append("completed", b"{}")
    assert [event.id for event in log.read(-1, 4096, 1000)] == list(range(10))
    assert [event.id for event in log.read(-1, 4, 1000)] == [0, 1, 2, 3]
    assert [event.id for event in log.read(-1, 4096, 50)] == [0], "one at least"
    assert [len(event.data) for event in log.read(RECENT_MAX + 9, 4096, 1000)] == [5000]
    found: list[int] = []
    while batch := log.read(found[-1] if found else -1, 4096, 1000):
        found += [event.id for event in batch]
    assert found == list(range(len(log)))


@pytest.mark.parametrize("names", [["token"], ["token", "log"]])
def test_steps_of_any_size_read_a_sealed_log_as_it_is(names: list[str]) -> None:
    def in_steps(limit: int, bytes_max: int) -> list[JobEvent]:
        read: list[JobEvent] = []
        while step := log.read(len(read) - 1, limit, bytes_max):
            assert sum(len(event.data) for event in step[:-1]) < bytes_max and len(step) <= limit
            read += step
        return read

    log = EventLog(1 << 20)
    for number in range(RECENT_MAX + 100):
        log.append(names[number % len(names)], b"x" * (number % 7))
    whole = log.read(-1, len(log))
    log.seal()
    assert [event.data for event in whole] == [b"x" * (number % 7) for number in range(RECENT_MAX + 100)]
    for limit, bytes_max in itertools.product([1, 7, 10_000], [1, 2, 20, 1000, sys.maxsize]):
        assert in_steps(limit, bytes_max) == whole


def test_a_small_step_in_a_large_block_copies_no_more_than_it_reads() -> None:
    log = EventLog(1 << 30)
    for _ in range(300):
        log.append("token", bytes(1 << 16))
    log.seal()
    tracemalloc.start()
    try:
        assert len(log.read(100, 1024, 1 << 18)) == 4
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def test_a_large_event_is_the_same_object_for_all_readers() -> None:
    """Many readers that do not read would else hold a copy each."""
    log = EventLog(1 << 30)
    large = b"x" * 1_000_000
    for data in (b"1", b"2", large, large + b"y", b"3"):
        assert log.append("token", data)
    for _ in range(RECENT_MAX):
        log.append("token", b"small")
    log.seal()
    found = [event.data for event in log.read(-1, 10)]
    assert found[:5] == [b"1", b"2", large, large + b"y", b"3"]
    again = EventLog.decode(b"".join(log.encoded()), 1 << 30)
    for each in (log, again):
        one, other = each.read(1, 2), each.read(1, 2, bytes_max=10)
        assert one[0].data is other[0].data and [event.id for event in one] == [2, 3]
