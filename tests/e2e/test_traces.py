"""Traces of jobs over OTLP: their phases, what a job adds, what is left of it when it is killed; and a collector that
is down, silent or talks nonsense.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from support.killable_command import Command, Serve, Server, client_of
from support.otlp_collector import AT_ONCE, ERROR, OK, UNSAMPLED, UNSET, Collector, GotSpan
from support.waiting import Pending, until

from killable import JobCancelled

pytestmark = pytest.mark.own_server
JOBS = """
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from killable import Context, job


@job
def where(ctx: Context) -> list[str | bool]:
    child = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT', ''))"]
    seen = subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()
    prepared = "killable.workers.authoring.spans" in sys.modules
    return [ctx.traceparent, ctx.tracestate, os.environ.get("TRACEPARENT", ""), seen, prepared]


@job
def tokens(n: int) -> Iterator[str]:
    for number in range(n):
        yield str(number)


@job
def spans(ctx: Context, dies: bool = False) -> str:
    with ctx.span("load", model="m", sizes=[1, 2]) as outer:
        with ctx.span("read"):
            pass
        try:
            with ctx.span("fails"):
                raise ValueError("no luck")
        except ValueError:
            pass
        outer.set("rows", 3)
        if dies:
            with ctx.span("deep"):
                os.kill(os.getpid(), signal.SIGKILL)
    return outer.traceparent


@job
def native(ctx: Context) -> int:
    with ctx.span("native call"):
        ctx.progress(1)
        return sum(range(10**13))


@job
def many(ctx: Context) -> int:
    for number in range(1500):
        with ctx.span(f"n{number}"):
            pass
    return 1500


@job
def flaky(ctx: Context) -> int:
    with ctx.span("try"):
        if ctx.attempt < 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt
"""
CONFIGURATION = """
[server]
port = 0
log_format = "json"

[telemetry]
endpoint = "http://127.0.0.1:{port}"
service_name = "shop"
{telemetry}

[pools.p]
module = "./my_jobs.py"
workers = 2
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, tmp_path: Path, collector: Collector) -> Start:
    def begin(telemetry: str = "", port: int = 0, **options: Any) -> Server:
        options.setdefault("constants", AT_ONCE)
        (tmp_path / "my_jobs.py").write_text(JOBS)
        text = CONFIGURATION.format(port=port or collector.port, telemetry=telemetry)
        (tmp_path / "killable.toml").write_text(text)
        started: Server = serve(**options)
        return started

    return begin


def submit(url: str, type: str, input: dict[str, Any] | None = None, **headers: str) -> str:
    answer = httpx.post(f"{url}/v1/jobs", json={"type": type, "input": input or {}}, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def ended(url: str, job_id: str) -> dict[str, Any]:
    def is_over() -> dict[str, Any] | Pending:
        found: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}").json()
        return found if found["ended_at"] else Pending(found["state"])

    return until(is_over, "the job is over")


def named(spans: list[GotSpan], name: str) -> GotSpan:
    return next(span for span in spans if span.name == name)


def names(spans: list[GotSpan]) -> list[str]:
    return sorted(span.name for span in spans if span.kind == 1)


def test_a_job_is_a_span_with_its_phases_in_the_trace_of_its_caller(start: Start, collector: Collector) -> None:
    url = start().url
    job_id = submit(url, "tokens", {"n": 3}, traceparent=PARENT, tracestate="vendor=1,other=x")
    record = ended(url, job_id)
    assert record["trace_id"] == PARENT[3:35]
    spans = collector.trace_of(job_id)
    request = collector.until_some(lambda span: span.name == "POST /v1/jobs", "the request")
    job, attempt = named(spans, "job tokens"), named(spans, "attempt")
    assert {span.trace_id for span in spans} == {PARENT[3:35]}
    assert {span.state for span in spans} == {"vendor=1,other=x"}
    assert (request.parent_id, job.parent_id, attempt.parent_id) == (PARENT[36:52], request.span_id, job.span_id)
    assert request.attributes["http.response.status_code"] == 202 and request.kind == 2
    assert names(spans) == ["attempt", "first token", "job tokens", "queued", "running", "starting", "tree empty"]
    assert job.status == attempt.status == OK and job.resource["service.name"] == "shop"
    of_phases = {"starting", "first token", "running", "tree empty"}
    assert {span.parent_id for span in spans if span.name in of_phases} == {attempt.span_id}
    assert named(spans, "starting").end_ns == named(spans, "first token").begin_ns
    assert all(job.begin_ns <= span.begin_ns <= span.end_ns <= job.end_ns for span in spans if span.kind == 1)
    assert attempt.attributes["killable.certificate.proof"] == record["certificate"]["proof"]
    assert attempt.attributes["killable.tokens"] == 3 and job.attributes["killable.tenant"] == "default"


