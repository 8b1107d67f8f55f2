"""Idempotency keys: the first answer to each, and the refusal of the same key with another request.

Runs in: supervisor. Does no I/O.
"""

from __future__ import annotations

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import JobRecord, Submission
from killable.workers.errors import Refused


class IdempotencyKeys:
    """The keys of accepted jobs. A key is remembered as long as its job is kept."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[str, JobRecord]] = {}
        """Digest of the request and first answer, by tenant and key."""

    def __len__(self) -> int:
        return len(self._answers)

    def first_answer(self, submission: Submission) -> JobRecord | None:
        """Return the first answer to this submission's key, if that job is still kept.

        Raise Refused: idempotency_conflict, for the same key with another request.
        """
        first = self._answers.get((submission.tenant, submission.idempotency_key))
        if first is None:
            return None
        digest, record = first
        check_same_request(submission, digest, record.job_id)
        return record

    def note(self, submission: Submission, record: JobRecord) -> None:
        """Remember the answer to an accepted submission, if it has a key."""
        if submission.idempotency_key:
            self._answers[submission.tenant, submission.idempotency_key] = (submission.body_digest, record)

    def forget(self, job: Job) -> None:
        """Forget the key of a job that is no longer kept, unless the key belongs to another job by now."""
        key = job.submission.tenant, job.submission.idempotency_key
        _, record = self._answers.get(key, ("", None))
        if record is not None and record.job_id == job.id:
            del self._answers[key]


def check_same_request(submission: Submission, digest: str, job_id: str) -> None:
    """Raise Refused: idempotency_conflict, when the key's first request had another digest."""
    if digest != submission.body_digest:
        raise Refused(
            "this Idempotency-Key was used for another request; use a new key for a new request",
            code="idempotency_conflict",
            job_id=job_id,
        )
