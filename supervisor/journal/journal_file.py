"""The journal's file, an SQLite database: opened and checked, read once, then written in groups.

Runs in: supervisor; the journal's thread, because it blocks. Stores rows and does not interpret them:
`job_notes` makes the JSON of each, `dispatch.recovery` reads it. `schema` has the tables, `file_permissions` what is
looked at around the database.

WAL and `synchronous = FULL`: what is committed is on disk (sqlite.org/pragma.html). `locking_mode = EXCLUSIVE`: the
kernel locks the file for one process until that dies, and there is no shared-memory file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal import schema
from killable.supervisor.journal.file_permissions import Place, place_of, prepare_file
from killable.supervisor.journal.generation_mark import GenerationMark
from killable.supervisor.journal.log_room import WAL_BYTES_MAX, lengthen_log
from killable.supervisor.journal.start_refusals import JournalRefused, damaged, refused
from killable.supervisor.models import HeadLine
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

PIECE_BYTES = 64 << 20
"""SQLite takes at most 10^9 bytes for one value (sqlite.org/limits.html); a job's events may be more."""

_OF_ATTEMPTS = frozenset({b"output", b"checkpoint"})
"""Kinds of pieces that come while the job runs; the others are counted in its row."""

logger = logging.getLogger("killable.journal")


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
    """A worker is about to get the job; or had it, and the job waits for a retry."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class CheckpointNote:
    """The last checkpoint of a job that may be run again."""

    number: int
    value: bytes


@dataclass(frozen=True, slots=True)
class StoppedNote:
    """The job was asked to end."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class OutputNote:
    """Events of a job that runs."""

    number: int
    place: int
    """The id of the first of them."""
    data: bytes
    is_first: bool
    """Whether earlier ones of the job are no longer part of its log."""


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


@dataclass(frozen=True, slots=True)
class SetAsideNote:
    """The job's row cannot be used."""

    number: int
    job_id: str
    why: str


@dataclass(frozen=True, slots=True)
class NodeDrainNote:
    """A node is to get no jobs, or (None) is to get some again."""

    node: str
    members: bytes | None
    number: int = 0
    """That of no job."""


@dataclass(frozen=True, slots=True)
class EpochNote:
    """A head of a cluster speaks under this epoch, or a higher one that is written already."""

    epoch: int
    head: str
    """Empty: here a copy was made, which is another file."""
    began: int | None = None
    """The last transaction before this head's; None: that which was found when the file was opened."""
    number: int = 0
    """That of no job."""


Note = (
    AcceptedNote
    | StartedNote
    | CheckpointNote
    | StoppedNote
    | OutputNote
    | EndedNote
    | AmendedNote
    | ReducedNote
    | DroppedNote
    | SetAsideNote
    | NodeDrainNote
    | EpochNote
)


@dataclass(frozen=True, slots=True)
class JournalRow:
    """Everything that the file holds of one job."""

    number: int
    job_id: str
    accepted: dict[str, Any]
    started: dict[str, Any] | None
    stopped: dict[str, Any] | None
    ended: dict[str, Any] | None
    pieces: dict[str, bytes]
    """By kind: input · output (events so far) · checkpoint · result · partial · events; a result of None has none."""


class BadRow(NamedTuple):
    """A row that is not what was written."""

    number: int
    job_id: str
    why: str


