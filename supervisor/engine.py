"""The one way in: the protocol through which everything above reaches jobs and workers.

Runs in: supervisor. `Supervisor` implements it on this machine; nothing above it may assume one machine or one process.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from killable.supervisor.models import (
    BulkCancel,
    DrainProgress,
    JobEvent,
    JobRecord,
    JobType,
    PoolRecord,
    RetiredWorker,
    Submission,
    WorkerRecord,
)


class Engine(Protocol):
    """Every call answers at once or says for how long it may wait; all raise `Refused` with a code."""

    instance_id: str
    started_at: str

    async def submit(self, submission: Submission) -> JobRecord:
        """Queue or start a job. Raise Refused: unknown_job_type, limit_over_cap, queue_full, draining,
        idempotency_conflict, journal_failed.

        An idempotency key that came before: the first record again, as it was, marked `replayed`. Where there is a
        journal, the answer comes when the job is on disk.
        """
        ...

    async def get(self, job_id: str) -> JobRecord:
        """Raise Refused: unknown_job."""
        ...

    async def list(
        self, *, state: str | None = None, type: str | None = None, tag: tuple[str, str] | None = None,
        limit: int = 50, cursor: str | None = None,
    ) -> tuple[Sequence[JobRecord], str | None]:  # fmt: skip
        """Return the newest first and the next cursor. `state` may be `active`."""
        ...

    def events(self, job_id: str, after: int = -1, *, follow: bool = True) -> AsyncGenerator[Sequence[JobEvent], None]:
        """Yield what is ready, in batches, from the event after `after` to the terminal one, or, when not `follow`,
        to the last one that there is now. Raise Refused: unknown_job.

        A batch is never empty. A slow reader costs nothing but its own lag: the log holds every event, bounded by
        the job's `output_bytes`.
        """
        ...

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        """Return the record when the job has ended, or as it stands after `timeout_s`. Raise Refused: unknown_job."""
        ...

    async def cancel(
        self, job_id: str, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0
    ) -> JobRecord:
        """Stop a job and wait, at most `wait_s`, until its tree is gone; harmless to repeat.

        Returns the record: `cancelled`, or still `stopping`. An accepted cancel goes on when its caller leaves. A
        smaller `grace_s` shortens, a larger one is ignored. Raise Refused: unknown_job, already_ended (fact `record`).
        """
        ...

    async def cancel_matching(
        self, *, state: str | None = None, type: str | None = None, tag: tuple[str, str] | None = None,
        by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0, dry_run: bool = False,
    ) -> BulkCancel:  # fmt: skip
        """Cancel every job that matches and wait at most `wait_s` for all of them; none of them begins meanwhile.

        Without a `state` the active ones. `dry_run` only tells which they are.
        """
        ...

    async def workers(self) -> Sequence[WorkerRecord]: ...

    async def retired(self) -> Sequence[RetiredWorker]:
        """Return the latest workers that were not used again for what a job had left, latest first."""
        ...

    async def kill_worker(self, worker_id: str, *, reason: str = "", wait_s: float = 10.0) -> WorkerRecord:
        """Kill one worker, its job (if any) being cancelled by the operator. Raise Refused: unknown_worker."""
        ...

    async def job_types(self) -> Sequence[JobType]: ...

    async def pools(self) -> Sequence[PoolRecord]: ...

    async def ready(self) -> tuple[bool, Sequence[str]]:
        """Return whether any job can start, and everything that is degraded, in words."""
        ...

    async def counts(self) -> Mapping[str, Any]:
        """Return the counts since the start, percentiles of the latest values, and how things stand, as JSON has it."""
        ...

    async def exposition(self, *, openmetrics: bool) -> bytes:
        """Return the metrics as Prometheus' text, or as OpenMetrics."""
        ...

    async def drain(self, *, deadline_s: float | None = None) -> DrainProgress:
        """Take no new jobs. Accepted ones go on; what is left after `deadline_s` is cancelled with its own grace.

        Again: the deadline counts anew, or is taken away.
        """
        ...

    async def undrain(self) -> DrainProgress:
        """Take new jobs again. Raise Refused `draining` during a shutdown."""
        ...

    async def drained(self) -> DrainProgress:
        """Return how far the drain has come, whether or not there is one."""
        ...

    async def shutdown(
        self, *, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = ""
    ) -> DrainProgress:
        """Drain for `deadline_s`, then ask for the end of the server, which cancels what is left.

        `grace_s` shortens each job's own. Answers at once. Again: only hurries.
        """
        ...

    async def until_shutdown(self) -> None:
        """Wait until the server is to end: a shutdown was asked for, and its deadline is over or no job is left."""
        ...

    async def reader_came(self, job_id: str) -> None:
        """Count one more reader of the job's stream (`stop_when_client_leaves`)."""
        ...

    async def reader_left(self, job_id: str) -> None:
        """Count one reader less; the last one leaving cancels a job that asked for it."""
        ...
