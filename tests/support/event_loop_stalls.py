"""Jobs that go on while the supervisor stands still, and a supervisor's loop that stands still where it hurts most.

Runs in: worker (the jobs) | the test process (the rest).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.job_helpers import announce_entry, compute

from killable import Context, job


@job
def ends_at(ctx: Context, gate: str, how: str = "return") -> str:
    """When a file is there, return or crash; told to end, wait for it in the clean-up."""
    try:
        announce_entry(ctx)
        while not Path(gate).exists():
            time.sleep(0.002)
    finally:
        while not Path(gate).exists():
            time.sleep(0.002)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return "opened"


@job
def hears_late(ctx: Context, cleaned: str) -> None:
    """Compute in native calls, in which Python hears nothing; then clean up, for longer than `ack_cpu_s`."""
    try:
        announce_entry(ctx)
        while True:
            sum(range(10**7))
    finally:
        compute(0.3)
        Path(cleaned).touch()
        time.sleep(0.3)  # whoever is killed for not answering does not get so far


@job
def leaves_tmp(ctx: Context) -> str:
    """Leave so much in the private directory that to remove it takes a while."""
    for number in range(1000):
        (ctx.tmp / str(number)).touch()
    return "left"


def advance_clock(seconds: float) -> None:
    """Let so much time go by for the running loop, and for nobody else: as if its process had been suspended."""
    loop: Any = asyncio.get_running_loop()
    time_of = loop.time
    loop.time = lambda: time_of() + seconds


def stall_loop(meanwhile: Callable[[], None], seconds: Callable[[], float]) -> None:
    """Have the running loop lose its processor once, right behind its next look at what is ready, for so long.

    What happens `meanwhile` it has not seen when it then goes through what has become due.
    """
    loop: Any = asyncio.get_running_loop()
    selector = loop._selector

    def select(_timeout: float | None = None) -> Any:
        ready = type(selector).select(selector, 0)
        del selector.select
        meanwhile()
        advance_clock(seconds())
        return ready

    selector.select = select
