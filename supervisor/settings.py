"""What a supervisor is told at its start: values only, already checked (`config` makes them from a file).

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the supervisor itself needs; the HTTP server's own settings are the api's."""

    pools: tuple[PoolSpec, ...]
    limits: Limits = field(default_factory=lambda: DEFAULT_LIMITS)
    """Defaults of all types."""
    caps: Mapping[str, float] = field(default_factory=lambda: DEFAULT_CAPS)
    jobs: Mapping[str, JobSettings] = field(default_factory=dict)
    queue_jobs_max: int = 1000
    queue_bytes_max: int = 256 << 20
    keep_jobs: int = 1000
    keep_bytes: int = 512 << 20
    keep_s: float = 3600.0
    journal: str = ""
    """Path of the file in which jobs survive the supervisor; empty: there is none."""
    ack_cpu_s: float = 0.1
    """Processor time of the whole process after which unheard native code counts as stuck."""
    stack: bool = False
    """Dump a stack also before a SIGKILL without grace, which then comes 1 to 100 ms later."""
    unkillable_s: float = 10.0
    """After SIGKILL: then the slot is quarantined."""
    sweep: bool = True
    """End first what dead supervisors have left on this machine; not in a program of somebody's (the Executor)."""
    proof: Literal["", "cgroup+descendants", "descendants"] = ""
    """Forced by KILLABLE_PROOF; empty: the stronger one that the machine allows."""
