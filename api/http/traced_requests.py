"""A span for each request, in the trace of its caller. The span of a job that the request starts is its child.

Runs in: api. Plain ASGI, outside all checks: a refused request has a span, too. Only on a server that tells traces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.request_metrics import OF_MACHINES, OTHER, error_type_of, method_of, route_of, scheme_of
from killable.api.http.responses import TRACE
from killable.api.http.telemetry_sent import TelemetrySent
from killable.supervisor.telemetry.request_trace import RequestFacts
from killable.workers.protocol.trace_context import TraceContext, parsed


class TracedRequests:
    """Has a span of each request but those of OF_MACHINES."""

    def __init__(self, app: ASGIApp, telemetry: TelemetrySent) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OF_MACHINES:
            await self._app(scope, receive, send)
            return
        parent = _parent_of(scope["headers"])
        ids = os.urandom(24).hex()
        trace_id, state = (ids[:32], "") if parent is None else (parent.trace_id, parent.state)
        scope[TRACE] = context = TraceContext(trace_id, ids[32:], self._telemetry.sampler(parent, trace_id), state)
        if not context.is_sampled:
            await self._app(scope, receive, send)
            return
        begin_s, began, status = time.time(), time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            method, route = method_of(scope), route_of(scope)
            named = "HTTP" if method == OTHER else method  # as the conventions have it
            name = f"{named} {route}" if route else named
            attributes = _attributes(scope, method, route, status)
            parent_id = "" if parent is None else parent.span_id
            end_s = begin_s + time.monotonic() - began
            self._telemetry.put(RequestFacts(context, parent_id, name, begin_s, end_s, status, attributes))


def _parent_of(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Return the caller's span. Several traceparent are none."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = b",".join(value for name, value in headers if name == b"tracestate")
    return parsed(parents[0].decode("latin-1"), states.decode("latin-1"))


def _attributes(scope: Scope, method: str, route: str, status: int) -> dict[str, Any]:
    client = scope.get("client") or ("", None)
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return {
        "http.request.method": method,
        "http.request.method_original": scope["method"][:40] if method == OTHER else "",
        "http.route": route,
        "url.path": scope["path"][:1000],
        "url.scheme": scheme_of(scope),
        "client.address": client[0],
        "user_agent.original": agent.decode("latin-1")[:200],
        "network.protocol.version": scope.get("http_version", ""),
        "error.type": error_type_of(status),
    }
