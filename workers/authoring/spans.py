"""Parts of a job as spans of its trace: `with ctx.span("load")`. The supervisor is told of each when it begins and when
it ends, so that a trace has those, too, in whose middle the job was killed.

Runs in: worker.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol

from killable.workers.protocol.messages import Kind, dump_json
from killable.workers.protocol.trace_context import TraceContext, parsed

NAME_CHARS_MAX = 200
ATTRIBUTES_MAX = 64
ATTRIBUTE_CHARS_MAX = 1000
SPANS_MAX = 1000
"""Spans of one attempt that are told; the supervisor counts those that are left out."""


def attributes_told(attributes: Mapping[str, Any], number_max: int = ATTRIBUTES_MAX) -> dict[str, Any]:
    """Return attributes as they are told: so many at most, cut to ATTRIBUTE_CHARS_MAX characters. What is no text,
    number, truth value or sequence of these is told as text.
    """
    return {str(name)[:NAME_CHARS_MAX]: _told(value) for name, value in list(attributes.items())[:number_max]}


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
        self._name = name
        self._attributes = dict(attributes)
        self._before: Any = None
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
            places = self._tracer.places
            self.context = self._tracer.begin(self._name, self._attributes, places.current() or self._tracer.root)
            if self.context is not None:
                self._before = places.go_to(self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tracer is not None and self.context is not None:
            self._tracer.places.go_back(self._before)
            self._tracer.end(self.context.span_id, self._attributes, **_failure(error))


def _failure(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {}
    told = {"error": type(error).__name__}
    with contextlib.suppress(Exception):  # a hostile __str__
        told["message"] = str(error)
    return told


class Places(Protocol):
    """Knows which span is the innermost where it is asked."""

    def current(self) -> TraceContext | None:
        """Return the innermost span; None: there is none within the attempt."""
        ...

    def go_to(self, context: TraceContext) -> Any:
        """Make this the innermost one; return what `go_back` needs."""
        ...

    def go_back(self, before: Any) -> None: ...


class _OwnPlaces:
    """Of one attempt whose code does not use OpenTelemetry."""

    def __init__(self) -> None:
        self._innermost: ContextVar[TraceContext | None] = ContextVar("killable_span", default=None)

    def current(self) -> TraceContext | None:
        return self._innermost.get()

    def go_to(self, context: TraceContext) -> Any:
        before = self._innermost.get()
        self._innermost.set(context)
        return before

    def go_back(self, before: Any) -> None:
        self._innermost.set(before)


class Spans:
    """The spans of one attempt."""

    def __init__(self, channel: Channel, root: TraceContext) -> None:
        self._channel = channel
        self.root = root
        """The attempt's own."""
        self.places: Places = _OwnPlaces()
        self._begun = 0
        self._open: set[str] = set()

    @classmethod
    def of(cls, channel: Channel, traceparent: str, tracestate: str) -> Spans | None:
        """Return those of an attempt with this place in a trace; None for one that is none."""
        root = parsed(traceparent, tracestate)
        return None if root is None else cls(channel, root)

    def begin(
        self, name: str, attributes: Mapping[str, Any], parent: TraceContext, *, span_id: str = "", at_ns: int = 0,
        kind: str = "",
    ) -> TraceContext | None:  # fmt: skip
        """Tell of a span that begins, and return its context; None: too many have, and it is only counted."""
        self._begun += 1
        if self._begun > SPANS_MAX:
            self._send({"left_out": 1})
            return None
        context = parent._replace(span_id=span_id or os.urandom(8).hex())
        self._open.add(context.span_id)
        begun: dict[str, Any] = {"span": context.span_id, "parent": parent.span_id, "name": str(name)[:NAME_CHARS_MAX]}
        if kind:
            begun["kind"] = kind
        self._send(begun | {"begin_ns": at_ns or time.time_ns(), "attributes": attributes_told(attributes)})
        return context

    def end(self, span_id: str, attributes: Mapping[str, Any], *, at_ns: int = 0, **more: Any) -> None:
        """Tell that a span has ended, if its begin was told. `more`: `error` and `message`, `ok`, `name`, `events`."""
        if span_id not in self._open:
            return
        self._open.discard(span_id)
        cut = {name: value[:ATTRIBUTE_CHARS_MAX] if isinstance(value, str) else value for name, value in more.items()}
        ended = {"span": span_id, "end_ns": at_ns or time.time_ns(), **cut}
        self._send(ended | {"attributes": attributes_told(attributes)})

    def _send(self, members: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the job has ended, or this is a process that it forked
            self._channel.send(Kind.SPAN, dump_json(members))
