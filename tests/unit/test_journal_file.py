"""The journal's file: what it gives back, whose it is, and that what cannot be read stays as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal import journal_file
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    AmendedNote,
    DroppedNote,
    EndedNote,
    JournalFile,
    JournalRefused,
    JournalRow,
    StartedNote,
)

ACCEPTED = AcceptedNote(1, "job-1", b'{"type":"work"}', b"input" * 100)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


@pytest.fixture
def file(path: str) -> Iterator[JournalFile]:
    with closing(JournalFile.open(path)) as opened:
        yield opened


def sealed(*events: tuple[str, bytes]) -> EventLog:
    log = EventLog(1 << 20)
    for name, data in events:
        log.append(name, data)
    log.seal()
    return log


def rows_of(path: str) -> list[JournalRow]:
    with closing(JournalFile.open(path)) as opened:
        return opened.read()


@pytest.mark.row("B16")
def test_what_is_written_is_read_by_the_next_one(file: JournalFile, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is: a value that is longer than a piece lies in several."""
    monkeypatch.setattr(journal_file, "PIECE_BYTES", 64)
    log = sealed(("started", b"{}"), *[("token", b'{"text":"x"}')] * 20, ("completed", b"[]"))
    file.write([ACCEPTED, AcceptedNote(2, "job-2", b'{"n":2}', b""), AcceptedNote(3, "job-3", b"{}", b"x")])
    file.write(
        [StartedNote(1, b'{"at":1}'), StartedNote(2, b'{"at":2}'), EndedNote(2, b'{"end":1}', b"r" * 1000, None, log)]
    )
    file.write([AmendedNote(2, b'{"end":2}'), DroppedNote(3)])
    file.close()
    one, two = rows_of(path)
    assert one == JournalRow(1, "job-1", {"type": "work"}, {"at": 1}, None, {"input": b"input" * 100})
    assert (two.accepted, two.started, two.ended) == ({"n": 2}, {"at": 2}, {"end": 2})
    assert two.pieces == {"result": b"r" * 1000, "events": b"".join(log.encoded())}  # its input is not needed any more
    assert EventLog.decode(two.pieces["events"], 1).read(-1, 100) == log.read(-1, 100)


@pytest.mark.row("B16")
def test_of_one_group_all_is_written_or_nothing(file: JournalFile, path: str) -> None:
    file.write([ACCEPTED])
    with pytest.raises(sqlite3.IntegrityError):
        file.write([AcceptedNote(2, "job-2", b"{}", b"x"), ACCEPTED])
    file.write([AcceptedNote(3, "job-3", b"{}", b"x")])
    file.close()
    assert [row.number for row in rows_of(path)] == [1, 3]


@pytest.mark.row("B16")
def test_the_end_of_a_job_that_was_refused_leaves_nothing(file: JournalFile, path: str) -> None:
    file.write([StartedNote(7, b"{}"), EndedNote(7, b"{}", b"r", b"p", sealed(("cancelled", b"{}"))), DroppedNote(7)])
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM pieces").fetchone() == (0,)


def refusal(path: str) -> str:
    with pytest.raises(JournalRefused) as caught:
        rows_of(path)
    assert caught.value.journal == path
    return caught.value.message


@pytest.mark.row("B16")
def test_a_second_one_is_refused_until_the_first_is_closed(file: JournalFile, path: str) -> None:
    assert "another server uses it" in refusal(path)
    file.write([ACCEPTED])
    file.close()
    assert [row.job_id for row in rows_of(path)] == ["job-1"]


def other_programs(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def newer(path: str) -> None:
    JournalFile.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def torn(path: str) -> None:
    """Lose the second half of a journal with something in it."""
    with closing(JournalFile.open(path)) as opened:
        opened.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 5000) for n in range(50)])
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def overwritten(path: str) -> None:
    """Lose some pages in the middle of one."""
    with closing(JournalFile.open(path)) as opened:
        opened.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 5000) for n in range(50)])
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40960)


def unlike_json(path: str) -> None:
    with closing(JournalFile.open(path)) as opened:
        opened.write([AcceptedNote(1, "job-1", b"{", b"x")])


@pytest.mark.row("B16")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: Path(path).write_bytes(b"garbage\n" * 1000), "is not a journal"),
        (other_programs, "is a database of another program"),
        (newer, "written by a newer version of killable: its tables have version 2, this one supports 1"),
        (torn, "is damaged"),
        (overwritten, "is damaged"),
        (unlike_json, "is damaged"),
    ],
    ids=["garbage", "another's", "newer", "torn", "overwritten", "no JSON"],
)
def test_what_cannot_be_read_is_refused_and_stays_as_it_was(path: str, make: object, words: str) -> None:
    assert callable(make)
    make(path)
    before = Path(path).read_bytes()
    assert words in refusal(path)
    if make is not unlike_json:  # which only a look at the rows shows
        assert Path(path).read_bytes() == before


@pytest.mark.row("B16")
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "journal", tmp_path):
        assert "cannot be opened and written" in refusal(str(place))
    assert "No such file or directory" in refusal(str(tmp_path / "no" / "journal"))


def test_an_empty_file_becomes_a_journal(path: str) -> None:
    Path(path).touch()
    assert rows_of(path) == []
    assert rows_of(path) == []
