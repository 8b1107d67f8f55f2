"""The job type `probe`: `killable doctor` starts it, reads a token and stops it, to test this machine.

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
