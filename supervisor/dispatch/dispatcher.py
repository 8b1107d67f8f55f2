"""Assigns jobs to workers and ends them. No other module stores a job's state.

Runs in: supervisor. Everything here is synchronous: no coroutine ever waits in the middle of a kill.

    enqueue ─► JobQueue ─► dispatch ─► Attempt ─► on_entered … on_ended ─► the terminal event

With a journal, `dispatch` only reserves the worker: the attempt begins when the journal has the start. Until then the
job is still queued, so a cancel or a deadline ends it at once. The end is written when it has happened. Nothing here
waits for that; only clients are told of it later (`supervisor.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from killable.supervisor.clock import Clock
from killable.supervisor.dispatch import retries
from killable.supervisor.dispatch.bulk_stop import BulkStop
from killable.supervisor.dispatch.drain import Drain
from killable.supervisor.dispatch.new_types import renewed
from killable.supervisor.jobs import job_events, lifecycle, queue_deadlines
from killable.supervisor.jobs.callbacks import Callbacks
from killable.supervisor.jobs.durable_ends import on_end_written
from killable.supervisor.jobs.job import PENDING, Job
from killable.supervisor.jobs.job_queue import JobQueue, Selected, Waiting
from killable.supervisor.jobs.lifecycle import DECIDED, Cause, State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import JobType, Outcome, Submission, Verdict
from killable.supervisor.pools.fleet import Fleet
from killable.supervisor.pools.lane import Given, LaneHolder
from killable.supervisor.pools.start_failures import with_error_line
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.settings import Settings, usable_cores
from killable.supervisor.telemetry.observer import Observer
from killable.workers.protocol.message_bounds import RETRY_AFTER_S_MAX

if TYPE_CHECKING:
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.journal.job_notes import JobNotes, Start
    from killable.supervisor.pools.pool_protocols import (
        HeldRun,
        JobPool,
        JobPools,
        JobWorker,
        RemotePools,
        RunningAttempt,
    )


class Dispatcher:
    """Owns every attempt and, for what concerns jobs, every pool."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        drain: Drain,
        observer: Observer,
        lane_holder: LaneHolder | None = None,
        remote_pools: RemotePools | None = None,
        files: FileStore | None = None,
    ) -> None:
        """`lane_holder` may give idle workers calls, in any thread (`lane`). `remote_pools`: the pools, if they are not
        on this machine.
        """
        self._settings = settings
        self._files = files
        self._registry = registry
        self._drain = drain
        self._observer = observer
        self.job_queue = JobQueue(settings.queue_jobs_max, settings.queue_bytes_max)
        self._remote_pools = remote_pools
        self.fleet: JobPools = Fleet(settings, self) if remote_pools is None else remote_pools
        if remote_pools is not None:
            remote_pools.use(self)
        # One C iterator over u32, which threads share: each `next` is one step under the interpreter's lock.
        self._fences: Iterator[int] = itertools.chain.from_iterable(itertools.repeat(range(1, 1 << 32)))
        self._cores = usable_cores()
        self._closing = False
        self._available: set[JobPool] = set()
        """The pools that may be able to start a job."""
        self._is_dispatching = False
        self._let_go: list[JobPool] = []
        """Pools with waiting jobs of tenants that were held back and may start some again."""
        self._lane_holder = lane_holder
        self.bulk_stop = BulkStop(self.job_queue, lambda again: self._clock.call_at(self._clock.now(), again))
        self.callbacks: Callbacks | None = None
        """Is told of ends for which there is an address, once they are on disk."""
        self._job_notes: JobNotes | None = None
        self._reserved: dict[str, JobWorker] = {}
        """By job id: the worker that is kept for a job while its start is written."""

    def start(self, clock: Clock, job_notes: JobNotes | None = None) -> None:
        """Set the clock, and the journal writer that records what becomes of jobs."""
        self._clock = clock
        self._job_notes = job_notes

    def close(self) -> None:
        """Assign no more jobs to workers."""
        self._closing = True

    def enqueue(self, job: Job) -> None:
        """Queue a new job. It starts at once when a worker is warm, and fails at once when no worker can come."""
        if not self._push(job):
            return
        worker = self._reserved.pop(job.id, None)
        if worker is None:
            self._assign_or_wait(job)
        else:
            waiting = self.job_queue.remove(job.id)
            assert waiting is not None
            self._begin(job, worker, waiting)
            self._note_reserved(job, -1)

    def _push(self, job: Job) -> bool:
        """Put a job in the queue. Return False when it can have no worker and has ended."""
        pool, submission, total_s = self.fleet.pool_of(job.type), job.submission, job.limits["total_s"]
        self.job_queue.push(
            job.id,
            pool=pool.spec.name,
            tenant=submission.tenant,
            priority=submission.priority,
            input_bytes=len(submission.input),
            selected=self.selected_by(submission),
        )
        if total_s is not None and job.created + total_s <= self._clock.now():  # from an earlier server run
            self._on_queue_deadline(job, "total_s")
        elif not job.type.available:
            self._end_queued(job, Verdict("spawn", facts={"message": job.type.unavailable_reason}))
        elif pool.state == "broken":
            self._end_queued(job, _spawn_verdict(pool))
        elif submission.nodes and (why := self.fleet.why_never(submission.nodes)):  # from a server that had nodes
            self._end_queued(job, Verdict("spawn", facts={"message": why}))
        return job.state is State.QUEUED

    def selected_by(self, submission: Submission) -> Selected:
        """Return the selector of the line in which the job waits. On one machine all jobs are in one."""
        return () if self._remote_pools is None else tuple(sorted(submission.nodes.items()))

    def _assign_or_wait(self, job: Job) -> None:
        """Assign the job if its turn has come; otherwise start its queue timer, unless it runs already."""
        self.on_worker_available(self.fleet.pool_of(job.type))
        if job.state is State.QUEUED and job.queue_timer is None:
            limit, due = queue_deadlines.deadline_of(job)
            if limit:
                job.queue_timer = self._clock.call_at(due, lambda: self._on_queue_deadline_soon(job, limit))

    def place_of(self, job: Job) -> dict[str, Any] | None:
        """Return a waiting job's position and estimated wait; a position of None: it is not in the queue yet."""
        if job.state is not State.QUEUED:
            return None
        position = self.job_queue.position(job.id)
        wait_s = self.fleet.run_times_of(job.type).estimate_wait_s(position or 0)
        return {"position": position, "estimated_wait_s": wait_s, "detail": self._why_waits(job)}

    def _why_waits(self, job: Job) -> str:
        """Return why a job waits that selects its nodes; empty: as others do."""
        if self._remote_pools is None or not job.submission.nodes:
            return ""
        return self._remote_pools.why_waits(self.fleet.pool_of(job.type).spec.name, job.submission.nodes)

    def resume(self, jobs: Iterable[Job]) -> None:
        """Queue the jobs that waited when a server died: all of them before one gets a worker, to keep their order.

        One that waited for its next attempt goes on with that.
        """
        queued = []
        for job in jobs:
            left_s = 0.0 if job.again_at is None else min(self._clock.left_s(job.again_at), RETRY_AFTER_S_MAX)
            if left_s > 0:
                job.queue_timer = self._clock.call_at(self._clock.now() + left_s, partial(self._requeue, job))
            elif self._push(job):
                queued.append(job)
        for job in queued:
            self._assign_or_wait(job)

    def settle(self, job: Job, outcome: Outcome) -> None:
        """End a job of an earlier server run that has not run in this one."""
        self._end(job, outcome)

    def stop_all(self, reason: str, grace_s: float | None, cause: Verdict | None = None) -> list[Job]:
        """Begin to end every job, as cancelled unless there is another `cause`; return those that were active."""
        active = self._registry.active()
        self.stop_jobs(active, cause or Verdict("cancelled", by="shutdown", reason=reason), grace_s)
        return active

    def stop_jobs(self, jobs: Iterable[Job], verdict: Verdict, grace_s: float | None) -> None:
        """Begin to end these jobs: no worker that becomes free gets one of them."""
        self.bulk_stop.begin(jobs, lambda job: self.stop(job, verdict, grace_s))

    def transition(self, job: Job, cause: Cause) -> None:
        """Store a job's next state. No other method does."""
        before = job.state
        job.state = lifecycle.step(before, cause)
        if not job.is_executor_task and (before is State.QUEUED or job.state is State.QUEUED or job.is_over):
            self._note_share(job, before)
        self._observer.on_transition(job, cause)

    def _note_share(self, job: Job, before: State) -> None:
        """Count what the job's tenant has."""
        self._registry.tenants.moved(job, before)
        self._hold_back_or_let_go(job.submission)

    def _note_reserved(self, job: Job, number: int) -> None:
        """Count the workers that are kept for jobs of the tenant: they run soon."""
        self._registry.tenants.reserved(job, number)
        self._hold_back_or_let_go(job.submission)
        self._start_let_go()

    def _hold_back_or_let_go(self, submission: Submission) -> None:
        """Hold a tenant's waiting jobs back as long as it runs as many as it may."""
        if self._registry.tenants.is_at_share(submission):
            self.job_queue.hold_back(submission.tenant)
        else:
            pools = self.job_queue.let_go(submission.tenant)
            self._let_go += [pool for pool in self.fleet if pool.spec.name in pools] if pools else []

    def _dispatch(self, pool: JobPool) -> None:
        """Assign waiting jobs to warm workers. When no job waits, open lanes to the workers that are idle."""
        name = pool.spec.name
        pool.open_lines()
        while not self._journal_fails and (next_selector := self.job_queue.next_selector(name)) is not None:
            worker = pool.take(next_selector)
            if worker is None:
                if pool.pass_over(next_selector):
                    continue
                break
            waiting = self.job_queue.take(name)
            if waiting is None:  # a report that was read in `take` has ended the last one
                pool.give_back(worker)
                break
            job = self._registry.get(waiting.job_id)
            if job.listener is None or job.listener.on_assigned(job):
                if self._job_notes is None:
                    self._assign(job, worker)
                else:
                    self._write_start(self._job_notes, job, worker, waiting)
            else:
                pool.give_back(worker)
                self._end_queued(job, Verdict("cancelled", by="user"))
        if self._lane_holder is not None and not self.job_queue.depth(name):
            for worker, quiet in pool.without_lane():
                self._lane_holder.on_lane(worker.open_lane(self._lane_holder, self._fences, quiet=quiet))
        pool.fill_soon()

    # ── with a journal: a start is on disk before the order goes ──

    @property
    def _journal_fails(self) -> bool:
        return self._job_notes is not None and self._job_notes.journal.fails

    def on_journal_works(self) -> None:
        """Start what had to wait because no start could be written."""
        for pool in self.fleet:
            self.on_worker_available(pool)

    def reserve(self, job: Job) -> Start | None:
        """Keep a warm worker for a new job, whose start is then written with its acceptance; `enqueue` begins it.

        None: no worker is free, or other jobs come first.
        """
        pool = self.fleet.pool_of(job.type)
        cannot_start = not job.type.available or pool.state == "broken" or self._journal_fails or self._closing
        others_wait = self.job_queue.next_selector(pool.spec.name) is not None
        must_wait = others_wait or self._registry.tenants.is_at_share(job.submission)
        if cannot_start or must_wait or self._is_dispatching:
            return None
        self._is_dispatching = True  # what a worker reports meanwhile must not assign this one
        try:
            worker = pool.take(self.selected_by(job.submission))
        finally:
            self._is_dispatching = False
        start = None if worker is None else self._reserve(job, worker)
        self.on_worker_available(pool)
        return start

    def unreserve(self, job: Job) -> None:
        """Let another job have the worker that was kept for this one, if any."""
        worker = self._reserved.pop(job.id, None)
        if worker is not None:
            worker.unreserve()
            self._note_reserved(job, -1)

    def _reserve(self, job: Job, worker: JobWorker) -> Start:
        from killable.supervisor.journal.job_notes import Start

        worker.reserve()
        self._reserved[job.id] = worker
        self._note_reserved(job, 1)
        place = {} if self._remote_pools is None else self._remote_pools.place_of(worker)
        return Start(self._clock.wall(), worker.id, worker.pid, place)

    def _write_start(self, job_notes: JobNotes, job: Job, worker: JobWorker, waiting: Waiting) -> None:
        def on_written(why: str) -> None:
            if self._reserved.get(job.id) is not worker:
                return  # it has ended meanwhile
            del self._reserved[job.id]
            if why:
                self._put_back(job, waiting)
                worker.unreserve()
            else:
                self._begin(job, worker, waiting)
            self._note_reserved(job, -1)

        job_notes.starts(job, self._reserve(job, worker), on_written)

    def _begin(self, job: Job, worker: JobWorker, waiting: Waiting) -> None:
        """Assign the job to the worker that was kept for it. If that has died meanwhile, the job waits again."""
        if worker.is_reserved():
            if self._job_notes is not None:
                self._job_notes.begin_output(job)
            self._assign(job, worker)
            return
        if self._job_notes is not None:
            self._job_notes.waits(job)
        self._put_back(job, waiting)
        if job.state is State.QUEUED:
            self._assign_or_wait(job)

    def _put_back(self, job: Job, waiting: Waiting) -> None:
        self.job_queue.put_back(waiting)
        pool = self.fleet.pool_of(job.type)
        if pool.state == "broken":  # meanwhile
            self._end_queued(job, _spawn_verdict(pool))

    def open_lanes(self) -> None:
        """Open lanes to idle workers and fork missing ones: the lane holder has waiting calls."""
        for pool in self.fleet:
            self.on_worker_available(pool)

    def adopt(self, job: Job, given: Given) -> None:
        """Make an ordinary attempt of a call that a worker got through its lane."""
        pool, worker = self.fleet.worker(given.worker_id)
        pool.withdraw(worker)
        self._assign(job, worker, given)
        pool.fill_soon()

    def _assign(self, job: Job, worker: JobWorker, given: Given | None = None) -> None:
        job.leave_queue()
        job.assigned = self._clock.now() if given is None else given.at
        job.attempts += 1
        job.worker_id, job.pid = worker.id, worker.pid
        if self._files is not None:
            job.files_folder = self._files.saved_folder(job.id, job.attempts)
        attempt = self._attempt(job, worker, next(self._fences) if given is None else given.fence)
        job.attempt = attempt
        worker.take(attempt)
        self.transition(job, Cause.ASSIGNED)
        attempt.begin(has_order=given is not None)
        self._observer.on_left_queue(job, job.assigned)  # after the order, which must not wait for a histogram
        if job.is_executor_task and job.attempts > 1:
            job.wake()  # it runs in another process, which may report nothing before its result

    def take_over(self, job: Job, held: HeldRun) -> None:
        """Go on with the job's latest attempt, which an earlier run of this server has begun on a node."""
        assert self._remote_pools is not None
        if self._job_notes is not None:
            self._job_notes.begin_output(job)
        job.attempt = attempt = self._remote_pools.take_over(job, held)
        attempt.worker.take(attempt)
        self.transition(job, Cause.ASSIGNED)

    def _attempt(self, job: Job, worker: Any, fence: int) -> RunningAttempt:
        if self._remote_pools is not None:
            return self._remote_pools.attempt(job, worker, fence)
        from killable.supervisor.attempts.attempt import Attempt  # here: a task that just runs has no attempt
        from killable.supervisor.attempts.escalation import Rules

        rules = Rules(
            grace_s=job.limits["grace_s"],
            ack_s=job.limits["ack_s"],
            ack_cpu_s=self._settings.ack_cpu_s,
            unkillable_s=self._settings.unkillable_s,
            cores=self._cores,
            stack=self._settings.stack,
        )
        return Attempt(job, worker, fence, clock=self._clock, owner=self, rules=rules)

    def stop(self, job: Job, verdict: Verdict, grace_s: float | None) -> None:
        """Begin to end a job in any state; nothing when it has ended, or somebody had it end already, and no later."""
        if job.is_over or job.ends_within(grace_s):
            return
        self._observer.on_cancel_asked(job, verdict, grace_s)
        job.may_retry = False
        if job.state is State.QUEUED:
            self._end_queued(job, verdict)
        elif job.attempt is not None:
            job.is_stop_asked = True
            job.attempt.stop(verdict, grace_s)
            if self._job_notes is not None:
                self._job_notes.stopping(job, verdict)

    def _end_queued(self, job: Job, verdict: Verdict) -> None:
        """End a job that has no worker."""
        from killable.supervisor.attempts import exit_outcome

        self.job_queue.remove(job.id)
        job.verdict = verdict
        facts = exit_outcome.without_message(verdict.facts)
        if verdict.by:
            facts.update(by=verdict.by, reason=verdict.reason)
        job.certificate = {"requested": 0.0, "cause": verdict.code, "by": verdict.by, "reason": verdict.reason}
        state = lifecycle.terminal_state_of(verdict.code)
        self._end(job, Outcome(state, verdict.code, exit_outcome.message_of(verdict), facts))
        self.unreserve(job)

    def _on_queue_deadline_soon(self, job: Job, limit: str) -> None:
        """Process pending reports first: this turn of the loop may be late, and a worker may have become free."""
        job.queue_timer = self._clock.call_at(self._clock.now(), lambda: self._on_queue_deadline(job, limit))

    def _on_queue_deadline(self, job: Job, limit: str) -> None:
        if job.state is State.QUEUED:
            now, workers = self._clock.now(), self.fleet.pool_of(job.type).workers.values()
            self._observer.on_left_queue(job, now)
            running = [each.attempt.job for each in workers if each.attempt is not None]
            self._end_queued(job, queue_deadlines.verdict_of(job, limit, self._why_waits(job), running, now))

    def on_entered(self, attempt: RunningAttempt) -> None:
        job = attempt.job
        if job.started is None:  # else it was taken over
            job.started = self._clock.now()
            job.started_at = job.at(job.started)
        job_events.note_start(job)
        self._observer.on_entered(job)

    def on_first_token(self, attempt: RunningAttempt) -> None:
        self._observer.on_first_token(attempt.job, attempt.job.note_first_token(self._clock.now()))

    def on_ended(self, attempt: RunningAttempt, outcome: Outcome) -> None:
        """Free the slot, then end or retry the job: the attempt's tree is proven empty, or was given up."""
        job, worker = attempt.job, attempt.worker
        job.certificate = certificate = attempt.certificate.as_json()
        if worker.stage is WorkerStage.BUSY:
            worker.release()
        if worker.stage is not WorkerStage.QUARANTINED:  # its slot does not become ready, however warm the others are
            worker.when_slot_ready(lambda: self._note_slot_ready(attempt, certificate))
        if job.started is not None:
            self.fleet.run_times_of(job.type).note(self._clock.now() - job.started)
        wait_s = self._retry_wait_s(job, outcome)
        if wait_s is None:
            self._end(job, outcome, attempt)
        else:
            self._schedule_retry(job, outcome, wait_s, attempt)

    def _note_slot_ready(self, attempt: RunningAttempt, certificate: dict[str, Any]) -> None:
        certificate["slot_ready"] = slot_ready_ms = attempt.slot_ready_ms(self._clock.now())
        if attempt.worker.stage is WorkerStage.GONE and "tree_empty" in certificate:
            self._observer.on_recovered((slot_ready_ms - certificate["tree_empty"]) / 1000, attempt.job.type.pool)
        job = attempt.job
        self._observer.on_slot_ready(job, slot_ready_ms)
        if self._job_notes is not None and job.certificate is certificate and self._registry.keeps(job):
            self._job_notes.amended(job)

    def _retry_wait_s(self, job: Job, outcome: Outcome) -> float | None:
        """Return the seconds until the job's next attempt; None: there is none."""
        limits = job.limits
        if not job.may_retry or limits["attempts_max"] == 1:
            return None
        left_s = math.inf if limits["total_s"] is None else job.created + limits["total_s"] - self._clock.now()
        return retries.wait_s(
            outcome, job.type, limits, job.attempts,
            may_repeat=not job.log.tokens and not job.log.overflowed,
            may_void=not job.is_executor_task,  # the items of its stream have been taken by a loop of the program
            left_s=left_s, share=retries.jitter_of(job.number),
        )  # fmt: skip

    def _schedule_retry(self, job: Job, outcome: Outcome, wait_s: float, attempt: RunningAttempt) -> None:
        """Schedule another attempt; until then the job waits outside of the queue."""
        now = self._clock.now()
        self._observer.on_retrying(job, outcome, wait_s)
        if self._remote_pools is not None and self._job_notes is not None and job.shown is None:
            job.shown = len(job.log)  # until the retry is on disk: another head may have the job by now
        job_events.note_retry(job, outcome, wait_s)
        self.transition(job, Cause.REQUEUED)
        if self._files is not None and job.files:
            self._files.remove_saved(job.files_folder)
        job.reset_for_retry(now)
        job.again_at = job.at(now + wait_s)
        if self._job_notes is not None:
            self._job_notes.waits(job, lambda _: self._note_recorded(attempt))
        else:
            self._note_recorded(attempt)
        job.queue_timer = self._clock.call_at(now + wait_s, partial(self._requeue, job))
        job.wake()
        self._start_let_go()

    def _requeue(self, job: Job) -> None:
        job.queued, job.queue_timer, job.again_at = self._clock.now(), None, None
        self.enqueue(job)

    def _note_recorded(self, attempt: RunningAttempt | None) -> None:
        """Take note that its end is on disk, or never will be."""
        if self._remote_pools is not None and attempt is not None:
            self._remote_pools.note_recorded(attempt)

    def _end(self, job: Job, outcome: Outcome, attempt: RunningAttempt | None = None) -> None:
        """End a job, whose last attempt this was, if it had any here."""

        def on_written(why: str) -> None:
            on_end_written(job, why)
            self._observer.on_end_written(job)
            self._note_recorded(attempt)
            self.call_back(job)

        self.conclude(job, outcome)
        self._observer.on_ended(job)
        if self._job_notes is not None:
            job.durable = False
            self._job_notes.ended(job, on_written)
        else:
            self._note_recorded(attempt)
            self.call_back(job)
        self._registry.note_end(job, job.ended or self._clock.now())
        job.wake()
        self._start_let_go()
        self.finish_shutdown_if_idle()

    def call_back(self, job: Job) -> None:
        """Have the end of a job sent to its address, if it has one and that was not done."""
        told, submission = job.callback or PENDING, job.submission
        if self.callbacks is not None and submission.callback_url and told["state"] == "pending":
            self.callbacks.on_ended(job.id, submission.tenant, submission.callback_url, told["attempts"])

    def _start_let_go(self) -> None:
        """Assign jobs of tenants that may run more again; workers may be idle because these were held back."""
        while self._let_go:
            self.on_worker_available(self._let_go.pop())

    def conclude(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome, once. The terminal event is the job's last and is built from this record."""
        job.leave_queue()
        self.transition(job, DECIDED[outcome.state])
        job.outcome = outcome
        job.attempt = None
        job.ended = self._clock.now()
        job.ended_at = job.at(job.ended)
        job_events.note_end(job)
        job.drop_input()
        if self._files is not None and job.submission.files:
            self._files.job_ended(job.id)

    def finish_shutdown_if_idle(self) -> None:
        """Let a shutdown go on when its last job is over."""
        if self._drain.shutting_down and not self._registry.has_active():
            self._drain.set_due()

    # ── FleetOwner ──

    def on_types(self, types: Sequence[JobType]) -> None:
        self._observer.on_types(job_type.name for job_type in types)
        for job in self._registry.active():
            was, job.type = job.type, renewed(job.type, types)
            moves = job.type.pool != was.pool or not job.type.available
            if moves and job.state is State.QUEUED and self.job_queue.remove(job.id) and self._push(job):
                self._assign_or_wait(job)

    def on_worker_available(self, pool: JobPool) -> None:
        """Assign what waits. When it is called in the middle of that, because what a worker reported was read, the pool
        has its turn after it: no job begins and ends inside the assignment of another.
        """
        self._available.add(pool)
        if self._is_dispatching:
            return
        self._is_dispatching = True
        try:
            while self._available and not self._closing:
                self._dispatch(self._available.pop())
        finally:
            self._is_dispatching = False

    def on_pool_broken(self, pool: JobPool) -> None:
        for job_id in self.job_queue.jobs_of(pool.spec.name):
            self._end_queued(self._registry.get(job_id), _spawn_verdict(pool))
        if self._lane_holder is not None:
            self._lane_holder.on_pool_broken()

    def on_pool_changed(self) -> None:
        self._observer.on_pool_changed()

    def on_deposed(self) -> None:
        self._drain.shut_down(None, "another head has taken the nodes over")
        self._drain.set_due()

    def on_early_output(self, data: bytes, stream: str) -> None:
        if self._lane_holder is not None:
            self._lane_holder.on_early_output(data, stream)

    def queued(self, pool: JobPool) -> int:
        in_lanes = 0 if self._lane_holder is None else self._lane_holder.waiting
        return self.job_queue.startable(pool.spec.name) + in_lanes


def _spawn_verdict(pool: JobPool) -> Verdict:
    message = f"pool {pool.spec.name} is broken: {with_error_line(pool.detail)}"
    return Verdict("spawn", facts={"message": message, "errno": pool.errno})
