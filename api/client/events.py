"""What clients give of a job: its events, and how it ended.

Runs in: any machine (no supervisor, no Linux). Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
"""A JSON object from the server. Its documentation lists the members; newer servers may add some."""

BETWEEN_ATTEMPTS = frozenset({"retrying", "restored"})
"""Another attempt follows: what was streamed before is void."""
TERMINAL = frozenset({"completed", "failed", "cancelled", "timed_out"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: its sequence number, name and data."""

    id: int
    name: str
    data: Record

    @property
    def is_terminal(self) -> bool:
        return self.name in TERMINAL


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, or that it is still stopping after a wait that was too short."""

    job_id: str
    state: str
    """`completed`, `failed`, `cancelled`, `timed_out`, or `stopping` while it has not ended."""
    certificate: Record | None
    """The timed proof that every process of the job is gone; times are in ms after the request."""
    error: Record | None = None
    had_ended: bool = False
    """The job had ended before the cancel; `state` and `error` show how."""

    @property
    def is_over(self) -> bool:
        return self.state != "stopping"


def token_of(data: Mapping[str, Any]) -> Any:
    """Return what the job emitted, from the data of a token event: str, bytes or a JSON value."""
    if "text" in data:
        return data["text"]
    if "base64" in data:
        return base64.b64decode(data["base64"])
    return data.get("value")
