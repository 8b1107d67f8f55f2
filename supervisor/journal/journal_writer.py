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

from killable.supervisor.jobs.job import Entry
from killable.supervisor.journal.journal import Journal
from killable.supervisor.journal.journal_file import Accepted, Amended, Dropped, Ended, Started
from killable.supervisor.models import Submission
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

KEPT_OF_SUBMISSION = tuple(f.name for f in fields(Submission) if f.name not in ("type", "input", "limits"))
"""Type and limits stand beside them as they are in force; the input lies apart."""
RETRY_AFTER_S = 5
"""Nobody knows when a full disk has room: not so soon that asking is all that the server does."""


class Chronicle:
    """Of one run of the server, on one boot of a machine."""

    def __init__(self, path: str, instance_id: str, boot: str) -> None:
        self.journal = Journal(path)
        """Its owner opens and closes it."""
        self.boot = boot
        self._instance_id = instance_id

    def accepted(self, entry: Entry, input: bytes, answer: Callable[[Refused | None], None]) -> None:
        """Have it written; `answer` is called when it is on disk, or with the reason to refuse the submission."""
        members = {
            "instance_id": self._instance_id,
            "created_at": entry.created_at,
            "type": entry.type.name,
            "codec": entry.type.codec,
            "limits": entry.limits.as_json(),
            "first_event": entry.log.first,
            "submission": {name: getattr(entry.submission, name) for name in KEPT_OF_SUBMISSION},
        }
        accepted = Accepted(entry.number, entry.id, dump_json(members), input)
        self.journal.accept(accepted, lambda why, is_known: answer(_refusal(why, is_known=is_known) if why else None))

    def begun(self, entry: Entry, at: str) -> None:
        """A worker has it."""
        members = {
            "instance_id": self._instance_id,
            "boot": self.boot,
            "at": at,
            "attempt": entry.attempts,
            "worker_id": entry.worker_id,
            "pid": entry.pid,
            "first_event": entry.log.first,
        }
        self.journal.note(Started(entry.number, dump_json(members)))

    def waits(self, entry: Entry) -> None:
        """Its attempt has ended, and it waits to be run again."""
        members = {"waits": True, "attempt": entry.attempts, "first_event": entry.log.first}
        self.journal.note(Started(entry.number, dump_json(members)))

    def ended(self, entry: Entry) -> None:
        """Its terminal event is in its log, which is sealed."""
        members = dump_json(self._end_of(entry))
        self.journal.note(Ended(entry.number, members, entry.result, entry.partial, entry.log))

    def amended(self, entry: Entry) -> None:
        """Its certificate has come to say more."""
        self.journal.note(Amended(entry.number, dump_json(self._end_of(entry))))

    def dropped(self, entry: Entry) -> None:
        self.journal.note(Dropped(entry.number))

    def _end_of(self, entry: Entry) -> dict[str, Any]:
        outcome = entry.outcome
        assert outcome is not None
        return {
            "instance_id": entry.instance_id or self._instance_id,
            "state": outcome.state,
            "code": outcome.code,
            "message": outcome.message,
            "facts": outcome.facts,
            "started_at": entry.started_at,
            "ended_at": entry.ended_at,
            "attempts": entry.attempts,
            "worker_id": entry.worker_id,
            "pid": entry.pid,
            "progress": _as_json(entry.progress),
            "certificate": entry.certificate,
            "first_event": entry.log.first,
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
