"""The tables of a journal, their versions, and the checksums of their rows.

Runs in: supervisor; the journal's thread. The command.

    jobs          one row per job: its acceptance, its last start, a request to end it, its end; each as JSON
    pieces        bytes of a job: its input, output and checkpoint until it has ended; then result, partial, events
    state         one row: an id of the file, and the number of the last transaction
    drains        nodes of a cluster that are to get no jobs, by name, as JSON
    epochs        one row: the highest epoch of a cluster's heads that had this journal
    heads         these heads, the first one and the newest: which transaction each found as the last one
    set_aside, set_aside_pieces   rows that are not what was written, as they were found
"""

from __future__ import annotations

import sqlite3
import uuid
import zlib
from typing import Any

from killable.supervisor.journal.start_refusals import JournalRefused

APPLICATION_ID = 0x6B6C626C
"""`klbl`, in the header of the file: a database of another program is left alone."""
VERSION = 2
"""Version of the tables, in `user_version`. 1 had no checksums."""

PARTS = ("accepted", "started", "stopped", "ended")
"""The parts of a job's row, each with a checksum of its own: an update of one does not read the others."""

TABLES = (
    "CREATE TABLE jobs (number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE,"
    " accepted TEXT NOT NULL, accepted_sum INTEGER NOT NULL, input_pieces INTEGER NOT NULL,"
    " started TEXT, started_sum INTEGER, stopped TEXT, stopped_sum INTEGER,"
    " ended TEXT, ended_sum INTEGER, end_pieces INTEGER)",
    "CREATE TABLE pieces (number INTEGER NOT NULL, kind TEXT NOT NULL, place INTEGER NOT NULL, data BLOB NOT NULL,"
    " sum INTEGER NOT NULL, PRIMARY KEY (number, kind, place))",
)
_LATER_TABLES = (
    "CREATE TABLE state (file_id TEXT NOT NULL, generation INTEGER NOT NULL)",
    "CREATE TABLE set_aside (number INTEGER, job_id TEXT, why TEXT, accepted TEXT, started TEXT, ended TEXT)",
    "CREATE TABLE set_aside_pieces (number INTEGER, kind TEXT, place INTEGER, data BLOB)",
    f"PRAGMA user_version = {VERSION}",
)
DRAINS = "CREATE TABLE IF NOT EXISTS drains (node TEXT PRIMARY KEY, members TEXT NOT NULL, sum INTEGER NOT NULL)"
"""In a file with the first drain. Releases that do not know it leave it alone."""
EPOCHS = "CREATE TABLE IF NOT EXISTS epochs (number INTEGER NOT NULL, sum INTEGER NOT NULL)"
"""In a file that a head of a cluster had; other releases leave it alone, too."""
HEADS = (
    "CREATE TABLE IF NOT EXISTS heads (place INTEGER PRIMARY KEY, head TEXT NOT NULL, began INTEGER NOT NULL,"
    " sum INTEGER NOT NULL)"
)
"""The same. A row without a head is where a copy was made."""
HEADS_MAX = 64
"""Of them are kept, beside the first one. A node remembers one for the time of its lease."""


def checksum(number: int, kind: str, place: object, data: bytes | memoryview, job_id: str = "") -> int:
    """Return the CRC-32 of one part of a job, or of one of its pieces, and of where it belongs."""
    return zlib.crc32(data, zlib.crc32(f"{number}/{kind}/{place}/{job_id}".encode()))


def create(path: str) -> None:
    """Make an empty journal of an empty file. Raise sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        for statement in (*TABLES, f"PRAGMA application_id = {APPLICATION_ID}", *_LATER_TABLES):
            connection.execute(statement)
        _put_state(connection, 0)
        connection.execute("COMMIT")
    finally:
        connection.close()


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables. Raise sqlite3.Error, or JournalRefused where it is no journal of this one."""
    application, version = (
        connection.execute(f"PRAGMA {each}").fetchone()[0] for each in ("application_id", "user_version")
    )
    if application != APPLICATION_ID:
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
    return int(version)


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Give the tables of an older version what they lack. Raise sqlite3.Error."""
    if version < VERSION:
        _migrate(connection)


def identity(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return the id of the file and the number of its last transaction. Raise sqlite3.Error."""
    row = connection.execute("SELECT file_id, generation FROM state").fetchone()
    if row is None or not isinstance(row[1], int):
        raise sqlite3.DatabaseError("its table `state` has no row")
    return text_of(row[0]), row[1]


def _put_state(connection: sqlite3.Connection, generation: int) -> None:
    connection.execute("INSERT INTO state VALUES (?, ?)", (uuid.uuid4().hex, generation))


def _migrate(connection: sqlite3.Connection) -> None:
    """Give the tables of version 1 checksums: of what they hold now."""
    connection.create_function("checksum", 5, lambda *parts: checksum(*_as_written(*parts)), deterministic=True)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for table in ("jobs", "pieces"):
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        for statement in (*TABLES, *_LATER_TABLES):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO pieces SELECT number, kind, place, data, checksum(number, kind, place, data, '')"
            " FROM old_pieces"
        )
        pieces = "(SELECT count(*) FROM old_pieces WHERE old_pieces.number = old_jobs.number)"
        connection.execute(
            "INSERT INTO jobs SELECT number, job_id, accepted, checksum(number, 'accepted', n, accepted, job_id), n,"
            " started, CASE WHEN started IS NOT NULL THEN checksum(number, 'started', 0, started, '') END, NULL, NULL,"
            " ended, CASE WHEN ended IS NOT NULL THEN checksum(number, 'ended', n, ended, '') END,"
            f" CASE WHEN ended IS NOT NULL THEN n END FROM (SELECT *, {pieces} AS n FROM old_jobs)"
        )
        _put_state(connection, 0)
        for table in ("old_jobs", "old_pieces", "checks"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _as_written(number: int, kind: str, place: int, data: Any, job_id: str) -> tuple[int, str, int, bytes, str]:
    return number, kind, place, data.encode() if isinstance(data, str) else data, job_id


def text_of(value: Any) -> str:
    """Return a text of SQLite, which comes as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
