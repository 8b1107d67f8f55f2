"""The messages between supervisor, guard and zygote: one named tuple per message.

They are not dataclasses, which would take 6 ms to define, twice at every start.

Runs in: supervisor | guard | zygote.

    supervisor → guard     StartZygote (+ its socket), UseFolder, Lease, HastenMove (+ two files of cgroups)
    guard → supervisor     OrphanReaped, ZygoteGone
    supervisor → zygote    ImportAhead; Configure, Fork (+ the worker's descriptors), Ping
    zygote → supervisor    ZygoteStarted (+ its pidfd), Imported …, TypeReported …, Preloaded | PreloadFailed
                           Forked (+ pidfd) | ForkFailed; Exited; Pong
"""

from __future__ import annotations

import os
from typing import Any

from killable.workers.named_tuples import NamedTuple


class ProcessEnding(NamedTuple):
    """How a process ended, and the resources that it used (wait4(2), getrusage(2))."""

    exit_code: int | None
    signal: int | None
    core_dumped: bool
    max_rss_bytes: int | None
    """None: a tracer keeps it from being reaped, and nobody else is told."""
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
    """Fork a zygote and give it the socket that comes along. Sent only after the ZygoteGone of an earlier one."""


class UseFolder(NamedTuple):
    """Where the workers of the supervisor have their temporary directories: the guard looks there for what they left
    in memory, if the supervisor dies.
    """

    path: str


class HastenMove(NamedTuple):
    """Have the kernel ready when a first worker moves into its cgroup (`cgroup_moves`). Its cgroup.events comes along,
    and before it the cgroup.procs of the cgroup in which guard and supervisor are.
    """

    at_most_s: float


class Lease(NamedTuple):
    """End everything at this time, if no later one comes: the supervisor may be frozen, and is a node whose head then
    counts on it. Without a lease the guard serves until its owner is gone.
    """

    until: float
    """CLOCK_BOOTTIME seconds."""


class ZygoteStarted(NamedTuple):
    """A zygote's first message. If it dies before sending it, only ZygoteGone follows."""

    pid: int


class OrphanReaped(NamedTuple):
    """The guard reaped an orphan of a dead zygote; it may have been a worker, whose exit status this is."""

    pid: int
    ending: ProcessEnding


class ZygoteGone(NamedTuple):
    """The zygote died, or could not be forked, and every process below it is gone."""

    how: str


class ImportAhead(NamedTuple):
    """Import these modules, which the Configure to come will need: a supervisor that still starts sends it later.

    What cannot be imported now is imported again for the Configure, and reported.
    """

    path: list[str]
    """The program's sys.path, which comes first."""
    modules: list[str]


UPLOADED, STAGING = "uploaded", "staging"
"""The folders of `Configure.files` that workers use."""


def staging_of(files: str, tmp: str) -> str:
    """Return the folder in which a worker with this temporary directory puts what its jobs save."""
    return f"{files}/{STAGING}/{tmp.rpartition('/')[2]}"


class Configure(NamedTuple):
    """The settings of a pool: what a zygote prepares before its first fork, and how its workers run."""

    pool: str
    modules: list[str]
    folder: str
    start_method: str
    codec: str
    jobs_per_worker_max: int
    nice: int
    tmp: str
    """The directory in which attempts make their private temporary directories."""
    affinity: list[int]
    """The processors that workers run on; empty: all of them."""
    core_dumps: bool
    """Whether a crash writes a core dump, within the supervisor's own limit."""
    uid: int | None
    """The user that workers become; None: they stay the supervisor's user."""
    gid: int | None
    groups: list[int]
    account_env: dict[str, str]
    """The variables that a login sets: HOME, USER, LOGNAME."""
    setup: str
    """The path of an encoded `executor_setup.ExecutorSetup`; empty: a pool of job types."""
    commands: list[dict[str, Any]]
    """The members of each `CommandSpec` of the pool."""
    sandbox: dict[str, Any] | None = None
    """`network`, `shared_memory`, `write` and `read` of `workers.runtime.sandbox`; None: workers have none."""
    tmp_suffix: str = ""
    """End of the name of a worker's temporary directory, behind its id."""
    generation: int = 1
    """How often the supervisor has loaded the pool's code: there may be zygotes of several."""
    files: str = ""
    """The folder of the files that jobs are given and save; empty: there are none."""

    @property
    def zygote_folder(self) -> str:
        """The zygote's temporary directory. No pool's name has a tilde."""
        number = "" if self.generation == 1 else f"~{self.generation}"
        return os.path.join(self.tmp, f"{self.pool}.zygote{number}")

    @property
    def uploaded(self) -> str:
        """The folder in which jobs find the files that they are given; empty: there is none."""
        return self.files and f"{self.files}/{UPLOADED}"

    def staging(self, tmp: str) -> str:
        """Return where a worker puts the files that its jobs save, by its temporary directory; empty: nowhere."""
        return self.files and staging_of(self.files, tmp)


class SourceFile(NamedTuple):
    """A file of the user's own code, as it was when it was imported."""

    path: str
    modified_ns: int
    """Its mtime (inode(7)), in nanoseconds since 1970."""
    size: int


class Imported(NamedTuple):
    """Some of the user's own files that the job types were imported from, or that failed: as SourceFile each."""

    files: list[list[Any]]


class TypeReported(NamedTuple):
    """One registered job type (see `job_functions.catalogue`)."""

    type: dict[str, Any]


class Preloaded(NamedTuple):
    """The modules are imported and the preloads have run. A zygote with more than one thread must not fork."""

    threads: int


class PreloadFailed(NamedTuple):
    traceback: str
    declaration: str = ""
    """The message of a DeclarationError, if that was the failure: the server then refuses to start."""


class Fork(NamedTuple):
    """Fork a worker. Its descriptors come along: orders, frames, stdout, stderr, notifications, line, stack,
    tokens and, if `cgroup`, cgroup.procs.
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
    """A worker has been reaped, and every process that it started is gone, `swept` killed orphans among them."""

    worker_id: str
    ending: ProcessEnding
    swept: int
    orphans: list[int]
    """The pids of the orphans, some hundreds at most: what they have created in memory is known by it."""


class Ping(NamedTuple):
    """A liveness check: a fork got no answer, or an exit was seen but not reported. A process may be unkillable."""


class Pong(NamedTuple): ...


Message = (
    StartZygote
    | UseFolder
    | HastenMove
    | Lease
    | ZygoteStarted
    | OrphanReaped
    | ZygoteGone
    | ImportAhead
    | Configure
    | Imported
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


def to_wire(message: Any) -> dict[str, Any]:
    """Encode a named tuple of this module, or of `keeper_messages`."""
    members = {"op": type(message).__name__, **message._asdict()}
    if "ending" in members:
        members["ending"] = members["ending"]._asdict()
    return members


def from_wire(members: dict[str, Any]) -> Message:
    """Decode a message. Raise KeyError or TypeError for a message of another version."""
    return decoded(members, _TYPES)  # type: ignore[no-any-return]


def decoded(members: dict[str, Any], types: dict[str, type[Any]]) -> Any:
    """Return the named tuple that one of these types encodes to. Raise KeyError or TypeError for none."""
    cls = types[members.pop("op")]
    if "ending" in members:
        members["ending"] = ProcessEnding(**members["ending"])
    return cls(**members)
