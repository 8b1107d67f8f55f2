"""All jobs that the server knows: live ones, and ended ones until a bound of retention is met.

Runs in: supervisor. Does no I/O; `Entry` is one job's mutable state.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from killable.supervisor.clock import Timer
from killable.supervisor.eventlog import EventLog
from killable.supervisor.inputs import close_input
from killable.supervisor.job import JobRecord, JobType, Limits, Outcome, Submission, Verdict
from killable.supervisor.lifecycle import TERMINAL, State, public
from killable.supervisor.retention import Retention
from killable.workers.errors import Refused
from killable.workers.messages import PROGRESS_BYTES_MAX, Raised

if TYPE_CHECKING:
    from killable.supervisor.attempt import Attempt
    from killable.workers.sealed import MemoryFile


EVENT_BYTES = 5
"""What an event that is not recent costs in memory besides its data."""


class JobListener(Protocol):
    """Who is called back about one job, in the event loop's thread: the Executor, which has no task for each."""

    def on_assigned(self, entry: Entry) -> bool:
        """A worker is there for it. Return False when nobody wants it any more: then it is over."""
        ...

    def on_changed(self, entry: Entry) -> None:
        """It has emitted something, or is over."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
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
    attempt: Attempt | None = None
    attempts: int = 0
    may_run_again: bool = True
    """Not when anybody asked for its end, or when its function did what it was to do, if not as it was to."""
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    result: bytes | None = None
    laid_result: MemoryFile | None = None
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
            self.laid_result = None
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
        self.result, self.laid_result, self.exception = None, None, b""

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
            limits=self.limits.as_json(),
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


class Registry:
    """Jobs by id, in order of submission. Live jobs are never dropped."""

    def __init__(
        self, *, keep_jobs: int, keep_bytes: int, keep_s: float, on_dropped: Callable[[Entry], None] | None = None
    ) -> None:
        """`on_dropped` is called for each ended job that retention lets go."""
        self.retention = Retention(keep_jobs=keep_jobs, keep_bytes=keep_bytes, keep_s=keep_s, drop=self._drop)
        self._on_dropped = on_dropped
        self._entries: dict[str, Entry] = {}
        self._keyed: dict[tuple[str, str], tuple[str, JobRecord]] = {}
        """First answers, by tenant and idempotency key."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._entries)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry

    def restore(self, entry: Entry) -> None:
        """Add a job of an earlier run, with the number that it had there."""
        self._numbers = max(self._numbers, entry.number)
        self.add(entry)

    def withdraw(self, entry: Entry) -> None:
        """Forget a job that was not accepted in the end."""
        self.retention.forget(entry)
        self._entries.pop(entry.id, None)

    def get(self, job_id: str) -> Entry:
        """Raise Refused: unknown_job."""
        try:
            return self._entries[job_id]
        except KeyError:
            raise self.retention.unknown(job_id) from None

    def replayed(self, submission: Submission) -> JobRecord | None:
        """Return the first answer to this submission's idempotency key, if that job is still kept.

        Raise Refused: idempotency_conflict, for the same key with another request.
        """
        first = self._keyed.get((submission.tenant, submission.idempotency_key))
        if first is None:
            return None
        digest, record = first
        check_same_request(submission, digest, record.job_id)
        return record

    def note_accepted(self, entry: Entry, record: JobRecord) -> None:
        """Remember the first answer to an idempotency key, as long as the job is kept."""
        submission = entry.submission
        if submission.idempotency_key and entry.id in self._entries:
            self._keyed[submission.tenant, submission.idempotency_key] = (submission.body_digest, record)

    def active(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if not entry.is_over]

    def has_active(self) -> bool:
        """Tell whether a job is not over yet: the newest is looked at first."""
        return any(not entry.is_over for entry in reversed(self._entries.values()))

    def note_end(self, entry: Entry, now: float) -> None:
        """A job has ended: from here on it may be dropped."""
        if entry.is_call:
            del self._entries[entry.id]
            return
        self.retention.note_end(entry, now)

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.id]
        key = entry.submission.tenant, entry.submission.idempotency_key
        _, record = self._keyed.get(key, ("", None))
        if record is not None and record.job_id == entry.id:  # the key may be another job's by now
            del self._keyed[key]
        if self._on_dropped is not None:
            self._on_dropped(entry)

    def matching(self, *, state: str | None, type: str | None, tag: tuple[str, str] | None) -> Iterator[Entry]:
        """Yield the newest first. `state` is a public one, or `active`; None: any."""
        for entry in reversed(self._entries.values()):
            if state == "active" and entry.is_over:
                continue
            if state not in (None, "active", entry.public_state) or type not in (None, entry.type.name):
                continue
            if tag is None or entry.submission.tags.get(tag[0]) == tag[1]:
                yield entry

    def page(
        self, *, state: str | None, type: str | None, tag: tuple[str, str] | None, limit: int, before: int | None
    ) -> tuple[list[Entry], int | None]:
        """Return the newest jobs below the number `before`, and the number below which the next page begins.

        Stable: a job that comes or goes meanwhile shifts no one else.
        """
        found: list[Entry] = []
        for entry in self.matching(state=state, type=type, tag=tag):
            if before is not None and entry.number >= before:
                continue
            if len(found) == limit:
                return found, found[-1].number
            found.append(entry)
        return found, None


def check_same_request(submission: Submission, digest: str, job_id: str) -> None:
    """Raise Refused: idempotency_conflict, when a key comes with another request than the first, of this digest."""
    if digest != submission.body_digest:
        raise Refused(
            "this Idempotency-Key came before with another request; a new request needs a key of its own",
            code="idempotency_conflict",
            job_id=job_id,
        )
