"""How many event streams one application may have open, and how many it has.

Runs in: api.
"""

from __future__ import annotations

from killable.workers.errors import Refused

OF_OPERATORS = 64
"""Streams that operators may have open while those of others hold all."""


def most_streams(connections_max: int) -> int:
    """Return how many streams may be open. A tenth of the connections stays free for others: submit, get, cancel."""
    return max(1, connections_max * 9 // 10)


class OpenStreams:
    """How many streams one app has open, and may have; and the times of each, in seconds."""

    def __init__(self, open_max: int, *, ping_s: float, send_timeout_s: float) -> None:
        self.open = 0
        self.ping_s = ping_s
        self.send_timeout_s = send_timeout_s
        self._open_max = open_max

    def check(self, *, operator: bool) -> None:
        """Raise Refused when there is room for no other one. Operators have some more than others."""
        if self.open >= self._open_max + (OF_OPERATORS if operator else 0):
            detail = f"{self.open} streams are open, the maximum beside other requests (server.connections_max)"
            raise Refused(detail, code="too_many_connections", streams=self.open)
