"""Job types of a cluster: a stream, and a family of processes that does not end by itself.

Runs in: worker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

from killable import Context, job


@job
def count(n: int, pause_s: float = 0.0) -> Iterator[str]:
    """Yield n tokens."""
    for number in range(n):
        yield f" {number}"
        time.sleep(pause_s)


@job
def family(ctx: Context) -> None:
    """Start a child, one in a session of its own and a daemon, tell their pids, and go on for ever."""
    pids = [os.getpid()]
    for daemon in (False, False, True):
        readable, writable = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if daemon and os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writable, str(os.getpid()).encode())
            while True:
                signal.pause()
        pids.append(int(os.read(readable, 20)))
        os.close(readable)
        os.close(writable)
    ctx.emit(pids)
    while True:
        signal.pause()


@job
def tick(n: int, gate: str) -> Iterator[str]:
    """Yield n tokens, one as soon as the gate has so many bytes."""
    for number in range(n):
        while not os.path.exists(gate) or os.path.getsize(gate) <= number:
            time.sleep(0.005)
        yield f" {number}"


@job(attempts_max=2, backoff_s=0)
def nap(ctx: Context, seconds: float = 3600) -> int:
    """Sleep on the first attempt; return which one it is on the second."""
    if ctx.attempt == 1:
        ctx.sleep(seconds)
    return ctx.attempt
