"""One task of an Executor: it waits, is in the line of a worker, or is a job of the supervisor.

Runs in: supervisor (its thread, unless stated otherwise) | any thread of the program.

    waiting ──line up──► in a lane ──complete──► over
       └──enter──► a job ◄──adopt──┘   a job ──on_changed──► over

For a task that runs undisturbed the supervisor has only its message. Any other event makes it a job first (`lane`).
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from killable.supervisor.attempts.run_order import announces, limits_as_json
from killable.supervisor.clock import monotonic
from killable.supervisor.executor import ending_imports
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.program_output import ProgramOutput, TaskOutput
from killable.supervisor.executor.supervisor_thread import SupervisorThread
from killable.supervisor.executor.task_input import INLINE_TASK_BYTES_MAX, DefinedCall, TaskInput
from killable.supervisor.jobs.effective_limits import is_watched, limits_of_job
from killable.supervisor.models import JobType, Outcome, Submission, Verdict
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.call_message import (
    ANNOUNCE,
    RESULT_BUFFER,
    SEALED,
    STREAM,
    encode_call,
)
from killable.workers.protocol.shared_memory import SealedInput
from killable.workers.protocol.trace_context import OTEL_API, current_headers, inherited_headers
from killable.workers.runtime import executor_setup

if TYPE_CHECKING:
    from typing import Any

    from killable.supervisor.jobs.job import Job
    from killable.supervisor.pools.lane import Given, Lane
    from killable.supervisor.supervisor import Supervisor


How = TypeVar("How")


class TaskLimits(NamedTuple):
    """The limits of the tasks of one view of an Executor, and what follows from them."""

    asked: Mapping[str, Any]
    in_force: Limits
    as_json: bytes
    announced: bool
    """The worker reports that the function is entered: a time limit runs until then, or from then on."""
    is_watched: bool
    """Resources are measured."""
    is_alone: bool
    """A task is not lined up behind another one, nor another one behind it."""

    @classmethod
    def of(cls, job_type: JobType, asked: Mapping[str, Any]) -> TaskLimits:
        """Work out the limits of tasks that ask for these."""
        in_force = limits_of_job(job_type.limits, job_type.caps, asked)
        announced, watched = announces(in_force), is_watched(in_force)
        is_alone = announced or watched or job_type.name == executor_setup.STREAM
        return cls(asked, in_force, limits_as_json(in_force), announced, watched, is_alone)


class TaskOwner(Protocol):
    """What a task uses of its Executor."""

    supervisor_thread: SupervisorThread
    supervisor: Supervisor

    def limits_of(self, type: str, asked: Mapping[str, Any]) -> TaskLimits:
        """Return the limits in force. The type must be known."""
        ...

    output: ProgramOutput

    def forget(self, call: Task) -> None:
        """Remove a task that is over."""
        ...


class Task:
    """Created in the thread that submits it. Implements `LaneCall` and `JobListener`."""

    __slots__ = (
        "_context",
        "_input",
        "_job",
        "_limits",
        "_output",
        "_owner",
        "_rules",
        "_shared",
        "_submitted_at",
        "_type",
        "asked",
        "definitions",
        "future",
        "is_lost",
        "lane",
        "waits_as_job",
    )

    def __init__(
        self,
        owner: TaskOwner,
        type: str,
        input: TaskInput,
        limits: Mapping[str, Any],
        future: JobFuture[Any],
    ) -> None:
        """`limits` are those of its view of the Executor, which are never changed."""
        self.future = future
        self.lane: Lane | None = None
        self.is_lost = False
        """It could not be made a job: it ends with the thread, after its processes."""
        self._owner = owner
        self._type = type
        self._input, self._shared, self.definitions = input
        self._limits = limits
        self._rules: TaskLimits | None = None
        self._submitted_at = monotonic()
        is_timed = limits.get("queue_s") is not None or limits.get("total_s") is not None
        content = self._input
        self.waits_as_job = is_timed or (isinstance(content, bytes) and len(content) > INLINE_TASK_BYTES_MAX)
        """A time limit runs while it waits, or no message has room for its input."""
        self._context = contextvars.copy_context()
        self._job: Job | None = None
        self._output: TaskOutput | None = None
        """Its output in the program, once it has printed or logged something."""
        self.asked: tuple[Verdict, float | None] | None = None
        """The requested stop, with its grace in seconds (None: the task's own); None: no stop was requested. Set with
        the lock of its owner held.
        """

    @property
    def rules(self) -> TaskLimits:
        """The limits in force, and what follows from them. Its type must be known by now."""
        if self._rules is None:
            self._rules = self._owner.limits_of(self._type, self._limits)
        return self._rules

    # ── in any thread ──

    def message(self, fence: int, after: int, result_buffer: int, is_defined: bool) -> tuple[bytes, Sequence[int]]:
        limits, content, parts = self._rules or self.rules, self._input, self._shared
        flags = STREAM if self._type == executor_setup.STREAM else 0
        passed: tuple[int, ...] = ()
        if limits.announced:
            flags |= ANNOUNCE
        if isinstance(content, SealedInput):
            flags |= SEALED
            passed, content = (content.descriptor,), b""
        elif isinstance(content, DefinedCall):
            if is_defined:
                content, parts = content.alone(), None
            else:
                content = content.with_definitions()
        shared = 0
        if parts is not None:
            shared = len(parts.descriptors)
            passed = (*passed, *parts.descriptors)
        if result_buffer >= 0:
            flags |= RESULT_BUFFER
            passed = (*passed, result_buffer)
        job_id = self.future.job_id.encode()
        return encode_call(fence, after, flags, shared, job_id, limits.as_json, content, self._headers()), passed

    def _headers(self) -> dict[str, str]:
        """Return those of the span that was the program's current one where the task was submitted."""
        return self._context.run(current_headers) if OTEL_API in sys.modules else {}

    def kill_now(self, verdict: Verdict, grace_s: float | None) -> None:
        """Send SIGKILL from the calling thread if there is no grace: the supervisor's thread may get its turn late.

        What its worker has not received was taken back before. Does nothing if the worker has another task by now.
        """
        if grace_s is None:
            grace_s = self._limits.get("grace_s")
        if grace_s != 0:
            return
        lane, attempt = self.lane, None if self._job is None else self._job.attempt
        if attempt is not None:
            attempt.kill_now(verdict)
        elif lane is not None:
            lane.kill(self, verdict)

    # ── in the supervisor's thread ──

    def begin(self) -> None:
        self.lane = None
        self.future.begin_in_lane()

    def complete(self, result: bytes | memoryview) -> None:
        self._end(self.future.complete, result)

    def enter(self) -> None:
        """Make the waiting task a job, or end it if no worker will come."""
        if self.future.cancelled():
            self.drop()
        elif fault := self._owner.supervisor_thread.fault:
            self.fail(fault)
        else:
            self.adopt(None)

    def adopt(self, given: Given | None) -> None:
        """Make the task a job (None: one that waits), or end it if its type does not exist: the pool is broken.

        Any other error (no descriptor, no memory, a bug) ends the supervisor's thread: nobody would hear how the task
        ends.
        """
        try:
            self._create_job(given)
        except Refused as refused:
            self.fail(self._owner.supervisor.why_broken() or refused.message)
        except BaseException as error:
            self.is_lost = True
            self._owner.supervisor_thread.fail(error)

    def _create_job(self, given: Given | None) -> None:
        ending_imports.load()
        supervisor = self._owner.supervisor
        job_type = supervisor.type(self._type)
        in_force = self.rules.in_force
        input = self._input
        if isinstance(input, DefinedCall):
            input = input.with_definitions()
        headers: dict[str, Any] = self._headers() or inherited_headers()  # as its worker would have them in a lane
        submission = Submission(self._type, input, limits=dict(self._limits), shared=self._shared, **headers)
        job = supervisor.call(self.future.job_id, job_type, submission, in_force, self, given, since=self._submitted_at)
        if job.is_over:
            return  # it has ended at once, and `on_changed` was called
        self._job = job
        self.future.on_accepted(job)
        if self.asked is not None:
            supervisor.jobs.stop(job, *self.asked)

    def stop(self, fault: str = "") -> None:
        """Begin the requested stop, or shorten its grace. One that has not begun ends, with `fault` as failed."""
        assert self.asked is not None
        if self._job is not None:
            self._owner.supervisor.jobs.stop(self._job, *self.asked)
        elif self.lane is not None:
            self.lane.settle()
        elif self.is_lost:
            return
        elif fault:
            self.fail(fault)
        else:
            self.drop()

    def drop(self) -> None:
        """End the task before it has begun."""
        reason = "" if self.asked is None else self.asked[0].reason
        self.future.note_cancelled(reason)
        self._end(self.future.finish, Outcome("cancelled", "cancelled", facts={"by": "user", "reason": reason}))

    def fail(self, message: str, code: str = "spawn") -> None:
        """End the task as failed: no process of it is alive."""
        self._end(self.future.finish, Outcome("failed", code, message))

    def _end(self, finish: Callable[[How], object], how: How) -> None:
        """End the task by `finish(how)`. If that raises and its future is done, it was behind that, in a logging
        handler of the program for example, and costs no other task anything. Else the thread ends, as in `adopt`.
        """
        try:
            if isinstance(self._input, SealedInput):
                self._input.close()
            if self._shared is not None:
                self._shared.close()
            finish(how)
        except BaseException as error:
            if not self.future.done():
                self._owner.supervisor_thread.fail(error)
                return
            self._owner.supervisor_thread.report(error)
        self._owner.forget(self)

    # ── JobListener ──

    def on_assigned(self, job: Job) -> bool:
        return job.attempts > 0 or self.future.begin()  # a retry has begun already

    def on_changed(self, job: Job) -> None:
        self.future.note_progress(job.progress)
        if not job.is_over:
            self.future.on_changed(job)
        elif self._output is None and job.progress is None:
            self._end(self.future.on_changed, job)
        else:
            self._output_in_program().when_shown(lambda: self._end(self.future.on_changed, job))

    def on_output(self, job: Job, data: bytes, stream: str) -> None:
        self._output_in_program().print(job, data, stream)

    def on_logged(self, job: Job, kind: int, payload: bytes) -> None:
        self._output_in_program().log(kind, payload)

    def _output_in_program(self) -> TaskOutput:
        if self._output is None:
            self._output = TaskOutput(self._owner.output, self.future.job_id, self._context)
        return self._output
