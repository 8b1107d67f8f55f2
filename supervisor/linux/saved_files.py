"""Take over a file that a job has saved, and open it for a reader.

Runs in: supervisor, a thread for readers. Behind `ports`. The job made it, and may still run: what it put there may be
a link, a pipe or a device.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

LARGE_BYTES = 1 << 20
"""To free a larger file takes longer than to have a thread do it."""
ASIDE = "\t"
"""Begins the name of a file that was replaced. A file of a job has only characters that can be printed."""


def keep(staged: str, kept: str) -> tuple[int, str]:
    """Move a saved file to where jobs do not come. Return its size, and the path to which a large one of that name was
    moved aside (empty: there was none). The caller removes that one: to free gigabytes takes a second, and to rename a
    file over another one has ext4 find room for all that is not on disk yet.

    It is looked at only then: before, the job could put something else in its place. Raise OSError, leaving nothing, if
    it is no regular file or has another name elsewhere.
    """
    folder = os.path.dirname(kept)
    aside, size_before = "", 0
    try:
        size_before = os.lstat(kept).st_size
    except FileNotFoundError:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    else:
        aside = os.path.join(folder, f"{ASIDE}{os.path.basename(staged)}")
        os.rename(kept, aside)
    try:
        size = _keep(staged, kept)
    except OSError:
        if aside:  # it stays as it was, where it can
            with suppress(OSError):
                os.rename(aside, kept)
        raise
    if aside and size_before <= LARGE_BYTES:
        remove(aside)
        return size, ""
    return size, aside


def _keep(staged: str, kept: str) -> int:
    os.rename(staged, kept)  # both are on one file system
    found = os.lstat(kept)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return found.st_size
    if not stat.S_ISDIR(found.st_mode):  # which goes with the job's folder: it may hold a million files
        os.unlink(kept)
    raise OSError(errno.EINVAL, "it is no regular file, or has another name")


def sizes(folder: str, names: Iterable[str]) -> dict[str, int]:
    """Return how large the files of a folder are now, by name; without those that are not there."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = os.lstat(os.path.join(folder, name)).st_size
    return found


def remove(path: str) -> None:
    with suppress(OSError):  # it goes with its folder
        os.unlink(path)


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading. Return its descriptor and what it is. Raise OSError, also for a link or a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor, found
