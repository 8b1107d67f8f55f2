"""What the peers of the Executor are given to do: plain functions, the same for each of them.

Runs in: worker, of killable's Executor or of a peer. Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

TOKEN = " token"
END = None
"""What a queue of tokens ends with."""
MB = 1 << 20
BALLAST_BYTES = 200 * MB
LOAD_S = 1.0
PRESENT = "itself", "child", "setsid", "double fork"
"""Who is there when a `family` is complete, as each says itself."""
_RECORD_BYTES = 500
"""What one of the records below takes, measured: a dict, its list, their numbers and texts."""

_kept: list[Any] = []
_queue: Any = None


OWNER = "owner"
"""What is said of a process whose death is to end all others."""


def say(address: str, word: str = "itself", pid: int | None = None) -> None:
    """Tell the program that this process, or that one, is here, and when."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{pid or os.getpid()} {time.monotonic_ns()} {word}".encode(), "\0" + address)


def python_loop(address: str) -> None:
    """Compute for ever in Python."""
    say(address)
    while True:
        pass


def native_loop(address: str) -> None:
    """Compute for ever in one C call that holds the GIL and looks at no signal."""
    say(address)
    sum(range(10**18))


def ignores_sigterm(address: str) -> None:
    """Ignore SIGTERM and loop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    python_loop(address)


def hoards(megabytes: int, address: str) -> None:
    """Loop with so much memory of one's own, each page written."""
    _kept.append(b"x" * (megabytes * MB))
    python_loop(address)


def family(address: str) -> None:
    """Be four: itself, a child, one in a session of its own, one whose parent has left."""
    if os.fork() == 0:
        _live(address, "child")
    if os.fork() == 0:
        os.setsid()
        _live(address, "setsid")
    if (middle := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            _live(address, "double fork")
        os._exit(0)
    os.waitpid(middle, 0)
    python_loop(address)


def _live(address: str, word: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a worker may have had a handler that is not this child's
    say(address, word)
    while True:
        signal.pause()


def works_for(seconds: float, address: str) -> int:
    """Compute for a while; return when it was over, monotonic, in nanoseconds."""
    say(address)
    until_ns = time.monotonic_ns() + int(seconds * 1e9)
    while (now_ns := time.monotonic_ns()) < until_ns:
        pass
    return now_ns


def first_line() -> int:
    """Return the monotonic time at the job's first line, in nanoseconds."""
    return time.monotonic_ns()


def rest(seconds: float) -> int:
    """Hold a worker without computing; return its pid."""
    time.sleep(seconds)
    return os.getpid()


def nothing() -> None:
    """Do nothing."""


def square(number: int) -> int:
    return number * number


def echo(data: bytes) -> bytes:
    return data


def tokens(count: int) -> Iterator[str]:
    """Yield tokens one by one."""
    for _ in range(count):
        yield TOKEN


def keep_queue(queue: Any) -> None:
    """As an initializer: take the queue that `put_tokens` will use."""
    global _queue
    _queue = queue


def put_tokens(count: int, queue: Any = None) -> None:
    """Put tokens one by one."""
    put = (_queue if queue is None else queue).put
    for _ in range(count):
        put(TOKEN)
    put(END)


def load() -> None:
    """Be a preload of a second and 200 MB: half as one object, half as small ones."""
    began = time.monotonic()
    half = BALLAST_BYTES // 2
    records = [
        {"number": number * 1.5, "text": f"record {number}", "list": [f"a{number}", number / 3]}
        for number in range(half // _RECORD_BYTES)
    ]
    _kept.append((b"x" * half, records))
    while time.monotonic() - began < LOAD_S:
        pass


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves() -> None:
    os._exit(3)


def out_of_memory() -> None:
    bytearray(1 << 60)
