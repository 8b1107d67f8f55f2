"""Journals that are checked, copied and saved from outside their server."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal import inspection
from killable.supervisor.journal.inspection import JournalFinding, backup, salvage, verify
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    EndedNote,
    EpochNote,
    JournalFile,
    JournalRow,
    NodeDrainNote,
    StartedNote,
)
from killable.supervisor.journal.start_refusals import JournalRefused
from killable.supervisor.models import HeadLine


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A journal of four jobs, of a server that is not there any more."""
    path = str(tmp_path / "journal")
    with closing(JournalFile.open(path)) as file:
        fill(file)
    return path


def fill(file: JournalFile) -> None:
    log = EventLog(1)
    log.append("completed", b"{}")
    log.seal()
    file.write([AcceptedNote(n, f"job-{n}", b'{"first_event":0}', b"input") for n in (1, 2, 3, 4)])
    file.write([StartedNote(1, b'{"attempt":1}'), EndedNote(1, b'{"state":"completed"}', b"1", None, log)])
    file.write([StartedNote(2, b'{"attempt":1}'), StartedNote(3, b'{"waits":true,"attempt":1,"first_event":7}')])


def rows_of(path: str) -> list[JournalRow]:
    with closing(JournalFile.open(path)) as file:
        return file.read()


@pytest.mark.row("B16")
def test_a_sound_journal_is_counted_and_copied(path: str, tmp_path: Path) -> None:
    before = Path(path).read_bytes()
    found = verify(path)
    assert found == JournalFinding(4, 2, 1, 1, [], 0) and found.is_sound
    assert inspection.summary(found) == "4 jobs: 2 waiting, 1 running, 1 ended"
    new = str(tmp_path / "new")
    assert backup(path, new) == found
    assert Path(path).read_bytes() == before and os.stat(new).st_mode & 0o777 == 0o600
    assert rows_of(new) == rows_of(path)
    with pytest.raises(JournalRefused, match="exists, and was not changed"):
        backup(path, new)


@pytest.mark.row("B16")
def test_a_journal_in_use_is_copied_as_it_is_at_that_moment(tmp_path: Path) -> None:
    """Also while its write-ahead log begins anew: the copy has whole transactions."""
    path, new = str(tmp_path / "journal"), str(tmp_path / "new")
    with closing(JournalFile.open(path)) as file:
        fill(file)
        file.write([NodeDrainNote("a", b'{"until":1}'), EpochNote(7, "h0")])
        ended = file.generation
        assert verify(path) == backup(path, new) == JournalFinding(4, 2, 1, 1, [], 0)
        file.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 40_000) for n in range(5, 300)])
        file.write([AcceptedNote(300, "job-300", b"{}", b"x")])
        assert verify(path).jobs == 300
    assert len(rows_of(new)) == 4
    with closing(JournalFile.open(new)) as copy:
        assert copy.read_drains() == {"a": {"until": 1}} and copy.read_epoch() == 7
        assert copy.line() == HeadLine("h0", {"h0": ended})


@pytest.mark.row("B16")
def test_a_damaged_row_is_named_and_left_out_of_what_is_saved(path: str, tmp_path: Path) -> None:
    with closing(JournalFile.open(path)) as file:
        file._connection.execute("UPDATE pieces SET data = 'other' WHERE number = 4")
    found, new = verify(path), str(tmp_path / "new")
    assert found.bad == [(4, "job-4", "the checksum of its input is wrong")] and not found.is_sound
    with pytest.raises(JournalRefused, match=r"not sound, so no copy was made: 3 jobs: .*; 1 damaged rows"):
        backup(path, new)
    assert salvage(path, new) == found
    assert [row.number for row in rows_of(new)] == [1, 2, 3]


@pytest.mark.row("B16")
def test_of_a_journal_without_its_end_no_job_is_run_again(path: str, tmp_path: Path) -> None:
    earlier = Path(path).read_bytes()
    with closing(JournalFile.open(path)) as file:
        file.write([StartedNote(4, b'{"attempt":1}')])
    Path(path).write_bytes(earlier)
    with pytest.raises(JournalRefused, match=r"has lost its last \d transactions"):
        JournalFile.open(path)
    new = str(tmp_path / "new")
    assert verify(path).lost > 0 and salvage(path, new).lost > 0
    started = {row.number: row.started for row in rows_of(new)}
    unsure = {"unsure": True, "worker_id": None, "pid": None, "instance_id": ""}
    assert started == {
        1: {"attempt": 1},
        2: {"attempt": 1},
        3: {"first_event": 7, "attempt": 1, **unsure},
        4: {"first_event": 0, "attempt": 0, **unsure},
    }


@pytest.mark.row("B16")
def test_of_a_file_with_damaged_pages_what_can_be_read_is_saved(tmp_path: Path) -> None:
    path, new = str(tmp_path / "journal"), str(tmp_path / "new")
    with closing(JournalFile.open(path)) as file:
        file.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 5000) for n in range(200)])
    with open(path, "r+b") as raw:
        raw.seek(400_000)
        raw.write(b"\xff" * 8192)
    with pytest.raises(JournalRefused, match=r"is damaged.*killable journal salvage"):
        JournalFile.open(path)
    found = salvage(path, new)
    assert 0 < len(found.bad) <= 20 and found.jobs >= 180
    assert all(row.pieces == {"input": b"x" * 5000} for row in rows_of(new))


@pytest.mark.row("B16")
def test_what_a_server_refuses_is_not_called_sound(path: str) -> None:
    """A damaged page that no job is read from: one of an index."""
    raw, new = Path(path).read_bytes(), f"{path}.new"
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_jobs_1'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    Path(path).write_bytes(raw[: (root - 1) * size] + b"\xff" * size + raw[root * size :])
    for looks in (JournalFile.open, verify, lambda path: backup(path, new)):
        with pytest.raises(JournalRefused, match=f"the journal {path} is damaged: .*killable journal salvage {path}"):
            looks(path)
    assert not Path(new).exists() and salvage(path, new).jobs == len(rows_of(new)) == 4


@pytest.mark.row("B16")
@pytest.mark.parametrize("act", [verify, lambda path: backup(path, "new"), lambda path: salvage(path, "new")])
def test_what_is_no_journal_is_refused(tmp_path: Path, act: object) -> None:
    assert callable(act)
    with pytest.raises(JournalRefused, match="there is no journal"):
        act(str(tmp_path / "none"))
    (tmp_path / "garbage").write_bytes(b"garbage\n" * 1000)
    with pytest.raises(JournalRefused, match="garbage is not a journal, and was not changed"):
        act(str(tmp_path / "garbage"))
