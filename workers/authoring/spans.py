"""Parts of a job as spans of its trace: `with ctx.span("load")`. The supervisor is told of each when it begins and when
it ends, so that a trace has those, too, in whose middle the job was killed.

Runs in: worker.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from killable.workers.protocol.messages import Kind, dump_json
from killable.workers.protocol.trace_context import TraceContext, parsed

NAME_CHARS_MAX = 200
ATTRIBUTES_MAX = 64
ATTRIBUTE_CHARS_MAX = 1000
SPANS_MAX = 1000
"""Spans of one attempt that are told; the supervisor counts those that are left out."""

_around = threading.local()
"""`span`: the innermost of this thread."""


def attributes_told(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they are told: ATTRIBUTES_MAX of them, cut to ATTRIBUTE_CHARS_MAX characters. What is no
    text, number, truth value or sequence of these is told as text.
    """
    return {str(name)[:NAME_CHARS_MAX]: _told(value) for name, value in list(attributes.items())[:ATTRIBUTES_MAX]}


def _told(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, (list, tuple)):
        return [_told(each) if isinstance(each, (str, bool, int, float)) else str(each) for each in value[:64]]
    return str(value)[:ATTRIBUTE_CHARS_MAX]


class Channel(Protocol):
    """Takes frames (`context.Output`)."""

    def send(self, kind: int, payload: bytes) -> None: ...


class Span:
    """A part of a job in its trace, from `with` on until the block is left. Does nothing in a job without a trace."""

    def __init__(self, tracer: Spans | None, name: str, attributes: Mapping[str, Any]) -> None:
        self._tracer = tracer
        self._name = str(name)[:NAME_CHARS_MAX]
        self._attributes = dict(attributes)
        self._outer: Span | None = None
        self.context: TraceContext | None = None
        """What a request that is part of it says; None: there is no trace, or it has not begun."""

    @property
    def traceparent(self) -> str:
        """The header `traceparent` of requests that are part of it; empty if there is no trace."""
        return "" if self.context is None else self.context.traceparent

    def set(self, name: str, value: Any) -> None:
        """Give it an attribute, also one that it has: text, a number, a truth value, or a list of these."""
        self._attributes[name] = value

    def __enter__(self) -> Span:
        if self._tracer is not None:
            self._outer = getattr(_around, "span", None)
            _around.span = self
            outer = self._outer
            parent = outer.context if outer is not None and outer._tracer is self._tracer else None
            self.context = self._tracer.begin(self._name, self._attributes, parent or self._tracer.root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tracer is not None and self.context is not None:
            _around.span = self._outer
            self._tracer.end(self.context.span_id, self._attributes, error)


class Spans:
    """The spans of one attempt."""

    def __init__(self, channel: Channel, root: TraceContext) -> None:
        self._channel = channel
        self.root = root
        """The attempt's own."""
        self._begun = 0

    @classmethod
    def of(cls, channel: Channel, traceparent: str, tracestate: str) -> Spans | None:
        """Return those of an attempt with this place in a trace; None for one that is none."""
        root = parsed(traceparent, tracestate)
        return None if root is None else cls(channel, root)

    def begin(
        self, name: str, attributes: Mapping[str, Any], parent: TraceContext, *, span_id: str = "", at_ns: int = 0
    ) -> TraceContext | None:
        """Tell of a span that begins, and return its context; None: too many have, and it is only counted."""
        self._begun += 1
        if self._begun > SPANS_MAX:
            self._send({"left_out": 1})
            return None
        context = parent._replace(span_id=span_id or os.urandom(8).hex())
        begun = {"span": context.span_id, "parent": parent.span_id, "name": name, "begin_ns": at_ns or time.time_ns()}
        self._send(begun | {"attributes": attributes_told(attributes)})
        return context

    def end(self, span_id: str, attributes: Mapping[str, Any], error: BaseException | None, *, at_ns: int = 0) -> None:
        """Tell that a span has ended, and with which exception, if with any."""
        ended: dict[str, Any] = {"span": span_id, "end_ns": at_ns or time.time_ns()}
        if error is not None:
            ended["error"] = type(error).__name__
            with contextlib.suppress(Exception):  # a hostile __str__
                ended["message"] = str(error)[:ATTRIBUTE_CHARS_MAX]
        self._send(ended | {"attributes": attributes_told(attributes)})

    def _send(self, members: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the job has ended, or this is a process that it forked
            self._channel.send(Kind.SPAN, dump_json(members))
