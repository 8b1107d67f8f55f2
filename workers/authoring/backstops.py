"""By how much the kernel's bounds are over a job's limits.

Runs in: any. Apart from `limits`: a worker sets the kernel's bounds without the table of all limits.
"""

from __future__ import annotations

BACKSTOP = 1.25
BACKSTOP_BYTES = 32 << 20
"""The kernel's bounds are over a job's limit by this factor, and at least by these bytes (`backstop_bytes`): room for
a clean-up, and for growth between two measurements.
"""
TASKS_SPARE = 1024
"""The kernel's bounds of tasks (RLIMIT_NPROC, pids.max) are over a job's limit by this number."""


def backstop_bytes(memory_bytes: int) -> int:
    """Return the bytes by which a job can grow at all: a quarter more than its limit, and at least 32 MiB more.

    The limit itself is measured, so that a job gets its grace. Growth in it, or between measurements, ends here.
    """
    return max(int(memory_bytes * BACKSTOP), memory_bytes + BACKSTOP_BYTES)


def tasks_bound(processes_max: int | None, threads_max: int | None) -> int | None:
    """Return how many tasks the kernel lets a job have: it counts each thread of each process. None: no bound."""
    most = processes_max if threads_max is None else threads_max
    return None if most is None else most + TASKS_SPARE
