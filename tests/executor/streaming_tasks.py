"""Tasks whose tokens go through the ring that a worker shares with its supervisor.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator

from killable import Context, Stopping

ANSWER_S = 30.0
"""A reader that has not answered by then sleeps for ever."""
WATCHED_AT = 128
"""Where in the ring the supervisor says that it looks into it, in bytes."""


def shared(path: str) -> mmap.mmap:
    """Map the first page of a file that the test maps too."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, mmap.PAGESIZE)
    finally:
        os.close(descriptor)


def count_and_note(path: str) -> Iterator[int]:
    """Count for ever, and note where the test sees it how many yields have returned."""
    noted = memoryview(shared(path)).cast("Q")
    for number in itertools.count():
        yield number
        noted[0] = number + 1


def wait_for_answers(path: str, sizes: list[int]) -> Iterator[int]:
    """After each burst of so many tokens, wait until the test says that it has them all. Does not sleep."""
    answer = memoryview(shared(path)).cast("Q")
    for number, size in enumerate(sizes, 1):
        yield from range(size)
        began = time.monotonic()
        while answer[0] < number:
            if time.monotonic() > began + ANSWER_S:
                raise TimeoutError(f"no answer to burst {number} of {size} tokens")


def count_and_report(ctx: Context, number: int) -> Iterator[int]:
    """Report progress among the tokens."""
    for each in range(number):
        yield each
        if each % 1000 == 0:
            ctx.progress(each)


def count_until_stopped() -> Iterator[object]:
    """Count for ever; in the grace, yield a few more."""
    try:
        yield from itertools.count()
    except Stopping:
        yield from ["last", "words"]
        raise


def scribble(seed: int) -> Iterator[int]:
    """Write at random into the ring while it is used: a hostile task finds every mapping of its process."""
    choose = random.Random(seed)
    yield from range(20_000)
    begin, end = _ring_addresses()
    for number in range(20_000):
        yield number
        if number % 100 == 0:
            place = choose.choice((0, 64, 128, choose.randrange(4096, end - begin - 8)))
            content = struct.pack(
                "=Q", choose.choice((0, 1, 2**64 - 1, choose.getrandbits(64), choose.getrandbits(14)))
            )
            ctypes.memmove(begin + place, content, len(content))


def wake_writer_only(at_least: int, more: int) -> Iterator[int]:
    """Count. When the supervisor does not look into the ring any more, claim that it does, and count on for so many: no
    token wakes it then.

    Not before it has looked once: until then it has not mapped the ring, and reads the pipe only.
    """
    watched = ctypes.c_uint64.from_address(_ring_addresses()[0] + WATCHED_AT)
    number, has_looked = 0, False
    while number < at_least or not has_looked:
        yield number
        number += 1
        has_looked = has_looked or watched.value != 0
    while watched.value:
        pass
    watched.value = 1
    yield from range(number, number + more)


def publish_more_at_the_end(number: int) -> Iterator[int]:
    """Count, and as the last thing before the end claim tokens that were never sent."""
    yield from range(number)
    ctypes.c_uint64.from_address(_ring_addresses()[0]).value += 100


def _ring_addresses() -> tuple[int, int]:
    with open("/proc/self/maps") as maps:
        (line,) = (line for line in maps if "killable-tokens" in line)
    begin, end = (int(address, 16) for address in line.split()[0].split("-"))
    return begin, end
