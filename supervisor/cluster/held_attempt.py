"""One attempt on its node: what its head has not been told of it yet.

Runs in: supervisor, on a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from killable.supervisor.cluster.wire import Header
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import Outcome
from killable.workers.protocol.messages import dump_json

EVENTS_MAX = 4096
"""Events in one item."""
WRAPPED = b'{"value":'
"""What the event of a checkpoint begins with that is no object (`Job.note_checkpoint`)."""


class _Told(Enum):
    EVENTS = "events"
    VALUES = "values"
    END = "end"


class HeldAttempt:
    """Implements `JobListener`. Its items are made when the head asks, so that nothing is held twice."""

    def __init__(self, n: int, on_news: Callable[[HeldAttempt], None]) -> None:
        self.n = n
        self.job: Job | None = None
        """None: it never runs, since its stop came before it."""
        self._on_news = on_news
        self._notes: list[dict[str, Any]] = []
        self._next = 0
        self._told = _Told.EVENTS
        self._end: bytes | None = None
        """The last item of an attempt that never ran."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or never runs."""
        return self._end is not None or (self.job is not None and self.job.is_over)

    def use(self, job: Job) -> None:
        """Take the job that the node has made for it."""
        self.job, self._next = job, job.log.first

    def never_runs(self, outcome: Outcome, certificate: dict[str, Any]) -> None:
        self._end = _end_of(outcome, certificate, may_retry=False)
        self._on_news(self)

    # ── what happens ──

    def on_cause(self, job: Job, cause: Cause) -> None:
        """Note a transition; the head repeats it."""
        if cause.value.startswith("decided"):
            return  # the head decides
        note: dict[str, Any] = {"cause": cause.value}
        if cause is Cause.ASSIGNED:
            note |= {"worker_id": job.worker_id, "pid": job.pid}
        self._notes.append(note)
        self._on_news(self)

    def on_assigned(self, job: Job) -> bool:
        return True

    def on_changed(self, job: Job) -> None:
        self._on_news(self)

    def on_output(self, job: Job, data: bytes, stream: str) -> None: ...
    def on_logged(self, job: Job, kind: int, payload: bytes) -> None: ...

    # ── what the head is told ──

    @property
    def is_told(self) -> bool:
        """Whether its end is among the items that were taken."""
        return self._told is _Told.END

    def take_notes(self) -> Iterator[tuple[Header, bytes]]:
        """Yield the item of its transitions, which go before anybody's data."""
        if self._notes:
            notes, self._notes = self._notes, []
            yield {"n": self.n, "kind": "notes", "notes": notes}, b""

    def take(self, bytes_max: int) -> Iterator[tuple[Header, bytes]]:
        """Yield items of about this size in total; one may be larger."""
        yield from self.take_notes()
        job = self.job
        if self._end is not None:
            self._told = _Told.END
            yield {"n": self.n, "kind": "end"}, self._end
            return
        if job is None:
            return  # its input is being sealed
        while bytes_max > 0 and self._next < len(job.log):
            at = self._next
            self._next, encoded = job.log.encode_some(at, EVENTS_MAX, bytes_max)
            bytes_max -= len(encoded)
            yield {"n": self.n, "kind": "events", "at": at, "is_wrapped": self._is_wrapped(job)}, encoded
        if bytes_max > 0 and job.is_over and self._told is not _Told.END and self._next == len(job.log):
            assert job.outcome is not None
            self._told = _Told.END
            for kind, value in (("result", job.result), ("partial", job.partial)):
                if value is not None:
                    yield {"n": self.n, "kind": kind}, value
            yield {"n": self.n, "kind": "end"}, _end_of(job.outcome, job.certificate or {}, may_retry=job.may_retry)

    @property
    def has_news(self) -> bool:
        """Return whether `take` has something left."""
        job = self.job
        if self._told is _Told.END:
            return False
        if self._notes or self._end is not None:
            return True
        return job is not None and (self._next < len(job.log) or job.is_over)

    @staticmethod
    def _is_wrapped(job: Job) -> bool:
        """Return whether the last checkpoint is in its event as a member, and not as it is."""
        return job.partial is not None and not job.partial.startswith(b"{")


def _end_of(outcome: Outcome, certificate: dict[str, Any], *, may_retry: bool) -> bytes:
    return dump_json({"outcome": outcome._asdict(), "certificate": certificate, "may_retry": may_retry})
