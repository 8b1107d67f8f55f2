"""Spans that a job makes with OpenTelemetry's SDK are in its trace, also those in whose middle it was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.killable_command import Serve, Server, client_of
from support.otlp_collector import AT_ONCE, ERROR, OK, UNSAMPLED, UNSET, Collector, GotSpan
from support.waiting import Pending, until

from killable import JobCancelled

pytestmark = pytest.mark.own_server
JOBS = """
import os
import threading
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from killable import Context, job

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("mine")
left_open = []


@job
def works(ctx: Context, dies: bool = False) -> list[object]:
    with tracer.start_as_current_span("fetch", kind=SpanKind.CLIENT, attributes={"n": 1, "s": ["a"]}) as span:
        span.add_event("half", {"rows": 2})
        with ctx.span("inner") as inner:
            with tracer.start_as_current_span("deepest"):
                pass
        try:
            with tracer.start_as_current_span("fails"):
                raise ValueError("no luck")
        except ValueError:
            pass
        span.update_name("fetched")
        span.set_attribute("late", True)
        same = trace.get_current_span() is span
        if dies:
            with tracer.start_as_current_span("native"):
                ctx.progress(1)
                sum(range(10**13))
    with tracer.start_as_current_span("good") as good:
        good.set_status(trace.StatusCode.OK)
    return [inner.traceparent, same, os.getpid(), threading.active_count()]


@job
def words(n: int) -> Iterator[str]:
    left_open.append(tracer.start_as_current_span("yielding"))
    left_open[-1].__enter__()
    for number in range(n):
        yield str(number)


@job
def many() -> int:
    for number in range(1500):
        with tracer.start_as_current_span(f"n{number}"):
            pass
    return 1500


@job
def odd(ctx: Context) -> None:
    with ctx.span("n\\ud800", **{"k\\ud800": "v\\ud800", "l": ["\\udcff"]}):
        pass
    with tracer.start_as_current_span("s") as span:
        span.add_event("e\\ud800")
    begun = '{"span":"%016x","parent":"00000000000000aa","name":"f","begin_ns":%s,"attributes":{}}'
    for number, begin_ns in enumerate(("1e999", "1" * 400, "-1", '[1]'), 1):
        ctx._channel.send(18, (begun % (number, begin_ns)).encode())
    raise ValueError("m\\ud800")


@job
def unrelated() -> None:
    thread = threading.Thread(target=lambda: tracer.start_span("alone").end())
    thread.start()
    thread.join()
"""
CONFIGURATION = """
[server]
port = 0
{server}

[telemetry]
endpoint = "http://127.0.0.1:{port}"

