"""Jobs whose endings the golden files describe: one job for each kind of ending.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from killable import Context, Stopping, job


@job
def completes() -> Iterator[str]:
    yield "one "
    yield "two"


@job
def cleans_up(ctx: Context) -> Iterator[str]:
    """Keep what was reached when it is told to end."""
    try:
        yield "at work"
        ctx.sleep(3600)
    except Stopping:
        ctx.checkpoint({"done": 1})
        raise


@job
def native(ctx: Context) -> int:
    """Compute in one native call."""
    ctx.emit("in")
    return sum(range(10**11))


@job
def waits(ctx: Context) -> None:
    """Wait, in an operation."""
    with ctx.operation("load"), ctx.operation("download"):
        ctx.sleep(3600)


@job
def grows(ctx: Context) -> None:
    """Take more than 64 MiB, and less than what the kernel bounds then: the watch is first."""
    held = bytearray(80 << 20)
    ctx.sleep(3600)
    del held


@job
def crashes() -> None:
    """Read where nothing is, after a word on stderr."""
    os.write(2, b"about to read where nothing is\n")
    ctypes.string_at(1)


@job
def raises() -> None:
    raise ValueError("no luck")


@job
def is_killed(ctx: Context) -> None:
    """Be killed as by a stranger."""
    ctx.emit("in")
    os.kill(os.getpid(), signal.SIGKILL)


@job
def is_killed_once(ctx: Context) -> int:
    """Be killed as by a stranger in its first attempt, having said nothing."""
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for number in range(60):  # more than the last events that its story is made of
        print(number)
    return ctx.attempt


@dataclass
class Slow:
    """An input that takes long to make."""

    def __post_init__(self) -> None:
        time.sleep(3600)


@job
def starts_slowly(slowly: Slow) -> None:
    """Be waited for."""


@dataclass
class Even:
    value: int

    def __post_init__(self) -> None:
        if self.value % 2:
            raise ValueError("must be even")


@job
def wants_even(number: Even) -> int:
    return number.value
