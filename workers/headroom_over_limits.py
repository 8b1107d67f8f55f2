"""The hard limits, which the kernel holds: memory.max, RLIMIT_DATA, pids.max, RLIMIT_NPROC.

Runs in: any. Over its own limit a job is stopped with its grace, over the hard one it has none. Apart from the table of
all limits (`limits_and_caps`), which workers do not load to set them.
"""

from __future__ import annotations

HARD_FACTOR = 1.25
HARD_BYTES_MIN = 32 << 20
"""A hard limit is over the limit by this factor, and one of memory by at least these bytes: room for a clean-up, and
for growth between two measurements.
"""
TASKS_SPARE = 1024
"""The kernel's bounds of tasks (RLIMIT_NPROC, pids.max) are over a job's limit by this number."""


def hard_limit_bytes(memory_bytes: int) -> int:
    """Return the bytes by which a job can grow at all: a quarter more than its limit, and at least 32 MiB more.

    The limit itself is measured, so that a job gets its grace. Growth in it, or between measurements, ends here.
    """
    return max(int(memory_bytes * HARD_FACTOR), memory_bytes + HARD_BYTES_MIN)


def hard_limit_of_tasks(processes_max: int | None, threads_max: int | None) -> int | None:
    """Return how many tasks the kernel lets a job have: it counts each thread of each process. None: no bound."""
    most = processes_max if threads_max is None else threads_max
    return None if most is None else most + TASKS_SPARE
