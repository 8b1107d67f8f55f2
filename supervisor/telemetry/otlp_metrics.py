"""Sends the metrics to a collector every minute or so, from a thread of its own: those of /metrics, counted once.

Runs in: supervisor. Imported only where metrics are sent. What OpenTelemetry has a name for is sent by it, everything
else by the name that it has at /metrics.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from killable.supervisor.clock import realtime
from killable.supervisor.telemetry.otlp_sender import FAILED, RESULTS, SENT

logger = logging.getLogger("killable.telemetry")

READ_S = 10.0
"""Time for the event loop to read the metrics."""
ITS_NAME = {
    "http_server_request_duration_seconds": ("http.server.request.duration", "s"),
    "http_server_active_requests": ("http.server.active_requests", "{request}"),
    "gen_ai_server_request_duration_seconds": ("gen_ai.server.request.duration", "s"),
    "gen_ai_server_time_to_first_token_seconds": ("gen_ai.server.time_to_first_token", "s"),
    "gen_ai_server_time_per_output_token_seconds": ("gen_ai.server.time_per_output_token", "s"),
    "gen_ai_client_token_usage": ("gen_ai.client.token.usage", "{token}"),
    "process_cpu_seconds": ("process.cpu.time", "s"),
    "process_resident_memory_bytes": ("process.memory.usage", "By"),
    "process_virtual_memory_bytes": ("process.memory.virtual", "By"),
    "process_open_fds": ("process.unix.file_descriptor.count", "{file_descriptor}"),
}
"""Name and unit by the conventions, by that of the family."""
UP_AND_DOWN = frozenset({
    "http_server_active_requests", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds",
})  # fmt: skip
"""Gauges at /metrics that the conventions have as sums which may fall: they add up over servers."""
ITS_LABELS = {
    "http_request_method": "http.request.method",
    "http_route": "http.route",
    "http_response_status_code": "http.response.status_code",
    "url_scheme": "url.scheme",
    "network_protocol_version": "network.protocol.version",
    "gen_ai_operation_name": "gen_ai.operation.name",
    "gen_ai_provider_name": "gen_ai.provider.name",
    "gen_ai_request_model": "gen_ai.request.model",
    "gen_ai_token_type": "gen_ai.token.type",
    "error_type": "error.type",
}
_UNITS = {"seconds": "s", "bytes": "By"}
_CUMULATIVE = AggregationTemporality.CUMULATIVE

Read = Callable[[], Awaitable[Sequence[Family]]]


class MetricExporter(Protocol):
    """`opentelemetry.sdk.metrics.export.MetricExporter`."""

    def export(self, metrics_data: MetricsData) -> Any: ...
    def shutdown(self) -> None: ...


class MetricsSender:
    """One for each server. Its thread asks the loop for the metrics, and waits for nothing else of it."""

    def __init__(
        self, exporter: MetricExporter, resource: Resource, version: str, every_s: float, *, address: str
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._exporter = exporter
        self._resource = resource
        self._scope = InstrumentationScope("killable", version)
        self._every_s = every_s
        self._address = address
        self._begin_ns = round(realtime() * 1e9)
        self._closing = threading.Event()
        self._fails = self._is_over = False
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop, read: Read) -> None:
        """Begin to send what `read` returns in the loop."""
        self._thread = threading.Thread(target=self._run, args=(loop, read), name="killable-metrics", daemon=True)
        self._thread.start()

    def end_soon(self) -> None:
        """Send them once more, and end."""
        self._closing.set()

    def close(self, within_s: float) -> None:
        """Wait for the end, for so long at most. Blocks; the loop has to run meanwhile."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(within_s)
        self._is_over = True
        self._exporter.shutdown()

    def _run(self, loop: asyncio.AbstractEventLoop, read: Read) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(self._every_s)
            try:
                families = _read_in(loop, read).result(READ_S)
                is_sent = self._exporter.export(self._data(families)).name == "SUCCESS"
            except Exception:  # an answer that is none; or the loop is over
                logger.debug("metrics_not_sent", exc_info=True)
                is_sent = False
            if self._is_over:
                return  # the log is, too
            self.counts[SENT if is_sent else FAILED] += 1
            if self._fails == is_sent:
                self._fails = not is_sent
                if is_sent:
                    logger.info("metrics_are_sent_again", extra={"endpoint": self._address})
                else:
                    logger.warning("metrics_cannot_be_sent", extra={"endpoint": self._address})

    def _data(self, families: Iterable[Family]) -> MetricsData:
        now_ns = round(realtime() * 1e9)
        metrics = [each for family in families if (each := as_metric(family, self._begin_ns, now_ns)) is not None]
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, metrics, "")], "")])


def _read_in(loop: asyncio.AbstractEventLoop, read: Read) -> Future[Sequence[Family]]:
    """Read the metrics in the loop. Raise RuntimeError if that is closed."""
    reading = _read(read)
    try:
        return asyncio.run_coroutine_threadsafe(reading, loop)
    except RuntimeError:
        reading.close()
        raise


async def _read(read: Read) -> Sequence[Family]:
    return await read()


def as_metric(family: Family, begin_ns: int, now_ns: int) -> Metric | None:
    """Return a family as a metric of OpenTelemetry; None: there is nothing in it."""
    name, unit = ITS_NAME.get(family.name, (family.name, _UNITS.get(family.name.rpartition("_")[2], "")))
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        data = Histogram(list(_histograms(family, begin_ns, now_ns)), _CUMULATIVE)
    else:
        is_counter = family.type == "counter"
        is_sum = is_counter or family.name in UP_AND_DOWN
        suffix = "_total" if is_counter else ""
        if is_counter and family.name not in ITS_NAME:
            name += suffix
        points = [
            NumberDataPoint(_attributes(sample.labels), begin_ns if is_sum else 0, now_ns, sample.value)
            for sample in family.samples
            if sample.name == f"{family.name}{suffix}"
        ]
        data = Sum(points, _CUMULATIVE, is_monotonic=is_counter) if is_sum else Gauge(points)
    return Metric(name, family.documentation, unit, data) if data.data_points else None


def _attributes(labels: Mapping[str, str]) -> dict[str, Any]:
    """Return labels as attributes, those that are empty left out, and a status as the number that it is."""
    found: dict[str, Any] = {ITS_LABELS.get(name, name): value for name, value in labels.items() if value}
    status = found.get("http.response.status_code")
    return found if status is None else found | {"http.response.status_code": int(status)}


def _histograms(family: Family, begin_ns: int, now_ns: int) -> Iterator[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        key = tuple(item for item in sample.labels.items() if item[0] != "le")
        one = series.setdefault(key, {"labels": dict(key), "buckets": [], "sum": 0.0})
        if sample.name.endswith("_bucket"):
            one["buckets"].append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_sum"):
            one["sum"] = sample.value
    for one in series.values():
        bounds, up_to = zip(*sorted(one["buckets"]), strict=True)
        counts = [number - before for number, before in zip(up_to, (0, *up_to[:-1]), strict=True)]
        yield HistogramDataPoint(
            _attributes(one["labels"]), begin_ns, now_ns, up_to[-1], one["sum"], counts, bounds[:-1],
            None, None,  # type: ignore[arg-type]  # the least and the most are not known, which the protocol allows
        )  # fmt: skip
