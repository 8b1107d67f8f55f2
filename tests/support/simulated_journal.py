"""The real journal over a real file, on virtual time: its server may die before each commit, and after it.

Runs in: the test process. Only the thread is left out: what it does is done in the event loop.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from killable.supervisor.journal.failing_and_hanging_writes import RETRY_S
from killable.supervisor.journal.file_permissions import MARK, WAL
from killable.supervisor.journal.journal_file import JournalFile, JournalRow, Note
from killable.supervisor.journal.journal_thread import GROUP_MAX, Entry, Journal


class SimulatedJournal(Journal):
    """Of one head, which may be killed."""

    def __init__(
        self, path: str, on_works: Callable[[], None], *, commit_s: float, on_written: Callable[[], None],
        is_full: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`on_written` is called when something is on disk that nobody has been told of yet. `is_full`: whether the
        disk is.
        """
        super().__init__(path, on_works)
        self._commit_s = commit_s
        self._on_written = on_written
        self._is_full = is_full
        self._file: JournalFile | None = None
        self._group: list[Entry | None] = []
        self._timer: asyncio.TimerHandle | None = None
        self._acts: list[Callable[[], object]] = []

    async def open(self) -> list[JournalRow]:
        self._loop = asyncio.get_running_loop()
        self._file = JournalFile.open(self.path)
        self._read_what_is_of_no_job(self._file)
        return self._file.read()

    def _try(self, file: JournalFile, notes: Sequence[Note]) -> str:
        return "database or disk is full" if self._is_full() else super()._try(file, notes)

    def die(self) -> None:
        """Write nothing any more: the process is gone, and with it its lock."""
        if self._file is not None:
            self._file.close()
        self._file, self._group = None, []

    def _put(self, entry: Entry | None) -> None:
        self._group.append(entry)
        self._begin(self._commit_s)

    def _begin(self, after_s: float) -> None:
        if self._file is not None and self._timer is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(after_s, self._commit)

    def _commit(self) -> None:
        self._timer = None
        if self._file is None:
            return
        group, self._group = self._group[:GROUP_MAX], self._group[GROUP_MAX:]
        goes_on = self._write(self._file, [entry for entry in group if entry is not None], None not in group)
        self._on_written()
        if self._file is None:
            return  # it was killed
        acts, self._acts = self._acts, []
        for act in acts:
            act()
        if not goes_on:
            self.die()
            self._on_over()
        elif self._group:
            self._begin(self._commit_s)
        elif self.trouble:
            self._begin(RETRY_S)

    def _tell(self, act: Callable[[], object]) -> None:
        self._acts.append(act)


def copy(path: str, to: str) -> None:
    """Copy a journal as it is between two writes."""
    for end in ("", WAL, MARK):
        if Path(path + end).exists():
            shutil.copy(path + end, to + end)


def move_away(path: str, to: str) -> None:
    """Move a journal that a server has open: it finds that out at its next write."""
    copy(path, to)
    for end in ("", WAL, MARK):
        Path(path + end).unlink(missing_ok=True)
