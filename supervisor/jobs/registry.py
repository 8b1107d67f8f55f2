"""All jobs that the server knows: live ones, and ended ones until retention drops them.

Runs in: supervisor. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from killable.supervisor.jobs.idempotency import IdempotencyKeys
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.retention import Retention
from killable.supervisor.models import JobRecord


class Registry:
    """Jobs by id, in order of submission. Live jobs are never dropped."""

    def __init__(
        self, *, keep_jobs: int, keep_bytes: int, keep_s: float, on_dropped: Callable[[Job], None] | None = None
    ) -> None:
        """`on_dropped` is called for each ended job that retention drops."""
        self.retention = Retention(keep_jobs=keep_jobs, keep_bytes=keep_bytes, keep_s=keep_s, drop=self._drop)
        self.idempotency_keys = IdempotencyKeys()
        self._on_dropped = on_dropped
        self._jobs: dict[str, Job] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job

    def skip_number(self, number: int) -> None:
        """Give no job this number: a row of the journal that was set aside had it."""
        self._numbers = max(self._numbers, number)

    def restore(self, job: Job) -> None:
        """Add a job of an earlier server run, which keeps its number."""
        self._numbers = max(self._numbers, job.number)
        self.add(job)

    def withdraw(self, job: Job) -> None:
        """Remove a job that was not accepted in the end."""
        self.retention.forget(job)
        self._jobs.pop(job.id, None)

    def get(self, job_id: str, tenant: str | None = None) -> Job:
        """Return a job, with `tenant` only one of its own. Raise Refused: unknown_job."""
        job = self._jobs.get(job_id)
        if job is None or tenant not in (None, job.submission.tenant):
            raise self.retention.unknown(job_id, tenant)
        return job

    def note_accepted(self, job: Job, record: JobRecord) -> None:
        """Remember the first answer to an idempotency key, as long as the job is kept."""
        if job.id in self._jobs:
            self.idempotency_keys.note(job.submission, record)

    def active(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.is_over]

    def has_active(self) -> bool:
        """Return whether any job is not over yet; the newest are checked first."""
        return any(not job.is_over for job in reversed(self._jobs.values()))

    def note_end(self, job: Job, now: float) -> None:
        """Hand an ended job to retention, which may drop it. A task of an Executor is removed at once."""
        if job.is_executor_task:
            del self._jobs[job.id]
            return
        self.retention.note_end(job, now)

    def _drop(self, job: Job) -> None:
        del self._jobs[job.id]
        self.idempotency_keys.forget(job)
        if self._on_dropped is not None:
            self._on_dropped(job)

    def matching(
        self, *, state: str | None, type: str | None, tag: tuple[str, str] | None, tenant: str | None = None
    ) -> Iterator[Job]:
        """Yield matching jobs, newest first. `state` is a public state or `active`; None matches any."""
        for job in reversed(self._jobs.values()):
            if state == "active" and job.is_over:
                continue
            if state not in (None, "active", job.public_state) or type not in (None, job.type.name):
                continue
            if tenant not in (None, job.submission.tenant):
                continue
            if tag is None or job.submission.tags.get(tag[0]) == tag[1]:
                yield job

    def page(
        self, *, state: str | None, type: str | None, tag: tuple[str, str] | None, limit: int, before: int | None,
        tenant: str | None = None,
    ) -> tuple[list[Job], int | None]:  # fmt: skip
        """Return the newest matching jobs below the number `before`, and the `before` of the next page.

        Stable: a job that comes or goes meanwhile does not shift the others.
        """
        found: list[Job] = []
        for job in self.matching(state=state, type=type, tag=tag, tenant=tenant):
            if before is not None and job.number >= before:
                continue
            if len(found) == limit:
                return found, found[-1].number
            found.append(job)
        return found, None
