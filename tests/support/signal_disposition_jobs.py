"""Job types that change the disposition of SIGTERM: handle it, restore it, block it, or leave it changed.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Literal

from support.job_helpers import announce_entry, libc, name_process

from killable import Context, job

FOREVER_S = 3600.0


@job
def swaps_and_computes(ctx: Context) -> int:
    """Put back what was there, and compute in one C call that holds the GIL."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGTERM, before)
    announce_entry(ctx)
    return sum(range(10**11))


@job
def leaves_it_changed(how: Literal["nothing", "restarts", "ignored", "default"]) -> int:
    """Change what Python's own table of handlers does not show, as C code may."""
    match how:
        case "restarts":
            signal.siginterrupt(signal.SIGTERM, False)
        case "ignored":
            libc().signal(signal.SIGTERM, ctypes.c_void_p(1))  # SIG_IGN
        case "default":
            libc().signal(signal.SIGTERM, None)
    return os.getpid()


@job
def waits_in_a_read(ctx: Context) -> None:
    """Wait in a system call that only an interruption ends."""
    reading, _writing = os.pipe()
    try:
        announce_entry(ctx)
        os.read(reading, 1)
    finally:
        ctx.emit("finally")


@job
def waits_for_it_in_a_thread(ctx: Context) -> None:
    """Block it, take it by sigwait(3), and say so each time; be in an operation whose time is over soon."""
    name_process(ctx)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def take() -> None:
        while True:
            signal.sigwait([signal.SIGTERM])
            ctx.emit("heard")

    threading.Thread(target=take, daemon=True).start()
    with ctx.operation("fetch", 0.05, "raise"):
        ctx.sleep(FOREVER_S)


@job
def dies_of_it(ctx: Context) -> None:
    """Put the default action back, and be in an operation whose time is over soon."""
    name_process(ctx)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with ctx.operation("fetch", 0.05, "raise"):
        ctx.sleep(FOREVER_S)
