"""Why a server does not start with a journal, and what to do about it. While it runs: `failing_and_hanging_writes`.

Runs in: supervisor; the command.
"""

from __future__ import annotations

import sqlite3

from killable.supervisor.models import NO_ROOM, NoRoom, StartRefused


class JournalRefused(StartRefused):
    """The journal cannot be used as it is. The server does not start, and the file is left unchanged."""


class JournalHasNoRoom(JournalRefused, NoRoom):
    """The disk is full, or there are too few descriptors."""


def refuse_empty(path: str, size: int) -> None:
    """Raise JournalRefused for a file of no bytes."""
    if size == 0:
        raise JournalRefused(
            f"{path} is empty, and a journal never is: its content was lost, or it is another program's; remove it to "
            "begin with an empty journal",
            journal=path,
        )


def damaged(path: str, why: str) -> JournalRefused:
    """Return the refusal of a journal that cannot be read any more."""
    return JournalRefused(
        f"the journal {path} is damaged: {why}; its jobs were not changed. `killable journal salvage {path} NEW` "
        f"writes what can still be read to a new journal; to start without its jobs, move it and {path}-wal away",
        journal=path,
    )


def refused(path: str, error: Exception) -> JournalRefused:
    """Return the refusal for an error of the system or of SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalRefused(
            f"the journal {path} is in use: another server uses it. Each server needs a file of its own "
            "(server.journal, --journal); `killable shutdown` ends the other server",
            journal=path,
        )
    if code == sqlite3.SQLITE_NOTADB:
        return JournalRefused(
            f"{path} is not a journal, and was not changed; set another file, or move this one away", journal=path
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return damaged(path, str(error))
    if isinstance(error, IsADirectoryError):
        what = "it is a directory; name a file in it"
        return JournalRefused(f"the journal {path} cannot be opened and written: {what}", journal=path)
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    has_no_room = code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in NO_ROOM)
    return (JournalHasNoRoom if has_no_room else JournalRefused)(
        f"the journal {path} cannot be opened and written: {why}; it needs an existing folder that this user may write "
        "to, and free space on the disk",
        journal=path,
    )
