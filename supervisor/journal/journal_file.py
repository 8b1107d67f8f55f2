"""The journal's file, an SQLite database: opened and checked, read once, then written in groups.

Runs in: supervisor; the journal's thread, because it blocks. Stores rows and does not interpret them:
`journal_writer` makes the JSON of each, `dispatch.recovery` reads it.

    jobs      one row per job: its acceptance, its start and its end, each as JSON
    pieces    bytes of a job: its input until it has ended; then result, partial, events
    checks    a number, incremented by a write that only tests whether writing works

WAL and `synchronous = FULL`: what is committed is on disk (sqlite.org/pragma.html). `locking_mode = EXCLUSIVE`: the
kernel locks the file for one process until that dies, and there is no shared-memory file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.models import StartRefused

APPLICATION_ID = 0x6B6C626C
"""`klbl`, in the header of the file: a database of another program is left alone."""
VERSION = 1
"""Version of the tables, in `user_version`."""
PIECE_BYTES = 64 << 20
"""SQLite takes at most 10^9 bytes for one value (sqlite.org/limits.html); a job's events may be more."""
WAL_BYTES_MAX = 64 << 20
"""The write-ahead log is truncated to this size after it has grown."""

_TABLES = (
    "CREATE TABLE jobs (number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE,"
    " accepted TEXT NOT NULL, started TEXT, ended TEXT)",
    "CREATE TABLE pieces (number INTEGER NOT NULL, kind TEXT NOT NULL, place INTEGER NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY (number, kind, place))",
    "CREATE TABLE checks (count INTEGER NOT NULL)",
    "INSERT INTO checks VALUES (0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


class JournalRefused(StartRefused):
    """The journal cannot be used as it is. The server does not start, and the file is left unchanged."""


@dataclass(frozen=True, slots=True)
class AcceptedNote:
    """A new job."""

    number: int
    job_id: str
    members: bytes
    """A JSON object, as in every note."""
    input: bytes


@dataclass(frozen=True, slots=True)
class StartedNote:
    """A worker has the job; or had it, and the job waits for a retry."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class EndedNote:
    """The job is over, and its input is no longer needed."""

    number: int
    members: bytes
    result: bytes | None
    partial: bytes | None
    log: EventLog
    """A sealed log."""


@dataclass(frozen=True, slots=True)
class AmendedNote:
    """The description of a job's end has changed."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class ReducedNote:
    """The job is no longer kept; only the row that its idempotency key needs stays."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class DroppedNote:
    """The job is no longer kept."""

    number: int


Note = AcceptedNote | StartedNote | EndedNote | AmendedNote | ReducedNote | DroppedNote


@dataclass(frozen=True, slots=True)
class JournalRow:
    """Everything that the file holds of one job."""

    number: int
    job_id: str
    accepted: dict[str, Any]
    started: dict[str, Any] | None
    ended: dict[str, Any] | None
    pieces: dict[str, bytes]
    """By kind: input · result · partial · events; a result of None has no piece."""


class JournalFile:
    """An open journal, locked for this process."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        """Only `open` calls this."""
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: str) -> JournalFile:
        """Open the file; create it if it does not exist. Raise JournalRefused."""
        try:
            if not Path(path).exists():
                Path(path).touch(mode=0o600)  # it holds inputs and results; the WAL gets the same mode
            connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _refused(path, error) from error
        try:
            _settle(connection, path)
            opened = cls(connection, path)
            opened.check()
        except sqlite3.Error as error:
            connection.close()
            raise _refused(path, error) from error
        except BaseException:
            connection.close()
            raise
        return opened

    def close(self) -> None:
        self._connection.close()

    def read(self) -> list[JournalRow]:
        """Return all jobs in the order of submission. Raise JournalRefused."""
        try:
            rows = self._connection.execute("SELECT number, job_id, accepted, started, ended FROM jobs ORDER BY number")
            return [
                JournalRow(
                    number, job_id, json.loads(accepted), _loaded(started), _loaded(ended), self._pieces_of(number)
                )
                for number, job_id, accepted, started, ended in rows.fetchall()
            ]
        except (sqlite3.Error, ValueError) as error:
            raise damaged(self._path, str(error)) from error

    def write(self, notes: Sequence[Note]) -> None:
        """Write all of the notes or none, and return when they are on disk. Raise sqlite3.Error."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for note in notes:
                self._put(note)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # a full disk may have ended it already (sqlite.org/lang_transaction.html)
                connection.execute("ROLLBACK")

    def check(self) -> None:
        """Write something without content. Raise sqlite3.Error when writing fails."""
        self._connection.execute("UPDATE checks SET count = count + 1")

    def _put(self, note: Note) -> None:
        execute, number = self._connection.execute, note.number
        match note:
            case AcceptedNote():
                row = (number, note.job_id, note.members.decode("ascii"))
                execute("INSERT INTO jobs (number, job_id, accepted) VALUES (?, ?, ?)", row)
                self._put_pieces(number, "input", [note.input])
            case StartedNote():
                execute("UPDATE jobs SET started = ? WHERE number = ?", (note.members.decode("ascii"), number))
            case EndedNote():
                found = execute("UPDATE jobs SET ended = ? WHERE number = ?", (note.members.decode("ascii"), number))
                if not found.rowcount:
                    return  # the job was refused in the end
                execute("DELETE FROM pieces WHERE number = ?", (number,))
                for kind, value in (("result", note.result), ("partial", note.partial)):
                    if value is not None:
                        self._put_pieces(number, kind, [value])
                self._put_pieces(number, "events", note.log.encoded())
            case AmendedNote():
                execute("UPDATE jobs SET ended = ? WHERE number = ?", (note.members.decode("ascii"), number))
            case ReducedNote():
                execute("UPDATE jobs SET ended = ? WHERE number = ?", (note.members.decode("ascii"), number))
                execute("DELETE FROM pieces WHERE number = ?", (number,))
            case DroppedNote():
                execute("DELETE FROM pieces WHERE number = ?", (number,))
                execute("DELETE FROM jobs WHERE number = ?", (number,))

    def _put_pieces(self, number: int, kind: str, parts: Iterable[bytes]) -> None:
        rows = ((number, kind, place, piece) for place, piece in enumerate(_cut(parts)))
        self._connection.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?)", rows)

    def _pieces_of(self, number: int) -> dict[str, bytes]:
        found: dict[str, list[bytes]] = {}
        query = "SELECT kind, data FROM pieces WHERE number = ? ORDER BY kind, place"
        for kind, data in self._connection.execute(query, (number,)):
            found.setdefault(kind, []).append(data)
        return {kind: b"".join(pieces) for kind, pieces in found.items()}


