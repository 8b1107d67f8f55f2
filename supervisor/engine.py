"""The only protocol through which the layers above reach jobs and workers.

Runs in: supervisor. `Supervisor` implements it on this machine; callers must not assume one machine or one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Unpack

from killable.supervisor.models import DEFAULT_TENANT, JobEvents, JobType, Submission, Wanted
from killable.supervisor.records import (
    BulkCancel,
    DrainProgress,
    JobCounts,
    JobRecord,
    NodeRecord,
    PoolRecord,
    Quota,
    ReloadRecord,
    RetiredWorker,
    TenantRecord,
    WorkerRecord,
)


class Scrapes(Protocol):
    """The metrics of an engine, read at the moment of each call."""

    async def counts(self) -> Mapping[str, Any]:
        """Return counts since the start, percentiles of the latest values, and current gauges, as JSON values."""
        ...

    async def exposition(self, *, openmetrics: bool) -> bytes:
        """Return the metrics in Prometheus' text format, or as OpenMetrics."""
        ...


class Engine(Protocol):
    """Every method returns at once or documents how long it may wait. All raise `Refused` with a code.

    With a journal, a job's end is on disk before `get`, `list`, `events`, `wait` and the refusal `already_ended` tell
    it: they wait for that, some seconds at most. What is told all the same is marked: `durable` is False. `cancel` and
    `cancel_matching` do not wait for it.
    """

    instance_id: str
    started_at: str

    async def count_submission(self, tenant: str, *, operator: bool = False, idempotency_key: str = "") -> Quota | None:
        """Count a submission before its body is read. Return what is left of the tenant's `submissions_per_s`; None:
        it has no such bound, or its key is known, and it starts nothing: of these as many may come beside the others.
        Raise Refused: too_many_submissions.
        """
        ...

    async def submit(self, submission: Submission, *, counted: bool = False) -> JobRecord:
        """Queue or start a job. Raise Refused: unknown_job_type, limit_over_cap, priority_over_max, tenant_queue_full,
        queue_full, deadline_unmeetable, draining, idempotency_conflict, journal_failed; too_many_submissions, if it was
        not `counted` by `count_submission` before.

        A repeated idempotency key returns the first record again, unchanged but marked `replayed`; not that of a job
        that was cancelled because its client had left. With a journal, the method returns when the job is on disk.
        """
        ...

    async def get(self, job_id: str, *, tenant: str | None = None, at_once: bool = False) -> JobRecord:
        """Return the record of a job. Raise Refused: unknown_job, also if it is of another tenant than this.

        `at_once`: also with an end that is not in the journal yet, of which the caller tells nobody.
        """
        ...

    async def list(
        self, *, limit: int = 50, cursor: str | None = None, **wanted: Unpack[Wanted]
    ) -> tuple[Sequence[JobRecord], str | None]:
        """Return matching jobs, newest first, and the next cursor. `state` may be `active`."""
        ...

    async def count(self, **wanted: Unpack[Wanted]) -> JobCounts:
        """Return how many jobs match."""
        ...

    def watch_jobs(self, *, limit: int = 50, after: int = -1, **wanted: Unpack[Wanted]) -> JobEvents:
        """Yield the list of matching jobs (`jobs`), then what changes: `job`, `gone`, `counts`, and `end` when the
        server ends. `after` is the id of the last event received; if that is known, only what has changed since comes.
        """
        ...

    def watch_workers(self, *, tenant: str | None = None, workers: bool = True) -> JobEvents:
        """Yield the state of workers, pools, queue and server (`now`), at once and then each second, and `end` when the
        server ends. With `tenant`, no job of others; without `workers` none of them, but what those of each pool use.
        """
        ...

    def events(self, job_id: str, after: int = -1, *, follow: bool = True) -> JobEvents:
        """Yield events in batches, from the one after `after` to the terminal one; without `follow`, to the latest one
        that there is now. Raise Refused: unknown_job.

        A batch is never empty. A slow reader delays only itself: the log holds every event, bounded by the job's
        `output_bytes`.
        """
        ...

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        """Return the record when the job has ended, or as it stands after `timeout_s`. Raise Refused: unknown_job."""
        ...

    async def cancel(
        self, job_id: str, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        key: str = "",
    ) -> JobRecord:  # fmt: skip
        """Stop a job and wait, at most `wait_s` seconds, until its process tree is gone. May be repeated.

        Return the record: `cancelled`, or still `stopping`. An accepted cancel goes on when its caller leaves. A
        smaller `grace_s` shortens, a larger one is ignored. Raise Refused: unknown_job, already_ended (fact `record`).
        """
        ...

    async def cancel_matching(
        self, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        dry_run: bool = False, key: str = "", **wanted: Unpack[Wanted],
    ) -> BulkCancel:  # fmt: skip
        """Cancel every matching job and wait at most `wait_s` seconds for all of them. None of them starts meanwhile.

        `state` defaults to `active`. `dry_run` only returns which jobs match.
        """
        ...

    async def workers(self) -> Sequence[WorkerRecord]: ...

    async def retired(self) -> Sequence[RetiredWorker]:
        """Return the latest workers that were not reused because of what a job left behind, latest first."""
        ...

    async def kill_worker(
        self, worker_id: str, *, reason: str = "", wait_s: float = 10.0, key: str = ""
    ) -> WorkerRecord:
        """Kill one worker; its job, if any, is cancelled by the operator. Raise Refused: unknown_worker."""
        ...

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the machines of a cluster; none where there is only this one."""
        ...

    async def drain_node(self, name: str, *, drains: bool = True, deadline_s: float | None = None) -> NodeRecord:
        """Give a node no more jobs, or again. What runs there goes on until `deadline_s`, and then ends as node_drained
        with its own grace. A repeated call restarts the deadline, or removes it. A drain that is remembered of a node
        that is not there can be ended. With a journal it is on disk when it is told. Raise Refused: unknown_node;
        journal_failed, if it holds only as long as this server.
        """
        ...

    async def job_types(self) -> Sequence[JobType]: ...

    async def pools(self) -> Sequence[PoolRecord]: ...

    async def ready(self, *, reasons: bool = False) -> tuple[bool, Sequence[str]]:
        """Return whether any job can start, and a text for everything that is degraded.

        `reasons`: also why a pool is as it is, which may quote confidential values.
        """
        ...

    @property
    def scraping(self) -> Scrapes:
        """What reads its metrics."""
        ...

    async def drain(self, *, deadline_s: float | None = None) -> DrainProgress:
        """Accept no new jobs. Accepted ones go on; those left after `deadline_s` are cancelled with their own grace.

        A repeated call restarts the deadline, or removes it.
        """
        ...

    async def undrain(self) -> DrainProgress:
        """Accept new jobs again. Raise Refused: draining, during a shutdown."""
        ...

    async def drained(self) -> DrainProgress:
        """Return the progress of the drain, also when there is none."""
        ...

    async def shutdown(
        self, *, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = ""
    ) -> DrainProgress:
        """Drain for `deadline_s` seconds, then request the end of the server, which cancels what is left.

        `grace_s` shortens each job's own grace. Returns at once. A repeated call can only shorten both.
        """
        ...

    async def until_shutdown(self) -> None:
        """Wait until the server is to end: a shutdown was requested, and its deadline is over or no job is left."""
        ...

    async def reload(self, *, wait_s: float | None = None) -> ReloadRecord:
        """Roll all pools over to the code as it is now, or none of them. New workers are warm, and their job types
        checked, before they get the jobs that wait; running jobs keep their code. Return the record when that is done
        or has failed, or after `wait_s`. Another call replaces one that still loads.

        Raise Refused: reload_failed, also where the jobs run on the nodes of a cluster; draining, during a shutdown.
        """
        ...

    async def reloaded(self, *, wait_s: float = 0.0) -> ReloadRecord:
        """Return the record of the latest reload when it is over, or as it stands after `wait_s`."""
        ...

    async def changed_files(self) -> Sequence[str]:
        """Return the files of the user's own code that are not as they were when they were loaded."""
        ...

    async def tenants(
        self, tenant: str | None = None, *, is_operator: Callable[[str], bool] = lambda _: False
    ) -> Sequence[TenantRecord]:
        """Return what each tenant has now beside its bounds, or only this one. `is_operator`: by its name."""
        ...

    async def reader_came(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, operator: bool = False, watches: bool = False,
        counted: bool = True,
    ) -> None:  # fmt: skip
        """Count one more reader of the job, and, if `counted`, one more stream of the reader's tenant. Without a job,
        only that. `watches`: its leaving does not matter to the job. Raise Refused: unknown_job, too_many_streams.
        """
        ...

    async def reader_left(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, watches: bool = False, counted: bool = True
    ) -> bool:
        """Count one reader less. The last one that leaves cancels a job with `stop_when_client_leaves`, unless it only
        watched. Return whether this one did.
        """
        ...
