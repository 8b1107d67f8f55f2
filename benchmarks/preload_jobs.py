"""A pool with 200 MB preloaded, to measure the private memory of a worker that is forked from it.

Runs in: worker. A module of its own: its preload runs in every pool that imports it.
"""

from __future__ import annotations

from collections.abc import Iterator

from executor import tasks

from killable import job, preload


@preload
def records() -> tuple[bytes, list[dict[str, object]]]:
    """Allocate 200 MB in the zygote."""
    return tasks.allocate_records()


@job
def loop_beside_records() -> Iterator[int]:
    """Loop in Python while the preloaded objects are in memory."""
    yield len(records()[1])
    while True:
        pass