class JournalFile:
    """An open journal, locked for this process."""

    def __init__(self, connection: sqlite3.Connection, path: str, place: Place, mark: GenerationMark) -> None:
        """Only `open` calls this."""
        self._connection = connection
        self._path = path
        self._place = place
        self._mark = mark
        self.generation = self._found = schema.identity(connection)[1]
        """The number of the last transaction: now, and when it was opened."""

    @classmethod
    def open(cls, path: str, *, needs_end: bool = True, needs_pages: bool = True) -> JournalFile:
        """Open the file; create it if it does not exist. Raise JournalRefused.

        Not `needs_end`: also if its last transactions are missing; not `needs_pages`: also if its pages are damaged.
        """
        connection: sqlite3.Connection | None = None
        path = place_of(path)
        try:
            prepare_file(path)
            connection = sqlite3.connect(path, timeout=0, isolation_level=None)
            connection.text_factory = bytes  # a flipped bit may be no UTF-8
            _prepare(connection, path, needs_pages=needs_pages)
            mark = GenerationMark(path, schema.identity(connection)[0])
            opened = cls(connection, path, Place(path), mark)
            try:
                if needs_end:
                    mark.check(opened.generation)
                    opened.check()
                    opened._place.check()  # from here on it knows the write-ahead log, too
            except BaseException:
                mark.close()
                raise
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, (OSError, sqlite3.Error)):
                raise refused(path, error) from error
            raise
        return opened

    def close(self) -> None:
        self._connection.close()
        self._mark.close()

    def make_room(self) -> None:
        """Prepare the file for many commits."""
        lengthen_log(self._path)

    def lost(self) -> int:
        """Return how many of its last transactions are missing."""
        return self._mark.lost(self.generation)

    # ── reading ──

    def read(self) -> list[JournalRow]:
        """Return all jobs in the order of submission. Raise JournalRefused.

        Rows that are not what was written are set aside, with a word in the log.
        """
        rows, bad = self.scan()
        for number, job_id, why in bad:
            self.write([SetAsideNote(number, job_id, why)])
        return rows

    def read_drains(self) -> dict[str, dict[str, Any]]:
        """Return the drains by node; without those that are not what was written. Raise JournalRefused."""
        execute = self._connection.execute
        try:
            if execute("SELECT 1 FROM sqlite_master WHERE name = 'drains'").fetchone() is None:
                return {}
            rows = execute("SELECT node, members, sum FROM drains ORDER BY rowid").fetchall()
        except sqlite3.Error as error:
            raise damaged(self._path, str(error)) from error
        drains = {}
        for name, members, found in rows:
            node = name.decode("utf-8", "replace")
            if found == schema.checksum(0, "drain", node, members):
                drains[node] = json.loads(members)
            else:
                logger.error("journal_drain_lost", extra={"node": node, "path": self._path})
        return drains

    def read_epoch(self) -> int:
        """Return the highest epoch of a head that had this journal; 0: none is known. Raise JournalRefused."""
        execute = self._connection.execute
        try:
            if execute("SELECT 1 FROM sqlite_master WHERE name = 'epochs'").fetchone() is None:
                return 0
            row = execute("SELECT number, sum FROM epochs").fetchone()
        except sqlite3.Error as error:
            raise damaged(self._path, str(error)) from error
        if row is not None and row[1] == _epoch_sum(row[0]):
            return int(row[0])
        logger.error("journal_epoch_lost", extra={"path": self._path})
        return 0

    def read_heads(self) -> list[tuple[str, int]]:
        """Return the heads that had this journal, each with what it has found as the last transaction; an empty one is
        where a copy was made. One that is left out was not the first, nor one of the newest. Raise JournalRefused.
        """
        execute = self._connection.execute
        try:
            if execute("SELECT 1 FROM sqlite_master WHERE name = 'heads'").fetchone() is None:
                return []
            rows = execute("SELECT head, began, sum FROM heads ORDER BY place").fetchall()
        except sqlite3.Error as error:
            raise damaged(self._path, str(error)) from error
        return [(schema.text_of(head), began) for head, began, found in rows if found == _head_sum(head, began)]

    def line(self) -> HeadLine:
        """Return the heads that had this journal before. Raise JournalRefused."""
        heads = self.read_heads()
        if not heads:
            return HeadLine()
        following = [began for _, began in heads[1:]] + [self._found]
        ends = {head: end for (head, _), end in zip(heads, following, strict=True) if head}
        if len(heads) > schema.HEADS_MAX:
            ends.pop(heads[0][0], None)  # of those that followed the first one the next ones are left out
        return HeadLine(heads[0][0], ends)

    def scan(self) -> tuple[list[JournalRow], list[BadRow]]:
        """Return all jobs in the order of submission, and the rows that are not what was written. Raise
        JournalRefused.
        """
        rows: list[JournalRow] = []
        bad: list[BadRow] = []
        try:
            for (number,) in self._connection.execute("SELECT number FROM jobs ORDER BY number").fetchall():
                self._read_row(number, rows, bad)
        except sqlite3.Error as error:
            raise damaged(self._path, str(error)) from error
        return rows, bad

    def salvage(self) -> tuple[list[JournalRow], list[BadRow]]:
        """Return what can still be read, as `scan` does, also of a file with damaged pages."""
        rows: list[JournalRow] = []
        bad: list[BadRow] = []
        for number in self._readable_numbers():
            try:
                self._read_row(number, rows, bad)
            except sqlite3.Error as error:
                bad.append(BadRow(number, "", str(error)))
        return rows, bad

    def _readable_numbers(self) -> list[int]:
        """Return the numbers of the jobs up to the first damaged page, from both ends."""
        found: set[int] = set()
        for order in ("ASC", "DESC"):
            try:
                for (number,) in self._connection.execute(f"SELECT number FROM jobs ORDER BY number {order}"):
                    found.add(number)
            except sqlite3.Error:
                pass
        return sorted(found)

    def _read_row(self, number: int, rows: list[JournalRow], bad: list[BadRow]) -> None:
        query = (
            "SELECT job_id, input_pieces, end_pieces, accepted, accepted_sum, started, started_sum, stopped,"
            " stopped_sum, ended, ended_sum FROM jobs WHERE number = ?"
        )
        job_id, input_pieces, end_pieces, *parts = self._connection.execute(query, (number,)).fetchone()
        name = job_id.decode("utf-8", "replace") if isinstance(job_id, bytes) else repr(job_id)
        members: dict[str, Any] = {}
        try:
            for part, text, found in zip(schema.PARTS, parts[::2], parts[1::2], strict=True):
                place = {"accepted": input_pieces, "ended": end_pieces}.get(part, 0)
                whose = name if part == "accepted" else ""
                if text is not None and found != schema.checksum(number, part, place, text, whose):
                    raise ValueError(f"the checksum of its part {part} is wrong")
                members[part] = None if text is None else json.loads(text)
            if members["accepted"] is None:
                raise ValueError("its part accepted is missing")
            pieces = self._pieces_of(number, input_pieces if members["ended"] is None else end_pieces)
        except (ValueError, TypeError, RecursionError) as error:
            bad.append(BadRow(number, name, str(error)))
        else:
            rows.append(JournalRow(number, name, **members, pieces=pieces))

    def _pieces_of(self, number: int, written: int) -> dict[str, bytes]:
        """Return a job's pieces by kind, joined. Raise ValueError or TypeError when they are not those written."""
        found: dict[str, list[bytes]] = {}
        rows = self._connection.execute(
            "SELECT kind, place, data, sum FROM pieces WHERE number = ? ORDER BY kind, place", (number,)
        ).fetchall()
        count = sum(row[0] not in _OF_ATTEMPTS for row in rows)
        if count != written:
            raise ValueError(f"it has {count} pieces of its {written}")
        for kind_text, place, data, sum_found in rows:
            kind = kind_text.decode("utf-8", "replace")
            if sum_found != schema.checksum(number, kind, place, data):
                raise ValueError(f"the checksum of its {kind} is wrong")
            found.setdefault(kind, []).append(data)
        return {kind: b"".join(parts) for kind, parts in found.items()}

    # ── writing ──

    def write(self, notes: Sequence[Note]) -> None:
        """Write all of the notes or none, and return when they are on disk.

        Raise sqlite3.Error, or OSError if the file is no longer in its place.
        """
        self._commit(notes)

    def check(self) -> None:
        """Write something without content. Raise sqlite3.Error or OSError when writing fails."""
        self._commit(())

    def _commit(self, notes: Sequence[Note]) -> None:
        self._place.check()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for note in notes:
                self._put(note)
            ((generation,),) = connection.execute(
                "UPDATE state SET generation = generation + 1 RETURNING generation"
            ).fetchall()
            connection.execute("COMMIT")
            self.generation = generation
        finally:
            if connection.in_transaction:  # a full disk may have ended it already (sqlite.org/lang_transaction.html)
                connection.execute("ROLLBACK")
        self._mark.write(generation)

    def put_rows(self, rows: Iterable[JournalRow]) -> None:
        """Write rows of another journal. Raise sqlite3.Error."""
        self._connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            self._put_row(row)
        self._connection.execute("COMMIT")

    def _put_row(self, row: JournalRow) -> None:
        pieces = row.pieces if row.ended is not None else {"input": row.pieces.get("input", b"")}
        written = sum(self._put_pieces(row.number, kind, [value]) for kind, value in pieces.items())
        counts = (0, written) if row.ended is not None else (written, None)
        for kind in ("output", "checkpoint") if row.ended is None else ():
            if kind in row.pieces:
                self._put_pieces(row.number, kind, [row.pieces[kind]])
        values: list[Any] = [row.number, row.job_id, *counts]
        for part, place in zip(schema.PARTS, (counts[0], 0, 0, counts[1]), strict=True):
            members = getattr(row, part)
            text = None if members is None else dump_json(members)
            whose = row.job_id if part == "accepted" else ""
            found = None if text is None else schema.checksum(row.number, part, place, text, whose)
            values += [None if text is None else text.decode("ascii"), found]
        self._connection.execute(
            "INSERT INTO jobs (number, job_id, input_pieces, end_pieces, accepted, accepted_sum, started, started_sum,"
            " stopped, stopped_sum, ended, ended_sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def _put(self, note: Note) -> None:
        execute, number = self._connection.execute, note.number
        match note:
            case AcceptedNote():
                count = self._put_pieces(number, "input", [note.input])
                found = schema.checksum(number, "accepted", count, note.members, note.job_id)
                execute(
                    "INSERT INTO jobs (number, job_id, input_pieces, accepted, accepted_sum) VALUES (?, ?, ?, ?, ?)",
                    (number, note.job_id, count, note.members.decode("ascii"), found),
                )
            case StartedNote():
                self._put_part(number, "started", note.members)
            case CheckpointNote():
                execute("DELETE FROM pieces WHERE number = ? AND kind = 'checkpoint'", (number,))
                self._put_pieces(number, "checkpoint", [note.value])
            case StoppedNote():
                self._put_part(number, "stopped", note.members)
            case OutputNote():
                if note.is_first:
                    execute("DELETE FROM pieces WHERE number = ? AND kind = 'output'", (number,))
                found = schema.checksum(number, "output", note.place, note.data)
                execute("INSERT INTO pieces VALUES (?, 'output', ?, ?, ?)", (number, note.place, note.data, found))
            case EndedNote():
                if execute("SELECT 1 FROM jobs WHERE number = ?", (number,)).fetchone() is None:
                    return  # the job was refused in the end
                execute("DELETE FROM pieces WHERE number = ?", (number,))
                values = {"result": note.result, "partial": note.partial}
                count = sum(self._put_pieces(number, kind, [it]) for kind, it in values.items() if it is not None)
                count += self._put_pieces(number, "events", note.log.encoded())
                execute("UPDATE jobs SET end_pieces = ? WHERE number = ?", (count, number))
                self._put_part(number, "ended", note.members, count)
            case AmendedNote():
                row = execute("SELECT end_pieces FROM jobs WHERE number = ?", (number,)).fetchone()
                if row is not None:
                    self._put_part(number, "ended", note.members, row[0])
            case ReducedNote():
                execute("DELETE FROM pieces WHERE number = ?", (number,))
                execute("UPDATE jobs SET end_pieces = 0 WHERE number = ?", (number,))
                self._put_part(number, "ended", note.members, 0)
            case DroppedNote():
                execute("DELETE FROM pieces WHERE number = ?", (number,))
                execute("DELETE FROM jobs WHERE number = ?", (number,))
            case SetAsideNote():
                self._set_aside(note)
            case NodeDrainNote():
                self._put_drain(note.node, note.members)
            case EpochNote():
                self._put_epoch(note.epoch)
                self._put_head(note.head, self._found if note.began is None else note.began)

    def _put_epoch(self, epoch: int) -> None:
        epoch = max(epoch, self.read_epoch())  # before the table is there: without a row it would be damaged
        self._connection.execute(schema.EPOCHS)
        self._connection.execute("DELETE FROM epochs")
        self._connection.execute("INSERT INTO epochs VALUES (?, ?)", (epoch, _epoch_sum(epoch)))

    def _put_head(self, head: str, began: int) -> None:
        execute = self._connection.execute
        execute(schema.HEADS)
        if head and execute("SELECT 1 FROM heads WHERE head = ?", (head,)).fetchone() is not None:
            return
        values = (head, began, _head_sum(head.encode(), began))
        execute("INSERT INTO heads (head, began, sum) VALUES (?, ?, ?)", values)
        execute(
            "DELETE FROM heads WHERE place > (SELECT min(place) FROM heads) AND place <= (SELECT max(place) FROM heads)"
            f" - {schema.HEADS_MAX}"
        )

    def _put_drain(self, node: str, members: bytes | None) -> None:
        self._connection.execute(schema.DRAINS)
        self._connection.execute("DELETE FROM drains WHERE node = ?", (node,))
        if members is not None:
            values = (node, members.decode("ascii"), schema.checksum(0, "drain", node, members))
            self._connection.execute("INSERT INTO drains VALUES (?, ?, ?)", values)

    def _put_part(self, number: int, part: str, members: bytes, place: int = 0) -> None:
        self._connection.execute(
            f"UPDATE jobs SET {part} = ?, {part}_sum = ? WHERE number = ?",
            (members.decode("ascii"), schema.checksum(number, part, place, members), number),
        )

    def _set_aside(self, note: SetAsideNote) -> None:
        """Move a row out of the way: its number and its job's id are free."""
        fields = {"job_id": note.job_id, "detail": f"its row cannot be used: {note.why}", "path": self._path}
        logger.error("journal_row_set_aside", extra=fields)
        execute, number = self._connection.execute, (note.number,)
        execute(
            "INSERT INTO set_aside SELECT number, job_id, ?, accepted, started, ended FROM jobs WHERE number = ?",
            (note.why, note.number),
        )
        execute("INSERT INTO set_aside_pieces SELECT number, kind, place, data FROM pieces WHERE number = ?", number)
        execute("DELETE FROM pieces WHERE number = ?", number)
        execute("DELETE FROM jobs WHERE number = ?", number)

    def _put_pieces(self, number: int, kind: str, parts: Iterable[bytes]) -> int:
        """Write the parts in pieces that SQLite takes. Return how many there are."""
        count = 0
        for place, piece in enumerate(_cut(parts)):
            row = (number, kind, place, piece, schema.checksum(number, kind, place, piece))
            self._connection.execute("INSERT INTO pieces VALUES (?, ?, ?, ?, ?)", row)
            count += 1
        return count


def _epoch_sum(epoch: object) -> int:
    return schema.checksum(0, "epoch", 0, str(epoch).encode())


def _head_sum(head: bytes, began: object) -> int:
    return schema.checksum(0, "head", began, head)


def _prepare(connection: sqlite3.Connection, path: str, *, needs_pages: bool) -> None:
    """Check whose file it is before changing anything, then prepare it. Raise sqlite3.Error, JournalRefused."""

    def pragma(text: str) -> Any:
        return connection.execute(f"PRAGMA {text}").fetchone()[0]

    pragma("locking_mode = EXCLUSIVE")  # before the first read, whose lock is then kept
    version = schema.version_of(connection, path)
    if pragma("journal_mode = WAL") not in ("wal", b"wal"):
        raise JournalRefused(
            f"the file system of the journal {path} does not support SQLite's write-ahead log; set another file",
            journal=path,
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
    found = pragma("quick_check(1)") if needs_pages else b"ok"
    if found not in ("ok", b"ok"):
        raise damaged(path, " ".join(schema.text_of(found).split()))
    schema.upgrade(connection, version)


def _cut(parts: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    for part in parts:
        if len(part) <= PIECE_BYTES:
            yield part
        else:
            whole = memoryview(part)
            yield from (whole[start : start + PIECE_BYTES] for start in range(0, len(part), PIECE_BYTES))
