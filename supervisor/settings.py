"""The settings of a supervisor: plain values, already checked (`config` makes them from a file).

Runs in: supervisor. Pure. Those of a server are in `http_server_settings`. A named tuple takes less time to define
than a dataclass, and each start of a program with an Executor waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, Limits
from killable.workers.named_tuples import NamedTuple
from killable.workers.quick_dataclasses import dataclass

if TYPE_CHECKING:
    from killable.workers.commands.command_spec import CommandSpec

StartMethod = Literal["fork", "spawn"]


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(usable_processors())


def usable_processors() -> Set[int]:
    """Return the numbers of the processors that this process may use (sched_getaffinity(2))."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class SandboxSpec(NamedTuple):
    """What the workers of a pool may do to the rest of the machine. The default forbids nothing."""

    network: bool = True
    """Whether jobs may use sockets."""
    shared_memory: bool = True
    """Whether jobs share memory with other programs; if not, a worker has a /dev/shm and IPC namespace of its own."""
    write: tuple[str, ...] | None = None
    """Files and folders that jobs may write; None: those of their user. Beside them their own temporary folder."""
    read: tuple[str, ...] | None = None
    """Files and folders that jobs may read; None: those of their user. Beside them what Python and its packages are."""

    @property
    def forbids(self) -> bool:
        return self != SandboxSpec()

    @property
    def keeps_from_shared_memory(self) -> bool:
        """Whether jobs can remove nothing from the /dev/shm of the machine."""
        written = (f"{each.rstrip('/')}/" for each in self.write or ())
        return not self.shared_memory or (self.write is not None and not any(map("/dev/shm/".startswith, written)))

    def __str__(self) -> str:
        """Return what it forbids: `no network; writes /srv/out only`; empty: nothing."""
        parts = [] if self.network else ["no network"]
        parts += [] if self.shared_memory else ["shared memory of its own"]
        for verb, paths in (("writes", self.write), ("reads", self.read)):
            if paths is not None:
                parts.append(f"{verb} {', '.join(paths)} only" if paths else f"{verb} nothing")
        return "; ".join(parts)


class PoolSpec(NamedTuple):
    """One pool of `killable.toml`, or the pool of an Executor."""

    name: str
    modules: tuple[str, ...]
    """Module names, or paths of files ending in .py."""
    workers: int = usable_cores()
    """Maximum number of busy workers."""
    spares: int = 1
    """Number of warm, idle workers to keep beyond the busy ones."""
    jobs_per_worker_max: int = 1
    """Number of jobs that a worker runs; 1: a fresh process per job, 0: no maximum."""
    start_method: StartMethod = "fork"
    python: str = ""
    """Name or path of another interpreter; empty: the supervisor's own."""
    nice: int = 5
    """Niceness of the workers, so that the supervisor always gets a core."""
    affinity: tuple[int, ...] = ()
    """Numbers of the processors that workers run on; empty: all that the supervisor may use."""
    core_dumps: bool = False
    """Whether a crash dumps core, within the supervisor's own RLIMIT_CORE."""
    user: str | int = ""
    """Name or number of the user that workers run as; empty: the supervisor's own."""
    group: str | int = ""
    """Name or number of the group that workers run as; empty: the user's own."""
    env: Mapping[str, str] = {}
    environment: tuple[str, ...] | None = None
    """Names and patterns of the supervisor's environment variables that its processes get; None: all of them."""
    sandbox: SandboxSpec = SandboxSpec()
    codec: Literal["json", "pickle"] = "json"
    setup: bytes = b""
    """The encoded `ExecutorSetup` of an Executor's processes; empty: a pool of job types."""
    folder: str = ""
    """The working directory of workers, and the first folder on their sys.path; empty: the supervisor's own."""
    by_cores: bool = False
    """Whether a node of a cluster has as many workers as it has processors, and not `workers`: that was not written."""
    nodes: Mapping[str, str] = {}
    """The labels of the nodes that have the pool (`jobs.node_labels`); empty: every node."""
    files: str = ""
    """The folder of the files that its jobs are given and save (`supervisor/files`); empty: there are none."""
    commands: tuple[CommandSpec, ...] = ()
    """The commands that are job types of the pool, besides those of its modules."""


class JobSettings(NamedTuple):
    """`[jobs.NAME]`: limits that override the decorator's, and caps that are at most those of `[caps]`."""

    limits: Mapping[str, Any] = {}
    caps: Mapping[str, float | None] = {}


class TenantSettings(NamedTuple):
    """The bounds of one tenant; None is no bound but the server's own."""

    queue_jobs_max: int | None = None
    queue_bytes_max: int | None = None
    running_max: int | None = None
    keep_jobs: int | None = None
    keep_bytes: int | None = None
    streams_max: int | None = None
    submissions_per_s: float | None = None
    priority_max: int | None = None
    caps: Mapping[str, float] = {}

    def as_json(self) -> dict[str, Any]:
        """Return every bound by name."""
        return self._asdict() | {"caps": dict(self.caps)}


