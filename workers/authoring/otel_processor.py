"""Tells the supervisor of the spans that a job makes with OpenTelemetry's SDK: when each begins, and when it ends.

Runs in: worker. Imported only where the job's code has imported the SDK, and set a provider of it.

An exporter in the job would lose what waits, and what has begun, with the process. A job needs none beside this.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.trace.status import StatusCode

from killable.workers.authoring.spans import Spans, attributes_told

EVENTS_MAX = 16
EVENT_ATTRIBUTES_MAX = 8
"""Of an event: an exception has four."""
OTHER_ERROR = "_OTHER"
"""The `error.type` of a span with the status "error" that has no exception, by OpenTelemetry's conventions."""


class _Processor(SpanProcessor):
    """Of one worker."""

    def __init__(self) -> None:
        self.spans: Spans | None = None
        """Those of the attempt that runs; None: it is in no trace that is told."""

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        spans, parent, context = self.spans, span.parent, span.get_span_context()
        if spans is None or parent is None or not self._is_of_it(spans, context):
            return  # of another trace: a thread that was started without the context of the job
        spans.begin(
            span.name, span.attributes or {}, spans.root._replace(span_id=f"{parent.span_id:016x}"),
            span_id=f"{context.span_id:016x}", at_ns=span.start_time or 0, kind=_kind(span.kind),
        )  # fmt: skip

    def on_end(self, span: ReadableSpan) -> None:
        spans, context = self.spans, span.get_span_context()
        if spans is None or context is None or not self._is_of_it(spans, context):
            return
        more: dict[str, Any] = {"name": span.name}
        status, failure = span.status.status_code, _exception(span)
        if status is StatusCode.OK:
            more["ok"] = True
        elif status is StatusCode.ERROR:
            more["error"] = failure.get("exception.type") or OTHER_ERROR
            more["message"] = failure.get("exception.message") or span.status.description or ""
        if span.events:
            more["events"] = [
                {
                    "name": event.name,
                    "at_ns": event.timestamp,
                    "attributes": attributes_told(event.attributes or {}, EVENT_ATTRIBUTES_MAX),
                }
                for event in span.events[-EVENTS_MAX:]
            ]
        spans.end(f"{context.span_id:016x}", span.attributes or {}, at_ns=span.end_time or 0, **more)

    def _is_of_it(self, spans: Spans, context: SpanContext) -> bool:
        return context.trace_flags.sampled and f"{context.trace_id:032x}" == spans.root.trace_id


def _exception(span: ReadableSpan) -> dict[str, str]:
    """Return the attributes of the last exception that the span has recorded."""
    found = next((event for event in reversed(span.events) if event.name == "exception"), None)
    return {} if found is None else {str(name): str(value) for name, value in (found.attributes or {}).items()}


def _kind(kind: SpanKind) -> str:
    return "" if kind is SpanKind.INTERNAL else kind.name


_processors: dict[TracerProvider, _Processor] = {}
"""By provider: there is one, save where the job's code has several."""


def tell(provider: TracerProvider, spans: Spans | None) -> None:
    """Have these told from now on of what is made by way of this provider; None: nothing is."""
    processor = _processors.get(provider)
    if processor is None:
        processor = _processors[provider] = _Processor()
        provider.add_span_processor(processor)
    processor.spans = spans
