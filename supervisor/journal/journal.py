"""The journal: a thread writes to disk what has to survive the server's death. Only submissions wait for it.

Runs in: supervisor; the file in a thread of its own.

    accept, note ──► inbox ──all that is there──► one transaction ──► answers, in the event loop
                           pending ◄──what could not be written──┘

A group that cannot be written (a full disk) is split: submissions are refused; all other notes stay pending and are
retried with the next write and every RETRY_S. Pending notes cost little memory, as they refer to bytes of jobs that the
registry keeps; a job that is dropped meanwhile leaves only its number.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial

from killable.supervisor import event_loops
from killable.supervisor.clock import monotonic
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    DroppedNote,
    JournalFile,
    JournalRefused,
    JournalRow,
    Note,
    ReducedNote,
)

RETRY_S = 1.0
"""Seconds between two checks whether writing works again."""
GROUP_MAX = 256
"""Notes per transaction: a sync to disk takes longer than so many rows."""
CLOSE_S = 10.0
"""Seconds for the last notes: a disk that hangs must not keep the server from ending."""

SLOW_S = 5.0
"""A write that takes longer, in seconds, is considered to hang."""

Answer = Callable[[str, bool], None]
"""Called in the event loop with why the job is not on disk (empty: it is), and whether that is certain."""

Opened = asyncio.Future[list[JournalRow] | Exception]

logger = logging.getLogger("killable.journal")


class Journal:
    """A journal of one file, which is opened once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._trouble = ""
        """Why the latest write failed; empty when one works again."""
        self._busy_since: float | None = None
        self._inbox: queue.SimpleQueue[Note | None] = queue.SimpleQueue()
        self._pending: list[Note] = []
        self._unanswered: dict[int, Answer] = {}
        """By number of the job that is to be written. Used only in the event loop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = asyncio.Event()

    @property
    def trouble(self) -> str:
        """Return why nothing is written now; empty when writing works."""
        return self._trouble or self._hang()

    def _hang(self) -> str:
        since = self._busy_since
        took_s = 0.0 if since is None else monotonic() - since
        return f"a write has not finished after {took_s:.0f} s" if took_s > SLOW_S else ""

    async def open(self) -> list[JournalRow]:
        """Open the file and return its rows. Raise JournalRefused."""
        self._loop = loop = asyncio.get_running_loop()
        opened: Opened = loop.create_future()
        try:
            threading.Thread(target=self._run, args=(opened,), name="killable-journal", daemon=True).start()
        except RuntimeError as error:
            self._loop = None
            raise JournalRefused(
                f"the thread of the journal {self.path} cannot be started: {error}", journal=self.path
            ) from error
        found = await opened
        if isinstance(found, Exception):
            raise found
        return found

    def accept(self, accepted: AcceptedNote, answer: Answer) -> None:
        """Write a new job and call `answer` in the event loop. While a write hangs, the job is refused."""
        if self._loop is not None and (why := self._hang()):
            self._loop.call_soon(answer, why, True)
            return
        self._unanswered[accepted.number] = answer
        self._inbox.put(accepted)
        if self._loop is not None and self._is_over.is_set():
            self._loop.call_soon(self._on_over)

    def note(self, note: Note) -> None:
        """Write a note, after everything that came before. Returns at once."""
        self._inbox.put(note)

    async def close(self) -> None:
        """Write what is left and close the file. May be called again, and when the file was never opened."""
        if self._loop is None:
            return
        self._inbox.put(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._is_over.wait()
        except TimeoutError:
            logger.error("journal_left", extra={"detail": f"{self.path}: no write finished within {CLOSE_S:g} s"})
            self._on_over(is_known=False)  # the write that hangs may still succeed

    def _on_over(self, *, is_known: bool = True) -> None:
        """Answer every submission that still waits: nothing is written any more."""
        self._is_over.set()
        self._on_answers(dict.fromkeys(self._unanswered, self.trouble or "it is closed"), is_known=is_known)

    def _on_answers(self, answers: Mapping[int, str], *, is_known: bool = True) -> None:
        for number, why in answers.items():
            try:
                if (answer := self._unanswered.pop(number, None)) is not None:
                    answer(why, is_known)
            except Exception:  # a bug in killable: the others are answered all the same
                logger.exception("journal_failed", extra={"detail": "a callback failed"})

    # ── in the thread ──

    def _run(self, opened: Opened) -> None:
        try:
            file = JournalFile.open(self.path)
            try:
                self._tell(partial(_resolve, opened, file.read()))
                while self._write(file, *self._next()):
                    pass
            finally:
                file.close()
        except Exception as error:  # a JournalRefused; or a bug in killable, which must not leave submissions waiting
            if not isinstance(error, JournalRefused):
                self._note_trouble(f"its thread has ended: {error!r}")
            self._tell(partial(_resolve, opened, error))
        finally:
            self._tell(self._on_over)

    def _next(self) -> tuple[list[Note], bool]:
        """Wait for notes and return all that are there (none: it is time to retry), and whether to go on after them."""
        group: list[Note] = []
        try:
            each = self._inbox.get(timeout=RETRY_S if self._trouble else None)
            while each is not None:
                group.append(each)
                if len(group) == GROUP_MAX:
                    return group, True
                each = self._inbox.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _write(self, file: JournalFile, group: list[Note], go_on: bool) -> bool:
        submissions = [each for each in group if isinstance(each, AcceptedNote)]
        answers = dict.fromkeys((each.number for each in submissions), "")
        if why := self._try(file, [*self._pending, *group]):
            # Submissions first: the other notes may belong to them.
            answers = {each.number: self._try(file, [each]) for each in submissions}
            self._add_pending([each for each in group if not isinstance(each, AcceptedNote)])
            if self._pending and not self._try(file, self._pending):
                self._pending = []
        else:
            self._pending = []
        self._note_trouble(why if any(answers.values()) or self._pending or not group else "")
        if answers:
            self._tell(partial(self._on_answers, answers))
        if not go_on and self._pending:
            fields = {"detail": f"{self._trouble}; {len(self._pending)} notes are not written", "path": self.path}
            logger.error("journal_left", extra=fields)
        return go_on

    def _try(self, file: JournalFile, notes: list[Note]) -> str:
        """Write the notes; without any, check that writing works. Return why it failed; empty: it worked."""
        self._busy_since = monotonic()
        try:
            if notes:
                file.write(notes)
            else:
                file.check()
        except Exception as error:  # of any kind: a submission waits for an answer
            return str(error) or type(error).__name__
        finally:
            self._busy_since = None
        return ""

    def _add_pending(self, notes: list[Note]) -> None:
        for note in notes:
            if isinstance(note, (DroppedNote, ReducedNote)):  # its other notes no longer matter
                self._pending = [owed for owed in self._pending if owed.number != note.number]
            self._pending.append(note)

    def _note_trouble(self, why: str) -> None:
        if why and not self._trouble:
            logger.error("journal_failed", extra={"detail": why, "path": self.path})
        elif self._trouble and not why:
            logger.warning("journal_works", extra={"path": self.path})
        self._trouble = why

    def _tell(self, act: Callable[[], object]) -> None:
        assert self._loop is not None
        event_loops.tell(self._loop, act)


def _resolve(opened: Opened, found: list[JournalRow] | Exception) -> None:
    if not opened.done():  # else the start was given up
        opened.set_result(found)
