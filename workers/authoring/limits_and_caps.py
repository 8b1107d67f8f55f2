"""Every limit of a job, described once: name, unit, default, cap, meaning, and the codes of a job that reaches it.

Runs in: any.

All else is derived from this table: the options of `submit`, the tables of `killable.toml`, the HTTP schema, the
remedies of `explain`, the reference. A new limit is one member of `Limits` and the code that enforces it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, TypedDict, get_args

from killable.workers.authoring.identifiers import OPERATION_PATH, did_you_mean
from killable.workers.authoring.units import parse_bytes, parse_count, parse_seconds
from killable.workers.named_tuples import NamedTuple

# No `from __future__ import annotations` here: `LIMITS` is read from the annotations of `Limits`.


def parse_operations(value: object) -> dict[str, float | None]:
    """Return seconds by operation. Raise ValueError unless `value` maps paths to positive seconds or None."""
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


class Unit(Enum):
    """What a limit counts, and how its text is parsed."""

    SECONDS = "seconds"
    BYTES = "bytes"
    COUNT = "count"
    OPERATIONS = "seconds by operation"

    def parse(self, value: object) -> Any:
        """Return the value as seconds, bytes, a count or a mapping of seconds. Raise ValueError."""
        return _PARSERS[self](value)


_PARSERS: dict[Unit, Callable[[object], Any]] = {
    Unit.SECONDS: parse_seconds,
    Unit.BYTES: parse_bytes,
    Unit.COUNT: parse_count,
    Unit.OPERATIONS: parse_operations,
}
UNSET: Any = object()
"""An Executor has no default of its own for the limit."""


class Limit(NamedTuple):
    """One limit."""

    unit: Unit
    default: Any
    """The default of a server. None: no such limit."""
    bounds: str
    """What the limit bounds, as a phrase that can begin a sentence."""
    ends_as: tuple[str, ...] = ()
    """The codes of a job that reaches the limit."""
    default_of_executor: Any = UNSET
    """The default of an Executor, if it differs."""
    cap: float | None = None
    """The largest value that a submission may request, unless `[caps]` sets another one. None: see `of_resources`."""
    of_resources: bool = False
    """Whether it bounds what a job takes of the machine: its cap is then the value of the job type."""
    may_be_none: bool = True
    """Whether None, "no such limit", is allowed."""
    may_be_zero: bool = False
    most: int | None = None
    """The largest value that is allowed at all."""
    like: str = ""
    """The same limit in other systems."""

    def parse(self, value: object) -> Any:
        """Return the value, from numbers or text. Raise ValueError."""
        parsed = self.unit.parse(value)
        if self.most is not None and parsed > self.most:
            raise ValueError(f"expected at most {self.most}; got {parsed}")
        return parsed


class Limits(TypedDict, total=False):
    """Some limits by name, in seconds, bytes and counts. None: no such limit. Absent: the server's value applies.

    A dict: `client.submit(..., limits=Limits(run_s=60))` sends it, `ctx.limits` holds every limit in force.
    """

    total_s: Annotated[
        float | None,
        Limit(
            Unit.SECONDS, None, "time from the submission to the end, waiting and retries included",
            ends_as=("timeout.queue", "timeout.start", "timeout.run"), like="gRPC's deadline",
        ),
    ]  # fmt: skip
    queue_s: Annotated[
        float | None,
        Limit(Unit.SECONDS, 300.0, "time in the queue", ends_as=("timeout.queue",), default_of_executor=None),
    ]
    start_s: Annotated[
        float | None,
        Limit(
            Unit.SECONDS, 60.0, "time from the order to a worker to the function's first line",
            ends_as=("timeout.start",), default_of_executor=None,
        ),
    ]  # fmt: skip
    first_token_s: Annotated[
        float | None,
        Limit(
            Unit.SECONDS, None, "time from the function's first line to its first token",
            ends_as=("timeout.first_token",),
        ),
    ]  # fmt: skip
    idle_s: Annotated[
        float | None, Limit(Unit.SECONDS, None, "time from one token to the next", ends_as=("timeout.idle",))
    ]
    run_s: Annotated[
        float | None,
        Limit(
            Unit.SECONDS, 600.0, "time from the function's first line to its return", ends_as=("timeout.run",),
            default_of_executor=None, cap=3600.0, like="Kubernetes' activeDeadlineSeconds",
        ),
    ]  # fmt: skip
    operation_s: Annotated[
        Mapping[str, float | None],
        Limit(
            Unit.OPERATIONS, {}, "time in an operation, by path (load/download) or name; overrides its `timeout_s`",
            ends_as=("timeout.operation",), may_be_none=False,
        ),
    ]  # fmt: skip
    grace_s: Annotated[
        float,
        Limit(
            Unit.SECONDS, 5.0, "time for clean-up after SIGTERM; then SIGKILL", cap=60.0, may_be_none=False,
            may_be_zero=True, like="systemd's TimeoutStopSec, Kubernetes' terminationGracePeriodSeconds",
        ),
    ]  # fmt: skip
    ack_s: Annotated[
        float | None,
        Limit(
            Unit.SECONDS, 0.5, "time for native code to acknowledge SIGTERM; then SIGKILL if it still computes",
            may_be_zero=True,
        ),
    ]  # fmt: skip
    memory_bytes: Annotated[
        int | None,
        Limit(
            Unit.BYTES, 2 << 30, "growth of the memory of all its processes together, mapped files aside",
            ends_as=("limit.memory",), default_of_executor=None, of_resources=True, like="Kubernetes' limits.memory",
        ),
    ]  # fmt: skip
    cpu_s: Annotated[
        float | None,
        # run_s bounds it already, to that many seconds per core.
        Limit(
            Unit.SECONDS, None, "processor time of all its processes and threads, on all cores together",
            ends_as=("limit.cpu",), of_resources=True, like="`ulimit -t`",
        ),
    ]  # fmt: skip
    processes_max: Annotated[
        int | None,
        # More than any legitimate job starts, and few enough that the machine survives a fork bomb.
        Limit(
            Unit.COUNT, 512, "processes at once, the worker included", ends_as=("limit.processes",),
            default_of_executor=None, of_resources=True, like="`ulimit -u`",
        ),
    ]  # fmt: skip
    threads_max: Annotated[
        int | None,
        # Pools of a large machine are far below it; containers get some 2,000 tasks (podman's pids_limit).
        Limit(
            Unit.COUNT, 1000, "threads of all its processes at once, the worker's own included",
            ends_as=("limit.threads",), default_of_executor=None, of_resources=True, like="cgroup v2's pids.max",
        ),
    ]  # fmt: skip
    files_max: Annotated[
        int | None,
        Limit(
            Unit.COUNT, None, "open files of each of its processes, beyond the worker's own", ends_as=("limit.files",),
            of_resources=True, like="`ulimit -n`",
        ),
    ]  # fmt: skip
    tmp_bytes: Annotated[
        int | None,
        Limit(
            Unit.BYTES, 8 << 30, "bytes on disk in `ctx.tmp`, looked at every half second", ends_as=("limit.tmp",),
            default_of_executor=None, of_resources=True, like="Kubernetes' limits.ephemeral-storage",
        ),
    ]  # fmt: skip
    output_bytes: Annotated[
        int,
        Limit(
            Unit.BYTES, 64 << 20, "bytes of tokens, logs and checkpoints", ends_as=("limit.output",),
            default_of_executor=256 << 20, may_be_none=False, of_resources=True,
        ),
    ]  # fmt: skip
    attempts_max: Annotated[
        int,
        # A hundred at most: each attempt adds an event to the job's log.
        Limit(
            Unit.COUNT, 1,
            "attempts; the next one follows a retryable end before the first token, or an end that `retry_on` names",
            may_be_none=False, most=100, like="Celery's max_retries",
        ),
    ]  # fmt: skip
    backoff_s: Annotated[
        float,
        Limit(
            Unit.SECONDS, 1.0, "approximate wait before the second attempt; doubled each time, up to a minute",
            may_be_none=False, may_be_zero=True,
        ),
    ]  # fmt: skip


LIMITS: dict[str, Limit] = {name: get_args(hint)[1] for name, hint in Limits.__annotations__.items()}
"""The limits by name, in the order of the documents."""

DEFAULT_LIMITS: Limits = Limits(**{name: limit.default for name, limit in LIMITS.items()})  # type: ignore[typeddict-item]
"""Every limit with its default on a server."""
MEMORY_SHARE_MAX = 0.75
"""The default of `memory_bytes` is at most this part of the memory of the machine, or of the container."""
NO_CAPS: dict[str, None] = dict.fromkeys(LIMITS)
"""Caps of a supervisor whose callers may request anything."""


def over(limits: Limits, changes: Mapping[str, Any]) -> Limits:
    """Return limits with some replaced. In `operation_s` only the given operations are replaced."""
    changed: dict[str, Any] = {**limits, **changes}
    if "operation_s" in changes:
        changed["operation_s"] = {**limits.get("operation_s", {}), **changes["operation_s"]}
    return changed  # type: ignore[return-value]  # a Limits by its names


def beside_defaults(limits: Limits) -> dict[str, Any]:
    """Return what `over` needs to make these limits from the defaults: mostly little of them."""
    return {name: value for name, value in limits.items() if value != value_of(DEFAULT_LIMITS, name)}


def cap_of(name: str, value: Any) -> float | None:
    """Return the cap of a limit that nobody has set: it follows from the value that a job type has. None: no cap."""
    limit = LIMITS[name]
    if value is None:
        return None
    if limit.of_resources:
        return value  # type: ignore[no-any-return]  # a count or bytes
    return None if limit.cap is None else max(limit.cap, value)


def value_of(limits: Mapping[str, object], name: str) -> Any:
    """Return one limit by a name that the type checker does not know."""
    return limits[name]


def parse_limit(name: str, value: object) -> Any:
    """Return a limit as seconds, bytes or a count; None: no such limit.

    Raise LookupError for an unknown name, ValueError for a bad value.
    """
    limit = LIMITS.get(name)
    if limit is None:
        raise LookupError(f"there is no limit {name!r} ({did_you_mean(name, LIMITS)})")
    if value is None and limit.may_be_none:
        return None
    try:
        return limit.parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def flat(limits: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield each limit's name, full name and value. Each operation is yielded: `operation_s.load/download`."""
    for name, value in limits.items():
        if isinstance(value, Mapping) and value:
            yield from ((name, f"{name}.{path}", each) for path, each in value.items())
        else:
            yield name, name, value
