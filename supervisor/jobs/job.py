"""One job: its submission, its state, its output, its outcome.

Runs in: supervisor. Does no I/O.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol

from killable.supervisor.clock import Clock, Timer, asleep_s
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.inputs import close_input
from killable.supervisor.jobs.lifecycle import TERMINAL, State, public
from killable.supervisor.jobs.wakeup_turns import Waiter, wait_among, wakeup_turns
from killable.supervisor.models import Certificate, JobType, Outcome, Submission, Verdict
from killable.supervisor.records import JobRecord
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.protocol.message_bounds import PROGRESS_BYTES_MAX
from killable.workers.protocol.messages import NO_TAGS, Raised, dump_json
from killable.workers.protocol.trace_context import TraceContext, trace_id_of

if TYPE_CHECKING:
    from killable.workers.protocol.shared_memory import MemoryFile


PENDING: Mapping[str, Any] = {"state": "pending", "attempts": 0, "detail": ""}
"""Of a webhook that has not been tried."""
EVENT_BYTES = 5
"""Bytes of memory that a packed event costs besides its data."""


class JobListener(Protocol):
    """Called back about one job, in the event loop's thread: the Executor, which has no asyncio task per job."""

    def on_assigned(self, job: Job) -> bool:
        """Accept a worker for the job. Return False when the job is no longer wanted; it is then cancelled."""
        ...

    def on_changed(self, job: Job) -> None:
        """Take note that the job has new events or is over."""
        ...

    def on_output(self, job: Job, data: bytes, stream: str) -> None:
        """Take what it has just printed to `stream`, "stdout" or "stderr". It is in the log already."""
        ...

    def on_logged(self, job: Job, kind: int, payload: bytes) -> None:
        """Take the payload of a LOG_RECORD or WARNING frame."""
        ...


class Trace(Protocol):
    """The job's place in a trace, on a server that tells traces (`telemetry.job_trace`)."""

    context: TraceContext

    def attempt_context(self, job: Job) -> TraceContext: ...
    def note_reported(self, payload: bytes) -> None:
        """Take the payload of a SPAN frame."""
        ...


class CurrentAttempt(Protocol):
    """The attempt that runs a job, as the job and the code that stops it see it."""

    @property
    def grace_s(self) -> float | None: ...
    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None: ...
    def kill_now(self, verdict: Verdict) -> None: ...
    def certificate_so_far(self) -> Certificate: ...
    def hold_output(self, *, held: bool) -> None:
        """Leave what it prints in its pipes, or read it again."""
        ...


