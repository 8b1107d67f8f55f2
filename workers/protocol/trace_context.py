"""The place of a job in a trace, as W3C Trace Context has it: the headers `traceparent` and `tracestate`.

Runs in: any.
"""

from __future__ import annotations

import os
import sys

from killable.workers.named_tuples import NamedTuple

STATE_CHARS_MAX = 512
"""A longer tracestate is left out, as the specification allows."""
STATE_MEMBERS_MAX = 32
SAMPLED = 0x01
TRACEPARENT_CHARS = 55
OTEL_API = "opentelemetry.trace"
"""The module that every program has imported which uses OpenTelemetry."""

_HEX = frozenset("0123456789abcdef")


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
    # Without a regular expression: each forked worker would compile it for its first job, which takes 0.4 ms.
    text = traceparent.strip()
    version, trace_id, span_id, flags = text[:2], text[3:35], text[36:52], text[53:TRACEPARENT_CHARS]
    more = text[TRACEPARENT_CHARS:]
    if len(text) < TRACEPARENT_CHARS or not text[2] == text[35] == text[52] == "-":
        return None
    if not _HEX.issuperset(version + trace_id + span_id + flags) or version == "ff":
        return None
    if (more and (version == "00" or more[0] != "-")) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & SAMPLED), _state(tracestate))


def accepted(traceparent: str, tracestate: str) -> TraceContext:
    """Return what headers say that `parsed` has accepted. It takes a tenth of the time."""
    is_sampled = bool(int(traceparent[53:TRACEPARENT_CHARS], 16) & SAMPLED)
    return TraceContext(traceparent[3:35], traceparent[36:52], is_sampled, tracestate)


def _state(text: str) -> str:
    """Return a tracestate; empty for one that cannot be one."""
    is_state = len(text) <= STATE_CHARS_MAX and text.isascii() and text.replace("\t", " ").isprintable()
    return text.strip() if is_state and text.count(",") < STATE_MEMBERS_MAX else ""


def current_headers() -> dict[str, str]:
    """Return the headers of the span that is current here by OpenTelemetry, if the program uses that; else none."""
    trace = sys.modules.get(OTEL_API)
    context = None if trace is None else trace.get_current_span().get_span_context()
    if context is None or not context.is_valid:
        return {}
    found = TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", bool(context.trace_flags & SAMPLED))
    state = _state(context.trace_state.to_header()) if context.trace_state else ""
    return {"traceparent": found.traceparent} | ({"tracestate": state} if state else {})


def inherited_headers() -> dict[str, str]:
    """Return the headers of the span in which this program was started; none if it was in none."""
    found = parsed(os.environ.get("TRACEPARENT", ""), os.environ.get("TRACESTATE", ""))
    return {} if found is None else {"traceparent": found.traceparent, "tracestate": found.state}


def trace_id_of(traceparent: str) -> str:
    """Return the trace of a checked traceparent; empty: of none."""
    return traceparent[3:35]