[pools.p]
module = "./my_jobs.py"
workers = 1
spares = 0
jobs_per_worker_max = 0
"""
CLIENT = 3
Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, tmp_path: Path, collector: Collector) -> Start:
    def begin(server: str = "") -> Server:
        (tmp_path / "my_jobs.py").write_text(JOBS)
        (tmp_path / "killable.toml").write_text(CONFIGURATION.format(port=collector.port, server=server))
        started: Server = serve(constants=AT_ONCE)
        return started

    return begin


def run(
    url: str, type: str, input: dict[str, Any] | None = None, state: str = "completed", **headers: str
) -> tuple[str, Any]:
    answer = httpx.post(f"{url}/v1/jobs", json={"type": type, "input": input or {}}, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]

    def is_over() -> dict[str, Any] | Pending:
        found: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}").json()
        return found if found["ended_at"] else Pending(found["state"])

    record = until(is_over, "the job is over")
    assert record["state"] == state, record
    return job_id, record["result"]


def named(spans: list[GotSpan], name: str) -> GotSpan:
    (found,) = (span for span in spans if span.name == name)
    return found


def test_they_are_parts_of_the_attempt_and_nest_with_those_of_killable(start: Start, collector: Collector) -> None:
    url = start().url
    job_id, (inside, same, _, threads) = run(url, "works")
    spans = collector.trace_of(job_id)
    attempt, fetched, inner = named(spans, "attempt"), named(spans, "fetched"), named(spans, "inner")
    deepest, fails = named(spans, "deepest"), named(spans, "fails")
    assert [span.parent_id for span in (fetched, inner, deepest, fails, named(spans, "good"))] == [
        attempt.span_id, fetched.span_id, inner.span_id, fetched.span_id, attempt.span_id,
    ]  # fmt: skip
    assert inside == f"00-{inner.trace_id}-{inner.span_id}-01" and same is True and threads == 1
    assert fetched.kind == CLIENT and fetched.attributes == {"n": 1, "s": ["a"], "late": True}
    assert fetched.events == [("half", {"rows": 2})] and fetched.status == UNSET
    assert attempt.begin_ns <= fetched.begin_ns <= deepest.begin_ns <= deepest.end_ns <= fetched.end_ns
    assert (fails.status, fails.message, fails.attributes) == (
        ERROR,
        "ValueError: no luck",
        {"error.type": "ValueError"},
    )
    assert named(spans, "good").status == OK
    ((name, attributes),) = fails.events
    assert name == "exception" and attributes["exception.message"] == "no luck"


def test_what_sigkill_interrupts_is_cut_off_and_what_had_ended_is_whole(start: Start, collector: Collector) -> None:
    with client_of(start("redact = true").url) as client:
        job = client.submit("works", {"dies": True})
        until(lambda: job.record()["progress"] or Pending(""), "it runs")
        job.cancel(grace_s=0)
        with pytest.raises(JobCancelled):
            job.result(wait_s=30)
        spans = collector.trace_of(job.id)
    for name, parent in (("native", named(spans, "fetch")), ("fetch", named(spans, "attempt"))):
        cut = named(spans, name)
        assert (cut.status, cut.message, cut.attributes["killable.truncated"]) == (ERROR, "killed", True)
        assert cut.parent_id == parent.span_id and cut.end_ns == named(spans, "tree empty").begin_ns
    whole, fails = named(spans, "deepest"), named(spans, "fails")
    assert whole.status == UNSET and "killable.truncated" not in whole.attributes
    ((_, attributes),) = fails.events
    assert fails.message == "ValueError" and attributes.keys() == {"exception.type", "exception.escaped"}


def test_each_job_of_a_worker_has_its_own(start: Start, collector: Collector) -> None:
    url = start().url
    found = []
    for _ in range(2):
        job_id, _ = run(url, "words", {"n": 2})
        spans = collector.trace_of(job_id)
        cut = named(spans, "yielding")
        assert cut.parent_id == named(spans, "attempt").span_id and cut.attributes == {"killable.truncated": True}
        found.append(named(spans, "attempt").attributes["process.pid"])
    assert found[0] == found[1]  # what one leaves open is no parent of what the next one begins
    _, (inside, _, pid, _) = run(url, "works", traceparent=UNSAMPLED)
    assert pid == found[0] and inside == ""
    job_id, _ = run(url, "unrelated")
    collector.trace_of(job_id)
    assert not [span for span in collector.spans if span.name == "alone" or span.trace_id == UNSAMPLED[3:35]]


def test_more_than_a_thousand_are_counted(start: Start, collector: Collector) -> None:
    job_id, _ = run(start().url, "many")
    spans = collector.trace_of(job_id)
    assert sum(span.name.startswith("n") for span in spans) == 1000
    assert named(spans, "attempt").attributes["killable.spans_left_out"] == 500, json.dumps(len(spans))


def test_nothing_that_a_job_tells_keeps_traces_from_being_sent(start: Start, collector: Collector) -> None:
    url = start().url
    job_id, _ = run(url, "odd", state="failed")
    spans = collector.trace_of(job_id)
    assert named(spans, "n?").attributes == {"k?": "v?", "l": ["?"]}
    assert named(spans, "s").events == [("e?", {})]
    attempt = named(spans, "attempt")
    assert attempt.message.endswith("m?") and attempt.attributes["killable.spans_left_out"] == 4
