"""The journal: a thread writes to disk what has to survive the server's death. Nothing in the event loop blocks for it.

Runs in: supervisor; the file in a thread of its own.

    accept, start, note ──► inbox ──all that is there──► one transaction ──► answers, in the event loop
                             owed ◄──notes that could not be written──┘

A group that cannot be written (a full disk) is written one by one, in order, up to the first note that fails:
submissions and starts are refused; all other notes stay owed and are retried with the next write and every RETRY_S.
Nothing starts while a note is owed. Owed notes cost little memory, as they refer to bytes of jobs that the registry
keeps; a job that is dropped meanwhile leaves only its number.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from killable.supervisor import event_loops
from killable.supervisor.clock import monotonic
from killable.supervisor.journal import failing_and_hanging_writes
from killable.supervisor.journal.failing_and_hanging_writes import CLOSE_S, RETRY_S
from killable.supervisor.journal.file_permissions import FileReplaced
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    DroppedNote,
    EpochNote,
    JournalFile,
    JournalRow,
    Note,
    ReducedNote,
    StartedNote,
)
from killable.supervisor.journal.start_refusals import JournalRefused
from killable.supervisor.models import HeadLine

GROUP_MAX = 256
"""Entries per transaction: a sync to disk takes longer than so many rows."""

Answer = Callable[[str, bool], None]
"""Called in the event loop with why it is not on disk (empty: it is), and whether that is certain."""

Opened = asyncio.Future[list[JournalRow] | Exception]

logger = logging.getLogger("killable.journal")


@dataclass(frozen=True, slots=True)
class Entry:
    """Notes that are written together, and whom to tell."""

    notes: tuple[Note, ...]
    ticket: int
    """Number of the answer that is due; 0: none is."""
    is_owed: bool
    """It is retried until it is written. Otherwise it is written now or never."""


class Journal:
    """A journal of one file, which is opened once."""

    def __init__(self, path: str, on_works: Callable[[], None] = lambda: None) -> None:
        """`on_works` is called in the event loop when writing works again."""
        self.path = path
        self.drains: Mapping[str, Mapping[str, Any]] = {}
        """Of nodes, as they were when the file was opened."""
        self.epoch = 0
        """The highest of a cluster's heads that had this file before."""
        self.line = HeadLine()
        """These heads."""
        self.generation = 0
        """The number of the last transaction."""
        self.is_replaced = False
        """Whether the last write has found the file no more in its place."""
        self._on_works = on_works
        self._trouble = ""
        """Why the latest write failed; empty when one works again."""
        self._busy_since: float | None = None
        self._inbox: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._owed: list[Entry] = []
        self._unanswered: dict[int, Answer] = {}
        """By ticket. Used only in the event loop."""
        self._tickets = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = asyncio.Event()

    @property
    def trouble(self) -> str:
        """Return why nothing is written now; empty when writing works."""
        return self._trouble or self._hang()

    @property
    def fails(self) -> bool:
        """Return whether the latest write failed: nothing may start. `on_works` follows when one works again."""
        return bool(self._trouble)

    @property
    def is_over(self) -> bool:
        """Return whether nothing is written any more: it is closed, or its thread has ended."""
        return self._is_over.is_set()

    def _hang(self) -> str:
        since = self._busy_since
        return "" if since is None else failing_and_hanging_writes.hang(monotonic() - since)

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

    def accept(self, accepted: AcceptedNote, started: StartedNote | None, answer: Answer) -> None:
        """Write a new job, with its start if a worker is kept for it, and call `answer` in the event loop.

        While a write hangs, the job is refused.
        """
        if self._loop is not None and (why := self._hang()):
            self._loop.call_soon(answer, why, True)
            return
        notes: tuple[Note, ...] = (accepted,) if started is None else (accepted, started)
        self._enter(notes, answer, is_owed=False)

    def start(self, started: StartedNote | EpochNote, answer: Answer) -> None:
        """Write that a job, or a head, starts and call `answer` in the event loop, however long a write hangs."""
        self._enter((started,), answer, is_owed=False)

    def note(self, note: Note, answer: Answer | None = None) -> None:
        """Write a note, after everything that came before. Returns at once.

        `answer` is called in the event loop when it is written; with a reason, when it never will be.
        """
        self._enter((note,), answer, is_owed=True)

    def _enter(self, notes: tuple[Note, ...], answer: Answer | None, *, is_owed: bool) -> None:
        ticket = 0
        if answer is not None:
            ticket = self._tickets = self._tickets + 1
            self._unanswered[ticket] = answer
        self._put(Entry(notes, ticket, is_owed))
        if self._loop is not None and self.is_over:
            self._loop.call_soon(self._on_over)

    def _put(self, entry: Entry | None) -> None:
        """Hand an entry to the thread; None: it is to end."""
        self._inbox.put(entry)

    async def close(self) -> None:
        """Write what is left and close the file. May be called again, and when the file was never opened."""
        if self._loop is None:
            return
        self._put(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._is_over.wait()
        except TimeoutError:
            logger.error("journal_left", extra={"detail": f"{self.path}: no write finished within {CLOSE_S:g} s"})
            self._on_over(is_known=False)  # the write that hangs may still succeed

    def _on_over(self, *, is_known: bool = True) -> None:
        """Answer all who still wait: nothing is written any more."""
        self._is_over.set()
        self._on_answers(dict.fromkeys(self._unanswered, self.trouble or "it is closed"), is_known=is_known)

    def _on_answers(self, answers: Mapping[int, str], *, is_known: bool = True) -> None:
        for ticket, why in answers.items():
            try:
                if (answer := self._unanswered.pop(ticket, None)) is not None:
                    answer(why, is_known)
            except Exception:  # a bug in killable: the others are answered all the same
                logger.exception("journal_failed", extra={"detail": "a callback failed"})

    # ── in the thread ──

    def _run(self, opened: Opened) -> None:
        try:
            file = JournalFile.open(self.path)
            try:
                self._read_what_is_of_no_job(file)
                self._tell(partial(_resolve, opened, file.read()))
                file.make_room()  # while the pools start
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

    def _read_what_is_of_no_job(self, file: JournalFile) -> None:
        self.drains, self.epoch, self.line = file.read_drains(), file.read_epoch(), file.line()
        self.generation = file.generation

    def _next(self) -> tuple[list[Entry], bool]:
        """Wait for entries and return all that are there (none: time to retry), and whether to go on after them."""
        group: list[Entry] = []
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

    def _write(self, file: JournalFile, group: list[Entry], go_on: bool) -> bool:
        entries = [*self._owed, *group]
        if why := self._try(file, [note for entry in entries for note in entry.notes]):
            answers = self._write_each(file, entries)
        else:
            answers, self._owed = {entry.ticket: "" for entry in entries if entry.ticket}, []
        self._note_trouble(why if any(answers.values()) or self._owed or not entries else "")
        if answers:
            self._tell(partial(self._on_answers, answers))
        if not go_on and self._owed:
            fields = {"detail": f"{self._trouble}; {len(self._owed)} notes are not written", "path": self.path}
            logger.error("journal_left", extra=fields)
        return go_on

    def _write_each(self, file: JournalFile, entries: Sequence[Entry]) -> dict[int, str]:
        """Write the entries one by one and return the answers to them.

        After the first owed note that cannot be written nothing else is: a job's notes have an order, and a start that
        passed the note of an earlier attempt would be taken for it by the next server.
        """
        answers: dict[int, str] = {}
        self._owed = []
        blocked = ""
        for entry in entries:
            why = blocked or self._try(file, entry.notes)
            if why and entry.is_owed:
                blocked = why
                answers |= self._owe(entry)
            elif entry.ticket:
                answers[entry.ticket] = why
        return answers

    def _owe(self, entry: Entry) -> dict[int, str]:
        """Keep an entry for later. Return the answers to those that no longer matter: their job is dropped."""
        given_up: list[Entry] = []
        if isinstance(dropped := entry.notes[0], (DroppedNote, ReducedNote)):
            given_up = [owed for owed in self._owed if owed.notes[0].number == dropped.number]
            self._owed = [owed for owed in self._owed if owed.notes[0].number != dropped.number]
        self._owed.append(entry)
        return {owed.ticket: "its job is not kept any more" for owed in given_up if owed.ticket}

    def _try(self, file: JournalFile, notes: Sequence[Note]) -> str:
        """Write the notes; without any, check that writing works. Return why it failed; empty: it worked."""
        self._busy_since = monotonic()
        self.is_replaced = False
        try:
            if notes:
                file.write(notes)
            else:
                file.check()
            self.generation = file.generation
        except Exception as error:  # of any kind: a submission waits for an answer
            self.is_replaced = isinstance(error, FileReplaced)
            return str(error) or type(error).__name__
        finally:
            self._busy_since = None
        return ""

    def _note_trouble(self, why: str) -> None:
        was, self._trouble = self._trouble, why
        if why and not was:
            logger.error("journal_failed", extra={"detail": why, "path": self.path})
        elif was and not why:
            logger.warning("journal_works", extra={"path": self.path})
            self._tell(self._on_works)

    def _tell(self, act: Callable[[], object]) -> None:
        assert self._loop is not None
        event_loops.tell(self._loop, act)


def _resolve(opened: Opened, found: list[JournalRow] | Exception) -> None:
    if not opened.done():  # else the start was given up
        opened.set_result(found)
