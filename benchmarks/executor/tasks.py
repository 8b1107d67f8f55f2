"""The functions that the peers of the Executor run: plain functions, the same for each peer.

Runs in: worker, of killable's Executor or of a peer. Standard library only.

`address` is that of a `PidListener`: a function that has one reports its pid when it has started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from executor.pid_listener import JOB, report

TOKEN = " token"
END = None
"""The last item in a queue of tokens."""
MIB = 1 << 20
PRELOAD_BYTES = 200 * MIB
PRELOAD_S = 1.0
TREE_ROLES = JOB, "child", "setsid", "double fork"
"""The roles in which the processes of one `process_tree` report."""
_RECORD_BYTES = 500
"""Measured size of one record below: a dict, its list, their numbers and texts."""

_held: list[Any] = []
_queue: Any = None


# ── endings ──


def python_loop(address: str) -> None:
    """Compute for ever in Python."""
    report(address)
    while True:
        pass


def native_loop(address: str) -> None:
    """Compute for ever in one C call that holds the GIL and handles no signal."""
    report(address)
    sum(range(10**18))


def ignores_sigterm(address: str) -> None:
    """Ignore SIGTERM and loop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    python_loop(address)


def hold_memory(mib: int, address: str) -> None:
    """Loop with so much private memory, each page written."""
    _held.append(b"x" * (mib * MIB))
    python_loop(address)


def process_tree(address: str) -> None:
    """Loop, with a child, a child in a session of its own, and a grandchild whose parent has exited."""
    if os.fork() == 0:
        _wait_for_ever(address, "child")
    if os.fork() == 0:
        os.setsid()
        _wait_for_ever(address, "setsid")
    if (middle := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            _wait_for_ever(address, "double fork")
        os._exit(0)
    os.waitpid(middle, 0)
    python_loop(address)


def _wait_for_ever(address: str, role: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it may have inherited the handler of a worker
    report(address, role)
    while True:
        signal.pause()


def compute_for(seconds: float, address: str) -> int:
    """Compute for a while; return CLOCK_MONOTONIC at the end, in nanoseconds."""
    report(address)
    until_ns = time.monotonic_ns() + int(seconds * 1e9)
    while (now_ns := time.monotonic_ns()) < until_ns:
        pass
    return now_ns


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_3() -> None:
    os._exit(3)


def memory_error() -> None:
    bytearray(1 << 60)


# ── starts, throughput, values, streams ──


def first_line() -> int:
    """Return CLOCK_MONOTONIC at the job's first line, in nanoseconds."""
    return time.monotonic_ns()


def occupy(seconds: float) -> int:
    """Occupy a worker without computing; return its pid."""
    time.sleep(seconds)
    return os.getpid()


def do_nothing() -> None:
    """Return at once."""


def square(number: int) -> int:
    return number * number


def echo(data: bytes) -> bytes:
    return data


def tokens(count: int) -> Iterator[str]:
    """Yield tokens one by one."""
    for _ in range(count):
        yield TOKEN


def set_queue(queue: Any) -> None:
    """Keep the queue for `put_tokens`. An initializer of workers."""
    global _queue
    _queue = queue


def put_tokens(count: int, queue: Any = None) -> None:
    """Put tokens one by one."""
    put = (_queue if queue is None else queue).put
    for _ in range(count):
        put(TOKEN)
    put(END)


# ── preload ──


def allocate_records() -> tuple[bytes, list[dict[str, object]]]:
    """Return 200 MB: one half a single object, one half small ones, whose reference counts a fork must not write to."""
    half = PRELOAD_BYTES // 2
    records: list[dict[str, object]] = [
        {"number": number * 1.5, "text": f"record {number}", "list": [f"a{number}", number / 3]}
        for number in range(half // _RECORD_BYTES)
    ]
    return b"x" * half, records


def preload() -> None:
    """Take a second and 200 MB, as the preload of a model would."""
    began = time.monotonic()
    _held.append(allocate_records())
    while time.monotonic() - began < PRELOAD_S:
        pass
