"""Job types whose streams are measured; `benchmarks/server.py` serves them.

Runs in: worker.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

from killable import job


@job(run_s=None, output_bytes="1GiB")
def emits(tokens: int) -> Iterator[str]:
    """Yield tokens as fast as they go."""
    for _ in range(tokens):
        yield " token"


@job
def first_token() -> Iterator[str]:
    """Yield one token and end: as little as a job can do."""
    yield "first"


@job(run_s=None)
def ticks(tokens: int, interval_s: float, begin_ns: int = 0) -> Iterator[str]:
    """Yield the moment of each yield (CLOCK_MONOTONIC, nanoseconds), one per interval from `begin_ns` on."""
    due = max(begin_ns, time.monotonic_ns()) / 1e9
    for _ in range(tokens):
        time.sleep(max(0.0, due - time.monotonic()))
        yield str(time.monotonic_ns())
        due += interval_s


@job(run_s=None)
def waits() -> Iterator[str]:
    """Yield once, then wait until it is cancelled."""
    yield "here"
    signal.pause()


@job(run_s=None)
def spins() -> Iterator[str]:
    """Yield once, then compute until it is killed."""
    yield "here"
    while True:
        pass
