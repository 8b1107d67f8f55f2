"""The place of a job in a trace, as W3C Trace Context has it: the headers `traceparent` and `tracestate`.

Runs in: any.
"""

from __future__ import annotations

import re
import sys

from killable.workers.named_tuples import NamedTuple

STATE_CHARS_MAX = 512
"""A longer tracestate is left out, as the specification allows."""
SAMPLED = 0x01

# Not compiled here: each program with an Executor imports this.
_TRACEPARENT = r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
_TRACESTATE = r"[\x20-\x2b\x2d-\x7e\t]*(,[\x20-\x2b\x2d-\x7e\t]*){0,31}"


class TraceContext(NamedTuple):
    """One span, and what goes on with it."""

    trace_id: str
    """32 hexadecimal digits, not all 0."""
    span_id: str
    """16 hexadecimal digits, not all 0: the span that what comes next is part of."""
    is_sampled: bool
    state: str = ""
    """`tracestate`: what tracing systems have added, passed on as it came."""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.is_sampled else 0:02x}"


def parsed(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """Return what the headers say; None for a traceparent that is none, which the specification has ignored.

    A later version may have more members behind those of this one. A tracestate that cannot be one is left out.
    """
    found = re.fullmatch(_TRACEPARENT, traceparent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (more and version == "00") or not int(trace_id, 16) or not int(span_id, 16):
        return None
    is_state = len(tracestate) <= STATE_CHARS_MAX and re.fullmatch(_TRACESTATE, tracestate) is not None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & SAMPLED), tracestate.strip() if is_state else "")


def current_headers() -> dict[str, str]:
    """Return the headers of the span that is current here by OpenTelemetry, if the program uses that; else none."""
    trace = sys.modules.get("opentelemetry.trace")
    context = None if trace is None else trace.get_current_span().get_span_context()
    if context is None or not context.is_valid:
        return {}
    found = TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", bool(context.trace_flags & SAMPLED))
    state = {"tracestate": context.trace_state.to_header()} if context.trace_state else {}
    return {"traceparent": found.traceparent} | state


def trace_id_of(traceparent: str) -> str:
    """Return the trace of a checked traceparent; empty: of none."""
    return traceparent[3:35]