def test_a_trace_survives_sigkill(start: Start, collector: Collector) -> None:
    server = start()
    with client_of(server.url) as client:
        job = client.submit("native")
        until(lambda: job.record()["progress"] or Pending(""), "it runs")
        job.cancel(grace_s=0.2, reason="enough")
        with pytest.raises(JobCancelled):
            job.result(wait_s=30)
        spans = collector.trace_of(job.id)
        certificate = job.record()["certificate"]
    root, attempt, own = named(spans, "job native"), named(spans, "attempt"), named(spans, "native call")
    phases = ["killed", "native call", "queued", "running", "starting", "stop asked", "tree empty"]
    assert names(spans) == sorted([*phases, "attempt", "job native"])
    assert (own.status, own.message, own.parent_id) == (ERROR, "killed", attempt.span_id)
    assert own.attributes["killable.truncated"] is True
    assert (root.status, root.attributes["killable.code"]) == (UNSET, "cancelled")
    told = {name: attempt.attributes[f"killable.certificate.{name}"] for name in ("last_signal", "by", "kill_sent")}
    assert told == {"last_signal": "SIGKILL", "by": "user", "kill_sent": certificate["kill_sent"]}
    asked, killed, empty = named(spans, "stop asked"), named(spans, "killed"), named(spans, "tree empty")
    assert asked.ms == pytest.approx(certificate["kill_sent"], abs=0.01)
    assert killed.begin_ns == asked.end_ns and empty.begin_ns == killed.end_ns == own.end_ns
    assert (empty.end_ns - asked.begin_ns) / 1e6 == pytest.approx(certificate["tree_empty"], abs=0.01)


def test_spans_of_a_job_are_parts_of_its_attempt(start: Start, collector: Collector) -> None:
    url = start().url
    whole, dead = submit(url, "spans"), submit(url, "spans", {"dies": True})
    result = ended(url, whole)["result"]
    spans = collector.trace_of(whole)
    load, read, fails = named(spans, "load"), named(spans, "read"), named(spans, "fails")
    assert load.parent_id == named(spans, "attempt").span_id and read.parent_id == fails.parent_id == load.span_id
    assert load.attributes == {"model": "m", "sizes": [1, 2], "rows": 3}
    assert result == f"00-{load.trace_id}-{load.span_id}-01"
    assert (fails.status, fails.message) == (ERROR, "ValueError: no luck") and read.status == UNSET
    assert ended(url, dead)["error"]["code"] == "killed_externally"
    spans = collector.trace_of(dead)
    for name in ("load", "deep"):
        cut = named(spans, name)
        assert (cut.status, cut.message, cut.attributes["killable.truncated"]) == (ERROR, "killed", True)
    assert "killable.truncated" not in named(spans, "read").attributes
    assert named(spans, "job spans").status == ERROR
    job_id = submit(url, "many")
    ended(url, job_id)
    spans = collector.trace_of(job_id)
    assert sum(span.name.startswith("n") and span.name[1:].isdecimal() for span in spans) == 1000
    assert named(spans, "attempt").attributes["killable.spans_left_out"] == 500


def test_each_attempt_has_its_spans(start: Start, collector: Collector) -> None:
    url = start().url
    body = {"type": "flaky", "limits": {"attempts_max": 2, "backoff_s": 0.01}}
    job_id = httpx.post(f"{url}/v1/jobs", json=body).json()["job_id"]
    assert ended(url, job_id)["result"] == 2
    spans = collector.trace_of(job_id)
    attempts = sorted((span for span in spans if span.name == "attempt"), key=lambda span: span.begin_ns)
    assert [(span.attributes["killable.attempt"], span.status) for span in attempts] == [(1, ERROR), (2, OK)]
    first, second = sorted((span for span in spans if span.name == "try"), key=lambda span: span.begin_ns)
    assert (first.parent_id, second.parent_id) == (attempts[0].span_id, attempts[1].span_id)
    assert (first.message, second.status) == ("killed", UNSET)
    assert len([span for span in spans if span.name == "queued"]) == 2


def test_the_place_in_the_trace_is_in_the_job_its_children_its_record_and_the_log(
    start: Start, collector: Collector
) -> None:
    server = start()
    job_id = submit(server.url, "where", traceparent=PARENT, tracestate="a=b")
    told, state, environment, seen, prepared = ended(server.url, job_id)["result"]
    assert not prepared  # for spans that it does not make: each new worker would take milliseconds for that
    attempt = named(collector.trace_of(job_id), "attempt")
    assert told == environment == seen == f"00-{PARENT[3:35]}-{attempt.span_id}-01" and state == "a=b"
    unsampled = submit(server.url, "where", traceparent=UNSAMPLED)
    assert ended(server.url, unsampled)["result"][0].startswith(UNSAMPLED[:36])
    assert ended(server.url, unsampled)["result"][0].endswith("-00")
    free = submit(server.url, "where", traceparent="nonsense")
    assert ended(server.url, free)["trace_id"] == collector.trace_of(free)[0].trace_id != PARENT[3:35]
    assert not [span for span in collector.spans if span.trace_id == UNSAMPLED[3:35]]
    assert f'"trace_id": "{PARENT[3:35]}"' in server.stop()[2]


