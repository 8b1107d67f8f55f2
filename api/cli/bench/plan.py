"""How many trials a run takes, whole or with `--quick`, and how large the load is.

Runs in: a benchmark. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of one pass."""

    kills: int = 30
    """Cancels at once, each with a bare SIGKILL in turn."""
    asked: int = 10
    """Cancels with a grace, which take up to a second each."""
    jobs: int = 2000
    fresh_jobs: int = 300
    calls: int = 10_000
    tokens: int = 500_000
    rounds: int = 3
    """Of jobs, calls and tokens: each gives one rate."""
    recoveries: int = 15
    requests: int = 200
    """Of each kind, to a server that was there before."""
    load_s: float = 10.0
    burst: int = 10_000
    bursts: int = 5
    streams: int = 100


FULL = Plan()
QUICK = Plan(
    kills=6, asked=2, jobs=400, fresh_jobs=60, calls=2000, tokens=100_000, rounds=1, recoveries=4, requests=40,
    load_s=1.0, bursts=1,
)  # fmt: skip
"""Fifteen seconds on an idle machine, at most."""

EVENTS_PER_S = 1000
"""Of the load: in one stream, and in all streams together."""
