"""What a journal owes while the disk is full."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal import journal_thread as module
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    DroppedNote,
    EndedNote,
    JournalFile,
    Note,
    StartedNote,
)
from killable.supervisor.journal.journal_thread import Answer, Entry, Journal


class Full(JournalFile):
    """Takes nothing, until it is let."""

    is_full = True

    def write(self, notes: Sequence[Note]) -> None:
        if Full.is_full:
            raise OSError("full")
        super().write(notes)


class Picky(JournalFile):
    """Takes all but what is called large."""

    def write(self, notes: Sequence[Note]) -> None:
        if any(b"large" in getattr(note, "members", b"") for note in notes):
            raise OSError("full")
        super().write(notes)


class Broken(Journal):
    """Has a defect: its thread ends at a group that cannot be written."""

    def _write_each(self, file: JournalFile, entries: Sequence[Entry]) -> dict[int, str]:
        raise RuntimeError("a defect")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[JournalFile]:
    with closing(JournalFile.open(str(tmp_path / "journal"))) as opened:
        yield opened


def entry(*notes: Note, ticket: int = 0, is_owed: bool = False) -> Entry:
    return Entry(notes, ticket, is_owed)


@pytest.mark.row("B16")
def test_a_job_that_is_dropped_takes_along_what_is_owed_of_it() -> None:
    journal = Journal("")
    notes = [entry(StartedNote(number, b"{}"), ticket=number, is_owed=True) for number in (1, 2)]
    dropped = entry(DroppedNote(1), is_owed=True)
    told = [journal._owe(each) for each in (*notes, dropped)]
    assert journal._owed == [notes[1], dropped]
    assert told == [{}, {}, {1: "its job is not kept any more"}]


@pytest.mark.row("B16")
def test_what_can_be_written_is_written_in_order_up_to_the_first_owed_note_that_cannot(file: JournalFile) -> None:
    """The note of an attempt must not pass that of an earlier one: the next server would believe the last."""
    journal = Journal("")
    file.__class__ = Picky
    group = [
        entry(AcceptedNote(1, "job-1", b'{"large":1}', b"x"), ticket=1),
        entry(AcceptedNote(2, "job-2", b"{}", b"x"), ticket=2),
        entry(StartedNote(2, b'{"waits":true,"large":1}'), is_owed=True),
        entry(StartedNote(2, b"{}"), ticket=3),
    ]
    assert journal._write_each(file, group) == {1: "full", 2: "", 3: "full"}
    assert journal._owed == [group[2]]
    (row,) = file.read()
    assert (row.job_id, row.started) == ("job-2", None)


async def test_an_end_is_answered_when_it_is_on_disk_and_no_start_passes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JournalFile", Full)
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    works = asyncio.Event()
    journal = Journal(str(tmp_path / "journal"), works.set)
    monkeypatch.setattr(Full, "is_full", False)
    await journal.open()
    ended, refused, accepted = (asyncio.get_running_loop().create_future() for _ in range(3))
    journal.accept(AcceptedNote(1, "job-1", b"{}", b""), StartedNote(1, b"{}"), answer_into(accepted))
    async with asyncio.timeout(30):
        assert await accepted == ("", True)
        monkeypatch.setattr(Full, "is_full", True)
        journal.note(EndedNote(1, b"{}", None, None, EventLog(1)), answer_into(ended))
        journal.start(StartedNote(1, b'{"attempt":2}'), answer_into(refused))
        assert await refused == ("full", True)
        assert journal.fails and journal.trouble == "full" and not ended.done() and not works.is_set()
        monkeypatch.setattr(Full, "is_full", False)
        assert await ended == ("", True)
        await works.wait()
    assert not journal.fails
    await journal.close()


def answer_into(future: asyncio.Future[tuple[str, bool]]) -> Answer:
    return lambda why, is_known: future.set_result((why, is_known))


async def test_whoever_waits_is_answered_when_the_thread_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JournalFile", Full)
    journal = Broken(str(tmp_path / "journal"))
    assert await journal.open() == []
    for number in (1, 2):
        answered: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        journal.accept(AcceptedNote(number, f"job-{number}", b"{}", b""), None, answer_into(answered))
        async with asyncio.timeout(30):
            why, is_known = await answered
            assert "a defect" in why and is_known
    assert "a defect" in journal.trouble
    await journal.close()


async def test_an_answer_that_is_not_taken_keeps_no_other_from_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(str(tmp_path / "journal"))
    await journal.open()
    answered: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    def broken(why: str, _: bool) -> None:
        raise RuntimeError(why)

    journal.accept(AcceptedNote(1, "job-1", b"{}", b""), None, broken)
    journal.accept(AcceptedNote(2, "job-2", b"{}", b""), None, answer_into(answered))
    async with asyncio.timeout(30):
        assert await answered == ("", True)
    assert "journal_failed" in caplog.text
    await journal.close()
