"""What the journal is told of each job: accepted, begun, waiting to be run again, over, dropped.

Runs in: supervisor; nothing here waits, and only whoever submits waits for the disk. An Executor has none.

What is told last may be lost with the server: a start or an end of its last milliseconds, or of all the time in which
the disk took nothing. Such a job is run once more, or ends `supervisor_lost` though it had ended. Only what is accepted
is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.journal.journal import Journal
from killable.supervisor.journal.journal_file import AcceptedNote, AmendedNote, DroppedNote, EndedNote, StartedNote
from killable.supervisor.models import Submission
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

KEPT_OF_SUBMISSION = tuple(f.name for f in fields(Submission) if f.name not in ("type", "input", "limits"))
"""Type and limits stand beside them as they are in force; the input lies apart."""
RETRY_AFTER_S = 5
"""Nobody knows when a full disk has room: not so soon that asking is all that the server does."""


class JournalWriter:
    """Of one run of the server, on one boot of a machine."""

    def __init__(self, path: str, instance_id: str, boot: str) -> None:
        self.journal = Journal(path)
        """Its owner opens and closes it."""
        self.boot = boot
        self._instance_id = instance_id

    def accepted(self, job: Job, input: bytes, answer: Callable[[Refused | None], None]) -> None:
        """Have it written; `answer` is called when it is on disk, or with the reason to refuse the submission."""
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
        """A worker has it."""
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
        """Its attempt has ended, and it waits to be run again."""
        members = {"waits": True, "attempt": job.attempts, "first_event": job.log.first}
        self.journal.note(StartedNote(job.number, dump_json(members)))

    def ended(self, job: Job) -> None:
        """Its terminal event is in its log, which is sealed."""
        members = dump_json(self._end_of(job))
        self.journal.note(EndedNote(job.number, members, job.result, job.partial, job.log))

    def amended(self, job: Job) -> None:
        """Its certificate has come to say more."""
        self.journal.note(AmendedNote(job.number, dump_json(self._end_of(job))))

    def dropped(self, job: Job) -> None:
        self.journal.note(DroppedNote(job.number))

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
    """`is_known`: it is not in the journal."""
    known = "what is accepted has to survive the server, so nothing is until it works again"
    unknown = (
        "it is not known whether the job is in there and will be run: repeat it with the same Idempotency-Key, or look "
        "for it in the list first"
    )
    facts = {} if is_known else {"is_accepted": "unknown"}
    message = f"the journal cannot be written: {why}; {known if is_known else unknown}"
    return Refused(message, code="journal_failed", retry_after_s=RETRY_AFTER_S, **facts)


def _as_json(progress: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave out what a forged frame can hold and JSON cannot (1e999): the end of a job must not fail by it."""
    try:
        dump_json(progress)
    except (ValueError, RecursionError):
        return None
    return progress
