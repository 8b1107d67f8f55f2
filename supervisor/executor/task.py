"""One task of an Executor: it waits, a leased worker has it, or it is a job of the supervisor.

Runs in: supervisor (its thread, unless stated otherwise) | any thread of the program.

    waiting ──give──► with a leased worker ──complete──► over
       └──enter──► a job ◄──adopt──┘        a job ──on_changed──► over

For a task that runs undisturbed the supervisor has only the order. Any other event makes it a job first (`lease`).
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Protocol

from killable.supervisor.attempts.resource_limits import is_wanted
from killable.supervisor.attempts.run_order import announces, order_of, within
from killable.supervisor.clock import monotonic
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.program_output import ProgramOutput, TaskOutput
from killable.supervisor.executor.supervisor_thread import SupervisorThread, ThreadClosed
from killable.supervisor.jobs.inputs import close_input
from killable.supervisor.jobs.limits import limits_of_job
from killable.supervisor.models import JobType, Outcome, Submission, Verdict
from killable.workers.authoring.limits import Limits
from killable.workers.errors import Refused
from killable.workers.runtime.executor_setup import STREAM

if TYPE_CHECKING:
    from typing import Any

    from killable.supervisor.jobs.job import Job
    from killable.supervisor.pools.lease import Lease
    from killable.supervisor.supervisor import Supervisor


class TaskOwner(Protocol):
    """What a task uses of its Executor."""

    supervisor_thread: SupervisorThread
    supervisor: Supervisor
    types: dict[str, JobType]

    output: ProgramOutput

    def forget(self, call: Task) -> None:
        """Remove a task that is over."""
        ...


class Task:
    """Created in the thread that submits it."""

    __slots__ = (
        "_asked",
        "_context",
        "_job",
        "_lease",
        "_limits",
        "_output",
        "_owner",
        "_submission",
        "_submitted_at",
        "future",
    )  # fmt: skip

    def __init__(self, owner: TaskOwner, submission: Submission, future: JobFuture[Any]) -> None:
        self.future = future
        self._owner = owner
        self._submission = submission
        self._submitted_at = monotonic()
        self._context = contextvars.copy_context()
        self._limits: Limits | None = None
        """The limits in force, once the job type is known."""
        self._lease: Lease | None = None
        self._job: Job | None = None
        self._output: TaskOutput | None = None
        """Its output in the program, once it has printed or logged something."""
        self._asked: tuple[Verdict, float | None] | None = None
        """The requested stop, with its grace in seconds (None: the task's own); None: no stop was requested."""

    @property
    def is_timed(self) -> bool:
        """Return whether a time limit runs while the task waits: it then waits as a job."""
        limits = self._submission.limits
        return limits.get("queue_s") is not None or limits.get("total_s") is not None

    @property
    def is_job(self) -> bool:
        return self._job is not None

    @property
    def is_stopped(self) -> bool:
        return self._asked is not None

    # ── in any thread ──

    def give(self, lease: Lease) -> bool:
        """Give the task to a leased worker. Return False if the lease is over or the task was cancelled."""
        future, submission = self.future, self._submission
        limits = self._limits_in_force(self._owner.types[submission.type])
        announce = announces(limits)
        seen = (
            limits
            if limits["total_s"] is None
            else within(limits, limits["total_s"] - (monotonic() - self._submitted_at))
        )
        order, passed = order_of(
            future.job_id, submission, seen, 1, lease.fence, lease.result_buffer, announce=announce
        )
        self._lease = lease  # before the future is running: to stop a running task takes its lease
        if not future.begin():
            return False
        future.pid = lease.process.pid
        is_watched = is_wanted(limits)
        if not lease.give(order, passed, self, is_watched=is_watched):
            return False
        # Promote at once if limits are watched, if messages will come before the result, if a spare must take the
        # worker's place, if a stop was just requested, or if a part of the order is unsent.
        known = is_watched or announce or submission.type == STREAM
        if known or not lease.quiet or self._asked is not None or lease.has_unsent:
            try:
                self._owner.supervisor_thread.call(lambda _: lease.promote())
            except ThreadClosed:
                pass  # the task has been ended already
        return True

    def _limits_in_force(self, job_type: JobType) -> Limits:
        if self._limits is None:
            self._limits = limits_of_job(job_type.limits, job_type.caps, self._submission.limits)
        return self._limits

    def take_back(self) -> None:
        """Let the task wait again: no worker has it after all."""
        self._lease = None
        self.future.take_back()

    def kill_now(self, verdict: Verdict, grace_s: float | None) -> None:
        """Send SIGKILL from the calling thread if there is no grace: the supervisor's thread may get its turn late.

        Does nothing if the worker has sent its last message for this task: it may have another task by now.
        """
        if grace_s is None:
            grace_s = self._submission.limits.get("grace_s")
        if grace_s != 0:
            return
        lease, attempt = self._lease, None if self._job is None else self._job.attempt
        if attempt is not None:
            attempt.kill_now(verdict)
        elif lease is not None and lease.has(self):
            lease.process.kill_now(lease.fence, verdict)

    # ── in the supervisor's thread ──

    def adopt(self) -> None:
        self._become_job(self._lease)

    def complete(self, result: bytes) -> None:
        close_input(self._submission)
        self.future.complete(result)
        self._owner.forget(self)

    def enter(self) -> None:
        """Make the waiting task a job, or end it if no worker will come."""
        if self.future.cancelled():
            self.drop()
            return
        fault = self._owner.supervisor_thread.fault
        if fault:
            self._end(Outcome("failed", "spawn", fault))
            return
        try:
            self._become_job(None)
        except Refused as refused:
            self._end(Outcome("failed", "spawn", self._owner.supervisor.why_broken() or refused.message))

    def _become_job(self, lease: Lease | None) -> None:
        """Create the job. Raise Refused when its type does not exist: the pool is broken."""
        supervisor, submission = self._owner.supervisor, self._submission
        job_type = supervisor.type(submission.type)
        limits = self._limits_in_force(job_type)
        job = supervisor.call(self.future.job_id, job_type, submission, limits, self, lease, since=self._submitted_at)
        if job.is_over:
            return  # it has ended at once, and `on_changed` was called
        self._job = job
        self.future.on_accepted(job)
        if self._asked is not None:
            supervisor.jobs.stop(job, *self._asked)

    def ask(self, verdict: Verdict, grace_s: float | None) -> None:
        """Note a requested stop, perhaps not the first one."""
        self._asked = verdict, grace_s

    def stop(self) -> None:
        """Begin the requested stop, or shorten its grace."""
        assert self._asked is not None
        if self._job is not None:
            self._owner.supervisor.jobs.stop(self._job, *self._asked)
        elif self._lease is not None and self._lease.has(self):
            self._lease.promote()  # a `give` that is not finished sees the request itself

    def drop(self) -> None:
        """End the task before it has begun."""
        reason = "" if self._asked is None else self._asked[0].reason
        self.future.note_cancelled(reason)
        self._end(Outcome("cancelled", "cancelled", facts={"by": "user", "reason": reason}))

    def give_up(self, fault: str) -> None:
        """End the task in any state."""
        if self._lease is not None and self._lease.has(self):
            self._lease.promote()
        if self._job is not None:
            reason = fault or "its caller was interrupted"
            self._owner.supervisor.jobs.stop(self._job, Verdict("cancelled", by="user", reason=reason), 0.0)
        elif fault:
            self._end(Outcome("failed", "spawn", fault))
        else:
            self.drop()

    def fail_lost(self, why: str) -> None:
        """End the task: the supervisor and every process that it started are gone."""
        self._end(Outcome("failed", "supervisor_lost", why))

    def _end(self, outcome: Outcome) -> None:
        """End a task that is not a job, or no longer one."""
        close_input(self._submission)
        self.future.finish(outcome)
        self._owner.forget(self)

    # ── JobListener ──

    def on_assigned(self, job: Job) -> bool:
        return job.attempts > 0 or self.future.begin()  # a retry has begun already

    def on_changed(self, job: Job) -> None:
        self.future.note_progress(job.progress)
        if not job.is_over:
            self.future.on_changed(job)
        elif self._output is None and job.progress is None:
            self._on_over(job)
        else:
            self._output_in_program().when_shown(lambda: self._on_over(job))

    def _on_over(self, job: Job) -> None:
        self.future.on_changed(job)
        self._owner.forget(self)

    def on_output(self, job: Job, data: bytes, stream: str) -> None:
        self._output_in_program().print(job, data, stream)

    def on_logged(self, job: Job, kind: int, payload: bytes) -> None:
        self._output_in_program().log(kind, payload)

    def _output_in_program(self) -> TaskOutput:
        if self._output is None:
            self._output = self._owner.output.of_task(self.future.job_id, self._context)
        return self._output
