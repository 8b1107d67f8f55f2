"""Victims with much memory of their own, for raw kills: as `tasks.hoards`.

Runs in: a child of `raw`.
"""

from __future__ import annotations

from collections.abc import Iterator

import workloads

from killable import job

_MB = 1 << 20


@job
def hoards_200() -> Iterator[str]:
    """Loop with 200 MB."""
    kept = b"x" * (200 * _MB)
    yield str(len(kept))
    workloads.spin()


@job
def hoards_1000() -> Iterator[str]:
    """Loop with 1000 MB."""
    kept = b"x" * (1000 * _MB)
    yield str(len(kept))
    workloads.spin()
