"""Remove the shared memory and the semaphores that the processes of a job have left behind.

Runs in: supervisor | guard | worker. Memory with a name outlives its processes (shm_overview(7), svipc(7)). Nothing is
removed that might be another program's: of POSIX objects those in the log, by name, inode and owner; of System V
segments those whose creator was a process of the job.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import named_memory_log
from killable.workers.protocol.named_memory_log import NamedMemory, NamedObject

HELD_NAME = "held-memory"
"""The log, in the supervisor's directory, of what calls that ran through have left to the program."""
_FOLDER = "/dev/shm"
"""Where the C library keeps these objects (shm_overview(7), sem_overview(7))."""
TICK_S = 0.01
"""The kernel says when something was made by its clock of the last tick: so much earlier than `since` it may seem."""
_NAME_BYTES_MAX = 255
_SEGMENTS = "/proc/sysvipc/shm"
_PIECE_BYTES = 64 << 10
_IPC_RMID = 0


class Removed(NamedTuple):
    """What `remove_named` did."""

    number: int
    held: list[NamedObject]
    """Left to the program that made the calls."""


def log_of(folder: str) -> str:
    """Return the path of the log of the worker with this temporary directory; empty: it counts for nothing."""
    return "" if folder.endswith(named_memory_log.CONFINED) else os.path.join(folder, named_memory_log.LOG_NAME)


def remove_named(log: str, *, holding: bool = False) -> Removed:
    """Remove what a worker's log says it has left; with `holding`, not what a program may still use.

    No process of the worker may exist any more. Does nothing if there is no such log, or none that can be read: its
    owner has seen to that. Raise OSError: something may be left, and can be removed by another call.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(log, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return Removed(0, [])
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return Removed(0, [])
        # The log belongs to the user of the worker. Its owner could remove all that is removed here.
        with open(descriptor, "rb", closefd=False) as file:
            memory = NamedMemory(file)
    finally:
        os.close(descriptor)
    held = [each for each in memory.objects if holding and each.is_held]
    number, failures = 0, []
    for each in set(memory.objects).difference(held):
        try:
            number += _unlink(each, found.st_uid, memory.since)
        except OSError as error:  # the others go nevertheless
            failures.append(error)
    if failures:
        raise failures[0]
    return Removed(number, held)


def _unlink(found: NamedObject, owner: int, since: float) -> bool:
    name = found.file_name
    if not name or "/" in name or "\0" in name or len(os.fsencode(name)) > _NAME_BYTES_MAX:
        return False
    path = os.path.join(_FOLDER, name)
    try:
        status = os.stat(path, follow_symlinks=False)
        if not (_is_meant(found, status, since) and status.st_uid == owner and stat.S_ISREG(status.st_mode)):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _is_meant(found: NamedObject, status: os.stat_result, since: float) -> bool:
    if found.inode:
        return status.st_ino == found.inode
    if found.is_tracked:  # of a spawned process, which may have attached it only: then it is mostly older
        return status.st_ctime >= since - TICK_S
    return status.st_size == 0  # killed before it noted the inode: nothing has been written to it yet


def segments_of(
    creators: Iterable[int], since: float = 0.0, *, unattached_only: bool = False, bytes_max: int = sys.maxsize
) -> list[int] | None:
    """Return the ids of the System V segments that processes with these pids have created.

    since: CLOCK_REALTIME seconds; what is older was created by another process with such a pid.
    unattached_only: leave those to which a process is attached: the program of an Executor may use them.
    bytes_max: return None if the machine's list of segments is longer (170 bytes for each).
    Raise OSError.
    """
    listed = _listed(bytes_max)
    if listed is None:
        return None
    title, *rows = listed.splitlines() or [b""]
    if not rows:
        return []
    id, creator, attached, changed = map(title.split().index, (b"shmid", b"cpid", b"nattch", b"ctime"))
    wanted = {b"%d" % pid for pid in creators}
    # Split as far as the creator: of thousands of rows mostly none is wanted.
    found = [row.split() for row in rows if row.split(None, creator + 1)[creator] in wanted]
    return [
        int(row[id])
        for row in found
        if int(row[changed]) >= int(since - TICK_S) and not (unattached_only and int(row[attached]))
    ]


def remove_segments(ids: Iterable[int]) -> int:
    """Remove System V segments; return how many there were. Frees some 6 GiB a second, which blocks."""
    import ctypes  # here: a program of an Executor mostly needs it for nothing else

    libc = ctypes.CDLL(None)
    return sum(libc.shmctl(each, _IPC_RMID, None) == 0 for each in ids)


def _listed(bytes_max: int) -> bytes | None:
    """Return the kernel's list of all segments, which it makes in pieces of a page; None: it is longer."""
    parts: list[bytes] = []
    try:
        with open(_SEGMENTS, "rb", buffering=0) as file:
            while part := file.read(_PIECE_BYTES):
                parts.append(part)
                bytes_max -= len(part)
                if bytes_max < 0:
                    return None
    except FileNotFoundError:  # a kernel without System V IPC
        pass
    return b"".join(parts)


def hold(folder: str, objects: list[NamedObject]) -> None:
    """Note what is left to the program, until `remove_all` of the same folder."""
    if objects:
        with suppress(OSError), open(os.path.join(folder, HELD_NAME), "ab") as file:
            file.write(b"".join(map(named_memory_log.held, objects)))


def remove_all(folder: str) -> None:
    """Remove what any worker with a directory in `folder`, a supervisor's, has left. None of them may live."""
    logs = [os.path.join(folder, HELD_NAME)]
    with suppress(OSError):
        logs += [log_of(os.path.join(folder, name)) for name in os.listdir(folder)]
    for log in logs:
        with suppress(OSError):
            remove_named(log)
