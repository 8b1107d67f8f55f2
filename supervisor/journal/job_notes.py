"""Writes what happens to each job to the journal: accepted, begun, waiting for a retry, over, dropped.

Runs in: supervisor; nothing here blocks. An Executor has no journal.

Three things wait for the disk: a submission for its acceptance, a job for its start, and clients for the word of an
end. The others are written soon: a retry that was not on disk when the server died is a lost job, and a job that was
dropped is there once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from killable.supervisor.jobs.job import Job
from killable.supervisor.journal.failing_and_hanging_writes import not_written
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    AmendedNote,
    CheckpointNote,
    DroppedNote,
    EndedNote,
    EpochNote,
    JournalRow,
    NodeDrainNote,
    Note,
    OutputNote,
    ReducedNote,
    SetAsideNote,
    StartedNote,
    StoppedNote,
)
from killable.supervisor.models import HeadLine, Submission, Verdict, WorkerId
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

KEPT_OF_SUBMISSION = tuple(name for name in Submission._fields if name not in ("type", "input", "limits"))
"""Type and limits are stored beside them, as they are in force; the input is stored as a piece."""
OUTPUT_EVENTS_MAX = 4096
OUTPUT_BYTES_MAX = 256 << 10
"""Bounds of one group of a job's events."""


class JournalPort(Protocol):
    """What is written to: `journal.Journal`, or its simulation on virtual time."""

    path: str

    @property
    def drains(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def epoch(self) -> int: ...
    @property
    def line(self) -> HeadLine: ...
    @property
    def generation(self) -> int: ...
    @property
    def is_replaced(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    @property
    def fails(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    async def open(self) -> list[JournalRow]: ...
    def accept(
        self, accepted: AcceptedNote, started: StartedNote | None, answer: Callable[[str, bool], None]
    ) -> None: ...
    def start(self, started: StartedNote | EpochNote, answer: Callable[[str, bool], None]) -> None: ...
    def note(self, note: Note, answer: Callable[[str, bool], None] | None = None) -> None: ...
    async def close(self) -> None: ...


JournalFactory = Callable[[str, Callable[[], None]], JournalPort]
"""Makes a journal from its path and what to call when writing works again."""


class Start(NamedTuple):
    """The start that is written of a job's next attempt."""

    at: str
    """RFC 3339 in UTC."""
    worker_id: WorkerId
    """The worker that is kept for the job."""
    pid: int | None
    place: Mapping[str, Any] = {}
    """The node, its incarnation and its lease; empty: this machine."""


class JobNotes:
    """Writes the journal of one server run, on one boot of a machine."""

    def __init__(self, journal: JournalPort, instance_id: str, boot: str, *, has_output: bool = False) -> None:
        """`has_output`: what jobs emit is written, too."""
        self.journal = journal
        self._has_output = has_output
        """Opened and closed by the writer's owner."""
        self.boot = boot
        self._instance_id = instance_id

    def accepted(self, job: Job, input: bytes, start: Start | None, answer: Callable[[Refused | None], None]) -> None:
        """Write a new job, and its start if a worker is kept for it.

        `answer` gets None when it is on disk, else the refusal of the submission.
        """
        members = {
            "instance_id": self._instance_id,
            "created_at": job.created_at,
            "type": job.type.name,
            "codec": job.type.codec,
            "limits": dict(job.limits),
            "first_event": job.log.first,
            "submission": {name: getattr(job.submission, name) for name in KEPT_OF_SUBMISSION},
        }
        accepted = AcceptedNote(job.number, job.id, dump_json(members), input)
        started = None if start is None else self._started(job, start)
        self.journal.accept(
            accepted, started, lambda why, is_known: answer(not_written(why, is_known=is_known) if why else None)
        )

    def starts(self, job: Job, start: Start, answer: Callable[[str], None]) -> None:
        """Write that a worker is about to get the job. `answer` gets why it is not on disk; empty: it is.

        The events before it are on disk by then, too: those of the attempt come after them.
        """
        self.begin_output(job)
        if isinstance(job.listener, _RunWriter):
            job.listener.write_all(job)
        self.journal.start(self._started(job, start), lambda why, _: answer(why))

    def _started(self, job: Job, start: Start) -> StartedNote:
        members = {
            "instance_id": self._instance_id,
            "boot": self.boot,
            "at": start.at,
            "attempt": job.attempts + 1,
            "worker_id": start.worker_id,
            "pid": start.pid,
            "first_event": job.log.first,
            "lost_attempts": job.lost_attempts,
            "has_output": self._has_output,
        }
        if start.place:
            members |= {**start.place, "at_event": len(job.log)}
        return StartedNote(job.number, dump_json(members))

    def waits(self, job: Job, answer: Callable[[str], None] | None = None) -> None:
        """Record that the job waits again: for a retry, or because the worker that was kept for it has died.

        `answer` gets "" when it is on disk, or why it never will be.
        """
        members = {
            "waits": True,
            "attempt": job.attempts,
            "first_event": job.log.first,
            "lost_attempts": job.lost_attempts,
            "again_at": job.again_at,
            # Of a job that has not begun nobody has seen an event: there is nothing that could be missing.
            "has_output": self._has_output and (job.shown is not None or len(job.log) == job.log.first),
        }
        if job.partial is not None and not (isinstance(job.listener, _RunWriter) and job.listener.has_checkpoint(job)):
            self.journal.note(CheckpointNote(job.number, job.partial))
        note = StartedNote(job.number, dump_json(members))
        self.journal.note(note, None if answer is None else partial(_first_of, answer))

    def begin_output(self, job: Job) -> None:
        """From here on write what the job emits, if that is wanted: its streams show what is on disk. And its
        checkpoints, if it is run again when this server dies.
        """
        if not self._has_output:
            job.shown = None  # an earlier server had it written
        if job.listener is None and (self._has_output or job.type.on_loss == "rerun"):
            if self._has_output and job.shown is None:
                job.shown = job.log.first
            job.listener = _RunWriter(self.journal)

    def stopping(self, job: Job, verdict: Verdict) -> None:
        """Record that a job was asked to end, and with what grace: it is not run again, whatever its type says, and not
        gone on with. Of a later call only a shorter grace counts.
        """
        if job.type.on_loss == "rerun" or job.node is not None:
            first = job.verdict or verdict
            grace_s = None if job.attempt is None else job.attempt.grace_s
            members = {"code": first.code, "by": first.by, "reason": first.reason, "grace_s": grace_s}
            self.journal.note(StoppedNote(job.number, dump_json(members)))

    def drains(self, node: str, members: Mapping[str, Any] | None, answer: Callable[[str], None]) -> None:
        """Record that a node is to get no jobs, or (None) is to get some again. `answer` gets "" when it is on disk."""
        note = NodeDrainNote(node, None if members is None else dump_json(members))
        self.journal.note(note, lambda why, _: answer(why))

    def epoch(self, epoch: int, answer: Callable[[str], None], *, is_owed: bool = False) -> None:
        """Record under which epoch this head speaks. `answer` gets why it is not on disk; empty: it is. `is_owed`: it
        is tried until it is, and nothing that comes after it is written before.
        """
        write = self.journal.note if is_owed else self.journal.start
        write(EpochNote(epoch, self._instance_id), partial(_first_of, answer))

    def set_aside(self, row: JournalRow, why: str) -> None:
        """Move a row out of the way that cannot be used."""
        self.journal.note(SetAsideNote(row.number, row.job_id, why))

    def ended(self, job: Job, answer: Callable[[str], None]) -> None:
        """Record the end of a job, whose log is sealed and ends with the terminal event.

        `answer` gets "" when it is on disk, or why it never will be.
        """
        members = dump_json(self._end_of(job))
        note = EndedNote(job.number, members, job.result, job.partial, job.log)
        self.journal.note(note, lambda why, _: answer(why))

    def amended(self, job: Job) -> None:
        """Record a certificate that was completed after the job's end."""
        self.journal.note(AmendedNote(job.number, dump_json(self._end_of(job))))

    def reduced(self, job: Job) -> None:
        """Record that a job is no longer kept, but its idempotency key is."""
        members = {"reduced": True, "state": job.public_state, "ended_at": job.ended_at}
        self.journal.note(ReducedNote(job.number, dump_json(members)))

    def dropped(self, number: int) -> None:
        self.journal.note(DroppedNote(number))

    def _end_of(self, job: Job) -> dict[str, Any]:
        outcome = job.outcome
        assert outcome is not None
        return {
            "instance_id": job.instance_id or self._instance_id,
            "state": outcome.state,
            "code": outcome.code,
            "message": outcome.message,
            "facts": outcome.facts,
            "is_transient": outcome.is_transient,
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "attempts": job.attempts,
            "lost_attempts": job.lost_attempts,
            "worker_id": job.worker_id,
            "pid": job.pid,
            "node": job.node,
            "progress": _as_json(job.progress),
            "certificate": job.certificate,
            "files": list(job.files.values()),
            "first_event": job.log.first,
            "callback": job.callback,
        }


class _RunWriter:
    """Writes what one job reports while it runs: its events, one group at a time of all that has come while the one
    before was written; and its last checkpoint, one at a time.
    """

    def __init__(self, journal: JournalPort) -> None:
        self._journal = journal
        self._noted = 0
        """The id of the first event that was not handed to the journal."""
        self._under_way = 0
        """Groups that are not on disk yet."""
        self._checkpoint: bytes | None = None
        """The one that was handed to the journal last."""
        self._writes_checkpoint = False

    def on_changed(self, job: Job) -> None:
        if job.is_over:
            return  # the end brings everything
        if not self._under_way:
            self._write(job)
        self._write_checkpoint(job)

    def has_checkpoint(self, job: Job) -> bool:
        """Return whether the journal was handed the job's last checkpoint."""
        return self._checkpoint is job.partial

    def _write_checkpoint(self, job: Job) -> None:
        if job.type.on_loss != "rerun" or job.partial is None or self._writes_checkpoint or self.has_checkpoint(job):
            return
        self._checkpoint, self._writes_checkpoint = job.partial, True

        def on_written(why: str, _: bool) -> None:
            self._writes_checkpoint = False
            if not (why or job.is_over):
                self._write_checkpoint(job)

        self._journal.note(CheckpointNote(job.number, job.partial), on_written)

    def write_all(self, job: Job) -> None:
        """Hand all events to the journal: what is noted next comes after them."""
        while self._write(job):
            pass

    def _write(self, job: Job) -> bool:
        """Hand the next group to the journal, if there is one."""
        if job.shown is None or max(job.shown, self._noted) >= len(job.log):
            return False
        first = max(job.shown, self._noted)
        following, data = job.log.encode_some(first, OUTPUT_EVENTS_MAX, OUTPUT_BYTES_MAX)
        self._noted = following
        self._under_way += 1

        def on_written(why: str, _: bool) -> None:
            self._under_way -= 1
            if not why:
                job.shown = following
                job.wake()

        self._journal.note(OutputNote(job.number, first, data, first == job.log.first), on_written)
        return True

    def on_assigned(self, job: Job) -> bool:
        return True

    def on_output(self, job: Job, data: bytes, stream: str) -> None:
        """Do nothing: it is in the log, too."""

    def on_logged(self, job: Job, kind: int, payload: bytes) -> None:
        """Do nothing: only an Executor's workers send these."""


def _first_of(answer: Callable[[str], None], why: str, _: bool) -> None:
    answer(why)


def _as_json(progress: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return None for values of a forged frame that JSON cannot hold (1e999): a job's end must not fail by them."""
    try:
        dump_json(progress)
    except (ValueError, RecursionError):
        return None
    return progress
