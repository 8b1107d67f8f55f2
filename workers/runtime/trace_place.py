"""The place in a trace of what a worker runs, where its code looks for it: in the environment, which the children of
the job inherit, and in OpenTelemetry, if the code has imported that.

Runs in: worker. It runs one job at a time; the place of a job stays until the next one begins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from killable.workers.protocol.trace_context import OTEL_API, parsed

if TYPE_CHECKING:
    from killable.workers.authoring.spans import Spans

Place = tuple[str, str]
"""`traceparent` and `tracestate`; empty: none."""

_VARIABLES = ("TRACEPARENT", "TRACESTATE")
INHERITED: Place = (os.environ.get("TRACEPARENT", ""), os.environ.get("TRACESTATE", ""))
"""That of the program which has started all this."""
_current = INHERITED
"""Kept, as to look for the variables each time would take 4 µs."""


def take(place: Place, spans: Callable[[], Spans | None]) -> None:
    """Make this the place of the job that begins. `spans` returns what tells the supervisor of the job's own spans
    (None: nothing does); it is called only if the job's code uses OpenTelemetry.
    """
    global _current
    if place == _current and (place == INHERITED or not place[0]):
        return
    if place != _current:
        for name, value in zip(_VARIABLES, place, strict=True):
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        _current = place
    if OTEL_API in sys.modules:
        from killable.workers.authoring import otel_context

        otel_context.enter(parsed(*place), spans())
