"""A journal looked at, copied or saved from outside the server: what `killable journal` does.

Runs in: the command. The server may be running: its file is locked for it, so a copy is looked at.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from killable.supervisor.journal.file_permissions import MARK, MODE, WAL, place_of
from killable.supervisor.journal.journal_file import BadRow, EpochNote, JournalFile, JournalRow, NodeDrainNote, Note
from killable.supervisor.journal.start_refusals import JournalRefused
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

TRIES_MAX = 100
"""Copies of a file that its server resets meanwhile. It does after some thousand pages."""
_WAL_HEADER_BYTES = 32
"""Has two salts, which change when the log begins anew (sqlite.org/fileformat2.html)."""


class JournalFinding(NamedTuple):
    """What is in a journal."""

    jobs: int
    waiting: int
    """Jobs that the next server would queue."""
    running: int
    """Jobs whose start is in it, and no end."""
    ended: int
    bad: Sequence[BadRow]
    lost: int
    """Transactions at its end that are missing."""

    @property
    def is_sound(self) -> bool:
        return not self.bad and not self.lost


def verify(path: str) -> JournalFinding:
    """Read all of a journal. Raise JournalRefused when it cannot be read as a whole, OSError."""
    with _snapshot(path) as copy, _opened(copy, path) as file:
        rows, bad = file.scan()
        return _finding(rows, bad, file.lost())


def backup(path: str, new: str) -> JournalFinding:
    """Write a copy of a journal. Raise JournalRefused for one that is not sound, or if `new` exists; OSError."""
    with _snapshot(path) as copy, _opened(copy, path) as file:
        rows, bad = file.scan()
        found = _finding(rows, bad, file.lost())
        if not found.is_sound:
            raise JournalRefused(
                f"the journal {path} is not sound, so no copy was made: {summary(found)}; `killable journal salvage "
                f"{path} {new}` writes what can be read",
                journal=path,
            )
        _write(rows, _of_cluster(file), new)
        return found


def salvage(path: str, new: str) -> JournalFinding:
    """Write what can be read of a journal to a new one. Raise JournalRefused if it is none or `new` exists, OSError.

    If its end is missing, jobs that wait in it may have run: in the new one they are lost, and not run again.
    """
    with _snapshot(path) as copy, _opened(copy, path, needs_pages=False) as file:
        rows, bad = file.salvage()
        found = _finding(rows, bad, file.lost())
        try:
            of_cluster = _of_cluster(file)
        except JournalRefused:  # it cannot be read
            of_cluster = []
        _write([_unsure(row) for row in rows] if found.lost else rows, of_cluster, new)
        return found


def summary(found: JournalFinding) -> str:
    """Return `12 jobs: 2 waiting, 1 running, 9 ended; 1 row is damaged; the last 3 transactions are missing`."""
    parts = [f"{found.jobs} jobs: {found.waiting} waiting, {found.running} running, {found.ended} ended"]
    if found.bad:
        parts.append(f"{len(found.bad)} damaged rows")
    if found.lost:
        parts.append(f"the last {found.lost} transactions are missing")
    return "; ".join(parts)


def _finding(rows: Sequence[JournalRow], bad: Sequence[BadRow], lost: int) -> JournalFinding:
    ended = sum(row.ended is not None for row in rows)
    waiting = sum(map(_waits, rows))
    return JournalFinding(len(rows), waiting, len(rows) - ended - waiting, ended, bad, lost)


def _waits(row: JournalRow) -> bool:
    return row.ended is None and (row.started is None or bool(row.started.get("waits")))


def _unsure(row: JournalRow) -> JournalRow:
    """Return a job that may have run as one of which nothing more is known."""
    if not _waits(row):
        return row
    started = row.started or {}
    known = {name: started[name] for name in ("first_event", "lost_attempts") if name in started}
    known.setdefault("first_event", row.accepted.get("first_event", 0))
    members = {"unsure": True, "attempt": started.get("attempt", 0), "worker_id": None, "pid": None, "instance_id": ""}
    return replace(row, started=known | members)


def _of_cluster(file: JournalFile) -> list[Note]:
    """Return what the head of a cluster has written that is about no job. Raise JournalRefused."""
    drains: list[Note] = [NodeDrainNote(node, dump_json(members)) for node, members in file.read_drains().items()]
    epoch = file.read_epoch()
    heads: list[Note] = [EpochNote(epoch, head, began) for head, began in file.read_heads()]
    return [*drains, *heads, EpochNote(epoch, "", file.generation)] if epoch else drains


def _write(rows: Sequence[JournalRow], notes: Sequence[Note], new: str) -> None:
    if Path(new).exists() or Path(new).is_symlink():
        raise JournalRefused(f"{new} exists, and was not changed; name a file that does not", journal=new)
    with closing(JournalFile.open(new)) as file:
        file.put_rows(rows)
        if notes:
            file.write(notes)


@contextmanager
def _opened(copy: str, path: str, *, needs_pages: bool = True) -> Iterator[JournalFile]:
    """Open a copy; errors name the journal that it is of."""
    try:
        with closing(JournalFile.open(copy, needs_end=False, needs_pages=needs_pages)) as file:
            yield file
    except JournalRefused as error:
        raise JournalRefused(error.message.replace(copy, path), journal=path) from error


@contextmanager
def _snapshot(path: str) -> Iterator[str]:
    """Yield the path of a copy that is as the journal was at one moment. Raise JournalRefused, OSError.

    A write-ahead log that did not begin anew while the file was copied has all pages that changed in it meanwhile.
    """
    if not Path(path).exists():
        raise JournalRefused(f"there is no journal {path}", journal=path)
    path = place_of(path)
    with tempfile.TemporaryDirectory(prefix="killable-journal-") as folder:
        copy = str(Path(folder, "journal"))
        for _ in range(TRIES_MAX):
            before = _wal_header(path)
            for suffix in (MARK, "", WAL):  # the mark first: it must not be newer
                Path(copy + suffix).unlink(missing_ok=True)
                if Path(path + suffix).exists():
                    shutil.copyfile(path + suffix, copy + suffix)
                    Path(copy + suffix).chmod(MODE)
            if _wal_header(path) == before:
                yield copy
                return
    raise JournalRefused(f"the journal {path} changes faster than it can be copied; try again", journal=path)


def _wal_header(path: str) -> bytes:
    try:
        with open(path + WAL, "rb") as file:
            return file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        return b""
