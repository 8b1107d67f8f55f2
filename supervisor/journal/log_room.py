"""The room on disk of a journal's write-ahead log: what it gets before it is needed, and what it keeps.

Runs in: supervisor, in the journal's thread.
"""

from __future__ import annotations

import os

from killable.supervisor.journal.file_permissions import WAL

WAL_BYTES_MAX = 64 << 20
"""It is truncated to this size after it has grown."""
WAL_ROOM_BYTES = 1100 * (4096 + 24)
"""The frames of SQLite's automatic checkpoint (1000 pages), after which the log is written from its beginning again,
and those of the transaction that exceeds them.
"""
ROOM_SHARE = 8
"""The log is lengthened if that takes at most this part of the free space."""


def lengthen_log(path: str) -> None:
    """Give the write-ahead log of an open journal its length, so that commits write over what is there.

    A commit that lengthens a file has the file system write its metadata as well, which takes twice as long. SQLite
    takes the zeros for no frames. Nothing happens if that fails, or if the disk is nearly full.
    """
    try:
        disk = os.statvfs(path)
        log = os.open(path + WAL, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        length = os.fstat(log).st_size
        missing = WAL_ROOM_BYTES - length
        if 0 < missing * ROOM_SHARE < disk.f_bavail * disk.f_frsize:
            os.pwrite(log, bytes(missing), length)
            os.fsync(log)
    except OSError:
        pass
    finally:
        os.close(log)
