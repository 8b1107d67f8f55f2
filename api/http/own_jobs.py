"""The engine for a key that sees its own jobs only: in every call the job of another key is unknown.

Runs in: api. Implements `supervisor/engine.Engine`. Routes get it in place of the engine, so none can forget to ask
whose a job is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, Unpack

from killable.supervisor.engine import Engine, Scrapes
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
from killable.workers.errors import Refused

NOBODY = ""
"""The name of no tenant."""


class OwnJobs:
    """An engine with the jobs of one tenant. What is about all jobs raises Refused `forbidden`."""

    def __init__(self, engine: Engine, tenant: str) -> None:
        self.instance_id, self.started_at = engine.instance_id, engine.started_at
        self._engine = engine
        self._tenant = tenant

    # ── jobs ──

    async def count_submission(self, tenant: str, *, operator: bool = False, idempotency_key: str = "") -> Quota | None:
        assert tenant == self._tenant, tenant
        return await self._engine.count_submission(tenant, operator=operator, idempotency_key=idempotency_key)

    async def submit(self, submission: Submission, *, counted: bool = False) -> JobRecord:
        assert submission.tenant == self._tenant, submission.tenant
        return await self._engine.submit(submission, counted=counted)

    async def get(self, job_id: str, *, tenant: str | None = None, at_once: bool = False) -> JobRecord:
        return await self._engine.get(job_id, tenant=self._tenant, at_once=at_once)

    async def list(
        self, *, limit: int = 50, cursor: str | None = None, **wanted: Unpack[Wanted]
    ) -> tuple[Sequence[JobRecord], str | None]:
        return await self._engine.list(limit=limit, cursor=cursor, **self._own(wanted))

    async def count(self, **wanted: Unpack[Wanted]) -> JobCounts:
        return await self._engine.count(**self._own(wanted))

    def watch_jobs(self, *, limit: int = 50, after: int = -1, **wanted: Unpack[Wanted]) -> JobEvents:
        return self._engine.watch_jobs(limit=limit, after=after, **self._own(wanted))

    def watch_workers(self, *, tenant: str | None = None, workers: bool = True) -> JobEvents:
        return self._engine.watch_workers(tenant=self._tenant, workers=workers)

    def _own(self, wanted: Wanted) -> Wanted:
        """Return the filters with its own jobs only. Of another tenant it sees none."""
        asked = wanted.get("tenant")
        return {**wanted, "tenant": self._tenant if asked in (None, self._tenant) else NOBODY}

    async def events(self, job_id: str, after: int = -1, *, follow: bool = True) -> JobEvents:
        await self.get(job_id, at_once=True)
        async for batch in self._engine.events(job_id, after, follow=follow):
            yield batch

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        await self.get(job_id, at_once=True)
        return await self._engine.wait(job_id, timeout_s)

    async def cancel(
        self, job_id: str, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        key: str = "",
    ) -> JobRecord:  # fmt: skip
        await self.get(job_id, at_once=True)
        return await self._engine.cancel(job_id, by=by, reason=reason, grace_s=grace_s, wait_s=wait_s, key=key)

    async def cancel_matching(
        self, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        dry_run: bool = False, key: str = "", **wanted: Unpack[Wanted],
    ) -> BulkCancel:  # fmt: skip
        return await self._engine.cancel_matching(
            by=by, reason=reason, grace_s=grace_s, wait_s=wait_s, dry_run=dry_run, key=key, **self._own(wanted)
        )

    async def tenants(
        self, tenant: str | None = None, *, is_operator: Callable[[str], bool] = lambda _: False
    ) -> Sequence[TenantRecord]:
        return await self._engine.tenants(self._tenant, is_operator=is_operator)

    async def reader_came(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, operator: bool = False, watches: bool = False,
        counted: bool = True,
    ) -> None:  # fmt: skip
        await self._engine.reader_came(job_id, tenant, operator=operator, watches=watches, counted=counted)

    async def reader_left(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, watches: bool = False, counted: bool = True
    ) -> bool:
        return await self._engine.reader_left(job_id, tenant, watches=watches, counted=counted)

    # ── workers ──

    async def workers(self) -> Sequence[WorkerRecord]:
        return [
            worker
            if worker.job_id is None or await self._has(worker.job_id)
            else worker._replace(job_id=None, type=None, attempt=None)
            for worker in await self._engine.workers()
        ]

    async def retired(self) -> Sequence[RetiredWorker]:
        return [worker for worker in await self._engine.retired() if await self._has(worker.job_id)]

    async def _has(self, job_id: str) -> bool:
        try:
            await self.get(job_id)
        except Refused:
            return False
        return True

    # ── the server ──

    async def nodes(self) -> Sequence[NodeRecord]:
        return await self._engine.nodes()

    async def job_types(self) -> Sequence[JobType]:
        return await self._engine.job_types()

    async def pools(self) -> Sequence[PoolRecord]:
        return await self._engine.pools()

    async def ready(self, *, reasons: bool = False) -> tuple[bool, Sequence[str]]:
        return await self._engine.ready(reasons=reasons)

    # ── what is about all jobs ──

    @property
    def scraping(self) -> Scrapes:
        refuse_whole_server()

    async def kill_worker(
        self, worker_id: str, *, reason: str = "", wait_s: float = 10.0, key: str = ""
    ) -> WorkerRecord:
        refuse_whole_server()

    async def drain_node(self, name: str, *, drains: bool = True, deadline_s: float | None = None) -> NodeRecord:
        refuse_whole_server()

    async def drain(self, *, deadline_s: float | None = None) -> DrainProgress:
        refuse_whole_server()

    async def undrain(self) -> DrainProgress:
        refuse_whole_server()

    async def drained(self) -> DrainProgress:
        refuse_whole_server()

    async def shutdown(
        self, *, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = ""
    ) -> DrainProgress:
        refuse_whole_server()

    async def until_shutdown(self) -> None:
        refuse_whole_server()

    async def reload(self, *, wait_s: float | None = None) -> ReloadRecord:
        refuse_whole_server()

    async def reloaded(self, *, wait_s: float = 0.0) -> ReloadRecord:
        refuse_whole_server()

    async def changed_files(self) -> Sequence[str]:
        refuse_whole_server()


WHOLE_SERVER = "This is about the jobs of all keys; this key sees its own only (visibility own)"


def refuse_whole_server() -> NoReturn:
    raise Refused(WHOLE_SERVER, code="forbidden")
