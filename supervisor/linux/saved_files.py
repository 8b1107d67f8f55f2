"""Take over a file that a job has saved, and open it for a reader.

Runs in: supervisor, a thread for readers. Behind `ports`. The job made it, and may still run: what it put there may be
a link, a pipe or a device.
"""

from __future__ import annotations

import errno
import os
import stat


def keep(staged: str, kept: str) -> int:
    """Move a saved file to where jobs do not come, replacing one of that name, and return its size.

    One rename: both are on one file system. It is looked at only then: before, the job could put something else in its
    place. Raise OSError, leaving nothing, if it is no regular file or has another name elsewhere.
    """
    os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
    os.rename(staged, kept)
    found = os.lstat(kept)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return found.st_size
    if not stat.S_ISDIR(found.st_mode):  # which goes with the job's folder: it may hold a million files
        os.unlink(kept)
    raise OSError(errno.EINVAL, "it is no regular file, or has another name")


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading. Return its descriptor and what it is. Raise OSError, also for a link or a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor, found
