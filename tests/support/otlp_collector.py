"""A collector of OpenTelemetry: an HTTP server in a thread that reads OTLP, and answers as it is told.

Runs in: the test process.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.waiting import Pending, until

UNSAMPLED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
"""A `traceparent` whose trace nobody keeps."""
AT_ONCE = {"killable.supervisor.telemetry.otlp_sender": {"GATHER_S": 0.02}}
"""Constants of a server that soon sends what has ended."""
ERROR, OK, UNSET = 2, 1, 0
"""What `GotSpan.status` can be."""


@dataclass(frozen=True)
class GotSpan:
    """One span that has come."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    kind: int
    status: int
    message: str
    state: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    @property
    def ms(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e6


@dataclass
class Collector:
    """What has come, and what is answered."""

    port: int = 0
    status: int = 200
    body: bytes = b""
    is_silent: bool = False
    """It reads, and never answers."""
    spans: list[GotSpan] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    end: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def trace_of(self, job_id: str) -> list[GotSpan]:
        """Wait until the trace of a job has come; return its spans: those of the job, and its request's if it came."""

        def found() -> list[GotSpan] | Pending:
            own = [span for span in self.spans if span.attributes.get("killable.job.id") == job_id]
            if not own:
                return Pending([span.name for span in self.spans])
            return [span for span in self.spans if span.trace_id == own[0].trace_id]

        return until(found, f"the trace of {job_id}")

    def until_some(self, fits: Callable[[GotSpan], bool], what: str) -> GotSpan:
        """Wait for a span that fits."""

        def found() -> GotSpan | Pending:
            return next(filter(fits, list(self.spans)), Pending([span.name for span in self.spans]))

        return until(found, what)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _spans(body: bytes) -> Iterator[GotSpan]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield GotSpan(
                    span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                    span.start_time_unix_nano, span.end_time_unix_nano, span.kind, span.status.code,
                    span.status.message, span.trace_state, _attributes(span.attributes), resource,
                    [(event.name, _attributes(event.attributes)) for event in span.events],
                )  # fmt: skip


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Collect at an address until the block is left."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests += 1
            if collector.is_silent:
                collector.end.wait()
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if collector.status == 200:
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path.endswith("/v1/traces"):
                    collector.spans += list(_spans(body))
                else:
                    collector.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(collector.body)))
            self.end_headers()
            self.wfile.write(collector.body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.end.set()
        server.shutdown()
        server.server_close()
        thread.join()
