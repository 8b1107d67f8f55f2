"""A pool with 200 MB preloaded: what does a worker that is forked from it cost?

Runs in: worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from killable import job, preload

BALLAST_BYTES = 200 << 20
_BYTES_PER_RECORD = 500
"""What one of the records below takes, measured: a dict, its list, their numbers and texts."""


@preload
def ballast() -> tuple[bytes, list[dict[str, object]]]:
    """Make one half as a single object, one half as small ones, whose reference counts a fork must not touch."""
    half = BALLAST_BYTES // 2
    records: list[dict[str, object]] = [
        {"number": number * 1.5, "text": f"record {number}", "list": [f"a{number}", number / 3]}
        for number in range(half // _BYTES_PER_RECORD)
    ]
    return bytes(range(256)) * (half // 256), records


@job
def holds() -> Iterator[str]:
    """Loop in Python beside the ballast."""
    _, records = ballast()
    yield str(len(records))
    while True:
        pass
