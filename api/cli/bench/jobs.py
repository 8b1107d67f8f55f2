"""The job types of `killable bench`: loops that are to be killed, jobs that do nothing, streams.

Runs in: worker | a bare process (`python jobs.py NAME PARENT`), which is killed beside it.

A job that runs until it is ended yields once when it has started: CLOCK_MONOTONIC in seconds, a tree its pids.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from killable import job
from killable.workers.runtime import process_setup

CHILDREN = 3
"""Of the tree: one in the job's session, one in its own, one forked twice, which is nobody's child."""


bare = threading.Event()
"""Whether this is a bare process and no worker: its standard input is the benchmark's."""


def spin() -> None:
    """Compute for ever in Python."""
    while True:
        pass


def sum_in_c() -> None:
    """Compute for ever in one C call that holds the GIL and handles no signal."""
    sum(range(10**18))


@job(run_s=None)
def python_loop() -> Iterator[float]:
    """Loop in Python."""
    yield time.monotonic()
    spin()


@job
def native_loop() -> Iterator[float]:
    """Loop in one native call that holds the GIL."""
    yield time.monotonic()
    sum_in_c()


@job
def ignores_sigterm() -> Iterator[float]:
    """Ignore SIGTERM and loop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield time.monotonic()
    spin()


@job
def tree() -> Iterator[list[int]]:
    """Have children that ignore SIGTERM, of which two are out of reach for a signal to the job's process group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    readable, writable = os.pipe()
    for number in range(CHILDREN):
        is_twice = number == CHILDREN - 1
        child = os.fork()
        if child == 0:
            if number:
                os.setsid()
            if is_twice and os.fork() != 0:
                os._exit(0)
            os.write(writable, b"%d " % os.getpid())
            _stay()
        if is_twice:
            os.waitpid(child, 0)
    pids = b""
    while pids.count(b" ") < CHILDREN:
        pids += os.read(readable, 100)
    yield [int(pid) for pid in pids.split()]
    spin()


def _stay() -> None:
    """Never return. A bare process ends with the benchmark, at whose end there is nobody else to end it."""
    if bare.is_set():
        os.read(0, 1)
        os._exit(0)
    while True:
        signal.pause()


@job
def first_line() -> int:
    """Return CLOCK_MONOTONIC at the job's first line, in nanoseconds."""
    return time.monotonic_ns()


@job(run_s=None)
def wait_for_signal() -> Iterator[float]:
    """Wait without computing until cancelled."""
    yield time.monotonic()
    signal.pause()


@job(run_s=None, output_bytes="1GiB")
def yield_tokens(tokens: int) -> Iterator[str]:
    """Yield tokens as fast as possible."""
    for _ in range(tokens):
        yield " token"


@job(run_s=None, output_bytes="1GiB")
def yield_times(
    tokens: int, interval_s: float = 0.0, begin_ns: int = 0, gate: str = "", after_s: float = 0.0, chars: int = 0
) -> Iterator[str]:
    """Yield CLOCK_MONOTONIC in nanoseconds at each yield, one per interval from `begin_ns` on.

    `gate`: a named pipe that somebody has to open for writing before, and `after_s` how long after that it begins.
    `chars`: the least length of a token, which is filled with spaces.
    """
    if gate:
        with open(gate):
            pass
    due = max(begin_ns, time.monotonic_ns()) / 1e9 + after_s
    for _ in range(tokens):
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        yield str(time.monotonic_ns()).ljust(chars)
        due += interval_s


LOOPS = {each.__name__: each for each in (python_loop, native_loop, ignores_sigterm, tree)}


def main(name: str, parent: int) -> None:
    """Run a loop as a job would: print what it yields when it has started. End with the parent."""
    process_setup.die_with(parent)
    bare.set()
    for said in LOOPS[name]():
        print(said, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
