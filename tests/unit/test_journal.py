"""What a journal owes while the disk is full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from killable.supervisor.journal import journal as module
from killable.supervisor.journal.journal import Answer, Journal
from killable.supervisor.journal.journal_file import AcceptedNote, DroppedNote, JournalFile, Note, StartedNote


@pytest.mark.row("B16")
def test_a_job_that_is_dropped_takes_along_what_is_owed_of_it() -> None:
    journal = Journal("")
    journal._add_pending([StartedNote(1, b"{}"), StartedNote(2, b"{}")])
    journal._add_pending([DroppedNote(1)])
    assert journal._pending == [StartedNote(2, b"{}"), DroppedNote(1)]


class Full(JournalFile):
    """Takes nothing."""

    def write(self, notes: Sequence[Note]) -> None:
        raise OSError("full")


class Broken(Journal):
    """Has a defect: its thread ends at what is owed."""

    def _add_pending(self, notes: list[Note]) -> None:
        raise RuntimeError("a defect")


def answer_into(future: asyncio.Future[tuple[str, bool]]) -> Answer:
    return lambda why, is_known: future.set_result((why, is_known))


async def test_whoever_waits_is_answered_when_the_thread_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JournalFile", Full)
    journal = Broken(str(tmp_path / "journal"))
    assert await journal.open() == []
    for number in (1, 2):
        answered: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        journal.accept(AcceptedNote(number, f"job-{number}", b"{}", b""), answer_into(answered))
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

    journal.accept(AcceptedNote(1, "job-1", b"{}", b""), broken)
    journal.accept(AcceptedNote(2, "job-2", b"{}", b""), answer_into(answered))
    async with asyncio.timeout(30):
        assert await answered == ("", True)
    assert "journal_failed" in caplog.text
    await journal.close()
