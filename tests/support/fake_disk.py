"""The simulated disk of a journal: its commits take virtual time, and it may take nothing.

Runs in: the test process. Has the interface of `supervisor/journal/journal_thread.Journal`. What it holds is what the
next server would read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    AmendedNote,
    DroppedNote,
    EndedNote,
    EpochNote,
    JournalRow,
    NodeDrainNote,
    Note,
    OutputNote,
    StartedNote,
)
from killable.supervisor.models import HeadLine

if TYPE_CHECKING:
    from support.fake_world import World

Answer = Callable[[str, bool], None]
RETRY_S = 1.0


@dataclass(slots=True)
class Row:
    """What is on disk of one job."""

    script: int
    """The number of its script, from its input."""
    attempt: int = 0
    """Of the last start."""
    waits: bool = False
    output: int = 0
    """The id of the first event that is not there."""
    is_over: bool = False


@dataclass(eq=False)
class FakeDisk:
    """One transaction at a time, of all that has come meanwhile."""

    world: World
    commit_s: float = 0.001
    is_full: bool = False
    rows: dict[int, Row] = field(default_factory=dict)
    """By number of the job."""
    path: str = "journal"
    trouble: str = ""
    is_over: bool = False
    drains: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of nodes."""
    epoch: int = 0
    line: HeadLine = field(default_factory=HeadLine)
    generation: int = 0
    is_replaced: bool = False

    def __post_init__(self) -> None:
        self._inbox: list[tuple[tuple[Note, ...], Answer | None, bool]] = []
        self._owed: list[tuple[tuple[Note, ...], Answer | None, bool]] = []
        self._is_busy = False
        self._on_works: Callable[[], None] = lambda: None

    def __call__(self, path: str, on_works: Callable[[], None]) -> FakeDisk:
        """Be the factory of a supervisor's journal: this one."""
        self.path, self._on_works = path, on_works
        return self

    @property
    def fails(self) -> bool:
        return bool(self.trouble)

    def row_of(self, script: int) -> Row | None:
        return next((row for row in self.rows.values() if row.script == script), None)

    async def open(self) -> list[JournalRow]:
        return []

    def accept(self, accepted: AcceptedNote, started: StartedNote | None, answer: Answer) -> None:
        self._enter((accepted,) if started is None else (accepted, started), answer, False)

    def start(self, started: StartedNote | EpochNote, answer: Answer) -> None:
        self._enter((started,), answer, False)

    def note(self, note: Note, answer: Answer | None = None) -> None:
        self._enter((note,), answer, True)

    async def close(self) -> None:
        """Write what is there; nothing is written any more."""
        self._commit()
        self.is_over = True
        for _, answer, _ in [*self._owed, *self._inbox]:
            if answer is not None:
                answer("closed", True)

    def _enter(self, notes: tuple[Note, ...], answer: Answer | None, is_owed: bool) -> None:
        self._inbox.append((notes, answer, is_owed))
        self._begin(self.commit_s)

    def _begin(self, after_s: float) -> None:
        if not self._is_busy and not self.is_over:
            self._is_busy = True
            self.world.later(after_s, self._commit)

    def _commit(self) -> None:
        if self.is_over:
            return
        self._is_busy = False
        entries, self._inbox, self._owed = [*self._owed, *self._inbox], [], []
        was, self.trouble = self.trouble, "full" if self.is_full else ""
        self.world.note("disk", self.trouble or "commits", len(entries))
        for notes, answer, is_owed in entries:
            if self.trouble and is_owed:
                self._owed.append((notes, answer, is_owed))
                continue
            for note in notes if not self.trouble else ():
                self._put(note)
            if answer is not None:
                answer(self.trouble, True)
        if was and not self.trouble:
            self._on_works()
        if self.trouble:
            self._begin(RETRY_S)
        elif self._inbox:
            self._begin(self.commit_s)

    def _put(self, note: Note) -> None:
        row = self.rows.get(note.number)
        match note:
            case AcceptedNote():
                self.rows[note.number] = Row(json.loads(note.input)["n"])
            case StartedNote():
                assert row is not None, note
                said = json.loads(note.members)
                row.attempt, row.waits = said["attempt"], said.get("waits", False)
            case OutputNote():
                assert row is not None and row.output == note.place, note
                row.output = len(EventLog.decode(note.data, 1 << 30, note.place))
            case EndedNote():
                if row is not None:
                    row.is_over = True
            case AmendedNote():
                assert row is None or row.is_over, note
            case DroppedNote():
                self.rows.pop(note.number, None)
            case NodeDrainNote():
                self.drains.pop(note.node, None)
                if note.members is not None:
                    self.drains[note.node] = json.loads(note.members)
            case EpochNote():
                self.epoch = note.epoch
