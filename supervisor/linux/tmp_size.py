"""The size of a job's temporary directory on disk.

Runs in: supervisor, in a thread. Behind `ports`. Whether it is over `tmp_bytes` is decided in `attempts/tmp_monitor`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from killable.supervisor import clock


def measure(wanted: Sequence[str], at_most: int) -> tuple[int, float]:
    """Return how many bytes folders have on disk, counted until they are over `at_most`, and the seconds that it took.

    Blocks. Follows no symbolic link; what vanishes meanwhile is not counted.
    """
    began = clock.monotonic()
    found, folders = 0, [*wanted]
    while folders and found <= at_most:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if found > at_most:
                    break
    return found, clock.monotonic() - began
