"""Writes what happens to each job to the journal: accepted, begun, waiting for a retry, over, dropped.

Runs in: supervisor; nothing here blocks, and only a submission waits for the disk. An Executor has no journal.

The latest notes may be lost with the server: a start or an end in its last milliseconds, or in all the time in which
the disk took nothing. Such a job is run once more, or ends `supervisor_lost` although it had ended. Only an acceptance
is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.journal.journal import Journal
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    AmendedNote,
    DroppedNote,
    EndedNote,
    ReducedNote,
    StartedNote,
)
from killable.supervisor.models import Submission
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

KEPT_OF_SUBMISSION = tuple(f.name for f in fields(Submission) if f.name not in ("type", "input", "limits"))
"""Type and limits are stored beside them, as they are in force; the input is stored as a piece."""
RETRY_AFTER_S = 5
"""When a full disk has room again is unknown; sooner retries would only load the server."""


class JournalWriter:
    """Writes the journal of one server run, on one boot of a machine."""

    def __init__(self, path: str, instance_id: str, boot: str) -> None:
        self.journal = Journal(path)
        """Opened and closed by the writer's owner."""
        self.boot = boot
        self._instance_id = instance_id

    def accepted(self, job: Job, input: bytes, answer: Callable[[Refused | None], None]) -> None:
        """Write a new job; `answer` gets None when it is on disk, else the refusal of the submission."""
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
        self.journal.accept(accepted, lambda why, is_known: answer(_refusal(why, is_known=is_known) if why else None))

    def begun(self, job: Job, at: str) -> None:
        """Record that a worker has the job."""
        members = {
            "instance_id": self._instance_id,
            "boot": self.boot,
            "at": at,
            "attempt": job.attempts,
            "worker_id": job.worker_id,
            "pid": job.pid,
            "first_event": job.log.first,
        }
        self.journal.note(StartedNote(job.number, dump_json(members)))

    def waits(self, job: Job) -> None:
        """Record that an attempt has ended and the job waits for a retry."""
        members = {"waits": True, "attempt": job.attempts, "first_event": job.log.first}
        self.journal.note(StartedNote(job.number, dump_json(members)))

    def ended(self, job: Job) -> None:
        """Record the end of a job, whose log is sealed and ends with the terminal event."""
        members = dump_json(self._end_of(job))
        self.journal.note(EndedNote(job.number, members, job.result, job.partial, job.log))

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
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "attempts": job.attempts,
            "worker_id": job.worker_id,
            "pid": job.pid,
            "progress": _as_json(job.progress),
            "certificate": job.certificate,
            "first_event": job.log.first,
        }


def _refusal(why: str, *, is_known: bool) -> Refused:
    """Return the refusal of a submission. `is_known`: the job is certainly not in the journal."""
    known = "no job is accepted until writing works again"
    unknown = (
        "it is not known whether the job was written and will be run: repeat it with the same Idempotency-Key, or look "
        "for it in the list of jobs first"
    )
    facts = {} if is_known else {"is_accepted": "unknown"}
    message = f"the journal cannot be written: {why}; {known if is_known else unknown}"
    return Refused(message, code="journal_failed", retry_after_s=RETRY_AFTER_S, **facts)


def _as_json(progress: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return None for values of a forged frame that JSON cannot hold (1e999): a job's end must not fail by them."""
    try:
        dump_json(progress)
    except (ValueError, RecursionError):
        return None
    return progress
