"""The jobs that the phases need, and no others: the zygote sends a message for each type, and each receipt fails in a
run of its own.

Runs in: worker.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from killable import job


@job
def echo(text: str) -> int:
    """Take the input."""
    return len(text)


@job
def count(n: int) -> Iterator[str]:
    """Yield n tokens."""
    for number in range(n):
        yield f" {number}"


@job
def talks(lines: list[str]) -> Iterator[str]:
    """Print lines to stdout, to file descriptor 1 and to stderr, then yield one token."""
    for line in lines:
        print(line, flush=True)
        os.write(1, f"{line}\n".encode())
        print(line, file=sys.stderr, flush=True)
    yield "said"


@job
def leaves_memory() -> Iterator[str]:
    """Make shared memory, and wait."""
    from multiprocessing.shared_memory import SharedMemory

    segment = SharedMemory(create=True, size=10_000)
    yield segment.name
    while True:
        time.sleep(3600)


@job
def waits() -> None:
    """Wait for ever in Python."""
    while True:
        time.sleep(3600)


@job
def sleep_native() -> int:
    """Compute for ever in one C call that holds the GIL."""
    return sum(range(10**18))
