"""The jobs of `excess`: one that takes ever more memory, one that only computes.

Runs in: worker. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from killable import job


@job
def grow(mb: int, every_s: float) -> Iterator[str]:
    """Allocate and write so much, again and again, also when there is no more."""
    yield "in"
    chunks = []
    while True:
        try:
            chunks.append(bytearray(b"\1") * (mb * 1_000_000))
        except MemoryError:
            pass
        time.sleep(every_s)


@job
def compute() -> Iterator[str]:
    """Compute for ever."""
    yield "in"
    while True:
        pass
