"""Job types that go on, end or clean up while the supervisor's event loop stands still.

Runs in: worker.
"""

from __future__ import annotations

import os
import signal
import time

from support.job_helpers import announce_entry, compute

from killable import Context, job


@job
def ends_at(ctx: Context, gate: str, how: str = "return") -> str:
    """When a file is there, return or crash; told to end, wait for it in the clean-up."""
    try:
        announce_entry(ctx)
        while not os.path.exists(gate):
            time.sleep(0.002)
    finally:
        while not os.path.exists(gate):
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
        os.close(os.open(cleaned, os.O_CREAT | os.O_WRONLY))
        time.sleep(0.3)  # whoever is killed for not answering does not get so far


@job
def leaves_tmp(ctx: Context) -> str:
    """Leave so much in the private directory that to remove it takes a while."""
    for number in range(1000):
        (ctx.tmp / str(number)).touch()
    return "left"
