"""The limits of an attempt that the kernel enforces; each process of the job inherits them (setrlimit(2)).

Runs in: worker. They bound each process by itself. The supervisor's monitor counts the whole process tree and grants a
grace period; these limits also hold between two of its samples and while the supervisor is blocked.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Mapping
from typing import Any

from killable.workers.headroom_over_limits import hard_limit_bytes, hard_limit_of_tasks

LIMIT_MAX = (1 << 63) - 1
"""The largest value that the kernel does not take for infinity."""


class ResourceLimits:
    """Sets the soft limits of an attempt and restores them afterwards. The hard limits stay unchanged."""

    def __init__(self, *, own_user: bool = False) -> None:
        """`own_user`: the workers run as a separate user, so RLIMIT_NPROC, which counts per user, can be set."""
        self._own_user = own_user
        self._changed: dict[int, int] = {}
        self._without: Mapping[str, Any] | None = None
        """The limits of the last attempt, if nothing had to be set for them: a thousand calls have the same."""

    def hold(self, limits: Mapping[str, Any], data_bytes: int | None) -> None:
        """Set the rlimits of an attempt. Memory may grow from `data_bytes` (private memory; None: measure it now)."""
        if limits is self._without:
            return
        memory_bytes, cpu_s = limits.get("memory_bytes"), limits.get("cpu_s")
        tasks_max = hard_limit_of_tasks(limits.get("processes_max"), limits.get("threads_max"))
        files_max = limits.get("files_max")
        if memory_bytes is not None:
            grows_from = measure_data_bytes() if data_bytes is None else data_bytes
            self._set(resource.RLIMIT_DATA, grows_from + hard_limit_bytes(memory_bytes))
        if cpu_s is not None:
            # The grace period is added: SIGXCPU within it would cut the job's clean-up short.
            used_s = time.process_time() + limits.get("grace_s", 0.0)
            self._set(resource.RLIMIT_CPU, math.ceil(used_s + cpu_s) + 1)
        if files_max is not None:
            self._set(resource.RLIMIT_NOFILE, files_max + len(os.listdir("/proc/self/fd")) - 1)
        if tasks_max is not None and self._own_user:
            self._set(resource.RLIMIT_NPROC, tasks_max)
        if not self._changed:
            self._without = limits

    def restore(self) -> None:
        """Restore the previous soft limits. May be called when nothing was set."""
        if not self._changed:
            return
        for kind, soft in self._changed.items():
            resource.setrlimit(kind, (_at_most(soft, hard := resource.getrlimit(kind)[1]), hard))
        self._changed.clear()

    def _set(self, kind: int, wanted: int) -> None:
        soft, hard = resource.getrlimit(kind)
        self._changed.setdefault(kind, soft)
        resource.setrlimit(kind, (_at_most(min(wanted, LIMIT_MAX), hard), hard))


def _at_most(soft: int, hard: int) -> int:
    """Return the soft limit cut to the hard one, which a job may have lowered. RLIM_INFINITY is negative: no min()."""
    if hard == resource.RLIM_INFINITY:
        return soft
    return hard if soft == resource.RLIM_INFINITY else min(soft, hard)


def measure_data_bytes() -> int:
    """Return the private writable memory of this process (proc(5), statm); 20 µs."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[5]) * resource.getpagesize()