def test_the_client_gives_its_span_to_the_job(start: Start, collector: Collector) -> None:
    context = trace.SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=trace.TraceFlags(1))
    with client_of(start().url) as client:
        with trace.use_span(trace.NonRecordingSpan(context)):
            inside = client.submit("tokens", {"n": 1})
        outside = client.submit("tokens", {"n": 1})
        assert inside.result(wait_s=30) is outside.result(wait_s=30) is None
        assert inside.record()["trace_id"] == f"{0xA1:032x}" != outside.record()["trace_id"]
    spans = collector.trace_of(inside.id)
    assert named(spans, "POST /v1/jobs").parent_id == f"{0xB2:016x}"


def test_without_telemetry_the_place_of_the_caller_is_passed_on(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    url = serve("my_jobs.py", "--port", "0").url
    job_id = submit(url, "where", traceparent=PARENT, tracestate="a=b")
    record = ended(url, job_id)
    assert record["result"] == [PARENT, "a=b", PARENT, PARENT, False] and record["trace_id"] == PARENT[3:35]
    other = ended(url, submit(url, "where"))
    assert (other["result"], other["trace_id"]) == (["", "", "", "", False], "")
    assert ended(url, submit(url, "spans"))["state"] == "completed"


@pytest.mark.parametrize("fault", ["down", "silent", "errors", "garbage"])
def test_a_collector_that_fails_costs_no_job_anything(start: Start, collector: Collector, fault: str) -> None:
    collector.is_silent = fault == "silent"
    collector.status = 400 if fault == "errors" else 200
    collector.body = b"\xff" * 100 if fault == "garbage" else b""
    port = 9 if fault == "down" else 0
    server = start('timeout_s = "1s"\nwaiting_max = 3\nflush_s = "500ms"', port)
    with client_of(server.url) as client:
        for _ in range(10):
            assert client.submit("tokens", {"n": 1}).result(wait_s=30) is None
        job = client.submit("native")
        until(lambda: job.record()["progress"] or Pending(""), "it runs")
        job.cancel(grace_s=0)
        with pytest.raises(JobCancelled):
            job.result(wait_s=30)
        assert job.record()["certificate"]["tree_empty"] < 1000
        if fault != "garbage":  # its status is 200
            result = "dropped" if fault == "silent" else "failed"
            until(lambda: lost(client.exposition(), result) or Pending(""), f"some were {result}")
    began = time.monotonic()
    code, _, said = server.stop()
    assert code == 0 and time.monotonic() - began < 10
    is_told = "traces_cannot_be_sent" in said or "traces_lost" in said
    assert is_told == (fault != "garbage")


def lost(exposition: str, result: str) -> float:
    lines = [line for line in exposition.splitlines() if line.startswith('killable_telemetry_total{kind="traces"')]
    return sum(float(line.split()[-1]) for line in lines if f'result="{result}"' in line)


def test_what_waits_is_sent_at_the_end(start: Start, collector: Collector) -> None:
    server = start()
    job_id = submit(server.url, "tokens", {"n": 1})
    ended(server.url, job_id)
    running = submit(server.url, "native")
    server.stop()
    for each in (job_id, running):
        assert any(span.attributes.get("killable.job.id") == each for span in collector.spans)


def test_what_is_wrong_with_an_address_is_told(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "killable.toml").write_text('[telemetry]\nendpoint = "localhost:4318"\nsample_ratio = 2\n'
                                            '[pools.p]\nmodule = "./my_jobs.py"\n')  # fmt: skip
    done = Command(tmp_path).run("check")
    assert done.returncode == 78, done.stderr
    assert "telemetry.endpoint: expected the address of a collector for OTLP" in done.stdout + done.stderr
    assert "telemetry.sample_ratio" in done.stdout + done.stderr


def test_the_variables_of_opentelemetry_count(serve: Serve, tmp_path: Path, collector: Collector) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "by-variable",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret%20one", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }  # fmt: skip
    server = serve("my_jobs.py", "--port", "0", env=environment)
    job_id = submit(server.url, "tokens", {"n": 1})
    spans = collector.trace_of(job_id)
    assert spans[0].resource["service.name"] == "by-variable"
    assert spans[0].resource["deployment.environment"] == "test"
    assert collector.headers[0]["x-key"] == "secret one" and collector.headers[0]["content-encoding"] == "gzip"
