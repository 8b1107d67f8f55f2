"""The size of a job's temporary directory on disk.

Runs in: supervisor, in a thread. Behind `ports`. Whether it is over `tmp_bytes` is decided in `attempts/tmp_monitor`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from killable.supervisor import clock

LINKED_MAX = 100_000
"""Files with several names that are remembered, some 16 MB: of further ones each name counts."""


def measure(wanted: Sequence[str], at_most: int) -> tuple[int, float]:
    """Return how many bytes folders have on disk, counted until they are over `at_most`, and the seconds that it took.

    Blocks. Follows no symbolic link; what vanishes meanwhile is not counted. A file with several names counts once.
    """
    began = clock.monotonic()
    found, folders = 0, [*wanted]
    linked: set[tuple[int, int]] = set()
    while folders and found <= at_most:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    seen = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif seen.st_nlink > 1 and seen.st_blocks:
                        if (seen.st_dev, seen.st_ino) in linked:
                            continue
                        if len(linked) < LINKED_MAX:
                            linked.add((seen.st_dev, seen.st_ino))
                    found += seen.st_blocks * 512
                if found > at_most:
                    break
    return found, clock.monotonic() - began
