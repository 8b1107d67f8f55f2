"""How soon a job can reach a limit, and so when its processes are measured again.

Runs in: supervisor. Pure. Times are in seconds from now.

A machine can fill memory and fork only so fast: a job far below its limits is measured a few times a second, and a
job close to them every 5 ms.
"""

from __future__ import annotations

LOOK_S = 0.005
"""Minimum time between two measurements: 50 MB at 10 GB/s."""
BYTES_PER_S = 16 << 30
"""More than one core can fill: pages have to be cleared first."""
FORKS_PER_S = 10_000
"""More than one core can fork: a fork of a small C program takes 0.1 ms."""
THREADS_PER_S = 20_000
"""As many as Python starts. C can start more between two looks; `pids.max` and RLIMIT_NPROC hold it."""
TOGETHER_S = 1.0
"""Looks that are further apart need no common moment."""
COST_SHARE = 10
"""A slow measurement, of a tree of hundreds of processes, is not repeated before this many times its duration."""
PROOF_SHARE = 20
"""The same for a proof, which keeps another thread busy for 10 ms per GiB and more."""


def next_s(soonest_s: float, cost_s: float) -> float:
    """Return when to measure again. `soonest_s`: when a limit can be reached; `cost_s`: what the measurement took."""
    return max(LOOK_S, COST_SHARE * cost_s, soonest_s)


def step_s(holds_s: float, cost_s: float) -> float:
    """Return how far apart looks at a job are that does not run, and whose limits hold for so long.

    A multiple of LOOK_S: jobs with the same limits are looked at at the same moments, and the loop wakes once for all
    of them. One that could reach a limit sooner is looked at every LOOK_S, as one that runs is. 0: it has no moments in
    common with others.
    """
    step = max(LOOK_S, holds_s // LOOK_S * LOOK_S)
    return step if COST_SHARE * cost_s <= step < TOGETHER_S else 0.0


def next_proof_s(soonest_s: float, cost_s: float) -> float:
    """Return when to ask for a proof again, at the soonest."""
    return max(LOOK_S, PROOF_SHARE * cost_s, soonest_s)


def memory_s(room_bytes: int, cores: int) -> float:
    """Return how long it takes at least to fill so many bytes."""
    return room_bytes / (BYTES_PER_S * cores)


def processes_s(room: int, cores: int) -> float:
    """Return how long it takes at least to fork so many processes."""
    return room / (FORKS_PER_S * cores)


def threads_s(room: int, cores: int) -> float:
    """Return how long it takes at least to start so many threads."""
    return room / (THREADS_PER_S * cores)


def cpu_s(room_s: float, cores: int) -> float:
    """Return how long it takes at least to use so much processor time."""
    return room_s / cores
