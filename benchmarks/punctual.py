"""Jobs that run into a deadline and say when its time began, and when they were told to end.

Runs in: worker. CLOCK_MONOTONIC is one for all processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from killable import Context, OperationTimedOut, Stopping, job

LONG_S = 60.0


def _wait(ctx: Context, began: float) -> None:
    try:
        ctx.sleep(LONG_S)
    except (Stopping, OperationTimedOut):
        ctx.checkpoint([began, time.monotonic()])
        raise


@job
def run(ctx: Context) -> None:
    """Meet run_s, first_token_s or total_s."""
    _wait(ctx, time.monotonic())


@job
def idle(ctx: Context) -> Iterator[str]:
    """Meet idle_s."""
    yield "in"
    _wait(ctx, time.monotonic())


@job
def operation(ctx: Context, raises: bool = False) -> None:
    """Meet the end of an operation."""
    with ctx.operation("wait", None, "raise" if raises else "kill"):
        _wait(ctx, time.monotonic())


@dataclass
class Slow:
    """An input that takes long to make."""

    def __post_init__(self) -> None:
        time.sleep(LONG_S)


@job
def starts(slowly: Slow) -> None:
    """Meet start_s."""


@job
def burn(ctx: Context) -> None:
    """Meet cpu_s."""
    began = time.process_time()
    try:
        while True:
            pass
    except Stopping:
        ctx.checkpoint([began, time.process_time()])
        raise


@job
def alone() -> Iterator[str]:
    """Sleep until SIGTERM raises, as in `run`, without a supervisor (`raw`)."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise Stopping

    signal.signal(signal.SIGTERM, stop)
    yield "in"
    time.sleep(LONG_S)


@job
def native(ctx: Context) -> int:
    """Meet run_s in one native call that holds the GIL."""
    ctx.emit(time.monotonic())
    return sum(range(10**11))


@job
def family(ctx: Context) -> None:
    """Ignore SIGTERM, and have a child in a session of its own and a daemon forked twice, which ignore it too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    readable, writable = os.pipe()
    for twice in (False, True):
        if os.fork() == 0:
            os.setsid()
            if twice and os.fork() != 0:
                os._exit(0)
            os.write(writable, b"%d " % os.getpid())
            while True:
                time.sleep(LONG_S)
    pids = b""
    while pids.count(b" ") < 2:
        pids += os.read(readable, 100)
    ctx.emit([int(pid) for pid in pids.split()])
    while True:
        time.sleep(LONG_S)
