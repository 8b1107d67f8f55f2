"""The job type `probe`: what `killable doctor` starts, reads and ends, to see this machine do it.

Runs in: worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from killable import job


@job(grace_s=2)
def probe() -> Iterator[str]:
    """Say a word, then compute for ever."""
    yield "ready"
    while True:
        pass
