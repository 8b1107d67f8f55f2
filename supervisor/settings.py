"""What a supervisor is told at its start: values only, already checked (`config` makes them from a file).

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from killable.workers.authoring.limits import DEFAULT_CAPS, DEFAULT_LIMITS, Limits

StartMethod = Literal["fork", "spawn"]


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(usable_processors())


def usable_processors() -> Set[int]:
    """Return the numbers of the processors that this process may use (sched_getaffinity(2))."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One pool of `killable.toml`."""

    name: str
    modules: tuple[str, ...]
    """Module names, or paths of files ending in .py."""
    workers: int = field(default_factory=usable_cores)
    """Most busy workers at once."""
    spares: int = 1
    """Warm and idle workers beyond the busy ones."""
    jobs_per_worker_max: int = 1
    """1: a fresh process per job; 0: reuse without end."""
    start_method: StartMethod = "fork"
    python: str = ""
    """Another interpreter; empty: the supervisor's own."""
    nice: int = 5
    """So that the supervisor always gets a core."""
    affinity: tuple[int, ...] = ()
    """Processors that workers run on; empty: all that the supervisor may use."""
    core_dumps: bool = False
    """Of a crash, as far as the supervisor's own RLIMIT_CORE allows."""
    user: str | int = ""
    """Workers become this user, by name or number; empty: they stay who the supervisor is."""
    group: str | int = ""
    """And this group; empty: the user's own."""
    env: Mapping[str, str] = field(default_factory=dict)
    codec: Literal["json", "pickle"] = "json"
    setup: bytes = field(default=b"", repr=False)
    """What an Executor's processes make ready (`workers.calls.Setup`); empty: a pool of job types."""
    folder: str = ""
    """First on the workers' sys.path, and their working directory; empty: the supervisor's own."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """`[jobs.NAME]`: limits over the decorator's, and caps over the server's."""

    limits: Mapping[str, Any] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)


Seconds = Annotated[float, "seconds, 0 or more"]
PositiveSeconds = Annotated[float, "seconds, more than 0"]
Bytes = Annotated[int, "bytes, 0 or more"]
PositiveBytes = Annotated[int, "bytes, more than 0"]
Count = Annotated[int, "count, 0 or more"]
PositiveCount = Annotated[int, "count, 1 or more"]
Port = Annotated[int, "port"]
"""What a setting takes. `configuration.tables` maps each to the type by which the file is validated."""


@dataclass(frozen=True)
class SupervisorSettings:
    """The part of `[server]` that the supervisor uses: the queue, what is kept, the escalation."""

    queue_jobs_max: PositiveCount = 1000
    """Jobs that wait; one more is 429 queue_full."""
    queue_bytes_max: PositiveBytes = 256 << 20
    """Bytes of input that wait; more are 429 queue_full."""
    keep_jobs: Count = 1000
    """Ended jobs that stay readable; the first bound of the three that is met drops the oldest."""
    keep_bytes: Bytes = 512 << 20
    """Memory that ended jobs may hold."""
    keep_s: Seconds = 3600.0
    """For how long an ended job stays readable."""
    journal: str = ""
    """A file in which jobs survive the server's death: at its next start those run that waited. Empty: no file."""
    ack_cpu_s: Seconds = 0.1
    """Processor time within ack_s after which code that did not hear SIGTERM counts as stuck."""
    stack: bool = False
    """Dump the stack also before a SIGKILL without grace (grace_s 0), which then comes up to 0.1 s later."""
    unkillable_s: PositiveSeconds = 10.0
    """After SIGKILL: then a process that is still there is given up, and its slot is quarantined."""


@dataclass(frozen=True)
class HttpServerSettings:
    """The part of `[server]` that the HTTP side uses: address, access, bounds of a request."""

    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs an API key."""
    port: Port = 7833
    """0 takes a free one."""
    uds: str = ""
    """Path of a Unix socket (mode 0600) to listen on instead of host and port."""
    api_keys_file: str = ""
    """A file that only its owner can read, lines `NAME ROLE KEY`, role submit or operate. KILLABLE_API_KEY adds one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, beyond loopback and `host`, under which clients reach this server."""
    cors_origins: tuple[str, ...] = ()
    """Origins like "https://app.example" whose pages may call this server."""
    connections_max: PositiveCount = 2000
    """Open connections at once; a stream holds one."""
    header_timeout_s: PositiveSeconds = 10.0
    """For a request's header to be there, from its first byte or, on a new connection, from its start."""
    body_bytes_max: PositiveBytes = 16 << 20
    """The largest request body: a larger one is 413."""
    result_inline_bytes_max: PositiveBytes = 64 << 10
    """A longer result stands in a record as a reference to its own address."""


@dataclass(frozen=True)
class ServerSettings(SupervisorSettings, HttpServerSettings):
    """The HTTP side, the bounds of the queue and of what is kept, the log: `[server]` of `killable.toml`.

    The string under a setting is its documentation everywhere: in the JSON Schema and in `killable config --example`.
    """

    drain_s: Seconds = 0.0
    """After Ctrl-C or SIGTERM: for jobs to end by themselves, before each is cancelled with its own grace."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What goes to stderr; info has a line for each step of a job's life."""
    log_format: Literal["text", "json"] = "text"
    """json: one object per line."""
    redact: bool = False
    """Keep what jobs and clients say (errors, reasons, tags) out of the server's own log; tokens are never in it."""


@dataclass(frozen=True, kw_only=True)
class Settings(SupervisorSettings):
    """Everything that the supervisor needs. The HTTP server's own settings are in `api.http.settings`."""

    pools: tuple[PoolSpec, ...]
    limits: Limits = field(default_factory=lambda: DEFAULT_LIMITS)
    """Defaults of all job types."""
    caps: Mapping[str, float] = field(default_factory=lambda: DEFAULT_CAPS)
    jobs: Mapping[str, JobSettings] = field(default_factory=dict)
    sweep: bool = True
    """Whether to end first what dead supervisors have left on this machine. An Executor does not."""
    proof: Literal["", "cgroup+descendants", "descendants"] = ""
    """Forced by KILLABLE_PROOF. Empty: the stronger one that the machine allows."""
