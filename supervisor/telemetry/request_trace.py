"""The facts of one HTTP request, from which its span is made.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.trace_context import TraceContext


class RequestFacts(NamedTuple):
    """One answered request."""

    context: TraceContext
    parent_id: str
    """The caller's span; empty: the trace begins with the request."""
    name: str
    """Method and route: `POST /v1/jobs`."""
    begin_s: float
    """Seconds since 1970."""
    end_s: float
    status: int
    """Of the answer; 0: none was sent."""
    attributes: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of memory, approximately."""
        return 1024
