"""The limits that the kernel keeps for one attempt: each process of the job inherits them (setrlimit(2)).

Runs in: worker. What counts the whole tree, and gives a grace, is the supervisor's watch; these bound each process for
itself, also between two looks of it and while the supervisor is held up.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Mapping
from typing import Any

from killable.workers.authoring.limits import TASKS_SPARE, backstop_bytes

LIMIT_MAX = (1 << 63) - 1
"""The largest number that is none of the kernel's words for infinity."""


class ResourceLimits:
    """Sets the soft limits for an attempt and puts them back; the hard ones stay as they are."""

    def __init__(self, *, own_user: bool = False) -> None:
        """`own_user`: the workers run as a user of their own, so that their number can be bounded."""
        self._own_user = own_user
        self._changed: dict[int, int] = {}

    def hold(self, limits: Mapping[str, Any], data_bytes: int | None) -> None:
        """Set what the attempt's limits ask for; `data_bytes` is the private memory that it grows from, None: now's."""
        memory_bytes, cpu_s = limits.get("memory_bytes"), limits.get("cpu_s")
        processes_max, files_max = limits.get("processes_max"), limits.get("files_max")
        if memory_bytes is not None:
            grows_from = measure_data_bytes() if data_bytes is None else data_bytes
            self._set(resource.RLIMIT_DATA, grows_from + backstop_bytes(memory_bytes))
        if cpu_s is not None:
            # The grace is the job's, too: within it SIGXCPU would cut its clean-up short.
            used_s = time.process_time() + limits.get("grace_s", 0.0)
            self._set(resource.RLIMIT_CPU, math.ceil(used_s + cpu_s) + 1)
        if files_max is not None:
            self._set(resource.RLIMIT_NOFILE, files_max + len(os.listdir("/proc/self/fd")) - 1)
        if processes_max is not None and self._own_user:
            self._set(resource.RLIMIT_NPROC, processes_max + TASKS_SPARE)

    def lift(self) -> None:
        """Put back what was there before; harmless when nothing was set."""
        for kind, soft in self._changed.items():
            resource.setrlimit(kind, (_at_most(soft, hard := resource.getrlimit(kind)[1]), hard))
        self._changed.clear()

    def _set(self, kind: int, wanted: int) -> None:
        soft, hard = resource.getrlimit(kind)
        self._changed.setdefault(kind, soft)
        resource.setrlimit(kind, (_at_most(min(wanted, LIMIT_MAX), hard), hard))


def _at_most(soft: int, hard: int) -> int:
    """Return a soft limit that may stand below a hard one, which a job can have lowered: infinity is a negative."""
    if hard == resource.RLIM_INFINITY:
        return soft
    return hard if soft == resource.RLIM_INFINITY else min(soft, hard)


def measure_data_bytes() -> int:
    """Return the private writable memory of this process (proc(5), statm); 20 µs."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[5]) * resource.getpagesize()
