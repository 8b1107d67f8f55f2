"""The telemetry that a server sends, as routes see it.

Runs in: api. `supervisor.telemetry.telemetry` sends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from killable.supervisor.telemetry.job_trace import Sampler
from killable.supervisor.telemetry.request_trace import RequestFacts


class TelemetrySent(Protocol):
    """The telemetry of one server that sends some."""

    sampler: Sampler

    @property
    def sends_traces(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many were sent, dropped and not sent, by what they are: traces, metrics."""
        ...

    @property
    def waiting(self) -> int:
        """Jobs and requests whose spans wait to be sent."""
        ...

    def put(self, facts: RequestFacts) -> None: ...
