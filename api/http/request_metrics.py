"""Counts and measures requests, by the names that OpenTelemetry gives such measures.

Runs in: api. Plain ASGI, outside all checks: what is refused counts, too. Labels are routes as they are declared, known
methods and statuses: no client can make more of them. A stream counts until it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.responses import TRACE
from killable.api.http.route_roles import OPEN_PATHS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Buckets, as the convention for `http.server.request.duration` has them."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})
OTHER = "_OTHER"
"""Any other method, as OpenTelemetry has it."""


OF_MACHINES = OPEN_PATHS | {"/metrics", "/v1/metrics"}
"""Paths that machines ask every few seconds: neither measured nor traced."""


class RequestMetrics:
    """Of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.duration = Histogram(
            "http_server_request_duration_seconds", "Time from a request until the end of its answer",
            ("http_request_method", "http_route", "http_response_status_code", "url_scheme",
             "network_protocol_version", "error_type"), buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.active = Gauge(
            "http_server_active_requests", "Requests that are being answered", ("http_request_method", "url_scheme"),
            registry=self._registry,
        )  # fmt: skip

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()


class _Children(dict[tuple[str, ...], Any]):
    """What a metric keeps for labels, by these: the library takes a lock and makes texts of them at each look."""

    def __init__(self, metric: Histogram | Gauge) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        self[labels] = child = self._metric.labels(*labels)
        return child


class MeasuredRequests:
    """Notes each request and its answer."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._durations, self._active = _Children(metrics.duration), _Children(metrics.active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OF_MACHINES:
            await self._app(scope, receive, send)
            return
        began, status, method, scheme = monotonic(), 0, method_of(scope), scheme_of(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        active = self._active[method, scheme]
        active.inc()
        try:
            await self._app(scope, receive, sending)
        finally:
            active.dec()
            context = scope.get(TRACE)
            exemplar = {"trace_id": context.trace_id} if context is not None and context.is_sampled else None
            version, fault = scope.get("http_version", ""), error_type_of(status)
            labels = method, route_of(scope), str(status) if status else "", scheme, version, fault
            self._durations[labels].observe(monotonic() - began, exemplar)


def method_of(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER


def scheme_of(scope: Scope) -> str:
    """Return "http" or "https": there are no others, whatever a proxy says."""
    return "https" if scope.get("scheme") == "https" else "http"


def error_type_of(status: int) -> str:
    """Return what `error.type` says of an answer with this status (0: none was sent); empty: it is no server's error.

    A client that goes before its answer has begun is none, either.
    """
    return str(status) if status >= 500 else ""


def route_of(scope: Scope) -> str:
    """Return the route's path as it is declared; empty: no route has the request."""
    return getattr(scope.get("route"), "path", "")
