"""One job: its submission, its state, its output, its outcome.

Runs in: supervisor. Does no I/O.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from killable.supervisor.clock import Timer
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.inputs import close_input
from killable.supervisor.jobs.lifecycle import TERMINAL, State, public
from killable.supervisor.models import Certificate, JobRecord, JobType, Outcome, Submission, Verdict
from killable.workers.authoring.limits import Limits
from killable.workers.protocol.messages import PROGRESS_BYTES_MAX, Raised

if TYPE_CHECKING:
    from killable.workers.protocol.shared_memory import MemoryFile


EVENT_BYTES = 5
"""What an event that is not recent costs in memory besides its data."""


class JobListener(Protocol):
    """Who is called back about one job, in the event loop's thread: the Executor, which has no task for each."""

    def on_assigned(self, job: Job) -> bool:
        """A worker is there for it. Return False when nobody wants it any more: then it is over."""
        ...

    def on_changed(self, job: Job) -> None:
        """It has emitted something, or is over."""
        ...


class CurrentAttempt(Protocol):
    """The attempt that runs a job, as the job and those who end it see it."""

    @property
    def grace_s(self) -> float | None: ...
    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None: ...
    def kill_now(self, verdict: Verdict) -> None: ...
    def certificate_so_far(self) -> Certificate: ...


@dataclass(slots=True, eq=False)
class Job:
    """One job."""

    id: str
    number: int
    """Order of submission."""
    type: JobType
    submission: Submission
    limits: Limits
    log: EventLog
    created_at: str
    created: float
    """Monotonic seconds, like every other time without `_at`."""
    queued: float
    """Since when it has waited for its attempt, the first or another one."""
    assigned: float | None = None
    state: State = State.QUEUED
    started_at: str | None = None
    started: float | None = None
    ended_at: str | None = None
    ended: float | None = None
    attempt: CurrentAttempt | None = None
    attempts: int = 0
    may_run_again: bool = True
    """Not when anybody asked for its end, or when its function did what it was to do, if not as it was to."""
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    result: bytes | None = None
    shared_result: MemoryFile | None = None
    """A large one of a pickle job, instead of `result`: it ends with its last reference."""
    partial: bytes | None = None
    progress: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    worker_id: str | None = None
    pid: int | None = None
    readers: int = 0
    queue_timer: Timer | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    listener: JobListener | None = None
    is_call: bool = False
    """Of an Executor: its future has all that there is to know, so it is neither kept nor counted nor logged."""
    exception: bytes = b""
    """What a pickle job raised, pickled."""
    instance_id: str = ""
    """Of the run of the server that it lived in, where that is over (`restoring`)."""

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    @property
    def public_state(self) -> str:
        return public(self.state, stop_asked=self.verdict is not None)

    @property
    def kept_bytes(self) -> int:
        events = len(self.log) - self.log.first
        return self.log.bytes + EVENT_BYTES * events + len(self.result or b"") + len(self.partial or b"")

    def note_progress(self, data: bytes) -> bool:
        """Add the event and remember the last one; return False over the bound. Raise ValueError, RecursionError on
        what no context writes.
        """
        if len(data) > PROGRESS_BYTES_MAX:
            raise ValueError(f"progress of {len(data)} bytes")
        progress = json.loads(data)
        if not isinstance(progress, dict):
            raise ValueError("progress that is no object")
        self.progress = progress
        return self.log.append("progress", data)

    def note_checkpoint(self, data: bytes) -> bool:
        """Add the event; the last one is what is left of a job that does not complete. Return False over the bound."""
        self.partial = data
        return self.log.append("checkpoint", data)

    def note_closing(self, closing: bytes | Raised | None, *, completed: bool) -> None:
        """Keep what its closing frame brought: a value is the result only of a job that completed."""
        if not isinstance(closing, bytes):
            self.shared_result = None
        if isinstance(closing, Raised):
            self.exception = base64.b64decode(closing.pickled)
        elif completed:
            self.result = closing
        elif closing is not None:
            self.may_run_again = False
            self.partial = closing or self.partial

    def begin_again(self, now: float) -> None:
        """Its attempt is over and it is not: nothing of that one is left but its last checkpoint."""
        self.queued = now
        self.attempt = self.verdict = self.certificate = self.progress = None
        self.assigned = self.started = self.started_at = self.worker_id = self.pid = None
        self.result, self.shared_result, self.exception = None, None, b""

    def leave_queue(self) -> None:
        """It has a worker, or is over: `queue_s` no longer runs."""
        if self.queue_timer is not None:
            self.queue_timer.cancel()
            self.queue_timer = None

    def forget_input(self) -> None:
        """An ended job is not run again: its input need not be kept with it."""
        close_input(self.submission)
        if not self.is_call:  # which is not kept itself
            self.submission = replace(self.submission, input=b"")

    def wake(self) -> None:
        """Something changed: let those who wait look again."""
        listener = self.listener
        if listener is not None:
            if self.is_over:
                self.listener = None  # that was its last word
            listener.on_changed(self)
        if self.waiters:
            waiters, self.waiters = self.waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def changed(self) -> None:
        """Wait until something changes."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def record(self, instance_id: str, queue: dict[str, Any] | None = None) -> JobRecord:
        error = None if self.outcome is None else self.outcome.error_json()
        return JobRecord(
            job_id=self.id,
            type=self.type.name,
            state=self.public_state,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            limits=dict(self.limits),
            tags=self.submission.tags,
            tenant=self.submission.tenant,
            priority=self.submission.priority,
            queue=queue,
            attempt=max(1, self.attempts),
            attempts=self.attempts,
            worker_id=self.worker_id,
            pid=self.pid,
            tokens=self.log.tokens,
            result=self.result,
            partial=self.partial,
            error=error,
            certificate=self._certificate(),
            instance_id=self.instance_id or instance_id,
            events=len(self.log),
            markers=self.submission.markers,
            progress=self.progress,
            correlation_id=self.submission.correlation_id,
        )

    def _certificate(self) -> dict[str, Any] | None:
        if self.certificate is None and self.attempt is not None and self.verdict is not None:
            return self.attempt.certificate_so_far().as_json()
        return self.certificate
