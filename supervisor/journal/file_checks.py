"""What is looked at around a journal's database: its owner and mode, whether it is still in its place, its last write.

Runs in: supervisor; the journal's thread. The command.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from killable.supervisor.journal import schema
from killable.supervisor.journal.refusals import JournalRefused

MODE = 0o600
"""It holds inputs and results. SQLite gives its write-ahead log the mode of the file."""
WAL, MARK = "-wal", "-mark"
"""The write-ahead log, and the mark of the last transaction."""

logger = logging.getLogger("killable.journal")


def prepare_file(path: str) -> None:
    """Create the journal if there is none; else check whose it is, and set its mode. Raise JournalRefused, OSError,
    sqlite3.Error.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        _create(path)
        return
    if not stat.S_ISREG(found.st_mode):
        return  # SQLite says what is wrong
    if found.st_size == 0:
        raise JournalRefused(
            f"{path} is empty, and a journal never is: its content was lost, or it is another program's; remove it to "
            "begin with an empty journal",
            journal=path,
        )
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


class Place:
    """Whether the open files are still what their names stand for."""

    def __init__(self, path: str) -> None:
        """Raise OSError when there is no such file."""
        self._inodes = {path: _inode(path)}
        self._wal = path + WAL

    def check(self) -> None:
        """Raise OSError if the journal or its write-ahead log was removed or replaced: nothing would be found there."""
        if self._wal not in self._inodes and os.path.exists(self._wal):
            self._inodes[self._wal] = _inode(self._wal)  # SQLite makes it with the first write
        for path, inode in self._inodes.items():
            try:
                is_same = _inode(path) == inode
            except FileNotFoundError:
                is_same = False
            if not is_same:
                raise OSError(
                    f"{path} was removed or replaced while the server had it open; what was written before is lost "
                    "with it, restart the server to begin with what is there now"
                )


def _inode(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


class GenerationMark:
    """The number of the last transaction in a file beside the journal: a journal behind it has lost its end.

    It is not synced: after a loss of power it may be older than the journal, and never newer.
    """

    def __init__(self, path: str, file_id: str) -> None:
        """Raise OSError when it cannot be opened."""
        self._path = path
        self._file_id = file_id
        self._descriptor = os.open(path + MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)

    def lost(self, generation: int) -> int:
        """Return how many transactions after this one the journal once had."""
        file_id, _, number = os.pread(self._descriptor, 100, 0).partition(b" ")
        if file_id != self._file_id.encode() or not number.strip().isdigit():
            return 0
        return max(0, int(number) - generation)

    def check(self, generation: int) -> None:
        """Raise JournalRefused if the journal has lost its end."""
        if lost := self.lost(generation):
            raise JournalRefused(
                f"the journal {self._path} has lost its last {lost} transactions: {self._path}{WAL} was cut, removed "
                "or not copied with it. Jobs that wait in it may have run, and ends may be missing. `killable journal "
                f"salvage {self._path} NEW` writes a journal in which such jobs are lost instead of run again",
                journal=self._path,
            )

    def write(self, generation: int) -> None:
        """Note that this transaction is on disk. Nothing happens if that fails: less is noticed then."""
        try:
            os.pwrite(self._descriptor, b"%b %020d\n" % (self._file_id.encode(), generation), 0)
        except OSError:
            pass

    def close(self) -> None:
        """Close it. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
