"""The span of the program in which a task was submitted is the parent of what its body makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import traced_tasks
from opentelemetry import trace

from killable import Executor

TRACE, SPAN = 0xA1, 0xB2
NONE = "0" * 32, "0" * 16
HERE = f"{TRACE:032x}", f"{SPAN:016x}", f"00-{TRACE:032x}-{SPAN:016x}-01"


@contextmanager
def span(span_id: int = SPAN) -> Iterator[None]:
    state = trace.TraceState([("vendor", "x y")])
    context = trace.SpanContext(TRACE, span_id, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


def test_a_call_is_part_of_the_span_around_its_submission(executor: Executor) -> None:
    with span():
        inside = [executor.submit(traced_tasks.place) for _ in range(6)]
        streamed = executor.stream(traced_tasks.places)
        told = executor.submit(traced_tasks.of_context)
        lambdas = executor.submit(lambda: traced_tasks.place())
    outside = [executor.submit(traced_tasks.place) for _ in range(6)]
    assert {future.result() for future in inside} == {HERE} and list(streamed) == [HERE] and lambdas.result() == HERE
    assert told.result() == (HERE[2], "vendor=x y")
    assert {future.result() for future in outside} == {(*NONE, "")}


def test_so_is_one_that_waits_as_a_job(executor: Executor, tmp_path: Path) -> None:
    timed = executor.with_limits(queue_s=60, run_s=60)
    with span():
        futures = [timed.submit(traced_tasks.place) for _ in range(4)]
    assert {future.result() for future in futures} == {HERE}
    assert timed.submit(traced_tasks.place).result() == (*NONE, "")
    large = executor.with_limits(queue_s=60)
    with span():
        assert large.submit(traced_tasks.of_context).result() == (HERE[2], "vendor=x y")


def test_what_a_call_leaves_current_is_no_parent_of_the_next(executor: Executor) -> None:
    with span():
        for number in range(4):
            executor.submit(traced_tasks.leave_a_span, (TRACE, number + 1)).result()
            assert executor.submit(traced_tasks.place).result() == HERE
    assert executor.submit(traced_tasks.place).result() == (*NONE, "")


def test_the_place_of_the_program_itself_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    started_in = f"00-{0xC3:032x}-{0xD4:016x}-01"
    monkeypatch.setenv("TRACEPARENT", started_in)
    with Executor(max_workers=1) as executor:
        timed = executor.with_limits(queue_s=60)
        for submit in (executor.submit, timed.submit):
            assert submit(traced_tasks.place).result()[2] == started_in
            with span():
                future = submit(traced_tasks.place)
            assert future.result()[2] == HERE[2]
            assert submit(traced_tasks.place).result()[2] == started_in
