"""A job's place in its trace as the current one of OpenTelemetry: spans that the job makes with that become parts of
its attempt, whoever exports them, and the supervisor is told of them as of those of `ctx.span`.

Runs in: worker. Imported only where the job's code has imported OpenTelemetry.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import context as contexts
from opentelemetry import trace

from killable.workers.protocol.trace_context import TraceContext, current_headers, parsed

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext

    from killable.workers.authoring.spans import Spans

_SDK = "opentelemetry.sdk.trace"


class OtelPlaces:
    """The innermost span by OpenTelemetry's reckoning: its spans and those of `ctx.span` nest. Implements `Places`."""

    def current(self) -> TraceContext | None:
        headers = current_headers()
        return parsed(headers["traceparent"], headers.get("tracestate", "")) if headers else None

    def go_to(self, context: TraceContext) -> Any:
        before = contexts.get_current()
        contexts.attach(_with(context, before))
        return before

    def go_back(self, before: Any) -> None:
        contexts.attach(before)


def enter(place: TraceContext | None, spans: Spans | None) -> None:
    """Let a job begin at its place (None: in no trace), whatever the one before has left, and have `spans` told of the
    spans that it makes with the SDK.
    """
    contexts.attach(contexts.Context() if place is None else _with(place, contexts.Context()))
    provider = trace.get_tracer_provider()
    sdk = sys.modules.get(_SDK)
    if spans is not None:
        spans.places = OtelPlaces()
    if sdk is not None and isinstance(provider, sdk.TracerProvider):
        from killable.workers.authoring.otel_processor import tell

        tell(provider, spans)


def _with(place: TraceContext, context: OtelContext) -> OtelContext:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if place.is_sampled else trace.TraceFlags.DEFAULT)
    state = trace.TraceState.from_header([place.state])
    ids = trace.SpanContext(int(place.trace_id, 16), int(place.span_id, 16), True, flags, state)
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), context)
