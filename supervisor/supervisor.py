"""The supervisor as the layers above see it: accepts or refuses jobs, waits for their ends, reports their state.

Runs in: supervisor. Implements `engine.Engine` on this machine; `dispatcher` runs and ends the jobs.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from killable.supervisor.clock import Clock
from killable.supervisor.dispatch.admission import Admission
from killable.supervisor.dispatch.dispatcher import Dispatcher
from killable.supervisor.dispatch.drain import Drain
from killable.supervisor.jobs.callbacks import Callbacks
from killable.supervisor.jobs.durable_ends import DurableEnds, undurable_end, visible
from killable.supervisor.jobs.event_log import BYTES_PER_BATCH, EVENTS_PER_BATCH, EventLog
from killable.supervisor.jobs.job import Job, JobListener
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.job_queue import QueueFull
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.jobs.tenants import Tenants
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.instance_id import boot_id, host_name, random_id
from killable.supervisor.models import DEFAULT_TENANT, JobEvents, JobType, StartRefused, Submission, Verdict, Wanted
from killable.supervisor.pools.lane import Given, LaneHolder
from killable.supervisor.pools.start_failures import with_error_line
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.ports import SpawnerFactory
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
from killable.supervisor.settings import Settings
from killable.supervisor.telemetry.observer import Observer
from killable.supervisor.telemetry.readiness import readiness
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.dispatch.reload import CheckTypes, Reload
    from killable.supervisor.dispatch.stream_readers import StreamReaders
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.journal.job_notes import JobNotes, JournalFactory
    from killable.supervisor.journal.journal_file import JournalRow
    from killable.supervisor.pools.fleet import Fleet
    from killable.supervisor.pools.pool_protocols import RemotePools
    from killable.supervisor.telemetry.scraping import Scraping
    from killable.supervisor.telemetry.watches import Watches
    from killable.workers.protocol.zygote_messages import SourceFile

logger = logging.getLogger("killable.jobs")


class Supervisor:
    """One per process. Everything runs in the event loop in which `start` was awaited."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_spawner: SpawnerFactory | None = None,
        open_journal: JournalFactory | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        lane_holder: LaneHolder | None = None,
        early_guard: EarlyGuard | None = None,
        remote_pools: RemotePools | None = None,
    ) -> None:
        """`lane_holder` (the Executor) may give idle workers calls, in any thread. `early_guard` is the first guard of
        the only pool, if it is started already. `remote_pools` has the pools if they are not on this machine.
        """
        self.files: FileStore | None = None
        if settings.has_files and remote_pools is None:
            from killable.supervisor.files.file_store import FileStore  # here: an Executor has none

            self.files = FileStore(settings)
            with_files = tuple(spec._replace(files=self.files.root) for spec in settings.pools)
            settings = replace(settings, pools=with_files)
        self.settings = settings
        self.instance_id = random_id()
        self.started_at = ""
        self._open_spawner = open_spawner
        self._journal_factory = open_journal
        self._given_clock = clock
        self._early_guard = early_guard
        self._drain = Drain()
        self._job_notes: JobNotes | None = None
        self._tenants = Tenants(
            settings.tenants, queue_jobs_max=settings.queue_jobs_max, queue_bytes_max=settings.queue_bytes_max
        )
        self._registry = Registry(
            settings, self._tenants, on_dropped=self._on_dropped, on_forgotten=self._on_key_forgotten
        )
        self._observer = seen = observer or Observer()
        self.jobs = Dispatcher(settings, self._registry, self._drain, seen, lane_holder, remote_pools, self.files)
        self._fleet = self.jobs.fleet
        self._remote_pools = remote_pools
        self._admission = Admission(self.jobs, self._registry, self._drain, seen, self._record, self.files)
        self.check_types: CheckTypes = lambda pools, types: None
        """What new code must pass, as the code at the start had to."""
        self.on_submission: Callable[[], None] = lambda: None
        """Called at each submission."""
        self._reload: Reload | None = None
        self._closing = False
        self._ending: asyncio.Future[None] | None = None

    async def start(self, check: Callable[[], Awaitable[None]] | None = None) -> None:
        """Start every pool and wait until each is ready or broken; then restore the jobs of the journal, if any.

        `check` runs between the two and may refuse the start, while those jobs are still untouched. Raise OSError,
        StartRefused, and what `check` raises.
        """
        self._clock = self._given_clock or Clock(asyncio.get_running_loop())
        self.started_at, self._started = self._clock.wall(), self._clock.now()
        self._observer.on_start(self._clock)
        rows: Sequence[JournalRow] = ()
        try:
            if self.settings.journal:
                rows = await self._open_journal(self.settings.journal)
            if self.files is not None:
                await self.files.open(self._clock)
            self._ends = DurableEnds(self._clock, None if self._job_notes is None else self._job_notes.journal)
            self.jobs.start(self._clock, self._job_notes)
            self._admission.start(self._clock, self._job_notes)
            self._registry.retention.start(self._clock)
            if self._job_notes is not None and self._remote_pools is not None:
                self._remote_pools.remember(self._job_notes)
            await self._fleet.start(self._clock, self._open_spawner, self.instance_id, self._early_guard)
            if check is not None:
                await check()
            if self._job_notes is not None:
                await self._restore(rows, self._job_notes)
        except StartRefused:
            await self.close()
            raise

    async def _open_journal(self, path: str) -> Sequence[JournalRow]:
        from killable.supervisor.journal.job_notes import JobNotes
        from killable.supervisor.journal.journal_thread import Journal

        journal = (self._journal_factory or Journal)(path, self.jobs.on_journal_works)
        has_output = self.settings.journal_output
        self._job_notes = JobNotes(journal, self.instance_id, boot_id(), has_output=has_output)
        return await journal.open()

    async def _restore(self, rows: Sequence[JournalRow], job_notes: JobNotes) -> None:
        from killable.supervisor.dispatch.recovery import restore

        remote = self._remote_pools
        if remote is not None:
            left = [row for row in rows if row.ended is None]
            running = [row.started for row in left if row.started is not None and "node" in row.started]
            await remote.look_for(running, {row.accepted["type"] for row in left if "type" in row.accepted})
        await restore(
            rows,
            files=self.files,
            jobs=self.jobs,
            registry=self._registry,
            job_notes=job_notes,
            clock=self._clock,
            remote=remote,
        )
        if remote is not None:
            remote.settle()

    def _on_dropped(self, job: Job, has_key: bool) -> None:
        self._observer.on_dropped(job)
        if self.files is not None and (job.submission.files or job.files):
            self.files.job_dropped(job.id, job.files_folder)
        if self._job_notes is None:
            return
        if has_key:
            self._job_notes.reduced(job)
        else:
            self._job_notes.dropped(job.number)

    def _on_key_forgotten(self, number: int, early: bool) -> None:
        if early:
            self._observer.on_key_forgotten()
        if self._job_notes is not None:
            self._job_notes.dropped(number)

    async def until_warm(self) -> None:
        """Wait until every pool with spares has had a ready worker, or is broken."""
        await self._fleet.until_warm()

    async def close(self, grace_s: float | None = None, cause: Verdict | None = None) -> None:
        """End all jobs, each with its own grace period or `grace_s`, and return when nothing is left.

        They are cancelled, or end by another `cause`. May be called again, also concurrently: a smaller `grace_s` then
        shortens the grace of jobs that still run.

        With a journal, a head that another one has replaced ends no jobs, and tells no end: they are the other one's.
        """
        self._closing = True
        if self._reload is not None:
            await self._reload.close()
        self._drain.shut_down(grace_s)
        self._drain.set_due()
        self.jobs.close()
        why = self._drain.reason or "the server is shutting down"
        active = () if self.leaves_jobs else self.jobs.stop_all(why, self._drain.grace_s, cause)
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(active))
        await asyncio.shield(self._ending)  # one caller may be cancelled while another waits on

    async def _end(self, active: Sequence[Job]) -> None:
        for job in active:
            await self._wait_for_end(job, None)
        if "_watches" in vars(self):
            self._watches.close()
        try:
            await self._fleet.close()
        finally:
            self._registry.retention.close()
            if self.files is not None:
                await self.files.close()
            if self._job_notes is not None:
                await self._job_notes.journal.close()

    def close_in_child(self) -> None:
        """Close inherited descriptors in a fork of this process; everything else belongs to the parent."""
        self._fleet.close_in_child()

    # ── Engine: jobs ──

    async def count_submission(self, tenant: str, *, operator: bool = False, idempotency_key: str = "") -> Quota | None:
        known = self._admission.knows(tenant, idempotency_key)
        try:
            return self._tenants.count_submission(tenant, self._clock.now(), operator=operator, known=known)
        except Refused as refused:
            self._observer.on_refused(Submission("", b"", tenant=tenant), refused)
            raise

    async def submit(self, submission: Submission, *, counted: bool = False) -> JobRecord:
        if not counted:
            tenant, key = submission.tenant, submission.idempotency_key
            await self.count_submission(tenant, operator=submission.operator, idempotency_key=key)
        self.on_submission()
        return await self._admission.submit(submission)

    # ── for an Executor: called in the loop's thread, never waits ──

    def type(self, name: str) -> JobType:
        """Return a job type. Raise Refused: unknown_job_type."""
        return self._fleet.type(name)

    def call(
        self, job_id: str, job_type: JobType, submission: Submission, in_force: Limits, listener: JobListener,
        given: Given | None = None, *, since: float,
    ) -> Job:  # fmt: skip
        """Queue or start a task that was submitted at `since`. If it was `given`, a worker has it already."""
        job = self._admission.enter(job_id, job_type, submission, in_force, listener, since, is_executor_task=True)
        self._observer.on_submitted(job)
        if given is None:
            self.jobs.enqueue(job)
        else:
            self.jobs.adopt(job, given)
        return job

    def run(
        self, job_id: str, job_type: JobType, submission: Submission, in_force: Limits, listener: JobListener, *,
        log: EventLog, attempts: int, since: float, waits_since: float, checkpoint: bytes | None = None,
    ) -> Job:  # fmt: skip
        """Queue or start a job that another supervisor has accepted at `since`, and that waits since `waits_since`.

        Its events go into `log`; so many `attempts` have ended, and left this `checkpoint`.
        """
        self._registry.make_way(job_id)
        job = self._admission.enter(job_id, job_type, submission, in_force, listener, since, log=log)
        job.queued, job.attempts, job.partial, job.is_of_head = waits_since, attempts, checkpoint, True
        self.jobs.enqueue(job)
        return job

    def lease(self, until: float) -> None:
        """Have everything end at this time, in CLOCK_BOOTTIME seconds, also if this process is frozen. A later call
        replaces it.
        """
        self._fleet.lease(until)

    def pool_details(self) -> str:
        """Return how the pools deviate from their settings, and why the broken ones are broken; empty: neither."""
        details = [pool.detail for pool in self._fleet]
        return "\n".join(with_error_line(detail) for detail in details if detail)

    def why_broken(self) -> str:
        """Return why no job can start, as the broken pools report it; empty when no pool is broken."""
        return "\n".join(with_error_line(pool.detail) for pool in self._fleet.pool_records() if pool.state == "broken")

    async def get(self, job_id: str, *, tenant: str | None = None, at_once: bool = False) -> JobRecord:
        job = self._registry.get(job_id, tenant)
        return self._record(job) if at_once else await self._told(job)

    async def list(
        self, *, limit: int = 50, cursor: str | None = None, **wanted: Unpack[Wanted]
    ) -> tuple[Sequence[JobRecord], str | None]:
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise Refused("the cursor is not valid", code="invalid", parameter="cursor")
        before = None if cursor is None else int(cursor)
        await self._registry.search(filter := JobFilter.of(**wanted))
        page, following = self._registry.page(filter, limit, before)
        return [await self._told(job) for job in page], None if following is None else str(following)

    async def count(self, **wanted: Unpack[Wanted]) -> JobCounts:
        await self._registry.search(filter := JobFilter.of(**wanted))
        return self._registry.count(filter)

    def watch_jobs(self, *, limit: int = 50, after: int = -1, **wanted: Unpack[Wanted]) -> JobEvents:
        return self._watches.jobs.read(JobFilter.of(**wanted), limit, after)

    def watch_workers(self, *, tenant: str | None = None, workers: bool = True) -> JobEvents:
        return self._watches.workers.read(tenant, workers=workers)

    @functools.cached_property
    def _watches(self) -> Watches:
        from killable.supervisor.linux.procfs import own_use  # all of this only when one reads
        from killable.supervisor.telemetry.watches import Watches

        return Watches(
            self._fleet, self.jobs.job_queue, self._registry, self._observer, self._clock, started=self._started,
            is_draining=lambda: self._drain.draining, remote_pools=self._remote_pools, record_of=self._record,
            disk=None if self._job_notes is None else self._job_notes.journal, own_use=own_use, node=host_name(),
        )  # fmt: skip

    async def events(self, job_id: str, after: int = -1, *, follow: bool = True) -> JobEvents:
        job = self._registry.get(job_id)
        while True:
            batch = visible(job, job.log.read(after, EVENTS_PER_BATCH, BYTES_PER_BATCH))
            if batch:
                after = batch[-1].id
                yield batch
                if after < len(job.log) - 1:
                    await wakeup_turns().turn(job_id)
            elif job.durable is False:
                await self._ends.until_durable(job)
                if job.durable is False and not visible(job, job.log.read(after, 1)):
                    if after < len(job.log) - 1:
                        yield [undurable_end(job, after + 1)]
                    return
            elif job.is_over or not follow:
                return
            else:
                await job.changed()

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        job = self._registry.get(job_id)
        give_up = None if timeout_s is None else self._clock.now() + timeout_s
        await self._wait_for_end(job, timeout_s)
        await self._ends.until_durable(job, give_up)
        return self._record(job)

    async def cancel(
        self, job_id: str, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        key: str = "",
    ) -> JobRecord:  # fmt: skip
        job = self._registry.get(job_id)
        self.jobs.stop(job, Verdict("cancelled", by=by, reason=reason, key=key), grace_s)
        await self._wait_for_end(job, wait_s, is_urgent=True)
        if job.is_over and job.state is not State.CANCELLED:
            record = await self._told(job)
            raise Refused(f"the job had ended: {record.state}", code="already_ended", record=record)
        return self._record(job)  # whoever wanted it dead hears at once that it is; the record says if it is on disk

    def send_ends_by(self, callbacks: Callbacks) -> None:
        """Have the ends of jobs that have an address sent. To be called before `start`: those of the journal, too."""
        self.jobs.callbacks = callbacks

    def note_callback(self, job_id: str, state: str, attempts: int, detail: str) -> None:
        """Keep what became of a job's webhook in its record, and in the journal; nothing if the job is not kept."""
        try:
            job = self._registry.get(job_id)
        except Refused:
            return
        job.callback = {"state": state, "attempts": attempts, "detail": detail}
        if self._job_notes is not None and job.is_over and self._registry.keeps(job):
            self._job_notes.amended(job)

    async def cancel_matching(
        self, *, by: str = "user", reason: str = "", grace_s: float | None = None, wait_s: float = 10.0,
        dry_run: bool = False, key: str = "", **wanted: Unpack[Wanted],
    ) -> BulkCancel:  # fmt: skip
        wanted["state"] = wanted.get("state") or "active"
        await self._registry.search(filter := JobFilter.of(**wanted))
        matching = list(self._registry.matching(filter))
        if dry_run:
            return BulkCancel(tuple((job.id, job.public_state) for job in matching))
        verdict = Verdict("cancelled", by=by, reason=reason, key=key)
        self.jobs.stop_jobs(matching, verdict, grace_s)
        await self.jobs.bulk_stop.ended()
        give_up = self._clock.now() + wait_s
        for job in matching:
            await self._wait_for_end(job, max(0.0, give_up - self._clock.now()), is_urgent=True)
        statuses = tuple((job.id, job.cancel_status) for job in matching)
        return BulkCancel(statuses, tuple(job.durable for job in matching))

    async def tenants(
        self, tenant: str | None = None, *, is_operator: Callable[[str], bool] = lambda _: False
    ) -> Sequence[TenantRecord]:
        asked = self._registry.known_tenants() if tenant is None else [tenant]
        return self._registry.tenant_records(asked, is_operator)

    @functools.cached_property
    def _readers(self) -> StreamReaders:
        from killable.supervisor.dispatch.stream_readers import StreamReaders  # an Executor has none

        return StreamReaders(self._registry, self._tenants, self._observer, self.jobs)

    async def reader_came(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, operator: bool = False, watches: bool = False,
        counted: bool = True,
    ) -> None:  # fmt: skip
        self._readers.came(job_id, tenant, operator=operator, watches=watches, counted=counted)

    async def reader_left(
        self, job_id: str | None, tenant: str = DEFAULT_TENANT, *, watches: bool = False, counted: bool = True
    ) -> bool:
        return self._readers.left(job_id, tenant, watches=watches, counted=counted)

    # ── Engine: workers, types, pools, the server itself ──

    async def workers(self) -> Sequence[WorkerRecord]:
        return await self._fleet.worker_records()

    async def retired(self) -> Sequence[RetiredWorker]:
        return await self._fleet.retired_workers()

    async def kill_worker(
        self, worker_id: str, *, reason: str = "", wait_s: float = 10.0, key: str = ""
    ) -> WorkerRecord:
        pool, worker = self._fleet.worker(worker_id)
        worker.revoke_lane()  # a call that it was given through it becomes an attempt
        if worker.attempt is not None:
            job = worker.attempt.job
            reason = reason or "its worker was killed"
            self.jobs.stop(job, Verdict("cancelled", by="operator", reason=reason, key=key), 0.0)
            await self._wait_for_end(job, wait_s, is_urgent=True)
        elif worker.stage is not WorkerStage.QUARANTINED:
            pool.kill_idle(worker)
            await worker.until_gone(wait_s)
        return await self._fleet.worker_record(worker)

    @property
    def is_deposed(self) -> bool:
        """Whether another head has taken this one's nodes over, which ends it."""
        return self._remote_pools is not None and self._remote_pools.is_deposed

    @property
    def leaves_jobs(self) -> bool:
        """Whether its jobs go on under the head that has its nodes now, which has its journal, too; or wait for it to
        be started again.
        """
        return self.is_deposed and self._job_notes is not None

    async def nodes(self) -> Sequence[NodeRecord]:
        return () if self._remote_pools is None else self._remote_pools.node_records()

    async def drain_node(self, name: str, *, drains: bool = True, deadline_s: float | None = None) -> NodeRecord:
        if self._remote_pools is None:
            raise Refused("this server has no nodes: it is one machine", code="unknown_node", node=name)
        return await self._remote_pools.drain_node(name, drains=drains, deadline_s=deadline_s)

    async def job_types(self) -> Sequence[JobType]:
        return self._fleet.types()

    async def pools(self) -> Sequence[PoolRecord]:
        return self._fleet.pool_records()

    async def ready(self, *, reasons: bool = False) -> tuple[bool, Sequence[str]]:
        from killable.supervisor.telemetry import loop_turns

        queue_full = ""
        try:
            self.jobs.job_queue.check(0)
        except QueueFull as full:
            queue_full = str(full)
        return readiness(
            self._fleet.pool_records(), queue_full=queue_full, draining=self._drain.draining,
            journal="" if self._job_notes is None else self._job_notes.journal.trouble,
            longest_turn_s=loop_turns.longest_s(), nodes=await self.nodes(),
            cluster="" if self._remote_pools is None else self._remote_pools.trouble,
            not_reloaded="" if self._reload is None else self._reload.record.error, reasons=reasons,
        )  # fmt: skip

    @functools.cached_property
    def scraping(self) -> Scraping:
        from killable.supervisor.telemetry.scraping import Scraping

        return Scraping(
            self._observer, self._fleet, self.jobs.job_queue, self._registry, self._clock, self._started,
            self._remote_pools, self.files, None if self._job_notes is None else self._job_notes.journal,
        )  # fmt: skip

    async def reload(self, *, wait_s: float | None = None) -> ReloadRecord:
        from killable.supervisor.dispatch.reload import Reload, failure_of, not_on_nodes

        if self._closing or self._drain.shutting_down:
            raise Refused("the server is shutting down", code="draining", shutting_down=True)
        if (fleet := self._fleet_here()) is None:
            raise not_on_nodes()
        if self._reload is None:
            self._reload = Reload(fleet, self._registry, self._clock, self.check_types)
        self._reload.begin()
        record = await self._reload.until_over(wait_s)
        if record.state == "failed":
            raise failure_of(record)
        return record

    async def reloaded(self, *, wait_s: float = 0.0) -> ReloadRecord:
        record = ReloadRecord("none") if self._reload is None else await self._reload.until_over(wait_s)
        return record._replace(changed_since=tuple(await self.changed_files()))

    async def changed_files(self) -> Sequence[str]:
        fleet = self._fleet_here()
        return await fleet.changed_files() if fleet is not None else ()

    def source_files(self) -> Sequence[SourceFile]:
        """Return the files of the jobs' code, as they were when they were loaded, or when that failed."""
        fleet = self._fleet_here()
        return fleet.files() if fleet is not None else ()

    def _fleet_here(self) -> Fleet | None:
        from killable.supervisor.pools.fleet import Fleet

        return self._fleet if isinstance(self._fleet, Fleet) else None

    async def drain(self, *, deadline_s: float | None = None) -> DrainProgress:
        if not self._drain.shutting_down:  # a shutdown has a deadline of its own
            self._drain.begin(self._clock, deadline_s, self._on_drain_deadline)
            logger.warning("draining", extra={"deadline_s": deadline_s, "active": len(self._registry.active())})
        return await self.drained()

    def _on_drain_deadline(self) -> None:
        self.jobs.stop_all("the drain's deadline is over", None)

    async def undrain(self) -> DrainProgress:
        self._drain.end()
        logger.warning("drain_ended")
        return await self.drained()

    async def drained(self) -> DrainProgress:
        return self._drain.progress(self._registry.active(), self._clock.now())

    async def shutdown(
        self, *, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = ""
    ) -> DrainProgress:
        logger.warning("shutdown_requested", extra={"reason": reason, "deadline_s": deadline_s})
        was_asked = self._drain.shutting_down
        self._drain.shut_down(grace_s, reason)
        if self._closing:
            self.jobs.stop_all(reason, grace_s)  # only shortens the grace: the first verdict stays
        elif deadline_s > 0 and self._registry.has_active():
            if was_asked and (left_s := self._drain.left_s(self._clock.now())) is not None:
                deadline_s = min(deadline_s, left_s)
            self._drain.begin(self._clock, deadline_s, self._drain.set_due)
        else:
            self._drain.set_due()
        return await self.drained()

    async def until_shutdown(self) -> None:
        await self._drain.until_due()

    # ── inside ──

    async def _wait_for_end(self, job: Job, timeout_s: float | None, *, is_urgent: bool = False) -> None:
        """Wait until a job has ended, at most `timeout_s` seconds. `is_urgent`: it was asked to end."""
        if job.is_over or timeout_s == 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not job.is_over:
                    await job.end_changed(is_urgent=is_urgent)
        except TimeoutError:
            pass

    async def _told(self, job: Job) -> JobRecord:
        """Return a job's record when its end, if any, may be told."""
        await self._ends.until_told(job)
        return self._record(job)

    def _record(self, job: Job) -> JobRecord:
        return job.record(self.instance_id, self.jobs.place_of(job))