def damaged(path: str, why: str) -> JournalRefused:
    """Return the refusal of a journal that cannot be read any more."""
    return JournalRefused(
        f"the journal {path} is damaged: {why}; its jobs were not changed. To start without them, move the file "
        "away; `sqlite3 FILE .recover` extracts what can still be read",
        journal=path,
    )


def _settle(connection: sqlite3.Connection, path: str) -> None:
    """Check whose file it is before changing anything, then prepare it. Raise sqlite3.Error, JournalRefused."""

    def pragma(text: str) -> Any:
        return connection.execute(f"PRAGMA {text}").fetchone()[0]

    pragma("locking_mode = EXCLUSIVE")  # before the first read, whose lock is then kept
    application, version = pragma("application_id"), pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    is_new = (application, version, tables) == (0, 0, 0)
    if not is_new and application != APPLICATION_ID:
        raise JournalRefused(
            f"{path} is a database of another program, and was not changed; server.journal needs a file of its own",
            journal=path,
        )
    if version > VERSION:
        raise JournalRefused(
            f"the journal {path} was written by a newer version of killable: its tables have version {version}, this "
            f"one supports {VERSION}; start that version, or set another file",
            journal=path,
        )
    if pragma("journal_mode = WAL") != "wal":
        raise JournalRefused(
            f"the file system of the journal {path} does not support SQLite's write-ahead log; set another file",
            journal=path,
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
    if is_new:
        connection.execute("BEGIN EXCLUSIVE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("COMMIT")
        return
    found = pragma("quick_check(1)")
    if found != "ok":
        raise damaged(path, " ".join(str(found).split()))


def _refused(path: str, error: Exception) -> JournalRefused:
    """Return the refusal for an error: what is wrong, and what to do about it."""
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
    why = error.strerror if isinstance(error, OSError) else str(error)
    return JournalRefused(
        f"the journal {path} cannot be opened and written: {why}; it needs an existing folder that this user may write "
        "to, and free space on the disk",
        journal=path,
    )


def _loaded(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _cut(parts: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    for part in parts:
        if len(part) <= PIECE_BYTES:
            yield part
        else:
            whole = memoryview(part)
            yield from (whole[start : start + PIECE_BYTES] for start in range(0, len(part), PIECE_BYTES))
