"""The limits that an author or a caller may name, how each is written, and the type of a mapping of them.

Runs in: any. What each is for stands in README; the defaults are the supervisor's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict

from killable.workers.authoring.identifiers import OPERATION_PATH, did_you_mean
from killable.workers.authoring.units import parse_bytes, parse_count, parse_seconds


class Limits(TypedDict, total=False):
    """Some limits, by name: seconds, bytes, counts. None is no such limit; what is absent is as the server has it.

    A dict, and so what `client.submit(..., limits=Limits(run_s=60))` sends and what `ctx.limits` holds.
    """

    total_s: float | None
    """From the submission to the end, whatever it waits for or runs; `queue_s`, `run_s` and the others hold besides."""
    queue_s: float | None
    start_s: float | None
    first_token_s: float | None
    idle_s: float | None
    run_s: float | None
    operation_s: Mapping[str, float | None]
    """By path (`load/download`) or name, over the `timeout_s` of `ctx.operation`."""
    grace_s: float
    ack_s: float | None
    memory_bytes: int | None
    cpu_s: float | None
    processes_max: int | None
    files_max: int | None
    output_bytes: int
    attempts_max: int
    """A job that ended with a retryable code, and has streamed nothing, is run again until it was run so often."""
    backoff_s: float
    """About how long it waits before its second attempt; twice as long before each further one, a minute at most."""


class LimitKind(NamedTuple):
    """How a limit is written, and whether None ("no such limit") is allowed."""

    parse: Callable[[object], Any]
    may_be_none: bool = True


def parse_operations(value: object) -> dict[str, float | None]:
    """Return seconds by operation. Raise ValueError for what is no mapping of paths to positive seconds, or None."""
    if not isinstance(value, Mapping):
        raise ValueError(f'expected operations and their seconds, like {{"download": 600}}; got {value!r:.60}')
    parsed: dict[str, float | None] = {}
    for path, seconds in value.items():
        if not isinstance(path, str) or not re.fullmatch(OPERATION_PATH, path):
            raise ValueError(f"expected an operation's name, or a path like load/download; got {path!r:.60}")
        parsed[path] = None if seconds is None else parse_seconds(seconds)
        if parsed[path] == 0:
            raise ValueError(f"expected more than 0 seconds for operation {path}; got {seconds!r}")
    return parsed


ATTEMPTS_MAX = 100
"""Of one job: each leaves an event behind."""


def parse_attempts(value: object) -> int:
    """Return a number of attempts. Raise ValueError for what is none, or over ATTEMPTS_MAX."""
    attempts = parse_count(value)
    if attempts > ATTEMPTS_MAX:
        raise ValueError(f"expected {ATTEMPTS_MAX} at most; got {attempts}")
    return attempts


LIMITS: dict[str, LimitKind] = {
    "total_s": LimitKind(parse_seconds),
    "queue_s": LimitKind(parse_seconds),
    "start_s": LimitKind(parse_seconds),
    "first_token_s": LimitKind(parse_seconds),
    "idle_s": LimitKind(parse_seconds),
    "run_s": LimitKind(parse_seconds),
    "operation_s": LimitKind(parse_operations, may_be_none=False),
    "grace_s": LimitKind(parse_seconds, may_be_none=False),
    "ack_s": LimitKind(parse_seconds),
    "memory_bytes": LimitKind(parse_bytes),
    "cpu_s": LimitKind(parse_seconds),
    "processes_max": LimitKind(parse_count),
    "files_max": LimitKind(parse_count),
    "output_bytes": LimitKind(parse_bytes, may_be_none=False),
    "attempts_max": LimitKind(parse_attempts, may_be_none=False),
    "backoff_s": LimitKind(parse_seconds, may_be_none=False),
}
"""The limits that a decorator, a configuration, a client or an Executor may name."""

BACKSTOP = 1.25
BACKSTOP_BYTES = 32 << 20
"""How far the kernel's own bounds are over ours (`backstop_bytes`): room for a clean-up, and for what is taken
between two looks.
"""
TASKS_SPARE = 1024
"""The kernel counts threads where we count processes (RLIMIT_NPROC, pids.max): its bounds are over ours by so many."""


def parse_limit(name: str, value: object) -> Any:
    """Return a limit as seconds, bytes or a count; None is no such limit.

    Raise LookupError for a name that there is not, ValueError for a value that it cannot have; both say it in words.
    """
    kind = LIMITS.get(name)
    if kind is None:
        raise LookupError(f"there is no limit {name!r} ({did_you_mean(name, LIMITS)})")
    if value is None and kind.may_be_none:
        return None
    try:
        return kind.parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def backstop_bytes(memory_bytes: int) -> int:
    """Return how far over its start a job can grow at all: over its limit by a quarter, and by 32 MiB at least.

    The limit is watched, so that the job has its grace; what it takes in that grace, or at one stroke, ends here.
    """
    return max(int(memory_bytes * BACKSTOP), memory_bytes + BACKSTOP_BYTES)


def flat(limits: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield each limit's name, its whole name and its value; of operations each one, `operation_s.load/download`."""
    for name, value in limits.items():
        if isinstance(value, Mapping) and value:
            yield from ((name, f"{name}.{path}", each) for path, each in value.items())
        else:
            yield name, name, value