Seconds = Annotated[float, "seconds, 0 or more"]
PositiveSeconds = Annotated[float, "seconds, more than 0"]
Bytes = Annotated[int, "bytes, 0 or more"]
PositiveBytes = Annotated[int, "bytes, more than 0"]
Count = Annotated[int, "count, 0 or more"]
PositiveCount = Annotated[int, "count, 1 or more"]
Port = Annotated[int, "port"]
Share = Annotated[float, "from 0 to 1"]
"""The types of settings. `configuration.schema` maps each to the type that validates the file."""


@dataclass(
    frozen=True, kw_only=True, eq=False, repr=False
)  # nobody compares or prints them, and each method takes its time
class SupervisorSettings:
    """The part of `[server]` that the supervisor uses: the queue, the kept jobs, the escalation."""

    queue_jobs_max: PositiveCount = 1000
    """Maximum number of waiting jobs; one more is refused (429 queue_full)."""
    queue_bytes_max: PositiveBytes = 256 << 20
    """Maximum bytes of input of the waiting jobs; more is refused (429 queue_full)."""
    keep_jobs: Count = 1000
    """Number of ended jobs that stay readable; the first of the three keep_ bounds to be reached drops the oldest."""
    keep_bytes: Bytes = 512 << 20
    """Maximum memory that ended jobs hold."""
    keep_s: Seconds = 3600.0
    """Time for which an ended job stays readable."""
    keep_input_bytes: Bytes = 0
    """Bytes of each job's input that its record shows, from the beginning, to the keys of inputs_shown_to; 0: none."""
    idempotency_s: Seconds = 86400.0
    """Time for which an Idempotency-Key is remembered, from its first use; at least as long as its job is kept."""
    idempotency_keys_max: PositiveCount = 10000
    """Maximum number of keys of one tenant whose jobs are no longer kept; with one more the oldest is forgotten."""
    journal: str = ""
    """Path of a file in which jobs survive the server's death; waiting jobs run at its next start; empty: no file."""
    journal_output: bool = False
    """Write what running jobs emit to the journal, too; their streams then survive the server's death."""
    files_folder: str = ""
    """Folder of uploaded files and of those that jobs save; empty: JOURNAL.files, without a journal a temporary one."""
    file_bytes_max: Bytes = 1 << 30
    """Maximum size of an uploaded file; a larger one is refused (413)."""
    files_bytes_max: Bytes = 8 << 30
    """Maximum size of all uploaded files of one key together; 0: the server keeps no files."""
    files_max: Count = 1000
    """Maximum number of uploaded files of one key."""
    file_unused_s: Seconds = 3600.0
    """Time after which an uploaded file is removed that no job has used; a used one goes with the jobs' records."""
    keep_files_bytes: Bytes = 8 << 30
    """Maximum size of the files that ended jobs have saved; over it the job that ended first is dropped."""
    ack_cpu_s: Seconds = 0.1
    """Processor time within ack_s after which code that has not acknowledged SIGTERM counts as stuck."""
    stack: bool = False
    """Dump the stack even before a SIGKILL without grace (grace_s 0), which then comes up to 0.1 s later."""
    unkillable_s: PositiveSeconds = 10.0
    """Time after SIGKILL until a process that still exists is given up, and its slot quarantined."""

    @property
    def lasting_files_folder(self) -> str:
        """Where files are, if that has the same name in each run; empty: in a temporary folder."""
        return self.files_folder or (self.journal and f"{self.journal}.files")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Settings(SupervisorSettings):
    """All settings of a supervisor. Those of the HTTP server are in `api.http.app_settings`."""

    pools: tuple[PoolSpec, ...]
    limits: Limits = field(default_factory=lambda: DEFAULT_LIMITS)
    """Default limits of all job types."""
    caps: Mapping[str, float | None] = field(default_factory=dict)
    """The caps that the operator has set; None: no cap. The others follow from the limits of each type (`cap_of`)."""
    jobs: Mapping[str, JobSettings] = field(default_factory=dict)
    tenants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The members of each `[tenants.NAME]` as they are written; `supervisor.jobs.tenants` puts one over the other."""
    has_files: bool = False
    """Whether clients upload files and jobs save some. An Executor has none, and a head of a cluster."""
    sweep: bool = True
    """Whether to end the orphans of dead supervisors on this machine at the start. An Executor does not."""
    proof: Literal["", "cgroup+descendants", "descendants"] = ""
    """The proof that KILLABLE_PROOF forces; empty: the strongest that the machine allows."""
