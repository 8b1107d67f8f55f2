"""The limits that an author or a caller may name, how each is written, and the type of a mapping of them.

Runs in: any. What each is for stands in README; the defaults are the supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypedDict

from killable.workers.units import parse_bytes, parse_seconds


class Limits(TypedDict, total=False):
    """Some limits, by name: seconds and bytes. None is no such limit; what is absent is as the server has it.

    A dict, and so what `client.submit(..., limits=Limits(run_s=60))` sends and what `ctx.limits` holds.
    """

    queue_s: float | None
    start_s: float | None
    run_s: float | None
    grace_s: float
    ack_s: float | None
    memory_bytes: int | None
    output_bytes: int


class LimitKind(NamedTuple):
    """How a limit is written, and whether None ("no such limit") is allowed."""

    parse: Callable[[object], float]
    may_be_none: bool = True


LIMITS: dict[str, LimitKind] = {
    "queue_s": LimitKind(parse_seconds),
    "start_s": LimitKind(parse_seconds),
    "run_s": LimitKind(parse_seconds),
    "grace_s": LimitKind(parse_seconds, may_be_none=False),
    "ack_s": LimitKind(parse_seconds),
    "memory_bytes": LimitKind(parse_bytes),
    "output_bytes": LimitKind(parse_bytes, may_be_none=False),
}
"""The limits that a decorator may name."""
