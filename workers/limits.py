"""The limits that an author or a caller may name, how each is written, and the type of a mapping of them.

Runs in: any. What each is for stands in README; the defaults are the supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypedDict

from killable.workers.units import parse_bytes, parse_count, parse_seconds


class Limits(TypedDict, total=False):
    """Some limits, by name: seconds, bytes, counts. None is no such limit; what is absent is as the server has it.

    A dict, and so what `client.submit(..., limits=Limits(run_s=60))` sends and what `ctx.limits` holds.
    """

    queue_s: float | None
    start_s: float | None
    run_s: float | None
    grace_s: float
    ack_s: float | None
    memory_bytes: int | None
    cpu_s: float | None
    processes_max: int | None
    files_max: int | None
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
    "cpu_s": LimitKind(parse_seconds),
    "processes_max": LimitKind(parse_count),
    "files_max": LimitKind(parse_count),
    "output_bytes": LimitKind(parse_bytes, may_be_none=False),
}
"""The limits that a decorator may name."""

BACKSTOP = 1.25
BACKSTOP_BYTES = 32 << 20
TASKS_SPARE = 1024
"""The kernel counts threads where we count processes (RLIMIT_NPROC, pids.max): its bounds are over ours by so many."""


def backstop_bytes(memory_bytes: int) -> int:
    """Return how far over its start a job can grow at all: over its limit by a quarter, and by 32 MiB at least.

    The limit is watched, so that the job has its grace; what it takes in that grace, or at one stroke, ends here.
    """
    return max(int(memory_bytes * BACKSTOP), memory_bytes + BACKSTOP_BYTES)
