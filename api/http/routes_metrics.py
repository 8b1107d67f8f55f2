"""Routes for metrics: text for Prometheus, and one JSON document.

Runs in: api.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.responses import Json, Responses, documented
from killable.api.http.telemetry_sent import TelemetrySent
from killable.supervisor.telemetry import log_lines
from killable.supervisor.telemetry.metrics_exposition import as_text

OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
TEXT = "text/plain"
TEXT_TYPE = f"{TEXT}; version=0.0.4; charset=utf-8"

WEBHOOK_COUNTS = {
    "delivered": "Webhooks that were taken",
    "failed": "Attempts to deliver a webhook that failed",
    "given_up": "Webhooks that were given up",
    "refused": "Webhooks that were given up at once, as too many waited",
}
router = APIRouter(tags=["metrics"], default_response_class=Json)


class Percentiles(BaseModel):
    """Percentiles of the latest 1024 values; null if there are none."""

    p50: float | None
    p95: float | None
    p99: float | None


class Counts(BaseModel):
    """Totals since the start, percentiles, and current gauges. Later versions may add members."""

    jobs_completed: int
    jobs_failed: int
    jobs_cancelled: int
    jobs_timed_out: int
    ended_last_minute: int = Field(description="Jobs that have ended in the last 60 s, however")
    queued: int
    running: int
    stopping: int
    accepted: int
    replayed: int = Field(description="Submissions answered from a known idempotency key")
    refused: dict[str, int] = Field(description="Refused submissions, by code")
    cancel_ms: Percentiles = Field(
        description="Time from the request of a cancel until the job's process tree is empty"
    )
    queue_wait_ms: Percentiles
    start_ms: Percentiles = Field(description="Time from the assignment to a worker to the entry of the job function")
    first_token_ms: Percentiles = Field(description="Time from the entry of the job function to its first token")
    recovery_ms: Percentiles = Field(
        description="Time from the end of a process tree until its pool has a warm worker again"
    )
    run_s: dict[str, Percentiles] = Field(description="Run time of jobs that were not cancelled, by type")
    timeouts: dict[str, int] = Field(description="Jobs that a deadline ended, by kind of deadline")
    retries: dict[str, int] = Field(description="Retried attempts, by the code of their error")
    unproven: int = Field(description="Ended attempts of which it is not proven that no process is left")
    stops: dict[str, int] = Field(description="Stopped jobs, by code")
    kills: dict[str, int] = Field(description="Attempts to which SIGTERM and SIGKILL were sent, by signal")
    workers: dict[str, int] = Field(description="Workers by state")
    spares: int = Field(description="Warm, idle workers")
    queue_bytes: int
    tokens: int
    tokens_saved: int = Field(description="Tokens that stopped jobs had announced and did not emit")
    sse_clients: int
    zygote_restarts: int
    workers_replaced: dict[str, int] = Field(description="Workers that have ended, of all pools, by why")
    loop_lag_ms: float
    loop_longest_ms: float
    uptime_s: float
    log_records_lost: int = Field(description="Records that the server's log could not take")
    audit_records_lost: int = Field(description="Records that the audit log could not take (server.audit_log)")
    requests_waiting: int = Field(description="HTTP requests that wait for their turn")
    requests_shed: int = Field(description="HTTP requests refused (503 busy), as too many of their client waited")
    files: int = Field(0, description="Uploaded files that are there; absent if the server keeps none")
    files_bytes: int = Field(0, description="Their size; absent likewise")
    files_received_bytes: int = Field(0, description="Bytes of uploads, also of those that failed; absent likewise")
    files_sent_bytes: int = Field(0, description="Bytes of files that were downloaded; absent likewise")
    webhooks: dict[str, int] = Field(
        description="Webhooks that wait, and: delivered, failed attempts, given up, refused as too many waited"
    )
    nodes: dict[str, int] = Field({}, description="Nodes by state; absent if the server is one machine")
    nodes_lost: int = Field(0, description="Nodes whose lease was over, or that have ended; absent likewise")
    cpus_requested: int = Field(0, description="Processors that Ray's autoscaler was asked for last; absent likewise")


def _texts() -> Responses:
    schema: dict[str, Any] = {"schema": {"type": "string"}}
    return {200: {"description": "The metrics, prefix `killable_`", "content": {TEXT: schema, OPENMETRICS: schema}}}


@router.get("/metrics", response_class=Response, responses=documented(_texts()))
async def metrics(request: Request, accept: Annotated[str, Header()] = "") -> Response:
    """Return the metrics in the Prometheus text format, or as OpenMetrics if `Accept` contains it."""
    return await _text(request, OPENMETRICS in _accepted(accept))


@router.get("/v1/metrics", responses=documented({200: {"model": Counts}}))
async def counts(request: Request, accept: Annotated[str, Header()] = "") -> Response:
    """Return the metrics as JSON, or as text if `Accept` prefers a text format."""
    engine = engine_of(request)
    asked = _accepted(accept)
    for media_type in asked:
        if media_type in (OPENMETRICS, TEXT):
            return await _text(request, media_type == OPENMETRICS)
        if media_type in ("application/json", "application/*", "*/*"):
            break
    turns = parts_of(request).turns
    of_http = {"requests_waiting": turns.waiting, "requests_shed": turns.shed, "webhooks": _webhooks(request)}
    lost = {"log_records_lost": log_lines.records_lost(), "audit_records_lost": _lost(request)}
    return Json({**await engine.scraping.counts(), **lost, **of_http})


def _webhooks(request: Request) -> dict[str, int]:
    webhooks = parts_of(request).webhooks
    counts = Counter[str]() if webhooks is None else webhooks.counts
    waiting = 0 if webhooks is None else webhooks.waiting
    return {"waiting": waiting, **{name: counts[name] for name in WEBHOOK_COUNTS}}


def _lost(request: Request) -> int:
    audit_log = parts_of(request).audit_log
    return 0 if audit_log is None else audit_log.lost


async def _text(request: Request, openmetrics: bool) -> Response:
    body = await engine_of(request).scraping.exposition(openmetrics=openmetrics)
    turns, total = parts_of(request).turns, "" if openmetrics else "_total"
    _, degraded = await parts_of(request).readiness()
    lines = [
        "# HELP killable_degraded What is wrong with the server, as many as /readyz names",
        "# TYPE killable_degraded gauge",
        f"killable_degraded {len(degraded)}.0",
        "# HELP killable_requests_waiting HTTP requests that wait for their turn",
        "# TYPE killable_requests_waiting gauge",
        f"killable_requests_waiting {turns.waiting}.0",
        *_counter("killable_requests_shed", total, "HTTP requests refused as busy", turns.shed),
        *_counter(
            "killable_log_records_lost", total, "Records that the server's log could not take", log_lines.records_lost()
        ),
    ]
    if parts_of(request).audit_log is not None:
        told = "Records that the audit log could not take"
        lines += _counter("killable_audit_records_lost", total, told, _lost(request))
    waiting = "Webhooks that are neither taken nor given up"
    webhooks = _webhooks(request)
    lines += [f"# HELP killable_webhooks_waiting {waiting}", "# TYPE killable_webhooks_waiting gauge"]
    lines.append(f"killable_webhooks_waiting {webhooks['waiting']}.0")
    for name, told in WEBHOOK_COUNTS.items():
        lines += _counter(f"killable_webhooks_{name}", total, told, webhooks[name])
    if (telemetry := parts_of(request).telemetry) is not None:
        lines += _sent(telemetry, total)
    requests = as_text(parts_of(request).request_metrics.collect(), openmetrics=openmetrics).removesuffix(b"# EOF\n")
    # They come first: in OpenMetrics, the text of the engine has an end.
    body = "\n".join([*lines, ""]).encode() + requests + body
    return Response(body, headers={"Content-Type": OPENMETRICS_TYPE if openmetrics else TEXT_TYPE})


def _counter(name: str, suffix: str, about: str, value: int) -> list[str]:
    """Return the lines of a counter. `suffix`: of its name in the first two lines."""
    return [f"# HELP {name}{suffix} {about}", f"# TYPE {name}{suffix} counter", f"{name}_total {value}.0"]


def _sent(telemetry: TelemetrySent, suffix: str) -> Iterator[str]:
    """Yield the lines about telemetry that was sent elsewhere. `suffix`: of a counter's name in its first two lines."""
    name = "killable_telemetry"
    yield f"# HELP {name}{suffix} Telemetry, by what became of it: sent, dropped as too much waited, failed"
    yield f"# TYPE {name}{suffix} counter"
    for kind, counts in telemetry.counts.items():
        for result, number in counts.items():
            yield f'{name}_total{{kind="{kind}",result="{result}"}} {number}.0'
    yield f"# HELP {name}_waiting Ended jobs and requests whose spans wait to be sent"
    yield f"# TYPE {name}_waiting gauge"
    yield f"{name}_waiting {telemetry.waiting}.0"


def _accepted(accept: str) -> list[str]:
    """Return the media types of an Accept header (RFC 9110), most preferred first. An invalid quality counts as 1."""
    wanted: list[tuple[float, str]] = []
    for item in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        number = float(quality) if quality.replace(".", "", 1).isdecimal() else 1.0
        if media_type and number > 0:
            wanted.append((-number, media_type))
    return [media_type for _, media_type in sorted(wanted, key=lambda each: each[0])]
