"""What supervisor, guard and zygote say to each other: one named tuple per message.

Not dataclasses, which would take 6 ms to make, twice at every start.

Runs in: supervisor | guard | zygote.

    supervisor → guard     StartZygote (+ its socket)
    guard → supervisor     OrphanReaped, ZygoteGone
    supervisor → zygote    Configure, Fork (+ the worker's descriptors), Ping
    zygote → supervisor    ZygoteStarted (+ its pidfd), TypeReported …, Preloaded | PreloadFailed
                           Forked (+ pidfd) | ForkFailed; Exited; Pong
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple


class ProcessEnding(NamedTuple):
    """How a process ended and what it had used (wait4(2), getrusage(2))."""

    exit_code: int | None
    signal: int | None
    core_dumped: bool
    max_rss_bytes: int
    user_s: float
    system_s: float
    reaped_at: float
    """CLOCK_MONOTONIC seconds, which all processes of a machine share."""

    @classmethod
    def from_wait(cls, status: int, usage: Any, reaped_at: float) -> ProcessEnding:
        signalled = os.WIFSIGNALED(status)
        return cls(
            exit_code=None if signalled else os.waitstatus_to_exitcode(status),
            signal=os.WTERMSIG(status) if signalled else None,
            core_dumped=os.WCOREDUMP(status),
            max_rss_bytes=usage.ru_maxrss * 1024,
            user_s=round(usage.ru_utime, 6),
            system_s=round(usage.ru_stime, 6),
            reaped_at=reaped_at,
        )


class StartZygote(NamedTuple):
    """Fork a zygote around the socket that comes along. An earlier one is gone, as ZygoteGone has said."""


class ZygoteStarted(NamedTuple):
    """Its first word. One that dies before it is known by ZygoteGone only."""

    pid: int


class OrphanReaped(NamedTuple):
    """A process that a dead zygote had left was swept: its true status, for the worker that it may have been."""

    pid: int
    ending: ProcessEnding


class ZygoteGone(NamedTuple):
    """The zygote died, or could not be forked, and nothing of what it had started is left."""

    how: str


class Configure(NamedTuple):
    """What a zygote prepares before its first fork."""

    pool: str
    modules: list[str]
    folder: str
    start_method: str
    codec: str
    jobs_per_worker_max: int
    nice: int
    tmp: str
    """Folder in which attempts make their private temporary directories."""
    affinity: list[int]
    """Processors that workers run on; empty: all that there are."""
    core_dumps: bool
    """Of a crash, as far as the supervisor may have them."""
    uid: int | None
    """Workers become this user; None: they stay who the supervisor is."""
    gid: int | None
    groups: list[int]
    account_env: dict[str, str]
    """What a login sets: HOME, USER, LOGNAME."""
    setup: str
    """File with what an Executor's processes make ready (`calls.Setup`); empty: a pool of job types."""


class TypeReported(NamedTuple):
    """One registered job type (see `jobs.catalogue`)."""

    type: dict[str, Any]


class Preloaded(NamedTuple):
    """The modules are imported and the preloads done; `threads` over 1 means that this zygote must not fork."""

    threads: int


class PreloadFailed(NamedTuple):
    traceback: str
    declaration: str = ""
    """What is wrong with a job's declaration, if that is what failed: the server then refuses to start."""


class Fork(NamedTuple):
    """Fork a worker; its descriptors come along: orders, frames, output, bells, stack and, if `cgroup`,
    cgroup.procs.
    """

    worker_id: str
    cgroup: bool


class Forked(NamedTuple):
    worker_id: str
    pid: int


class ForkFailed(NamedTuple):
    worker_id: str
    errno: int
    why: str


class Exited(NamedTuple):
    """A worker is reaped, and nothing that it had started is left below the zygote."""

    worker_id: str
    ending: ProcessEnding
    swept: int


class Ping(NamedTuple):
    """Say something: a fork was not answered, or an exit seen and not reported. Something below it may not go."""


class Pong(NamedTuple): ...


Message = (
    StartZygote
    | ZygoteStarted
    | OrphanReaped
    | ZygoteGone
    | Configure
    | TypeReported
    | Preloaded
    | PreloadFailed
    | Fork
    | Forked
    | ForkFailed
    | Exited
    | Ping
    | Pong
)

_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in Message.__args__}


def to_wire(message: Message) -> dict[str, Any]:
    members = {"op": type(message).__name__, **message._asdict()}
    if "ending" in members:
        members["ending"] = members["ending"]._asdict()
    return members


def from_wire(members: dict[str, Any]) -> Message:
    """Raise KeyError or TypeError on a message of another version."""
    cls = _TYPES[members.pop("op")]
    if "ending" in members:
        members["ending"] = ProcessEnding(**members["ending"])
    return cls(**members)  # type: ignore[no-any-return]
