"""Hostile job types that leave other processes or threads running.

Runs in: worker.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from support.job_helpers import announce_entry, fork_one, name_process

from killable import Context, job


def fork_family(ctx: Context, kind: str) -> list[int]:
    """Fork some processes: `children`, `setsid` grandchildren, double-forked `daemon`s, one of `each`, or `stopped`
    ones.
    """
    name_process(ctx)
    made = []
    if kind in ("children", "each"):
        made += [fork_one(new_session=False)]
    if kind in ("setsid", "each"):
        made += [fork_one(new_session=True), fork_one(new_session=True)]
    if kind in ("daemon", "each"):
        made += [fork_one(new_session=True, twice=True)]
    if kind == "stopped":
        made += [fork_one(new_session=False, stopped=True), fork_one(new_session=True, stopped=True)]
    return made


def join_own_group_from_another() -> None:
    """Make this process's group one that is not orphaned: with a grandchild in it whose parent is in another group of
    the session. In an orphaned one, as that of each worker is (its parent is of another session), the kernel discards
    the stops of a terminal (setpgid(2); signal(2) of POSIX, 2.4.3).
    """
    group = os.getpgrp()
    readable, writable = os.pipe()
    if os.fork() == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            os.setpgid(0, group)
            os.write(writable, b".")
        while True:
            time.sleep(3600)
    os.close(writable)
    os.read(readable, 1)
    os.close(readable)


@job
def stops_like_a_shells(ctx: Context, by: str) -> None:
    """Stop, as what runs below a shell can be stopped: by a signal that can also be ignored or handled."""
    name_process(ctx)
    join_own_group_from_another()
    ctx.emit("in")
    while True:
        os.kill(os.getpid(), signal.Signals[by])


@job
def leaves_family(ctx: Context, kind: str = "each") -> list[int]:
    """Return while processes that were forked go on."""
    return fork_family(ctx, kind)


@job
def keeps_family(ctx: Context, kind: str = "each") -> None:
    """Go on together with processes that were forked."""
    ctx.emit(fork_family(ctx, kind))
    while True:
        signal.pause()


@job
def crashes_with_family(ctx: Context, kind: str = "each") -> None:
    """Crash while processes that were forked go on."""
    ctx.emit(fork_family(ctx, kind))
    os.kill(os.getpid(), signal.SIGSEGV)


@job
def forks_steadily(ctx: Context) -> None:
    """Fork again and again, each child in a session of its own; the latest twenty live."""
    announce_entry(ctx)
    alive: list[int] = []
    while True:
        alive.append(fork_one(new_session=True))
        if len(alive) > 20:
            oldest = alive.pop(0)
            os.kill(oldest, signal.SIGKILL)
            os.waitpid(oldest, 0)


@job
def forks_until_told(ctx: Context) -> None:
    """Fork again and again; then say whether another thread gets the lock of logging, which each fork takes."""
    got: list[bool] = []
    lock: Any = logging._lock  # type: ignore[attr-defined]
    try:
        announce_entry(ctx)
        while True:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    finally:
        taking = threading.Thread(target=lambda: got.append(lock.acquire(timeout=1)))
        taking.start()
        taking.join()
        ctx.emit(got)


@job
def leaves_zombies(ctx: Context, count: int = 5) -> None:
    """Have children that end and are never waited for."""
    name_process(ctx)
    for _ in range(count):
        if os.fork() == 0:
            os._exit(0)


@job
def starts_threads(ctx: Context, then: str = "return") -> str:
    """Start threads that are not daemons: two compute in Python, one waits. Then return, or go on."""
    name_process(ctx)

    def compute_for_ever() -> None:
        while True:
            pass

    for target in (compute_for_ever, compute_for_ever, threading.Event().wait):
        threading.Thread(target=target).start()
    ctx.emit("in")
    while then == "go on":
        pass
    return "returned"
