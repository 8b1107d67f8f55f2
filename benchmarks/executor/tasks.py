"""The functions that the peers of the Executor run: plain functions, the same for each peer.

Runs in: worker, of killable's Executor or of a peer | a trial (PidListener). Standard library only.

`address` is that of a `PidListener`: a function that has one reports its pid when it has started, as a datagram.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

TOKEN = " token"
END = None
"""The last item in a queue of tokens."""
MIB = 1 << 20
PRELOAD_BYTES = 200 * MIB
PRELOAD_S = 1.0
JOB = "job"
OWNER = "owner"
"""The role of a process whose death is to end all workers."""
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


# ── reports ──

REPORT_S = 60.0
"""Longest wait for a report. A warm pool needs milliseconds; a new one first loads for a second."""


class Report(NamedTuple):
    pid: int
    at_ns: int
    """CLOCK_MONOTONIC when it was sent."""
    role: str


def report(address: str, role: str = JOB, pid: int | None = None) -> None:
    """Send the pid of this process, or another one, to the listener at this address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{pid or os.getpid()} {time.monotonic_ns()} {role}".encode(), "\0" + address)


class PidListener:
    """Receives reports at an abstract address, which leaves no file behind (unix(7)). A context manager."""

    def __init__(self) -> None:
        self.address = f"killable-bench-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address)
        self._socket.settimeout(REPORT_S)

    def receive(self) -> Report:
        """Wait for the next report. Raise TimeoutError."""
        pid, at_ns, role = self._socket.recv(256).decode().split(" ", 2)
        return Report(int(pid), int(at_ns), role)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
