"""Accepts or refuses submissions, and answers when the job is accepted: with a journal, when it is on disk.

Runs in: supervisor.

    submit ─► sealed ─► checked ─► Job ────────────────────────────► enqueued ─► record
                                     └─ with a journal: on disk? ─┘└─ no: withdrawn, refused

Without a journal, everything from the checks on is one turn of the loop. With one, a job that waits for the disk
counts as queued: it is listed, can be cancelled, and holds its place in the queue's bounds and its idempotency key.
If a worker is free, it is kept for the job, and the acceptance and the start are one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from killable.supervisor.clock import Clock
from killable.supervisor.dispatch.dispatcher import Dispatcher
from killable.supervisor.dispatch.drain import Drain
from killable.supervisor.jobs import effective_limits
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.idempotency import check_same_request
from killable.supervisor.jobs.inputs import close_input, content_of, seal_large_input
from killable.supervisor.jobs.job import Job, JobListener
from killable.supervisor.jobs.job_queue import QueueFull
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import JobType, Outcome, Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.telemetry.observer import Observer
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.journal.job_notes import JobNotes

OPERATORS_SHARE = 0.1
"""The room beyond the bounds of the queue that only operators have, as a share of them."""

Answer = asyncio.Future[JobRecord | Refused]


class Admission:
    """Accepts jobs. There is one for each supervisor."""

    def __init__(
        self,
        jobs: Dispatcher,
        registry: Registry,
        drain: Drain,
        observer: Observer,
        record_of: Callable[[Job], JobRecord],
        files: FileStore | None = None,
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._tenants = registry.tenants
        self._drain = drain
        self._observer = observer
        self._record_of = record_of
        self._files = files
        self._job_notes: JobNotes | None = None
        self._unwritten: dict[tuple[str, str], tuple[Job, Answer]] = {}
        """Jobs with an idempotency key that wait for the disk, by tenant and key."""

    def start(self, clock: Clock, job_notes: JobNotes | None) -> None:
        self._clock = clock
        self._job_notes = job_notes

    async def submit(self, submission: Submission) -> JobRecord:
        """Implement `Engine.submit`."""
        content = submission.input
        # Without a journal this is the only wait. The rest is one turn of the loop: of two requests with one key, one
        # comes first.
        submission = await seal_large_input(submission)
        job = None
        try:
            first = self._first_answer(submission)
            if first is None:
                job = self._accept(submission)
        except Refused as refused:
            self._observer.on_refused(submission, refused)
            raise
        finally:
            if job is None:
                close_input(submission)
        if job is None:
            assert first is not None
            record = await self._journaled(submission, first) if isinstance(first, asyncio.Future) else first
            self._observer.on_replayed(record)
            return record._replace(replayed=True)
        if self._job_notes is None:
            return self._enqueue(job)
        return await self._journaled(submission, self._write(self._job_notes, job, content_of(content)))

    def knows(self, tenant: str, key: str) -> bool:
        """Return whether a submission with this idempotency key starts nothing: there was one before."""
        return (tenant, key) in self._unwritten or self._registry.knows(tenant, key, self._clock.now())

    def enter(
        self,
        job_id: str,
        job_type: JobType,
        submission: Submission,
        in_force: Limits,
        listener: JobListener | None = None,
        since: float | None = None,
        *,
        is_executor_task: bool = False,
        log: EventLog | None = None,
    ) -> Job:
        """Create a job that is neither queued nor started. `since`: when it was requested, if that is earlier. `log`:
        where its events go, if not into a new one.
        """
        now = self._clock.now()
        job = Job(
            id=job_id,
            number=self._registry.next_number(),
            type=job_type,
            submission=submission,
            limits=in_force,
            log=EventLog(in_force["output_bytes"]) if log is None else log,
            created_at=self._clock.wall(),
            created=now if since is None else since,
            queued=now,
            listener=listener,
            is_executor_task=is_executor_task,
        )
        self._registry.add(job)
        return job

    def _first_answer(self, submission: Submission) -> JobRecord | Answer | None:
        """Return the first answer to this idempotency key, or its future. Raise Refused: idempotency_conflict."""
        waiting = self._unwritten.get((submission.tenant, submission.idempotency_key))
        if waiting is None:
            return self._registry.first_answer(submission, self._clock.now())
        job, answer = waiting
        check_same_request(submission, job.submission.body_digest, job.id)
        return answer

    def _accept(self, submission: Submission) -> Job:
        """Check a submission and create its job. Raise Refused."""
        self._drain.check()
        job_type = self._jobs.fleet.type(submission.type)
        self._tenants.check_priority(submission)
        if submission.nodes and (why := self._jobs.fleet.why_never(submission.nodes)):
            raise Refused(why, code="invalid", faults=[{"in": "body", "pointer": "/nodes", "message": why}])
        defaults, caps = job_type.limits, job_type.caps
        if own := self._tenants.bounds_of(submission).caps:
            defaults, caps = effective_limits.limits_of_tenant(defaults, caps, own)
        in_force = effective_limits.limits_of_job(defaults, caps, submission.limits, submission.within_s)
        self._check_time(job_type, in_force, submission)
        self._check_files(submission)
        self._check_room(job_type, submission)  # last: a full queue passes, other faults stay
        import uuid  # here: it imports `platform`, 3 ms, and an Executor numbers its jobs

        job = self.enter(f"job-{uuid.uuid4()}", job_type, submission, in_force)
        if self._files is not None and submission.files:
            job.file_paths = self._files.use(job.id, submission.files)
        if self._job_notes is None:
            self._observer.on_submitted(job)
        return job

    def _check_files(self, submission: Submission) -> None:
        """Raise Refused: unknown_file, files_off."""
        for file_id in submission.files:
            if self._files is None:
                raise Refused("this server keeps no files", code="files_off")
            self._files.get(file_id)

    def _enqueue(self, job: Job) -> JobRecord:
        self._jobs.enqueue(job)
        return self._answered(job)

    def _answered(self, job: Job) -> JobRecord:
        record = self._record_of(job)
        self._registry.note_accepted(job, record)
        return record

    def _check_room(self, job_type: JobType, submission: Submission) -> None:
        """Raise Refused: tenant_queue_full, queue_full."""
        try:
            self._tenants.check_room(submission)
        except QueueFull as full:
            whose = f"the share of tenant {submission.tenant} in the queue is full"
            raise self._no_room(job_type, full, whose, "tenant_queue_full", tenant=submission.tenant) from full
        try:
            self._jobs.job_queue.check(len(submission.input), more=OPERATORS_SHARE if submission.operator else 0.0)
        except QueueFull as full:
            raise self._no_room(job_type, full, "the queue is full", "queue_full") from full

    def _no_room(self, job_type: JobType, full: QueueFull, what: str, code: str, **facts: str) -> Refused:
        # There is room when the first waiting job has started.
        wait_s = self._jobs.fleet.run_times_of(job_type).estimate_wait_s(0)
        again_s = max(1, round(wait_s or 1))
        return Refused(f"{what}: {full}", code=code, bound=full.bound, limit=full.limit, retry_after_s=again_s, **facts)

    def _check_time(self, job_type: JobType, in_force: Limits, submission: Submission) -> None:
        """Raise Refused: deadline_unmeetable, for a job whose `total_s` would be over while it waits."""
        if in_force["total_s"] is None:
            return
        pool = self._jobs.fleet.pool_of(job_type)
        ahead = self._jobs.job_queue.position_of_new(
            pool.spec.name, submission.tenant, submission.priority, self._jobs.selected_by(submission)
        )
        if ahead < pool.occupancy.slots_free:
            return
        wait_s = self._jobs.fleet.run_times_of(job_type).estimate_wait_s(ahead) or 0.0
        if wait_s > in_force["total_s"]:
            raise Refused(
                f"its estimated wait of {wait_s:g} s is longer than its total_s of "
                f"{in_force['total_s']:g} s: it would time out before it starts",
                code="deadline_unmeetable",
                estimated_wait_s=wait_s,
                total_s=in_force["total_s"],
                retry_after_s=max(1, round(wait_s - in_force["total_s"])),
            )

    # ── with a journal ──

    def _write(self, job_notes: JobNotes, job: Job, content: bytes) -> Answer:
        """Write a job to the journal, and return a future of the answer to its submission."""
        answer: Answer = asyncio.get_running_loop().create_future()
        submission = job.submission
        room = len(submission.input)
        key = submission.tenant, submission.idempotency_key
        if submission.idempotency_key:
            self._unwritten[key] = job, answer
        self._jobs.job_queue.hold(room)

        def on_written(refused: Refused | None) -> None:
            self._jobs.job_queue.release(room)
            if submission.idempotency_key:
                del self._unwritten[key]
            try:
                answer.set_result(self._settle(job, refused))
            except Exception as error:  # a bug in killable: the client is answered all the same
                answer.set_result(Refused(f"internal error: {error!r}", code="internal"))
                raise

        job_notes.accepted(job, content, self._jobs.reserve(job), on_written)
        return answer

    def _settle(self, job: Job, refused: Refused | None) -> JobRecord | Refused:
        """Queue a job that is on disk; withdraw one that is refused."""
        if refused is not None:
            self._withdraw(job, refused)
            return refused
        self._observer.on_submitted(job)
        return self._answered(job) if job.is_over else self._enqueue(job)  # it may have been cancelled meanwhile

    async def _journaled(self, submission: Submission, answer: Answer) -> JobRecord:
        """Wait for the disk. Raise Refused: journal_failed."""
        found = await asyncio.shield(answer)  # other requests may wait for it, too
        if isinstance(found, Refused):
            self._observer.on_refused(submission, found)
            raise Refused(found.message, code=found.code, **found.facts)
        return found

    def _withdraw(self, job: Job, refused: Refused) -> None:
        """Remove a job that was never accepted. A client that found it in a list sees it end, then no such job."""
        if not job.is_over:
            self._jobs.conclude(job, Outcome("failed", refused.code, refused.message))
            self._jobs.unreserve(job)
        self._registry.withdraw(job)
        if self._files is not None and job.submission.files:
            self._files.withdrawn(job.id)
        job.wake()
        self._jobs.finish_shutdown_if_idle()