@dataclass(slots=True, eq=False, repr=False, weakref_slot=True)  # each method takes its time when the class is made
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
    """In monotonic seconds, like every other time without `_at`."""
    queued: float
    """When it began to wait for its latest attempt."""
    assigned: float | None = None
    state: State = State.QUEUED
    started_at: str | None = None
    started: float | None = None
    first_token: float | None = None
    """When the first token of the latest attempt came."""
    ended_at: str | None = None
    ended: float | None = None
    attempt: CurrentAttempt | None = None
    attempts: int = 0
    shown: int | None = None
    """With its output in the journal: the id of the first event that is not on disk, and not shown. None: all are."""
    lost_attempts: int = 0
    """How many of them were lost with a server and followed by another one."""
    may_retry: bool = True
    """False after a stop was requested, or when its function returned although the attempt did not complete."""
    is_stop_asked: bool = False
    """Whether somebody has had its present attempt stopped."""
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    durable: bool | None = None
    """Whether its end is on disk. None: it has none yet, or there is no journal."""
    result: bytes | None = None
    shared_result: MemoryFile | None = None
    """A large result of a pickle job, instead of `result`. Its memory is freed with the last reference."""
    partial: bytes | None = None
    progress: dict[str, Any] | None = None
    input_head: tuple[bytes, int] | None = None
    """The beginning of its input, which is kept, and the size of all of it (`keep_input_bytes`); None: nothing is."""
    file_paths: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    """The path of each uploaded file that its input has, by id."""
    files_folder: str = ""
    """Where the files are that its latest attempt has saved; empty: it can save none."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    files_bytes: int = 0
    """Those files by name."""
    certificate: dict[str, Any] | None = None
    worker_id: str | None = None
    pid: int | None = None
    node: str | None = None
    """The node of the latest attempt; None: there is only this machine."""
    trace: Trace | None = None
    """None: this server tells no traces, or has not heard of the job yet."""
    callback: dict[str, Any] | None = None
    """What has become of its webhook since its end (`Supervisor.note_callback`)."""
    again_at: str | None = None
    """When its next attempt is due, if it waits for one."""
    missing_words: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """Of the last searches by words: which of them it does not have, but for its code, which may change."""
    readers: int = 0
    queue_timer: Timer | None = None
    waiters: list[Waiter] = field(default_factory=list)
    """Those who wait for the next change."""
    end_waiters: list[Waiter] = field(default_factory=list)
    """Those who wait for the end, and what becomes of it. Whether each is woken before others."""
    listener: JobListener | None = None
    is_executor_task: bool = False
    """A task of an Executor. Its future holds everything, so the job is neither kept nor counted nor logged."""
    is_of_head: bool = False
    """A head has it, too, and tells of its start and its end by events of its own."""
    exception: bytes = b""
    """The exception of a pickle job, pickled."""
    instance_id: str = ""
    """The server run that the job belonged to, if it is an earlier one (set by `recovery`)."""
    asleep_s: float = field(default_factory=asleep_s)
    """How long the machine had been suspended at its creation."""

    def at(self, moment: float) -> str:
        """Return the time of day of a moment by `created_at` and the time since: setting the clock changes nothing."""
        return Clock.wall_after(self.created_at, moment - self.created + asleep_s() - self.asleep_s)

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    @property
    def public_state(self) -> str:
        return public(self.state, stop_asked=self.verdict is not None)

    @property
    def is_abandoned(self) -> bool:
        """Whether it ends, or has ended, only because its client had left."""
        if not self.is_over:
            return self.verdict is not None and self.verdict.by == "client_gone"
        facts = {} if self.outcome is None else self.outcome.facts  # these outlast the server
        return self.state is State.CANCELLED and facts.get("by") == "client_gone"

    @property
    def cancel_status(self) -> str:
        """What a cancel has done to it."""
        if not self.is_over:
            return "stopping"
        return "cancelled" if self.state is State.CANCELLED else "already_ended"

    @property
    def trace_id(self) -> str:
        """The trace that it is in; empty: in none."""
        return trace_id_of(self.submission.traceparent) if self.trace is None else self.trace.context.trace_id

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What leads from a value that was measured to the job's trace; None: it is in none that is told."""
        trace = self.trace
        return None if trace is None or not trace.context.is_sampled else {"trace_id": trace.context.trace_id}

    @property
    def kept_bytes(self) -> int:
        events = len(self.log) - self.log.first
        texts = len(self.result or b"") + len(self.partial or b"") + len(self.input_head[0] if self.input_head else b"")
        return self.log.bytes + EVENT_BYTES * events + texts + self.described_bytes

    @property
    def described_bytes(self) -> int:
        """Return the memory of what its submission says of it: the tags, and the limits of operations."""
        tags = self.submission.tags
        return sum(map(getsizeof, (*tags, *tags.values(), *self.limits.get("operation_s", {}))))

    def note_first_token(self, now: float) -> float:
        """Keep when the first token of the attempt came; return it."""
        self.first_token = now
        return now

    def note_progress(self, data: bytes) -> bool:
        """Add the event and keep its content. Return False over the bound. Raise ValueError or RecursionError for data
        that the job context never writes.
        """
        if len(data) > PROGRESS_BYTES_MAX:
            raise ValueError(f"progress of {len(data)} bytes")
        progress = json.loads(data)
        if not isinstance(progress, dict):
            raise ValueError("progress that is no object")
        self.progress = progress
        return self.log.append("progress", data)

    def note_checkpoint(self, data: bytes) -> bool:
        """Add the event, an object; the last is the partial result if the job fails. Return False over the bound."""
        self.partial = data
        is_told = self.is_of_head or data.startswith(b"{") or self.type.codec != "json"  # the head makes its own event
        return self.log.append("checkpoint", data if is_told else b'{"value":%s}' % data)

    def note_file(self, name: str, size: int, content_type: str) -> bool:
        """Add a file that it has saved, or that replaces one, and the event. Return False over the bound."""
        found = {"name": name, "size": size, "content_type": content_type}
        self.files_bytes += size - (self.files[name]["size"] if name in self.files else 0)
        self.files[name] = found
        return self.log.append("file", dump_json(found))

    def note_sizes(self, sizes: Mapping[str, int]) -> None:
        """Note how large its files are at its end: it may have gone on writing into one that it had saved."""
        for name, size in sizes.items():
            self.files[name]["size"] = size
        self.files_bytes = sum(found["size"] for found in self.files.values())

    def note_closing(self, closing: bytes | Raised | None, *, completed: bool) -> None:
        """Keep the content of the closing frame. A value is the result only if the job completed."""
        if not isinstance(closing, bytes):
            self.shared_result = None
        if isinstance(closing, Raised):
            self.exception = base64.b64decode(closing.pickled)
        elif completed:
            self.result = closing
        elif closing is not None:
            self.may_retry = False
            self.partial = closing or self.partial

    def ends_within(self, grace_s: float | None) -> bool:
        """Return whether somebody has had it stopped, with such a grace or less (None: its own)."""
        if not self.is_stop_asked or self.attempt is None:
            return False
        in_force_s = self.attempt.grace_s
        return grace_s is None or in_force_s is None or grace_s >= in_force_s

    def reset_for_retry(self, now: float) -> None:
        """Reset the job for another attempt. Only the last checkpoint of the previous one is kept."""
        self.queued, self.is_stop_asked = now, False
        self.attempt = self.verdict = self.certificate = self.progress = None
        self.assigned = self.started = self.started_at = self.first_token = None
        self.worker_id = self.pid = self.node = None
        self.result, self.shared_result, self.exception = None, None, b""
        self.files, self.files_bytes = {}, 0

    def leave_queue(self) -> None:
        """Cancel the queue timer: the job has a worker or is over."""
        if self.queue_timer is not None:
            self.queue_timer.cancel()
            self.queue_timer = None

    def drop_input(self) -> None:
        """Close and drop the input: an ended job is not run again."""
        close_input(self.submission)
        if not self.is_executor_task:  # the job itself is not kept then
            self.submission = self.submission._replace(input=b"")

    def wake(self) -> None:
        """Notify the listener and all waiters of a change."""
        listener = self.listener
        if listener is not None:
            if self.is_over:
                self.listener = None  # it gets no further callback
            listener.on_changed(self)
        if self.waiters or (self.end_waiters and self.is_over):
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        due = wakeup_turns()
        if self.is_over:
            due.add(self.id, self.end_waiters, of_end=True)
        due.add(self.id, self.waiters, of_end=False)
        due.serve()

    def changed(self) -> Coroutine[Any, Any, None]:
        """Wait for the next change."""
        return wait_among(self.waiters)

    def end_changed(self, *, is_urgent: bool = False) -> Coroutine[Any, Any, None]:
        """Wait for the end, or for the next change after it. `is_urgent`: be woken before others that wait for it."""
        return wait_among(self.end_waiters, is_urgent=is_urgent)

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
            tags=dict(self.submission.tags),
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
            first_id=self.log.attempt_first,
            markers=self.submission.markers,
            progress=self.progress,
            correlation_id=self.submission.correlation_id,
            trace_id=self.trace_id,
            lost_attempts=self.lost_attempts,
            durable=self.durable,
            node=self.node,
            nodes=dict(self.submission.nodes),
            files=list(self.files.values()),
            callback=(self.callback or PENDING) if self.submission.callback_url else None,
            input=self._shown_input(),
        )

    def _shown_input(self) -> dict[str, Any] | None:
        if self.input_head is None or not self.input_head[1]:
            return None
        head, size = self.input_head
        # The last character may be cut in the middle.
        return {"text": head.decode(errors="ignore"), "bytes": size, "is_cut": len(head) < size}

    def _certificate(self) -> dict[str, Any] | None:
        if self.certificate is None and self.attempt is not None and self.verdict is not None:
            return self.attempt.certificate_so_far().as_json()
        return self.certificate
