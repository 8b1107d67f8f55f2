"""What is looked at around a journal's database: its owner and mode, and whether it is still in its place.

Runs in: supervisor; the journal's thread. The command.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from killable.supervisor.journal import schema
from killable.supervisor.journal.start_refusals import JournalRefused, refuse_empty

MODE = 0o600
"""It holds inputs and results. SQLite gives its write-ahead log the mode of the file."""
WAL = "-wal"
"""The end of the name of the write-ahead log."""
MARK = "-mark"
"""The same of the mark of the last transaction (`generation_mark`)."""

logger = logging.getLogger("killable.journal")


def place_of(path: str) -> str:
    """Return where a journal is, if its path is a symbolic link. SQLite has the write-ahead log beside that."""
    return os.path.realpath(path)


def prepare_file(path: str) -> None:
    """Create the journal if there is none; else check whose it is, and set its mode. Raise JournalRefused, OSError,
    sqlite3.Error.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        _create(path)
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(found.st_mode):
        return  # SQLite says what is wrong
    refuse_empty(path, found.st_size)
    if os.statvfs(path).f_flag & os.ST_RDONLY:  # SQLite would call it a disk I/O error
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    for each in (path, path + WAL, path + MARK):
        _check_owner(each, path)


def _check_owner(each: str, path: str) -> None:
    try:
        found = os.stat(each)
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise JournalRefused(
            f"{each} belongs to user {found.st_uid}, and this server runs as user {os.geteuid()}: what it holds could "
            "be another's words; give it to this user (chown), or set another file",
            journal=path,
        )
    if mode := stat.S_IMODE(found.st_mode) & ~MODE:
        logger.warning(
            "journal_mode_set", extra={"path": each, "detail": f"other users had access to it: {mode:o} was removed"}
        )
        os.chmod(each, MODE)


def _create(path: str) -> None:
    """Make the file elsewhere and give it its name when it is whole: a death in between leaves no half journal."""
    _refuse_log_of_another(path)
    new = f"{path}.new-{os.getpid()}"
    Path(new).unlink(missing_ok=True)
    try:
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
        schema.create(new)
        Path(path + MARK).unlink(missing_ok=True)  # of a journal that was moved away
        try:
            os.link(new, path)
        except FileExistsError:
            pass  # another server was faster
        except OSError:  # a file system without hard links
            os.rename(new, path)
    finally:
        Path(new).unlink(missing_ok=True)
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_log_of_another(path: str) -> None:
    """Raise JournalRefused if there is a write-ahead log and no journal: SQLite would write what it has into the new
    journal, and its jobs would be back.
    """
    if os.path.lexists(path + WAL) and not os.path.lexists(path):  # in this order: another server makes the log last
        raise JournalRefused(
            f"{path}{WAL} is there, and {path} is not: it is the end of a journal that was moved or removed without "
            f"it; move it, and {path}{MARK}, to that journal, or remove them if that is gone",
            journal=path,
        )


class FileReplaced(OSError):
    """The journal is not in its place any more: another server may have it."""


class Place:
    """Whether the open files are still what their names stand for."""

    def __init__(self, path: str) -> None:
        """Raise OSError when there is no such file."""
        self._inodes = {path: _inode(path)}
        self._wal = path + WAL

    def check(self) -> None:
        """Raise FileReplaced if the journal or its write-ahead log was removed or replaced: nothing would be found
        there.
        """
        if self._wal not in self._inodes and os.path.exists(self._wal):
            self._inodes[self._wal] = _inode(self._wal)  # SQLite makes it with the first write
        for path, inode in self._inodes.items():
            try:
                is_same = _inode(path) == inode
            except FileNotFoundError:
                is_same = False
            if not is_same:
                raise FileReplaced(
                    f"{path} was removed or replaced while the server had it open; what was written before is lost "
                    "with it, restart the server to begin with what is there now"
                )


def _inode(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
