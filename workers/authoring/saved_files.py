"""What `ctx.save_file` does: put a file where the supervisor takes it from.

Runs in: worker.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from killable.workers.protocol.file_names import content_type_fault, name_fault
from killable.workers.protocol.messages import SavedFile


def save(
    source: str | os.PathLike[str] | bytes, name: str, content_type: str, number: int, *, staging: str, tmp: Path | None
) -> SavedFile:
    """Put a file into `staging` as `number`. Raise ValueError, OSError. `tmp`: the job's own folder, if it has one."""
    if not name and not isinstance(source, bytes):
        name = os.path.basename(os.fspath(source))
    fault = name_fault(name) or content_type_fault(content_type)
    if fault:
        raise ValueError(fault)
    if not staging:
        raise OSError(
            errno.EOPNOTSUPP,
            "files are saved by jobs of a server that keeps files (server.files_bytes_max), and only there",
        )
    os.makedirs(staging, mode=0o700, exist_ok=True)
    place = os.path.join(staging, str(number))
    try:
        if isinstance(source, bytes):
            _write(place, source)
        elif not _moved(source, place, tmp):
            _copy(source, place)
    except BaseException as error:  # Stopping, too: half a file is none
        _remove(place)
        if isinstance(error, OSError) and error.filename is None:  # of a write; this disk need not be the job's own
            raise OSError(error.errno, error.strerror, place) from error
        raise
    return SavedFile(number, name, content_type or _type_of(name))


def _write(place: str, content: bytes) -> None:
    with open(place, "xb") as file:
        file.write(content)


def _moved(source: str | os.PathLike[str], place: str, tmp: Path | None) -> bool:
    """Move a file of the job's own folder; return False if it has to be copied."""
    path = os.path.realpath(source)
    if tmp is None or not path.startswith(os.path.join(os.path.realpath(tmp), "")):
        return False
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return False
    try:
        os.rename(path, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy(source: str | os.PathLike[str], place: str) -> None:
    # Not blocking: the open of a named pipe would wait for a writer.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file, open(place, "xb") as copy:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(source))
        shutil.copyfileobj(file, copy, 1 << 20)


def _remove(place: str) -> None:
    try:
        os.unlink(place)
    except OSError:
        pass  # it was not begun


def _type_of(name: str) -> str:
    import mimetypes

    return mimetypes.guess_type(name)[0] or "application/octet-stream"
