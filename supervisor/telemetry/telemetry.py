"""The telemetry of one server that sends some: its observer, and what sends.

Runs in: supervisor. Imported only where telemetry is sent: OpenTelemetry's packages take 0.2 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.re import parse_env_headers

from killable.supervisor.clock import monotonic
from killable.supervisor.http_server_settings import TelemetrySettings
from killable.supervisor.telemetry.job_trace import JobFacts
from killable.supervisor.telemetry.otel_settings import Targets
from killable.supervisor.telemetry.otlp_metrics import MetricsSender, Read
from killable.supervisor.telemetry.otlp_sender import OtlpSender
from killable.supervisor.telemetry.request_trace import RequestFacts
from killable.supervisor.telemetry.sampling import sampler_of
from killable.supervisor.telemetry.span_building import SpanBuilding
from killable.supervisor.telemetry.traced_jobs import TracedJobs

logger = logging.getLogger("killable.telemetry")

SERVICE_NAME = "killable"
_FOREIGN = "opentelemetry"
"""The loggers of its packages."""


class Telemetry:
    """What one server sends. `close` ends it."""

    def __init__(
        self, settings: TelemetrySettings, targets: Targets, environ: Mapping[str, str], *, redact: bool, instance: str
    ) -> None:
        for doubt in targets.doubts:
            logger.warning("telemetry_setting", extra={"detail": doubt})
        # A collector that is down would have each batch logged; `otlp_sender` tells it once.
        logging.getLogger(_FOREIGN).setLevel(logging.CRITICAL)
        self.sampler = sampler_of(targets.sampler, targets.ratio)
        self._flush_s = settings.flush_s
        self._headers = _headers(settings, environ)
        self._resource = _resource(settings, environ, instance)
        self._spans: OtlpSender | None = None
        if targets.traces:
            exporter = OTLPSpanExporter(targets.traces, headers=self._headers, timeout=settings.timeout_s)
            building = SpanBuilding(self._resource, version("killable"), redact=redact)
            self._spans = OtlpSender(
                exporter, lambda facts: list(building.spans_of(facts)), settings.waiting_max, address=targets.traces
            )
        self._metrics: MetricsSender | None = None
        if targets.metrics:
            sends = OTLPMetricExporter(targets.metrics, headers=self._headers, timeout=settings.timeout_s)
            self._metrics = MetricsSender(
                sends, self._resource, version("killable"), settings.metrics_every_s, address=targets.metrics
            )

    def start(self, loop: asyncio.AbstractEventLoop, read_metrics: Read) -> None:
        """Begin to send metrics, if any are to be sent."""
        if self._metrics is not None:
            self._metrics.start(loop, read_metrics)

    @property
    def sends_traces(self) -> bool:
        return self._spans is not None

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many were sent, dropped and not sent, by what they are: traces, metrics."""
        senders = (("traces", self._spans), ("metrics", self._metrics))
        return {name: sender.counts for name, sender in senders if sender is not None}

    @property
    def waiting(self) -> int:
        """Jobs and requests whose spans wait to be sent."""
        return 0 if self._spans is None else self._spans.waiting

    def put(self, facts: JobFacts | RequestFacts) -> None:
        """Have the spans of an ended job, or of a request, sent. Never blocks."""
        if self._spans is not None:
            self._spans.put(facts)

    def observer(self) -> TracedJobs | None:
        """Return the observer of the supervisor; None: any other one will do."""
        return TracedJobs(self.sampler, self) if self.sends_traces else None

    def close(self) -> None:
        """Send what waits, for `flush_s` at most. Blocks, while the loop runs on."""
        senders = [sender for sender in (self._spans, self._metrics) if sender is not None]
        until = monotonic() + self._flush_s
        for sender in senders:
            sender.end_soon()
        for sender in senders:
            sender.close(max(0.0, until - monotonic()))


def _headers(settings: TelemetrySettings, environ: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the headers of what is sent; None: those that OpenTelemetry's own variables say."""
    text = environ.get(settings.headers_variable, "")
    return parse_env_headers(text, liberal=True) if text else None


def _resource(settings: TelemetrySettings, environ: Mapping[str, str], instance: str) -> Resource:
    """Return what all telemetry of this server says of it. OTEL_RESOURCE_ATTRIBUTES adds to it."""
    known: dict[str, Any] = {"service.version": version("killable"), "service.instance.id": instance}
    name = settings.service_name or environ.get("OTEL_SERVICE_NAME", "")
    given = Resource.create({}).attributes
    unnamed = str(given.get("service.name", "")).startswith("unknown_service")
    if name or unnamed:
        known["service.name"] = name or SERVICE_NAME
    return Resource.create(known)
